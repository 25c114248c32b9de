"""Mend what was measured badly: draw from the posterior, given what is known."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.conformal import Widening
from ..core.denoise import Denoiser
from ..core.measure import Mask
from ..core.sample import OnStep, start
from ..core.tally import Tally
from ..data.files import read_file
from ..data.image import ImageCodec
from ..data.places import Place, files_in
from ..errors import UsageError
from ..rng import Streams, generator
from ..runs.bands import kept_widening
from ..runs.model import Model
from ..runs.sized import sized
from .asking import conditions, label_names
from .measuring import Files, Problem, masked, picture_size, problem_of, read_examples
from .methods import method_of, particles_of
from .options import RestoreOptions, checked
from .progress import pieces
from .restored import FEWEST, Cost, Restored
from .sample import Run, Samples, block, draw, maker, opened, plan, rule


def restore(
    run: Run,
    files: Files,
    mask: str | Path | Tensor | np.ndarray | None = None,
    draws: int = 4,
    *,
    device: str | torch.device = "auto",
    on_step: OnStep | None = None,
    **options: Any,
) -> Restored:
    """Draw what pictures may have been, several times over; what is known exactly is kept.

    A run of patches restores pictures of any size, as large as they are.

    Args:
        run: The run, or its folder.
        files: Files of what was measured, or what they hold as a batch in the data's units: under
            a mask, pictures ``(P, C, *S)``.
        mask: What to fill in: a picture, white there; or booleans, true there, that broadcast to
            ``(P, C, *S)``. None for another operator, which the options then name.
        draws: Restorations of each picture.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        on_step: Called with x_s ``(B, C, *S)`` and s after each step of
            each block of examples.
        **options: Those of `RestoreOptions`.

    Raises:
        UsageError: If an option is unknown or out of its bounds, the mask or the operator does
            not fit, or the method cannot take the operator.
        DataError: If a file cannot be read, or is of another size.
    """
    chosen = checked(RestoreOptions, {"draws": draws, **options})
    model = _at_size(opened(run, device), files, chosen, mask is not None)
    if mask is None:
        problem = problem_of(model, files, chosen)
        given = problem.shown(model.codec.data.shape)
    else:
        same_cut(mask, files)
        same_size(model, files)
        stored, names = read_examples(model.codec.data, files)
        keep = ~read_mask(model.codec.data.shape, mask, len(stored))
        problem = masked(model, stored, names, keep, chosen)
        given = model.codec.data.pack(stored)
    x, cost = solve(model, problem, chosen, on_step)
    keep = torch.zeros(len(problem), *model.codec.data.shape, dtype=torch.bool)
    if problem.copied is not None:
        keep = problem.copied.keep.expand_as(keep)
    labels, made = label_names(model, chosen, range(len(x))), maker(model, chosen.seed)
    samples = Samples(x, model.codec.data, labels=labels, made=made)
    sources = () if isinstance(files, Tensor) else tuple(files_in(files))
    return Restored(
        given,
        keep,
        samples,
        cost,
        problem.names,
        guess=denoised(model, problem, chosen) if problem.white else None,
        sources=sources if len(sources) == len(problem) else (),
        widening=_known_widening(model, chosen, mask),
    )


AS_YOU_LIKE = ("seed", "simulate")
"""Options that do not change what is measured, nor how well it is restored."""

HoleSource = str | Path | Tensor | np.ndarray | None


def key_of(options: RestoreOptions, mask: HoleSource) -> str:
    """A name for the measurement and the way to draw: the same for the same, on every machine.

    How far bands are to be widened depends on the number of draws that they are made of. Of too
    few to have any, what is widened is the standard deviation alone: as for the fewest that do.
    """
    chosen = asdict(options).items()
    words = {k: v for k, v in chosen if v is not None and k not in AS_YOU_LIKE}
    words["draws"] = max(options.draws, FEWEST)
    digest = sha256(json.dumps(words, sort_keys=True).encode())
    if isinstance(mask, (str, Path)):
        digest.update(read_file(Path(mask)))
    elif mask is not None:
        digest.update(np.packbits(np.asarray(mask)).tobytes())
    return digest.hexdigest()[:16]


def _known_widening(model: Model, options: RestoreOptions, mask: HoleSource) -> Widening | None:
    if model.run is None:
        return None
    return kept_widening(model.run, model.seen, key_of(options, mask))


def _at_size(model: Model, files: Files, options: RestoreOptions, masked: bool) -> Model:
    """The model for the pictures that were measured, if that says how large they are."""
    known = options.denoise or options.deblur or options.colourise or options.upscale
    if not (masked or known or options.simulate):
        return model
    return fitting(model, files, options.upscale if options.upscale and not options.simulate else 1)


def fitting(model: Model, files: Files, by: int = 1) -> Model:
    """The model for pictures `by` times as large as those in `files`, if it is one of patches."""
    if model.config.data.patch is None:
        return model
    return sized(model, tuple(by * n for n in space_of(files)))


def by_size(model: Model, files: Place | Sequence[Place]) -> list[list[Path]]:
    """The files in lists to restore at once: of a run of patches, those of one size."""
    paths = files_in(files)
    if model.config.data.patch is None:
        return [paths]
    lists: dict[tuple[int, int], list[Path]] = {}
    for path in paths:
        lists.setdefault(picture_size(path), []).append(path)
    return list(lists.values())


def space_of(files: Files) -> tuple[int, ...]:
    """Height and width of pictures that are all of one size.

    Raises:
        UsageError: If they are not, naming two.
        DataError: If one cannot be read.
    """
    if isinstance(files, Tensor):
        return tuple(files.shape[2:])
    first: dict[tuple[int, int], Path] = {}
    for path in files_in(files):
        first.setdefault(picture_size(path), path)
    if len(first) > 1:
        some = [f"{path} is {w} x {h}" for (w, h), path in first.items()]
        raise UsageError(f"{some[0]}, {some[1]}: give pictures of one size at a time.")
    ((width, height),) = first
    return height, width


def fill(
    model: Model,
    given: Tensor,
    keep: Tensor,
    options: RestoreOptions,
    on_step: OnStep | None = None,
) -> Tensor:
    """Draws ``(P draws, C, *S)`` that agree with `given` ``(P, C, *S)`` where `keep` is true."""
    if keep.all():
        raise UsageError("The mask asks for nothing: make it white where to fill in.")
    y = torch.where(keep, given, 0.0)
    return solve(model, Problem(Mask(keep), y, 0.0), options, on_step)[0]


def solve(
    model: Model, problem: Problem, options: RestoreOptions, on_step: OnStep | None = None
) -> tuple[Tensor, Cost]:
    """Draws ``(P draws, C, *S)`` of ``p(x | y)``, those of the first y first; and their cost."""
    name, begin, tally = options.method, time.perf_counter(), Tally(plan(model, options)[0])
    worth = None
    if name == "mmps" and problem.white and not rule(model, options)[0].deterministic:
        x = _go_on(model, tally, problem, options, on_step)
        batches, each = ceil(len(x) / block(model)), options.draws
    elif name == "particles":
        x, worth = _compete(model, tally, problem, options, on_step)
        batches, each = len(problem), options.particles
    else:
        x = _draw(model, tally, problem, options, on_step)
        batches, each = ceil(len(x) / block(model)), options.draws
    if problem.latents is not None:
        x = problem.latents.decoded(x)
    if problem.copied is not None:  # to the last bit
        rows = torch.arange(len(problem)).repeat_interleave(options.draws)
        x = Mask(problem.copied.keep.expand(len(problem), *x.shape[1:])[rows]).consistent(
            x, problem.y[rows]
        )
    share = each / batches
    seconds = (time.perf_counter() - begin) / len(problem)
    return x, Cost(
        calls=tally.calls * share, products=tally.products * share, seconds=seconds, worth=worth
    )


def _draw(
    model: Model,
    prior: Denoiser,
    problem: Problem,
    options: RestoreOptions,
    on_step: OnStep | None,
) -> Tensor:
    method, steps = method_of(options), plan(model, options)[1]
    if method.sampler is not None:
        steps = method.sampler.plan(prior.schedule, steps.times)

    def posterior(examples: Sequence[int]) -> Denoiser:
        measured = problem.rows(torch.tensor(examples) // options.draws, model.device)
        return method.denoiser(prior.given(**conditions(model, options, examples)), measured)

    total = range(len(problem) * options.draws)
    return draw(model, posterior, steps, options.seed, total, on_step)


def _go_on(
    model: Model, prior: Denoiser, problem: Problem, options: RestoreOptions, on_step: OnStep | None
) -> Tensor:
    """Draws of p(x | y) where y is x in white noise: sampling goes on from there, with noise.

    No approximation but that of the denoiser and of the steps, and no Jacobian.
    """
    t, x_t = _met(prior, problem)
    sampler, times = rule(model, options)
    steps = sampler.plan(prior.schedule, t.to(times) * times / times[0])

    def told(examples: Sequence[int]) -> Denoiser:
        return prior.given(**conditions(model, options, examples))

    def begin(examples: Sequence[int], eps: Tensor) -> Tensor:
        return x_t[torch.tensor(examples) // options.draws].to(eps)

    total = range(len(problem) * options.draws)
    return draw(model, told, steps, options.seed, total, on_step, begin)


def denoised(model: Model, problem: Problem, options: RestoreOptions) -> Tensor:
    """``E[x | y]`` of y in white noise ``(P, C, *S)``: one denoiser call."""
    prior = plan(model, options)[0]
    t, x_t = _met(prior, problem)
    found = []
    for p in range(len(problem)):
        told = prior.given(**conditions(model, options, [p * options.draws]))
        found.append(told(x_t[p : p + 1].to(model.device), t.to(model.device)).cpu())
    return torch.cat(found)


def _met(prior: Denoiser, problem: Problem) -> tuple[Tensor, Tensor]:
    """The time at which noise of ``sigma_y`` is met, sigma_t = alpha_t sigma_y, and x_t there."""
    t = prior.schedule.time(-2 * torch.tensor(problem.sigma_y, dtype=torch.float64).log())
    return t, prior.schedule(t)[0].to(problem.y) * problem.y


def _compete(
    model: Model, prior: Denoiser, problem: Problem, options: RestoreOptions, on_step: OnStep | None
) -> tuple[Tensor, float]:
    """One population for each measurement, whose draws are some of the particles; what these were
    worth, at the least."""
    count, seed, times, parts = options.particles, options.seed, plan(model, options)[1].times, []
    worth = float(count)
    if options.draws > count:
        raise UsageError(f"{options.draws} draws need as many particles: there are {count}.")
    for p in pieces(range(len(problem))):
        noise = Streams(seed, range(p * count, (p + 1) * count))
        told = prior.given(**conditions(model, options, [p * options.draws] * count))
        eps = noise(torch.empty(count, *model.shape, device=model.device))
        chance = generator("resampling", seed, p)
        x, least = particles_of(options, problem.rows(torch.tensor([p]), model.device))(
            told,
            start(prior.schedule, times[0], eps),
            times,
            noise=noise,
            uniform=chance.random,
            on_step=on_step,
        )
        chosen = torch.from_numpy(chance.permutation(count)[: options.draws])
        parts.append(x.cpu()[chosen])
        worth = min(worth, least)
    return torch.cat(parts), worth


def same_cut(mask: object, files: Files) -> None:
    """Refuse a mask, or another layer, that is not of the proportions of the pictures it is for.

    Both are scaled and cut to the size of the run, and would be cut differently.
    """
    if not isinstance(mask, (str, Path)) or isinstance(files, Tensor):
        return
    wide, high = picture_size(Path(mask))
    for path in files_in(files):
        width, height = picture_size(path)
        if abs(wide * height - high * width) > max(wide, high, width, height):
            raise UsageError(
                f"{mask} is of {wide} x {high} pixels and {path} of {width} x {height}: give one "
                "of the size of the picture."
            )


def same_size(model: Model, files: Files) -> None:
    """Refuse pictures under a mask that would have to be scaled: what is known is to be kept.

    Raises:
        UsageError: If one is not of the size of the model's examples, naming both sizes.
    """
    space = model.codec.data.shape[1:]
    if isinstance(files, Tensor) or len(space) != 2:
        return
    high, wide = space
    for path in files_in(files):
        if (size := picture_size(path)) != (wide, high):
            raise UsageError(
                f"{path} is of {size[0]} x {size[1]} pixels, but the run makes pictures of {wide} "
                f"x {high}: scale it to that size, or train with --data.patch for any size."
            )


def windows_of(mask: HoleSource, window: tuple[int, ...], count: int, seed: int) -> Tensor:
    """Parts of a mask ``(count, 1, *window)``, each from a random place where it hides something.

    A mask of the size of a window is taken as it is.

    Raises:
        UsageError: If it is smaller than a window, or hides nothing or everything.
    """
    if isinstance(mask, (str, Path)):
        wide, high = picture_size(Path(mask))
        mask = read_mask((1, high, wide), mask, 1)[0]
    hole = torch.as_tensor(mask)
    if hole.shape[-len(window) :] == window:
        return hole
    hole = hole.reshape(-1, *hole.shape[-len(window) :])[:1]
    if any(n < w for n, w in zip(hole.shape[1:], window, strict=True)):
        small, large = (" x ".join(map(str, size)) for size in (hole.shape[1:], window))
        raise UsageError(
            f"The mask of {small} is smaller than what the run was trained on, {large}."
        )
    chance, parts = generator("windows", seed), list[Tensor]()
    for _ in range(100 * count):
        begin = [
            int(chance.integers(n - w + 1)) for n, w in zip(hole.shape[1:], window, strict=True)
        ]
        part = hole[(slice(None), *(slice(b, b + w) for b, w in zip(begin, window, strict=True)))]
        if part.any() and not part.all():
            parts.append(part)
        if len(parts) == count:
            return torch.stack(parts)
    raise UsageError("The mask hides nothing, or everything, wherever one looks.")


def read_mask(shape: tuple[int, ...], mask: str | Path | Tensor | np.ndarray, count: int) -> Tensor:
    """True where to fill in, ``(P, C, *S)``; a picture is scaled and cut as those of the data."""
    if isinstance(mask, (str, Path)):
        if len(shape) != 3:
            raise UsageError("A mask from a file is for pictures: give a tensor of booleans.")
        grey = ImageCodec(shape=(1, *shape[1:]), dtype="uint8", mean=(0.0,), std=(1.0,))
        hole = grey.read(Path(mask)) >= 128
        if not hole.any():
            wide, high = picture_size(Path(mask))
            scaled = f" of {wide} x {high} pixels, seen as {shape[2]} x {shape[1]}"
            scaled = "" if (high, wide) == shape[1:] else scaled + ","
            raise UsageError(
                f"The mask {mask}{scaled} asks for nothing: make it white where to fill in."
            )
        if len(hole) not in (1, count):
            raise UsageError(f"{mask} holds {len(hole)} pictures: give one, or {count}.")
    else:
        hole = torch.as_tensor(mask)
        if hole.dtype != torch.bool:
            raise UsageError(f"The mask is of {hole.dtype}: give booleans, true where to fill in.")
    try:
        return hole.expand(count, *shape)
    except RuntimeError:
        raise UsageError(
            f"The mask has shape {tuple(hole.shape)}, which does not fit {count} pictures of "
            f"shape {shape}."
        ) from None
