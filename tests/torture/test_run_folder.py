"""The run folder under kills, power cuts, full disks, damage, rivals and odd names.

The letters are those of the list of torture tests: C1 kills, C6 full disks, C7 damage, C8 rivals,
C9 names, C10 links, C12 clocks, C13 a thousand saves.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ornstein.errors import LockedError, OrnsteinError, StorageError, UsageError
from ornstein.runs import checkpoint, disk, lock
from ornstein.runs.facts import describe
from ornstein.runs.folder import RunFolder

POINTS = ("after_write", "after_fsync", "after_manifest", "after_replace", "after_prune")


def parts_of(seen: int, size: int = 1000) -> dict[str, dict[str, Tensor]]:
    """Tensors that are a function of `seen`."""
    weights = {"w": torch.full((size,), float(seen)), "b": torch.arange(3) + seen}
    return {"model": weights, "optimizer": {"m": torch.full((size,), -float(seen))}}


def new_run(path: Path) -> RunFolder:
    return RunFolder.create(path, config_toml='source = "digits"\n', identity={})


def run_with(path: Path, *seen: int) -> RunFolder:
    run = new_run(path)
    for n in seen:
        run.log({"seen": n})
        run.save(n, parts_of(n), {"n": n})
    return run


def is_whole(run: RunFolder, seen: int) -> bool:
    """Whether the checkpoint is, to the bit, what was saved at `seen`."""
    found = run.checkpoint(seen)
    wanted = parts_of(seen)
    assert found.state == {"n": seen} and found.parts == list(wanted)
    for part in wanted:
        tensors = found.load(part)
        assert tensors.keys() == wanted[part].keys()
        assert all(torch.equal(tensors[k], wanted[part][k]) for k in tensors)
    return True


def leftovers(run: RunFolder) -> list[str]:
    return [str(p) for p in run.path.rglob("*") if p.name.startswith(disk.TEMPORARY)]


# --- C1: kills -----------------------------------------------------------------------------------


def writer(path: str, kill_at: str) -> None:
    """Go on saving from the latest checkpoint, and tell of each that is saved."""
    torch.set_num_threads(1)
    told = os.open(f"{path}.told", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    run = RunFolder.open(path)
    with run.lock():
        found = run.latest()
        if found is not None:
            run.rewind(found)
        for n in count(found.seen + 1 if found else 0):
            run.log({"seen": n})
            run.save(n, parts_of(n), {"n": n})
            os.write(told, f"{n}\n".encode())
            if kill_at:  # from the second save on
                os.environ["ORNSTEIN_KILL_AT"] = kill_at


class Victim:
    """A run folder, and one process after the other that is killed while writing it."""

    def __init__(self, path: Path, children: Any) -> None:
        self.run, self.children = new_run(path), children
        self.told = Path(f"{path}.told")

    def lines(self) -> int:
        return self.told.read_bytes().count(b"\n") if self.told.exists() else 0

    def kill(self, kill_at: str = "", after: float = 0.0) -> None:
        """Start a writer, and kill it at a point of its own or some seconds after a save."""
        before = self.lines()
        process = self.children.Process(target=writer, args=(str(self.run.path), kill_at))
        process.start()
        if not kill_at:
            end = time.monotonic() + 60
            while self.lines() == before and process.is_alive() and time.monotonic() < end:
                time.sleep(0.001)
            time.sleep(after)
            os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, kill_at
        assert self.lines() > before
        self.check()

    def check(self) -> None:
        reported = int(self.told.read_text().split()[-1])
        found = self.run.latest()
        assert found is not None and found.seen >= reported
        assert is_whole(self.run, found.seen)
        assert len(self.run.saved()) <= 3
        with self.run.lock():  # of a process that is gone
            assert leftovers(self.run) == []
            self.run.rewind(found)
        rows = [json.loads(line) for line in self.run.metrics_path.read_text().splitlines()]
        assert [row["seen"] for row in rows] == list(range(found.seen + 1))


def kill_everywhere(victim: Victim, nth: int, random_kills: int) -> None:
    for point in POINTS:
        for n in range(1, nth + 1):
            victim.kill(f"{point}:{n}")
    draw = random.Random(0)
    for _ in range(random_kills):
        victim.kill(after=draw.uniform(0, 0.05))


@pytest.mark.slow
def test_c1_seventy_kills_lose_nothing_that_was_reported_saved(memory_path, children, caplog):
    kill_everywhere(Victim(memory_path / "run", children), nth=7, random_kills=35)
    assert not caplog.records  # nothing was ever passed over: it was whole, or not there


@pytest.mark.torture
def test_c1_two_hundred_kills_lose_nothing_that_was_reported_saved(tmp_path, children):
    kill_everywhere(Victim(tmp_path / "run", children), nth=14, random_kills=140)


def creator(path: str, kill_at: str) -> None:
    os.environ["ORNSTEIN_KILL_AT"] = kill_at
    new_run(Path(path))


@pytest.mark.parametrize("nth", [1, 2, 3])  # config.toml, run.json, README.md
@pytest.mark.parametrize("point", ["after_write", "after_fsync"])
def test_c1_a_create_that_was_killed_can_be_repeated(point, nth, memory_path, children):
    path = memory_path / "run"
    process = children.Process(target=creator, args=(str(path), f"{point}:{nth}"))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    if nth < 3:
        with pytest.raises(UsageError, match=r"no run\.json"):
            RunFolder.open(path)
        new_run(path)
    run = RunFolder.open(path)
    with run.lock():
        assert leftovers(run) == []
    run.save(1, parts_of(1), {"n": 1})
    assert is_whole(run, 1) and (path / "README.md").exists()


# --- Power cuts ----------------------------------------------------------------------------------


class Recorder:
    """Watches the calls that reach the disk, and knows what a power cut now would leave.

    Worst cases of a disk that keeps what was synced and may lose or keep all else:

    - `torn`: all names are there, but files that were not synced are full of zeros;
    - `lost`: files are whole, but only names in folders that were synced are there.
    """

    def __init__(self, root: Path, monkeypatch) -> None:
        self.root, self.events = root, list[tuple[str, str]]()
        self.dirty = set[int]()
        self.names: dict[int, dict[str, int]] = {}
        self.synced: dict[int, bytes] = {}
        self.held: list[int] = []  # open, so that no number of a file is used twice
        self.real = {n: getattr(os, n) for n in ("open", "write", "fsync", "rename", "unlink")}
        self.fsync_all()
        for name in self.real:
            monkeypatch.setattr(os, name, self.watching(name))

    def fsync_all(self) -> None:
        """What was there at first is on the disk."""
        for path in (self.root, *self.root.rglob("*")):
            self.note(path)

    def note(self, path: Path) -> int:
        fd = self.real["open"](path, os.O_RDONLY)
        self.held.append(fd)
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            self.names[found.st_ino] = {e.name: e.inode() for e in os.scandir(path)}
            for child in path.iterdir():
                self.held.append(self.real["open"](child, os.O_RDONLY))
        else:
            self.synced[found.st_ino] = path.read_bytes()
        return found.st_ino

    def watching(self, name: str):
        def call(*arguments, **options):
            result = self.real[name](*arguments, **options)
            subject = arguments[0]
            by_fd = name in ("write", "fsync")
            path = Path(f"/proc/self/fd/{subject}").readlink() if by_fd else Path(subject)
            if name == "write":
                self.dirty.add(os.fstat(subject).st_ino)
            if name == "fsync":
                self.dirty.discard(self.note(path))
            if name != "open" or arguments[1] & os.O_CREAT:
                self.events.append((name, path.name))
                self.after()
            return result

        return call

    def after(self) -> None:
        """Called after each event."""

    def torn(self, to: Path) -> None:
        shutil.copytree(self.root, to)
        for path in self.root.rglob("*"):
            if path.is_file() and path.stat().st_ino in self.dirty:
                (to / path.relative_to(self.root)).write_bytes(bytes(path.stat().st_size))

    def lost(self, to: Path) -> None:
        self._rebuild(self.root.stat().st_ino, to)

    def _rebuild(self, inode: int, to: Path) -> None:
        if inode in self.synced:
            to.write_bytes(self.synced[inode])
        elif inode in self.names or not any(
            os.fstat(fd).st_ino == inode and stat.S_ISREG(os.fstat(fd).st_mode) for fd in self.held
        ):
            to.mkdir()
            for name, child in self.names.get(inode, {}).items():
                self._rebuild(child, to / name)
        else:
            to.write_bytes(b"")

    def close(self) -> None:
        for fd in self.held:
            os.close(fd)


def test_power_every_file_is_on_the_disk_before_its_name_and_the_manifest_last(
    memory_path, monkeypatch
):
    run = run_with(memory_path / "run", 0, 1)
    record = Recorder(run.path, monkeypatch)
    run.log({"seen": 2})
    run.save(2, parts_of(2), {"n": 2})
    monkeypatch.undo()
    record.close()
    events = [(what, name) for what, name in record.events if name != "README.md"]
    temp = next(name for what, name in events if what == "rename")
    wanted = [
        ("write", "metrics.jsonl"),
        ("fsync", "metrics.jsonl"),
        ("open", "model.safetensors"),
        ("write", "model.safetensors"),
        ("fsync", "model.safetensors"),
        ("open", "optimizer.safetensors"),
        ("write", "optimizer.safetensors"),
        ("fsync", "optimizer.safetensors"),
        ("open", "manifest.json"),
        ("write", "manifest.json"),
        ("fsync", "manifest.json"),
        ("fsync", temp),
        ("rename", temp),
        ("fsync", "checkpoints"),
        ("unlink", "model.safetensors"),
    ]
    places = [events.index(event) for event in wanted]
    assert places == sorted(places)
    for _, name in wanted[2:11:3]:  # nothing is written after it was synced
        last = max(i for i, event in enumerate(events) if event == ("write", name))
        assert last < events.index(("fsync", name))


@pytest.mark.parametrize("worst", ["torn", "lost"])
def test_power_a_cut_at_any_call_keeps_what_was_reported_saved(worst, memory_path, monkeypatch):
    run = new_run(memory_path / "run")
    (run.path / "README.md").write_text("mine")  # so that writing the card syncs nothing for us
    record, reported = Recorder(run.path, monkeypatch), [-1]
    copies = count()
    seen = []

    def cut() -> None:
        to = memory_path / f"copy-{next(copies)}"
        with monkeypatch.context() as real:
            for name, call in record.real.items():
                real.setattr(os, name, call)
            getattr(record, worst)(to)
            left = RunFolder.open(to)
            found = left.latest()
            if found is not None:
                assert is_whole(left, found.seen)
                left.rewind(found)  # the log is as long as the checkpoint says
            seen.append(found.seen if found else -1)
            assert seen[-1] >= reported[-1]
            shutil.rmtree(to)

    record.after = cut
    for n in range(4):
        run.log({"seen": n})
        run.save(n, parts_of(n), {"n": n})
        reported.append(n)
    monkeypatch.undo()
    record.close()
    assert len(seen) > 80 and sorted(set(seen)) == [-1, 0, 1, 2, 3]


def test_power_a_run_in_new_folders_is_there_with_all_of_them(memory_path, monkeypatch):
    root, to = memory_path / "disk", memory_path / "copy"
    root.mkdir()
    record = Recorder(root, monkeypatch)
    run = new_run(root / "a" / "b" / "run")
    run.keep("x", {"w": torch.ones(3)})
    monkeypatch.undo()
    record.lost(to)
    record.close()
    left = RunFolder.open(to / "a" / "b" / "run")
    assert left.identity == run.identity
    assert left.kept("x")["w"].tolist() == [1, 1, 1]


# --- C6: full disks ------------------------------------------------------------------------------


def assert_untouched(run: RunFolder, *seen: int) -> None:
    assert run.saved() == list(seen)
    for n in seen:
        run.checkpoint(n).sealed.verify()
    assert leftovers(run) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_c6_a_disk_that_fills_up_at_any_byte_costs_nothing_but_the_new_checkpoint(
    code, memory_path, monkeypatch
):
    run = run_with(memory_path / "run", 1, 2)
    total, write = sum(p.stat().st_size for p in run.checkpoint(2).path.iterdir()), os.write
    for i in range(20):
        left = total * i // 20

        def full(fd, data):
            nonlocal left
            if left <= 0:
                raise OSError(code, os.strerror(code))
            done = write(fd, memoryview(data)[:left])
            left -= done
            return done

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StorageError) as caught:
            run.save(3, parts_of(3), {"n": 3})
        monkeypatch.undo()
        said = str(caught.value)
        assert "000000000003 cannot be written" in said and said.isprintable()
        if code != errno.EIO:
            assert " bytes and " in said and " are free (" in said
        assert_untouched(run, 2, 1)
    run.save(3, parts_of(3), {"n": 3})
    assert is_whole(run, 3)


def limited(path: str) -> None:
    """Save, with files limited to less than the third checkpoint needs."""
    run = RunFolder.open(path)
    for n in (1, 2):
        run.save(n, parts_of(n), {"n": n})
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        run.save(3, parts_of(3, size=10_000), {"n": 3})
    except OrnsteinError as error:
        Path(f"{path}.said").write_text(str(error))
        sys.exit(error.exit_code)


def test_c6_a_limit_on_files_ends_with_code_3_and_one_line(memory_path, children):
    run = new_run(memory_path / "run")
    process = children.Process(target=limited, args=(str(run.path),))
    process.start()
    process.join(60)
    assert process.exitcode == 3
    said = Path(f"{run.path}.said").read_text()
    assert "it needs" in said and "are free (File too large)" in said and said.isprintable()
    assert_untouched(run, 2, 1)


def test_c6_without_room_for_two_and_a_half_checkpoints_none_is_written(memory_path, monkeypatch):
    run = new_run(memory_path / "run")
    size = checkpoint.size_of(parts_of(0))
    free = 2.4 * size
    usage = shutil.disk_usage(memory_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=int(free)))
    with pytest.raises(StorageError, match=rf"needs {int(2.5 * size):,} bytes and {int(free):,}"):
        run.save(0, parts_of(0), {"n": 0})
    assert_untouched(run)
    free = 2.6 * size
    run.save(0, parts_of(0), {"n": 0})
    run.save(1, parts_of(1), {"n": 1})
    free = 1.1 * size  # two are there: it is enough for the third
    run.save(2, parts_of(2), {"n": 2})
    free = 0.9 * size
    with pytest.raises(StorageError, match="make room, then go on with --resume"):
        run.save(3, parts_of(3), {"n": 3})
    assert_untouched(run, 2, 1)


def test_c6_a_log_that_cannot_be_written_is_a_storage_error(memory_path, monkeypatch):
    run = run_with(memory_path / "run", 0)

    def full(fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match=r"metrics\.jsonl cannot be written: it needs"):
        run.log({"seen": 1})


# --- C7: damage ----------------------------------------------------------------------------------


def assert_passed_over(run: RunFolder, caplog, *reasons: str, seen: int = 1) -> None:
    """The newest checkpoint is refused in one line that names the file; the one before is taken."""
    caplog.clear()
    found = run.latest()
    assert found is not None and found.seen == seen
    assert is_whole(run, seen)
    (record,) = caplog.records
    said = record.getMessage()
    assert record.levelno == logging.WARNING and said.isprintable()
    assert said.startswith("Checkpoint 2 is passed over: ") and str(run.path) in said
    assert any(reason in said for reason in reasons), said


@pytest.fixture
def two(memory_path) -> RunFolder:
    return run_with(memory_path / "run", 1, 2)


FILES = ("model.safetensors", "optimizer.safetensors", "manifest.json")
DAMAGED = ("is damaged", "belongs to another", "newer version", "is not a safetensors file")


@pytest.mark.parametrize("name", FILES)
def test_c7_a_file_cut_at_any_place_is_passed_over(name, two, caplog):
    path = two.checkpoint(2).path / name
    data = path.read_bytes()
    for i in range(64):
        path.write_bytes(data[: len(data) * i // 64])
        assert_passed_over(two, caplog, *DAMAGED)
    path.write_bytes(data)
    assert is_whole(two, 2)


@pytest.mark.parametrize("name", FILES)
def test_c7_any_flipped_bit_is_passed_over(name, two, caplog):
    path = two.checkpoint(2).path / name
    data, draw = path.read_bytes(), random.Random(0)
    before = json.loads(data) if name == "manifest.json" else None
    same = 0
    for _ in range(256):
        flipped, place = bytearray(data), draw.randrange(len(data))
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(ValueError):  # a blank may turn into another: it says the same
            if before is not None and json.loads(flipped) == before:
                same += 1
                continue
        assert_passed_over(two, caplog, *DAMAGED)
    assert same < 16
    path.write_bytes(data)
    assert is_whole(two, 2)


def test_c7_a_tail_of_zeros_is_passed_over(two, caplog):
    path = two.checkpoint(2).path / "model.safetensors"
    data = path.read_bytes()
    for kept in (0, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:kept] + bytes(len(data) - kept))
        if data[kept:].strip(b"\0"):
            assert_passed_over(two, caplog, *DAMAGED)


def test_c7_files_that_changed_places_are_passed_over(two, caplog):
    place = two.checkpoint(2).path
    model, optimizer = place / "model.safetensors", place / "optimizer.safetensors"
    model.rename(place / "x")
    optimizer.rename(model)
    (place / "x").rename(optimizer)
    assert_passed_over(two, caplog, "is damaged: it has")


def test_c7_files_of_equal_size_that_changed_places_are_passed_over(memory_path, caplog):
    run = new_run(memory_path / "run")
    for n in (1, 2):
        run.save(n, {"a": {"w": torch.full((9,), n)}, "b": {"w": torch.full((9,), -n)}}, {"n": n})
    place = run.checkpoint(2).path
    a, b = (place / f"{name}.safetensors" for name in "ab")
    first = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(first)
    assert run.latest().seen == 1  # pyright: ignore[reportOptionalMemberAccess]
    assert "a.safetensors is damaged: its SHA-256" in caplog.text


@pytest.mark.parametrize("name", FILES)
def test_c7_a_missing_file_is_passed_over(name, two, caplog):
    (two.checkpoint(2).path / name).unlink()
    assert_passed_over(two, caplog, f"{name} cannot be read (No such file")


def test_c7_checkpoints_that_changed_places_are_passed_over(two, caplog):
    place = two.checkpoint(2).path
    shutil.rmtree(place)
    shutil.copytree(two.checkpoint(1).path, place)
    assert_passed_over(two, caplog, "belongs to another folder")


def test_c7_a_checkpoint_of_another_run_is_passed_over(two, memory_path, caplog):
    other = run_with(memory_path / "other", 2)
    place = two.checkpoint(2).path
    shutil.rmtree(place)
    shutil.copytree(other.checkpoint(2).path, place)
    assert_passed_over(two, caplog, "belongs to another run")


def rewrite(path: Path, change: dict[str, Any]) -> None:
    """Change a manifest, and make it vouch for itself."""
    values = json.loads(path.read_text())
    del values["sha256"]
    values |= change
    path.write_text(json.dumps({**values, "sha256": checkpoint._digest(values)}))


SEAL = {"bytes": 1, "sha256": "0" * 64}
MANIFESTS = {
    "a future schema": ({"schema": 2}, "newer version of ornstein (its schema is 2"),
    "no schema": ({"schema": None}, "names no schema"),
    "true as schema": ({"schema": True}, "names no schema"),
    "an older seen": ({"facts": {"seen": 1, "log": 0, "state": {}}}, "its manifest is of 1"),
    "a text as seen": ({"facts": {"seen": "2", "log": 0, "state": {}}}, "of no checkpoint"),
    "a negative log": ({"facts": {"seen": 2, "log": -1, "state": {}}}, "of no checkpoint"),
    "no state": ({"facts": {"seen": 2, "log": 0}}, "of no checkpoint"),
    "no facts": ({"facts": None}, "is no manifest"),
    "a list of files": ({"files": []}, "is no manifest"),
    "a path as part": ({"files": {"../x": SEAL}}, "is no manifest"),
    "an absolute path": ({"files": {"/etc/x": SEAL}}, "is no manifest"),
    "a hidden part": ({"files": {".x": SEAL}}, "is no manifest"),
    "a hash of 3 digits": ({"files": {"model": {"bytes": 1, "sha256": "abc"}}}, "is no manifest"),
    "a part without size": ({"files": {"model": {"sha256": "0" * 64}}}, "is no manifest"),
    "a part that is not there": ({"files": {"x": SEAL}}, "x.safetensors cannot be read"),
}


@pytest.mark.parametrize("lie", MANIFESTS)
def test_c7_a_manifest_that_lies_is_passed_over(lie, two, caplog):
    change, reason = MANIFESTS[lie]
    rewrite(two.checkpoint(2).path / "manifest.json", change)
    assert_passed_over(two, caplog, reason)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"\xff", b"[" * 10**6, b'{"a":' * 10**5, b" " * (9 * 2**20), b'{"a":NaN}']
)
def test_c7_a_manifest_that_is_none_is_passed_over(text, two, caplog):
    (two.checkpoint(2).path / "manifest.json").write_bytes(text)
    assert_passed_over(two, caplog, "manifest.json is damaged", "manifest.json has 9,437,184")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_c7_weights_that_are_not_finite_are_passed_over_and_never_saved(
    bad, two, caplog, monkeypatch
):
    parts = parts_of(2)
    parts["model"]["w"][7] = bad
    with pytest.raises(OrnsteinError, match="'w' holds values that are not finite"):
        two.save(3, parts, {"n": 3})
    assert_untouched(two, 2, 1)
    with monkeypatch.context() as careless:  # somebody else's writer
        careless.setattr(checkpoint.Sealed, "verify", lambda self, parts=(): None)
        shutil.rmtree(two.checkpoint(2).path)
        two.save(2, parts, {"n": 2})
    assert_passed_over(two, caplog, "model.safetensors is refused: 'w' holds values that are not")


def test_c7_when_nothing_verifies_each_is_named_and_there_is_none(two, caplog):
    for n in (1, 2):
        (two.checkpoint(n).path / "model.safetensors").write_bytes(b"")
    assert two.latest() is None
    assert [r.getMessage()[:30] for r in caplog.records] == [
        "Checkpoint 2 is passed over: /", "Checkpoint 1 is passed over: /"
    ]  # fmt: skip


def test_c7_a_damaged_checkpoint_is_written_anew_when_its_turn_comes(two):
    place = two.checkpoint(2).path
    (place / "model.safetensors").write_bytes(b"")
    two.save(2, parts_of(2), {"n": 2})
    assert is_whole(two, 2) and leftovers(two) == []


def test_c7_a_checkpoint_that_is_damaged_after_it_was_verified_is_not_loaded(two):
    found = two.latest()
    path = found.path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(OrnsteinError, match=r"model\.safetensors is damaged: its SHA-256"):
        found.load("model")


def test_c7_a_damaged_checkpoint_does_not_push_out_a_sound_one(two):
    (two.checkpoint(2).path / "manifest.json").write_bytes(b"")
    two.save(3, parts_of(3), {"n": 3})
    assert two.saved() == [3, 2, 1] and is_whole(two, 1)
    two.save(4, parts_of(4), {"n": 4})
    assert two.saved() == [4, 3]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit])
def test_c7_what_is_saved_below_damaged_checkpoints_stays(damage, memory_path):
    """A training that passed over them goes on from below."""
    run = run_with(memory_path / "run", 100, 200)
    for seen in (100, 200):
        damage(run.checkpoint(seen).path / "model.safetensors")
    for seen in (0, 32, 64):
        run.save(seen, parts_of(seen), {"n": seen})
        assert run.latest().seen == seen  # pyright: ignore
    assert run.saved() == [200, 100, 64, 32]


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit])
def test_c7_a_damaged_newest_checkpoint_leaves_two_sound_ones(damage, memory_path):
    run = run_with(memory_path / "run", 100, 200)
    damage(run.checkpoint(200).path / "model.safetensors")
    run.save(150, parts_of(150), {"n": 150})
    assert run.saved() == [200, 150, 100] and is_whole(run, 150) and is_whole(run, 100)


def test_c7_a_checkpoint_that_was_cut_short_does_not_push_out_a_sound_one(two):
    cut_short(two.checkpoint(2).path / "model.safetensors")
    two.save(3, parts_of(3), {"n": 3})
    assert two.saved() == [3, 2, 1] and is_whole(two, 1)


def test_c7_what_was_just_saved_stays_below_sound_ones(memory_path):
    run = run_with(memory_path / "run", 1, 200, 300)
    run.save(150, parts_of(150), {"n": 150})
    assert run.saved() == [300, 200, 150] and is_whole(run, 150)


@pytest.mark.parametrize("name", ["run.json", "config.toml"])
@pytest.mark.parametrize(
    "text", [b"", b"[]", b"\xff\xfe", b"[" * 10**6, b"{}", b" " * (9 * 2**20), b'{"schema":2}']
)
def test_c7_a_damaged_run_is_refused_in_one_line(name, text, two):
    (two.path / name).write_bytes(text)
    if name == "config.toml" and text not in (b"\xff\xfe", b" " * (9 * 2**20)):
        return  # any text may be a configuration; that is judged where it is parsed
    with pytest.raises(StorageError, match=rf"{name}.*(damaged|more than|newer)") as caught:
        RunFolder.open(two.path)
    assert str(caught.value).isprintable()


# --- C8: rivals ----------------------------------------------------------------------------------


def hold(path: str, ready: str) -> None:
    with RunFolder.open(path).lock():
        Path(ready).touch()
        time.sleep(60)


@pytest.fixture
def held(memory_path, children):
    """A run that another process holds, and that process."""
    run, ready = run_with(memory_path / "run", 1), memory_path / "ready"
    process = children.Process(target=hold, args=(str(run.path), str(ready)))
    process.start()
    end = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < end:
        time.sleep(0.002)
    yield run, process
    process.kill()
    process.join()


def test_c8_the_second_writer_is_refused_at_once_by_name(held):
    run, process = held
    start = time.monotonic()
    with pytest.raises(LockedError) as caught, run.lock():
        pass
    assert time.monotonic() - start < 1
    said = str(caught.value)
    assert f"process {process.pid} on {os.uname().nodename}" in said and said.isprintable()
    assert caught.value.exit_code == 4


def test_c8_a_locked_run_can_be_read(held):
    run, _ = held
    assert RunFolder.open(run.path).latest().seen == 1  # pyright: ignore
    assert describe(run.path)["seen"] == 1


def test_c8_the_lock_of_a_killed_process_is_taken_over(held):
    run, process = held
    process.kill()
    process.join()
    with run.lock():
        pass


def test_c8_one_process_cannot_hold_a_run_twice(memory_path):
    run = new_run(memory_path / "run")
    with run.lock(), pytest.raises(LockedError, match=f"process {os.getpid()} on"), run.lock():
        pass
    with run.lock():
        pass


@pytest.fixture
def without_flock(monkeypatch):
    """As on a network drive."""

    def flock(fd, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("without_flock")
class TestWithoutFlock:
    def test_c8_the_second_writer_is_refused(self, memory_path):
        run = new_run(memory_path / "run")
        with run.lock(), pytest.raises(LockedError, match=f"process {os.getpid()} "), run.lock():
            pass
        with run.lock():
            pass
        assert not (run.path / "lock.pid").exists()

    def test_c8_the_claim_of_a_process_that_is_gone_is_taken_over(self, memory_path):
        run = new_run(memory_path / "run")
        gone = subprocess.Popen(["true"])
        gone.wait()
        claim = {"pid": gone.pid, "host": os.uname().nodename, "began": "1"}
        (run.path / "lock.pid").write_text(json.dumps(claim))
        with run.lock():
            assert json.loads((run.path / "lock.pid").read_text())["pid"] == os.getpid()
        assert not (run.path / "lock.pid").exists() and not (run.path / "lock.turn").exists()

    def test_c8_a_new_process_with_the_same_number_does_not_hold_it(self, memory_path):
        run = new_run(memory_path / "run")
        claim = {"pid": os.getppid(), "host": os.uname().nodename, "began": "1"}
        (run.path / "lock.pid").write_text(json.dumps(claim))
        with run.lock():
            pass

    @pytest.mark.parametrize(
        ("claim", "who"),
        [
            ({"pid": 1, "host": "elsewhere", "began": "1"}, "process 1 on elsewhere"),
            ({}, "another process"),
            ([], "another process"),
            ({"pid": "1"}, "another process"),
        ],
    )
    def test_c8_a_claim_that_cannot_be_judged_stands(self, memory_path, claim, who):
        run = new_run(memory_path / "run")
        (run.path / "lock.pid").write_text(json.dumps(claim))
        with pytest.raises(LockedError, match=f"{who}.*remove the files named lock"), run.lock():
            pass
        assert (run.path / "lock.pid").exists()

    def test_c8_two_cannot_take_over_at_once(self, memory_path):
        run = new_run(memory_path / "run")
        claim = {"pid": 2**22 + 1, "host": os.uname().nodename, "began": "1"}
        (run.path / "lock.pid").write_text(json.dumps(claim))
        assert lock._make(run.path / "lock.turn")
        with pytest.raises(LockedError, match=f"process {os.getpid()} "), run.lock():
            pass


def rival(path: str, result: str) -> None:
    try:
        with RunFolder.open(path).lock():
            run = RunFolder.open(path)
            for n in range(20):
                run.log({"who": os.getpid(), "n": n})
            time.sleep(0.3)
    except LockedError:
        Path(result).write_text("refused")


def test_c8_logs_of_rivals_do_not_mix(memory_path, children):
    run = new_run(memory_path / "run")
    rivals = [
        children.Process(target=rival, args=(str(run.path), str(memory_path / f"result-{i}")))
        for i in range(4)
    ]
    for process in rivals:
        process.start()
    for process in rivals:
        process.join(60)
    rows = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    refused = len(list(memory_path.glob("result-*")))
    assert refused >= 1 and len(rows) == 20 * (4 - refused)
    assert [row["n"] for row in rows] == list(range(20)) * (4 - refused)


# --- C9: names -----------------------------------------------------------------------------------

NAMES = (
    "with spaces", "ünï-文字", "🐦🔥", "n" * 240, "trailing dot.", "-rf", "a'b\"c", "%s{}$HOME",
    " ", "..a", "new\nline", "\u202eright", os.fsdecode(b"not-\xff-utf8"),
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_c9_every_artefact_makes_the_round_trip_under_any_name(name, memory_path):
    run = run_with(memory_path / name / name, 1, 2, 3)
    run.keep("ema-0-3", {"w": torch.ones(2)})
    run.log_time({"seconds": 1.0})
    run = RunFolder.open(str(run.path))
    assert is_whole(run, 3) and run.latest().seen == 3  # pyright: ignore
    assert run.kept("ema-0-3")["w"].tolist() == [1, 1]
    assert len(run.metrics_path.read_text().splitlines()) == 3
    with run.lock():
        pass
    assert (run.path / "README.md").read_text().isprintable() is False  # it has lines
    assert describe(run.path)["run"].isprintable()
    (run.checkpoint(3).path / "manifest.json").unlink()
    with pytest.raises(StorageError) as caught:
        run.checkpoint(3)
    assert str(caught.value).isprintable()


def test_c9_what_is_in_the_way_is_an_error_before_any_work(memory_path):
    path = memory_path / "file"
    path.write_text("precious")
    for taken in (path, path / "run"):
        with pytest.raises(OrnsteinError, match=r"is a file|Not a directory"):
            new_run(taken)
    assert path.read_text() == "precious"
    with pytest.raises(StorageError, match="File name too long"):
        new_run(memory_path / ("n" * 300))
    with pytest.raises(OrnsteinError, match="null"):
        new_run(memory_path / "nu\0l")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_c9_a_folder_that_cannot_be_written_is_an_error_before_any_work(
    code, memory_path, monkeypatch
):
    """The superuser may write anywhere, so the system's refusal is played."""
    run, real = run_with(memory_path / "run", 1), os.open

    def refuse(path, flags, *rest, **options):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="cannot be written"):
        new_run(memory_path / "new")
    with (
        pytest.raises(StorageError, match=r"lock cannot be written \(.*choose another folder"),
        run.lock(),
    ):
        pass
    assert RunFolder.open(run.path).latest().seen == 1  # pyright: ignore  (it can be read)


# --- C10: links ----------------------------------------------------------------------------------


@pytest.fixture
def outside(memory_path) -> Path:
    """A folder that must stay as it is."""
    folder = memory_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    return folder


def assert_as_it_was(outside: Path) -> None:
    assert [p.name for p in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "precious"


def test_c10_a_link_to_a_run_is_that_run_even_if_the_link_moves_on(memory_path, outside):
    real = new_run(memory_path / "real")
    link = memory_path / "link"
    link.symlink_to(real.path)
    run = RunFolder.open(link)
    link.unlink()
    link.symlink_to(outside)
    run.save(1, parts_of(1), {"n": 1})
    assert is_whole(real, 1)
    assert_as_it_was(outside)


@pytest.mark.parametrize("name", ["checkpoints", "kept", "metrics.jsonl", "lock", "timings.jsonl"])
def test_c10_nothing_is_written_through_a_link(name, memory_path, outside):
    run = new_run(memory_path / "run")
    target = outside if name in ("checkpoints", "kept") else outside / "precious"
    (run.path / name).symlink_to(target)
    with pytest.raises(StorageError, match=name):
        match name:
            case "checkpoints":
                run.save(1, parts_of(1), {"n": 1})
            case "kept":
                run.keep("x", {"w": torch.ones(1)})
            case "metrics.jsonl":
                run.log({"seen": 1})
            case "timings.jsonl":
                run.log_time({"seconds": 1})
            case "lock":
                with run.lock():
                    pass
    assert_as_it_was(outside)


def test_c10_links_are_not_followed_when_things_are_removed(memory_path, outside):
    run = run_with(memory_path / "run", 2, 3)
    place = run.path / "checkpoints"
    (place / f"{1:012d}").symlink_to(outside)
    (place / "latest").symlink_to(memory_path / "nowhere")
    (place / f"{disk.TEMPORARY}1-a").symlink_to(outside)
    (place / f"{disk.TEMPORARY}1-b").mkdir()
    (place / f"{disk.TEMPORARY}1-b" / "in").symlink_to(outside)
    with run.lock():
        run.save(4, parts_of(4), {"n": 4})
    assert leftovers(run) == []
    assert run.saved() == [4, 3]
    assert run.latest().seen == 4  # pyright: ignore
    assert (place / "latest").is_symlink()
    assert_as_it_was(outside)


def test_c10_a_card_that_is_a_link_is_replaced_not_followed(memory_path, outside):
    run = new_run(memory_path / "run")
    (outside / "precious").write_text("<!-- Written by ornstein. -->")
    (outside / "precious").write_text((run.path / "README.md").read_text())
    before = (outside / "precious").read_text()
    (run.path / "README.md").unlink()
    (run.path / "README.md").symlink_to(outside / "precious")
    run.save(1, parts_of(1), {"n": 1})
    assert (outside / "precious").read_text() == before
    assert not (run.path / "README.md").is_symlink()


def test_c10_files_that_are_links_can_be_read_as_in_a_download_cache(memory_path):
    run = run_with(memory_path / "run", 1)
    store = memory_path / "store"
    store.mkdir()
    for i, path in enumerate(sorted(run.path.rglob("*"))):
        if path.is_file():
            path.rename(store / str(i))
            path.symlink_to(store / str(i))
    assert is_whole(RunFolder.open(run.path), 1)


# --- C12: clocks ---------------------------------------------------------------------------------


def test_c12_the_latest_is_by_examples_seen_whatever_the_clock_says(memory_path, monkeypatch):
    run = new_run(memory_path / "run")
    clock = 1e9
    monkeypatch.setattr(time, "time", lambda: clock)
    for n in (9, 10, 100, 99):  # text order, order of writing and order of numbers all differ
        run.save(n, parts_of(n), {"n": n}, keep=4)
        os.utime(run.checkpoint(n).path, (clock, clock))
        clock -= 86_400
    assert run.saved() == [100, 99, 10, 9]
    assert run.latest().seen == 100  # pyright: ignore


def test_c12_two_saves_at_the_same_moment_are_one_checkpoint(memory_path):
    run = run_with(memory_path / "run", 1)
    before = run.checkpoint(1).path.stat()
    run.save(1, parts_of(1), {"n": 1})
    after = run.checkpoint(1).path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


# --- C13: a thousand saves -----------------------------------------------------------------------


def resources() -> tuple[int, int]:
    """Open files, and pages in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(list(Path("/proc/self/fd").iterdir())), pages * resource.getpagesize()


@pytest.mark.slow
def test_c13_a_thousand_saves_keep_disk_files_and_memory_flat(memory_path, monkeypatch):
    run = new_run(memory_path / "run")
    size = checkpoint.size_of(parts_of(0))
    most, before = [0], resources()
    real = checkpoint.hook

    def measure(point: str) -> None:
        if point == "after_replace":  # when the new one is there, and the old ones are too
            used = sum(p.stat().st_size for p in run.path.rglob("*.safetensors"))
            most[0] = max(most[0], used)
        real(point)

    monkeypatch.setattr(checkpoint, "hook", measure)
    with run.lock():
        for n in range(1000):
            if n == 100:
                before = resources()
            run.save(n, parts_of(n), {"n": n}, keep=3)
            if n % 100 == 99:
                assert run.latest().seen == n  # pyright: ignore
    assert run.saved() == [999, 998, 997]
    assert most[0] <= 4 * size
    after = resources()
    assert after[0] <= before[0] and after[1] - before[1] < 8 * 2**20
