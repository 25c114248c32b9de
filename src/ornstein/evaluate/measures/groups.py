"""Who is drawn how often, and who is left out: shares and coverage of each group of the data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...core.shares import Share
from ...data import Dataset
from ...rng import generator
from ..features.labelled import LEARNERS, Labeller
from .coverage import NEIGHBOURS, covered
from .figures import Side

PARTS = 4  # of the range of a numeric attribute, equally many training examples in each
READABLE = 0.2  # of the variance of an attribute that must be told from features
CLEAR = 3.0  # standard deviations that are no chance


@dataclass(frozen=True, kw_only=True)
class Group:
    """One class, or one part of the range of an attribute: what was asked, what came, what is.

    Args:
        name: Of the group.
        asked: Share of the samples that were asked to be of it; None if nothing was asked.
        got: Of the samples, those that are read as of it.
        read: Likewise, of held-out data: what reading makes of the truth.
        data: Of the held-out data, those that are of it.
        right: Of the samples asked to be of it, those read so; None if nothing was asked.
        real: Likewise, of held-out data.
        coverage: Its held-out examples near which there is a sample; None if too few.
        floor: Likewise, near which there is a training example.
    """

    name: str
    asked: float | None
    got: Share
    read: Share
    data: Share
    right: Share | None
    real: Share
    coverage: Share | None
    floor: Share | None

    @property
    def short(self) -> bool:
        """Is it drawn less often than it is read in the data, beyond chance?"""
        return below(self.got, self.read)

    @property
    def left_out(self) -> bool:
        """Is less of it covered than real data cover, beyond chance?"""
        if self.coverage is None or self.floor is None:
            return False
        return below(self.coverage, self.floor)


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """The groups by one property.

    Args:
        of: Of what: ``class``, or the name of an attribute.
        groups: In order.
        reader: How well the property is read from examples, in words.
    """

    of: str
    groups: list[Group]
    reader: str

    @property
    def sentence(self) -> str:
        """What to make of it."""
        if not self.groups:
            return f"By {self.of}: {self.reader}"
        found = []
        if short := [group for group in self.groups if group.short]:
            each = (f"{g.name} ({g.got.value:.1%} against {g.read.value:.1%})" for g in short)
            found.append("drawn less often than in the data: " + ", ".join(each))
        if out := [group for group in self.groups if group.left_out]:
            found.append("covered less than real data cover: " + ", ".join(g.name for g in out))
        words = "; ".join(found) or "no group is drawn or covered less than chance allows"
        return f"By {self.of}: {words.replace('%', ' %')}. {self.reader}"


def below(a: Share, b: Share) -> bool:
    """Is the share `a` clearly less than `b`? By the z of two proportions, pooled."""
    pooled = (a.hits + b.hits) / (a.n + b.n)
    error = (pooled * (1 - pooled) * (1 / a.n + 1 / b.n)) ** 0.5
    return error > 0 and (b.value - a.value) / error > CLEAR


def group(
    sides: Sequence[Side],
    train: Dataset,
    held_out: Dataset,
    labeller: Labeller | None,
    asked: Sequence[str] | None,
    wanted: dict[str, float],
) -> list[Grouping]:
    """Groups by class, if they can be read, and by each numeric attribute of the data.

    Args:
        sides: Samples, training and held-out data in each space.
        train: What the run was trained on.
        held_out: What it never saw.
        labeller: Who reads classes.
        asked: The class that each sample was asked to be of.
        wanted: What all samples were asked to be, by the name of the attribute.
    """
    space = "learned" if "learned" in sides[0] else "fixed"
    within = _near(*(side[space] for side in sides))
    found = []
    if labeller is not None:
        found.append(_by_class(labeller, sides, held_out, asked, within))
    if train.attributes is not None and held_out.attributes is not None:
        for name in train.attributes.names:
            if name in held_out.attributes.names:
                values = [_column(data, name) for data in (train, held_out)]
                features = [side[space] for side in sides]
                found.append(_by_value(name, features, values, wanted.get(name), within))
    return found


_Near = tuple[np.ndarray, np.ndarray] | None
"""Which held-out examples a sample is near to, and which a training example is."""


def _near(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> _Near:
    """By as many samples as training examples and held-out data; None if they are too few."""
    n = min(len(samples), len(train), len(held_out))
    if n <= NEIGHBOURS:
        return None
    some = (x[generator("groups").permutation(len(x))[:n]] for x in (samples, train))
    ours, real = (covered(held_out, x) for x in some)
    return ours, real


def _by_class(
    labeller: Labeller,
    sides: Sequence[Side],
    held_out: Dataset,
    asked: Sequence[str] | None,
    within: _Near,
) -> Grouping:
    assert held_out.label is not None
    wanted = None
    if asked is not None:
        place = {name: i for i, name in enumerate(held_out.classes)}
        wanted = np.array([place.get(name, -1) for name in asked])
    said, said_of_real = (labeller(side["flat"]) for side in (sides[0], sides[2]))
    label = held_out.label.numpy()
    names = {c: held_out.classes[c] for c in labeller.classes.tolist() if (label == c).any()}
    groups = _groups(names, label, said, said_of_real, wanted, within)
    reader = f"Who reads is right about {labeller.accuracy} of real data."
    return Grouping(of="class", groups=groups, reader=reader)


def _by_value(
    name: str,
    features: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    wanted: float | None,
    within: _Near,
) -> Grouping:
    """By parts of the range of a numeric attribute, as a regression on features reads it."""
    samples, train, held_out = features
    (known, at), (there, truth) = (
        _present(x, v) for x, v in zip((train, held_out), values, strict=True)
    )
    if min(len(at), len(truth)) < 50 or np.ptp(truth) == 0:
        return Grouping(of=name, groups=[], reader="too few examples have it.")
    read = _reader(known[:LEARNERS], at[:LEARNERS])
    explained = 1 - ((read(there) - truth) ** 2).mean() / truth.var()
    if explained < READABLE:
        reader = f"it cannot be read from examples (R² = {explained:.2f})."
        return Grouping(of=name, groups=[], reader=reader)
    inner = np.unique(np.quantile(at, np.arange(1, PARTS) / PARTS))
    edges = [-np.inf, *inner.tolist(), np.inf]
    spans = pairwise(edges)
    names = {i: _span(name, *span) for i, span in enumerate(spans)}
    label = np.where(np.isfinite(values[1]), np.digitize(values[1], inner), -1)
    said, said_of_real = (np.digitize(read(x), inner) for x in (samples, held_out))
    asked = None if wanted is None else np.full(len(samples), np.digitize(wanted, inner))
    groups = _groups(names, label, said, said_of_real, asked, within)
    reader = f"It is read from features with R² = {explained:.2f} on real data."
    return Grouping(of=name, groups=groups, reader=reader)


def _groups(
    names: dict[int, str],
    label: np.ndarray,
    said: np.ndarray,
    said_of_real: np.ndarray,
    asked: np.ndarray | None,
    within: _Near,
) -> list[Group]:
    found = []
    for c, name in names.items():
        real = label == c
        wanted = None if asked is None else asked == c
        found.append(
            Group(
                name=name,
                asked=None if wanted is None else float(wanted.mean()),
                got=_share(said == c),
                read=_share(said_of_real[label >= 0] == c),
                data=_share(real[label >= 0]),
                right=_share((said == c)[wanted]) if wanted is not None and wanted.any() else None,
                real=_share((said_of_real == c)[real]),
                coverage=_share(within[0][real]) if within is not None and real.any() else None,
                floor=_share(within[1][real]) if within is not None and real.any() else None,
            )
        )
    return found


def _reader(x: np.ndarray, value: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A linear reading of features, as stiff as leaving one out says."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13))).fit(x, value).predict


def _share(hits: np.ndarray) -> Share:
    return Share(hits=int(hits.sum()), n=len(hits))


def _column(data: Dataset, name: str) -> np.ndarray:
    assert data.attributes is not None
    return data.attributes.values[:, data.attributes.names.index(name)].double().numpy()


def _present(x: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    there = np.isfinite(value)
    return x[there], value[there]


def _span(name: str, low: float, high: float) -> str:
    if low == -np.inf:
        return f"{name} below {high:.4g}"
    return f"{name} from {low:.4g}" if high == np.inf else f"{name} {low:.4g} to {high:.4g}"
