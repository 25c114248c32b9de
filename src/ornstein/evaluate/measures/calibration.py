"""Simulation-based calibration: does the truth lie where the posterior says it may?"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom, chisquare
from torch import Tensor

from ...core.conformal import Widening, reach, widening
from ...data import Dataset
from ...errors import UsageError
from ...rng import generator
from ...runs.bands import keep_widening
from ...runs.model import Model
from ...tasks.examples import training_data
from ...tasks.holes import windows_of
from ...tasks.options import RestoreOptions, checked, suggestion
from ...tasks.restore import key_of, restore
from ...tasks.restored import BAND, FEWEST, Cost, Restored
from ...tasks.sample import Run, opened

DRAWS = FEWEST
"""Of each posterior: the outermost of 19 bound a band of 90 %, since the truth has 20 ranks."""

UNASKED = ("given", "attributes", "guidance_interval", "parameters", "tuning", "simulate")
"""Options of a restoration that no word can name, or that go without saying."""

OF = {"operator": "parameters", "method": "tuning"}
"""Options that hold numbers by name, by the word before the dot: ``method.zeta=0.5``."""

RIGHT = 0.995
"""Of right posteriors, so many lie within the interval of each of the two bands."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where the truth lay among the draws of the posterior.

    Args:
        ranks: Of the truth among the draws, at one place of each example, picked at random among
            those that were not known: ``(P,)``, each in 0 to `draws`. Independent, and uniform
            if the posterior is right.
        draws: Of each posterior.
        everywhere: The share of all such places at which the truth lies in the 90 % band.
        psnr: Of the mean of the draws, in decibels of the range of the data.
        reached: By how much the 90 % band of each such place must be widened to hold the truth,
            an array for each example.
        cost: What it took.
    """

    ranks: np.ndarray
    draws: int
    everywhere: float
    psnr: float
    reached: tuple[np.ndarray, ...] = ()
    cost: Cost | None = None

    def coverage(self, share: float) -> float:
        """How often the truth lay in the middle `share` of the ranks."""
        return float(_inside(self.ranks, self.draws, share).mean())

    def interval(self, share: float, often: float = 0.95) -> tuple[float, float]:
        """Where the coverage lies so `often` if the posterior is right: binomial."""
        p, n = _nominal(self.draws, share), len(self.ranks)
        low, high = binom.interval(often, n, p)
        return low / n, high / n

    def held(self, factor: float) -> float:
        """The share of all places at which the truth lies in the 90 % band widened by `factor`."""
        return float((np.concatenate(self.reached) <= factor).mean())

    @property
    def widening(self) -> Widening | None:
        """By how much to widen 90 % bands of fresh examples; None if these are too few to say."""
        factor = widening(self.reached, BAND) if self.reached else inf
        return Widening(factor, len(self.reached)) if factor < inf else None

    @property
    def histogram(self) -> tuple[list[str], list[float]]:
        """The share of the ranks in each of up to five bins, about even, and their names."""
        counts, ends = self._binned
        names = [f"{low} to {high - 1}" for low, high in pairwise(ends.tolist())]
        return names, (counts / len(self.ranks)).tolist()

    @property
    def even(self) -> list[float]:
        """What the histogram is if the posterior is right: the share of ranks in each bin."""
        return (np.diff(self._binned[1]) / (self.draws + 1)).tolist()

    @property
    def p_value(self) -> float:
        """Of a chi-squared test that the ranks are uniform, in five bins or so."""
        return float(chisquare(self._binned[0], len(self.ranks) * np.array(self.even)).pvalue)

    @property
    def _binned(self) -> tuple[np.ndarray, np.ndarray]:
        """How many ranks are in each bin, and where each bin begins, and the last ends."""
        bins = min(self.draws + 1, max(2, min(5, len(self.ranks) // 10)))
        ends = np.arange(bins + 1) * (self.draws + 1) // bins
        return np.histogram(self.ranks, bins=ends - 0.5)[0], ends

    @property
    def calibrated(self) -> bool:
        """Whether both coverages lie where those of 99 in 100 right posteriors do."""
        return not self._faults

    @property
    def verdict(self) -> str:
        """In words."""
        if self.calibrated:
            return f"The bands hold what they say, as far as {len(self.ranks)} examples tell."
        return f"The bands are {self._faults[0]}."

    @property
    def _faults(self) -> list[str]:
        """What is wrong with the bands, that of 90 % first."""
        found = list[str]()
        for share in (0.9, 0.5):
            low, high = self.interval(share, RIGHT)
            if self.coverage(share) < low:
                found.append("too narrow: the posterior is too sure")
            elif self.coverage(share) > high:
                found.append("too wide")
        return found

    @property
    def sentence(self) -> str:
        """The coverages, and the verdict."""
        low, high = (100 * end for end in self.interval(0.9))
        return (
            f"Of {len(self.ranks)} restorations, the 90 % band holds the truth in "
            f"{100 * self.coverage(0.9):.0f} %, where {low:.0f} to {high:.0f} % would do. "
            f"{self.verdict}"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """The figures, for programs."""
        rows = {}
        for share in (0.5, 0.9):
            low, high = self.interval(share)
            rows[f"coverage_{share:.0%}"] = self.coverage(share)
            rows[f"coverage_{share:.0%}_expected"] = f"{low:.3f} to {high:.3f}"
        rows |= {"coverage_90%_everywhere": self.everywhere, "rank_p_value": self.p_value}
        rows["widening"] = None if self.widening is None else self.widening.factor
        rows |= {"psnr": self.psnr, "examples": len(self.ranks), "draws": self.draws}
        return rows | {"cost": None if self.cost is None else str(self.cost)}


def in_words(words: Sequence[str]) -> dict[str, Any]:
    """What `calibrate` takes, from words such as ``upscale=2`` and ``operator.sigma=1.5``.

    >>> in_words(["operator=ct", "operator.angles=30", "noise=0.5", "colourise"])
    {'operator': 'ct', 'noise': '0.5', 'colourise': 'true', 'parameters': {'angles': 30.0}}

    Raises:
        UsageError: If a word is no option of `ornstein restore`.
    """
    known = ["mask", *(f.name for f in fields(RestoreOptions) if f.name not in UNASKED)]
    values = dict[str, Any]()
    for word in words:
        name, _, value = word.partition("=")
        of, _, parameter = name.partition(".")
        if parameter and of in OF:
            values.setdefault(OF[of], {})[parameter] = _number(value)
        elif name in known:
            values[name] = value or "true"
        else:
            raise UsageError(f"posterior = {word!r} names no option{suggestion(name, known)}")
    return values


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def calibrate(
    run: Run,
    count: int = 100,
    mask: str | Path | Tensor | np.ndarray | None = None,
    draws: int = DRAWS,
    *,
    data: Dataset | None = None,
    keep: bool = False,
    **options: Any,
) -> Calibration:
    """Measure examples that the run has not seen, draw what they may have been, and compare.

    Args:
        run: The run, or its folder.
        count: Examples; fewer if no more were held out.
        mask: As `tasks.restore.restore` takes it; of a run of patches it may be larger than they,
            and each example is under a part of it.
        draws: Of each posterior; of what is kept, 19 at least.
        data: Examples to take; what training left out by default.
        keep: Keep in the run by how much bands of this measurement are to be widened.
        **options: Those of `RestoreOptions`.

    Raises:
        UsageError: If nothing was held out, or as `restore`.

    Source: Talts et al. (2018), https://arxiv.org/abs/1804.06788.
    """
    model = opened(run)
    draws = max(draws, FEWEST) if keep else draws
    chosen = checked(RestoreOptions, {**options, "draws": draws})
    held_out = training_data(model)[1] if data is None else data
    order = generator("calibration", chosen.seed).permutation(len(held_out))[:count]
    if len(order) < 2:
        raise UsageError(
            "Calibration needs two held-out examples or more: train with --data.validation."
        )
    stored = held_out.stored[torch.from_numpy(order)]
    simulate = {"simulate": True} if mask is None or options.get("noise") else {}
    hidden = mask
    if mask is not None and model.config.data.patch is not None:
        hidden = windows_of(mask, model.codec.data.shape[1:], len(stored), chosen.seed)
    restored = restore(model, stored, hidden, draws, **{**options, **simulate})
    found = compared(model, stored, restored, chosen.seed)
    if keep and found.widening is not None and model.run is not None:
        keep_widening(model.run, model.seen, key_of(chosen, mask), found.widening)
    return found


def compared(model: Model, stored: Tensor, restored: Restored, seed: int = 0) -> Calibration:
    """The truth ``(P, C, *S)``, in the data's units, among the draws."""
    codec, rng = model.codec.data, generator("ranks", seed)
    truth = torch.from_numpy(codec.stored(codec.pack(stored)).astype(np.float64))
    drawn = torch.from_numpy(codec.stored(restored.samples.x).astype(np.float64))
    drawn = drawn.unflatten(0, (len(truth), restored.draws))
    span = (truth.max() - truth.min()).item()
    error = (drawn.mean(1) - truth)[~restored.keep].square().mean().item()
    if np.dtype(codec.dtype).kind != "f":  # no two numbers are alike if each hides in its rounding
        truth = truth + torch.from_numpy(rng.random(truth.shape) - 0.5)
        drawn = drawn + torch.from_numpy(rng.random(drawn.shape) - 0.5)
    ranks = (drawn < truth[:, None]).sum(1)
    hidden = (~restored.keep).flatten(1).double()
    places = torch.from_numpy(rng.random(hidden.shape)) * hidden
    reached = reach(truth.numpy(), drawn.numpy(), BAND) if restored.draws >= DRAWS else None
    one = ranks.flatten(1).gather(1, places.argmax(1, keepdim=True))[:, 0].numpy()
    inside = _inside(ranks[~restored.keep].numpy(), restored.draws, 0.9)
    return Calibration(
        ranks=one,
        draws=restored.draws,
        everywhere=float(inside.mean()),
        psnr=10 * float(np.log10(span**2 / max(error, 1e-300))),
        reached=()
        if reached is None
        else tuple(r[h] for r, h in zip(reached, ~restored.keep.numpy(), strict=True) if h.any()),
        cost=restored.cost,
    )


def _middle(draws: int, share: float) -> tuple[int, int]:
    """First and last rank of the middle `share`, as nearly as there are ranks."""
    out = round((draws + 1) * (1 - share) / 2)
    return out, draws - out


def _inside(ranks: np.ndarray, draws: int, share: float) -> np.ndarray:
    low, high = _middle(draws, share)
    return (low <= ranks) & (ranks <= high)


def _nominal(draws: int, share: float) -> float:
    low, high = _middle(draws, share)
    return (high - low + 1) / (draws + 1)
