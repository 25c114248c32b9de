"""Autoguidance by one option: what the run was early in its training is the weak model."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ornstein.core.guide import Autoguidance, ClassifierFree
from ornstein.errors import UsageError
from ornstein.runs.model import load
from ornstein.runs.quick import Quick, early, rewired
from ornstein.tasks.asking import guided
from ornstein.tasks.options import SampleOptions
from ornstein.tasks.sample import sample
from ornstein.train.draft import Draft
from ornstein.train.start import train
from untrained import tiny_model

TIMES = torch.tensor(0.6, dtype=torch.float64)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    run = tmp_path_factory.mktemp("autoguidance") / "run"
    train("digits", seen=1024, config=Draft(changes={"net": {"size": 8, "depth": 1}}), out=run)
    return load(run)


def test_the_weak_model_is_the_first_average_that_was_kept(model):
    weak = early(model)
    assert weak.seen == min(int(name.split("-")[2]) for name in kept(model))
    assert weak.seen < model.seen
    kept_then = model.run.kept(f"ema-0-{weak.seen}")
    assert all(
        torch.equal(value, kept_then[name]) for name, value in weak.denoiser.state_dict().items()
    )


def kept(model):
    return [name for name in model.run.kept_names() if name.startswith("ema-")]


def test_with_a_label_it_is_added_to_guidance_once(model):
    """``u + w (c - u) + (v - 1) (c - weak)``, in the units of both weights."""
    x_t = torch.randn(2, *model.shape)
    label = torch.tensor([3, 3])
    options = SampleOptions(label=("3",), guidance=3.0, autoguidance=2.5)
    net, weak = model.denoiser, early(model).denoiser
    c, u, w = net(x_t, TIMES, label=label), net(x_t, TIMES), weak(x_t, TIMES, label=label)
    expected = u + 3 * (c - u) + 1.5 * (c - w)
    assert_close(guided(model, options)(x_t, TIMES, label=label), expected, rtol=1e-4, atol=1e-5)


def test_without_conditions_it_stands_alone_and_a_weight_of_one_is_none(model):
    rule = guided(model, SampleOptions(autoguidance=2.0))
    assert isinstance(rule, Autoguidance)
    assert rule.weight == 2
    assert guided(model, SampleOptions()) is model.denoiser
    assert isinstance(guided(model, SampleOptions(label=("3",), guidance=2.0)), ClassifierFree)
    drawn = [sample(model, 2, autoguidance=weight).x for weight in (1.0, 1.0001, 2.0)]
    assert_close(drawn[0], drawn[1], rtol=0, atol=0.05)
    assert not torch.allclose(drawn[0], drawn[2], atol=0.05)


def test_it_acts_between_the_bounds_of_guidance(model):
    nowhere = sample(model, 2, autoguidance=3.0, guidance_interval=(50.0, 51.0)).x
    assert torch.equal(nowhere, sample(model, 2).x)


def test_the_weak_model_is_as_quick(model):
    weak = early(rewired(model, bf16=True, compiler=None))
    assert isinstance(weak.denoiser.net, Quick)
    assert weak.denoiser.net.bf16
    assert not isinstance(early(model).denoiser.net, Quick)


def test_what_has_no_early_average_says_so(model):
    with pytest.raises(UsageError, match="early in its training"):
        sample(tiny_model(), 1, autoguidance=2.0)
    with pytest.raises(UsageError, match="no average from before 8 examples"):
        early(replace(model, seen=8))
    adapt = replace(model.config.adapt, base="elsewhere", learn="low-rank")
    with pytest.raises(UsageError, match="or an adapter"):
        early(replace(model, config=replace(model.config, adapt=adapt)))
    with pytest.raises(UsageError, match=r"does not go with a guidance of 0"):
        sample(model, 1, "3", guidance=0.0, autoguidance=2.0)
    with pytest.raises(UsageError, match="autoguidance"):
        sample(model, 1, autoguidance=0.5)
    distill = replace(model.config.distill, guidance=(1.0, 4.0))
    student = replace(model, config=replace(model.config, distill=distill))
    with pytest.raises(UsageError, match="has learned its guidance"):
        guided(student, SampleOptions(autoguidance=2.0))
