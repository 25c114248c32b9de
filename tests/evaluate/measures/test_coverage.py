"""Precision, recall, density, coverage: by definition, by their ceilings, and what each sees."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ornstein.evaluate.measures.coverage import ceiling, compare, covered
from ornstein.rng import generator


def normal(n: int, dims: int, *key: int | str) -> np.ndarray:
    return generator("coverage", *key).standard_normal((n, dims))


def test_the_four_figures_are_their_definitions_across_pieces():
    real, samples, k = normal(600, 3, "real"), 0.7 * normal(700, 3, "samples"), 4
    reach, own = (np.sort(cdist(x, x))[:, k] for x in (real, samples))
    apart = cdist(samples, real)
    found = compare(real, samples, k)
    assert found.precision == (apart <= reach).any(1).mean()
    assert found.recall == (apart <= own[:, None]).any(0).mean()
    assert found.density == pytest.approx((apart <= reach).sum() / (k * len(samples)))
    assert found.coverage == (apart.min(0) <= reach).mean()
    assert (found.n, found.k) == (700, 4)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_coverage_of_data_by_data_is_its_ceiling_and_the_density_one(k):
    found = [compare(normal(400, 8, i, "a"), normal(400, 8, i, "b"), k) for i in range(6)]
    assert np.mean([f.coverage for f in found]) == pytest.approx(ceiling(k), abs=0.02)
    assert np.mean([f.density for f in found]) == pytest.approx(1, abs=0.08)


def test_a_dropped_mode_is_seen_by_recall_and_coverage_alone():
    real, samples = normal(600, 6, "real"), normal(600, 6, "samples")
    real[:300, 0] += 20
    found = compare(real, samples)
    assert found.precision > 0.85
    assert found.recall < 0.55
    assert found.coverage < 0.55


def test_impossible_samples_are_seen_by_precision_and_density():
    real, samples = normal(600, 6, "real"), normal(600, 6, "samples")
    samples[:200] += 50
    found = compare(real, samples)
    assert found.precision == pytest.approx(2 / 3, abs=0.07)
    assert found.density < 0.75


def test_the_standard_error_of_each_is_its_scatter_over_sets():
    found = [compare(normal(200, 8, "real"), 1 + normal(200, 8, i)) for i in range(60)]
    for name in ("precision", "density"):
        scatter = np.std([getattr(f, name) for f in found])
        assert found[0].error(name) == pytest.approx(scatter, rel=0.6)


def test_a_set_without_neighbours_is_refused():
    with pytest.raises(ValueError, match="more than 5"):
        compare(np.zeros((5, 2)), np.zeros((50, 2)))


def test_the_coverage_of_a_group_that_was_left_out_is_nothing():
    real, samples = normal(700, 4, "real"), normal(600, 4, "samples")
    real[:200] += 30
    found = covered(real, samples)
    assert found.mean() == compare(real, samples).coverage
    assert not found[:200].any()
    assert found[200:].mean() > 0.9
