"""Floors, spreads and ratios."""

import numpy as np
import pytest

from ornstein.core.shares import Share
from ornstein.evaluate.measures.distances import energy_distance, frechet_distance
from ornstein.evaluate.measures.metrics import Score, score
from ornstein.rng import generator


def test_a_score_of_real_data_is_its_floor_and_of_others_is_above():
    x = generator("score").standard_normal((900, 8))
    train, held_out, fresh = x[:400], x[400:600], x[600:]
    honest = score(frechet_distance, fresh, train, held_out)
    assert honest.n == 200
    assert abs(honest.value - honest.floor) < 4 * (honest.spread + honest.floor_spread)
    worse = score(frechet_distance, 1.5 * fresh, train, held_out)
    assert worse.value > 3 * worse.floor
    assert worse.floor == honest.floor
    assert score(frechet_distance, fresh, train, held_out) == honest


def test_a_score_needs_two_on_each_side():
    with pytest.raises(ValueError, match="at least 2"):
        score(energy_distance, np.zeros((1, 2)), np.zeros((5, 2)), np.zeros((5, 2)))


def test_a_score_says_how_far_it_is_from_its_floor():
    found = Score(value=6.0, spread=0.3, floor=4.0, floor_spread=0.4, n=100)
    assert found.ratio == 1.5
    assert found.excess == pytest.approx(4)
    assert found.interval == pytest.approx((5.412, 6.588))
    assert Score(value=6.0, spread=0.3, floor=0.1, floor_spread=0.4, n=100).ratio is None


def test_the_interval_of_a_score_holds_other_sets_as_often_as_it_says():
    x = generator("intervals").standard_normal((4000, 4))
    held_out, found = x[:200], score(energy_distance, x[200:400] + 0.5, x[400:800], x[:200])
    others = [energy_distance(x[i : i + 200] + 0.5, held_out) for i in range(800, 4000, 200)]
    low, high = found.interval
    assert np.mean([low - 2 * found.spread < v < high + 2 * found.spread for v in others]) == 1
    assert np.std(others) == pytest.approx(found.spread, rel=0.6)


def test_a_share_knows_its_standard_error_and_interval():
    share = Share(hits=90, n=100)
    assert share.value == 0.9
    assert share.error == pytest.approx(0.03)
    assert str(share) == "90.0 % (82.6 to 94.5 %)"
