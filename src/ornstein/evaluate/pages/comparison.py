"""The page of a comparison: what each model drew, how good it is, what it cost, who wins where."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ... import __version__
from ...data.codec import Codec
from ...data.image import ImageCodec
from ...rng import generator
from ...tasks.picture import png
from ..contest.verdict import OF_MODES, OURS, number
from .report import Block, Facts, Picture, Prose, Section, Strips, Table, write_report
from .sheets import GAP, sheet

if TYPE_CHECKING:
    from ..comparison import Comparison

IN_A_STRIP = 12  # pictures
NO_BREAK = "\u00a0"
PLOT, PLOTS = 320, 4  # pixels of a scatter plot, and how many in a row

QUALITY = ("Fréchet distance", "Energy distance", "Told by a network", "Bits per dimension")
DIVERSITY = ("Precision", "Recall", "Coverage", *OF_MODES)


def comparison_report(comparison: "Comparison", path: Path) -> Path:
    """Write the page. Its words follow from the figures."""
    options = comparison.options
    given = f"{options.seen:,} examples" if options.seen else _minutes(options.minutes)
    lede = (
        f"{len(comparison.entries)} models learned from the same {len(comparison.train):,} "
        f"examples of {comparison.source}, each network {options.seeds} times for {given}, with "
        "about as many weights. Beside each figure stands what real data reach."
    )
    sections = [
        Section("At a glance", [_glance(comparison)]),
        Section("Who wins where", [Prose(sentence) for sentence in comparison.verdict]),
        Section("What each drew", _drew(comparison)),
        Section("How good, and how likely real data are", _table(comparison, QUALITY, _QUALITY)),
        Section("How diverse", _table(comparison, DIVERSITY, _DIVERSITY)),
        Section("Training, seed by seed", [_trials(comparison)]),
        Section("What it costs", [_costs(comparison)]),
        Section("How it was compared", _how(comparison)),
    ]
    foot = (
        f"Written by ornstein {__version__}. With --seen in place of --minutes, the same data and "
        "seeds give the same figures but for the times. This page is whole in itself: no scripts, "
        "nothing from the network."
    )
    title = f"Which model for {Path(comparison.source).name}?"
    return write_report(path, title, lede, sections, foot)


# --- Sections ------------------------------------------------------------------------------------


def _glance(comparison: "Comparison") -> Facts:
    """For some figures the best of all networks, and our own."""
    found = {contest.title: contest for contest in comparison.contests}
    facts = []
    for title in ("Fréchet distance", "Coverage", "Modes found", "Bits per dimension"):
        if title not in found:
            continue
        contest = found[title]
        best = contest.best(list(contest.values))
        note = f"best: {best}"
        if OURS in contest.values and best != OURS:
            note += f"; diffusion: {number(contest.values[OURS].mean)}"
        facts.append((title, number(contest.values[best].mean), note))
    if (contest := found.get("Seconds to draw one")) and OURS in contest.values:
        seconds = contest.values[OURS].mean
        facts.append(("Diffusion draws", f"{1 / seconds:,.0f}", "examples in a second"))
    return Facts(facts)


def _drew(comparison: "Comparison") -> list[Block]:
    codec = comparison.codec
    count = IN_A_STRIP if isinstance(codec, ImageCodec) else len(comparison.held_out)
    rows = generator("shown").permutation(len(comparison.held_out))[:count].copy()
    real = codec.pack(comparison.held_out.stored[torch.from_numpy(rows)])
    sides = [("Real", real), *((e.title, e.x) for e in comparison.entries if len(e.x))]
    if isinstance(codec, ImageCodec):
        strips = [
            (name, png(sheet(codec, x[:count])), f"{len(x[:count])} examples: {name}")
            for name, x in sides
        ]
        return [Strips(strips=strips, caption=f"The first {count} of one seed each, not picked.")]
    names = ", ".join(name for name, _ in sides)
    picture = Picture(
        data=png(plots(codec, sides)),
        alt=f"Scatter plots: {names}",
        caption=f"{names}: of one seed each.",
        width=736,
    )
    return [picture]


def plots(codec: Codec, sides: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """Scatter plots in rows, the name above each."""
    across, down = PLOT + GAP, PLOT + 32
    rows = -(-len(sides) // PLOTS)
    out = Image.new("RGB", (across * min(PLOTS, len(sides)) - GAP, down * rows), "white")
    draw = ImageDraw.Draw(out)
    for i, (name, x) in enumerate(sides):
        left, top = i % PLOTS * across, i // PLOTS * down
        draw.text((left + 8, top + 6), name, fill=(27, 31, 36), font_size=18)
        plot = codec.preview(x).convert("RGB").resize((PLOT, PLOT))
        out.paste(plot, (left, top + 30))
    return out


_QUALITY = (
    "± is the standard deviation over the seeds, of one seed that over samples. Smaller is better "
    "in every column. Told: how far above chance a small network says which are samples. Bits per "
    "dimension: how the held-out examples would be stored by a code made of the model. That of "
    "diffusion is by its probability flow, that of the VAE a bound from 64 draws, a GAN has none, "
    "the others are exact; integers are spread over their levels, which makes all of them bounds."
)
_DIVERSITY = (
    "± likewise. More is better, but for the divergence, in nats, of the shares of the modes from "
    "those of the data. Precision and recall: the share of samples near real data, and of real "
    "data near samples. Coverage: the share of real examples with a sample near."
)


def _table(comparison: "Comparison", wanted: Sequence[str], caption: str) -> list[Block]:
    """The contests of these titles: a row for each model, and one for real data."""
    found = [c for title in wanted for c in comparison.contests if c.title == title]
    if not found:
        return [Prose("There are too few examples to say.")]
    reached = [comparison.real(contest) for contest in found]
    real = ["Real data", *("–" if value is None else number(value) for value in reached)]
    rows = [
        [e.title, *(c.cell(e.title).replace(" ", NO_BREAK) for c in found)]
        for e in comparison.entries
    ]
    return [Table(head=("", *(c.title for c in found)), rows=[real, *rows], caption=caption)]


def _trials(comparison: "Comparison") -> Table:
    """How each training ended."""
    rows = []
    for entry in comparison.entries:
        coverage = next((c for c in comparison.contests if c.title == "Coverage"), None)
        each = coverage.values[entry.title].each if coverage and entry.done else ()
        rows.append(
            [
                entry.title,
                f"{len(entry.trials)}",
                f"{len(entry.trials) - len(entry.done)}",
                f"{sum(t.collapsed for t in entry.done)}",
                f"{min(each):.2f}\u2060–\u2060{max(each):.2f}" if each else "–",
                f"{sum(t.copies is not None and t.copies.found for t in entry.done)}",
                f"{_mean([t.seconds for t in entry.trials]):.3g}",
                f"{_mean([t.seen for t in entry.trials]):,.0f}",
            ]
        )
    caption = (
        "Failed: the loss was no longer finite, or the samples were not. Collapsed: coverage "
        "under a third of that of real data. Copies: trainings whose samples are nearer to single "
        "training examples than real data are. Seconds and examples seen are means of a training."
    )
    head = ("", "trained", "failed", "collapsed", "coverage", "copies", "seconds", "seen")
    return Table(head=head, rows=rows, caption=caption)


def _costs(comparison: "Comparison") -> Table:
    found = {contest.title: contest for contest in comparison.contests}
    drawing = found.get("Seconds to draw one")
    rows = []
    for entry in comparison.entries:
        values = drawing.values if drawing else {}
        each = values[entry.title].mean if entry.title in values else None
        rows.append(
            [
                entry.title,
                "–" if each is None else number(1000 * each),
                f"{entry.calls}" if entry.drawing_weights else "0",
                f"{entry.weights:,}",
                f"{entry.drawing_weights:,}",
                f"{entry.memory / 2**20:,.1f}",
            ]
        )
    caption = (
        f"Milliseconds for each example, {comparison.options.count:,} drawn one after the other in "
        "batches. Calls of a network for one example. Weights: all that were fitted, and those of "
        "them that draw; of the kernel density, its training data. Memory: MiB in tensors at the "
        "fullest moment of one update."
    )
    head = ("", "ms to draw", "calls", "weights", "to draw", "memory")
    return Table(head=head, rows=rows, caption=caption)


def _how(comparison: "Comparison") -> list[Block]:
    options = comparison.options
    words = (
        "Every model sees the same standardised examples, without their labels, and computes in "
        f"float32 on {comparison.device} with {_threads(comparison.threads)}. The others "
        "take the width at which they have as many weights in all as the diffusion model. Samples "
        "are rounded as a file would hold them. A difference counts if Welch's test over the seeds "
        "leaves it less than one chance in twenty; costs, if they differ by a tenth."
    )
    rows = [
        ["Data", comparison.source],
        ["Training examples", f"{len(comparison.train):,}"],
        ["Held-out examples", f"{len(comparison.held_out):,}"],
        ["Samples of each", f"{options.count:,}"],
        ["Seeds", f"{options.seed} to {options.seed + options.seeds - 1}"],
    ]
    caption = "What was done to make each model strong is written in docs/comparison.md."
    return [Prose(words), Table(head=("", ""), rows=rows, caption=caption)]


# --- Words ---------------------------------------------------------------------------------------


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _minutes(minutes: float) -> str:
    return f"{60 * minutes:g} seconds" if minutes < 1 else f"{minutes:g} minutes"


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"
