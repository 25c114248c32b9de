"""How much of the samples is plausible, and how much of the data they cover."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

NEIGHBOURS = 5
ROWS = 512  # of one piece of a matrix of distances


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Two sets compared by balls that reach from each example to its k-th neighbour in its set.

    Args:
        precision: Share of the samples within a ball of a real example.
        recall: Share of the real examples within a ball of a sample.
        density: Balls of real examples around a sample, over k: 1 in the mean for equal laws.
        coverage: Share of the real balls that hold a sample: ``1 - 2^-k`` for equal laws.
        density_error: Standard error of `density`, over the samples.
        n: Samples.
        k: Which neighbour.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    density_error: float
    n: int
    k: int

    def error(self, name: str) -> float:
        """Standard error of one of the four; ``sqrt(p (1 - p) / n)`` of a share."""
        if name == "density":
            return self.density_error
        share = getattr(self, name)
        return (share * (1 - share) / self.n) ** 0.5


def ceiling(k: int = NEIGHBOURS) -> float:
    """The coverage to expect of real data by as many other real data: ``1 - 2^-k``.

    Of the k neighbours of an example in both sets together, all are in its own with ``2^-k``.
    """
    return 1 - 2.0**-k


def compare(real: np.ndarray, samples: np.ndarray, k: int = NEIGHBOURS) -> Coverage:
    """Precision, recall, density and coverage of `samples` ``(N, D)``, with `real` ``(M, D)``.

    In pieces of 512 rows: memory is O(N + M). Dropped modes lower recall and coverage alone;
    blurred and impossible samples lower precision and density. Copies raise them all.

    Args:
        real: Features of real data.
        samples: Likewise, of as many samples: the figures depend on both sizes.
        k: Which neighbour a ball reaches to.

    Raises:
        ValueError: If a set has no k-th neighbours.

    Source: Kynkaanniemi et al. (2019), https://arxiv.org/abs/1904.06991, equation 1 (precision,
    recall); Naeem et al. (2020), https://arxiv.org/abs/2002.09797, section 3 (density, coverage).
    """
    if min(len(real), len(samples)) <= k:
        raise ValueError(f"expected more than {k} examples, got {len(real)} and {len(samples)}")
    reach, own_reach = _reach(real, k), _reach(samples, k)
    around = np.empty(len(samples))
    closest = np.full(len(real), np.inf)
    found = np.zeros(len(real), dtype=bool)
    for i in range(0, len(samples), ROWS):
        here = slice(i, i + ROWS)
        apart = cdist(samples[here], real)
        around[here] = (apart <= reach).sum(1)
        closest = np.minimum(closest, apart.min(0))
        found |= (apart <= own_reach[here, None]).any(0)
    return Coverage(
        precision=float((around > 0).mean()),
        recall=float(found.mean()),
        density=float(around.mean() / k),
        coverage=float((closest <= reach).mean()),
        density_error=float(around.std(ddof=1) / k / len(samples) ** 0.5),
        n=len(samples),
        k=k,
    )


def covered(real: np.ndarray, samples: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Which real balls hold a sample ``(M,)``: the mean is the coverage, also of any group."""
    reach, closest = _reach(real, k), np.full(len(real), np.inf)
    for i in range(0, len(samples), ROWS):
        closest = np.minimum(closest, cdist(samples[i : i + ROWS], real).min(0))
    return closest <= reach


def _reach(x: np.ndarray, k: int) -> np.ndarray:
    """The distance of each row to its k-th neighbour; the 0th is itself."""
    reach = np.empty(len(x))
    for i in range(0, len(x), ROWS):
        reach[i : i + ROWS] = np.partition(cdist(x[i : i + ROWS], x), k, axis=1)[:, k]
    return reach
