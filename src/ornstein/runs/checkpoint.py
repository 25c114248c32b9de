"""Sealed folders: tensors, and the manifest that vouches for them. A checkpoint is one.

A sealed folder is written under another name, and gets its own in one rename once all of it is on
the disk. It exists if its manifest verifies; otherwise there is nothing there.
"""

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..data.names import shown
from ..errors import StorageError
from .disk import (
    NewFile,
    check_schema,
    discarding,
    hook,
    read_object,
    remove,
    storing,
    sync_folder,
    temporary,
)
from .weights import read_tensors, stream_tensors, write_tensors

SCHEMA = 1
WEIGHTS = "ema-0"  # the part of a checkpoint that a model is made of
MANIFEST = "manifest.json"
MOST = 8 * 2**20  # bytes of a manifest
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
SHA256 = re.compile(r"[0-9a-f]{64}")

Parts = Mapping[str, Mapping[str, Tensor]]


class Seal(NamedTuple):
    """What a file must be."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Sealed:
    """A folder of safetensors files whose manifest is sound. Made by `seal` and `unseal`.

    Args:
        path: The folder.
        facts: Plain values, as given to `seal`.
        seals: Of each part.
    """

    path: Path
    facts: dict[str, Any]
    seals: dict[str, Seal]

    def verify(self, parts: Iterable[str] = ()) -> None:
        """Read these parts, or all, and hold them to the manifest.

        Raises:
            StorageError: If a file is missing or has another size.
            ModelFileError: If it has another hash, is no safetensors file, or is not finite.
        """
        parts = list(parts) or list(self.seals)
        for part in parts:
            self._check_size(part)
        for part in parts:
            deque(stream_tensors(self._file(part), self.seals[part].sha256), maxlen=0)

    def load(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part, held to the manifest as they are read; raises as `verify`."""
        self._check_size(part)
        return read_tensors(self._file(part), sha256=self.seals[part].sha256)

    def size(self, part: str) -> int:
        """Bytes of the file of one part, which are those of its manifest; raises as `verify`."""
        self._check_size(part)
        return self.seals[part].size

    def _file(self, part: str) -> Path:
        return self.path / f"{part}.safetensors"

    def _check_size(self, part: str) -> None:
        if part not in self.seals:
            known = ", ".join(self.seals)
            raise StorageError(f"{shown(self.path)} has no part {part!r}; it has: {known}.")
        path, wanted = self._file(part), self.seals[part].size
        try:
            size = path.stat().st_size
        except OSError as error:
            raise StorageError(f"{shown(path)} cannot be read ({error.strerror}).") from None
        if size != wanted:
            raise StorageError(
                f"{shown(path)} is damaged: it has {size:,} bytes, its manifest says {wanted:,}."
            )


def seal(place: Path, name: str, run: str, parts: Parts, facts: Mapping[str, Any]) -> Sealed:
    """Write `parts` and `facts` as the folder `name` in `place`, instead of what is there.

    Raises:
        StorageError: If the disk refuses; nothing is left of it.
        ModelFileError: If a tensor is not finite; likewise.
    """
    if not all(NAME.fullmatch(plain) for plain in (name, *parts)):
        raise ValueError(f"expected plain names, got {name!r} and {list(parts)}")
    path, new = place / name, temporary(place)
    with storing(path, size_of(parts)), discarding(new):
        new.mkdir()
        files = {}
        for part, tensors in parts.items():
            with NewFile(new / f"{part}.safetensors") as file:
                write_tensors(file, tensors)
            files[part] = {"bytes": file.size, "sha256": file.sha256}
        with NewFile(new / MANIFEST) as file:
            file.write(_manifest(name, run, files, facts))
        hook("after_manifest")
        sync_folder(new)
        unseal(new, run, name).verify()
        _move(new, path)
        hook("after_replace")
        sync_folder(place)
    return unseal(path, run)


def unseal(path: Path, run: str, name: str | None = None) -> Sealed:
    """Read the manifest of the sealed folder `path`; its files are not looked at yet.

    Args:
        path: The folder.
        run: The id of the run that it must belong to.
        name: The one it was sealed under; that of the folder by default.

    Raises:
        StorageError: If the manifest is missing, damaged, newer than this version, or of
            something else.
    """
    place = path / MANIFEST
    found = read_object(place, MOST)
    check_schema(place, found, SCHEMA)
    digest = found.pop("sha256", None)
    if digest != _digest(found):
        raise StorageError(f"{shown(place)} is damaged: its SHA-256 is not what it says.")
    if found.get("run") != run:
        raise StorageError(f"{shown(place)} belongs to another run.")
    if found.get("name") != (name or path.name):
        raise StorageError(f"{shown(place)} belongs to another folder.")
    facts, files = found.get("facts"), found.get("files")
    if not isinstance(facts, dict) or not isinstance(files, dict):
        raise StorageError(f"{shown(place)} is damaged: it is no manifest.")
    return Sealed(path, facts, {part: _seal(place, part, value) for part, value in files.items()})


def size_of(parts: Parts) -> int:
    """Bytes that `parts` take on the disk, about."""
    each = (tensor.nbytes + 200 for tensors in parts.values() for tensor in tensors.values())
    return sum(each) + 4096 * (len(parts) + 1)


def _manifest(name: str, run: str, files: dict[str, Any], facts: Mapping[str, Any]) -> bytes:
    body = {"schema": SCHEMA, "run": run, "name": name, "files": files, "facts": dict(facts)}
    body = json.loads(json.dumps(body, allow_nan=False))  # as it will be read
    return json.dumps({**body, "sha256": _digest(body)}, indent=1).encode() + b"\n"


def _digest(values: dict[str, Any]) -> str:
    """Of the values, however they are laid out."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _seal(place: Path, part: str, value: Any) -> Seal:
    match value:
        case {"bytes": int(size), "sha256": str(digest)}:
            if NAME.fullmatch(part) and SHA256.fullmatch(digest):
                return Seal(size, digest)
    raise StorageError(f"{shown(place)} is damaged: it is no manifest.")


def _move(new: Path, path: Path) -> None:
    """Give `new` the name `path`; what has it, which did not verify or is the same, goes."""
    old = temporary(path.parent)
    with suppress(FileNotFoundError):
        path.rename(old)
    new.rename(path)
    remove(old)


@dataclass(frozen=True)
class Checkpoint:
    """All of a training at one moment.

    Args:
        sealed: Its files.
    """

    sealed: Sealed

    def __post_init__(self) -> None:
        facts = self.sealed.facts
        numbers = all(type(n) is int and n >= 0 for n in (facts.get("seen"), facts.get("log")))
        if not numbers or not isinstance(facts.get("state"), dict):
            raise StorageError(f"{shown(self.path)} is damaged: its manifest is of no checkpoint.")

    @property
    def path(self) -> Path:
        return self.sealed.path

    @property
    def seen(self) -> int:
        """Examples seen."""
        return self.sealed.facts["seen"]

    @property
    def state(self) -> dict[str, Any]:
        """Plain values, as they were saved."""
        return self.sealed.facts["state"]

    @property
    def log_size(self) -> int:
        """Bytes of the log at that moment."""
        return self.sealed.facts["log"]

    @property
    def parts(self) -> list[str]:
        return list(self.sealed.seals)

    def size(self, part: str) -> int:
        """Bytes of the file of one part; raises as `load`."""
        return self.sealed.size(part)

    def load(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part, on the CPU; verified as they are read.

        Raises:
            StorageError: If there is no such part, or its file is missing or has another size.
            ModelFileError: If the file has another hash, or is no safetensors file.
        """
        return self.sealed.load(part)
