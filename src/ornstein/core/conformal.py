"""Conformal p-values and bands: error rates that hold with no assumption about the scores.

All that is needed is that the examples to be judged, if normal, could have been swapped with the
normal examples they are compared with. The error rates below then hold at every size.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from scipy.stats import beta


def p_values(scores: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """``p = (1 + number of normal scores >= score) / (n + 1)`` for each of `scores` ``(N,)``.

    For a normal example, ``P(p <= a) = floor(a (n + 1)) / (n + 1) <= a`` at every a in [0, 1]:
    exactly, if scores do not tie; ties make p larger, never smaller. No p is below 1 / (n + 1).

    Args:
        scores: Larger is stranger.
        normal: Scores ``(n,)`` of normal examples that neither trained the model nor set the
            scale of its scores.

    Source: Vovk et al. (2005), https://doi.org/10.1007/b106715, proposition 2.8; Laxhammar &
    Falkman (2010), https://doi.org/10.1145/1833280.1833287 (as anomaly detection).
    """
    normal = np.sort(normal)
    as_strange = len(normal) - np.searchsorted(normal, scores, side="left")
    return (1 + as_strange) / (len(normal) + 1)


class FalseAlarms(NamedTuple):
    """How often a fresh normal example has ``p <= alpha``.

    Attributes:
        rate: In the mean over calibrations; at most alpha.
        low: The 5 % quantile of the rate of one calibration, which this one's may be.
        high: The 95 % quantile.
    """

    rate: float
    low: float
    high: float


def false_alarms(alpha: float, n: int) -> FalseAlarms:
    """The law of the false-alarm rate after a calibration on `n` normal examples.

    With k = floor(alpha (n + 1)), the rate is k / (n + 1) in the mean, and that of one
    calibration follows Beta(k, n + 1 - k), if scores do not tie.

    Source: Vovk (2012), https://arxiv.org/abs/1209.2673, proposition 2b.
    """
    k = int(np.floor(alpha * (n + 1) + 1e-9))
    if k == 0:
        return FalseAlarms(0.0, 0.0, 0.0)
    if k == n + 1:
        return FalseAlarms(1.0, 1.0, 1.0)
    low, high = beta.ppf([0.05, 0.95], k, n + 1 - k)
    return FalseAlarms(k / (n + 1), float(low), float(high))


def discoveries(p: np.ndarray, alpha: float) -> np.ndarray:
    """Which of the p-values ``(N,)`` to flag, so that of the flagged, a share alpha is false.

    Benjamini & Hochberg: flag the k smallest, for the largest k with ``p_(k) <= alpha k / N``.
    Conformal p-values share their calibration, but depend on each other positively, for which
    the expected share of false alarms among the flagged is at most alpha.

    Source: Benjamini & Hochberg (1995), https://doi.org/10.1111/j.2517-6161.1995.tb02031.x; Bates
    et al. (2023), https://arxiv.org/abs/2104.08279, theorem 2.
    """
    if not len(p):
        return np.zeros(0, bool)
    ordered = np.sort(p)
    below = np.flatnonzero(ordered <= alpha * np.arange(1, len(p) + 1) / len(p) + 1e-12)
    return p <= ordered[below[-1]] if len(below) else np.zeros(len(p), bool)


# --- Bands ---------------------------------------------------------------------------------------


class Widening(NamedTuple):
    """By what bands are widened about their middle.

    Attributes:
        factor: Their width is multiplied by it; 1 leaves them as drawn.
        examples: On how many it was measured.
    """

    factor: float
    examples: int


def band(drawn: np.ndarray, share: float, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the middle `share` of K draws ``(P, K, ...)``, widened about their mean.

    Of K draws and a truth that could be swapped with them, the truth lies below the i-th smallest
    draw with probability i / (K + 1): the ends are the draws number ``(1 - share) / 2 (K + 1)``
    from either side, between two where that is no whole number.

    Raises:
        ValueError: If there are too few draws: a share of .9 takes 19.
    """
    K = drawn.shape[1]
    place = (1 - share) / 2 * (K + 1) - 1
    if place < -1e-9:
        raise ValueError(f"expected {2 / (1 - share) - 1:.0f} draws or more, got {K}")
    q = min(max(place / (K - 1), 0.0), 1.0)
    low, high = np.quantile(drawn, [q, 1 - q], axis=1)
    middle = drawn.mean(1)
    return middle + factor * (low - middle), middle + factor * (high - middle)


def reach(truth: np.ndarray, drawn: np.ndarray, share: float) -> np.ndarray:
    """The least factor by which the `band` must be widened to hold the truth ``(P, ...)``."""
    low, high = band(drawn, share)
    middle = drawn.mean(1)
    away, room = truth - middle, np.where(truth > middle, high - middle, low - middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(away == 0, 0.0, away / room)


def widening(reached: Sequence[np.ndarray], share: float) -> float:
    """The factor with which the bands of a fresh example hold `share` of its places, in the mean.

    With r_i(f) the share of the places of example i that a band widened by f misses, the least f
    with

        (n mean_i r_i(f) + 1) / (n + 1) <= 1 - share.

    Infinite where n is too small for any: .9 takes 9 examples.

    Args:
        reached: `reach` of the places of each of n examples, not all as many.
        share: Of the places.

    Source: Angelopoulos et al. (2022), https://arxiv.org/abs/2208.02814, theorem 1.
    """
    n = len(reached)
    allowed = ((1 - share) * (n + 1) - 1) / n
    if allowed < -1e-12:
        return inf
    values = np.concatenate(reached)
    weights = np.concatenate([np.full(len(r), 1 / (n * len(r))) for r in reached])
    order = np.argsort(values)
    missed = 1 - np.cumsum(weights[order])
    return float(values[order][np.argmax(missed <= allowed + 1e-12)])
