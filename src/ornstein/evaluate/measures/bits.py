"""What a model says of single examples: bits per dimension, and its loss."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.likelihood import (
    Range,
    bits_per_dimension,
    dequantise,
    flow_bound,
    noise_error,
    rademacher,
    reconstruction,
    variational_bound,
)
from ...data.codec import Codec
from ...data.dataset import Dataset
from ...data.points import PointsCodec
from ...rng import Streams, generator
from ...runs.model import Model
from ...runs.quick import plain
from ...tasks.asking import context_from

PROBES = 2
CALLS = 64
PIECE = 16  # examples solved for together: an adaptive solver steps as the hardest of them needs
LEVELS = (-4.0, -2.0, 0.0, 2.0, 4.0)
"""Log-SNRs at which losses are compared: memory shows at middling noise."""

MANY_LEVELS = 256  # more are spread evenly, and then as good as continuous
STEP = 0.5  # between the log-SNRs of a profile
PROFILED = 2**13  # numbers in the training examples that a profile is made of, about


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How wrong the denoiser is at each level of noise, and what that costs.

    Args:
        log_snr: Rising by `STEP`.
        error: ``|eps - eps_hat|^2 / D`` of training examples; above 1, no network would do better.
        bits: Bits per dimension of the variational bound, were it to stop at each.
    """

    log_snr: tuple[float, ...]
    error: tuple[float, ...]
    bits: tuple[float, ...]

    @property
    def end(self) -> float:
        """The log-SNR where to stop: where the bound is lowest."""
        return self.log_snr[int(np.argmin(self.bits))]


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Bits per dimension of held-out examples, in the units of the data.

    Args:
        flow: By the probability flow, up to its solver and probes.
        flow_error: Standard error, over the examples.
        bound: The variational bound, of the same examples.
        bound_error: Likewise.
        gap: ``bound - flow``, over the same examples: at least 0, if the model is consistent.
        gap_error: Likewise.
        n: Examples.
        discrete: Whether all data are whole numbers, and so the figures of a probability.
        profile: Of training examples; both figures stop at its end.
    """

    flow: float
    flow_error: float
    bound: float
    bound_error: float
    gap: float
    gap_error: float
    n: int
    discrete: bool
    profile: Profile

    @property
    def ordered(self) -> bool:
        """Is the bound above the likelihood, within three standard errors?"""
        return self.gap > -3 * self.gap_error


def told(model: Model, data: Dataset, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Examples as the model knows them ``(B, C, *S)``, and what the data say of their conditions.

    Classes and attributes go by their names; those the run does not know count as not given. Of
    several captions it is the first; a run of pairs is given what belongs to each example.
    """
    words, some = model.vocabulary, data.subset(indices)
    x, cond = model.codec.pack(some.stored), {}
    if some.label is not None and words.classes:
        known = [words.classes.index(c) if c in words.classes else -1 for c in data.classes]
        cond["label"] = torch.tensor([*known, -1])[some.label]
    if some.attributes is not None and words.attributes:
        columns = torch.full((len(some), len(words.attributes)), torch.nan)
        for i, name in enumerate(words.attributes):
            if name in some.attributes.names:
                raw = some.attributes.values[:, some.attributes.names.index(name)]
                columns[:, i] = (raw - words.means[i]) / words.stds[i]
        cond["attributes"] = columns
    if some.captions is not None and (reads := model.reader or words.words) is not None:
        cond["text"] = reads.tensor(some.captions.first)
    if some.given is not None and model.given is not None:
        cond["context"] = context_from(model, some.given.stored.numpy())
    return x.to(model.device), {name: value.to(model.device) for name, value in cond.items()}


def why_none(model: Model) -> str:
    """Why there are no bits of a run, in a sentence."""
    if model.codec.data is not model.codec:
        return "None: a density of latents is none of the data that the run draws."
    return "None: the data have a constant channel, or are too few, and so no density."


def measure_bits(
    model: Model, train: Dataset, held_out: Dataset, count: int, seed: int = 0
) -> Bits | None:
    """The likelihood of `count` held-out examples, given what is known of them.

    Both figures stop at the log-SNR where the bound of training examples is lowest, and leave the
    rest to the levels: no training visits the last traces of noise often enough to learn them,
    and the bound holds wherever it stops. None if there is no density; see `why_none`.

    Args:
        model: The run.
        train: What it was trained on.
        held_out: What it never saw.
        count: At most so many examples are used, at least two.
        seed: Of the choice, the noise and the probes.
    """
    codec = model.codec
    if codec.data is not codec or min(codec.std) == 0 or min(count, len(held_out)) < 2:
        return None
    scale, model = _Scale(codec), plain(model)
    profile = _profile(model, train, scale, seed)
    within = Range(log_snr_max=profile.end)
    flows, bounds = [], []
    for part in _chosen("bits", held_out, count, seed).split(PIECE):
        noise = Streams(seed, part.tolist())
        x, cond = told(model, held_out, part)
        x = scale.spread(x.double(), noise)
        denoiser, levels = model.denoiser.given(**cond), scale.levels
        probes = rademacher(noise, x, PROBES)
        flow = flow_bound(denoiser, x, noise, probes=probes, levels=levels, within=within)
        bound = variational_bound(denoiser, x, noise, calls=CALLS, levels=levels, within=within)
        flows.append(scale.bits(flow))
        bounds.append(scale.bits(bound.total))
    flow, bound = torch.cat(flows).numpy(), torch.cat(bounds).numpy()
    gap, root = bound - flow, len(flow) ** 0.5
    return Bits(
        flow=float(flow.mean()),
        flow_error=float(flow.std(ddof=1) / root),
        bound=float(bound.mean()),
        bound_error=float(bound.std(ddof=1) / root),
        gap=float(gap.mean()),
        gap_error=float(gap.std(ddof=1) / root),
        n=len(flow),
        discrete=bool(unit(codec).all()),
        profile=profile,
    )


def unit(codec: Codec) -> Tensor:
    """The distance of two neighbouring values, in x, for each channel ``(C, 1, ...)``; else 0."""
    whole = [np.dtype(codec.dtype).kind != "f"] * codec.shape[0]
    if isinstance(codec, PointsCodec):
        whole = [w or i in codec.whole for i, w in enumerate(whole)]
    sizes = [1 / s if w and s > 0 else 0.0 for w, s in zip(whole, codec.std, strict=True)]
    return torch.tensor(sizes).view(-1, *(1,) * (len(codec.shape) - 1))


class _Scale:
    """The values that examples may take, and the unit of what is said of them."""

    def __init__(self, codec: Codec) -> None:
        self.shape, wide = torch.Size(codec.shape), (-1, *(1,) * (len(codec.shape) - 1))
        mean, std = (
            torch.tensor(v, dtype=torch.float64).view(wide) for v in (codec.mean, codec.std)
        )
        self.levels, self.unit, self.step = None, 1 / std, torch.zeros_like(std)
        if codec.levels is None or codec.levels > MANY_LEVELS:
            self.step = unit(codec)
            return
        lowest = 0 if codec.dtype == "bool" else np.iinfo(codec.dtype).min
        values = lowest + torch.arange(codec.levels, dtype=torch.float64)
        self.levels = (values - mean[..., None]) / std[..., None]
        self.unit = torch.ones_like(std)  # of a probability

    def spread(self, x: Tensor, noise: Streams) -> Tensor:
        """x, evenly spread where it is whole numbers, unless they are of few levels."""
        return dequantise(x, self.step.to(x), torch.special.ndtr(noise(x)))

    def bits(self, nats: Tensor) -> Tensor:
        return bits_per_dimension(-nats.cpu(), self.shape, self.unit)


def _chosen(what: str, data: Dataset, count: int, seed: int) -> Tensor:
    return torch.from_numpy(generator(what, seed).permutation(len(data))[:count].copy())


@torch.no_grad()
def _profile(model: Model, train: Dataset, scale: _Scale, seed: int) -> Profile:
    """The errors at log-SNRs from end to end, and the bound by the trapezoidal rule."""
    low, high = Range()(model.denoiser.schedule)
    grid = np.linspace(low, high, 1 + math.ceil((high - low) / STEP))
    size = math.prod(scale.shape)
    chosen = _chosen("profile", train, max(64, PROFILED // size), seed)
    errors, left = np.zeros(len(grid)), np.zeros(len(grid))  # left: bits of the reconstruction
    for part in chosen.split(max(1, 2**14 // size)):
        noise = Streams(seed, part.tolist())
        x, cond = told(model, train, part)
        x = scale.spread(x.double(), noise)
        denoiser, share = model.denoiser.given(**cond), len(part) / len(chosen)
        for i, log_snr in enumerate(grid.tolist()):
            t = denoiser.schedule.time(torch.tensor(log_snr, dtype=torch.float64, device=x.device))
            eps = noise(x)
            errors[i] += share * noise_error(denoiser, x, t, eps).mean().item() / size
            rest = reconstruction(x, eps, log_snr, scale.levels)
            left[i] += share * scale.bits(rest).mean().item()
    steps = np.diff(grid) * (errors[1:] + errors[:-1]) / 2
    spent = np.concatenate([[0.0], np.cumsum(steps / 2 / math.log(2))])
    bits = left + spent
    return Profile(
        log_snr=tuple(grid.tolist()), error=tuple(errors.tolist()), bits=tuple(bits.tolist())
    )


@torch.no_grad()
def losses(model: Model, data: Dataset, count: int, seed: int = 0) -> np.ndarray:
    """The error of the denoiser on each of `count` examples ``(count,)``, meant over `LEVELS`.

    ``SNR |x - x_hat|^2 / D``, with the noise of an example a function of (seed, its number), and
    antithetic, eps and -eps: the loss that membership is inferred from.
    """
    chosen = _chosen("losses", data, count, seed)
    schedule, found = model.denoiser.schedule, []
    levels = torch.tensor(LEVELS, dtype=torch.float64, device=model.device)
    for part in chosen.split(256):
        x, cond = told(model, data, part)
        noise, total = Streams(seed, part.tolist()), torch.zeros(len(part), dtype=torch.float64)
        for t in schedule.time(levels):
            alpha, sigma = (c.to(x) for c in schedule(t))
            eps = noise(x)
            for sign in (1, -1):
                x_hat = model.denoiser(alpha * x + sign * sigma * eps, t, **cond)
                error = (alpha / sigma * (x - x_hat)).square().flatten(1).mean(1)
                total += error.double().cpu() / (2 * len(LEVELS))
        found.append(total)
    return torch.cat(found).numpy()
