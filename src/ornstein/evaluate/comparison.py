"""Diffusion beside a GAN, a VAE, a flow and two floors: the same data, time, weights, figures."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import DataOptions, Dataset, open_data
from ..data.codec import Codec, write_bytes
from ..data.open import Source
from ..errors import DivergedError, UsageError
from ..rng import generator
from ..tasks.options import CompareOptions, checked
from ..train.device import choose_device
from .contest.cost import peak_memory
from .contest.modes import Judge, Modes, judge_of
from .contest.rivals import RIVALS, Budget, Diffusion, Rival, now, plan
from .contest.trial import Entry, Trial
from .contest.verdict import OF_MODES, Contest, contests, number, verdict
from .evaluation import rounded
from .features.encoders import encoders_of
from .measures.copies import copies_among
from .measures.figures import Side, Spaces, measure_figures

SHOWN = 48  # samples kept of the first seed, or
POINTS = 2000  # of points
JUDGED = 400
"""Held-out examples that figures are measured against, at most, and four sets of as many on the
other sides: there are many models to measure, and the seeds say how much the figures scatter."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """All that was measured.

    Args:
        source: The data.
        options: How.
        codec: Of the data.
        train: What every model was trained on.
        held_out: What every model is compared with.
        entries: The models.
        real_modes: Of as many training examples; None where modes are not known.
        threads: Of the processor, for all.
        device: Where all was computed.
    """

    source: str
    options: CompareOptions
    codec: Codec
    train: Dataset
    held_out: Dataset
    entries: list[Entry]
    real_modes: Modes | None
    threads: int
    device: str

    @property
    def contests(self) -> list[Contest]:
        """What the models are compared in."""
        return contests(self.entries)

    @property
    def verdict(self) -> list[str]:
        """What to make of it, in sentences that follow from the figures."""
        return verdict(self.contests, self.entries)

    @property
    def facts(self) -> dict[str, Any]:
        """Everything as plain values, for programs: ``comparison.json``."""
        return {
            "schema": 1,
            "source": self.source,
            "fingerprint": self.held_out.fingerprint,
            "options": asdict(self.options),
            "train": len(self.train),
            "held_out": len(self.held_out),
            "threads": self.threads,
            "device": self.device,
            "real_modes": self.real_modes and asdict(self.real_modes),
            "models": {entry.name: entry.facts for entry in self.entries},
            "contests": {contest.title: self._row(contest) for contest in self.contests},
            "verdict": self.verdict,
        }

    def real(self, contest: Contest) -> float | None:
        """What real data reach: training examples, beside the same held-out ones."""
        if self.real_modes is not None and contest.title in OF_MODES:
            return OF_MODES[contest.title](self.real_modes)
        return contest.floor

    def _row(self, contest: Contest) -> dict[str, str]:
        """A contest in words, by the title of each model."""
        real = self.real(contest)
        first = {"Real data": "–" if real is None else number(real)}
        return first | {entry.title: contest.cell(entry.title) for entry in self.entries}

    def lines(self) -> list[str]:
        """What the command prints: the contests as a table, and the verdict."""
        rows = {contest.title: self._row(contest) for contest in self.contests}
        wide = max(map(len, rows))
        out = [" " * wide + "".join(f"{title:>18}" for title in next(iter(rows.values())))]
        for title, row in rows.items():
            out.append(f"{title:<{wide}}" + "".join(f"{cell:>18}" for cell in row.values()))
        return [*out, "", *self.verdict]


# --- Comparing -----------------------------------------------------------------------------------


def compare(
    source: Source,
    data: DataOptions | None = None,
    *,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Comparison:
    """Train a diffusion model and its rivals on the same data, and measure them alike.

    All models see the same standardised x without labels, compute in float32 on as many threads
    as PyTorch was given, have about as many weights, and as much time.

    Args:
        source: The data: what `open_data` takes.
        data: How they are read.
        device: Where to compute.
        say: Told what is being done.
        **options: Those of `CompareOptions`.

    Raises:
        UsageError: If an option is out of its bounds, or asks what not every model can do.
        DataError: If the data cannot be read.
    """
    chosen, place = checked(CompareOptions, options), choose_device(device)
    say("Reading the data")
    everything = _opened(source, data or DataOptions())
    train, held_out = everything.split(everything.options.validation, 0)
    if len(held_out) < 2:
        raise UsageError(
            f"There are {len(held_out):,} held-out examples to compare with: give more data, or "
            "a larger --data.validation."
        )
    say("Learning the features on which all models are measured")
    ground = _Ground(train, held_out, chosen, place)
    entries = [ground.enter(name, say) for name in chosen.models or ("diffusion", *RIVALS)]
    return Comparison(
        source=everything.source,
        options=chosen,
        codec=train.codec,
        train=train,
        held_out=held_out,
        entries=entries,
        real_modes=ground.real_modes,
        threads=torch.get_num_threads(),
        device=str(place),
    )


def _opened(source: Source, options: DataOptions) -> Dataset:
    """The data as every model can use them."""
    if options.flip or options.shift or options.given:
        raise UsageError(
            "Every model is compared on the data as they are: leave --data.flip, --data.shift and "
            "--data.given out."
        )
    return open_data(source, options)


class _Ground:
    """What all models are tried on.

    Args:
        train: With labels, if there are any: they make features, and no model sees them.
        held_out: Likewise.
        options: How.
        device: Where.
    """

    def __init__(
        self, train: Dataset, held_out: Dataset, options: CompareOptions, device: torch.device
    ) -> None:
        self.options, self.device, self.codec = options, device, train.codec
        encoders, _ = encoders_of(self.codec, train, held_out)
        spaces = Spaces(self.codec, encoders, train)
        self.spaces = spaces
        pack = self.codec.pack
        self.sides: tuple[Side, Side] = spaces(pack(train.stored)), spaces(pack(held_out.stored))
        self.judged = _some(self.sides[0], 4 * JUDGED), _some(self.sides[1], JUDGED)
        self.train, self.held_out = (
            replace(d, label=None, classes=[], attributes=None) for d in (train, held_out)
        )
        judge = judge_of(train)
        self.judge: Judge | None = judge
        rows = generator("modes").permutation(len(train))[: options.count].copy()
        self.real_modes = judge and judge(train.stored[torch.from_numpy(rows)].numpy())
        if options.seen is not None:
            self.budget = Budget(seen=options.seen)
        else:
            self.budget = Budget(seconds=60 * options.minutes)
        self.config = plan(self.train, self.budget, options.size)
        some = generator("likely").permutation(len(held_out))[: options.likely].copy()
        self.likely = self.held_out.subset(torch.from_numpy(some))

    def make(self, name: str) -> Rival:
        """A model that knows nothing yet."""
        diffusion = Diffusion(self.config, self.train)
        return diffusion if name == "diffusion" else RIVALS[name](diffusion.weights)

    def enter(self, name: str, say: Callable[[str], None]) -> Entry:
        """Train and measure one model from every seed."""
        first, seeds = self.options.seed, self.options.seeds
        one = self.make(name)
        say(f"{one.title}: one update, to see how much memory it takes")
        memory = peak_memory(
            lambda: one.fit(self.train, Budget(seen=1), first, self.device), self.device
        )
        trials, shown = [], None
        for seed in range(first, first + seeds):
            say(f"{one.title}: seed {seed}, {seed - first + 1} of {seeds}")
            trial, x = self.try_out(name, seed)
            trials.append(trial)
            shown = x if shown is None else shown
        weights, drawing = one.parameters
        most = SHOWN if len(self.codec.shape) > 1 else POINTS
        return Entry(
            name=name,
            title=one.title,
            weights=weights,
            drawing_weights=drawing,
            calls=one.calls,
            memory=memory,
            trials=trials,
            x=torch.empty(0, *self.codec.shape) if shown is None else shown[:most],
        )

    def try_out(self, name: str, seed: int) -> tuple[Trial, Tensor | None]:
        """One trial, and what was drawn in it, unless it failed."""
        model, began = self.make(name), now(self.device)
        try:
            model.fit(self.train, self.budget, seed, self.device)
        except DivergedError as error:
            return self._failed(model, seed, began, str(error)), None
        seconds = now(self.device) - began
        model.sample(min(64, self.options.count), seed + 1)  # the first call is slow
        began = now(self.device)
        x = model.sample(self.options.count, seed)
        drawing = (now(self.device) - began) / len(x)
        if not x.isfinite().all():
            return self._failed(model, seed, began, "It drew what is not finite."), None
        x = rounded(self.codec, x)
        side = self.spaces(x)
        likelihood = model.likelihood(self.train, self.likely) if len(self.likely) > 1 else None
        trial = Trial(
            seed=seed,
            seconds=seconds,
            seen=model.seen,
            drawing=drawing,
            figures=measure_figures(_some(side, 4 * JUDGED), *self.judged),
            copies=copies_among(side, *self.sides),
            modes=self.judge and self.judge(self.codec.stored(x)),
            likelihood=likelihood,
        )
        return trial, x

    def _failed(self, model: Rival, seed: int, began: float, why: str) -> Trial:
        seconds = now(self.device) - began
        return Trial(seed=seed, seconds=seconds, seen=model.seen, failure=why)


def _some(side: Side, count: int) -> Side:
    """`count` of the examples, the same in each space."""
    rows = generator("judged").permutation(len(side["flat"]))[:count]
    return {name: x[rows] for name, x in side.items()}


# --- Writing -------------------------------------------------------------------------------------


def write(comparison: Comparison, folder: Path) -> Path:
    """Write ``comparison.json`` and ``comparison.html``, and return the path of the page.

    Raises:
        StorageError: If the disk refuses.
    """
    from .pages.comparison import comparison_report

    text = json.dumps(comparison.facts, indent=1, default=str).encode()
    write_bytes(folder / "comparison.json", text)
    return comparison_report(comparison, folder / "comparison.html")
