"""The figures of an evaluation: which are measured, where, and from how many examples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.shares import Share
from ...data import Dataset
from ...data.codec import Codec
from ...rng import generator
from ..features.labelled import LEARNERS, Encoder
from .coverage import compare
from .distances import (
    energy_distance,
    frechet_distance,
    gaussian_mmd,
    kernel_distance,
    mmd_chance,
    sliced_wasserstein,
)
from .metrics import Metric, Score, score
from .twosample import COMPONENTS, advantage, neighbours_tell, network_tells

FEWEST_OF = {"precision": 50, "network": 100}
"""Examples on each side that a figure needs; 50 of those not named. A Frechet distance needs twice
as many as there are features, or the covariances are singular."""

Side = Mapping[str, np.ndarray]
"""Examples of one kind, samples, training or held-out, in each space."""

_Measure = Callable[[np.ndarray, np.ndarray], tuple[float, float]]
"""A figure of samples beside real data, and its standard error."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of quality.

    Args:
        name: For programs.
        space: Where it was measured: ``data``, ``learned`` features, ``fixed`` features.
        higher: Whether more is better.
        score: The figure with its floor; None if there were too few examples.
        fewest: Examples on each side that it needs.
        n: Examples there were.
        chance: How often sets of one law would be as far apart; None where it was not asked.
    """

    name: str
    space: str
    higher: bool
    score: Score | None
    fewest: int
    n: int
    chance: float | None = None

    @property
    def key(self) -> str:
        return f"{self.name} ({self.space})"

    @property
    def worse(self) -> float | None:
        """By how many standard deviations it is worse than its floor."""
        if self.score is None:
            return None
        return -self.score.excess if self.higher else self.score.excess

    @property
    def sentence(self) -> str:
        """Why there is no number."""
        return f"needs {self.fewest:,} examples on each side, there are {self.n:,}"


def lacking(needs: Mapping[str, int], n: int) -> str:
    """What so few examples cannot say, and what to do.

    Args:
        needs: Examples on each side, by the name of what needs them.
        n: Examples there were.
    """
    named: dict[int, list[str]] = {}
    for name, fewest in sorted(needs.items(), key=lambda need: need[1]):
        named.setdefault(fewest, []).append(name)
    each = "; ".join(f"at least {fewest:,} for {', '.join(k)}" for fewest, k in named.items())
    return (
        f"{n:,} examples on each side are too few: it takes {each}. Leave more out of training by "
        "--data.validation, draw more by --count, or give others by --against."
    )


class Spaces:
    """Examples in each of the spaces that figures are measured in.

    ``flat`` is the data themselves; ``data`` their principal components, if they are many.
    """

    def __init__(self, codec: Codec, encoders: Mapping[str, Encoder], train: Dataset) -> None:
        self.encoders, self.axes = encoders, None
        if int(np.prod(codec.shape)) > COMPONENTS:
            from sklearn.decomposition import PCA

            rows = generator("components").permutation(len(train))[:LEARNERS].copy()
            x = codec.pack(train.stored[torch.from_numpy(rows)]).flatten(1).numpy()
            pca = PCA(min(COMPONENTS, *x.shape), svd_solver="randomized", random_state=0)
            self.axes = np.asarray(pca.fit(x).components_).T

    def __call__(self, x: Tensor) -> dict[str, np.ndarray]:
        flat = x.flatten(1).numpy()
        few = flat if self.axes is None else flat @ self.axes
        found = {name: encoder(x.numpy()) for name, encoder in self.encoders.items()}
        return {"flat": flat, "data": few.astype(np.float64), **found}


def measure_figures(samples: Side, train: Side, held_out: Side) -> list[Figure]:
    """Every figure in the spaces where it says something, the most telling spaces first."""
    n = min(len(samples["data"]), len(train["data"]), len(held_out["data"]))
    features = [name for name in samples if name not in ("flat", "data")]
    plan: list[tuple[str, str, Metric]] = []
    for space in features:
        frechet = "fid" if space == "inception" else "frechet"
        plan.append((frechet, space, frechet_distance))
        plan.append(("kid", space, kernel_distance))
    plan += [("sliced", "data", sliced_wasserstein), ("energy", "data", energy_distance)]
    plan.append(("mmd", "data", gaussian_mmd))
    found = []
    for name, space, metric in plan:
        fewest = max(50, 2 * samples[space].shape[1]) if metric is frechet_distance else 50
        value = chance = None
        if n >= fewest:
            value = score(metric, *(side[space] for side in (samples, train, held_out)))
            if name == "mmd":
                chance = mmd_chance(_some(samples, space, n), _some(held_out, space, n))
        found.append(
            Figure(
                name=name,
                space=space,
                higher=False,
                score=value,
                fewest=fewest,
                n=n,
                chance=chance,
            )
        )
    return [*found, *_shares(features[0], n, samples, train, held_out)]


def _some(side: Side, space: str, n: int) -> np.ndarray:
    x = side[space]
    return x[generator("some").permutation(len(x))[:n]]


def _shares(space: str, n: int, samples: Side, train: Side, held_out: Side) -> list[Figure]:
    """The figures that are shares, whose errors have closed forms."""
    order = generator("reference", 0).permutation(len(held_out["data"]))[:n]

    def sets(side: Side, name: str) -> list[np.ndarray]:
        rows = generator("sets", name, 0).permutation(len(side["data"]))
        return list(rows[: len(rows) // n * n].reshape(-1, n)[:4])

    def beside(name: str, space: str, higher: bool, measure: _Measure) -> Figure:
        fewest = FEWEST_OF["network" if name.startswith("told") else "precision"]
        value = None
        if n >= fewest:
            reference, both = held_out[space][order], []
            for side, called in ((samples, "samples"), (train, "train")):
                measured = [measure(side[space][rows], reference) for rows in sets(side, called)]
                both += np.mean(measured, axis=0).tolist()
            keys = ("value", "spread", "floor", "floor_spread")
            value = Score(**dict(zip(keys, both, strict=True)), n=n)
        return Figure(name=name, space=space, higher=higher, score=value, fewest=fewest, n=n)

    def of(name: str) -> _Measure:
        def measure(x: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
            found = compare(reference, x)
            return getattr(found, name), found.error(name)

        return measure

    def told(tell: Callable[[np.ndarray, np.ndarray], Share]) -> _Measure:
        def measure(x: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
            found = tell(x, reference)
            return advantage(found), 0.5 / found.n**0.5

        return measure

    names = ("precision", "recall", "density", "coverage")
    return [
        *(beside(name, space, True, of(name)) for name in names),
        beside("told by neighbours", "fixed", False, told(neighbours_tell)),
        beside("told by a network", "data", False, told(network_tells)),
    ]
