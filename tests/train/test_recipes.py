"""What the recipe `auto` picks, to the last field, by what the data are like and the time."""

import tomllib

import pytest
import torch

from ornstein.cli import run_command
from ornstein.cli.train import _changes
from ornstein.data import DataOptions, open_data
from ornstein.errors import Notice
from ornstein.runs.config import RunConfig
from ornstein.runs.model import load
from ornstein.train import recipe, train
from ornstein.train.recipes import points, sized

DEFAULTS = """
net.kind = "unet"
net.size = 32
net.depth = 0
net.levels = [[1, 2], [2, 2], [2, 2], [4, 2]]
net.pipeline = ""
schedule.name = "flow"
denoiser.prediction = "flow"
denoiser.weighting = "flow"
denoiser.uncertainty = false
denoiser.variance_steps = 0
times.name = "log-normal"
times.mean = 0.0
times.std = 1.0
train.epochs = 0
train.batch = 64
train.micro_batch = 0
train.memory = "plenty"
train.optimizer = "adamw"
train.learning_rate = 0.002
train.warmup = 0.02
train.decay = "cosine"
train.weight_decay = 0.0
train.clip = 1.0
train.precision = "auto"
train.condition_dropout = 0.1
train.ema = [0.05, 0.1]
train.ema_snapshots = 8
sample.sampler = "adams-bashforth"
sample.steps = 16
sample.grid = "uniform"
sample.guidance = 1.0
sample.guidance_parallel = 1.0
"""
"""Of all that decides what is trained and how, but for the budget."""

PICTURES = {"train.optimizer": "muon", "sample.grid": "early"}
POINTS = {
    "net.kind": "mlp",
    "schedule.name": "karras",
    "denoiser.prediction": "balanced",
    "denoiser.weighting": "balanced",
    "times.mean": -1.2,
    "times.std": 1.2,
    "sample.steps": 20,
    "sample.grid": "straight",
}
MANY = POINTS | {"net.size": 128, "train.batch": 256, "train.learning_rate": 3e-3}
FEW = POINTS | {
    "net.size": 48,
    "net.depth": 3,
    "train.batch": 512,
    "train.learning_rate": 6e-3,
}
TABLE = [
    ((1, 8, 8), None, "cpu", PICTURES),
    ((1, 8, 8), 2, "cpu", PICTURES | {"train.learning_rate": 4e-3}),
    ((3, 16, 16), 14, "cpu", PICTURES | {"train.learning_rate": 4e-3}),
    ((3, 16, 16), 15, "cpu", PICTURES),
    ((3, 32, 32), 2, "cpu", PICTURES | {"train.learning_rate": 4e-3, "train.batch": 32}),
    ((3, 32, 32), 60, "cpu", PICTURES | {"net.size": 64, "train.batch": 32}),
    ((3, 32, 32), 60, "cuda", PICTURES | {"net.size": 128, "train.batch": 128}),
    ((3, 32, 32), 0.5, "cuda", PICTURES | {"net.size": 128, "train.batch": 128}),
    ((1, 8, 8), None, "cuda", PICTURES | {"net.size": 64, "train.batch": 256}),
    ((2,), 60, "cpu", MANY | {"train.epochs": 1800}),
    ((4,), None, "cpu", MANY | {"train.epochs": 450}),
    ((13,), 60, "cpu", MANY | {"train.epochs": 200}),
    ((2,), 4, "cpu", FEW | {"train.epochs": 3600}),
    ((30,), 4, "cpu", FEW | {"train.epochs": 400}),
    ((30,), 4, "cuda", MANY | {"net.size": 256, "train.batch": 1024, "train.epochs": 800}),
]


def flat(config: RunConfig) -> dict[str, object]:
    """Every field of the tables that decide what is trained and how, but for the budget."""
    return flattened(tomllib.loads(config.to_toml()))


def flattened(tables: dict[str, dict[str, object]]) -> dict[str, object]:
    chosen = ("net", "schedule", "denoiser", "times", "train", "sample")
    found = {f"{table}.{k}": v for table in chosen for k, v in tables[table].items()}
    return {k: v for k, v in found.items() if k != "train.seen" and v != {}}


def test_what_no_recipe_changes_is_this():
    assert flat(RunConfig()) == flattened(tomllib.loads(DEFAULTS))


@pytest.mark.parametrize(("shape", "minutes", "device", "differs"), TABLE)
def test_auto_picks_for_data_and_time(shape, minutes, device, differs, monkeypatch):
    monkeypatch.setattr("ornstein.train.recipes.choose_device", torch.device)
    data = open_data(torch.rand(20, *shape))
    found, default = flat(recipe(data, minutes=minutes, device=device)), flat(RunConfig())
    assert found == default | differs


@pytest.mark.parametrize("minutes", [2, 60])
def test_what_is_said_of_examples_changes_nothing_in_the_recipe_but_what_was_measured(minutes):
    x = torch.rand(20, 3, 8, 8)
    plain, labelled, paired = (
        open_data(source, options)
        for source, options in (
            (x, DataOptions()),
            ((x, [0, 1] * 10), DataOptions()),
            (x, DataOptions(given="edges")),
        )
    )
    assert flat(recipe(plain, minutes=minutes)) == flat(recipe(labelled, minutes=minutes))
    assert flat(recipe(plain, minutes=minutes)) == flat(recipe(paired, minutes=minutes))


# --- How many there are --------------------------------------------------------------------------


def test_few_pictures_are_moved_and_nothing_else(monkeypatch):
    monkeypatch.setattr("ornstein.train.recipes.FEW", 12)
    few, many = (open_data(torch.rand(n, 3, 16, 16)) for n in (11, 12))
    with pytest.warns(Notice, match=r"11 pictures are few.*up to 2 pixels.*--data.shift 0"):
        assert recipe(few).data == DataOptions(shift=2)
    assert recipe(many).data == DataOptions()
    assert recipe(few, "flow-map").data.shift == 2
    assert not recipe(few, "ddpm").data.shift  # a paper's, as it is
    assert flat(recipe(few)) == flat(recipe(many))
    mirrored = open_data(torch.rand(11, 3, 16, 16), DataOptions(flip=True))
    assert recipe(mirrored).data == DataOptions(flip=True, shift=2)
    for said in (DataOptions(shift=1), DataOptions(shift=0), DataOptions(patch=5)):
        assert recipe(open_data(torch.rand(11, 3, 16, 16), said)).data == said
    paired = DataOptions(given="edges")
    assert recipe(open_data(torch.rand(11, 3, 16, 16), paired)).data == paired
    assert not recipe(open_data(torch.rand(11, 2))).data.shift
    assert not recipe(open_data(torch.rand(11, 3, 4, 4))).data.shift


def test_a_run_of_few_pictures_is_told_how_they_were_moved(tmp_path, capsys):
    x = torch.rand(20, 1, 8, 8)
    run = train(x, out=tmp_path / "run", seen=64)
    config = RunConfig.from_toml(run.config_toml)
    assert config.data.shift == 1 and load(run.path).config.data.augmentations == 2
    mine = tmp_path / "mine.toml"
    mine.write_text("[data]\nshift = 0\n")
    for tokens, shift in (["--config", str(mine)], 0), (["--data.shift", "0"], 0), ([], 1):
        assert run_command(["train", "digits", "--data.limit", "20", "--dry-run", *tokens]) == 0
        out, said = capsys.readouterr()
        assert tomllib.loads(out)["data"]["shift"] == shift
        assert ("they are moved" in said) == (shift == 1)


# --- Width ---------------------------------------------------------------------------------------


def test_a_wider_network_learns_at_a_rate_as_much_lower_and_a_narrower_one_at_the_recipes():
    data = open_data(torch.rand(20, 1, 8, 8))
    rates = {n: recipe(data, minutes=2, size=n).train.learning_rate for n in (8, 32, 64, 128)}
    assert rates == {8: 4e-3, 32: 4e-3, 64: 2e-3, 128: 1e-3}
    assert sized(points(), 512).train.learning_rate == points().train.learning_rate


def test_the_command_and_its_file_say_width_and_memory_alike(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('[net]\nsize = 64\n\n[train]\nmemory = "low"\n')
    common = ["train", "digits", "--dry-run", "--minutes", "2", "--data.limit", "20"]
    said = []
    for tokens in (
        ["--size", "64", "--memory", "low"],
        ["--config", str(tmp_path / "mine.toml")],
        ["--config", str(tmp_path / "mine.toml"), "--size", "128"],
    ):
        assert run_command([*common, *tokens]) == 0
        said.append(tomllib.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert said[0]["train"]["memory"] == "low" and said[0]["train"]["learning_rate"] == 2e-3
    assert said[2]["train"]["learning_rate"] == 1e-3 and said[2]["net"]["size"] == 128


def test_a_flag_that_is_not_given_changes_nothing():
    said = {"data": {}, "autoencoder": {}}
    flags = {"net": {"size": None}, "train": {"memory": None}, "seed": None}
    assert _changes(None, flags | said) == {}
