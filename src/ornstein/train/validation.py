"""The loss on held-out examples, always with the same noise."""

from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.noise import Schedule
from ..core.times import TimeDistribution, low_discrepancy
from ..data.dataset import Dataset
from ..rng import normal
from .device import Precision, autocast
from .draws import Batch
from .signals import Stop

PIECE = 256  # examples at once, and between two looks at the flag


class Learner(Protocol):
    """What has a loss."""

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, **cond: Any) -> Tensor: ...


class Validation:
    """The training loss on held-out examples.

    Args:
        batch: Always the same.
        precision: Of the network's products.
    """

    def __init__(self, batch: Batch, precision: Precision = "f32") -> None:
        self.batch = batch
        self.precision: Precision = precision

    @torch.no_grad()
    def __call__(self, learner: Learner, stop: Stop) -> float | None:
        """The mean loss; None if `stop` was set meanwhile."""
        losses: list[Tensor] = []
        for part in self.batch.parts(PIECE):
            if stop:
                return None
            with autocast(part.x.device, self.precision):
                losses.append(learner.loss(part.x, part.t, part.eps, **part.cond))
        return torch.cat(losses).double().mean().item()


def held_batch(
    held: Dataset, schedule: Schedule, times: TimeDistribution, *, count: int, seed: int
) -> Batch:
    """Held-out examples, at fixed times with fixed noise.

    Args:
        held: The held-out examples, N >= 1.
        schedule: Of the denoiser.
        times: The time distribution of training.
        count: How many; examples are used in turn, with noise of their own each time.
        seed: Of the run.
    """
    indices = torch.arange(count) % len(held)
    x, cond = held.batch(indices)
    eps = normal(x.shape, seed, "validation").to(x)
    with torch.no_grad():
        t = times(low_discrepancy(0.5 / count, count).to(x.device), schedule)
    mixed = torch.arange(count) * 7919 % count  # neighbours are of one class
    if len(mixed.unique()) == count:
        t = t[mixed]
    return Batch(x, t, eps, cond)
