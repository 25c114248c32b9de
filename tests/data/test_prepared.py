"""What takes long to read is read once: the same to the last bit, and never of other files."""

import json
import os
import shutil
import threading
import time
import zipfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein.cli import run_command
from ornstein.data import DataOptions, open_data, prepared
from ornstein.data import open as opening
from ornstein.data.cache import emptied, entries
from ornstein.data.dataset import draws_at
from ornstein.errors import DataError, Notice
from ornstein.rng import generator

pytestmark = pytest.mark.filterwarnings("ignore:Reading")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of prepared data; whatever is read is thought to have taken long."""
    monkeypatch.setenv("ORNSTEIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "PATIENCE", 0.0)
    return tmp_path / "cache" / "data"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Of each time that the user's own files are read, which."""
    found, read = list[str](), opening._read
    monkeypatch.setattr(
        opening, "_read", lambda s, *rest: (found.append(str(s)), read(s, *rest))[1]
    )
    return found


def pictures(folder: Path, count: int = 9, size: int = 6) -> Path:
    """Some of them alike, with captions, classes, a number, and a file that is no picture."""
    folder.mkdir()
    pixels = generator("prepared").integers(0, 256, (count, size, size + 1, 3)).astype(np.uint8)
    rows = []
    for i in range(count):
        Image.fromarray(pixels[i % (count - 1)]).save(folder / f"{i}.png")
        row = {"file_name": f"{i}.png", "text": ["a red dog", f"dog {i % 3}"][: i % 3]}
        rows.append(row | {"label": "ab"[i % 2], "year": 1900 + i, "author": "x"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def broken(folder: Path) -> Path:
    (pictures(folder) / "4.png").write_bytes(b"no picture")
    return folder


def pairs(folder: Path) -> Path:
    folder.mkdir()
    pictures(folder / "high")
    pictures(folder / "low", size=3)
    return folder


def zipped(place: Path) -> Path:
    path = place.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(pictures(place).iterdir()):
            archive.write(file, file.name)
    return path


def saved(place: Path) -> Path:
    path = place.with_suffix(".npy")
    np.save(path, generator("rows").normal(size=(20, 3)))
    return path


def table(place: Path) -> Path:
    path = place.with_suffix(".csv")
    path.write_text("a;b;label\n" + "".join(f"{i},5;{i * i};{i % 2}\n" for i in range(9)))
    return path


SOURCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "folder": (pictures, {"flip": True}),
    "folder, scaled, without copies": (pictures, {"size": 4, "duplicates": "drop"}),
    "broken": (broken, {"on_bad": "skip"}),
    "patches": (pictures, {"patch": 3}),
    "patches, few": (pictures, {"patch": 3, "duplicates": "drop"}),
    "pairs": (pairs, {"given": "low", "make": "high"}),
    "sketched": (pictures, {"given": "sketch"}),
    "one word": (pictures, {"word": "dog"}),
    "zip": (zipped, {"limit": 5}),
    "npy": (saved, {}),
    "table": (table, {}),
}


def same(one: Any, other: Any) -> bool:
    """Whether two values are alike in all that they hold."""
    if isinstance(one, torch.Tensor):
        equal = torch.equal(one.nan_to_num(7), other.nan_to_num(7))
        return one.dtype == other.dtype and one.shape == other.shape and equal
    if is_dataclass(one):
        parts = ((getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
        return type(one) is type(other) and all(same(*both) for both in parts)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_what_was_read_before_is_what_would_be_read(
    name, mapped, tmp_path, cache, reads, monkeypatch
):
    make, said = SOURCES[name]
    source, options = make(tmp_path / "source"), DataOptions(validation=0.25, **said)
    if mapped:
        for module in ("room", "arrays", "prepared"):
            monkeypatch.setattr(f"ornstein.data.{module}.most_held", lambda: 0)
    read = opening._read(source, options)
    first, again = open_data(source, options), open_data(str(source), options)
    assert len(reads) == 2  # ours, and the first of theirs
    for data in (first, again):
        assert all(same(getattr(read, f.name), getattr(data, f.name)) for f in fields(data))
    for one, other in zip(again.split(0.25, 1), read.split(0.25, 1), strict=True):
        rows, draws = torch.arange(len(other)), draws_at(0, torch.arange(len(other)))
        (x, told), (y, known) = one.batch(rows, draws), other.batch(rows, draws)
        assert one.ids == other.ids and torch.equal(x, y)
        assert all(torch.equal(told[k].nan_to_num(7), known[k].nan_to_num(7)) for k in known | told)


def test_what_memory_does_not_hold_is_mapped_from_the_file_that_is_kept(
    tmp_path, cache, monkeypatch
):
    for module in ("room", "arrays", "prepared"):
        monkeypatch.setattr(f"ornstein.data.{module}.most_held", lambda: 0)
    source = pictures(tmp_path / "a")
    for data in (open_data(source), open_data(source)):
        (kept,) = cache.glob("*/stored.npy")
        lines = Path("/proc/self/maps").read_text().splitlines()
        at = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
        here = next(i for i, (a, b) in enumerate(at) if a <= data.stored.data_ptr() < b)
        assert lines[here].endswith(str(kept)) and lines[here].split()[1] == "r--s"
    held = data.stored.clone()
    assert emptied("data") > 0 and not entries()
    assert torch.equal(data.stored, held)  # what is open stays


def rewritten(folder: Path) -> None:
    """Other pixels in as many bytes, with the times that the file had."""
    path, status = folder / "3.png", (folder / "3.png").stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchanged(folder: Path) -> None:
    for a, b in (("0.png", "between"), ("1.png", "0.png"), ("between", "1.png")):
        (folder / a).rename(folder / b)


CHANGES = {
    "a file is rewritten": rewritten,
    "a file is added": lambda folder: shutil.copy(folder / "1.png", folder / "11.png"),
    "a file is removed": lambda folder: (folder / "5.png").unlink(),
    "a file has another name": lambda folder: (folder / "5.png").rename(folder / "50.png"),
    "two files change places": exchanged,
    "something else is said of one": lambda folder: (folder / "7.txt").write_text("a blue dog"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_kept_is_not_trusted_once(name, tmp_path, cache, reads):
    source, options = pictures(tmp_path / "a"), DataOptions(on_bad="skip")
    open_data(source, options)
    time.sleep(0.01)  # the clock of files ticks a few times in a hundredth of a second
    CHANGES[name](source)
    now = open_data(source, options)
    assert len(reads) == 2 and same(now.stored, opening._read(source, options).stored)
    assert len(entries()) == 1  # what the files were before is gone


def test_what_reads_them_is_part_of_what_they_are_made_of(tmp_path, cache, reads, monkeypatch):
    source = pictures(tmp_path / "a")
    first = open_data(source)
    later = DataOptions(flip=True, shift=2, balance=True, validation=0.3, on_bad="skip")
    assert same(open_data(source, later).stored, first.stored) and len(reads) == 1
    assert open_data(source, later).options == later
    others = DataOptions(size=4), DataOptions(channels=1), DataOptions(limit=3)
    for other in (*others, DataOptions(patch=2), DataOptions(label="year")):
        open_data(source, other)
    assert len(reads) == len(entries()) == 6
    monkeypatch.setattr(prepared, "_reading", lambda: "another version")
    open_data(source)
    assert len(reads) == 7 and len(entries()) == 6


def test_a_file_that_was_left_out_is_still_named_to_who_wants_none(tmp_path, cache, reads):
    source = broken(tmp_path / "a")
    kept = open_data(source, DataOptions(on_bad="skip"))
    with pytest.raises(DataError, match=r"4\.png cannot be used"):
        open_data(source)
    again = open_data(source, DataOptions(on_bad="skip"))
    assert again.problems == kept.problems and len(reads) == 2


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flipped, Path.unlink])
@pytest.mark.parametrize("name", ["stored.npy", "examples.json", "about.json"])
def test_what_is_not_whole_is_read_anew(name, damage, tmp_path, cache, reads):
    source = pictures(tmp_path / "a")
    first = open_data(source)
    (file,) = cache.glob(f"*/{name}")
    damage(file)
    if (name, damage) == ("about.json", flipped):  # a letter of a word may be another
        file.write_text("{}")
    assert same(open_data(source).stored, first.stored) and len(reads) == 2
    assert same(open_data(source).stored, first.stored) and len(reads) == 2


def test_two_who_read_at_once_are_not_in_each_others_way(tmp_path, cache, reads, monkeypatch):
    source, both = pictures(tmp_path / "a"), threading.Barrier(2, timeout=20)
    write, found = prepared._write, []
    monkeypatch.setattr(prepared, "_write", lambda *told: (both.wait(), write(*told)))
    some = [threading.Thread(target=lambda: found.append(open_data(source))) for _ in range(2)]
    for thread in some:
        thread.start()
    for thread in some:
        thread.join()
    assert len(reads) == 2 and same(found[0].stored, found[1].stored)
    assert len(list(cache.iterdir())) == len(entries()) == 1
    assert same(open_data(source).stored, found[0].stored) and len(reads) == 2


def test_a_disk_without_room_is_named_and_the_data_are_read_all_the_same(
    tmp_path, cache, monkeypatch
):
    source, usage = pictures(tmp_path / "a"), shutil.disk_usage

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(Notice, match=r"will again: the 0\.0 MiB .* in .*cache/data \(No space left"):
        open_data(source)
    assert list(cache.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("ORNSTEIN_CACHE", str(cache.parent))
    monkeypatch.setattr(prepared, "PATIENCE", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1500))
    with pytest.warns(Notice, match=r"0\.0 MiB are free; twice .* folder as ORNSTEIN_CACHE"):
        assert len(open_data(source)) == 9
    assert list(cache.iterdir()) == []


def aged(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_what_nobody_wants_or_writes_any_more_is_let_go_of(tmp_path, cache):
    sources, day = [pictures(tmp_path / name) for name in "abc"], 86_400
    open_data(sources[0])
    (old,) = cache.iterdir()
    open_data(sources[1])
    for name, age in (("idle", 2 * day), ("busy", day / 2)):
        (cache / f".begun-{name}").mkdir()
        aged(cache / f".begun-{name}", age)
    aged(old / "about.json", 31 * day)
    open_data(sources[2])
    assert {e.name for e in entries()} == {".begun-busy", *map(str, sources[1:])}


def test_what_is_read_in_a_moment_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ORNSTEIN_CACHE", str(tmp_path / "cache"))
    open_data(pictures(tmp_path / "a"))
    assert not (tmp_path / "cache").exists()


def test_a_person_is_told_of_the_cache_can_look_into_it_and_empty_it(tmp_path, cache, capsys):
    source = pictures(tmp_path / "a")
    with pytest.warns(Notice, match=r"kept in .*cache/data.*`ornstein cache` shows and empties"):
        open_data(source, DataOptions(size=4))
    assert [path.stat().st_mode & 0o077 for path in cache.iterdir()] == [0]  # nobody else's
    (cache.parent / "texts").mkdir()
    (cache.parent / "texts" / "mark.db").write_bytes(bytes(2**20))
    (cache.parent / "mine").write_text("not yours")
    assert run_command(["cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"1.0 MiB in {cache.parent}" and len(lines) == 3
    assert lines[1].startswith("data ") and lines[1].endswith(f"{source}, size = 4")
    assert lines[2].startswith("texts") and "1.0 MiB" in lines[2]
    assert run_command(["cache", "--json"]) == 0
    assert [e["kind"] for e in json.loads(capsys.readouterr().out)["entries"]] == ["data", "texts"]
    assert run_command(["cache", "--empty", "data"]) == 0
    assert [entry.kind for entry in entries()] == ["texts"]
    assert run_command(["cache", "--empty", "all"]) == 0
    assert entries() == [] and (cache.parent / "mine").exists()
