"""Our figures against those of other libraries, on the same features."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from ornstein.evaluate.measures.coverage import compare
from ornstein.evaluate.measures.distances import (
    energy_distance,
    frechet_distance,
    gaussian_mmd,
    kernel_distance,
    sliced_wasserstein,
)
from ornstein.rng import generator

DIMS = 8


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    """Two sets of one size that differ in mean and scale."""
    draw = generator("sides")
    return draw.standard_normal((300, DIMS)), 1.2 * draw.standard_normal((300, DIMS)) + 0.3


class Itself(torch.nn.Module):
    """The extractor that torchmetrics is to use: what it is given are features."""

    num_features = DIMS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def told(metric: torch.nn.Module, sides: tuple[np.ndarray, np.ndarray]) -> torch.nn.Module:
    """A metric of torchmetrics that has seen both sides; it wants pictures."""
    for real, x in zip((True, False), sides, strict=True):
        metric.update(torch.from_numpy(x), real=real)
    return metric


@pytest.mark.slow
def test_the_frechet_distance_is_that_of_torchmetrics(sides):
    fid = pytest.importorskip("torchmetrics.image.fid")
    shape = (DIMS, 1, 1)
    metric = fid.FrechetInceptionDistance(
        feature=Itself(), normalize=True, input_img_size=shape
    ).set_dtype(torch.float64)
    pictures = tuple(x[:, :, None, None] for x in sides)
    expected = told(metric, pictures).compute().item()
    assert frechet_distance(*sides) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_the_kernel_distance_is_that_of_torchmetrics(sides):
    kid = pytest.importorskip("torchmetrics.image.kid")
    metric = kid.KernelInceptionDistance(
        feature=Itself(), subsets=1, subset_size=300, normalize=True
    ).set_dtype(torch.float64)
    mean, _ = told(metric, sides).compute()
    assert kernel_distance(*sides) == pytest.approx(mean.item(), rel=1e-6)


def test_the_energy_distance_and_the_mmd_are_u_statistics_of_pairwise_distances(sides):
    ot = pytest.importorskip("ot")
    a, b = sides
    within = [ot.dist(x, x, "euclidean").sum() / (len(x) * (len(x) - 1)) for x in sides]
    between = ot.dist(a, b, "euclidean").mean()
    assert energy_distance(a, b) == pytest.approx(2 * between - sum(within), rel=1e-9)
    assert gaussian_mmd(a, b) > 0


def test_the_sliced_distance_is_that_of_pot_along_the_same_directions(sides):
    ot = pytest.importorskip("ot")
    draw = generator("projections", DIMS)
    parts = [draw.standard_normal((DIMS, 64)) for _ in range(4)]
    directions = np.concatenate([p / np.linalg.norm(p, axis=0) for p in parts], 1)
    expected = ot.sliced_wasserstein_distance(*sides, projections=directions)
    assert sliced_wasserstein(*sides) == pytest.approx(float(expected), rel=1e-9)


def test_the_sliced_distance_is_below_the_whole_one_of_pot_and_equal_on_a_line(sides):
    ot = pytest.importorskip("ot")
    a, b = sides
    weights = np.full(len(a), 1 / len(a))
    whole = ot.emd2(weights, weights, ot.dist(a, b)) ** 0.5
    assert sliced_wasserstein(a, b) <= whole
    line = ot.emd2_1d(a[:, 0], b[:, 0]) ** 0.5
    assert sliced_wasserstein(a[:, :1], b[:, :1]) == pytest.approx(line, rel=1e-9)


def test_precision_recall_density_and_coverage_are_those_of_neighbours_by_scikit_learn(sides):
    real, samples = sides

    def balls(x: np.ndarray) -> np.ndarray:
        return NearestNeighbors(n_neighbors=6).fit(x).kneighbors(x)[0][:, 5]

    apart = np.linalg.norm(samples[:, None] - real[None], axis=2)
    inside_real, inside_ours = apart <= balls(real), apart <= balls(samples)[:, None]
    found = compare(real, samples)
    assert found.precision == inside_real.any(1).mean()
    assert found.recall == inside_ours.any(0).mean()
    assert found.density == pytest.approx(inside_real.sum(1).mean() / 5)
    assert found.coverage == inside_real.any(0).mean()
