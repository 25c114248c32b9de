"""Say which class an example is of, with a run that was only trained to make examples."""

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.calibrate import LevelWeights, calibration_error, fit_weights
from ..core.evidence import code_lengths
from ..core.shares import Share
from ..data import Dataset
from ..data.codec import write_bytes
from ..data.table import safe_cell
from ..errors import UsageError
from ..progress import pieces
from ..rng import generator, normal
from ..runs.model import Model
from .anomaly import Say
from .examples import Places, flat, read_examples, training_data
from .options import ClassifyOptions, checked
from .sample import Run, block, opened

FOLDS = 5
FEWEST = 20  # held-out examples of known class
SURE = 4.0  # standard errors behind the best, at which a class is given up
BEFORE = 3  # rounds before any is


# --- Code lengths --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lengths:
    """What it takes to describe each example under each class.

    Args:
        nats: The mean over noises ``(N, K, L)``, at each noise level.
        calls: Denoiser calls, of all examples.
    """

    nats: Tensor
    calls: int


def measure_lengths(model: Model, x: Tensor, options: ClassifyOptions) -> Lengths:
    """Code lengths of examples ``(N, C, *S)`` under each class; a function of the example alone.

    Each round adds one noise, the same for all classes and levels, so that classes are compared
    by paired differences. A class that lies `SURE` standard errors behind the best is given up,
    and keeps the mean of its rounds.
    """
    classes, levels = len(model.vocabulary.classes), torch.tensor(options.levels).double()
    shape = (len(x), classes)
    rounds = torch.zeros(*shape, options.noises, dtype=torch.float64)
    total = torch.zeros(*shape, len(levels), dtype=torch.float64)
    count, alive = torch.zeros(shape), torch.ones(shape, dtype=torch.bool)
    calls = 0
    for number in pieces(range(options.noises)):
        eps = normal(model.shape, options.seed, "classify", number)
        open_rows = alive.sum(1) > 1
        if not open_rows.any():
            break
        pairs = (alive & open_rows[:, None]).nonzero()
        found = _one_round(model, x, pairs, levels, eps)
        i, c = pairs.T
        total[i, c] += found
        rounds[i, c, number] = found.sum(1)
        count[i, c] += 1
        calls += len(pairs) * len(levels)
        if number + 1 >= BEFORE:
            alive[open_rows] &= _still_open(rounds[open_rows, :, : number + 1], alive[open_rows])
    return Lengths(total / count[..., None], calls)


def _one_round(model: Model, x: Tensor, pairs: Tensor, levels: Tensor, eps: Tensor) -> Tensor:
    """Code lengths ``(P, L)`` of pairs (example, class) ``(P, 2)`` under one noise."""
    found = []
    for part in pieces(pairs.split(block(model))):
        some, label = x[part[:, 0]].to(model.device), part[:, 1].to(model.device)
        noise = eps.to(some).expand_as(some)
        found.append(code_lengths(model.denoiser, some, levels, noise, label=label).T.cpu())
    return torch.cat(found)


def _still_open(rounds: Tensor, alive: Tensor) -> Tensor:
    """Which classes are not yet `SURE` standard errors behind the best ``(n, K)``."""
    best = rounds.mean(2).masked_fill(~alive, torch.inf).argmin(1)
    behind = rounds - rounds.gather(1, best[:, None, None].expand(-1, 1, rounds.shape[2]))
    error = behind.std(2) / rounds.shape[2] ** 0.5
    return behind.mean(2) <= SURE * error


# --- Results -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How good the classes and their probabilities are, on examples the run never saw.

    Probabilities are those of weights that were fitted without the example, in five folds.

    Args:
        right: How often the most probable class is the true one.
        others: Likewise, of methods that learned from the same training data.
        error_before: Expected calibration error of the variational bound itself.
        error_after: Of the probabilities that are given.
        surprise_before: Mean of ``-log p(true class)`` by the bound itself, in nats.
        surprise_after: Of the probabilities that are given.
    """

    right: Share
    others: dict[str, Share]
    error_before: float
    error_after: float
    surprise_before: float
    surprise_after: float


@dataclass(frozen=True, eq=False)
class Classified:
    """What each example is.

    Args:
        ids: The file of each example.
        classes: Names of the K classes.
        probabilities: ``(N, K)``.
        trust: How much to believe them.
        calls: Denoiser calls for each example, in the mean.
    """

    ids: list[str]
    classes: tuple[str, ...]
    probabilities: np.ndarray
    trust: Trust
    calls: float

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> list[str]:
        """The most probable class of each."""
        return [self.classes[c] for c in self.probabilities.argmax(1)]

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values, for programs."""
        trust = asdict(self.trust)
        sure = self.probabilities.max(1)
        return {
            "trust": trust,
            "denoiser_calls": self.calls,
            "results": [
                {"path": path, "class": label, "probability": float(p)}
                for path, label, p in zip(self.ids, self.labels, sure, strict=True)
            ],
        }

    def lines(self, most: int = 20) -> list[str]:
        """What the command prints."""
        sure, trust = self.probabilities.max(1), self.trust
        out = [
            f"{path}  {label}  {p:.3f}"
            for path, label, p in zip(self.ids[:most], self.labels, sure, strict=False)
        ]
        if len(self) > most:
            out.append(f"... {len(self) - most:,} more")
        out.append(f"Right on {trust.right.n:,} examples the run never saw: {trust.right}.")
        others = [f"{name} {share}" for name, share in trust.others.items()]
        out.append(f"Other methods, from the same training data: {'; '.join(others)}.")
        out.append(
            f"Confidence is off by {trust.error_after:.1%} on average, before calibration "
            f"{trust.error_before:.1%}; the true class is a surprise of {trust.surprise_after:.3f} "
            f"nats, before {trust.surprise_before:.3f}."
        )
        out.append(f"Denoiser calls for each example: {self.calls:,.0f}.")
        return out

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``classes.csv``: path, class, and the probability of each class."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "class", *(safe_cell(f"p_{name}") for name in self.classes)])
        for path, label, p in zip(self.ids, self.labels, self.probabilities, strict=True):
            writer.writerow([safe_cell(path), safe_cell(label), *(f"{v:.6g}" for v in p)])
        return [write_bytes(Path(folder) / "classes.csv", text.getvalue().encode())]


# --- The verb ------------------------------------------------------------------------------------


def classify(
    run: Run,
    examples: Places,
    *,
    data: Dataset | None = None,
    device: str | torch.device = "auto",
    say: Say = lambda line: None,
    **options: Any,
) -> Classified:
    """Say which class each example is of, how probably, and how far to believe it.

    The class under which the run errs least when it takes noise off the example. The weight of
    each noise level is fitted on held-out examples, so that the probabilities are calibrated.

    Args:
        run: The run, or its folder.
        examples: Files, folders, patterns; or a stored batch ``(N, C, *S)`` in the data's units.
        data: What the run was trained on, if that was an array.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        say: Told how it goes.
        **options: Those of `ClassifyOptions`.

    Raises:
        UsageError: If the run has no classes, or too few held-out examples.
        DataError: If a file cannot be read, or is of another kind or size than the run's data.

    Source: Li et al. (2023), https://arxiv.org/abs/2303.16203.
    """
    chosen = checked(ClassifyOptions, options)
    if not list(chosen.levels) == sorted(set(chosen.levels)):
        raise UsageError(f"levels = {chosen.levels} must rise.")
    model = opened(run, device)
    words = model.vocabulary.classes
    if len(words) < 2:
        raise UsageError("This run was trained without labels: it knows no classes to tell apart.")
    if model.given is not None:
        raise UsageError("This run was trained on pairs: it cannot tell classes without the given.")
    given = read_examples(model, examples)
    train, held_out = training_data(model, data)
    known, label = _known(held_out, chosen.held_out)
    say(f"Classifying {len(known):,} held-out examples, to know how far to believe it")
    lengths = measure_lengths(model, model.codec.pack(known.stored), chosen)
    weights = fit_weights(lengths.nats, label)
    trust = _trust(model, lengths.nats, label, known, train)
    say(f"Classifying {len(given):,} examples")
    found = measure_lengths(model, model.codec.pack(given.stored), chosen)
    return Classified(
        given.ids, words, weights(found.nats).numpy(), trust, found.calls / len(given)
    )


def _known(held_out: Dataset, most: int) -> tuple[Dataset, Tensor]:
    """Held-out examples of known class, and their classes."""
    assert held_out.label is not None
    there = (held_out.label >= 0).nonzero()[:, 0]
    if len(there) < FEWEST:
        raise UsageError(
            f"There are {len(there)} held-out examples of known class, {FEWEST} are needed to "
            "calibrate: train with a larger --data.validation."
        )
    order = torch.from_numpy(generator("classify").permutation(len(there))[:most].copy())
    known = held_out.subset(there[order])
    assert known.label is not None
    return known, known.label


def _trust(model: Model, lengths: Tensor, label: Tensor, known: Dataset, train: Dataset) -> Trust:
    """Measured on held-out examples, each with weights that were fitted on the others."""
    fold = torch.arange(len(label)) % FOLDS
    p = torch.empty(lengths.shape[:2], dtype=torch.float64)
    for k in range(FOLDS):
        p[fold == k] = fit_weights(lengths[fold != k], label[fold != k])(lengths[fold == k])
    before = LevelWeights.bound(lengths.shape[2])(lengths)
    truth = label.numpy()
    x = flat(model.codec.pack(known.stored))
    said = {name: fitted.predict(x) for name, fitted in _others(model, train).items()}
    return Trust(
        right=_share(p.argmax(1).numpy(), truth),
        others={name: _share(labels, truth) for name, labels in said.items()},
        error_before=calibration_error(before.numpy(), truth),
        error_after=calibration_error(p.numpy(), truth),
        surprise_before=_surprise(before, label),
        surprise_after=_surprise(p, label),
    )


def _surprise(p: Tensor, label: Tensor) -> float:
    smallest = torch.finfo(p.dtype).tiny
    return float(-p[torch.arange(len(label)), label].clamp_min(smallest).log().mean())


def _share(said: np.ndarray, truth: np.ndarray) -> Share:
    return Share(hits=int((said == truth).sum()), n=len(truth))


def _others(model: Model, train: Dataset) -> dict[str, Any]:
    """What takes seconds: the nearest neighbour, and logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from threadpoolctl import threadpool_limits

    assert train.label is not None
    there = (train.label >= 0).nonzero()[:, 0]
    some = train.subset(there)
    x, label = flat(model.codec.pack(some.stored)), train.label[there].numpy()
    with threadpool_limits(1):
        return {
            "nearest neighbour": KNeighborsClassifier(1).fit(x, label),
            "logistic regression": LogisticRegression(max_iter=1000).fit(x, label),
        }
