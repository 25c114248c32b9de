"""Draw new examples from a trained run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.denoise import Denoiser
from ..core.fit import FittedRule
from ..core.guide import Thresholded
from ..core.noise import Schedule
from ..core.sample import SAMPLERS, OnStep, Plan, Sampler, start
from ..data.codec import Codec, write_bytes
from ..errors import UsageError
from ..interop.place import open_model
from ..progress import counted, pieces
from ..rng import Streams, generator
from ..runs.adapters import Adapter
from ..runs.building import GRIDS
from ..runs.fitted import kept_rule
from ..runs.folder import RunFolder
from ..runs.model import Model
from ..runs.provenance import provenance, stamp
from ..runs.sized import sized
from .asking import (
    Context,
    Heard,
    conditions,
    context_from,
    context_of,
    guided,
    label_names,
    prompts_of,
    warn_of_texts,
)
from .options import DrawOptions, SampleOptions, checked, suggestion
from .picture import png

if TYPE_CHECKING:
    from PIL import Image

Run = Model | RunFolder | Path | str
"""A trained run: loaded, or where it lies."""


Made = Callable[[int], dict[str, Any]]
"""The provenance of an example, by its number."""

Begin = Callable[[Sequence[int], Tensor], Tensor]
"""x_t at the first time, from the numbers of the examples and unit noise ``(B, C, *S)``."""

BEST_OF = 2  # embeddings that a prior draws for each text, of which the nearer one is taken
AHEAD = ("leap", "consistency")  # samplers for who has learned to look ahead
SHAPING = ("guidance_interval", "guidance_parallel", "guidance_rescale", "negative")
GUIDING = ("autoguidance", *SHAPING)
CHUNK = 2**16
"""Numbers in what `stream` gives at once, or more if one block holds more."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Examples, ready to look at and to write in the format of the data the run was trained on.

    Args:
        x: ``(B, C, *S)``, on the CPU.
        codec: From x to the user's units and files.
        first: The number of the first one: example i is a function of (run, seed, i) alone.
        labels: The class asked for, by name, for each; None if none was.
        made: Gives the provenance of example i, which pictures in PNG then carry.
    """

    x: Tensor
    codec: Codec
    first: int = 0
    labels: tuple[str, ...] | None = None
    made: Made | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def arrays(self) -> np.ndarray:
        """The examples in the units, dtype and layout of the data."""
        return self.codec.unpack(self.x)

    def grid(self, columns: int | None = None, scale: int | None = None) -> "Image.Image":
        """A picture of all, in rows of `columns`; `scale` screen pixels for each pixel."""
        return self.codec.preview(self.x, columns, scale)

    def save(self, folder: str | Path) -> list[Path]:
        """Write each example in the format of the data, and return the paths."""
        paths = list(self.codec.save(self.x, Path(folder), self.first, self.labels))
        if self.made is not None:
            for i, path in enumerate(paths, self.first):
                if path.suffix == ".png":
                    write_bytes(path, stamp(path.read_bytes(), self.made(i)))
        return paths

    def _repr_png_(self) -> bytes:
        return png(self.grid())


def sample(
    run: Run | Sequence[Run],
    count: int = 16,
    label: str | int | Sequence[str | int] | None = None,
    *,
    prior: Run | None = None,
    device: str | torch.device = "auto",
    on_step: OnStep | None = None,
    **options: Any,
) -> Samples:
    """Draw new examples from a trained run, or from a cascade of runs.

    Args:
        run: The run, or its folder; or several, each of which is given what the one before drew.
        count: Examples to draw.
        label: Class by name or number, or ``any``; several are dealt out in turn.
        prior: A run that draws the embedding of each example, for a decoder of these.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        on_step: Called with x_s ``(B, C, *S)`` and s after each step of
            each block of examples.
        **options: Those of `SampleOptions`.

    Raises:
        UsageError: If an option is unknown or out of its bounds, or the run has no such class.
    """
    chosen = checked(SampleOptions, {"count": count, "label": label, **options})
    runs = [run] if isinstance(run, Model | RunFolder | Path | str) else list(run)
    parts = list(cascade(runs, chosen, prior=prior, device=device, on_step=on_step))
    labels = [name for part in parts for name in part.labels or ()]
    x = torch.cat([part.x for part in parts])
    return replace(parts[0], x=x, labels=tuple(labels) if labels else None)


def stream(
    run: Run,
    options: SampleOptions,
    *,
    context: Context | None = None,
    prior: Run | None = None,
    device: str | torch.device = "auto",
    on_step: OnStep | None = None,
) -> Iterator[Samples]:
    """As `sample`, in pieces as they are done, so that any number fits in memory.

    What is given is `context`, by default the pictures that the options name.
    """
    model, indices = opened(run, device), options.indices
    model = sized(model, options.space or model.codec.data.shape[1:])
    denoiser, steps = plan(model, options, heard=prior is not None)
    context = context_of(model, options) if context is None else context
    first_stage = None if prior is None else opened(prior, device)
    embeddings = None if first_stage is None else drawn_by(first_stage, model, options)
    at_once = options.batch or block(model)
    size = max(at_once, CHUNK // prod(model.shape))
    for first in pieces(range(0, len(indices), size)):
        part = indices[first : first + size]
        heard = None if embeddings is None else partial(_rows, embeddings(part), part[0])
        told = partial(_told, denoiser, model, options, context, heard)
        x = draw(model, told, steps, options.seed, part, on_step, at_once=at_once)
        labels = label_names(model, options, part)
        x, made = model.codec.decoded(x), maker(model, options.seed, first_stage)
        yield Samples(x, model.codec.data, part[0], labels, made)


def _told(
    denoiser: Denoiser,
    model: Model,
    options: SampleOptions,
    context: Context | None,
    heard: Heard | None,
    examples: Sequence[int],
) -> Denoiser:
    return denoiser.given(**conditions(model, options, examples, context, heard))


def cascade(
    runs: Sequence[Run],
    options: SampleOptions,
    *,
    context: Context | None = None,
    prior: Run | None = None,
    device: str | torch.device = "auto",
    on_step: OnStep | None = None,
) -> Iterator[Samples]:
    """As `stream`, with runs in a row, each of which is given what the one before drew.

    Labels, texts and attributes go to every later run that knows them. One weight of guidance is
    of the first run, and so is a `prior`: what a later one is guided away from is also what it is
    given, so that it is guided as it says itself. With a weight for each run, all that is said of
    guidance goes to each. Each run draws noise of its own, from a seed that follows from the seed
    of the one before.

    Raises:
        UsageError: If a run cannot be given what the one before draws, or has no weight.
    """
    models = [opened(run, device) for run in runs]
    for before, after in pairwise(models):
        check_chain(before, after)
    first, *rest = models
    weight, weights = weights_of(options, len(runs))
    given_to_first = {"context": context, "prior": prior}
    asked = replace(_unguided(options) if weights and weight == 1 else options, guidance=weight)
    if rest and first.given is None:
        asked = replace(asked, given_noise=0.0)
    for part in stream(first, asked, **given_to_first, device=device, on_step=on_step):
        if not rest:
            yield part
            continue
        later = replace(
            _known_to(rest[0], options, weights),
            examples=f"{part.first}-{part.first + len(part) - 1}",
            seed=int(generator("cascade", options.seed).integers(2**62)),
        )
        given = partial(_rows, context_from(rest[0], part.codec.stored(part.x)), part.first)
        yield from cascade(rest, later, context=given, device=device, on_step=on_step)


def weights_of(options: SampleOptions, runs: int) -> tuple[float | None, tuple[float, ...]]:
    """Of guidance: that of the first of so many runs, and those of the others if they are said."""
    weights = options.guidance
    if not isinstance(weights, tuple):
        return weights, ()
    if len(weights) not in (1, runs):
        said = " ".join(f"{weight:g}" for weight in weights)
        each = f", for the first run, or {runs}" if runs > 1 else ""
        raise UsageError(f"guidance = {said}: give one weight{each}.")
    return weights[0], weights[1:]


def _rows(context: Tensor, first: int, indices: Sequence[int]) -> Tensor:
    """What the examples `indices` are given, of which `context` holds those from `first` on."""
    return context[torch.tensor(indices) - first]


def _unguided(options: SampleOptions) -> SampleOptions:
    """The options of a run whose weight is 1: without what shapes the guidance of the others."""
    default = DrawOptions()
    kept = ("guidance_interval",) if options.autoguidance != 1 else ()
    return replace(options, **{k: getattr(default, k) for k in SHAPING if k not in kept})


def _known_to(model: Model, options: SampleOptions, weights: tuple[float, ...]) -> SampleOptions:
    """The options of a later run: what it knows of what is asked.

    Guided with the next of `weights`; as the run itself says, if there are none.
    """
    known, asked = model.vocabulary, options.attributes or {}
    how = options if weights else DrawOptions()
    if weights[:1] == (1.0,):
        how = _unguided(options)
    guiding = {name: getattr(how, name) for name in GUIDING}
    if not known.words:
        guiding["negative"] = None
    return replace(
        options,
        label=options.label if known.classes else None,
        text=options.text if known.words else None,
        attributes={k: v for k, v in asked.items() if k in known.attributes},
        given=None,
        guidance=weights or None,
        **guiding,
    )


def check_chain(before: Model, after: Model) -> None:
    """Refuse a pair of runs of which the second cannot be given what the first draws."""
    made, given = before.codec.data, after.given
    name, other = (str(m.run.path) if m.run else "A run" for m in (before, after))
    if given is None:
        raise UsageError(f"{other} was not trained on pairs: it cannot follow another run.")
    if (made.shape, made.dtype) != (given.shape, given.dtype):
        raise UsageError(
            f"{name} draws {made.shape} of {made.dtype}, but {other} is given {given.shape} of "
            f"{given.dtype}: train the one to make what the other is given."
        )


# --- A prior before a decoder --------------------------------------------------------------------


def drawn_by(prior: Model, decoder: Model, options: DrawOptions) -> Heard:
    """The embeddings that a prior draws, as the decoder hears them, for the texts asked for.

    Of each example it draws two, and the one nearer to that of its text is taken. It draws as its
    own run says, from a seed that follows from that of the options.

    Raises:
        UsageError: If the two runs do not go together.

    Source: Ramesh et al. (2022), https://arxiv.org/abs/2204.06125, section 2.2.
    """
    check_stages(prior, decoder)
    encoder = prior.encoder
    assert encoder is not None
    seed = int(generator("prior", options.seed).integers(2**62))
    asked = DrawOptions(text=options.text, seed=seed)
    denoiser, steps = plan(prior, asked)

    def told(tries: Sequence[int]) -> Denoiser:
        return denoiser.given(**conditions(prior, asked, [i // BEST_OF for i in tries]))

    def heard(examples: Sequence[int]) -> Tensor:
        tries = [BEST_OF * i + k for i in examples for k in range(BEST_OF)]
        found = encoder.of_x(draw(prior, told, steps, seed, tries)).unflatten(0, (-1, BEST_OF))
        best = torch.zeros(len(found), dtype=torch.int64)
        if prompts := prompts_of(asked):
            texts = [prompts[i % len(prompts)].terms[0].text for i in examples]
            best = (found @ encoder.of_texts(texts)[..., None])[..., 0].argmax(1)
        return encoder.pictures.standard(found[torch.arange(len(found)), best])

    return heard


def check_stages(prior: Model, decoder: Model) -> None:
    """Refuse a prior and a decoder that do not speak of the same embeddings."""
    for model, role, flag in ((prior, "prior", "--prior"), (decoder, "decoder", "--embedding")):
        if model.encoder is None or model.config.embedding.role != role:
            name = model.run.path if model.run else "The model"
            raise UsageError(
                f"{name} is no {role}: train one by `ornstein train DATA {flag} ENCODER`."
            )
    one, other = prior.encoder, decoder.encoder
    assert one is not None and other is not None
    if (one.run, one.seen) != (other.run, other.seen):
        names = [str(m.run.path) if m.run else "the model" for m in (prior, decoder)]
        raise UsageError(
            f"{names[0]} goes by the encoder {one.place}, but {names[1]} by {other.place}: train "
            "both with one encoder."
        )


# --- Steps ---------------------------------------------------------------------------------------


def opened(
    run: Run,
    device: str | torch.device = "auto",
    adapters: Sequence[Adapter] = (),
) -> Model:
    """The model at a place, which is loaded if it is not yet; see `open_model`.

    Args:
        run: The run, or where it lies; or a pipeline of diffusers.
        device: Where to put it.
        adapters: What to put on what is not loaded yet.
    """
    if isinstance(run, Model):
        return run
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = run.path if isinstance(run, RunFolder) else run
    return open_model(place, device=device, adapters=adapters)


def maker(model: Model, seed: int, prior: Model | None = None) -> Made | None:
    """What to write into the examples of a sequence; None if the model has no run to name."""
    if model.run is None:
        return None
    of_prior = prior.run.identity["id"] if prior and prior.run else None
    worn = {"adapters": model.adapters, "prior": of_prior}
    return partial(provenance, model.run.identity, model.seen, seed, **worn)


def plan(model: Model, options: DrawOptions, heard: bool = False) -> tuple[Denoiser, Plan]:
    """The denoiser with its guidance, and the steps to take; see `guided`.

    It warns of texts that are not read to their end, and of words that the run does not know.

    Raises:
        UsageError: If there is no such sampler, or guidance has nothing to guide towards.
    """
    warn_of_texts(model, options)
    denoiser = guided(model, options, heard)
    if options.threshold is not None:
        if model.codec.range is None:
            raise UsageError("--threshold is for data of integers, whose range is known.")
        denoiser = Thresholded(denoiser, *model.codec.range, options.threshold)
    return denoiser, _steps(model, options)


def _steps(model: Model, options: DrawOptions) -> Plan:
    """The steps fitted to the run, if the options leave the choice; else those of `rule`."""
    schedule = model.denoiser.schedule
    if fit := fitted_rule(model, options):
        return fit.plan(schedule, model.device)
    return _planned(*_names(model, options), schedule, model.device)


def rule(model: Model, options: DrawOptions) -> tuple[Sampler, Tensor]:
    """The sampler and the time grid that the options ask for, else those that the run names.

    Raises:
        UsageError: If there is no such sampler, or no such grid.
    """
    names = _names(model, options)
    return SAMPLERS[names[0]], _planned(*names, model.denoiser.schedule, model.device).times


def _names(model: Model, options: DrawOptions) -> tuple[str, str, int]:
    config = model.config.sample
    steps, grid = options.steps or config.steps, options.time_grid or config.grid
    name = options.sampler or config.sampler
    if name not in SAMPLERS:
        raise UsageError(f"There is no sampler {name!r}{suggestion(name, SAMPLERS)}")
    able = model.config.distill.looks_ahead or name == config.sampler == "consistency"
    if name in AHEAD and not able:
        raise UsageError(
            f"The sampler {name} is for runs that have learned to look ahead: teach one with "
            "`ornstein distill RUN --method flow-map`."
        )
    if grid == "fitted":
        raise UsageError(
            f"Nothing of {steps} steps was fitted to this run: fit it with `ornstein tune RUN "
            f"--calls {steps}`, and leave --sampler out."
        )
    return name, grid, steps


@lru_cache(maxsize=64)  # for who draws one picture after the other
def _planned(name: str, grid: str, steps: int, schedule: Schedule, device: torch.device) -> Plan:
    try:
        times = GRIDS[grid](schedule, steps)
    except ValueError as error:
        raise UsageError(f"This grid has no such steps: {error}.") from None
    return SAMPLERS[name].plan(schedule, times.to(device))


def fitted_rule(model: Model, options: DrawOptions) -> FittedRule | None:
    """What `tune` has fitted to the run for so many steps, if the options leave the choice."""
    if model.run is None or options.sampler or options.time_grid not in (None, "fitted"):
        return None
    if not model.is_plain:  # it was fitted to other weights
        return None
    return kept_rule(model.run, model.seen, options.steps or model.config.sample.steps)


def draw(
    model: Model,
    denoiser: Callable[[Sequence[int]], Denoiser],
    steps: Plan,
    seed: int,
    indices: Sequence[int],
    on_step: OnStep | None = None,
    begin: Begin | None = None,
    at_once: int | None = None,
    gradients: bool = False,
) -> Tensor:
    """The examples `indices` of the endless sequence that belongs to `seed`, on the CPU.

    Example i is a function of (run, seed, i) alone, to the last bit on one machine: noise comes
    from a stream of its own, and the network always sees as many examples at once. The last block
    is filled up with copies of its last example, which are dropped again.

    Args:
        model: The run.
        denoiser: Gives the denoiser for a block of examples, its conditions bound.
        steps: To take.
        seed: Of the sequence.
        indices: Which examples.
        on_step: Called with x_s ``(B, C, *S)`` and s after each step of each block.
        begin: Where to begin, if not in pure noise.
        at_once: How many the network sees at once, in the place of `block`.
        gradients: Whether the denoiser may take some, or asks code that is not ours. If not, steps
            are taken in PyTorch's inference mode, which saves a tenth of the time of one small
            example; `on_step` then sees tensors that nothing can be differentiated by.
    """
    size, parts = at_once or block(model), []
    for first in pieces(range(0, len(indices), size)):
        part = indices[first : first + size]
        full = [*part, *[part[-1]] * (size - len(part))]
        noise, one = Streams(seed, full), denoiser(full)
        eps = noise(torch.empty(size, *model.shape, device=model.device))
        watch = _watching(len(part), on_step, counted(len(steps.times) - 1))
        x_t = begin(full, eps) if begin else start(one.schedule, steps.times[0], eps)
        with torch.inference_mode(not gradients):
            x = steps(one, x_t, noise=noise, on_step=watch)
        parts.append(x[: len(part)].cpu())
    return torch.cat(parts)


def block(model: Model) -> int:
    """How many examples the network sees at once: always as many, because kernels are chosen,
    and sums rounded, by the size of the batch. Many small ones, or one large one."""
    room, most = (2**13, 64) if model.device.type == "cpu" else (2**19, 256)
    return max(1, min(most, room // prod(model.shape)))


def _watching(count: int, on_step: OnStep | None, tick: Callable[[], None]) -> OnStep:
    """`on_step` for the first `count` examples of each block, and `tick`."""

    def watch(x: Tensor, s: Tensor) -> None:
        if on_step is not None:
            on_step(x[:count], s)
        tick()

    return watch
