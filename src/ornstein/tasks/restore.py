"""Mend what was measured badly: draw from the posterior, given what is known."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.conformal import Widening
from ..core.denoise import Denoiser
from ..core.measure import Mask, Operator
from ..core.sample import OnStep, start
from ..core.tally import Tally
from ..data.files import read_file
from ..data.places import Place, files_in
from ..errors import UsageError
from ..progress import pieces
from ..rng import Streams, generator
from ..runs.bands import kept_widening
from ..runs.model import Model
from ..runs.sized import sized
from .asking import conditions, label_names
from .holes import HoleSource, incomplete
from .measuring import Problem, masked, problem_of
from .methods import caution, method_of, particles_of
from .options import RestoreOptions, checked
from .reading import Coding, Files, Read, coding_of, paths_of
from .restored import FEWEST, Cost, Restored
from .sample import Run, Samples, block, draw, maker, opened, plan, rule
from .ways import Plane, asked, makes_pictures, plane, sought


def restore(
    run: Run,
    files: Files,
    mask: HoleSource = None,
    draws: int = 4,
    *,
    operator: str | Operator | None = None,
    device: str | torch.device = "auto",
    on_step: OnStep | None = None,
    **options: Any,
) -> Restored:
    """Draw what pictures may have been, several times over; what is known exactly is kept.

    A run of patches restores pictures of any size, as large as they are. Of tables, and of
    tensors of floats, what is NaN or an empty cell is filled in, where nothing else is said.

    Args:
        run: The run, or its folder.
        files: Files of what was measured; or as a batch in the data's units what the operator
            made ``(P, *M)``, under a mask pictures ``(P, C, *S)``.
        mask: What to fill in: a picture, white there; or booleans, true there, that broadcast to
            ``(P, C, *S)``. None for another operator, which the options then name.
        draws: Restorations of each picture.
        operator: By what was measured: the name of one, or one of your own, of examples in the
            units of the data ``(P, C, *S)``, float64 or float32.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        on_step: Called with x_s ``(B, C, *S)`` and s after each step of
            each block of examples.
        **options: Those of `RestoreOptions`.

    Raises:
        UsageError: If an option is unknown or out of its bounds, the mask or the operator does
            not fit, or the method cannot take the operator.
        DataError: If a file cannot be read, or is of another size.
    """
    own = operator if isinstance(operator, Operator) else None
    named = {} if operator is None or own else {"operator": operator}
    chosen = checked(RestoreOptions, {"draws": draws, **named, **options})
    ways = one_way(chosen, mask is not None, own is not None)
    model, said = _at_size(opened(run, device), files, chosen), chosen
    if ways in ([], ["mask"], ["outpaint"]):
        read, hole = incomplete(model, files, mask, chosen)
        chosen = _under_labels(model, chosen, read)
        problem = masked(model, read, ~hole, chosen)
        given = model.codec.data.pack(read.values).nan_to_num(0.0)
    else:
        read, problem = None, problem_of(model, files, chosen, own)
        given = problem.shown(model.codec.data.shape)
    x, cost = solve(model, problem, chosen, on_step)
    keep = torch.zeros(len(problem), *model.codec.data.shape, dtype=torch.bool)
    if problem.copied is not None:
        keep = problem.copied.keep.expand_as(keep)
    labels, made = label_names(model, chosen, range(len(x))), maker(model, chosen.seed)
    samples = Samples(x, model.codec.data, labels=labels, made=made)
    return Restored(
        given,
        keep,
        samples,
        cost,
        problem.names,
        guess=denoised(model, problem, chosen) if problem.white else None,
        sources=problem.sources,
        read=read,
        margins=None if chosen.simulate else chosen.margins,
        widening=_known_widening(model, said, mask) if own is None else None,
        caution=caution(chosen),
    )


def _under_labels(model: Model, options: RestoreOptions, read: Read) -> RestoreOptions:
    """Draws of each row under the class that its table says, if no other is asked for."""
    if options.label is not None or not read.labels or not model.vocabulary.classes:
        return options
    told = (label or "any" for label in read.labels)
    return replace(options, label=tuple(label for label in told for _ in range(options.draws)))


def one_way(options: RestoreOptions, masked: bool, own: bool) -> list[str]:
    """The way of measuring that is asked for, by name; none, if all there is are empty cells.

    Raises:
        UsageError: If there are two.
    """
    ways = [*["mask"] * masked, *asked(options), *["operator"] * own]
    if len(ways) > 1:
        raise UsageError(f"--{ways[0]} and --{ways[1]} are two measurements: give one.")
    return ways


AS_YOU_LIKE = ("seed", "simulate")
"""Options that do not change what is measured, nor how well it is restored."""


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


def _at_size(model: Model, files: Files, options: RestoreOptions) -> Model:
    """The model for the examples that were measured, if it is one of patches."""
    if model.config.data.patch is None:
        return model
    size = sought(space_of(files, makes_pictures(options)), options)
    return model if size is None else sized(model, size)


def fitting(model: Model, files: Files) -> Model:
    """The model for pictures as large as those in `files`, if it is one of patches."""
    return model if model.config.data.patch is None else sized(model, space_of(files))


def at_once(
    model: Model, files: Place | Sequence[Place], options: RestoreOptions | None = None
) -> list[list[Path]]:
    """The files in lists to restore at once.

    Of a run of patches, those of one size; of JPEG files that are to say how they were made, those
    that say the same.
    """
    options = options or RestoreOptions()
    told = options.operator == "jpeg" and "quality" not in (options.parameters or {})
    lists: dict[tuple[Plane | None, Coding | None], list[Path]] = {}
    for path in paths_of(model.codec.data, files):
        fixed = model.config.data.patch is None
        size = None if fixed else plane(path, makes_pictures(options))
        coding = coding_of(path) if told and not options.simulate else None
        lists.setdefault((size, coding), []).append(path)
    return list(lists.values())


def space_of(files: Files, picture: bool = True) -> Plane:
    """Rows and columns of pictures, or of other measurements, that are all of one size.

    Raises:
        UsageError: If they are not, naming two.
        DataError: If one cannot be read.
    """
    if isinstance(files, Tensor):
        return files.shape[-2], files.shape[-1]
    first: dict[Plane, Path] = {}
    for path in files_in(files):
        first.setdefault(plane(path, picture), path)
    if len(first) > 1:
        some = [f"{path} is {w} x {h}" for (h, w), path in first.items()]
        raise UsageError(f"{some[0]}, {some[1]}: give pictures of one size at a time.")
    (size,) = first
    return size


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
    return draw(model, posterior, steps, options.seed, total, on_step, gradients=True)


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
