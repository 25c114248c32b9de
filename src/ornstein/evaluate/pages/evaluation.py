"""The page of an evaluation: every figure beside its floor, and what to make of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ... import __version__
from ...data.image import ImageCodec
from ...rng import generator
from ...tasks.picture import png
from ..features.unlabelled import SelfTaught
from ..measures.bits import Profile, why_none
from ..measures.calibration import Calibration
from ..measures.copies import Copies
from ..measures.coverage import ceiling
from ..measures.figures import Figure, lacking
from ..measures.groups import Grouping
from ..measures.marginals import FEWEST, Marginals
from ..measures.metrics import Score
from ..measures.paired import Paired
from .bars import Bars, bars
from .curve import Line, chart
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
from .scenes import scenes
from .sheets import sheet

if TYPE_CHECKING:
    from ..evaluation import Evaluation

PICTURES, POINTS = 36, 2000  # examples shown of each side
BESIDE = ("", "samples", "between", "real data", "ratio", "worse by")

TITLES = {
    "frechet": "Fréchet distance",
    "fid": "FID",
    "kid": "KID",
    "sliced": "Sliced Wasserstein",
    "energy": "Energy distance",
    "mmd": "Gaussian MMD",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "told by neighbours": "Told by neighbours",
    "told by a network": "Told by a network",
}
SPACES = {
    "learned": "learned features",
    "fixed": "fixed features",
    "data": "data",
    "dinov2": "features of DINOv2",
    "clip": "features of CLIP",
    "inception": "features of Inception",
}


def evaluation_report(evaluation: "Evaluation", path: Path) -> Path:
    """Write the page. Every number in it was measured, and stands beside what real data reach."""
    run = evaluation.model.run
    name = run.path.name if run is not None else "A run"
    lede = (
        f"{len(evaluation.samples):,} examples were drawn from the run {name} and compared with "
        f"{len(evaluation.held_out):,} real ones that it never saw. Beside each figure stands its "
        f"floor: what the {len(evaluation.of_class):,} real examples it was trained on reach."
    )
    sections = [
        Section("At a glance", [_glance(evaluation), Prose(evaluation.verdict)]),
        Section("What it drew", _drew(evaluation)),
        Section("How good it is", _quality(evaluation.figures)),
        Section("Is it copying?", _copying(evaluation)),
    ]
    if evaluation.pairs is not None:
        sections.append(Section("How near to what belongs to the given", _pairs(evaluation.pairs)))
    if evaluation.scenes is not None:
        sections.append(Section("Does it draw what is asked for?", scenes(evaluation.scenes)))
    if evaluation.posterior is not None:
        found = _posterior(evaluation.posterior, evaluation.options.posterior)
        sections.append(Section("How sure its restorations are", found))
    sections.append(Section("What anybody would look at first", _marginals(evaluation.marginals)))
    if evaluation.groups:
        sections.append(Section("Who is drawn, and who is left out", _groups(evaluation.groups)))
    if evaluation.options.likely:
        sections.append(Section("How likely it finds real data", _likely(evaluation)))
    sections.append(Section("Which figure to trust", _trust()))
    sections.append(Section("How it was measured", _how(evaluation)))
    foot = (
        f"Written by ornstein {__version__}. The same run, data and seed give the same figures. "
        "This page is whole in itself: no scripts, nothing from the network."
    )
    return write_report(path, f"How good is {name}?", lede, sections, foot)


# --- Sections ------------------------------------------------------------------------------------


def _glance(evaluation: "Evaluation") -> Facts:
    facts = []
    for name, what in (("frechet", "Fréchet distance"), ("coverage", "Coverage")):
        figure = next(f for f in evaluation.figures if f.name == name and f.space != "inception")
        value = "too few" if figure.score is None else _number(figure.score.value)
        note = figure.sentence if figure.score is None else f"real: {_number(figure.score.floor)}"
        facts.append((what, value, note))
    copies = evaluation.copies
    if copies is None:
        facts.append(("Copies", "unknown", "too few examples to say"))
    else:
        word = "found" if copies.found else "leaning" if copies.leaning else "none seen"
        worst = copies.worst
        facts.append(("Copies", word, f"{worst.count:,} suspects in {worst.n:,}"))
    bits = evaluation.bits
    if bits is not None:
        facts.append(("Bits per dimension", f"{bits.flow:.2f}", f"bound: {bits.bound:.2f}"))
    return Facts(facts)


def _drew(evaluation: "Evaluation") -> list[Block]:
    codec = evaluation.samples.codec
    pictures = isinstance(codec, ImageCodec)
    count = PICTURES if pictures else POINTS
    order = generator("shown").permutation(len(evaluation.held_out))[:count].copy()  # of any class
    real = codec.pack(evaluation.held_out.stored[torch.from_numpy(order)])
    sides = (("Drawn", evaluation.samples.x[:count]), ("Real, never seen", real))
    return [
        Picture(
            data=png(sheet(codec, x, 12) if pictures else codec.preview(x)),
            alt=f"{name}: {len(x):,} examples",
            caption=f"{name}: {len(x):,}, not picked.",
            width=640 if pictures else 420,
        )
        for name, x in sides
    ]


def _quality(figures: Sequence[Figure]) -> list[Block]:
    rows, needs = [], dict[str, int]()
    for figure in figures:
        title = f"{TITLES[figure.name]}, {figure.space}"
        if figure.score is None:
            needs[title] = figure.fewest
            continue
        rows.append([title, *_beside(figure.score, figure.worse or 0.0)])
    blocks: list[Block] = []
    if rows:
        n = next(f.n for f in figures if f.score is not None)
        words = (
            "The last column says by how many standard deviations the samples are worse than "
            "real data: below 2 it may be chance, below 0 they are as good as the floor."
        )
        caption = (
            "Learned and fixed: features of a network trained on these data, and of a random one; "
            "data: the examples themselves. Told: how far above chance a classifier says which "
            f"are samples. Every comparison has {n:,} examples on each side. Between: 95\u00a0% of "
            "sets of that size, by the bootstrap for distances, by the closed form for shares. A "
            "ratio is given where the floor is not zero. Real data cover "
            f"{_share(ceiling())} of real data."
        )
        for figure in figures:
            if figure.chance is not None:
                caption += (
                    f" {TITLES[figure.name]}: of sets of one law, as many as "
                    f"{_share(figure.chance)} are as far apart, by 500 exchanges."
                )
        blocks += [Prose(words), Table(head=BESIDE, rows=rows, caption=caption)]
    if needs:
        few = f"Not measured, for a number would mislead: {lacking(needs, figures[0].n)}"
        blocks.append(Prose(few))
    return blocks


def _copying(evaluation: "Evaluation") -> list[Block]:
    blocks: list[Block] = [Prose(evaluation.verdict)]
    codec = evaluation.samples.codec
    if isinstance(codec, ImageCodec):
        which, near, ratio = evaluation.alike
        x = evaluation.samples.x[torch.from_numpy(which.copy())]
        real = codec.pack(evaluation.train.stored[torch.from_numpy(near.copy())])
        strips = [
            ("Drawn", png(sheet(codec, x)), f"The {len(x)} samples most like one real example"),
            ("Training", png(sheet(codec, real)), "The training example nearest to each"),
        ]
        caption = (
            f"The {len(x)} samples most like one single training example, and these examples. "
            f"Their distance is {ratio.min():.2f} to {ratio.max():.2f} times that to the second "
            "nearest."
        )
        blocks.append(Strips(strips=strips, caption=caption))
    if evaluation.copies is not None:
        blocks.append(_tests(evaluation.copies))
    if evaluation.pairs is not None:
        words = (
            "Draws of a run of pairs lie near the held-out examples whose given they were told: "
            "being nearer to training data cannot be seen here, copies of single examples can."
        )
        blocks.append(Prose(words))
    return blocks


def _tests(copies: Copies) -> Table:
    rows = []
    for space, found in copies.suspects.items():
        mine, real = found.count / found.n, found.control / found.controls
        rows.append(
            [
                f"Nearest under {found.ratio:.2g} of second, {space}",
                _share(mine),
                _share(real),
                f"p = {found.p:.2g}",
            ]
        )
    for space, lean in copies.nearer.items():
        rows.append(
            [
                f"Nearer to training than to held-out, {space}",
                _share(lean.share),
                _share(lean.expected),
                f"z = {lean.z:+.1f}",
            ]
        )
    for space, fair in copies.authentic.items():
        own = [_share(fair.share), _share(fair.real), f"p = {fair.p:.2g}"]
        rows.append([f"Authentic, {space}", *own])
    if (close := copies.closeness) is not None:
        rows.append(
            [
                "C_T: distance to training, against held-out",
                f"{close.c_t:+.2f}",
                "0",
                f"z = {close.c_t / close.error:+.1f}",
            ]
        )
    if (told := copies.membership) is not None:
        z = (told.auc - 0.5) / told.error
        rows.append(["Members told by their loss (AUC)", f"{told.auc:.3f}", "0.5", f"z = {z:+.1f}"])
    caption = (
        "In the data and in random features, neither fitted to the training data. Authentic: "
        "further from its nearest training example than the next training example is. C_T far "
        "below 0: samples lie nearer to training data than real data do, by copying or for lack of "
        "variety; far above 0: further away. These two are no part of the verdict."
    )
    return Table(head=("", "samples", "honest", "test"), rows=rows, caption=caption)


def _pairs(pairs: Paired) -> list[Block]:
    rows = []
    for name, distance in pairs.rows:
        between = f"{_number(distance.mae)} ± {_number(1.96 * distance.mae_error)}"
        rows.append([name.capitalize(), between, f"{distance.psnr:.2f} dB"])
    caption = (
        f"Of {pairs.n:,} held-out pairs, one draw from each given. The mean absolute difference is "
        "in the units of the data, with its interval of 95\u00a0%; PSNR is of the mean square. "
        "Where the given leaves much open, one draw of many right ones is farther off than a "
        "blurred mean would be."
    )
    head = ("", "mean difference", "PSNR")
    return [Prose(pairs.sentence), Table(head=head, rows=rows, caption=caption)]


def _posterior(found: Calibration, words: Sequence[str]) -> list[Block]:
    rows = []
    for share in (0.5, 0.9):
        low, high = found.interval(share)
        between = f"{_share(low)}\u2026{_share(high)}"
        rows.append([f"In the {100 * share:.0f} % band", _share(found.coverage(share)), between])
    rows.append(["In the 90 % band, everywhere", _share(found.everywhere), "–"])
    rows.append(["Ranks even (p)", f"{found.p_value:.2g}", "above 0.05"])
    caption = (
        f"Held-out examples were measured by {', '.join(words)} and restored {found.draws} times "
        "each. The first two rows are of one unknown place of each example, picked at random; "
        "where 95\u00a0% of right posteriors would lie stands beside them. The mean of the draws "
        f"has a PSNR of {found.psnr:.1f} dB. It took {found.cost}."
    )
    head = ("", "the truth lies", "expected")
    names, shares = found.histogram
    n = len(found.ranks)
    kinds = [
        Bars("the truth", [(s, (s * (1 - s) / n) ** 0.5) for s in shares]),
        Bars("expected", [(share, 0.0) for share in found.even]),
    ]
    words_of = "Where the truth ranks among the draws: as often at each, if the posterior is right."
    return [
        Prose(found.sentence),
        Table(head=head, rows=rows, caption=caption),
        Drawing(bars(names, kinds, describe=words_of), words_of),
    ]


def _marginals(found: Marginals) -> list[Block]:
    blocks: list[Block] = []
    for trace in found.traces:
        x = trace.x.tolist()
        lines = [Line("", x, edge.tolist()) for edge in trace.band]
        lines += [Line("real", x, trace.real.tolist()), Line("samples", x, trace.samples.tolist())]
        title = f"{trace.title}: samples beside real data"
        svg = chart(lines, x_name=trace.x_name, y_name=trace.y_name, describe=title)
        blocks.append(
            Drawing(svg, f"{title}; the faint lines hold 95\u00a0% of sets of real data.")
        )
    scores = [(c.name, c.score) for c in found.checks if c.score is not None]
    if rows := [[name, *_beside(score, score.excess)] for name, score in scores]:
        caption = (
            "Of the spectrum, the root mean square difference in decibels; of values, how far each "
            "must be moved on average to make the one histogram the other; of columns, the "
            "largest gap of two distribution functions; of correlations, their root mean square "
            "difference."
        )
        blocks.append(Table(head=BESIDE, rows=rows, caption=caption))
    worst = [c.sentence for c in found.checks if c.differs]
    if needs := {c.name: FEWEST for c in found.checks if c.score is None}:
        worst.append(lacking(needs, found.checks[0].n))
    words = " ".join(worst) or "Nothing differs more than chance allows."
    return [Prose(words), *blocks]


def _groups(groupings: Sequence[Grouping]) -> list[Block]:
    blocks: list[Block] = []
    for grouping in groupings:
        blocks.append(Prose(grouping.sentence))
        if not grouping.groups:
            continue
        groups, names = grouping.groups, [g.name for g in grouping.groups]
        drawn = [
            Bars("samples, as read", [(g.got.value, g.got.error) for g in groups]),
            Bars("real, as read", [(g.read.value, g.read.error) for g in groups]),
            Bars("real, in truth", [(g.data.value, g.data.error) for g in groups]),
        ]
        caption = f"Shares by {grouping.of}, with intervals of 95\u00a0%."
        blocks.append(Drawing(bars(names, drawn, describe=caption), caption))
        blocks.append(_group_table(grouping))
    return blocks


def _group_table(grouping: Grouping) -> Table:
    rows = []
    for g in grouping.groups:
        rows.append(
            [
                g.name,
                "–" if g.asked is None else _share(g.asked),
                _share(g.got.value),
                _share(g.read.value),
                "–" if g.right is None else _share(g.right.value),
                "–" if not g.real.n else _share(g.real.value),
                "–"
                if g.coverage is None
                else f"{_share(g.coverage.value)} ± {100 * g.coverage.error:.1f}",
                "–" if g.floor is None else _share(g.floor.value),
            ]
        )
    caption = (
        "Asked and got: shares of the samples; real: share of the held-out data that is read so. "
        "Right: of those asked to be it, the share that is read so, and of real data. Coverage: "
        "held-out examples of the group with a sample near, and with a training example near."
    )
    head = (grouping.of, "asked", "got", "real", "right", "real", "coverage", "real")
    return Table(head=head, rows=rows, caption=caption)


def _likely(evaluation: "Evaluation") -> list[Block]:
    bits = evaluation.bits
    if bits is None:
        return [Prose(why_none(evaluation.model))]
    unit = "of the integers" if bits.discrete else "of the density, in the units of the data"
    order = (
        "The bound lies above the likelihood, as it should."
        if bits.ordered
        else "The bound lies below the likelihood: the model contradicts itself; trust neither."
    )
    rows = [
        ["By the probability flow", f"{bits.flow:.3f}", f"{bits.flow_error:.3f}"],
        ["Variational bound", f"{bits.bound:.3f}", f"{bits.bound_error:.3f}"],
        ["Bound less flow", f"{bits.gap:.3f}", f"{bits.gap_error:.3f}"],
    ]
    caption = f"Of {bits.n:,} held-out examples; ± is the standard error over them. {order}"
    table = Table(head=("", "bits per dimension", "±"), rows=rows, caption=caption)
    words = f"Fewer bits {unit}: the model finds real data it never saw more likely."
    return [Prose(words), table, _profile(bits.profile)]


def _profile(profile: Profile) -> Drawing:
    """The errors from much noise to little, and where the figures stop."""
    shown = [
        (level, e) for level, e in zip(profile.log_snr, profile.error, strict=True) if e > 0.01
    ]
    start = shown[0][0]
    x = [level - start for level, _ in shown]
    most = max(1.0, *profile.error)
    lines = [
        Line("error", x, [e for _, e in shown]),
        Line("none known", [x[0], x[-1]], [1.0, 1.0]),
        Line("", [profile.end - start] * 2, [0.01, most]),
    ]
    words = (
        f"How wrong the network is about the noise, from a log-SNR of {start:g} on. At 1 it knows "
        "no more than the noisy example says. Both figures stop at the faint line, a log-SNR of "
        f"{profile.end:g}, where the bound is lowest on training data; which level of the data "
        "was meant is decided there."
    )
    svg = chart(lines, x_name=f"log-SNR, from {start:g}", y_name="error", describe=words)
    return Drawing(svg, words)


def _trust() -> list[Block]:
    return [
        Prose(
            "Coverage and recall fall when kinds of examples are missing; precision, density and "
            "the distances may not. Precision and density fall when samples are blurred or "
            "impossible. A network that tells samples from data sees more than any distance."
        ),
        Prose(
            "A model that copies its training data wins every one of these figures. Only the "
            "section on copying sees it: read it first. Learned features see meaning and may have "
            "overfitted the training data, so that samples can fall below their floor; fixed "
            "features are blind to meaning and cannot be misled. Trust what both say."
        ),
    ]


def _how(evaluation: "Evaluation") -> list[Block]:
    options, config = evaluation.options, evaluation.model.config.sample
    guidance = config.guidance if options.guidance is None else options.guidance
    rows = [
        ["Examples seen in training", f"{evaluation.model.seen:,}"],
        ["Sampler", options.sampler or config.sampler],
        ["Steps", f"{options.steps or config.steps:,}"],
        ["Guidance", f"{guidance:g}"],
        ["Seed", f"{options.seed}"],
        ["Compared with", options.against or "what training left out"],
    ]
    taught = any(isinstance(e, SelfTaught) for e in evaluation.encoders.values())
    if "learned" in evaluation.encoders:
        rows.append(["Learned features are of", "the examples alone" if taught else "the labels"])
    rows += [
        [f"SHA-256 of the {SPACES[name]}", encoder.sha256[:16] + "…"]
        for name, encoder in evaluation.encoders.items()
    ]
    run = evaluation.model.run
    where = "RUN" if run is None else run.path.name
    line = f"ornstein evaluate {where} --count {options.count} --seed {options.seed}"
    caption = "Figures of two runs are comparable if the data, n and these hashes are equal."
    return [
        Table(head=("", ""), rows=rows, caption=caption),
        Commands(
            [
                (
                    "Measure again with other draws",
                    line.replace(f"--seed {options.seed}", f"--seed {options.seed + 1}"),
                )
            ]
        ),
    ]


# --- Words ---------------------------------------------------------------------------------------


def _beside(score: Score, worse: float) -> list[str]:
    """A row under `BESIDE`, but for its name; `worse` is in standard deviations."""
    low, high = score.interval
    return [
        _number(score.value),
        f"{_number(low)}\u2026{_number(high)}",
        _number(score.floor),
        "–" if score.ratio is None else f"{score.ratio:.2f}",
        f"{worse:+.1f}",
    ]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"


def _share(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")
