"""`train`: what it refuses, what it writes, and how a budget becomes a number of examples."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ornstein.train
from ornstein.data import DataOptions, open_data
from ornstein.data.captions import Captions
from ornstein.errors import DataError, Notice, StorageError, UsageError
from ornstein.runs.config import NetConfig, RunConfig
from ornstein.runs.folder import RunFolder
from ornstein.train import budget
from ornstein.train.device import World, using_threads
from ornstein.train.loop import milestones
from ornstein.train.progress import Progress
from ornstein.train.recipes import RECIPES, recipe
from ornstein.train.start import begin, free_place, train
from ornstein.train.training import Training
from train.tiny import Looks, points, tiny_config


def rows(folder: RunFolder) -> list[dict]:
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[RunFolder, list[Progress]]:
    heard: list[Progress] = []
    out = tmp_path_factory.mktemp("train") / "a run"
    return train("swiss-roll", out=out, config=tiny_config(), report=heard.append), heard


def test_a_run_holds_a_checkpoint_at_its_budget(finished):
    folder, heard = finished
    latest = folder.latest()
    assert latest is not None and latest.seen == 640
    assert set(latest.load("ema-0")) == set(latest.load("model"))
    assert heard[-1].event == "finished" and heard[-1].seen == heard[-1].budget == 640
    assert "checkpoint" in {p.event for p in heard}


def test_the_log_has_every_loss_and_no_clock(finished):
    log = rows(finished[0])
    assert [r["seen"] for r in log] == [32 * n for n in range(1, 21)]
    assert all(np.isfinite(r["train/loss"]) and np.isfinite(r["val/loss"]) for r in log)
    assert len({r["train/order"] for r in log}) == 20
    assert [r["seen"] for r in log if "doctor/kind" in r] == [
        640
    ]  # so short, it is all he may cost
    assert not any("second" in key or "time" in key for r in log for key in r)


def test_previews_are_made_on_the_way(finished):
    names = sorted(p.name for p in (finished[0].path / "samples").iterdir())
    assert len(names) == 8 and "preview-640.png" in names


def test_the_configuration_that_is_written_says_all(finished):
    config = RunConfig.from_toml(finished[0].config_toml)
    assert config == replace(tiny_config(), source="swiss-roll")


def test_a_finished_run_that_is_resumed_stays_as_it_is(finished):
    folder, _ = finished
    before = (folder.path / "metrics.jsonl").read_text()
    assert train(out=folder.path, resume=True).latest().seen == 640
    assert (folder.path / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "digits"}, "How long to train"),
        ({"source": "digits", "minutes": 1, "seen": 5}, "Two budgets"),
        ({"source": "digits", "minutes": -1}, "must be a positive"),
        ({"source": "digits", "minutes": float("nan")}, "must be a positive"),
        ({"source": "digits", "seen": 0}, "must be 1 or more"),
        ({"seen": 5}, "nothing to train on"),
        ({"resume": True}, "Which run"),
        ({"resume": True, "out": "x", "minutes": 3}, "keeps its budget"),
        ({"source": "digits", "seen": 5, "device": "warp"}, "no device 'warp'"),
    ],
)
def test_contradictions_are_named_before_any_work(arguments, message):
    with pytest.raises(UsageError, match=message):
        train(**arguments)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_examples_train_to_the_end(tmp_path, count):
    heard: list[Progress] = []
    values = np.random.default_rng(0).random((count, 2))
    folder = train(values, out=tmp_path / "r", seen=100, report=heard.append)
    assert folder.latest().seen == 256  # a whole batch
    assert ("one example is all there is to learn" in str(heard[-1])) == (
        count < 3
    )  # of two, one is held out


def test_no_examples_at_all_are_refused(tmp_path):
    with pytest.raises(DataError):
        train(np.zeros((0, 2)), out=tmp_path / "run", seen=100)
    assert not (tmp_path / "run").exists()


def csv(path: Path, shift: float, columns: int = 2) -> Path:
    values = np.random.default_rng(0).random((50, columns)) + shift
    path.write_text("\n".join(",".join(f"{v:.6f}" for v in row) for row in values))
    return path


def test_data_that_changed_are_refused_unless_allowed(tmp_path):
    data, out = csv(tmp_path / "a.csv", 0.0), tmp_path / "run"
    config = replace(tiny_config(), data=DataOptions())

    assert train(data, out=out, config=config, stop=Looks(4)).latest().seen < 640
    csv(data, 0.5)
    with pytest.raises(DataError, match="--allow-data-change"):
        train(out=out, resume=True)
    codec = RunFolder.open(out).identity["codec"]
    folder = train(out=out, resume=True, allow_data_change=True)
    assert folder.latest().seen == 640 and folder.identity["codec"] == codec
    csv(data, 0.0, columns=3)
    with pytest.raises(DataError, match="another shape"):
        train(out=out, resume=True, allow_data_change=True)


@pytest.mark.parametrize(
    ("parts", "message"),
    [(("model", "ema-0"), "has no checkpoint that verifies"), (("model",), "push it again with")],
)
def test_a_run_whose_checkpoints_are_lost_does_not_begin_anew(finished, tmp_path, parts, message):
    """Damaged, or, as where a run was pulled, there in part."""
    folder = RunFolder.open(shutil.copytree(finished[0].path, tmp_path / "run"))
    for part in parts:
        for path in folder.path.glob(f"checkpoints/*/{part}.safetensors"):
            path.unlink()
    log = folder.metrics_path.read_text()
    with pytest.raises(StorageError, match=message):
        train(out=folder.path, resume=True)
    assert folder.saved() == finished[0].saved() and folder.metrics_path.read_text() == log


def test_a_run_without_any_checkpoint_begins_at_its_start(finished, tmp_path):
    folder = RunFolder.open(shutil.copytree(finished[0].path, tmp_path / "run"))
    shutil.rmtree(folder.path / "checkpoints")
    folder.metrics_path.unlink()
    train(out=folder.path, resume=True)
    assert folder.metrics_path.read_text() == finished[0].metrics_path.read_text()


def test_a_run_in_little_memory_begins_where_its_data_are(tmp_path):
    """On a device that is not the CPU: here one that computes nothing."""
    device = torch.device("meta")
    config = replace(tiny_config(memory="low"), net=NetConfig(kind="unet", size=8, depth=1))
    data = open_data("digits", DataOptions(limit=20)).to(device)
    folder, _ = begin(tmp_path / "run", config, data, data, device, World(), threads=1)
    assert folder.identity["parameters"] > 0


def test_the_package_can_be_called():
    with pytest.raises(UsageError, match="How long to train"):
        ornstein.train("digits")  # type: ignore[operator]


def test_run_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert free_place("/data/cats.zip") == Path("runs/cats-1")
    (tmp_path / "runs" / "cats-1").mkdir(parents=True)
    assert free_place("/data/cats.zip") == Path("runs/cats-2")


@pytest.mark.parametrize("count", [1, 8, 200])
def test_milestones_end_with_the_budget_and_are_whole_batches(count):
    config = tiny_config(seen=32 * 50).train
    found = milestones(config, count)
    assert max(found) == 32 * 50 and len(found) == min(count, 50)
    assert all(seen % 32 == 0 and seen > 0 for seen in found)


def test_the_card_of_a_finished_run_has_its_last_losses(tmp_path):
    run = train("swiss-roll", config=tiny_config(seen=640), out=tmp_path / "run")
    last = [row for row in run.logged() if "train/loss" in row][-1]
    assert f"| Training loss | {last['train/loss']:.4g} |" in (run.path / "README.md").read_text()


# --- Minutes


@pytest.mark.parametrize(
    ("paces", "precision"),
    [({"f32": 0.5, "bf16": 1.0}, "f32"), ({"f32": 1.0, "bf16": 0.5}, "bf16")],
)
def test_minutes_become_examples_at_the_faster_precision(monkeypatch, paces, precision):
    monkeypatch.setattr(budget, "has_bf16", lambda device: True)
    monkeypatch.setattr(budget, "time_of_update", lambda c, p, *_: paces[p])
    data = open_data(torch.rand(10, 1, 4, 4))
    config = recipe(data)
    got, threads = budget.settle(
        config, data, device=torch.device("cpu"), world=World(), seconds=1000.0
    )
    assert got.train.precision == precision and threads == 1
    assert got.train.seen / got.train.batch == pytest.approx(1000 * (1 - 0.06) / 0.5, rel=0.01)
    assert got.train.seen % got.train.batch == 0


def test_few_rows_end_a_training_before_its_time(monkeypatch):
    """50 rows a hundred times, on batches of 32, are 156 updates: here of 1 second each."""
    monkeypatch.setattr(budget, "time_of_update", lambda *_: 1.0)
    config, data = tiny_config(epochs=100, seen=3200), points(50)

    def seen(seconds: float | None) -> int:
        place = torch.device("cpu")
        settled = budget.settle(
            config, data, device=place, world=World(), seconds=seconds, clock=lambda: 0.0
        )
        return settled[0].train.seen

    with pytest.warns(Notice, match=r"50 examples are few for so much time.*was seen 99 times"):
        assert seen(1000.0) == 32 * 156
    assert seen(3.0) == 32 * 2
    assert seen(None) == 3200
    with pytest.warns(Notice, match="few for so much time"):
        config = tiny_config(epochs=2)
        assert seen(1000.0) == 32 * budget.FEWEST


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3.0, "Finding out how fast this machine trains took all of the 3 seconds: one batch is"),
        (-1.0, "Reading the data took all of the time: one batch is"),
    ],
)
def test_who_has_no_minutes_left_to_train_in_is_told(monkeypatch, seconds, said):
    monkeypatch.setattr(budget, "time_of_update", lambda *_: 1.0)
    with pytest.warns(Notice, match=said):
        got, _ = budget.settle(
            tiny_config(),
            points(),
            device=torch.device("cpu"),
            world=World(),
            seconds=seconds,
            clock=iter((0.0, 9.0)).__next__,
        )
    assert got.train.seen == got.train.batch


def test_points_keep_their_digits(monkeypatch):
    monkeypatch.setattr(budget, "has_bf16", lambda device: True)
    config = tiny_config(precision="auto", seen=100)
    got, _ = budget.settle(
        config, points(), device=torch.device("cpu"), world=World(), seconds=None
    )
    assert got.train.precision == "f32" and got.train.seen == 128


@pytest.mark.parametrize(("alone", "threads"), [(0.1, 1), (2.0, 2)])
def test_busy_cores_are_left_to_others(monkeypatch, alone, threads):
    monkeypatch.setattr(
        budget, "time_of_update", lambda *_: alone if torch.get_num_threads() == 1 else 1.0
    )
    with using_threads(2):
        got, chosen = budget.settle(
            tiny_config(), points(), device=torch.device("cpu"), world=World(), seconds=100.0
        )
    assert chosen == threads and torch.get_num_threads() == 1
    assert got.train.seen / 32 == pytest.approx(94 / min(alone, 1.0), rel=0.02)


def test_a_trial_leaves_no_trace(monkeypatch):
    made = []
    monkeypatch.setattr(
        budget, "Training", lambda *a, **k: made.append(Training(*a, **k)) or made[0]
    )
    torch.manual_seed(0)
    state = torch.get_rng_state()
    config = tiny_config()
    pace = budget.time_of_update(config, "f32", points(), torch.device("cpu"), World(), 0.01)
    assert pace > 0 and made[0].seen >= 2 * 32
    assert torch.equal(torch.get_rng_state(), state)
    assert Training(config, points()).seen == 0


@pytest.mark.parametrize(("seconds", "updates"), [(0.001, 10), (0.0024, 5), (0.004, 4), (1.0, 2)])
def test_a_trial_of_long_updates_is_short(seconds, updates, monkeypatch):
    made = list[int]()
    monkeypatch.setattr(budget.Training, "update", lambda _: made.append(1))
    pace = budget.time_of_update(
        tiny_config(),
        "f32",
        points(),
        torch.device("cpu"),
        World(),
        0.01,
        lambda: seconds * len(made),
    )
    assert pace == pytest.approx(seconds)
    assert len(made) == updates


# --- Recipes


@pytest.mark.parametrize("name", ["auto", *RECIPES])
@pytest.mark.parametrize("kind", ["points", "pictures"])
def test_every_recipe_trains(name, kind):
    data = points() if kind == "points" else open_data(torch.rand(20, 3, 8, 8))
    if (kind == "points") != (name in ("points", "ddpm-swiss-roll")) and name != "auto":
        return  # a recipe of a paper is for the data of the paper
    if name == "contrastive":
        data = replace(data, captions=Captions.of([["dark"], ["light"]] * 10))
    config = recipe(data, name, minutes=1)
    small = replace(config.net, size=8, depth=1)
    train_ = replace(config.train, precision="f32", batch=8)
    training = Training(replace(config, net=small, train=train_), data)
    training.update()
    assert training.tally.updates == 1
    assert RunConfig.from_toml(config.to_toml()) == config


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(UsageError, match="ddpm-swiss-roll"):
        recipe(points(), "magic")


def test_ddpm_at_a_thousand_steps_is_the_papers_and_at_forty_ends_in_noise():
    from ornstein.runs.building import build_schedule

    options = RECIPES["ddpm"]().schedule.options
    assert options == {"steps": 1000, "beta_first": pytest.approx(1e-4), "beta_last": 0.02}
    for name in ("ddpm", "ddpm-digits", "ddpm-swiss-roll"):
        alpha, _ = build_schedule(RECIPES[name]().schedule)(torch.ones(()).double())
        assert alpha**2 < 1e-4


# --- Progress


def test_progress_reads_as_a_line():
    line = str(
        Progress(seen=500, budget=1000, loss=0.51234, examples_per_s=1234.5, seconds_left=65)
    )
    assert line == " 50%  500 of 1,000 examples  loss 0.5123  1,234/s  1 min 05 s left"
