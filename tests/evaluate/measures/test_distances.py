"""Kernel and transport distances, held to closed forms, brute force and their null laws."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.stats import kstest, norm, wasserstein_distance_nd
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from ornstein.evaluate.measures.coverage import compare
from ornstein.evaluate.measures.distances import (
    BANDWIDTHS,
    energy_distance,
    frechet_distance,
    frechet_of_gaussians,
    gaussian_mmd,
    kernel_distance,
    mmd_chance,
    nearest,
    sliced_wasserstein,
)
from ornstein.rng import generator

Measure = Callable[[np.ndarray, np.ndarray], object]


def normal(n: int, dims: int, *key: int | str) -> np.ndarray:
    return generator("normal", *key).standard_normal((n, dims))


def unbiased(kernel, a: np.ndarray, b: np.ndarray) -> float:
    """The U-statistic by its definition, without its own diagonal."""
    within = [
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))
    ]
    return sum(within) - 2 * kernel(a, b).mean()


def test_the_kernel_distance_is_that_of_scikit_learn_across_pieces():
    a, b = normal(700, 6, "a"), 0.5 + normal(600, 6, "b")
    expected = unbiased(lambda x, y: polynomial_kernel(x, y, degree=3, gamma=1 / 6, coef0=1), a, b)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_the_gaussian_mmd_is_that_of_scikit_learn_across_pieces():
    a, b = normal(700, 3, "a"), 0.3 + normal(600, 3, "b")
    scale = np.median(cdist(a, b))
    expected = sum(
        unbiased(lambda x, y, h=h: rbf_kernel(x, y, gamma=1 / (2 * (h * scale) ** 2)), a, b)
        for h in BANDWIDTHS
    )
    assert gaussian_mmd(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", [kernel_distance, gaussian_mmd])
def test_a_kernel_distance_is_zero_in_the_mean_between_equal_laws(distance):
    found = [distance(normal(40, 4, i, "a"), normal(40, 4, i, "b")) for i in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / len(found) ** 0.5
    assert min(found) < 0 < max(found)
    assert distance(normal(300, 4, "a"), 1 + normal(300, 4, "b")) > 5 * np.std(found)


def test_the_kernel_distance_of_a_shift_has_its_closed_form():
    # one dimension: k = (xy + 1)^3 sees the moments: E k(X, X') = 1 + 3 m1^2 + 3 m2^2 + m3^2
    moments = {"a": (0, 1, 0), "b": (0.5, 1.25, 1.625)}  # of N(0, 1) and N(1/2, 1)
    weights = np.array([3, 3, 1])
    expected = float(weights @ (np.array(moments["a"]) - np.array(moments["b"])) ** 2)
    found = [
        kernel_distance(normal(800, 1, i, "a"), 0.5 + normal(800, 1, i, "b")) for i in range(40)
    ]
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / 40**0.5)


def test_the_narrow_kernels_see_what_the_median_one_alone_does_not():
    # two far clusters: the median distance is between them, the difference within each
    def clusters(width: float, *key: int | str) -> np.ndarray:
        far = 20.0 * (np.arange(200)[:, None] % 2)
        return far + width * normal(200, 1, *key)

    def alone(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return rbf_kernel(x, y, gamma=1 / (2 * (4 * 20.0) ** 2))

    def seen(distance) -> float:
        null = [distance(clusters(1, i, "a"), clusters(1, i, "b")) for i in range(30)]
        return distance(clusters(1, "a"), clusters(3, "b")) / float(np.std(null))

    assert seen(gaussian_mmd) > 8
    assert seen(lambda a, b: unbiased(alone, a, b)) < 3


def test_the_sliced_distance_of_a_shift_and_a_scale_has_its_closed_form():
    # W2^2 along a direction u is (m.u)^2 + (s - 1)^2; in the mean |m|^2 / D + (s - 1)^2
    x, shift, scale = normal(4000, 5, "x"), np.array([1.0, 0, 2.0, 0, 0]), 1.5
    expected = (shift @ shift / 5 + (scale - 1) ** 2) ** 0.5
    assert sliced_wasserstein(x, scale * x + shift, 2048) == pytest.approx(expected, rel=0.05)


def test_the_sliced_distance_on_a_line_is_the_wasserstein_distance():
    a, b = np.array([[0.0], [1.0], [5.0]]), np.array([[2.0], [2.5], [3.0]])
    assert sliced_wasserstein(a, b, 3) == pytest.approx(((2**2 + 1.5**2 + 2**2) / 3) ** 0.5)
    spread = np.array([[0.0], [3.0]])
    # W2 equals W1 where every point moves as far
    assert sliced_wasserstein(spread, spread + 2) == pytest.approx(
        wasserstein_distance_nd(spread, spread + 2)
    )


def test_the_sliced_distance_between_equal_laws_falls_as_the_root_of_n():
    small, large = (
        sliced_wasserstein(normal(n, 4, "a", n), normal(n, 4, "b", n)) for n in (250, 4000)
    )
    assert small / large == pytest.approx(4, rel=0.35)


def test_the_sliced_distance_needs_sets_of_one_size():
    with pytest.raises(ValueError, match="one size"):
        sliced_wasserstein(np.zeros((3, 2)), np.zeros((4, 2)))


def test_the_chance_of_an_mmd_is_uniform_between_equal_laws():
    found = [mmd_chance(normal(40, 2, "p", i), normal(30, 2, "q", i), 99) for i in range(200)]
    assert kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) < 0.05 + 4 * (0.05 * 0.95 / 200) ** 0.5


def test_the_chance_of_an_mmd_is_small_between_others_whatever_the_pieces():
    a, b = normal(400, 2, "a"), normal(300, 2, "b")
    assert mmd_chance(a, b + 0.4) == 1 / 501
    assert mmd_chance(a, 1.6 * b) == 1 / 501
    assert mmd_chance(a, a[:200]) > 0.3


def test_the_chance_of_an_mmd_counts_the_exchanges_that_are_as_large(monkeypatch):
    """Every exchange by brute force, with one bandwidth."""
    monkeypatch.setattr("ornstein.evaluate.measures.distances.BANDWIDTHS", (1.0,))
    a, b = normal(12, 2, "few"), 0.5 + normal(9, 2, "more")
    draw, both = generator("exchange"), np.concatenate([a, b])
    mixed = both[draw.permutation(21)]
    gamma = 1 / (2 * np.median(cdist(mixed[::2], mixed[1::2])) ** 2)
    values = [unbiased(lambda x, y: rbf_kernel(x, y, gamma=gamma), a, b)]
    for _ in range(50):
        order = draw.permutation(21)
        inside = np.isin(np.arange(21), order[:12])
        values.append(
            unbiased(lambda x, y: rbf_kernel(x, y, gamma=gamma), both[inside], both[~inside])
        )
    expected = (1 + sum(v >= values[0] - 1e-12 for v in values[1:])) / 51
    assert mmd_chance(a, b, 50) == pytest.approx(expected)


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


@pytest.mark.parametrize("measure", [nearest, energy_distance, compare])
def test_not_all_distances_are_in_memory_at_once(
    measure: Measure,
):
    a, b = generator("many").normal(size=(2, 4000, 1))
    tracemalloc.start()
    measure(a, b)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4000 * 4000 * 8 / 2
