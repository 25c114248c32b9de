"""The run folder: what lies where, and how it is kept whole. No other code knows its layout.

run.json           who the run is: never changes; a folder without it is no run
config.toml        what decides what it becomes
README.md          the model card
metrics.jsonl      the log, without times: two runs can be compared as text
timings.jsonl      how long it took
checkpoints/SEEN/  safetensors and a manifest
kept/NAME/         likewise; what is kept beyond the next checkpoint
samples/           drawn from it
evaluation/        what was measured of it
lock               held by who writes
"""

import base64
import json
import logging
import os
import platform
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.names import shown
from ..errors import ModelFileError, StorageError, UsageError
from . import card
from .checkpoint import WEIGHTS, Checkpoint, Parts, seal, size_of, unseal
from .disk import (
    TEMPORARY,
    append,
    check_schema,
    free_bytes,
    hook,
    make_folder,
    make_once,
    no_room,
    open_regular,
    read_bytes,
    read_object,
    replace_text,
    storing,
    sweep,
    sync_folder,
    withdraw,
)
from .lock import locked
from .provenance import VERSION

SCHEMA = 1
MOST = 8 * 2**20  # bytes of run.json; of config.toml an eighth
ROOM = 2.5  # checkpoints there must be room for, those on the disk included
OURS = ("schema", "id", "ornstein", "torch", "python", "created")
ID = re.compile(r"[0-9a-z]{26}")

logger = logging.getLogger(__name__)


class RunFolder:
    """A run on disk. Made by `create` and `open`.

    Attributes:
        path: The folder, its links resolved once: nothing is ever written outside.
        identity: What never changes: ``id``, versions, and what was given to `create`.
        config_toml: The text of its configuration.
    """

    def __init__(self, path: Path, identity: dict[str, Any], config_toml: str) -> None:
        self.path, self.identity, self.config_toml = path, identity, config_toml

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    # --- Making and opening

    @classmethod
    def create(
        cls, path: str | Path, *, config_toml: str, identity: Mapping[str, Any]
    ) -> "RunFolder":
        """Make a run folder, in an empty folder or where nothing is.

        Args:
            path: Where.
            config_toml: Its configuration.
            identity: What else never changes, as plain values.

        Raises:
            UsageError: If something else is there.
            StorageError: If the disk refuses.
        """
        if taken := [name for name in identity if name in OURS]:
            raise ValueError(f"expected an identity without {taken}")
        made = {
            "schema": SCHEMA,
            "id": base64.b32encode(secrets.token_bytes(16)).decode().lower().rstrip("="),
            "ornstein": VERSION,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        text = json.dumps({**made, **identity}, indent=1, allow_nan=False) + "\n"
        with storing(Path(path), len(text)):
            real = _real(path)
            if real.exists() and not real.is_dir():
                raise UsageError(f"{shown(path)} is a file: choose a folder for the run.")
            make_folder(real)
            _refuse_taken(real, config_toml)
            replace_text(real / "config.toml", config_toml)
            make_once(real / "run.json", text)
        folder = cls.open(real)
        folder.write_card()
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open a run folder.

        Raises:
            UsageError: If it is none.
            StorageError: If its ``run.json`` or ``config.toml`` is damaged.
        """
        real = _real(path)
        place = real / "run.json"
        if not os.path.lexists(place):
            why = "no run.json" if os.path.lexists(real) else "there is no such folder"
            raise UsageError(
                f"{shown(path)} is not a run folder: {why}. Make one with `ornstein train`."
            )
        identity = read_object(place, MOST)
        check_schema(place, identity, SCHEMA)
        texts = all(isinstance(identity.get(name), str) for name in OURS if name != "schema")
        if not (texts and ID.fullmatch(identity["id"])):
            raise StorageError(f"{shown(place)} is damaged: it does not describe a run.")
        try:
            config_toml = read_bytes(real / "config.toml", MOST // 8).decode()
        except UnicodeDecodeError:
            raise StorageError(f"{shown(real / 'config.toml')} is damaged: not UTF-8.") from None
        return cls(real, identity, config_toml)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one who writes. What a writer that was killed has left is removed.

        Raises:
            LockedError: At once, if another process is.
            StorageError: If the folder cannot be written.
        """
        with locked(self.path):
            with storing(self.path, 0):
                for place in (self.path, self._own("checkpoints"), self._own("kept")):
                    sweep(place)
            yield

    def revise(self, config_toml: str) -> None:
        """Replace the configuration by one that differs only in how to sample."""
        with self.lock(), storing(self.path, len(config_toml)):
            replace_text(self.path / "config.toml", config_toml)
        self.config_toml = config_toml

    # --- Checkpoints

    def save(
        self,
        seen: int,
        parts: Parts,
        state: Mapping[str, Any],
        *,
        keep: int = 2,
        spare: Checkpoint | None = None,
    ) -> Checkpoint:
        """Write a checkpoint, then remove all but it and the newest `keep`.

        The checkpoint is whole or not there. Others go only once it is on the disk and verified,
        and damaged ones do not count. One of this `seen` that verifies is left as it is.

        Args:
            seen: Examples seen.
            parts: Tensors, by file and name.
            state: Plain values.
            keep: How many checkpoints stay.
            spare: One that stays beyond these.

        Raises:
            StorageError: If the disk is full or refuses; the older checkpoints stay.
            ModelFileError: If a tensor is not finite; likewise.
        """
        if seen < 0 or keep < 2:
            raise ValueError(f"expected seen >= 0 and keep >= 2, got {seen} and {keep}")
        place = self._own("checkpoints")
        path = place / f"{seen:012d}"
        try:
            saved = self.checkpoint(seen)
            saved.sealed.verify()
        except (StorageError, ModelFileError):
            with storing(path, size_of(parts)):
                make_folder(place)
            self._find_room(path, size_of(parts))
            facts = {"seen": seen, "log": self._sync_log(), "state": state}
            saved = Checkpoint(seal(place, path.name, self.identity["id"], parts, facts))
        with storing(path, 0):
            self._prune(keep, {seen, spare.seen} if spare else {seen})
        self.write_card()
        return saved

    def latest(
        self, *parts: str, fit: Callable[[Checkpoint], bool] = lambda checkpoint: True
    ) -> Checkpoint | None:
        """The newest checkpoint, by examples seen, that is fit and verifies; None if none does.

        Each one that does not verify is named in a warning.

        Args:
            parts: What must verify; everything by default.
            fit: Whether a checkpoint will do, by what its manifest says.
        """
        passed_over = set[int]()
        while left := [seen for seen in self.saved() if seen not in passed_over]:
            seen = left[0]  # of those that are there now: a writer may add and prune meanwhile
            try:
                found = self.checkpoint(seen)
                if not fit(found):
                    passed_over.add(seen)
                    continue
                found.sealed.verify(parts)
            except (StorageError, ModelFileError) as error:
                passed_over.add(seen)
                if self._checkpoint_path(seen).exists():
                    logger.warning("Checkpoint %d is passed over: %s", seen, error)
            else:
                return found
        return None

    def checkpoint(self, seen: int) -> Checkpoint:
        """The checkpoint at `seen`; its tensors are verified when they are loaded.

        Raises:
            StorageError: If there is none, or its manifest does not verify.
        """
        path = self._checkpoint_path(seen)
        if not path.is_dir():
            known = ", ".join(str(n) for n in self.saved()[:8]) or "none"
            raise StorageError(f"{shown(self.path)} has no checkpoint at {seen}; it has: {known}.")
        found = Checkpoint(unseal(path, self.identity["id"]))
        if found.seen != seen:
            raise StorageError(f"{shown(path)} is damaged: its manifest is of {found.seen}.")
        return found

    def remove_after(self, checkpoint: Checkpoint) -> None:
        """Remove the newer ones: what comes after `checkpoint` will be another training.

        But for those that are damaged, which may be of a newer version.
        """
        with storing(checkpoint.path, 0):
            for seen in self.saved():
                if seen > checkpoint.seen and self._is_sound(seen, whole=False):
                    withdraw(self._checkpoint_path(seen))

    def saved(self) -> list[int]:
        """Examples seen at each checkpoint that is there, verified or not, newest first."""
        return sorted(int(p.name) for p in _folders(self.path / "checkpoints", r"\d{12,15}"))[::-1]

    # --- What is kept

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep `tensors` under `name` beyond the next checkpoint, in the place of what was there.

        Raises:
            StorageError: If the disk refuses.
            ModelFileError: If a tensor is not finite.
        """
        place = self._own("kept")
        with storing(place, size_of({name: tensors})):
            make_folder(place)
        seal(place, name, self.identity["id"], {"tensors": tensors}, {})

    def kept(self, name: str) -> dict[str, Tensor]:
        """What was kept under `name`, verified.

        Raises:
            StorageError: If there is nothing, or it is not whole.
            ModelFileError: If it is damaged.
        """
        path = self.path / "kept" / name
        if name not in self.kept_names():
            known = ", ".join(self.kept_names()[:8]) or "nothing"
            raise StorageError(f"{shown(path)} is not there; kept are: {known}.")
        return unseal(path, self.identity["id"]).load("tensors")

    def kept_names(self) -> list[str]:
        """The names of all that was kept, in order."""
        return sorted(p.name for p in _folders(self.path / "kept", r"[A-Za-z0-9_-][A-Za-z0-9._-]*"))

    def ended(self, name: str) -> tuple[Checkpoint, dict[str, Tensor]]:
        """The newest checkpoint, and what was kept under `name` at the end of the training.

        Raises:
            StorageError: If no checkpoint verifies, or the run was not trained to any end.
            ModelFileError: If what was kept is damaged.
        """
        checkpoint = self.latest(WEIGHTS)
        if checkpoint is None or name not in self.kept_names():
            raise StorageError(
                f"{shown(self.path)} was not trained to an end: go on by `ornstein train --resume "
                f"{shown(self.path)}`."
            )
        return checkpoint, self.kept(name)

    # --- The log

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def timings_path(self) -> Path:
        return self.path / "timings.jsonl"

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a row of plain, finite values to the log. Nothing in it may depend on the clock."""
        append(self.metrics_path, json.dumps(dict(row), allow_nan=False) + "\n")

    def logged(self) -> list[dict[str, Any]]:
        """The rows of the log so far."""
        if not self.metrics_path.exists():
            return []
        with storing(self.metrics_path, 0):
            return [json.loads(line) for line in self.metrics_path.read_text().splitlines()]

    def log_time(self, row: Mapping[str, Any]) -> None:
        """Add a row to the timings, which no comparison looks at."""
        append(self.timings_path, json.dumps(dict(row), allow_nan=False) + "\n")

    def rewind(self, checkpoint: Checkpoint) -> None:
        """Cut the log to what it was at `checkpoint`: the rest will be written again.

        Raises:
            StorageError: If the log is shorter than it was then.
        """
        path, size = self.metrics_path, checkpoint.log_size
        if not path.exists():
            if size:
                raise StorageError(f"{shown(path)} is gone: put it back, or begin anew.")
            return
        with storing(path, size):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if os.fstat(fd).st_size < size:
                    raise StorageError(
                        f"{shown(path)} is shorter than at checkpoint {checkpoint.seen}: lines "
                        "were removed from it. Put them back."
                    )
                os.ftruncate(fd, size)
                os.fsync(fd)
            finally:
                os.close(fd)

    # --- For people

    @property
    def samples(self) -> Path:
        """The folder for what is drawn from the run; it need not be there yet."""
        return self.path / "samples"

    @property
    def evaluation(self) -> Path:
        """The folder for what is measured of the run; it need not be there yet."""
        return self._own("evaluation")

    def write_card(self, **extra: Any) -> bool:
        """Write ``README.md``, the model card; whether it is ours, and nobody has made it theirs.

        What it was told before stays, see `card.told`.

        Args:
            **extra: What `card.write` takes beside the facts of the run.
        """
        from .facts import facts  # which knows this folder, as the next does
        from .fitted import kept_steps

        path = self.path / "README.md"
        old = read_bytes(path, MOST).decode(errors="replace") if path.exists() else card.MARK
        if card.MARK not in old:
            return False
        known = facts(self) | {"fitted": ", ".join(map(str, kept_steps(self))) or None}
        told = card.told(old, known)
        if metrics := told.get("metrics", {}) | (extra.get("metrics") or {}):
            extra["metrics"] = metrics
        replace_text(path, card.write(known, **(told | extra)))
        return True

    # --- Inside

    def _checkpoint_path(self, seen: int) -> Path:
        return self.path / "checkpoints" / f"{seen:012d}"

    def _own(self, name: str) -> Path:
        """The folder of that name in this one, not a link to somewhere else."""
        path = self.path / name
        if path.is_symlink():
            raise StorageError(
                f"{shown(path)} is a link: a run is written in its own folder alone; put a folder "
                "in its place."
            )
        return path

    def _find_room(self, path: Path, size: int) -> None:
        there = min(len(self.saved()), ROOM - 1)
        needed, free = int(size * (ROOM - there)), free_bytes(path)
        if free < needed:
            no_room(path, needed, "two checkpoints are kept while the next is written")

    def _sync_log(self) -> int:
        """Bring the log to the disk, and give its size: a checkpoint must not outlive its log."""
        if not self.metrics_path.exists():
            return 0
        fd, size = open_regular(self.metrics_path)
        with storing(self.metrics_path, 0):
            try:
                os.fsync(fd)
                sync_folder(self.path)  # its name too, if it is new
            finally:
                os.close(fd)
        return size

    def _prune(self, keep: int, stay: set[int]) -> None:
        """Remove what is older than the newest `keep` sound checkpoints, but for those that stay.

        Of those above, which the training passed over, the hashes are looked at too.
        """
        sound = 0
        for seen in self.saved():
            if sound < keep:
                sound += self._is_sound(seen, whole=seen > max(stay))
            elif seen not in stay:
                withdraw(self._checkpoint_path(seen))
                hook("after_prune")

    def _is_sound(self, seen: int, *, whole: bool) -> bool:
        """Whether the files have the sizes of their manifest; if `whole`, its hashes too.

        What is not may be of a newer version: not ours to judge.
        """
        try:
            found = self.checkpoint(seen)
            if whole:
                found.sealed.verify()
            for part in found.parts:
                found.size(part)
        except (StorageError, ModelFileError):
            return False
        return True


def _real(path: str | Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError:
        raise UsageError(f"{shown(path)} is no path: it holds a null character.") from None


def _refuse_taken(folder: Path, config_toml: str) -> None:
    """Refuse a folder that holds anything but what a `create` that was killed has left."""
    if os.path.lexists(folder / "run.json"):
        raise UsageError(
            f"{shown(folder)} is a run already: go on with it by --resume, or choose another."
        )
    for entry in os.scandir(folder):
        left = entry.name.startswith(TEMPORARY)
        if entry.name == "config.toml":
            left = read_bytes(Path(entry.path), MOST // 8) == config_toml.encode()
        if not left:
            raise UsageError(
                f"{shown(folder)} holds {shown(repr(entry.name))} but no run.json, so it is no "
                "run: choose an empty folder, or a new one."
            )


def _folders(place: Path, pattern: str) -> Iterator[Path]:
    """The folders in `place` whose names match, if there is such a place."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in list(os.scandir(place)):
            if re.fullmatch(pattern, entry.name, re.ASCII) and entry.is_dir():
                yield Path(entry.path)
