"""Fitting a sampler to a run: what is kept, what is refused, and who uses it."""

from dataclasses import replace

import pytest
import torch

from ornstein.core.fit import unfitted
from ornstein.core.times import UniformGrid
from ornstein.data import DataOptions, open_data
from ornstein.data.embedded import Embedded
from ornstein.data.image import ImageCodec
from ornstein.errors import ModelFileError, StorageError, UsageError
from ornstein.runs.config import NetConfig, RunConfig, TrainConfig
from ornstein.runs.fitted import keep_rule, kept_rule, kept_steps
from ornstein.runs.folder import RunFolder
from ornstein.runs.model import load
from ornstein.tasks import tune as tuning
from ornstein.tasks.options import TuneOptions
from ornstein.tasks.sample import sample
from ornstein.tasks.tune import Error, tune
from ornstein.train import train
from untrained import CLASSES, tiny_model


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", config_toml=RunConfig().to_toml(), identity={})


@pytest.fixture
def model(run):
    return replace(tiny_model("mlp"), run=run, seen=7)


def rule_of(model, steps=3):
    schedule = model.denoiser.schedule
    return unfitted(schedule, UniformGrid(power=2.0)(schedule, steps))


def test_a_rule_is_kept_whole_for_the_weights_it_was_fitted_to(run, model):
    rule = rule_of(model, 5)
    keep_rule(run, 7, rule)
    assert kept_rule(run, 7, 5) == rule
    assert kept_rule(run, 8, 5) is None
    assert kept_rule(run, 7, 4) is None
    assert kept_steps(run) == [5]


def test_the_model_card_tells_of_the_rules_that_were_fitted(run, model):
    run.write_card()
    assert "fitted" not in (run.path / "README.md").read_text()
    for steps in (8, 3):
        keep_rule(run, 7, rule_of(model, steps))
    assert "| Steps that a sampler was fitted to | 3, 8 |" in (run.path / "README.md").read_text()


def test_a_rule_that_was_tampered_with_is_refused(run, model):
    keep_rule(run, 7, rule_of(model))
    path = next((run.path / "kept" / "rule-3").glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises((ModelFileError, StorageError)):
        kept_rule(run, 7, 3)


def test_a_kept_rule_is_used_for_its_number_of_steps_alone(run, model):
    before = {n: sample(model, 3, steps=n).x for n in (3, 4)}
    keep_rule(run, 7, rule_of(model))
    assert not torch.equal(sample(model, 3, steps=3).x, before[3])
    assert torch.equal(sample(model, 3, steps=4).x, before[4])
    assert torch.equal(sample(model, 3, steps=3, time_grid="fitted").x, sample(model, 3, steps=3).x)
    assert torch.equal(sample(model, 3, steps=3, time_grid="uniform").x, before[3])
    assert torch.equal(sample(replace(model, seen=8), 3, steps=3).x, before[3])


@pytest.mark.parametrize("other", [{"adapters": (("id", 1.0),)}, {"sigma_rel": 0.2}])
def test_a_rule_is_neither_used_nor_fitted_where_the_weights_are_others(run, model, other):
    before = sample(model, 3, steps=3).x
    keep_rule(run, 7, rule_of(model))
    changed = replace(model, **other)
    assert torch.equal(sample(changed, 3, steps=3).x, before)
    with pytest.raises(UsageError, match="Nothing of 3 steps was fitted"):
        sample(changed, 3, steps=3, time_grid="fitted")
    with pytest.raises(UsageError, match="belongs to the weights"):
        tune(changed, 3, examples=64, steps=16)
    assert kept_rule(run, 7, 3) == rule_of(model)


def test_a_fitted_grid_that_is_not_there_is_named_with_its_remedy(model):
    with pytest.raises(UsageError, match="ornstein tune RUN --calls 3"):
        sample(model, 2, steps=3, time_grid="fitted")


def test_tuning_comes_nearer_to_many_steps_and_is_kept(run, model):
    tuned = tune(model, 4, examples=128, rounds=4, steps=32)
    assert tuned.kept and kept_rule(run, 7, 4) == tuned.rule
    assert tuned.fitted.value < tuned.fixed[tuned.best].value
    assert any("nearer than" in line for line in tuned.lines())
    assert len(sample(model, 2, CLASSES, steps=4)) == 2


def test_what_is_no_better_is_not_kept(run, model, monkeypatch):
    monkeypatch.setattr(tuning, "fit", lambda *_: rule_of(model, 4))
    tuned = tune(model, 4, examples=64, steps=16)
    assert not tuned.kept and kept_steps(run) == []
    assert "Not kept" in tuned.lines()[-1]


def test_a_solution_that_draws_noise_is_refused(model):
    with pytest.raises(UsageError, match="draws noise"):
        tune(model, 4, sampler="ddpm", examples=2)


def test_an_error_comes_with_its_standard_error():
    target, off = (
        torch.zeros(400, 3),
        torch.randn(400, 3, generator=torch.Generator().manual_seed(0)),
    )
    error = Error.of(off, target)
    assert error.value == pytest.approx(1, abs=0.06)
    assert error.spread == pytest.approx(1 / (2 * 600) ** 0.5, rel=0.2)
    assert Error.of(target, target).value == 0


# --- What a run is told beside the noise ---------------------------------------------------------


def contexts(monkeypatch) -> list[torch.Tensor]:
    """What the denoiser of a run of pairs is given, each time that conditions are made."""
    seen, make = [], tuning.conditions

    def conditions(*args):
        told = make(*args)
        seen.append(told["context"])
        return told

    monkeypatch.setattr(tuning, "conditions", conditions)
    return seen


def test_a_run_of_pairs_is_fitted_to_what_its_held_out_examples_are_given(tmp_path, monkeypatch):
    config = RunConfig(
        source="digits",
        data=DataOptions(limit=20, given="small-4", validation=0.3),
        net=NetConfig(size=8, depth=1),
        train=TrainConfig(seen=16, batch=8, precision="f32", ema=(0.1,)),
    )
    run, seen = train("digits", out=tmp_path / "run", config=config), contexts(monkeypatch)
    model = load(run.path)
    tune(model, 2, examples=64, steps=4, rounds=1)
    held = open_data("digits", config.data).split(0.3, 0)[1]
    assert held.given is not None
    known = held.given.context(torch.arange(len(held)), (8, 8))
    fit, judge = seen[0], seen[1]
    assert torch.equal(fit, known[torch.arange(64) % len(held)])
    assert torch.equal(judge, known[torch.arange(64, 128) % len(held)])

    # or to the pictures that are named
    picture = tmp_path / "one.png"
    assert isinstance(model.given, ImageCodec)
    picture.write_bytes(model.given.encode(held.given.stored[3].numpy()[0][..., None]))
    tune(model, 2, examples=64, given=(str(picture),), steps=4, rounds=1)
    assert torch.equal(seen[-1], known[3:4].expand(64, -1, -1, -1))


def test_a_run_of_pairs_without_its_data_asks_what_it_is_to_be_given():
    model = tiny_model(given=(1, 4, 4))
    with pytest.raises(UsageError, match="--given PICTURES"):
        tune(replace(model, config=replace(model.config, source="array")), 2, steps=4)


def test_a_decoder_is_fitted_to_the_embeddings_of_its_pictures(monkeypatch):
    heard = torch.arange(6.0).view(3, 2)
    told = Embedded(values=heard, count=torch.ones(3, dtype=torch.int64))
    data = replace(open_data(torch.zeros(3, 2).numpy()), embedded=told)
    monkeypatch.setattr(tuning, "training_data", lambda model: (data, data))
    model = replace(tiny_model("mlp"), encoder=object())
    context, hear = tuning._told_beside(model, TuneOptions())
    assert context is None and hear is not None
    assert torch.equal(hear([4, 2]), heard[[1, 2]])
    assert tuning._told_beside(model, TuneOptions(text=("a 7",))) == (None, None)
