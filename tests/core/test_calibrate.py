"""Calibration: what makes probabilities true, and how far they are from it."""

import numpy as np
import pytest
import torch

from ornstein.core.calibrate import LevelWeights, calibration_error, fit_weights
from ornstein.rng import generator
from truths import normal


def lengths_and_labels(weights: list[float], count: int = 4000, seed: int = 0):
    """Code lengths of 4 classes, and classes that were drawn from the posterior they give."""
    draw = generator("lengths", seed)
    lengths = torch.from_numpy(draw.gamma(2.0, 4.0, (count, 4, len(weights))))
    p = LevelWeights(torch.tensor(weights).double())(lengths).numpy()
    label = (draw.random((count, 1)) > p.cumsum(1)[:, :3]).sum(1)
    return lengths, torch.from_numpy(label)


@pytest.mark.slow
def test_the_weights_that_made_the_labels_are_found():
    weights = [0.1, 0.4, 0.02]
    found = fit_weights(*lengths_and_labels(weights)).weights
    assert found.numpy() == pytest.approx(weights, rel=0.15, abs=0.01)


def test_calibration_mends_what_is_too_sure_and_keeps_what_is_right():
    lengths, label = lengths_and_labels([0.1, 0.1])
    truth = label.numpy()
    before = LevelWeights.bound(2)(lengths).numpy()
    after = fit_weights(lengths[::2], label[::2])(lengths[1::2]).numpy()
    assert calibration_error(before, truth) > 0.2
    assert calibration_error(after, truth[1::2]) < 0.04
    exact, label = lengths_and_labels([1.0, 1.0], seed=1)
    assert fit_weights(exact, label).weights.numpy() == pytest.approx([1, 1], rel=0.2)


def test_one_class_is_certain():
    found = fit_weights(normal(5, 1, 3).abs(), torch.zeros(5, dtype=torch.long))
    assert found.weights.isfinite().all()
    assert torch.equal(found(normal(2, 1, 3)), torch.ones(2, 1, dtype=torch.float64))


def test_that_none_of_a_few_was_wrong_does_not_make_it_sure():
    """Of 40 examples that are told apart perfectly: a doubt of about one in 42 remains."""
    label = torch.arange(40) % 4
    lengths = 50.0 * (torch.arange(4) != label[:, None]).double()[..., None]
    p = fit_weights(lengths, label)(lengths)
    doubt = 1 - p[torch.arange(40), label]
    assert (doubt > 0.5 / 42).all()
    assert (doubt < 1 / 42).all()


def test_with_few_examples_all_levels_weigh_alike():
    lengths, label = lengths_and_labels([0.1, 0.4, 0.02], 12)
    few = fit_weights(lengths, label).weights.log().std()
    many = fit_weights(*lengths_and_labels([0.1, 0.4, 0.02])).weights.log().std()
    assert few < many


def test_the_error_of_known_confidence():
    """Always .8 sure of class 0 and right 6 times of 10: off by .2."""
    p = np.tile([0.8, 0.2], (10, 1))
    label = np.array([0] * 6 + [1] * 4)
    assert calibration_error(p, label, bins=1) == pytest.approx(0.2)
    assert calibration_error(np.eye(2), np.array([0, 1])) == 0
