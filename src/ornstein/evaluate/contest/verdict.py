"""Who is better in what: each figure over the seeds, compared by a test, and put into words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, ttest_ind_from_stats

from .modes import Modes
from .rivals import FLOORS, Diffusion
from .trial import Entry, Trial

CHANCE = 0.05  # a difference that chance makes more often is none
LEAST = 1.1  # ratio of costs below which they are called alike
OURS = Diffusion.title


@dataclass(frozen=True, kw_only=True)
class Values:
    """A figure of one model.

    Args:
        each: Of each seed that did not fail.
        spread: Standard deviation of one of them for other samples; 0 where there is no such.
        floor: Of real data; None where there is none.
    """

    each: tuple[float, ...]
    spread: float = 0.0
    floor: float | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.each))

    @property
    def std(self) -> float:
        """Over the seeds; of one seed, over other samples."""
        return float(np.std(self.each, ddof=1)) if len(self.each) > 1 else self.spread


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One figure of all models.

    Args:
        title: On pages.
        higher: Whether more is better.
        cost: Whether it is a cost, which is compared as a ratio.
        values: By the title of each model that has any.
    """

    title: str
    higher: bool
    cost: bool
    values: dict[str, Values]

    @property
    def floor(self) -> float | None:
        """What real data reach."""
        floors = [v.floor for v in self.values.values() if v.floor is not None]
        return floors[0] if floors else None

    @property
    def phrase(self) -> str:
        """The title within a sentence."""
        return phrase(self.title)

    def better(self, a: str, b: str) -> bool:
        """Is `a` better than `b`, beyond what chance makes?

        By Welch's test over the seeds; of a single seed by the spread of the figure over samples,
        and never where that is not known.
        """
        one, two = self.values[a], self.values[b]
        gap = one.mean - two.mean if self.higher else two.mean - one.mean
        if gap <= 0:
            return False
        if self.cost:
            return max(one.mean, two.mean) > LEAST * min(one.mean, two.mean)
        n, m, s, t = len(one.each), len(two.each), one.std, two.std
        if s == t == 0:
            return min(n, m) > 1
        if min(n, m) < 2:
            return 2 * float(norm.sf(gap / (s**2 + t**2) ** 0.5)) < CHANCE
        test = ttest_ind_from_stats(one.mean, s, n, two.mean, t, m, equal_var=False)
        return float(test.pvalue) < CHANCE  # pyright: ignore[reportAttributeAccessIssue]

    def best(self, among: Sequence[str]) -> str:
        sign = -1 if self.higher else 1
        return min(among, key=lambda title: sign * self.values[title].mean)

    def cell(self, title: str) -> str:
        """``0.41 ± 0.02``, or a dash."""
        if title not in self.values:
            return "–"
        found = self.values[title]
        if self.cost or found.std == 0:
            return number(found.mean)
        return f"{number(found.mean)} ± {number(found.std, 2)}"


def phrase(title: str) -> str:
    """A title within a sentence: names keep their capital."""
    return title if title.startswith("Fréchet") else title[0].lower() + title[1:]


def number(value: float, digits: int = 3) -> str:
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e3:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-3 else f"{value:.{digits - 1}e}"


# --- Which figures -------------------------------------------------------------------------------


QUALITY = (
    ("Fréchet distance", "frechet"),
    ("Energy distance", "energy"),
    ("Told by a network", "told by a network"),
    ("Precision", "precision"),
    ("Recall", "recall"),
    ("Coverage", "coverage"),
)
DIVERGENCE = "Divergence of modes"
OF_MODES: dict[str, Callable[[Modes], float | None]] = {
    "Modes found": lambda modes: modes.found,
    "Samples in a mode": lambda modes: modes.good,
    DIVERGENCE: lambda modes: modes.kl,
}


def contests(entries: Sequence[Entry]) -> list[Contest]:
    """The figures that there are, those of quality first, then what they cost."""
    found = [_of_figure(entries, title, name) for title, name in QUALITY]
    found += [
        *(
            _of(entries, title, title != DIVERGENCE, lambda t, get=get: t.modes and get(t.modes))
            for title, get in OF_MODES.items()
        ),
        _of(entries, "Bits per dimension", False, lambda t: t.likelihood and t.likelihood.bits),
        _of(entries, "Seconds to draw one", False, lambda t: t.drawing, cost=True),
    ]
    memory = {e.title: Values(each=(float(e.memory),)) for e in entries}
    found.append(Contest(title="Bytes to train", higher=False, cost=True, values=memory))
    return [contest for contest in found if contest.values]


def _of(
    entries: Sequence[Entry],
    title: str,
    higher: bool,
    get: Callable[[Trial], float | None],
    cost: bool = False,
) -> Contest:
    values = {}
    for entry in entries:
        each = tuple(float(v) for t in entry.done if (v := get(t)) is not None)
        if each:
            values[entry.title] = Values(each=each)
    return Contest(title=title, higher=higher, cost=cost, values=values)


def _of_figure(entries: Sequence[Entry], title: str, name: str) -> Contest:
    """A figure of quality, in the most telling space it was measured in."""
    values, higher = {}, False
    for entry in entries:
        figures = [next(f for f in t.figures if f.name == name) for t in entry.done]
        scores = [f.score for f in figures if f.score is not None]
        if scores:
            higher = figures[0].higher
            values[entry.title] = Values(
                each=tuple(s.value for s in scores),
                spread=scores[0].spread,
                floor=scores[0].floor,
            )
    return Contest(title=title, higher=higher, cost=False, values=values)


# --- In words ------------------------------------------------------------------------------------


def verdict(found: Sequence[Contest], entries: Sequence[Entry]) -> list[str]:
    """Sentences that follow from the figures alone."""
    sentences = []
    ours = next((e for e in entries if e.title == OURS), None)
    rivals = [e.title for e in entries if e.title not in (OURS, *FLOORS)]
    floors = [e.title for e in entries if e.title in FLOORS]
    if ours is not None and ours.done and rivals:
        sentences += _against_rivals(found, rivals)
    if ours is not None and ours.done and floors:
        sentences += _against_floors(found, floors)
    sentences += [_stability(entry) for entry in entries if entry.title not in FLOORS]
    copying = [e.title for e in entries for t in e.done if t.copies and t.copies.found]
    if copying:
        names = ", ".join(f"{n} ({copying.count(n)})" for n in dict.fromkeys(copying))
        sentences.append(f"Copies of training examples were found in trainings of: {names}.")
    return [sentence for sentence in sentences if sentence]


def _against_rivals(found: Sequence[Contest], rivals: Sequence[str]) -> list[str]:
    """Where diffusion wins against the other networks, where it loses, where neither."""
    wins, losses, draws = [], [], []
    for contest in found:
        others = [r for r in rivals if r in contest.values]
        if OURS not in contest.values or not others:
            continue
        best = contest.best(others)
        both = f"{contest.cell(OURS)}; {best}: {contest.cell(best)}"
        beats = all(contest.better(OURS, other) for other in others)
        beaten = [other for other in others if contest.better(other, OURS)]
        if beats:
            wins.append(f"{contest.phrase} ({both})")
        elif beaten:
            times = ""
            if contest.cost:
                ratio = contest.values[OURS].mean / contest.values[best].mean
                times = f", {ratio:.3g} times as much"
            losses.append(f"{contest.phrase} ({both}{times})")
        else:
            draws.append(f"{contest.phrase} ({both})")
    return [
        f"Diffusion is better than every other network in: {'; '.join(wins)}." if wins else "",
        f"Diffusion loses in: {'; '.join(losses)}." if losses else "",
        f"No clear difference from the best other in: {'; '.join(draws)}." if draws else "",
    ]


def _against_floors(found: Sequence[Contest], floors: Sequence[str]) -> list[str]:
    """Where a model without a network does as well."""
    sentences = []
    for floor in floors:
        quality = [c for c in found if not c.cost and {OURS, floor} <= c.values.keys()]
        ahead = [c.phrase for c in quality if c.better(floor, OURS)]
        alike = [
            c.phrase for c in quality if not c.better(floor, OURS) and not c.better(OURS, floor)
        ]
        if ahead:
            sentences.append(f"{floor}, without a network, beats diffusion in: {', '.join(ahead)}.")
        if alike:
            sentences.append(f"{floor}, without a network, does as well in: {', '.join(alike)}.")
        if quality and not ahead and not alike:
            sentences.append(f"Diffusion beats {floor}, which has no network, in every figure.")
    return sentences


def _stability(entry: Entry) -> str:
    """How its trainings went."""
    failed = [t for t in entry.trials if t.failure]
    collapsed = [t for t in entry.done if t.collapsed]
    n = len(entry.trials)
    if not failed and not collapsed:
        return f"{entry.title}: {n} of {n} trainings ended well."
    parts = []
    if failed:
        parts.append(f"{len(failed)} of {n} failed ({failed[0].failure})")
    if collapsed:
        parts.append(f"{len(collapsed)} of {n} collapsed, covering under a third of what real do")
    return f"{entry.title}: {', '.join(parts)}."
