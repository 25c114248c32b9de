"""Distances between two sets of examples; all are zero, or zero in the mean, between equal laws."""

import numpy as np
from scipy.spatial.distance import cdist

from ...rng import generator

ROWS = 512
"""Of one piece of a matrix of distances: memory stays bounded whatever the size of the sets."""

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the Gaussian kernels, in units of the median distance: one alone is blind to other scales."""

PERMUTATIONS = 500


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to two sets of features ``(N, D)``, ``(M, D)``.

    Biased upwards on finite sets, by about ``D^2 / (2 N)`` for features of unit variance: compare
    sets of one size only, and with a floor of that size. Not the FID, which is of one network.

    Source: Heusel et al. (2017), https://arxiv.org/abs/1706.08500, equation 6.
    """
    return frechet_of_gaussians(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))


def frechet_of_gaussians(
    mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray
) -> float:
    """``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``, the squared 2-Wasserstein distance.

    The trace of the root is the sum of the roots of the eigenvalues of ``R C_b R``, R the root of
    C_a: two symmetric eigenproblems, real and stable where the covariances are singular.

    Source: Dowson & Landau (1982), https://doi.org/10.1016/0047-259X(82)90077-X.
    """
    cov_a, cov_b = np.atleast_2d(cov_a).astype(float), np.atleast_2d(cov_b).astype(float)
    var, axes = np.linalg.eigh(cov_a)
    root = (axes * np.sqrt(var.clip(0))) @ axes.T
    overlap = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    gap = float(((mean_a - mean_b) ** 2).sum())
    return gap + float(np.trace(cov_a) + np.trace(cov_b)) - 2 * float(overlap)


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """``2 E|X - Y| - E|X - X'| - E|Y - Y'|``, unbiased; zero only between equal distributions.

    Source: Szekely & Rizzo (2013), https://doi.org/10.1016/j.jspi.2013.03.018.
    """
    within = sum(_total(x, x) / (len(x) * (len(x) - 1)) for x in (a, b))
    return 2 * _total(a, b) / (len(a) * len(b)) - within


def _total(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of all distances between rows, in pieces that fit in a cache."""
    return sum(float(cdist(a[i : i + ROWS], b).sum()) for i in range(0, len(a), ROWS))


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of `a`, which row of `b` is nearest, and how far it is."""
    pieces = (cdist(a[i : i + ROWS], b) for i in range(0, len(a), ROWS))
    found = [(apart.argmin(1), apart.min(1)) for apart in pieces]
    place, far = map(np.concatenate, zip(*found, strict=True))
    return place, far


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KID: squared MMD between features ``(N, D)``, ``(M, D)`` with ``k(x, y) = (x.y / D + 1)^3``.

    Unbiased: zero in the mean between equal laws, so that a value may be negative.

    Source: Binkowski et al. (2018), https://arxiv.org/abs/1801.01401, section 4.
    """
    dims = a.shape[1]

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        k = x @ y.T / dims + 1
        return k * k * k  # NumPy's power takes many times as long

    def own(x: np.ndarray) -> float:
        return float((((x**2).sum(1) / dims + 1) ** 3).sum())

    def total(x: np.ndarray, y: np.ndarray) -> float:
        return sum(float(kernel(x[i : i + ROWS], y).sum()) for i in range(0, len(x), ROWS))

    within = sum((total(x, x) - own(x)) / (len(x) * (len(x) - 1)) for x in (a, b))
    return within - 2 * total(a, b) / (len(a) * len(b))


def gaussian_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Squared MMD with the sum of Gaussian kernels ``exp(-|x - y|^2 / (2 h^2))``, unbiased.

    The h are `BANDWIDTHS` times the median distance between the two sets. For data of few
    dimensions: in many, all distances are alike.

    Source: Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html, equation 3.
    """
    scale = _median_distance(a, b)

    def total(x: np.ndarray, y: np.ndarray) -> float:
        found = 0.0
        for i in range(0, len(x), ROWS):
            halves = cdist(x[i : i + ROWS], y, "sqeuclidean") / (2 * scale**2)
            found += sum(float(np.exp(-halves / h**2).sum()) for h in BANDWIDTHS)
        return found

    def within(x: np.ndarray) -> float:
        return (total(x, x) - len(BANDWIDTHS) * len(x)) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b))


def mmd_chance(a: np.ndarray, b: np.ndarray, permutations: int = PERMUTATIONS) -> float:
    """How often sets of one law are as far apart as `a` and `b`, by exchanging their examples.

    The p-value of the `gaussian_mmd`, with bandwidths of the pooled set, which no exchange
    changes. Each block of kernels is computed once, for all permutations together: of a set S of
    rows, ``s K s`` is the sum within it, s being 1 on S and 0 off it.

    Source: Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html, section 5.
    """
    both, n, m, draw = np.concatenate([a, b]), len(a), len(b), generator("exchange")
    mixed = both[draw.permutation(n + m)]
    scale = _median_distance(mixed[::2], mixed[1::2])
    first = np.zeros((n + m, permutations + 1))
    first[:n, 0] = 1  # as it is
    for i in range(1, permutations + 1):
        first[draw.permutation(n + m)[:n], i] = 1
    own, across, total = np.zeros(permutations + 1), np.zeros(permutations + 1), 0.0
    for i in range(0, n + m, ROWS):
        here = slice(i, i + ROWS)
        halves = cdist(both[here], both, "sqeuclidean") / (2 * scale**2)
        kernel = sum((np.exp(-halves / h**2) for h in BANDWIDTHS), np.zeros_like(halves))
        near = kernel @ first
        own += (first[here] * near).sum(0)
        across += (first[here] * (kernel.sum(1, keepdims=True) - near)).sum(0)
        total += float(kernel.sum())
    rest = total - own - 2 * across
    itself = len(BANDWIDTHS)
    found = (own - itself * n) / (n * (n - 1)) + (rest - itself * m) / (m * (m - 1))
    found -= 2 * across / (n * m)
    larger = int((found[1:] >= found[0] - 1e-12).sum())
    return (1 + larger) / (1 + permutations)


def _median_distance(a: np.ndarray, b: np.ndarray, most: int = 1000) -> float:
    """Between a row of `a` and one of `b`; 1 if they are all the same."""
    return float(np.median(cdist(a[:most], b[:most]))) or 1.0


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, projections: int = 256) -> float:
    """Sliced 2-Wasserstein distance between two sets of one size ``(N, D)``.

    ``sqrt(mean over directions of W2^2)``, where W2 on a line compares the sorted values. Between
    equal laws it falls as ``N^(-1/2)``. The directions are the same for all sets of one D.

    Source: Bonneel et al. (2015), https://doi.org/10.1007/s10851-014-0506-3, definition 3.
    """
    if len(a) != len(b):
        raise ValueError(f"expected two sets of one size, got {len(a)} and {len(b)}")
    draw, total = generator("projections", a.shape[1]), 0.0
    for i in range(0, projections, 64):  # more at once would not fit in a cache
        directions = draw.standard_normal((a.shape[1], min(64, projections - i)))
        directions /= np.linalg.norm(directions, axis=0)
        gaps = np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)
        total += float((gaps**2).mean(0).sum())
    return (total / projections) ** 0.5
