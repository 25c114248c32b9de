"""Anomaly scores: how badly a run brings an example back, beside methods that need no run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..core.evidence import reconstructions
from ..core.likelihood import Range, log_likelihood, rademacher
from ..errors import UsageError
from ..progress import pieces
from ..rng import Streams, generator
from ..runs.model import Model
from .options import DetectOptions, RestoreOptions
from .restore import fill
from .sample import block

WHOLE, PEAK, REFILLED, UNLIKELY = "whole", "peak", "refilled", "unlikely"
SUSPECT = 0.2  # share of a picture that is covered and filled in
ORDINARY = 5.0  # standard deviations: peaks of normal pictures have a long tail below
FINEST = 6.0  # log-SNR: below that noise, the likelihood is of the levels of grey
TINY = 1e-12

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks against each of N examples, before anything is known of the normal ones.

    Args:
        errors: Squared error of the mean reconstruction, over channels, at each of L noise
            levels ``(L, N, *S)``.
        refilled: Squared error of what was filled in where a picture was covered, in the mean
            over it ``(N,)``; None if nothing was.
        unlikely: ``-log p`` for each dimension ``(N,)``; None if it was not computed.
        label: The class under which it looks most normal ``(N,)``, -1 for none.
        calls: Denoiser calls for each example.
    """

    errors: np.ndarray
    label: np.ndarray
    calls: int
    refilled: np.ndarray | None = None
    unlikely: np.ndarray | None = None

    def __getitem__(self, rows: slice) -> "Evidence":
        def cut(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Evidence(
            self.errors[:, rows],
            self.label[rows],
            self.calls,
            cut(self.refilled),
            cut(self.unlikely),
        )


def gather(
    model: Model, x: Tensor, options: DetectOptions, say: Say = lambda line: None
) -> Evidence:
    """The evidence against each example ``(N, C, *S)``; a function of the example, not its place.

    All examples are noised alike, so that equal examples have equal scores.
    """
    labels = _labels(model, options)
    size, errors, best = block(model), [], []
    levels = torch.tensor(options.levels, dtype=torch.float64)
    for first in pieces(range(0, len(x), size)):
        part = x[first : first + size].to(model.device)
        found = torch.stack([_errors(model, part, levels, options, c) for c in labels])
        # under each class, the sum over levels of the logarithm of the error
        total = found.reshape(*found.shape[:3], -1).mean(3).clamp_min(TINY).log().sum(1)
        chosen = total.argmin(0)
        errors.append(found[chosen, :, torch.arange(len(part))].transpose(0, 1).cpu())
        best.append(torch.tensor(labels)[chosen.cpu()])
    evidence = Evidence(
        torch.cat(errors, 1).double().numpy(),
        torch.cat(best).numpy(),
        len(labels) * len(levels) * 2 * options.pairs,
    )
    return _more(model, x, evidence, options, say)


def _labels(model: Model, options: DetectOptions) -> list[int]:
    """The classes to try; -1 stands for none of them in particular."""
    classes = len(model.vocabulary.classes)
    if options.under == "any" or not classes:
        return [-1]
    return list(range(classes))


def _errors(model: Model, x: Tensor, levels: Tensor, options: DetectOptions, label: int) -> Tensor:
    """Squared errors ``(L, B, *S)`` of the mean reconstruction under one class."""
    noise = Streams(options.seed, [0] * len(x))  # the same for all
    cond = _told(model, torch.full((len(x),), label))
    back = reconstructions(model.denoiser, x, levels, noise, options.pairs, **cond)
    return (x - back).square().mean(2)


def _told(model: Model, label: Tensor) -> dict[str, Tensor]:
    return {"label": label.to(model.device)} if model.vocabulary.classes else {}


def _more(
    model: Model, x: Tensor, evidence: Evidence, options: DetectOptions, say: Say
) -> Evidence:
    """The evidence with what costs more, if it was asked for."""
    refilled = unlikely = None
    calls = evidence.calls
    if options.refills:
        say(f"Covering and filling in the most suspect part of {len(x):,} examples")
        refilled = _refill(model, x, evidence, options)
        calls += options.refills * 2 * options.refill_steps
    if options.likelihood:
        say(f"Computing the likelihood of {len(x):,} examples")
        unlikely = _unlikely(model, x, evidence.label, options)
    return Evidence(evidence.errors, evidence.label, calls, refilled, unlikely)


def _refill(model: Model, x: Tensor, evidence: Evidence, options: DetectOptions) -> np.ndarray:
    """Mean squared difference between what was covered and what the run would put there."""
    if len(model.shape) == 1:
        raise UsageError("Only pictures can be covered and filled in: leave --refills out.")
    suspect = smoothed(evidence.errors).mean(0)
    edge = np.quantile(suspect.reshape(len(x), -1), 1 - SUSPECT, axis=1)
    hole = torch.from_numpy(suspect >= edge.reshape(-1, *(1,) * (suspect.ndim - 1)))[:, None]
    hole = hole.expand(x.shape)
    names = [*model.vocabulary.classes, "any"]
    told = tuple(names[c] for c in evidence.label for _ in range(options.refills))
    how = RestoreOptions(
        label=told if model.vocabulary.classes else None,
        draws=options.refills,
        steps=options.refill_steps,
        seed=options.seed,
        guidance=1.0,
    )
    drawn = fill(model, x, ~hole, how).unflatten(0, (len(x), options.refills))
    apart = ((drawn - x[:, None]).square() * hole[:, None]).flatten(1).sum(1)
    return (apart / (options.refills * hole.flatten(1).sum(1))).double().numpy()


def _unlikely(
    model: Model, x: Tensor, label: np.ndarray, options: DetectOptions, piece: int = 16
) -> np.ndarray:
    found = []
    for rows in pieces(torch.arange(len(x)).split(piece)):
        part = x[rows].to(model.device).double()
        probes = rademacher(Streams(options.seed, [0] * len(part)), part, 2)
        cond = _told(model, torch.from_numpy(label[rows.numpy()]))
        within = Range(log_snr_max=FINEST)
        log_p = log_likelihood(
            model.denoiser.given(**cond), part, probes=probes, tolerance=1e-3, within=within
        )
        found.append(-log_p.nats.cpu() / prod(model.shape))
    return torch.cat(found).numpy()


# --- Beside normal examples ----------------------------------------------------------------------


def smoothed(errors: np.ndarray) -> np.ndarray:
    """Errors ``(L, N, *S)`` averaged over neighbours: a fault is seldom one pixel."""
    width = smoothing(errors.shape[2:])
    return gaussian_filter(errors, (0, 0, *(width,) * (errors.ndim - 2)), mode="nearest")


def smoothing(space: Sequence[int]) -> float:
    """Standard deviation in pixels: a thirty-second of the side, at least half a pixel."""
    return max(0.5, min(space) / 32) if space else 0.0


@dataclass(frozen=True, eq=False)
class Scale:
    """What evidence against normal examples amounts to: the unit in which the rest is measured.

    Args:
        levels: Mean and standard deviation of the logarithm of the error at each level, each
            ``(L, 1)``.
        pixels: Likewise, of the smoothed error at each pixel ``(L, 1, *S)``; None for points.
        parts: Mean and standard deviation of each other part.
    """

    levels: tuple[np.ndarray, np.ndarray]
    pixels: tuple[np.ndarray, np.ndarray] | None
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, normal: Evidence) -> "Scale":
        """The scale that examples known to be normal set; two or more."""
        logs = _log_errors(normal.errors)
        levels = (logs.mean(1, keepdims=True), _spread(logs, 1))
        pixels = None
        if normal.errors.ndim > 2:
            maps = smoothed(normal.errors)
            spread = _spread(maps, 1)
            # where nothing ever happens, as at the rim of scans, a small error is no alarm
            floor = spread.reshape(len(maps), -1).mean(1).reshape(-1, *(1,) * (maps.ndim - 1))
            pixels = (maps.mean(1, keepdims=True), np.maximum(spread, 0.5 * floor))
        bare = cls(levels, pixels)
        raw = bare.raw(normal)
        parts = {name: (float(v.mean()), float(_spread(v, 0)[0])) for name, v in raw.items()}
        return cls(levels, pixels, parts)

    def raw(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """The parts of the score ``(N,)``, each in a unit of its own."""
        mean, spread = self.levels
        parts = {WHOLE: ((_log_errors(evidence.errors) - mean) / spread).mean(0)}
        if self.pixels is not None:
            peaks = self.heat(evidence).reshape(len(evidence.label), -1).max(1)
            parts[PEAK] = np.log1p(np.maximum(peaks, 0))
        if evidence.refilled is not None:
            parts[REFILLED] = np.log(np.maximum(evidence.refilled, TINY))
        if evidence.unlikely is not None:
            parts[UNLIKELY] = evidence.unlikely
        return parts

    def heat(self, evidence: Evidence) -> np.ndarray:
        """How many standard deviations above normal each pixel errs ``(N, *S)``."""
        assert self.pixels is not None
        mean, spread = self.pixels
        return ((smoothed(evidence.errors) - mean) / spread).mean(0)

    def score(self, evidence: Evidence) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The fused score ``(N,)``, and its parts in standard deviations of normal examples.

        ``score = z_whole + sum of max(0, z - ORDINARY)`` over the other parts: the whole always
        counts, what looks for one fault only where it is beyond what normal examples show.
        """
        z = {
            name: (values - self.parts[name][0]) / self.parts[name][1]
            for name, values in self.raw(evidence).items()
        }
        beyond = [np.maximum(v - ORDINARY, 0) for name, v in z.items() if name != WHOLE]
        return z[WHOLE] + np.sum(beyond, axis=0), z


def _log_errors(errors: np.ndarray) -> np.ndarray:
    """``(L, N)``: of errors, the logarithm is nearest to normal."""
    return np.log(np.maximum(errors.reshape(*errors.shape[:2], -1).mean(2), TINY))


def _spread(values: np.ndarray, axis: int) -> np.ndarray:
    spread = values.std(axis, keepdims=True, ddof=1)
    return np.where(spread > TINY, spread, 1.0)


# --- Beside other methods ------------------------------------------------------------------------

Judge = Callable[[np.ndarray], np.ndarray]
"""Scores ``(N,)`` of rows ``(N, D)``: larger is stranger."""

LEARNERS = 20_000
"""Training examples that the other methods learn from, at most."""


def baselines(train: np.ndarray) -> dict[str, Judge]:
    """What takes seconds and no run, learned from the same training data ``(M, D)``.

    The distance to the fifth neighbour, the error of the principal components that hold 95 % of
    the variance, and an isolation forest, as scikit-learn has them.
    """
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    train = train[generator("baselines").permutation(len(train))[:LEARNERS]]
    with threadpool_limits(1):
        near = NearestNeighbors(n_neighbors=min(5, len(train))).fit(train)
        axes = PCA(0.95, svd_solver="full").fit(train)
        forest = IsolationForest(random_state=0).fit(train)

    def off_the_plane(x: np.ndarray) -> np.ndarray:
        return ((x - axes.inverse_transform(axes.transform(x))) ** 2).sum(1)

    return {
        "neighbours": lambda x: near.kneighbors(x)[0][:, -1],
        "components": off_the_plane,
        "forest": lambda x: -forest.score_samples(x),
    }
