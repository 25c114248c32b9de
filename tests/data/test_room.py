"""Examples that memory does not hold: the same to the last bit, from a file without a name."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein.data import DataOptions, open_data, room
from ornstein.data.codec import movable
from ornstein.data.dataset import Dataset, draws_at
from ornstein.errors import StorageError
from ornstein.rng import generator
from ornstein.runs.config import NetConfig, RunConfig, TrainConfig
from ornstein.train import train


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where mapped files lie: no memory is left for examples, and chunks are small."""
    monkeypatch.setenv("ORNSTEIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(room, "PIECE", 256)
    monkeypatch.setattr(room, "CHUNK", 4096)
    return tmp_path / "cache"


def lowered(monkeypatch) -> None:
    monkeypatch.setattr(room, "most_held", lambda: 0)
    monkeypatch.setattr("ornstein.data.arrays.most_held", lambda: 0)


def file_of(tensor: torch.Tensor) -> str:
    """The file that memory at the address of a tensor is mapped to; empty for none."""
    tensor = tensor.base if isinstance(tensor, room.Picked) else tensor
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.partition("/")[2]
    return ""


def pixels(count: int = 24, size: tuple[int, ...] = (6, 5, 3), dtype: str = "uint8") -> np.ndarray:
    draw = generator("mapped", count)
    return draw.integers(0, 256, (count, *size)).astype(dtype)


def in_files(folder: Path) -> Path:
    for kind in ("high", "low"):
        (folder / kind).mkdir(parents=True)
        for i, picture in enumerate(pixels(24)):
            shown = picture if kind == "high" else picture[::2, ::2, 0]
            Image.fromarray(shown).save(folder / kind / f"{i:02d}.png")
    return folder


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


SOURCES = {
    "folder": lambda at: (in_files(at / "a") / "high", {}),
    "folder, scaled": lambda at: (in_files(at / "a") / "high", {"size": 4}),
    "pairs": lambda at: (in_files(at / "a"), {"given": "low", "make": "high"}),
    "patches": lambda at: (in_files(at / "a") / "high", {"patch": 3}),
    "npy": lambda at: (saved(at / "x.npy", pixels()), {}),
    "npy, scaled": lambda at: (saved(at / "x.npy", pixels()), {"size": 4, "channels": 1}),
    "npy, other end first": lambda at: (saved(at / "x.npy", pixels(dtype=">i2")), {"limit": 9}),
    "npy, columns first": lambda at: (saved(at / "x.npy", np.asfortranarray(pixels())), {}),
    "npy of 16 bits": lambda at: (saved(at / "x.npy", pixels(dtype="uint16")), {}),
    "npy of floats": lambda at: (saved(at / "x.npy", pixels(dtype="float16")), {}),
    "points": lambda at: (saved(at / "x.npy", pixels(40, (3,), "float32")), {}),
    "copies": lambda at: (np.concatenate([pixels(), pixels()[3:]]), {"duplicates": "drop"}),
    "array, sketched": lambda at: (pixels(), {"given": "sketch"}),
    "array, made small": lambda at: (pixels(), {"given": "small-2"}),
}


def tensors(data: Dataset) -> list[torch.Tensor]:
    given = [] if data.given is None else [data.given.stored]
    return [data.stored, *given, *([] if data.patches is None else [data.patches.pixels])]


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_mapped_is_what_would_be_held_to_the_last_bit(name, tmp_path, cache, monkeypatch):
    source, options = SOURCES[name](tmp_path)
    options = DataOptions(flip=True, validation=0.25, **options)
    held = open_data(source, options)
    all_held = (held, *held.split(0.25, 1))
    lowered(monkeypatch)
    mapped = open_data(source, options)
    assert mapped.codec == held.codec and mapped.fingerprint == held.fingerprint
    for one, other in zip((mapped, *mapped.split(0.25, 1)), all_held, strict=True):
        assert one.ids == other.ids
        for mine, theirs in zip(tensors(one), tensors(other), strict=True):
            assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)
            assert str(cache).strip("/") in file_of(mine)
            assert str(cache).strip("/") not in file_of(theirs)
        rows, draws = torch.arange(len(other)), draws_at(0, torch.arange(len(other)))
        (x, told), (y, known) = one.batch(rows, draws), other.batch(rows, draws)
        assert torch.equal(x, y) and x.stride() == y.stride()
        assert all(torch.equal(told[k], known[k]) for k in known | told)


def test_a_run_of_mapped_examples_is_the_same_run(tmp_path, cache, monkeypatch):
    config = RunConfig(
        data=DataOptions(flip=True),
        net=NetConfig(size=8, depth=1),
        train=TrainConfig(seen=48, batch=8, precision="f32", ema=(0.1,)),
    )
    weights = []
    for name in ("held", "mapped"):
        run = train(pixels(size=(8, 8)), out=tmp_path / name, config=config)
        checkpoint = run.latest()
        assert checkpoint is not None
        weights.append(checkpoint.load("model"))
        lowered(monkeypatch)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_memory_holds_less_than_what_is_mapped(tmp_path, cache, monkeypatch):
    def private() -> int:
        (found,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(found)

    def on_disk() -> int:
        ends = [
            [int(end, 16) for end in line.split()[0].split("-")]
            for line in Path("/proc/self/maps").read_text().splitlines()
            if str(cache) in line
        ]
        return sum(last - first for first, last in ends)

    source = saved(
        tmp_path / "x.npy", np.frombuffer(generator("x").bytes(2**25), np.uint8).reshape(-1, 64, 64)
    )
    monkeypatch.setattr(room, "PIECE", 2**20)
    monkeypatch.setattr(room, "most_held", lambda: 2**21)
    monkeypatch.setattr("ornstein.data.arrays.most_held", lambda: 2**21)
    before = private()
    data = open_data(source, DataOptions(validation=0.2))
    mapped = on_disk()
    train_, held = data.split(0.2, 0)
    for side in (train_, held, held.split(0.5, 1)[0]):
        assert isinstance(side.stored, room.Picked)
        for rows in torch.randperm(len(side)).split(64):
            side.batch(rows)
    assert 2**25 <= mapped == on_disk()
    assert private() - before < 2**24 < train_.stored.nbytes  # which a copy would hold


def test_rows_of_a_mapped_tensor_are_to_all_who_read_them_as_a_copy(cache, monkeypatch):
    base, rows = torch.from_numpy(pixels(dtype="uint16")), torch.tensor([7, 2, 11, 2, 0])
    copy = movable(base)[rows].view(torch.uint16)
    monkeypatch.setattr(room, "most_held", lambda: copy.nbytes - 1)
    seen = room.taken(base, rows)
    assert isinstance(seen, room.Picked) and seen.nbytes == copy.nbytes and len(seen) == 5
    monkeypatch.setattr(room, "packed", None)  # what follows copies no more than it asks for
    some = torch.tensor([4, 0, -1])
    for ask in (
        lambda x: movable(x)[some].view(x.dtype),
        lambda x: x[1:3],
        lambda x: x[-1],
        lambda x: movable(x)[torch.tensor([True, False, True, False, False])].view(x.dtype),
        lambda x: room.taken(x, some)[:2],
    ):
        got, want = ask(seen), ask(movable(copy).clone().view(copy.dtype))
        assert type(got) is torch.Tensor and got.dtype == want.dtype
        assert np.array_equal(got.numpy(), want.numpy())
    monkeypatch.undo()
    assert torch.equal(movable(seen) + 1, movable(copy) + 1)
    assert np.array_equal(seen.numpy(), copy.numpy()) and seen.float().mean() == copy.float().mean()


def test_nothing_is_left_of_what_was_mapped(cache, monkeypatch):
    lowered(monkeypatch)
    data = open_data(pixels())
    assert list(cache.iterdir()) == [] and len(file_of(data.stored)) > 0
    here = file_of(data.stored)
    del data
    assert here not in Path("/proc/self/maps").read_text()


def test_a_disk_without_room_is_named_with_what_is_needed(cache, monkeypatch):
    lowered(monkeypatch)
    with pytest.raises(StorageError, match=r"take 1048576.0 GiB.*cache has .* free: .*ORNSTEIN_C"):
        room.room((2**50,), np.dtype(np.uint8))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageError, match=r"cannot be kept in .*cache \(No space left on device"):
        open_data(pixels())
    assert list(cache.iterdir()) == []


def test_arrays_are_put_away_once_there_is_no_room_for_more(cache, monkeypatch):
    monkeypatch.setattr(room, "most_held", lambda: 1000)
    shelf, arrays = room.Shelf(), [pixels(1, (n, 7), "uint16") for n in (40, 30, 50, 3, 900, 2)]
    kept = [shelf.put(array) for array in arrays]
    assert [one is array for one, array in zip(kept, arrays, strict=True)] == 2 * [True] + 4 * [
        False
    ]
    assert all(np.array_equal(*both) for both in zip(kept, arrays, strict=True))
    assert len({file_of(torch.from_numpy(one.view(np.int16))) for one in kept[2:]}) == 3


def test_a_container_may_have_less_than_the_machine(tmp_path, monkeypatch):
    machine = room.memory()
    for text, most in (("max\n", machine), ("123456789\n", 123456789), ("9" * 20, machine)):
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr(room, "LIMITS", (str(tmp_path / "limit"), "/nowhere"))
        assert room.memory() == most
    (tmp_path / "limit").write_text("4000")
    assert room.most_held() == 1000


def test_examples_that_a_gpu_has_no_room_for_send_it_their_batches(monkeypatch):
    data = open_data(pixels(), DataOptions(given="sketch", flip=True))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (4 * data.stored.nbytes, 0))
    moved = data.to("cuda")  # no example goes there, so that no GPU is asked for
    assert moved.stored.device.type == "cpu" and moved.device == torch.device("cuda")
    x, cond = replace(moved, device=torch.device("meta")).batch(torch.arange(4))
    assert {x.device.type} | {value.device.type for value in cond.values()} == {"meta"}
