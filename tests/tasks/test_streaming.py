"""Any number of examples: what a first picture waits for, and memory that does not grow."""

import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path

import pytest

from ornstein.cli.sample import MOST_PATHS, Written
from ornstein.tasks.options import SampleOptions
from ornstein.tasks.sample import cascade
from untrained import tiny_model

TESTS = Path(__file__).parents[1]
UNNEEDED = ("scipy", "sklearn", "matplotlib", "pandas", "sympy", "rich", "tifffile", "triton")
UNNEEDED += ("torch._dynamo", "torch._inductor", "torchvision", "tensorboard", "polars")


def test_a_first_picture_loads_nothing_it_does_not_need(tmp_path):
    code = """
import sys
from untrained import tiny_model
from ornstein.cli.sample import Written
from ornstein.tasks.sample import sample
sample(tiny_model(), 1).save(sys.argv[1])
print(*sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TESTS)
    assert not set(done.stdout.split()) & set(UNNEEDED)
    assert (tmp_path / "000000.png").exists()


def peak(count: int, folder: Path) -> int:
    """Bytes of Python and numpy in use at most, while so many points are written."""
    model, written = tiny_model("mlp", steps=1), Written(count)
    parts = list[weakref.ref]()
    tracemalloc.start()
    for part in cascade([model], SampleOptions(count=count)):
        written.add(part.save(folder), part.first, len(part))
        parts.append(weakref.ref(part))
        assert sum(ref() is not None for ref in parts) <= 2
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written.done == count and written.files == len(list(folder.iterdir()))
    return found


def test_memory_does_not_grow_with_the_number_of_examples(tmp_path, monkeypatch):
    monkeypatch.setattr("ornstein.tasks.sample.CHUNK", 2**10)
    peak(512, tmp_path / "first")  # what is loaded once
    few, many = peak(1024, tmp_path / "few"), peak(8192, tmp_path / "many")
    assert many < 1.2 * few


def test_of_many_paths_the_first_and_the_last_are_remembered():
    written = Written(5000)
    for i in range(5000):
        written.add([Path(f"{i}.png")], i, 1)
    assert len(written.paths) == MOST_PATHS
    assert [str(line) for line in written.lines()] == ["0.png", "... 4,998 more", "4999.png"]


def test_what_is_left_after_a_stop_is_named(capsys):
    with pytest.raises(KeyboardInterrupt), Written(100) as written:
        written.add([Path("a.csv")], 8, 30)
        raise KeyboardInterrupt
    assert "--examples 38-107" in capsys.readouterr().err
