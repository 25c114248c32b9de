"""Runs of pairs: what they are given, and runs in a row."""

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein.data.given import fitted
from ornstein.errors import UsageError
from ornstein.tasks.options import SampleOptions
from ornstein.tasks.sample import cascade, sample, stream
from untrained import CLASSES, tiny_model

BASE = tiny_model(shape=(1, 4, 4))
FINE = tiny_model(shape=(1, 8, 8), given=(1, 4, 4), given_noise=0.5)
FINER = tiny_model(shape=(1, 12, 12), given=(1, 8, 8))


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of 4 x 4, dark and bright."""
    for name, value in (("a", 0), ("b", 255)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_what_is_given_is_dealt_out_in_turn_and_counts(pictures):
    both = sample(FINE, 4, given=pictures).x
    dark = sample(FINE, 4, given=[pictures / "a.png"]).x
    bright = sample(FINE, 4, given=pictures / "b.png").x
    assert torch.equal(both[0::2], dark[0::2]) and torch.equal(both[1::2], bright[1::2])
    assert not torch.equal(dark, bright)
    assert not torch.equal(dark, sample(FINE, 4).x)


def test_a_cascade_gives_to_each_run_what_the_one_before_drew():
    options = SampleOptions(count=70, label=CLASSES)
    drawn = torch.cat([part.x for part in cascade([BASE, FINE], options)])
    low = sample(BASE, 70, CLASSES)
    told = fitted(FINE.given.pack(torch.from_numpy(low.codec.stored(low.x))), (8, 8))
    [*parts] = cascade([BASE, FINE], SampleOptions(examples="66-67", label=CLASSES))
    assert torch.equal(torch.cat([p.x for p in parts]), drawn[66:68])
    assert parts[0].first == 66
    changed = told.clone()
    changed[3] += 1

    def again(context):
        given = SampleOptions(count=70, label=CLASSES, seed=5)
        return next(stream(FINE, given, context=lambda i: context[torch.tensor(i)])).x

    differ = (again(told) != again(changed)).flatten(1).any(1)
    assert differ.nonzero().flatten().tolist() == [3]


def test_a_cascade_may_be_longer_and_each_run_draws_noise_of_its_own():
    [part] = cascade([BASE, FINE, FINER], SampleOptions(count=2))
    assert part.x.shape == (2, 1, 12, 12)
    same = tiny_model(shape=(1, 8, 8), given=(1, 8, 8))
    alone = sample(tiny_model(), 2, steps=1, sampler="euler").x
    [part] = cascade([tiny_model(), same], SampleOptions(count=2, steps=1, sampler="euler"))
    assert not torch.equal(part.x, alone)


def test_python_takes_a_list_of_runs():
    drawn = sample([BASE, FINE], 3, label="bee", attributes={"age": 30.0})
    assert drawn.x.shape == (3, 1, 8, 8) and drawn.labels == ("bee",) * 3


def test_noise_in_what_is_given_is_told_and_belongs_to_the_example():
    options = {"given_noise": 0.4, "label": "ant"}
    whole = sample([BASE, FINE], 6, **options).x
    assert torch.equal(whole[4:], sample([BASE, FINE], examples="4-5", **options).x)
    assert not torch.equal(whole, sample([BASE, FINE], 6, label="ant").x)


@pytest.mark.parametrize(
    ("runs", "options", "words"),
    [
        ([BASE, BASE], {}, "not trained on pairs"),
        ([FINE, FINE], {}, r"draws \(1, 8, 8\) of uint8, but .* is given \(1, 4, 4\)"),
        ([BASE], {"given": "x.png"}, "not trained on pairs"),
        ([tiny_model(), FINER], {"given_noise": 0.1}, "not trained with noise"),
    ],
)
def test_what_does_not_chain_is_refused(runs, options, words):
    with pytest.raises(UsageError, match=words):
        sample(runs, 2, **options)


def test_thresholding_keeps_estimates_in_the_range_of_the_data():
    model = tiny_model()
    low, high = model.codec.range
    wild = sample(model, 8, "bee", guidance=50, steps=2, sampler="euler").x
    tame = sample(model, 8, "bee", guidance=50, steps=2, sampler="euler", threshold=0.99).x
    assert wild.min() < low.min() and wild.max() > high.max()
    assert low.min() - 1e-5 <= tame.min() and tame.max() <= high.max() + 1e-5
    with pytest.raises(UsageError, match="range is known"):
        sample(tiny_model("mlp"), 2, threshold=0.9)
