"""Runs that learn what the mean of another run leaves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ornstein.core.denoise import Denoiser
from ornstein.core.residual import Residual
from ornstein.data import DataOptions, open_data
from ornstein.data.given import Given
from ornstein.errors import UsageError
from ornstein.runs.config import NetConfig, RunConfig, TrainConfig
from ornstein.runs.folder import RunFolder
from ornstein.runs.model import load
from ornstein.runs.residual import around, left_by
from ornstein.tasks import merge as merging
from ornstein.tasks.export import export
from ornstein.tasks.options import SampleOptions
from ornstein.tasks.sample import stream
from ornstein.train import train
from ornstein.train.adapt import adaptation
from untrained import tiny_model


class Half(Denoiser):
    """Knows that x is half of what is given, and more that it cannot know."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.here = schedule, nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x_t, t, **cond):
        return 0.5 * cond["context"]


@pytest.fixture
def pairs():
    """Floats: made = 0.5 given + e, e ~ N(0, 0.3^2), given ~ N(0, 1); 200 to train, 40 held out."""
    draw = np.random.default_rng(0)
    given = draw.standard_normal((240, 8, 8)).astype(np.float32)
    made = 0.5 * given + 0.3 * draw.standard_normal(given.shape).astype(np.float32)
    beside, data = (open_data(a, DataOptions(given=None)) for a in (given, made))
    codecs = [replace(d.codec, mean=(0.0,), std=(1.0,)) for d in (beside, data)]
    data = replace(data, codec=codecs[1], given=Given(codec=codecs[0], stored=beside.stored))
    return data.subset(torch.arange(200)), data.subset(torch.arange(200, 240))


def mean_of(data):
    """A model that knows the regression."""
    made = tiny_model(given=(1, 8, 8))
    return replace(
        made,
        denoiser=Half(made.denoiser.schedule),
        codec=data.codec,
        given=data.given.codec,
    )


def test_what_is_left_has_the_variance_that_the_pairs_say(pairs):
    train, held = pairs
    left, others = left_by(mean_of(train), train, held)
    truth = train.stored - 0.5 * train.given.stored
    torch.testing.assert_close(left.stored, truth)
    scale = left.codec.std[0]
    assert scale == pytest.approx(0.3, rel=0.03)
    assert scale == pytest.approx(others.stored.square().mean().sqrt().item())
    x, cond = left.batch(torch.arange(50))
    torch.testing.assert_close(x, truth[:50] / scale)
    torch.testing.assert_close(cond["context"], train.given.stored[:50])
    assert left.fingerprint == train.fingerprint


def test_what_is_left_of_bytes_is_not_rounded_to_bytes(pairs):
    train, held = pairs
    bytes_ = [replace(d, stored=(32 * d.stored + 128).to(torch.uint8)) for d in (train, held)]
    codec = replace(train.codec, dtype="uint8", mean=(128.0,), std=(32.0,))
    coarse = [replace(d, codec=codec) for d in bytes_]
    left, _ = left_by(mean_of(coarse[0]), *coarse)
    truth = codec.pack(coarse[0].stored) - 0.5 * train.given.stored
    torch.testing.assert_close(left.stored, truth)


def test_a_mean_of_other_pairs_or_varied_ones_is_refused(pairs):
    train, held = pairs
    with pytest.raises(UsageError, match=r"makes \(1, 8, 8\) of nothing given, but is to make"):
        left_by(tiny_model(), train, held)
    with pytest.raises(UsageError, match=r"makes \(1, 4, 4\) of pictures, but is to make"):
        left_by(tiny_model(shape=(1, 4, 4), given=(1, 4, 4)), train, held)
    varied = replace(train, options=DataOptions(flip=True))
    with pytest.raises(UsageError, match="pairs that are not varied"):
        left_by(mean_of(train), varied, held)


def test_what_takes_one_network_refuses_two(tmp_path, monkeypatch):
    rest = tiny_model(given=(1, 8, 8))
    run = RunFolder.create(tmp_path / "run", config_toml=rest.config.to_toml(), identity={})
    config = replace(rest.config, mean="elsewhere")
    model = replace(around(tiny_model(given=(1, 8, 8)), rest), run=run, config=config)
    with pytest.raises(UsageError, match="without --mean to export"):
        export(model, to="diffusers")
    with pytest.raises(UsageError, match="go on from a run without"):
        adaptation(model)
    monkeypatch.setattr(merging, "load", lambda run, adapters: model)
    with pytest.raises(UsageError, match="nothing to merge"):
        merging.merge(run.path, out=tmp_path / "merged")


@pytest.mark.slow
def test_a_run_adds_its_mean_to_what_it_draws_and_goes_on_where_it_stopped(tmp_path):
    options = DataOptions(given="small-4", limit=200)
    config = RunConfig(
        source="digits", data=options, net=NetConfig(size=8), train=TrainConfig(seen=128, batch=32)
    )
    mean = train("digits", out=tmp_path / "mean", config=config)
    both = replace(config, mean=str(mean.path))
    run = train("digits", out=tmp_path / "both", config=both)
    train(out=run.path, resume=True)  # reads what is left anew, and finds nothing to do
    model, first = load(run.path), load(mean.path)
    assert isinstance(model.denoiser, Residual) and model.codec == first.codec
    assert model.denoiser.scale == pytest.approx(run.identity["codec"]["std"][0])
    context = torch.randn(3, 1, 8, 8)
    (drawn,) = stream(model, SampleOptions(count=3, steps=4), context=lambda i: context[list(i)])
    assert drawn.arrays.shape == (3, 8, 8, 1) and drawn.arrays.dtype == np.uint8
