"""Change pictures: go part of the way to noise, and come back by another road."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.combine import Stack
from ..core.denoise import Denoiser, noisy
from ..core.measure import LinearOperator, Mask
from ..core.operators import downsample
from ..core.posterior import PosteriorDenoiser
from ..core.sample import Sampler, encode
from ..core.tally import Tally
from ..data.decode import cover, decode
from ..data.files import read_file
from ..data.image import ImageCodec
from ..errors import UsageError
from ..progress import pieces
from ..runs.model import Model
from .asking import Heard, conditions, label_names
from .embedding import dealt, heard_of, sphere, told_by
from .examples import Places, read_examples
from .holes import read_mask, same_cut
from .measuring import Problem, through
from .options import DrawOptions, EditOptions, checked
from .picture import png
from .restore import fitting
from .restored import Cost, named
from .sample import Run, Samples, block, draw, maker, opened, plan, rule

if TYPE_CHECKING:
    from PIL import Image

HELD = 0.05  # the standard deviation, in that of the data, within which colours are held


@dataclass(frozen=True, eq=False)
class Edited:
    """Pictures, and what became of them.

    Args:
        given: What was given, strokes included, ``(P, C, *S)``, as x.
        samples: The results, all of the first picture, then of the second.
        cost: What they took.
        names: Of the files given, to name the files written; empty if they are not different.
    """

    given: Tensor
    samples: Samples
    cost: Cost
    names: tuple[str, ...] = ()

    def panel(self, scale: int | None = None) -> "Image.Image":
        """One row for each picture: what was given, and the results."""
        drawn = self.samples.x.unflatten(0, (len(self.given), -1))
        rows = torch.cat([self.given[:, None], drawn], 1)
        return self.samples.codec.preview(rows.flatten(0, 1), rows.shape[1], scale)

    def save(self, folder: str | Path) -> list[Path]:
        """Write each result in the format of the data, and return the paths.

        They are named after the files given: ``photo-0.png``, ``photo-1.png``, ...
        """
        draws = len(self.samples) // len(self.given)
        return named(
            self.samples.save(folder), [f"{name}-{i}" for name in self.names for i in range(draws)]
        )

    def _repr_png_(self) -> bytes:
        return png(self.panel())


def edit(
    run: Run,
    pictures: Places,
    strength: float = 0.5,
    *,
    to: Run | None = None,
    mask: str | Path | Tensor | np.ndarray | None = None,
    strokes: str | Path | None = None,
    device: str | torch.device = "auto",
    **options: Any,
) -> Edited:
    """Change pictures: vary them, turn a sketch into a picture, another class, another style.

    A picture is taken back towards noise and drawn anew from there. By noise (SDEdit), what is
    larger than the noise stays: variations, sketches, strokes. Along the flow (encode), every
    detail is kept in the latent, and decoding it under another label or by another run changes
    what the label or the run is about.

    A decoder is told the embedding of each picture, which keeps what its encoder has seen there:
    drawn from noise alone (embedding), that is all that stays. Two texts turn it from the one
    towards the other.

    Args:
        run: The run, or its folder.
        pictures: Files, folders, patterns, or a stored batch ``(P, C, *S)``.
        strength: How far to go back, in (0, 1].
        to: Another run, to come back by: a bridge between two kinds of data that needs no pairs.
            The pictures are then encoded, and the results are of the kind of that run.
        mask: What may change, white or true; all else is kept exactly.
        strokes: A picture with transparency that is painted over the pictures first.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        **options: Those of `EditOptions`.

    Raises:
        UsageError: If an option is unknown, out of its bounds, or does not suit the run.
        DataError: If a picture cannot be read.

    Source: SDEdit: Meng et al. (2021), https://arxiv.org/abs/2108.01073; encoding: Song et al.
    (2020), https://arxiv.org/abs/2010.02502; bridges: Su et al. (2022),
    https://arxiv.org/abs/2203.08382; embeddings: Ramesh et al. (2022),
    https://arxiv.org/abs/2204.06125, section 3.
    """
    if options.get("source") is not None:
        options["source"] = str(options["source"])
    chosen = checked(EditOptions, {"strength": strength, **options})
    model = opened(run, device)
    back = model if to is None else opened(to, device)
    chosen = _settled(chosen, model, back, to is not None, mask is not None)
    same_cut(mask, pictures)
    same_cut(strokes, pictures)
    model, back = (fitting(m, pictures) for m in (model, back))
    found = read_examples(model, pictures)
    stored = found.stored
    if strokes is not None:
        stored = painted(model, stored, Path(strokes))
    given = model.codec.data.pack(stored)
    keep = None if mask is None else ~read_mask(model.codec.data.shape, mask, len(given))
    packed = given if model.codec.data is model.codec else model.codec.pack(stored)
    heard = heard_of(model, back, stored, chosen)
    x, cost = _edited(model, back, packed, given, keep, chosen, heard)
    count = range(len(x))
    labels, made = label_names(back, chosen, count), maker(back, chosen.seed)
    samples = Samples(x, back.codec.data, labels=labels, made=made)
    return Edited(given, samples, cost, found.names)


def between(
    run: Run,
    first: Places,
    second: Places,
    count: int = 8,
    *,
    device: str | torch.device = "auto",
    **options: Any,
) -> Samples:
    """Pictures on the way from one to another: both encoded, and decoded from between.

    The latents of data are Gaussian, so the way is along the sphere:
    ``sin((1 - u) w) / sin(w) z_0 + sin(u w) / sin(w) z_1``, w the angle between them. A decoder
    is told embeddings on the way from one to the other, on their sphere.

    Args:
        run: The run, or its folder.
        first: A picture, as for `edit`.
        second: Likewise.
        count: Pictures in all, both ends included, which come back nearly as they were.
        device: Where to compute.
        **options: Those of `DrawOptions`.

    Raises:
        UsageError: If an option does not suit the run.
        DataError: If a picture cannot be read.
    """
    if count < 2:
        raise UsageError(f"count = {count} must be at least 2: both ends are among them.")
    chosen = checked(DrawOptions, options)
    model = opened(run, device)
    ends = [read_examples(model, place).stored for place in (first, second)]
    if any(len(end) != 1 for end in ends):
        raise UsageError("Give one picture for each end.")
    sampler, times = _deterministic(model, chosen)
    x = model.codec.pack(torch.cat(ends))
    own = on_way = None
    if (encoder := told_by(model, chosen)) is not None:
        e = encoder.of_pictures(torch.cat(ends))
        own = dealt(encoder, e)
        on_way = dealt(encoder, sphere(e[0], e[1], torch.linspace(0, 1, count)))
    z = encoded(model, model.denoiser, x, sampler, times, chosen, own)
    way = sphere(z[0], z[1], torch.linspace(0, 1, count))
    denoiser, _ = plan(model, chosen, heard=on_way is not None)

    def told(examples: Sequence[int]) -> Denoiser:
        return denoiser.given(**conditions(model, chosen, examples, heard=on_way))

    x = draw(
        model,
        told,
        sampler.plan(model.denoiser.schedule, times),
        chosen.seed,
        range(count),
        begin=lambda examples, _: way[examples].to(model.device),
    )
    labels = label_names(model, chosen, range(count))
    return Samples(model.codec.decoded(x), model.codec.data, labels=labels)


def encoded(
    model: Model,
    prior: Denoiser,
    x: Tensor,
    sampler: Sampler,
    times: Tensor,
    options: DrawOptions,
    heard: Heard | None = None,
) -> Tensor:
    """Where x ``(P, C, *S)`` comes from at the first of `times`, along the flow, on the CPU."""
    parts = []
    for rows in pieces(torch.arange(len(x)).split(block(model))):
        told = prior.given(**conditions(model, options, rows.tolist(), heard=heard))
        parts.append(encode(sampler, told, x[rows].to(model.device), times).cpu())
    return torch.cat(parts)


def painted(model: Model, stored: Tensor, strokes: Path) -> Tensor:
    """The pictures with `strokes` over them, wherever these are more opaque than not."""
    codec = model.codec.data
    if not isinstance(codec, ImageCodec):
        raise UsageError("Strokes are for pictures; this run draws none.")
    paint = codec.read(strokes)
    alpha = decode(read_file(strokes), 4)[0]
    if alpha.shape[2] != 4:
        raise UsageError(f"{strokes} has no transparency: paint on a transparent layer.")
    alpha = cover(np.ascontiguousarray(alpha[..., 3:]), *codec.shape[1:])
    over = torch.from_numpy(alpha[..., 0] >= 128)
    if not over.any():
        raise UsageError(f"{strokes} is empty: nothing was painted.")
    return torch.where(over, paint, stored)


def _settled(
    options: EditOptions, model: Model, back: Model, bridge: bool, masked: bool
) -> EditOptions:
    """The options, made to agree with each other.

    Raises:
        UsageError: If they cannot.
    """
    if bridge:
        if model.shape != back.shape:
            raise UsageError(
                f"A bridge needs two runs of one shape; these draw {model.shape} and {back.shape}."
            )
        options = replace(options, how="encode")
    if (options.source is not None or options.source_attributes) and options.how != "encode":
        raise UsageError("--source says what is encoded: add --how encode.")
    if (options.from_text is None) != (options.to_text is None):
        raise UsageError("--from-text and --to-text belong together: say both.")
    if options.how == "encode" and masked:
        raise UsageError("A mask needs noise in it: leave --how encode out.")
    return replace(options, draws=1) if options.how == "encode" else options


def _as_they_are(model: Model, options: EditOptions) -> EditOptions:
    """The options, asking for what the pictures are in place of what they shall become."""
    source = None if options.source is None else (options.source,)
    reads = model.words is not None and options.source not in model.vocabulary.classes
    return replace(
        options,
        label=None if reads else source,
        text=source if reads else None,
        attributes=options.source_attributes,
    )


def _deterministic(model: Model, options: DrawOptions) -> tuple[Sampler, Tensor]:
    sampler, times = rule(model, options)
    if not sampler.deterministic:
        raise UsageError("To encode takes a sampler that draws no noise, such as adams-bashforth.")
    return sampler, times


def _edited(
    model: Model,
    back: Model,
    packed: Tensor,
    given: Tensor,
    keep: Tensor | None,
    options: EditOptions,
    heard: tuple[Heard | None, Heard | None],
) -> tuple[Tensor, Cost]:
    """The results ``(P draws, C, *S)``, and what they took.

    Args:
        model: To go back by.
        back: To come back by.
        packed: The pictures as x.
        given: The same as the codec of the data packs them: where x is a latent, no x.
        keep: True where nothing may change, of `given`.
        options: How.
        heard: Embeddings on the way there, and on the way back.
    """
    away, home = heard
    free, _ = plan(back, options, heard=home is not None)
    begun, to, back_by = time.perf_counter(), Tally(model.denoiser), Tally(free)
    encodes, anew = options.how == "encode", options.how == "embedding"
    sampler, times = _deterministic(model, options) if encodes else rule(model, options)
    steps = len(times) - 1
    kept = steps if anew else max(1, round(options.strength * steps))
    times = times[steps - kept :]
    schedule = model.denoiser.schedule
    latent = packed
    if encodes:
        latent = encoded(model, to, packed, sampler, times, _as_they_are(model, options), away)
    prior = back_by.along(schedule)

    def told(examples: Sequence[int]) -> Denoiser:
        one = prior.given(**conditions(back, options, examples, heard=home))
        rows = torch.tensor(examples) // options.draws
        if (known := _known(given[rows], keep if keep is None else keep[rows], options)) is None:
            return one
        problem = through(back.codec, Problem(*known))
        measured = problem.rows(torch.arange(len(rows)), back.device)
        return PosteriorDenoiser(one, measured.operator, measured.y, measured.sigma_y)

    def begin(examples: Sequence[int], eps: Tensor) -> Tensor:
        at = latent[torch.tensor(examples) // options.draws].to(eps)
        return at if encodes else noisy(schedule, at, times[0], eps)

    total = range(len(given) * options.draws)
    start = None if anew else begin
    x = draw(back, told, sampler.plan(schedule, times), options.seed, total, begin=start)
    cost = Cost.of(back_by, begun, len(given), options.draws, block(back))
    if encodes:
        cost = replace(cost, calls=cost.calls + to.calls / ceil(len(given) / block(model)))
    rows = torch.arange(len(x)) // options.draws
    x = back.codec.decoded(x)
    return x if keep is None else torch.where(keep[rows], given[rows], x), cost


def _known(
    given: Tensor, keep: Tensor | None, options: EditOptions
) -> tuple[LinearOperator, Tensor, float] | None:
    """What of the pictures is to stay: the operator, what it measured, and how loosely."""
    if options.hold is not None:
        try:
            coarse = downsample(tuple(given.shape[1:]), options.hold)
        except ValueError as error:
            raise UsageError(
                f"hold = {options.hold} does not suit the pictures: {error}."
            ) from None
        if keep is None:
            return coarse, coarse(given), HELD
        both = Stack((Mask(keep), coarse), (tuple(given.shape[1:]), tuple(coarse(given).shape[1:])))
        return both, both(given), HELD
    return None if keep is None else (Mask(keep), Mask(keep)(given), 0.0)
