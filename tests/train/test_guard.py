"""The two guards: what is skipped, and when it is time to go back."""

import json
from math import inf, nan

import numpy as np
import pytest

from ornstein.train.guard import PATIENCE, Guard, Verdict


@pytest.mark.parametrize(("loss", "norm"), [(nan, 1.0), (inf, 1.0), (1.0, nan), (1.0, inf)])
def test_what_is_not_finite_is_skipped_and_three_in_a_row_roll_back(loss, norm):
    guard = Guard()
    verdicts = [guard.judge(*pair) for pair in [(1.0, 1.0), *[(loss, norm)] * 3]]
    assert verdicts == [Verdict.TAKE, Verdict.SKIP, Verdict.SKIP, Verdict.ROLL_BACK]
    assert guard.skipped == 3


def test_a_good_update_in_between_ends_the_streak():
    guard = Guard()
    for _ in range(10):
        assert guard.judge(nan, 1.0) is Verdict.SKIP
        assert guard.judge(nan, 1.0) is Verdict.SKIP
        assert not guard.calm
        assert guard.judge(1.0, 1.0) is Verdict.TAKE
        assert guard.calm


def test_a_loss_that_stays_five_times_too_large_rolls_back():
    guard = Guard()
    for _ in range(40):
        guard.judge(1.0, 1.0)
    verdicts = [guard.judge(5.1, 1.0) for _ in range(PATIENCE)]
    assert verdicts == [Verdict.TAKE] * (PATIENCE - 1) + [Verdict.ROLL_BACK]


def test_heavy_tails_and_a_falling_loss_are_no_divergence():
    rng, guard = np.random.default_rng(0), Guard()
    for n in range(5000):
        loss = (10 if n < 100 else 1) * rng.lognormal(0, 2)  # the mean is 7 times the median
        assert guard.judge(loss, 1.0) is Verdict.TAKE


def test_negative_losses_of_a_learned_weighting_are_not_compared():
    guard = Guard()
    assert all(guard.judge(-1.0, 1.0) is Verdict.TAKE for _ in range(100))
    assert all(guard.judge(-0.1, 1.0) is Verdict.TAKE for _ in range(300))


def test_a_guard_comes_back_from_json_as_it_was():
    rng, guard, other = np.random.default_rng(0), Guard(), Guard()
    for n in range(500):
        loss = rng.exponential() * (1 if n < 90 else 30)
        other = Guard.from_dict(json.loads(json.dumps(other.to_dict())))
        assert guard.judge(loss, 1.0) is other.judge(loss, 1.0)
        assert guard == other
