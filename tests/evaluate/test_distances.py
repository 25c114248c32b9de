"""Kernel and transport distances, held to closed forms, brute force and their null laws."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance_nd
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from ornstein.evaluate.distances import (
    BANDWIDTHS,
    gaussian_mmd,
    kernel_distance,
    sliced_wasserstein,
)
from ornstein.rng import generator


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
