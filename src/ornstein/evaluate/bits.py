"""What a model says of single examples: bits per dimension, and its loss."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.likelihood import (
    bits_per_dimension,
    dequantise,
    log_likelihood,
    rademacher,
    variational_bound,
)
from ..data.dataset import Dataset
from ..rng import Streams, generator
from ..runs.model import Model

PROBES = 2
CALLS = 64
PIECE = 16  # examples solved for together: an adaptive solver steps as the hardest of them needs
LEVELS = (-4.0, -2.0, 0.0, 2.0, 4.0)
"""Log-SNRs at which losses are compared: memory shows at middling noise."""


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Bits per dimension of held-out examples, in the units of the data.

    Args:
        flow: By the probability flow, exact up to its solver and probes.
        flow_error: Standard error, over the examples.
        bound: The variational bound, of the same examples.
        bound_error: Likewise.
        gap: ``bound - flow``, over the same examples: at least 0, if the model is consistent.
        gap_error: Likewise.
        n: Examples.
        discrete: Whether the data are integers, and so the figures of a probability.
    """

    flow: float
    flow_error: float
    bound: float
    bound_error: float
    gap: float
    gap_error: float
    n: int
    discrete: bool

    @property
    def ordered(self) -> bool:
        """Is the bound above the likelihood, within three standard errors?"""
        return self.gap > -3 * self.gap_error


def told(model: Model, data: Dataset, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Examples as the model knows them ``(B, C, *S)``, and what the data say of their conditions.

    Classes and attributes go by their names; those the run does not know count as not given.
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
    return x.to(model.device), {name: value.to(model.device) for name, value in cond.items()}


def measure_bits(model: Model, data: Dataset, count: int, seed: int = 0) -> Bits | None:
    """The likelihood of `count` examples of `data`, given what is known of them.

    Integers are spread evenly over their levels. None if a channel is constant: it has no density.

    Args:
        model: The run.
        data: Held-out examples.
        count: At most so many are used, at least two.
        seed: Of the choice, the spread and the probes.
    """
    codec = model.codec
    if min(codec.std) == 0 or min(count, len(data)) < 2:
        return None
    chosen = torch.from_numpy(generator("bits", seed).permutation(len(data))[:count].copy())
    unit = 1 / torch.tensor(codec.std, dtype=torch.float64).view(-1, *(1,) * (len(codec.shape) - 1))
    flows, bounds = [], []
    for part in chosen.split(PIECE):
        x, cond = told(model, data, part)
        x = x.double()
        noise = Streams(seed, part.tolist())
        if codec.levels is not None:
            spread = torch.special.ndtr(noise(x))  # uniform
            x = dequantise(x, unit.to(x), spread)
        probes = rademacher(noise, x, PROBES)
        denoiser = model.denoiser.given(**cond)
        flow = log_likelihood(denoiser, x, probes=probes).nats
        bound = -variational_bound(denoiser, x, noise, calls=CALLS).total
        flows.append(bits_per_dimension(flow.cpu(), torch.Size(codec.shape), unit))
        bounds.append(bits_per_dimension(bound.cpu(), torch.Size(codec.shape), unit))
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
        discrete=codec.levels is not None,
    )


@torch.no_grad()
def losses(model: Model, data: Dataset, count: int, seed: int = 0) -> np.ndarray:
    """The error of the denoiser on each of `count` examples ``(count,)``, meant over `LEVELS`.

    ``SNR |x - x_hat|^2 / D``, with the noise of an example a function of (seed, its number), and
    antithetic, eps and -eps: the loss that membership is inferred from.
    """
    chosen = torch.from_numpy(generator("losses", seed).permutation(len(data))[:count].copy())
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
