"""The demo's report: what it shows, in which order, in which words."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...data.codec import Codec
from ...tasks.picture import png
from ..measures.metrics import Score
from .curve import Line, chart, smooth
from .report import (
    Block,
    Commands,
    Drawing,
    Facts,
    Picture,
    Prose,
    Section,
    Strips,
    Table,
    write_report,
)
from .sheets import animated, sheet

if TYPE_CHECKING:
    from ..demo import Demo

COLUMNS = 10  # samples of each class that are shown
SPAN = 4  # of the running mean of the loss, in rows of the log


def demo_report(demo: "Demo", path: Path) -> Path:
    """Write the report of the demo. Nothing in it is known in advance: all was measured."""
    minutes = demo.seconds["training"] / 60
    total = sum(demo.seconds.values())
    classes = len(demo.train.classes)
    lede = (
        f"A diffusion model learned from {len(demo.train):,} scanned handwritten digits for "
        f"{minutes:.1f} minutes on this machine, and then drew the digits below. "
        "None of them was ever written by a hand."
    )
    quality = demo.quality
    facts = Facts(
        [
            (
                "Read as asked",
                f"{quality.agreement.value:.1%}".replace("%", " %"),
                f"real digits: {quality.accuracy.value:.1%}".replace("%", " %"),
            ),
            (
                "Fréchet distance",
                f"{quality.frechet.value:.1f}",
                f"real digits: {quality.frechet.floor:.1f}",
            ),
            ("Seconds in all", f"{total:.0f}", f"{demo.seconds['training']:.0f} of them training"),
            ("Examples seen", f"{demo.model.seen:,}", f"in a run of {_parameters(demo)} weights"),
        ]
    )
    sections = [
        Section("What it drew", [facts, *_grid(demo, classes)]),
        Section("From noise to digits", [_animation(demo)]),
        Section("Mending a picture", _mending(demo)),
        Section("Is it copying?", _copying(demo)),
        Section("How it learned", _learning(demo)),
        Section("How good it is", _figures(demo)),
        Section("Where the time went", [_times(demo)]),
        Section("What else this run can do", _what_else(demo)),
        Section("Go on from here", [_commands(demo)]),
    ]
    foot = (
        f"Written by ornstein {demo.run.identity.get('ornstein', '')}. Data: the test part of the "
        "Optical Recognition of Handwritten Digits set (Alpaydin & Kaynak, 1998), as it comes "
        "with scikit-learn. This page is whole in itself: no scripts, nothing from the network."
    )
    return write_report(path, "Digits that never existed", lede, sections, foot)


# --- Sections ------------------------------------------------------------------------------------


def _grid(demo: "Demo", classes: int) -> list[Block]:
    x, names = demo.samples.x, demo.train.classes
    strips = []
    for c in range(classes):
        row = x[c::classes][:COLUMNS]
        alt = f"{len(row)} samples that were asked to be a {names[c]}"
        strips.append((names[c], _strip(demo.model.codec, row), alt))
    caption = (
        f"The first {COLUMNS} of {len(x) // classes} samples of each digit, not picked. The "
        f"number on the left is what was asked for. {_how(demo)}"
    )
    return [Strips(strips=strips, caption=caption)]


def _animation(demo: "Demo") -> Picture:
    codec, frames = demo.model.codec, demo.frames
    columns = -(-len(frames[0]) // 2)
    pictures = [sheet(codec, x, columns) for x in frames]
    alt = f"An animation: noise turns into the digits {', '.join(demo.train.classes)}"
    caption = (
        f"One digit of each kind, from noise to data in {len(frames)} steps. What moves is x_t at "
        "unit variance: every frame is what the network was given, at less and less noise."
    )
    return Picture(
        data=animated(pictures), alt=alt, caption=caption, still=png(pictures[-1]), width=420
    )


def _mending(demo: "Demo") -> list[Block]:
    restored = demo.restored
    draws = restored.samples.x.unflatten(0, (len(restored.given), restored.draws))
    given = restored.given[:, None]
    rows = torch.cat([given, draws, given], 1)
    missing = torch.zeros_like(rows[:, :, :1], dtype=torch.bool)
    missing[:, 0] = ~restored.keep[:, :1]
    words = (
        "Digits the model never saw, with a part taken away. Given the rest, the same model draws "
        "what may have been there: nothing is trained anew, and what was known is kept exactly."
    )
    picture = Picture(
        data=png(sheet(demo.model.codec, rows.flatten(0, 1), rows.shape[1], missing.flatten(0, 1))),
        alt="Masked digits, three restorations of each, and the originals",
        caption=f"From left to right: what was kept, {restored.draws} restorations, the original.",
        width=420,
    )
    return [Prose(words), picture]


def _copying(demo: "Demo") -> list[Block]:
    quality, pair = demo.quality, demo.neighbours
    codec, count = demo.model.codec, len(pair.samples)
    words = (
        f"The median distance from a sample to the nearest training digit is "
        f"{quality.to_train:.2f}; from a real digit that the model never saw it is "
        f"{quality.held_to_train:.2f}. Copies would be far closer than real digits are."
    )
    strips = Strips(
        strips=[
            ("drawn", _strip(codec, pair.samples), f"The {count} samples"),
            ("nearest", _strip(codec, pair.nearest), "The training digit nearest to each"),
        ],
        caption=(
            f"The worst cases: of {len(demo.samples):,} samples, the {count} that lie closest to "
            "a training digit, above that digit."
        ),
    )
    return [Prose(words), strips]


def _learning(demo: "Demo") -> list[Block]:
    rows = [row for row in demo.log if "train/loss" in row]
    seen, loss = [row["seen"] for row in rows], [row["train/loss"] for row in rows]
    lines = [Line("", seen, loss), Line("training", seen, smooth(loss, SPAN))]
    held = [row for row in demo.log if "val/loss" in row]
    if held:
        name = "held out"
        lines.append(Line(name, [r["seen"] for r in held], [r["val/loss"] for r in held]))
    describe = f"The loss falls from {loss[0]:.2f} to {smooth(loss, SPAN)[-1]:.2f}"
    svg = chart(lines, x_name="examples seen", y_name="loss", describe=describe)
    verdict = demo.verdict
    blocks: list[Block] = [Drawing(svg, f"{describe}, over {demo.model.seen:,} examples seen.")]
    return [Prose(f"The training doctor says: {verdict}"), *blocks] if verdict else blocks


def _figures(demo: "Demo") -> list[Block]:
    quality = demo.quality

    def row(name: str, score: Score) -> list[str]:
        both = [(score.value, score.spread), (score.floor, score.floor_spread)]
        figures = [f"{value:.3g} ± {spread:.2g}" for value, spread in both]
        return [name, *figures, f"{score.n:,}"]

    agreed, right = quality.agreement, quality.accuracy
    shares = [f"{p.value:.1%} ± {p.error:.1%}".replace("%", " %") for p in (agreed, right)]
    rows = [
        row("Fréchet distance, features", quality.frechet),
        row("Energy distance, pixels", quality.energy),
        ["Read as asked", *shares, f"{agreed.n:,} / {right.n:,}"],
    ]
    words = (
        "A figure alone says nothing: beside each stands what real digits reach. The distances are "
        "those of samples, and of real training digits, to real digits held out from training; "
        "both have a bias that depends on n, so compare them with each other only."
    )
    table = Table(
        head=("", "samples", "real digits", "n"),
        rows=rows,
        caption=(
            "± is the standard deviation of one set of n, by the bootstrap; for the shares, their "
            "standard error. The features are the 64 of the last hidden layer of a small network "
            "trained on the real digits. Who reads is a support vector machine, trained likewise."
        ),
    )
    return [Prose(words), table]


def _times(demo: "Demo") -> Table:
    total = sum(demo.seconds.values())
    rows = [
        (part.capitalize(), f"{seconds:.1f}", f"{seconds / total:.0%}".replace("%", " %"))
        for part, seconds in demo.seconds.items()
    ]
    rows.append(("In all", f"{total:.1f}", ""))
    drawn = demo.seconds["sampling"] / len(demo.samples) * 1000
    caption = f"{len(demo.samples):,} samples were drawn, {drawn:.1f} milliseconds each."
    return Table(head=("", "seconds", "share"), rows=rows, caption=caption)


def _what_else(demo: "Demo") -> list[Block]:
    tried, codec = demo.tried, demo.model.codec
    run, mask = _as_typed(demo.run.path), _as_typed(tried.mask)
    scans = _as_typed(tried.scans[0].parent)
    scan = _as_typed(next(p for p in tried.scans if p.stem.endswith(tried.label)))
    words = (
        "All but the students without further training. The lines work as they stand, but for the "
        f"last two; digits in {scans} are ten that the run never saw. More, with pictures, in the "
        "project's pages, which are named here."
    )
    strips = Strips(
        strips=[
            ("varied", _strip(codec, tried.varied), f"A {tried.label}, and variations of it"),
            ("as others", _strip(codec, tried.as_others), f"The same {tried.label} as each digit"),
        ],
        caption=(
            f"Above, a {tried.label} that the run never saw, and what becomes of it on the way "
            "back from noise. Below, the same, encoded as what it is and decoded as each digit."
        ),
    )
    lines = [
        ("Mend it (docs/restoring.md)", f"restore {run} {scan} --mask {mask} --grid mended.png"),
        ("Vary it (docs/editing.md)", f"edit {run} {scan} --strength 0.6 --grid varied.png"),
        (
            "Write it as another digit (docs/editing.md)",
            f"edit {run} {scan} --how encode --source {tried.label} --label 8 --grid eight.png",
        ),
        ("What is unlike the data? (docs/detecting.md)", f"detect {run} {scans}"),
        ("Which digit is it? (docs/classifying.md)", f"classify {run} {scans}"),
        (
            "A larger training set (docs/augmenting.md)",
            f"augment {run} --out larger --per-class 20",
        ),
        ("Draw in few steps (docs/samplers.md)", f"tune {run} --calls 4"),
        ("Students of few steps (docs/distilling.md)", f"distill {run} --steps 8 4"),
        ("Measure all of it (docs/evaluation.md)", f"evaluate {run}"),
        (
            "With data of yours: masks of pictures, or large ones of small ones (docs/pairs.md)",
            "train PAIRS --given image --make mask --out masks",
        ),
        ("Likewise: words to pictures (docs/text.md)", "train PICTURES --minutes 30 --out words"),
    ]
    return [Prose(words), strips, Commands([(what, f"ornstein {line}") for what, line in lines])]


def _commands(demo: "Demo") -> Commands:
    run = _as_typed(demo.run.path)
    one = demo.train.classes[3 % len(demo.train.classes)]
    return Commands(
        [
            (
                "Draw 64 of one digit",
                f"ornstein sample {run} -n 64 --label {one} --grid {one}.png",
            ),
            ("Look at the run", f"ornstein show {run}"),
            ("Look at your own data", "ornstein show FOLDER"),
            ("Train on them for ten minutes", "ornstein train FOLDER --minutes 10 --out my-run"),
        ]
    )


# --- Words and pictures --------------------------------------------------------------------------


def _as_typed(path: Path) -> str:
    """A path as one would type it here: relative if it lies below, quoted if it must be."""
    here = Path.cwd()
    return quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _how(demo: "Demo") -> str:
    config = demo.model.config.sample
    guided = f", guidance {config.guidance:g}" if config.guidance != 1 else ""
    return f"Sampler: {config.sampler}, {config.steps} steps{guided}."


def _parameters(demo: "Demo") -> str:
    count = sum(p.numel() for p in demo.model.denoiser.net.parameters())
    return f"{count / 1e6:.2f} million" if count >= 1e5 else f"{count:,}"


def _strip(codec: Codec, x: Tensor) -> bytes:
    return png(sheet(codec, x))
