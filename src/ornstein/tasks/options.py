"""The parameters of each verb, written once: names, types, bounds, help. Knows no torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import Interval, Len
from cyclopts import Parameter

from ..errors import UsageError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Weight = Annotated[float, Interval(ge=-100, le=100)]
Steps = Annotated[int, Interval(ge=1, le=100_000)]
ROW = Parameter(n_tokens=-1)
"""Numbers one after the other, as in --guidance 5 2: what is no number ends them."""
Margins = tuple[int, int, int, int]
"""Left, top, right, bottom."""
TimeGridName = Literal["uniform", "straight", "early", "log-snr", "karras", "stride", "fitted"]


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How to draw from a run. What is left out is as the run says.

    Args:
        label: Class by name or number, or `any`; several are dealt out in turn.
        text: What to draw, in words, for a run that reads them; several are dealt out in
            turn. (red:1.4) lays emphasis on a word; AND and AND NOT put texts together.
        negative: What to steer away from, in words.
        attributes: Numeric conditions by name, in their own units.
        given: Pictures to start from, files or folders of them, for a run trained on pairs;
            several are dealt out in turn.
        given_noise: Share of noise to mix into it, if the run was trained to forgive some.
        guidance: Weight of classifier-free guidance; 1 is none.
        guidance_parallel: Share that is kept of the part of guidance that makes what is there
            more so, and glaring, rather than changes it; 1 is all of it.
        guidance_rescale: How far the contrast that guidance adds is taken back, from 0 to 1.
        threshold: Bring each estimate back into the range of the data, all but this share of it
            scaled and the rest clipped, as 0.995: against the glare of strong guidance.
        guidance_interval: Lowest and highest log-SNR at which guidance acts.
        autoguidance: Weight of guidance away from what the run was early in its training, and so
            from its mistakes, with and without conditions; 1 is none, 1.5 one to begin with.
        sampler: Rule for one transition, as adams-bashforth, dpm++2m, ddim, heun or ddpm; the
            run's own if left out.
        steps: Steps of the time grid.
        time_grid: Where the steps lie; what `ornstein tune` has fitted is taken if there is such.
        seed: Same seed, same examples.
    """

    label: Annotated[tuple[str, ...] | None, Len(1)] = None
    text: Annotated[tuple[str, ...] | None, Len(1)] = None
    negative: Annotated[str | None, Len(1)] = None
    attributes: dict[str, float] | None = None
    given: Annotated[tuple[str, ...] | None, Len(1), Parameter(consume_multiple=True)] = None
    given_noise: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    guidance: Weight | None = None
    guidance_parallel: Annotated[float, Interval(ge=0, le=1)] | None = None
    guidance_rescale: Annotated[float, Interval(ge=0, le=1)] = 0.0
    threshold: Annotated[float | None, Interval(gt=0, le=1)] = None
    guidance_interval: tuple[float, float] | None = None
    autoguidance: Annotated[float, Interval(ge=1, le=100)] = 1.0
    sampler: str | None = None
    steps: Steps | None = None
    time_grid: TimeGridName | None = None
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0


@dataclass(frozen=True, kw_only=True)
class SampleOptions(DrawOptions):
    """What to draw, and how.

    Args:
        guidance: Weight of classifier-free guidance; 1 is none. Of runs in a row it is of the
            first, and others are guided as they say themselves; or give one for each.
        count: Examples to draw.
        examples: Which ones, as in 8-15, in place of the first COUNT; work can be shared out so.
        size: Height and width, as 96x128, of pictures larger than those of the training: drawn
            in windows that agree where they overlap.
        batch: Examples that the network sees at once; as many as suit it if left out. One answers
            soonest where one is wanted. The last bits of an example depend on it.
    """

    guidance: Annotated[  # pyright: ignore[reportIncompatibleVariableOverride] (a row of them)
        Annotated[tuple[Weight, ...], Len(1)] | Weight | None, ROW
    ] = None
    count: Annotated[int, Interval(ge=1, le=10_000_000), Parameter(alias="-n")] = 16
    examples: Annotated[str, Len(1, 40)] | None = None
    size: Annotated[str, Len(1, 40)] | None = None
    batch: Annotated[int | None, Interval(ge=1, le=65536)] = None

    @property
    def indices(self) -> range:
        """The examples asked for. Raises `UsageError` if `examples` is no range."""
        if self.examples is None:
            return range(self.count)
        first, _, last = self.examples.partition("-")
        if first.isdecimal() and (last or first).isdecimal() and int(first) <= int(last or first):
            return range(int(first), int(last or first) + 1)
        raise UsageError(f"examples = {self.examples!r} is no range: write it as 8-15.")

    @property
    def space(self) -> tuple[int, ...] | None:
        """The size asked for ``(*S)``. Raises `UsageError` if `size` is none."""
        if self.size is None:
            return None
        sides = self.size.lower().split("x")
        if all(side.isdecimal() and 0 < int(side) <= 65536 for side in sides):
            return tuple(map(int, sides))
        raise UsageError(f"size = {self.size!r} is no height and width: write it as 96x128.")


@dataclass(frozen=True, kw_only=True)
class RestoreOptions(DrawOptions):
    """What was measured, and how to draw what explains it.

    Args:
        draws: Different restorations of each picture.
        sampler: Rule for one transition; one that adds noise on the way forgives the errors of
            a posterior that is only nearly right.
        steps: Steps of the time grid.
        method: mmps, evidence, pigdm, dps, ddnm, diffpir, ddrm, daps, repaint or particles.
        tuning: Of that method, each as in --method.zeta 0.5: zeta of dps, weight of diffpir, eta
            and eta_b of ddrm, inner and rounds of daps, resamples of repaint, least of particles.
        iterations: Of the solver inside each step of mmps: more are exact where the denoiser is,
            and blow up the errors of one that was trained.
        particles: How many compete in the method of that name; the more, the nearer to the truth.
        noise: Standard deviation of the noise of the measurement, in the units of the data; by
            default none under a mask, and elsewhere what rounding to whole numbers makes.
        upscale: The pictures are so many times too small.
        outpaint: They are to grow by so many pixels on each side; or left, top, right, bottom, as
            in 0,0,32,0.
        deblur: They are blurred by a Gaussian of so many pixels, or by the kernel in a file.
        denoise: They have noise of this standard deviation, in the units of the data.
        colourise: They are grey.
        mri: They are k-space, sampled where this picture is white; or cartesian, radial, random.
        ct: They are sinograms of so many angles over half a turn; or of these degrees, as in
            0,7.5,15, or those in a .txt, .csv or .npy file.
        operator: They were measured by the operator of this name, as motion-blur, low-pass,
            greyscale, random-mask, quantise, declip, jpeg or phase-retrieval.
        parameters: Of that operator, each as in --operator.sigma 2.
        simulate: They are whole: measure them first.
    """

    sampler: str | None = "sde-dpm++2m"
    steps: Steps | None = 16
    draws: Annotated[int, Interval(ge=1, le=10_000), Parameter(alias="-n")] = 4
    method: str = "mmps"
    tuning: Annotated[dict[str, float] | None, Parameter(name="--method")] = None
    iterations: Annotated[int, Interval(ge=1, le=1000)] = 2
    particles: Annotated[int, Interval(ge=2, le=100_000)] = 64
    noise: Annotated[float, Interval(ge=0, le=1e9)] | None = None
    upscale: Annotated[int, Interval(ge=2, le=64)] | None = None
    outpaint: Annotated[str, Len(1)] | None = None
    deblur: Annotated[str, Len(1)] | None = None
    denoise: Annotated[float, Interval(gt=0, le=1e9)] | None = None
    colourise: Annotated[bool, Parameter(show_default=False)] = False
    mri: Annotated[str, Len(1)] | None = None
    ct: Annotated[str, Len(1)] | None = None
    operator: Annotated[str, Len(1)] | None = None
    parameters: Annotated[dict[str, float | str] | None, Parameter(name="--operator")] = None
    simulate: Annotated[bool, Parameter(show_default=False)] = False

    @property
    def margins(self) -> Margins | None:
        """Pixels to add. Raises `UsageError` if `outpaint` is none."""
        if self.outpaint is None:
            return None
        sides = [part.strip() for part in self.outpaint.split(",")]
        known = len(sides) in (1, 4) and all(s.isdecimal() and int(s) <= 65536 for s in sides)
        if not known or not any(map(int, sides)):
            raise UsageError(
                f"outpaint = {self.outpaint!r} is no number of pixels: write 16, or left, top, "
                "right and bottom as 0,0,32,0."
            )
        left, top, right, bottom = map(int, sides * (4 // len(sides)))
        return left, top, right, bottom


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(DrawOptions):
    """How to measure a run.

    Args:
        label: Measure these classes alone; all, as often as in the data, if left out or `any`.
        count: Examples to draw; of 2,000, one copy in a hundred is noticed.
        against: Held-out data to compare with, in place of what training left out.
        likely: Held-out examples whose likelihood is computed; 0 for none.
        features: A network of others to measure with besides: dinov2 or clip, if this machine
            has its weights, or a folder with safetensors of one of these or of the FID's Inception.
        posterior: Also restore held-out examples, and say how often the truth lies within the
            bands: what is measured of them, in the words of `ornstein restore`, as upscale=2 or
            deblur=1.5 noise=0.1 or operator=ct operator.angles=30.
    """

    count: Annotated[int, Interval(ge=2, le=1_000_000), Parameter(alias="-n")] = 2000
    against: Annotated[str, Len(1)] | None = None
    likely: Annotated[int, Interval(ge=0, le=100_000)] = 32
    features: Annotated[str, Len(1)] | None = None
    posterior: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()


@dataclass(frozen=True, kw_only=True)
class EditOptions(DrawOptions):
    """How to change pictures.

    Args:
        strength: How far to go back towards noise before drawing again, as a share of the steps:
            at 0.3 details change, at 1 nothing is left.
        how: By noise, which forgets details and gives many draws; encode, along the flow, which
            keeps them and gives one; or by a decoder's embedding alone, from noise of its own.
        source: What the pictures are, for how = encode: their class, by name or number, or a
            text for a run that reads; --label or --text is what they shall become.
        source_attributes: Likewise, their attributes, in place of which --attributes shall stand;
            what neither names is left to the run.
        hold: Keep the mean colours of blocks of so many pixels.
        from_text: What the pictures show, in words, for a decoder of embeddings.
        to_text: What they shall show instead, in words that differ from these in nothing else.
        turn: How far the embedding then turns towards the difference of the two texts: 0 not at
            all, 1 until nothing is left of the picture's.
        draws: Different results for each picture.
    """

    strength: Annotated[float, Interval(gt=0, le=1)] = 0.5
    how: Literal["noise", "encode", "embedding"] = "noise"
    source: Annotated[str | None, Len(1)] = None
    source_attributes: dict[str, float] | None = None
    hold: Annotated[int | None, Interval(ge=2, le=1024)] = None
    from_text: Annotated[str | None, Len(1)] = None
    to_text: Annotated[str | None, Len(1)] = None
    turn: Annotated[float, Interval(ge=0, le=1)] = 0.4
    draws: Annotated[int, Interval(ge=1, le=10_000), Parameter(alias="-n")] = 4


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(DrawOptions):
    """How to find what is where, with a run that makes masks.

    Args:
        draws: Different masks of each picture, from which the vote and its doubt are taken.
    """

    draws: Annotated[int, Interval(ge=1, le=10_000), Parameter(alias="-n")] = 8


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """How to find what is unlike the data of a run.

    Args:
        alpha: How often a normal example may be flagged; of flagged ones, with --control share.
        control: Hold alpha for each example on its own, or for the share of false alarms among
            all that is flagged.
        under: Of a run with labels: score under the class that fits best, or under none.
        levels: Log-SNRs of the noise that is added and taken off again.
        pairs: Noises, each with its negative, over which a reconstruction is the mean.
        refills: Draws to fill in the most suspect part of a picture with, when it is covered.
        refill_steps: Steps of each.
        likelihood: Compute the likelihood too, which takes hundreds of denoiser calls.
        normal: Normal examples that the run never saw, in place of what training left out.
        seed: Of the noise.
    """

    alpha: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    control: Literal["each", "share"] = "each"
    under: Literal["best", "any"] = "best"
    levels: Annotated[tuple[Annotated[float, Interval(ge=-14, le=14)], ...], Len(1, 32)] = (
        -2.0,
        -1.0,
        0.0,
    )
    pairs: Annotated[int, Interval(ge=1, le=1000)] = 2
    refills: Annotated[int, Interval(ge=0, le=1000)] = 0
    refill_steps: Annotated[int, Interval(ge=1, le=10_000)] = 16
    likelihood: bool = False
    normal: Annotated[str | None, Len(1)] = None
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0


@dataclass(frozen=True, kw_only=True)
class TuneOptions(DrawOptions):
    """How to fit a sampler of few calls to a run.

    Args:
        calls: Denoiser calls to make do with.
        steps: Of the solution that these calls are to end at.
        sampler: Of that solution.
        examples: To fit to, and as many again to judge by; more of small examples if left out.
        rounds: Of the fit, at most.
    """

    calls: Annotated[int, Interval(ge=2, le=64)] = 6
    steps: Steps | None = 128
    examples: Annotated[int, Interval(ge=2, le=1_000_000)] | None = None
    rounds: Annotated[int, Interval(ge=1, le=1000)] = 12


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """How to tell classes apart.

    Args:
        levels: Log-SNRs of the noise that is added and taken off again, rising.
        noises: At most so many for each example; classes that fall behind are given up sooner.
        held_out: Examples that calibrate, at most.
        seed: Of the noise.
    """

    levels: Annotated[tuple[Annotated[float, Interval(ge=-14, le=14)], ...], Len(2, 64)] = (
        -4.0,
        -3.0,
        -2.0,
        -1.0,
        0.0,
        1.0,
    )
    noises: Annotated[int, Interval(ge=1, le=10_000)] = 12
    held_out: Annotated[int, Interval(ge=1, le=100_000)] = 400
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(DrawOptions):
    """What to draw beside the training data, and how.

    Args:
        label: Draw these classes alone.
        per_class: Examples to draw of each class; as many as even out the classes if left out.
        seeds: Classifiers trained with and without, to measure the gain; 0 for none.
    """

    per_class: Annotated[int | None, Interval(ge=1, le=1_000_000)] = None
    seeds: Annotated[int, Interval(ge=0, le=100)] = 5


RivalName = Literal["diffusion", "gan", "vae", "flow", "gaussian", "kernel-density"]


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """How to compare models.

    Args:
        minutes: How long each network may train, each time.
        seen: How long in examples instead, whatever time that takes: the same figures each time.
        seeds: How often each is trained, from different weights and in another order of data.
        models: Which; all if left out.
        size: Width of the diffusion model's network, whose number of weights the others match.
        count: Examples to draw of each.
        likely: Held-out examples whose likelihood is computed; 0 for none.
        seed: The first of the seeds.
    """

    minutes: Annotated[float, Interval(gt=0, lt=1e5)] = 1.0
    seen: Annotated[int | None, Interval(ge=1, le=10**12)] = None
    seeds: Annotated[int, Interval(ge=1, le=100)] = 5
    models: Annotated[tuple[RivalName, ...] | None, Len(1), Parameter(consume_multiple=True)] = None
    size: Annotated[int | None, Interval(ge=8, le=2048)] = None
    count: Annotated[int, Interval(ge=50, le=1_000_000), Parameter(alias="-n")] = 2000
    likely: Annotated[int, Interval(ge=0, le=100_000)] = 16
    seed: Annotated[int, Interval(ge=0, lt=2**62)] = 0


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """How to teach students of few steps.

    Args:
        method: flow-map: one student for all numbers of steps, shown by the teacher where they
            lead; mean-flow: the same, taught by the slope of its own answers, by twice as many
            examples; progressive: one for each, the next one's teacher. If left out, flow-map
            where the network can hear how far to look, else progressive.
        steps: Of the students, falling; of progressive ones each a divisor of the one before.
        guidance: With which the teacher is guided, as its run says if left out; the students then
            need none. Two for a range: the students are told the weight, as in sample --guidance.
        seen: Examples each student sees; if left out, three tenths of the teacher's, for a
            student for all steps one and a half times as many as that saw, for a mean flow three.
        count: Examples to draw for each grade.
        seed: Same seed, same grades.
    """

    method: Literal["flow-map", "mean-flow", "progressive"] | None = None
    steps: Annotated[tuple[Steps, ...], Len(1, 16), ROW] = (4, 2, 1)
    guidance: Annotated[tuple[Weight, ...] | None, Len(1, 2), ROW] = None
    seen: Annotated[int | None, Interval(ge=1, le=10**13)] = None
    count: Annotated[int, Interval(ge=100, le=1_000_000)] = 1000
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """How to go on from a trained run. With nothing else said, all of its weights learn on.

    Args:
        base: The run to go on from; or a pipeline of diffusers.
        predict: Learn to predict this in place of what the run predicts, with all weights: one
            that predicts noise cannot teach students, one that predicts velocity can.
        lora: Learn additions of this rank to its layers instead of all its weights: an adapter of
            a megabyte or less, to be put on with --adapter.
        targets: The layers that get them, by parts of their paths, as qkv or middle.
        control: Learn a control branch instead, which draws as the pictures of --given command.
        word: What all of DATA are called: a new class, or a new word of texts, as `<cat>`. Alone,
            with neither of the above, the word is all that is learned.
        like: The class that the new one begins as, and that is not to be forgotten: half of what
            the training sees are examples of it that the run has drawn.
    """

    base: Annotated[str | None, Len(1), Parameter(name="--from")] = None
    predict: Literal["velocity", "flow"] | None = None
    lora: Annotated[int | None, Interval(ge=1, le=1024)] = None
    targets: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    control: Annotated[bool, Parameter(show_default=False)] = False
    word: Annotated[str | None, Len(1)] = None
    like: Annotated[str | None, Len(1)] = None

    @property
    def learn(self) -> Literal["all", "low-rank", "words", "control"]:
        """What is learned. Raises `UsageError` if that is two things."""
        if self.lora is not None and self.control:
            raise UsageError("--lora and --control are two adapters: learn one after the other.")
        alone = self.lora or self.control or self.targets or self.like or self.predict
        if self.base is None and alone:
            raise UsageError("An adapter adds to a trained run: name it with --from RUN.")
        if self.targets and self.lora is None:
            raise UsageError("--targets are of additions of low rank: say --lora 8 too.")
        if self.control:
            return "control"
        return "low-rank" if self.lora else "words" if self.word else "all"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Which sampler to write as a graph. What is left out is as the run says.

    Args:
        to: onnx, for ONNX Runtime; torch, for `torch.export.load`; diffusers, a folder without a
            sampler, of a run by --recipe diffusers.
        sampler: Rule for one transition, which draws no noise.
        steps: Steps of the time grid.
        time_grid: Where the steps lie; what `ornstein tune` has fitted is taken if there is such.
        guidance: Weight of classifier-free guidance; 1 is none, at half the calls.
        guidance_parallel: Share that is kept of the part of guidance that makes what is there
            more so, and glaring, rather than changes it; 1 is all of it.
        guidance_rescale: How far the contrast that guidance adds is taken back, from 0 to 1.
        guidance_interval: Lowest and highest log-SNR at which guidance acts.
        negative: What to steer away from, in words, whatever the graph is told.
        threshold: Bring each estimate back into the range of the data, all but this share of it
            scaled and the rest clipped.
    """

    to: Literal["onnx", "torch", "diffusers"] = "onnx"
    sampler: str | None = None
    steps: Annotated[int, Interval(ge=1, le=1000)] | None = None
    time_grid: TimeGridName | None = None
    guidance: Weight | None = None
    guidance_parallel: Annotated[float, Interval(ge=0, le=1)] | None = None
    guidance_rescale: Annotated[float, Interval(ge=0, le=1)] = 0.0
    guidance_interval: tuple[float, float] | None = None
    negative: Annotated[str | None, Len(1)] = None
    threshold: Annotated[float | None, Interval(gt=0, le=1)] = None


Options = TypeVar("Options")


def checked(kind: type[Options], values: Mapping[str, Any]) -> Options:
    """The options of one verb from plain values.

    Labels may be one or several, names or numbers; so may texts and what is given.

    Raises:
        UsageError: Naming the option that is unknown, of the wrong type, or out of its bounds.
    """
    from pydantic import ValidationError

    known = [f.name for f in fields(kind)]  # pyright: ignore[reportArgumentType]
    for name in values:
        if name not in known:
            raise UsageError(f"There is no option {name!r}{suggestion(name, known)}")
    values = dict(values)
    if (label := values.get("label")) is not None:
        names = [label] if isinstance(label, (str, int)) else list(label)
        values["label"] = tuple(str(name) for name in names)
    if isinstance(text := values.get("text"), str):
        values["text"] = (text,)
    if (given := values.get("given")) is not None:
        paths = [given] if isinstance(given, (str, PathLike)) else list(given)
        values["given"] = tuple(str(path) for path in paths)
    for name in {"ct", "deblur", "outpaint"} & values.keys():
        if isinstance(number := values[name], (int, float)):
            values[name] = f"{number:g}"
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if part in known) or str(first["loc"])
        value = repr(first["input"])[:80]
        why = first["msg"].replace("Input should", "it must")
        raise UsageError(f"{_typed(kind, name)} = {value}: {why}.") from None


def _typed(kind: type[Any], name: str) -> str:
    """An option, and what else one may have typed for it: ``count (-n)``, ``base (--from)``."""
    for field in fields(kind):
        for said in getattr(field.type, "__metadata__", ()) if field.name == name else ():
            if isinstance(said, Parameter) and (said.name or said.alias):
                return f"{name} ({', '.join((*(said.name or ()), *(said.alias or ())))})"
    return name


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'heun'?``, or the list of what there is: the end of a sentence."""
    known = list(known)
    close = get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}."


@cache
def _adapter(kind: type[Options]) -> "TypeAdapter[Options]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
