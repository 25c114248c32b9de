"""Distances, held to closed forms; and floors."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import norm

from ornstein.evaluate.metrics import (
    Proportion,
    Score,
    energy_distance,
    frechet_distance,
    frechet_of_gaussians,
    nearest,
    score,
)
from ornstein.rng import generator


def covariance(dimensions: int, name: str) -> np.ndarray:
    root = generator("covariance", name).standard_normal((dimensions, dimensions))
    return root @ root.T


def test_the_frechet_distance_of_gaussians_that_commute_is_known():
    # N(m, diag(a^2)) and N(0, diag(b^2)): |m|^2 + sum (a - b)^2
    mean, a, b = np.array([1.0, -2.0]), np.array([3.0, 0.5]), np.array([1.0, 2.0])
    found = frechet_of_gaussians(mean, np.diag(a**2), np.zeros(2), np.diag(b**2))
    assert found == pytest.approx(5 + 4 + 2.25, abs=1e-12)


def test_the_frechet_distance_of_any_gaussians_is_that_of_the_general_root():
    a, b = covariance(6, "a"), covariance(6, "b")
    mean = generator("mean").standard_normal(6)
    expected = mean @ mean + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_of_gaussians(mean, a, np.zeros(6), b) == pytest.approx(expected, abs=1e-9)


def test_the_frechet_distance_is_zero_to_itself_also_where_singular():
    flat = covariance(5, "flat")
    flat[0] = flat[:, 0] = 0
    assert frechet_of_gaussians(np.ones(5), flat, np.ones(5), flat) == pytest.approx(0, abs=1e-6)
    x = generator("x").standard_normal((40, 3))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x + np.array([3.0, 0, 4.0])) == pytest.approx(25, abs=1e-9)


def test_the_bias_of_the_frechet_distance_is_as_documented():
    dimensions, n = 16, 2000
    a, b = (generator("bias", i).standard_normal((n, dimensions)) for i in range(2))
    assert frechet_distance(a, b) == pytest.approx(dimensions**2 / (2 * n), rel=0.25)


@pytest.mark.parametrize(
    ("delta", "expected"), [(0.0, 0.0), (0.1, 0.00564), (0.5, 0.1396), (1.0, 0.5418)]
)
def test_the_energy_distance_of_shifted_gaussians_is_known(delta, expected):
    # 2 E|N(delta, 2)| - 2 E|N(0, 2)|, on the quantiles of both: no noise but their spacing
    n = 6000
    x = norm.ppf((np.arange(n) + 0.5) / n)[:, None]
    spacing = 2 * 2 / np.sqrt(np.pi) / n  # a set is one point further from itself than its law
    assert energy_distance(x, x + delta) + spacing == pytest.approx(expected, abs=1e-4)


def test_the_energy_distance_is_unbiased():
    found = [
        energy_distance(*(generator("unbiased", i, side).standard_normal((30, 2)) for side in "ab"))
        for i in range(300)
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0


def test_the_nearest_row_is_found_across_pieces():
    b = generator("rows").standard_normal((1300, 4))
    place, distance = nearest(b[::-1] + 1e-9, b)
    assert np.array_equal(place, np.arange(1300)[::-1])
    assert distance.max() < 1e-8


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


def test_a_proportion_knows_its_standard_error():
    share = Proportion(hits=90, n=100)
    assert share.value == 0.9
    assert share.error == pytest.approx(0.03)
    assert str(share) == "90.0 % (standard error 3.0, n = 100)"
