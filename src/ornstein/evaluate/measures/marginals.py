"""What anybody would look at first: spectra, histograms, saturation; columns and correlations.

Each is a distance between sets, with its floor. They see faults that features were trained, or
happen, to overlook: pictures that are too smooth, too pale, or clipped.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...data.codec import Codec
from .metrics import Metric, Score, score

BINS = 32
COLUMNS = 32  # more columns are not looked at one by one
FEWEST = 50
CLEAR = 3.0  # standard deviations beyond the floor that are no chance


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that samples and data should have in common.

    Args:
        name: What.
        unit: Of the score, as words after a number.
        score: How far samples are from held-out data, and training data from the same; None if
            there were too few examples.
        n: Examples there were.
    """

    name: str
    unit: str
    score: Score | None
    n: int

    @property
    def differs(self) -> bool:
        """Are samples further from real data than chance allows?"""
        return self.score is not None and self.score.excess > CLEAR

    @property
    def sentence(self) -> str:
        """What to make of it."""
        if self.score is None:
            return f"{self.name}: needs {FEWEST} examples on each side, there are {self.n:,}."
        apart, real = (f"{v:.3g}{self.unit}" for v in (self.score.value, self.score.floor))
        end = "more than chance allows" if self.differs else "no more than chance allows"
        return f"{self.name}: {apart} from real data, which are {real} from each other: {end}."


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A curve of the samples beside that of real data and the band in which real data lie.

    Args:
        title: What it shows.
        x_name: Of the horizontal axis.
        y_name: Of the vertical one.
        x: ``(K,)``.
        samples: ``(K,)``.
        real: Likewise, of held-out data.
        band: The lowest and highest ``(2, K)`` of 95 % of sets of training data of that size.
    """

    title: str
    x_name: str
    y_name: str
    x: np.ndarray
    samples: np.ndarray
    real: np.ndarray
    band: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Marginals:
    """All checks, and the curves that belong to them."""

    checks: list[Check]
    traces: list[Trace]


def measure_marginals(codec: Codec, samples: Tensor, train: Tensor, held_out: Tensor) -> Marginals:
    """The checks that suit the modality.

    Args:
        codec: Of the data.
        samples: x ``(N, C, *S)``.
        train: Likewise.
        held_out: Likewise.
    """
    sides = [x.double().numpy() for x in (samples, train, held_out)]
    if len(codec.shape) == 1:
        return Marginals(checks=_columns(sides, _names(codec)), traces=[])
    checks, traces = [], []
    powers = [spectrum(x) for x in sides]
    checks.append(_check("Power spectrum", " dB", decibels, powers))
    frequency = np.arange(1, powers[0].shape[1] + 1) / (2 * powers[0].shape[1])
    traces.append(_trace("Power spectrum", "cycles per pixel", "power", frequency, powers))
    levels = [in_units(codec, x) for x in sides]
    low, high = _range(codec, levels[1])
    half = 0 if codec.levels is None else 0.5  # so that a level lies in the middle of its bin
    edges = np.linspace(low - half, high + half, 1 + min(BINS, codec.levels or BINS))
    width = float(edges[1] - edges[0])
    centres = (edges[1:] + edges[:-1]) / 2
    channels = codec.shape[0]
    counts = [histograms(x, edges) for x in levels]
    for c in range(min(channels, 4)):
        of = "Values" if channels == 1 else f"Values of channel {c + 1}"
        one = [h[:, c] for h in counts]
        distance: Metric = lambda a, b: transport(a, b, width)  # noqa: E731
        checks.append(_check(of, "", distance, one))
        traces.append(_trace(of, "value", "share", centres, one))
    clipped = [np.stack([x <= low, x >= high], -1).reshape(len(x), -1, 2).mean(1) for x in levels]
    checks.append(_check("Share at the ends of the range", "", largest_gap, clipped))
    return Marginals(checks=checks, traces=traces)


# --- Pictures, series, volumes -------------------------------------------------------------------


def spectrum(x: np.ndarray) -> np.ndarray:
    """The power at each distance from frequency 0, a mean over channels.

    Of x ``(N, C, *S)``, each example without its mean: ``(N, R)``, R half the shortest side, the
    r-th at ``r / (2 R)`` cycles per pixel; their sum is the variance of an example.
    """
    axes = tuple(range(2, x.ndim))
    power = np.abs(np.fft.fftn(x - x.mean(axes, keepdims=True), axes=axes)) ** 2
    power = power.mean(1) / np.prod(x.shape[2:]) ** 2
    frequencies = np.meshgrid(*map(np.fft.fftfreq, x.shape[2:]), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in frequencies))
    rings = max(2, min(x.shape[2:]) // 2)
    ring = np.clip(np.rint(2 * rings * radius).astype(int), 1, rings).ravel()  # corners in the last
    flat = power.reshape(len(x), -1)
    return np.stack([flat[:, ring == r].sum(1) for r in range(1, rings + 1)], 1)


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    """The root of the mean square of ``10 log10`` of the ratio of two mean spectra."""
    ratio = np.log10(np.maximum(a.mean(0), 1e-30) / np.maximum(b.mean(0), 1e-30))
    return float(np.sqrt(((10 * ratio) ** 2).mean()))


def histograms(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The share of the values of each example and channel in each bin ``(N, C, B)``."""
    count, bins = len(edges) - 1, np.clip(np.searchsorted(edges, values, "right") - 1, 0, None)
    flat = np.minimum(bins, count - 1).reshape(*values.shape[:2], -1)
    return np.stack([(flat == b).mean(2) for b in range(count)], 2)


def transport(a: np.ndarray, b: np.ndarray, width: float) -> float:
    """1-Wasserstein distance of two mean histograms with bins of that width."""
    return float(np.abs(np.cumsum(a.mean(0) - b.mean(0))).sum() * width)


def largest_gap(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference between two means of shares."""
    return float(np.abs(a.mean(0) - b.mean(0)).max())


def in_units(codec: Codec, x: np.ndarray) -> np.ndarray:
    """x in the units of the data."""
    wide = (-1, *(1,) * (x.ndim - 2))
    return x * np.reshape(codec.std, wide) + np.reshape(codec.mean, wide)


def _range(codec: Codec, train: np.ndarray) -> tuple[float, float]:
    """Of the values of integers; of other numbers, of the training data."""
    if codec.range is None:
        return float(train.min()), float(train.max())
    low, high = (np.reshape(end.numpy(), -1) for end in codec.range)
    mean, std = np.array(codec.mean), np.array(codec.std)
    return float((low * std + mean).min()), float((high * std + mean).max())


def _trace(title: str, x_name: str, y_name: str, x: np.ndarray, sides: list[np.ndarray]) -> Trace:
    samples, train, held_out = (side.mean(0) for side in sides)
    error = 1.96 * sides[1].std(0) / min(len(side) for side in sides) ** 0.5
    band = np.stack([train - error, train + error])
    return Trace(
        title=title, x_name=x_name, y_name=y_name, x=x, samples=samples, real=held_out, band=band
    )


# --- Points and tables ---------------------------------------------------------------------------


def _columns(sides: list[np.ndarray], names: list[str]) -> list[Check]:
    checks = []
    for i, name in enumerate(names[:COLUMNS]):
        checks.append(_check(f"Distribution of {name}", "", furthest, [x[:, i] for x in sides]))
    if len(names) > 1:
        checks.append(_check("Correlations of the columns", "", correlation_gap, sides))
    return checks


def furthest(a: np.ndarray, b: np.ndarray) -> float:
    """The largest gap between two distribution functions: the statistic of Kolmogorov-Smirnov."""
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    shares = (np.searchsorted(x, both, "right") / len(x) for x in (a, b))
    return float(np.abs(np.subtract(*shares)).max())


def correlation_gap(a: np.ndarray, b: np.ndarray) -> float:
    """The root of the mean square difference of two correlation matrices, off the diagonal."""
    with np.errstate(invalid="ignore"):  # a constant column has none
        gap = np.subtract(*(np.nan_to_num(np.corrcoef(x.T)) for x in (a, b)))
    return float(np.sqrt((gap[~np.eye(len(gap), dtype=bool)] ** 2).mean()))


def _names(codec: Codec) -> list[str]:
    names = getattr(codec, "columns", None)
    return list(names) if names else [f"column {i + 1}" for i in range(codec.shape[0])]


def _check(name: str, unit: str, metric: Metric, sides: list[np.ndarray]) -> Check:
    n = min(map(len, sides))
    found = score(metric, *sides) if n >= FEWEST else None
    return Check(name=name, unit=unit, score=found, n=n)
