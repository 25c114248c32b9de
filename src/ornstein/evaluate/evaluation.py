"""A run measured: how good, how diverse, how like its training data, each beside its floor."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset
from ..data.codec import Codec, storage, write_bytes
from ..errors import UsageError
from ..rng import generator
from ..runs.model import Model
from ..runs.prompt import quoted
from ..tasks.examples import other_data, training_data
from ..tasks.options import EvaluateOptions, SampleOptions, checked
from ..tasks.sample import Run, Samples, opened, stream
from .features.encoders import encoders_of, packed
from .features.foundation import Foundation
from .features.labelled import Encoder
from .measures.bits import Bits, losses, measure_bits, why_none
from .measures.calibration import Calibration, calibrate, in_words
from .measures.copies import Copies, copies_among, most_alike
from .measures.figures import Figure, Spaces, lacking, measure_figures
from .measures.groups import Grouping, group
from .measures.marginals import Check, Marginals, measure_marginals
from .measures.paired import Paired, context_of_pairs, measure_pairs
from .measures.scenes import Judged, judge_run

SHOWN = 8  # samples beside their nearest training examples
ASKED = 500  # captions of scenes, at most
HOW = ("guidance", "guidance_interval", "sampler", "steps", "time_grid", "threshold")
MEMBERS = 2000  # examples of which the loss is compared, at most

Say = Callable[[str], None]


# --- What is found -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """All that was measured of a run.

    Args:
        model: The run.
        options: How.
        samples: What was drawn, as the files would hold it.
        train: What the run was trained on.
        of_class: What of it is of the classes asked for: what samples and held-out data are
            compared with.
        held_out: What it is compared with.
        figures: Of quality.
        copies: None where there are too few examples to ask.
        bits: None if they were not asked for, or the data have none.
        pairs: None for a run that is given nothing.
        posterior: How calibrated restorations are; None if it was not asked for.
        scenes: Whether pictures show what is asked for; None but for a run of scenes.
        groups: By class and by attribute; empty without either.
        marginals: Spectra and histograms, or columns and correlations.
        encoders: What the features were, by the name of their space.
        alike: Places of the samples most like one training example, of these, and the ratios of
            the first to the second neighbour.
    """

    model: Model
    options: EvaluateOptions
    samples: Samples
    train: Dataset
    of_class: Dataset
    held_out: Dataset
    figures: list[Figure]
    copies: Copies | None
    bits: Bits | None
    pairs: Paired | None = None
    posterior: Calibration | None = None
    scenes: Judged | None = None
    groups: list[Grouping] = field(default_factory=list)
    marginals: Marginals
    encoders: dict[str, Encoder] = field(default_factory=dict)
    alike: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def verdict(self) -> str:
        """What to make of copying, in words."""
        if self.copies is None:
            few = min(len(self.samples), len(self.of_class), len(self.held_out))
            return f"Whether it copies cannot be said from {few:,} examples."
        return self.copies.verdict

    @property
    def facts(self) -> dict[str, Any]:
        """Everything as plain values, for programs: ``metrics.json``."""
        run = self.model.run
        return {
            "schema": 1,
            "run": run and run.identity["id"],
            "seen": self.model.seen,
            "options": asdict(self.options),
            "train": len(self.of_class),
            "held_out": len(self.held_out),
            "held_out_fingerprint": self.held_out.fingerprint,
            "figures": {figure.key: _plain(figure) for figure in self.figures},
            "copies": self.copies and _copies(self.copies),
            "verdict": self.verdict,
            "bits_per_dimension": self.bits and asdict(self.bits),
            "pairs": self.pairs and asdict(self.pairs),
            "posterior": self.posterior and self.posterior.facts,
            "scenes": self.scenes and self.scenes.facts,
            "groups": [asdict(grouping) for grouping in self.groups],
            "marginals": {check.name: _checked(check) for check in self.marginals.checks},
            "encoders": {name: encoder.sha256 for name, encoder in self.encoders.items()},
        }

    def lines(self) -> list[str]:
        """What the command prints: each figure with its floor, and the verdict."""
        out, needs = [], dict[str, int]()
        for figure in self.figures:
            score = figure.score
            if score is None:
                needs[figure.key] = figure.fewest
            else:
                both = f"{score.value:.3g} ± {score.spread:.2g}, real {score.floor:.3g}"
                chance = "" if figure.chance is None else f", p = {figure.chance:.2g}"
                out.append(f"{figure.key:<28} {both}{chance}")
        if needs:
            out.append(lacking(needs, self.figures[0].n))
        if self.bits is not None:
            both = f"{self.bits.flow:.3f} ± {self.bits.flow_error:.3f}"
            out.append(f"{'bits per dimension':<28} {both}, bound {self.bits.bound:.3f}")
        elif self.options.likely:
            out.append(f"{'bits per dimension':<28} {why_none(self.model)}")
        if self.pairs is not None:
            out.append(self.pairs.sentence)
        if self.posterior is not None:
            out.append(self.posterior.sentence)
        if self.scenes is not None:
            out += self.scenes.lines()
        checked = [c.sentence for c in self.marginals.checks if c.differs]
        return [*out, *checked, *(grouping.sentence for grouping in self.groups), self.verdict]

    @property
    def headline(self) -> dict[str, float]:
        """A few figures for the model card."""
        found = {f.key: f.score for f in self.figures if f.score is not None}
        wanted = [key for key in found if key.startswith(("frechet", "coverage"))]
        card = {f"{key}, n = {found[key].n}": found[key].value for key in wanted}
        card |= {f"{key}, floor": found[key].floor for key in wanted}
        if self.bits is not None:
            card["bits per dimension, held out"] = self.bits.flow
        return card


def _plain(figure: Figure) -> dict[str, Any]:
    if figure.score is None:
        return {"too_few": figure.sentence}
    score = figure.score
    return asdict(score) | {
        "interval": score.interval,
        "ratio": score.ratio,
        "worse": figure.worse,
        "chance": figure.chance,
        "higher_is_better": figure.higher,
    }


def _checked(check: Check) -> dict[str, Any]:
    return {"score": check.score and asdict(check.score), "sentence": check.sentence}


def _copies(copies: Copies) -> dict[str, Any]:
    return asdict(copies) | {"found": copies.found, "leaning": copies.leaning}


# --- Measuring -----------------------------------------------------------------------------------


def evaluate(
    run: Run,
    against: Dataset | str | None = None,
    *,
    device: str | torch.device = "auto",
    say: Say = lambda line: None,
    **options: Any,
) -> Evaluation:
    """Draw from a run, and measure what was drawn against data the run never saw.

    Args:
        run: The run, or its folder.
        against: Held-out data, or where they are; what training left out by default.
        device: Where to draw.
        say: Told what is being done.
        **options: Those of `EvaluateOptions`.

    Raises:
        UsageError: If an option is out of its bounds, or there are no held-out data.
        DataError: If the data are not of the kind the run was trained on.
    """
    given = against if isinstance(against, str) else None
    chosen = checked(EvaluateOptions, {**({"against": given} if given else {}), **options})
    if chosen.given is not None:
        raise UsageError("Runs of pairs are given what held-out examples are: leave --given out.")
    model, measured = opened(run, device), in_words(chosen.posterior)
    train, held_out = _sides(model, against if isinstance(against, Dataset) else chosen.against)
    of_class, held_out = _compared(model, train, held_out, chosen.label)
    say(f"Drawing {chosen.count:,} examples")
    samples, pairs = _drawn(model, chosen, held_out)
    say("Measuring quality")
    encoders, labeller = encoders_of(model.codec.data, of_class, held_out, chosen.features)
    spaces = Spaces(model.codec.data, encoders, of_class)
    x = (samples.x, packed(model.codec.data, of_class), packed(model.codec.data, held_out))
    sides = [spaces(one) for one in x]
    figures = measure_figures(*sides)
    marginals = measure_marginals(model.codec.data, *x)
    wanted = chosen.attributes or {}
    groups = group(sides, of_class, held_out, labeller, samples.labels, wanted)
    say("Looking for copies")
    known = None if of_class is train else spaces(packed(model.codec.data, train))
    told = partial(losses, model, count=MEMBERS, seed=chosen.seed)
    copies = copies_among(
        *sides, losses=lambda: (told(data=of_class), told(data=held_out)), every=known
    )
    return Evaluation(
        model=model,
        options=chosen,
        samples=samples,
        train=train,
        of_class=of_class,
        held_out=held_out,
        figures=figures,
        copies=copies,
        bits=_likelihood(model, train, held_out, chosen, say),
        pairs=pairs,
        posterior=_calibrated(model, held_out, chosen, measured, say),
        scenes=_judged(model, train, chosen, say),
        groups=groups,
        marginals=marginals,
        encoders=encoders,
        alike=most_alike(sides[0]["flat"], (known or sides[1])["flat"], SHOWN),
    )


def _sides(model: Model, against: Dataset | str | None) -> tuple[Dataset, Dataset]:
    """What the run was trained on, and what it is to be compared with."""
    train, held_out = training_data(model)
    if against is None:
        return train, held_out
    return train, other_data(model, against) if isinstance(against, str) else against


def _compared(
    model: Model, train: Dataset, held_out: Dataset, label: Sequence[str] | None
) -> tuple[Dataset, Dataset]:
    """What of both is of the classes asked for: all, if none are, or any."""
    asked = {model.vocabulary.label(name) for name in label or ()}
    if asked and -1 not in asked:
        names = {model.vocabulary.classes[number] for number in asked}
        held_out, train = _of(held_out, names), _of(train, names)
    if min(len(held_out), len(train)) < 2:
        raise UsageError(
            f"There are {len(train):,} training and {len(held_out):,} held-out examples to "
            "compare with: give data the run never saw by --against."
        )
    return train, held_out


def _of(data: Dataset, names: set[str]) -> Dataset:
    """The examples of these classes."""
    if data.label is None:
        raise UsageError(f"{data.source} has no classes to choose from: leave --label out.")
    wanted = torch.tensor([name in names for name in data.classes] + [False])  # -1 is the last
    return data.subset(wanted[data.label].nonzero()[:, 0])


def _drawn(
    model: Model, options: EvaluateOptions, held_out: Dataset
) -> tuple[Samples, Paired | None]:
    """Samples that are told what held-out data say in turn, rounded as files would hold them.

    Of a run of pairs each is given what belongs to a held-out example, and compared with it.
    """
    values = asdict(options)
    for name in ("against", "likely", "features", "posterior"):
        del values[name]
    order = generator("labels", options.seed).permutation(len(held_out))[: options.count].tolist()
    words = model.vocabulary
    if words.classes and held_out.label is not None:
        named = [c if c in words.classes else "any" for c in [*held_out.classes, "any"]]
        values["label"] = tuple(named[held_out.label[i]] for i in order)  # -1 is the last
    reads = model.reader or words.words
    if reads is not None and held_out.captions is not None and options.text is None:
        first = held_out.captions.first
        values["text"] = tuple(quoted(first[i]) for i in order)
    context = None
    if model.given is not None:
        context = context_of_pairs(model, held_out, order)
    parts = list(stream(model, checked(SampleOptions, values), context=context))
    drawn = replace(parts[0], x=rounded(model.codec.data, torch.cat([part.x for part in parts])))
    labels = tuple(name for part in parts for name in part.labels or ())
    pairs = None if context is None else measure_pairs(model.codec.data, drawn.x, held_out, order)
    return replace(drawn, labels=labels or None), pairs


def _likelihood(
    model: Model, train: Dataset, held_out: Dataset, options: EvaluateOptions, say: Say
) -> Bits | None:
    if not options.likely:
        return None
    say(f"Computing the likelihood of {min(options.likely, len(held_out)):,} held-out examples")
    return measure_bits(model, train, held_out, options.likely, options.seed)


def _calibrated(
    model: Model, held_out: Dataset, options: EvaluateOptions, measured: dict[str, Any], say: Say
) -> Calibration | None:
    if not measured:
        return None
    say(f"Restoring held-out examples: {', '.join(options.posterior)}")
    return calibrate(model, data=held_out, **measured)


def _judged(model: Model, train: Dataset, options: EvaluateOptions, say: Say) -> Judged | None:
    if train.source != "scenes" or model.vocabulary.words is None:
        return None
    say("Looking whether scenes show what is asked for")
    how = {name: getattr(options, name) for name in HOW}
    return judge_run(model, train, min(options.count, ASKED), seed=options.seed, **how)


def rounded(codec: Codec, x: Tensor) -> Tensor:
    """x as it is after it was written and read: a classifier tells other levels at once."""
    values = codec.unpack(x) if len(codec.shape) == 1 else codec.stored(x)
    return codec.pack(torch.from_numpy(values.astype(storage(codec.dtype))))


# --- Writing -------------------------------------------------------------------------------------


def write(evaluation: Evaluation, folder: Path | None = None) -> Path:
    """Write ``metrics.json`` and ``report.html``, into the run unless `folder` is given.

    Into the run go also the encoders and a few lines of its model card.

    Returns:
        The path of the report.

    Raises:
        LockedError: If the run is being trained.
        StorageError: If the disk refuses.
    """
    from .pages.evaluation import evaluation_report

    text = json.dumps(evaluation.facts, indent=1, default=_json).encode()
    run = evaluation.model.run
    if folder is not None or run is None:
        place = folder or Path("evaluation")
        write_bytes(place / "metrics.json", text)
        return evaluation_report(evaluation, place / "report.html")
    with run.lock():
        for name, encoder in evaluation.encoders.items():
            if isinstance(encoder, Foundation):
                continue  # it is large, and lies here already
            run.keep(f"encoder-{name}", encoder.tensors)
        write_bytes(run.evaluation / "metrics.json", text)
        run.write_card(metrics=evaluation.headline)
        return evaluation_report(evaluation, run.evaluation / "report.html")


def _json(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
