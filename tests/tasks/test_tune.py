"""Fitting a sampler to a run: what is kept, what is refused, and who uses it."""

from dataclasses import replace

import pytest
import torch

from ornstein.core.fit import unfitted
from ornstein.core.times import UniformGrid
from ornstein.errors import ModelFileError, StorageError, UsageError
from ornstein.runs.config import RunConfig
from ornstein.runs.fitted import keep_rule, kept_rule, kept_steps
from ornstein.runs.folder import RunFolder
from ornstein.tasks import tune as tuning
from ornstein.tasks.sample import sample
from ornstein.tasks.tune import Error, tune
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
