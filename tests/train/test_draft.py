"""What is wanted of a run is settled once its data are open, and they are opened once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ornstein as ou
from ornstein.cli import run_command
from ornstein.data import open as opening
from ornstein.data import open_data
from ornstein.errors import UsageError
from ornstein.rng import generator
from ornstein.train import Draft, recipe
from ornstein.train.start import plan

TINY = {"net": {"size": 8, "depth": 1}, "train": {"batch": 8, "precision": "f32"}}


@pytest.fixture
def source(tmp_path) -> Path:
    np.save(tmp_path / "rows.npy", generator("draft").normal(size=(20, 2)))
    return tmp_path / "rows.npy"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Of each time that data are read, which."""
    found, read = list[str](), opening._read

    def counted(source, *rest):
        found.append(str(source))
        return read(source, *rest)

    monkeypatch.setattr(opening, "_read", counted)
    return found


FLAGS = "", "--size 8", "--recipe points --size 8", "--dry-run"


@pytest.mark.parametrize("flags", FLAGS)
def test_a_command_reads_its_data_once(flags, source, reads, tmp_path, capsys):
    out, small = ["--out", str(tmp_path / "run")], ["--seen", "256", "--device", "cpu"]
    assert run_command(["train", str(source), *flags.split(), *out, *small]) == 0
    assert reads == [str(source)]
    if flags == "--size 8":
        assert run_command(["train", "--resume", str(tmp_path / "run")]) == 0
        assert len(reads) == 2


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ("", "There is nothing to train on"),
        ("DATA --minutes 1 --seen 9", "Two budgets were given"),
        ("DATA --minutes 0", "must be a positive number"),
        ("--resume", "Which run is to go on"),
    ],
)
def test_a_dry_run_refuses_what_the_training_would(flags, sentence, source, capsys):
    assert run_command(["train", *flags.replace("DATA", str(source)).split(), "--dry-run"]) == 2
    assert sentence in capsys.readouterr().err


def test_a_dry_run_prints_the_configuration_that_the_run_begins_with(source, tmp_path, capsys):
    out, flags = str(tmp_path / "run"), ["--size", "8", "--seen", "256", "--device", "cpu"]
    assert run_command(["train", str(source), *flags, "--dry-run"]) == 0
    said = ou.RunConfig.from_toml(capsys.readouterr().out)
    assert run_command(["train", str(source), *flags, "--out", out]) == 0
    begun = ou.RunConfig.from_toml((tmp_path / "run" / "config.toml").read_text())
    assert replace(begun, train=said.train) == said  # what it may take is decided by a trial
    capsys.readouterr()
    assert run_command(["train", "--resume", out, "--dry-run"]) == 0
    assert ou.RunConfig.from_toml(capsys.readouterr().out) == begun


def test_a_draft_is_the_recipe_with_its_changes(source, reads, tmp_path):
    run = ou.train(source, out=tmp_path / "run", seen=16, config=Draft(changes=TINY), device="cpu")
    made, base = ou.RunConfig.from_toml(run.config_toml), recipe(open_data(source), device="cpu")
    assert reads == [str(source)] * 2  # once by the training
    assert (made.net.size, made.train.batch, made.train.seen) == (8, 8, 16)
    assert made.train.learning_rate == recipe(open_data(source), size=8).train.learning_rate
    assert (made.schedule, made.times) == (base.schedule, base.times)


def test_what_cannot_be_is_refused_before_the_data_are_read(source, reads):
    for changes in ({"train": {"lerning_rate": 0.5}}, {"train": {"batch": -1}}):
        with pytest.raises(UsageError, match=r"^the changes.*(lerning_rate|batch)"):
            ou.train(source, seen=16, config=Draft(changes=changes))
    assert reads == []


@pytest.mark.filterwarnings("ignore:299 pictures are few")
def test_few_pictures_are_as_few_with_a_flag_as_without(tmp_path):
    pictures = generator("few").integers(0, 256, (300, 8, 8)).astype(np.uint8)
    for count, shift in ((299, 1), (300, None)):
        for wanted in (None, Draft(changes=TINY)):
            config, *sides = plan(pictures[:count], wanted, 16, None, torch.device("cpu"))
            assert {config.data.shift, *(side.options.shift for side in sides)} == {shift}
            assert sum(map(len, sides)) == count
