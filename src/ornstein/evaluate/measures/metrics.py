"""A number alone says nothing: distances with their floors and their scatter."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...rng import generator

Metric = Callable[[np.ndarray, np.ndarray], float]
"""A distance between two sets ``(N, D)`` and ``(M, D)``, float64."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A distance of samples to held-out data, beside that of training data to the same.

    Args:
        value: Of the samples: the mean over disjoint sets of `n`.
        spread: Standard deviation of `value` for one set of `n`, by the bootstrap.
        floor: Of real training data: what no honest model falls far below.
        floor_spread: Likewise.
        n: Examples on each side.
    """

    value: float
    spread: float
    floor: float
    floor_spread: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Where `value` would lie for 95 % of sets of n."""
        return self.value - 1.96 * self.spread, self.value + 1.96 * self.spread

    @property
    def ratio(self) -> float | None:
        """Over the floor; None where the floor is not told from zero, as that of an unbiased
        distance between two sets of real data."""
        resolved = self.floor > 2 * self.floor_spread
        return self.value / self.floor if resolved else None

    @property
    def excess(self) -> float:
        """``value - floor``, in standard deviations of both: what more than 2 or 3 is no chance."""
        both = (self.spread**2 + self.floor_spread**2) ** 0.5
        return (self.value - self.floor) / both if both > 0 else 0.0


def score(
    metric: Metric,
    samples: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    *,
    resamples: int = 32,
    seed: int = 0,
) -> Score:
    """How far samples are from held-out data, and how far real training data are.

    Both sides of every comparison have the same n, the size of the smallest of the three sets.

    Args:
        metric: The distance.
        samples: Features ``(N, D)``.
        train: Likewise, of real data the model was trained on.
        held_out: Likewise, of real data it never saw.
        resamples: Of the bootstrap.
        seed: Of the subsets and the bootstrap.
    """
    n = min(len(samples), len(train), len(held_out))
    if n < 2:
        raise ValueError(f"expected at least 2 examples on each side, got {n}")
    reference = held_out[generator("reference", seed).permutation(len(held_out))[:n]]

    def against_reference(x: np.ndarray, name: str) -> tuple[float, float]:
        draw = generator("sets", name, seed)
        order = draw.permutation(len(x))
        sets = order[: len(x) // n * n].reshape(-1, n)
        value = np.mean([metric(x[rows], reference) for rows in sets])
        again = [metric(x[draw.integers(len(x), size=n)], reference) for _ in range(resamples)]
        return float(value), float(np.std(again, ddof=1))

    value, spread = against_reference(samples, "samples")
    floor, floor_spread = against_reference(train, "train")
    return Score(value=value, spread=spread, floor=floor, floor_spread=floor_spread, n=n)
