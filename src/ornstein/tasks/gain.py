"""What drawn examples are worth: a classifier trained with them, and without."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..progress import pieces
from ..rng import generator
from .anomaly import Say

RESAMPLES = 2000
COMPONENTS = 256  # more numbers in an example are first reduced to so many
HIDDEN = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Examples as rows ``(N, D)`` and their classes ``(N,)``."""

    x: np.ndarray
    label: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Balanced accuracy on held-out examples, the mean over seeds.

    Args:
        real: Of classifiers that learned from the real examples alone.
        repeated: From the real ones, those of rare classes repeated as often as others are drawn.
        drawn: From real and drawn ones.
        difference: ``drawn - real``, seed by seed on the same held-out examples.
        interval: 95 % of it: seeds, and held-out examples of each class, drawn again.
        over_repeated: ``drawn - repeated``, likewise.
        over_repeated_interval: Likewise.
        seeds: How many.
        n: Held-out examples.
    """

    real: float
    repeated: float
    drawn: float
    difference: float
    interval: tuple[float, float]
    over_repeated: float
    over_repeated_interval: tuple[float, float]
    seeds: int
    n: int

    def lines(self) -> list[str]:
        """In words, also where it is a loss."""
        low, high = self.interval
        word = "A gain" if low > 0 else "A loss" if high < 0 else "No difference that is sure"
        first = (
            f"{word}: a classifier reads {self.drawn:.1%} with the drawn examples, {self.real:.1%} "
            f"without: {self.difference:+.1%} ({low:+.1%} to {high:+.1%}; balanced accuracy, "
            f"{self.seeds} seeds, {self.n:,} held-out examples)."
        )
        low, high = self.over_repeated_interval
        second = (
            f"Repeating real ones instead: {self.repeated:.1%}; drawing against repeating: "
            f"{self.over_repeated:+.1%} ({low:+.1%} to {high:+.1%})."
        )
        return [first, second]


def measure_gain(
    real: Labelled, drawn: Labelled, held_out: Labelled, seeds: int, say: Say = lambda line: None
) -> Gain:
    """Train small networks on three sets, with the same seeds, and compare them.

    Args:
        real: The real training examples.
        drawn: What was drawn beside them.
        held_out: Real examples that neither the classifiers nor the run saw.
        seeds: At least one.
        say: Told how it goes.
    """
    sets = {
        "real": real,
        "repeated": _join(real, _repeat(real, drawn.label)),
        "drawn": _join(real, drawn),
    }
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    right: dict[str, list[np.ndarray]] = {name: [] for name in sets}
    say(f"Training classifiers with the drawn examples and without, {seeds} times each")
    for seed in pieces(range(seeds)):
        for name, examples in sets.items():
            with warnings.catch_warnings(), threadpool_limits(1):
                warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy says it
                net = _classifier(real.x, seed).fit(examples.x, examples.label)
            right[name].append(net.predict(held_out.x) == held_out.label)
    hits = {name: np.array(found, float) for name, found in right.items()}  # (seeds, N)
    weight = _balanced(held_out.label)
    mean = {name: float((found @ weight).mean()) for name, found in hits.items()}
    difference, repeated = hits["drawn"] - hits["real"], hits["drawn"] - hits["repeated"]
    return Gain(
        real=mean["real"],
        repeated=mean["repeated"],
        drawn=mean["drawn"],
        difference=mean["drawn"] - mean["real"],
        interval=paired_interval(difference, held_out.label),
        over_repeated=mean["drawn"] - mean["repeated"],
        over_repeated_interval=paired_interval(repeated, held_out.label),
        seeds=seeds,
        n=len(held_out.label),
    )


def paired_interval(difference: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """95 % of the balanced mean of `difference` ``(seeds, N)``, by the bootstrap.

    Seeds are drawn again, and examples within each class `label` ``(N,)``.
    """
    draw, found = generator("gain"), np.empty(RESAMPLES)
    seeds = len(difference)
    members = [np.flatnonzero(label == c) for c in np.unique(label)]
    for i in range(RESAMPLES):
        mean = difference[draw.integers(seeds, size=seeds)].mean(0)
        found[i] = np.mean([mean[m[draw.integers(len(m), size=len(m))]].mean() for m in members])
    low, high = np.quantile(found.round(12), [0.025, 0.975])  # a mean of zeros may not be zero
    return float(low), float(high)


def _balanced(label: np.ndarray) -> np.ndarray:
    """Weights ``(N,)`` under which each class counts alike; their sum is 1."""
    _, place, count = np.unique(label, return_inverse=True, return_counts=True)
    return 1 / (len(count) * count[place])


def _join(a: Labelled, b: Labelled) -> Labelled:
    return Labelled(x=np.concatenate([a.x, b.x]), label=np.concatenate([a.label, b.label]))


def _repeat(real: Labelled, wanted: np.ndarray) -> Labelled:
    """Real examples of the classes `wanted` ``(M,)``, drawn with replacement."""
    draw = generator("repeat")
    rows = [draw.choice(np.flatnonzero(real.label == c)) for c in wanted]
    return Labelled(x=real.x[rows], label=real.label[rows])


def _classifier(x: np.ndarray, seed: int) -> Any:
    """A network with one hidden layer, on principal components if there are many numbers."""
    from sklearn.decomposition import PCA
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline

    net = MLPClassifier((HIDDEN,), alpha=1e-3, max_iter=150, random_state=seed)
    if x.shape[1] <= COMPONENTS:
        return make_pipeline(net)
    return make_pipeline(PCA(min(COMPONENTS, *x.shape), random_state=0), net)
