"""Which modes of the data samples fall into: found or missed, and how evenly."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ...data import Dataset, open_data
from ..features.labelled import train_labeller

NEAR = 3.0  # standard deviations of a Gaussian, within which a sample is one of it
GAUSSIANS: dict[str, tuple[np.ndarray, float]] = {
    "8-gaussians": (
        2 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1),
        0.1,
    ),
    "25-gaussians": (2.0 * np.stack([np.arange(25) // 5, np.arange(25) % 5], 1) - 4, 0.05),
}
"""Centres and standard deviation of the built-in mixtures."""


@dataclass(frozen=True, kw_only=True)
class Modes:
    """How samples fall into modes.

    Args:
        found: Modes with at least one sample.
        of: Modes there are.
        kl: Of the shares of the modes from those of the data, in nats, over the samples that are
            of a mode; None if none is. Of n draws from the truth, about ``(of - 1) / 2 n``.
        good: Share of the samples that are of a mode; None where all are called so.
        n: Samples.
    """

    found: int
    of: int
    kl: float | None
    good: float | None
    n: int


Judge = Callable[[np.ndarray], Modes]
"""From examples as stored ``(N, C, *S)``."""


def count_modes(which: np.ndarray, shares: np.ndarray, always: bool = False) -> Modes:
    """Count modes by the mode of each sample.

    Args:
        which: ``(N,)``, the number of a mode, -1 for none.
        shares: Of the modes in the data ``(K,)``, > 0.
        always: Whether every sample is called one of a mode.
    """
    counts = np.bincount(which[which >= 0], minlength=len(shares)).astype(float)
    there = counts > 0
    drawn = counts[there] / max(counts.sum(), 1)
    kl = float((drawn * np.log(drawn / shares[there])).sum()) if there.any() else None
    good = None if always else float((which >= 0).mean())
    return Modes(found=int(there.sum()), of=len(shares), kl=kl, good=good, n=len(which))


def nearest_gaussian(x: np.ndarray, centres: np.ndarray, std: float) -> np.ndarray:
    """The nearest centre of each point ``(N,)``, -1 if it is more than `NEAR` `std` away."""
    apart = np.linalg.norm(x[:, None] - centres, axis=2)
    return np.where(apart.min(1) <= NEAR * std, apart.argmin(1), -1)


def judge_of(data: Dataset) -> Judge | None:
    """How modes are told in these data; None where they have none that are known.

    The mixtures by distance. Stacked digits by a network trained on single ones, one in fifty of
    which it misreads: the 1,000 modes then are what it says.
    """
    if data.source in GAUSSIANS:
        centres, std = GAUSSIANS[data.source]
        even = np.full(len(centres), 1 / len(centres))
        return lambda x: count_modes(nearest_gaussian(x, centres, std), even)
    if data.source == "stacked-digits":
        return _stacks(data)
    return None


def _stacks(data: Dataset) -> Judge:
    single = open_data("digits", data.options)
    train, held_out = single.split(0.1, 0)
    assert train.label is not None and held_out.label is not None
    pack = single.codec.pack
    reader = train_labeller(
        pack(train.stored).numpy(),
        train.label.numpy(),
        pack(held_out.stored).numpy(),
        held_out.label.numpy(),
    )

    def judge(x: np.ndarray) -> Modes:
        each = [reader(pack(torch.from_numpy(x[:, [c]])).numpy()) for c in range(3)]
        which = 100 * each[0] + 10 * each[1] + each[2]
        return count_modes(which, np.full(1000, 1e-3), always=True)

    return judge
