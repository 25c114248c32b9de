"""The loss on held-out examples, always with the same noise."""

import torch
from torch import Tensor

from ..core.denoise import NetDenoiser
from ..core.times import TimeDistribution, low_discrepancy
from ..data.dataset import Dataset
from ..rng import normal
from .device import Precision, autocast
from .draws import Batch
from .signals import Stop

PIECE = 256  # examples at once, and between two looks at the flag


class Validation:
    """The training loss on held-out examples at fixed times with fixed noise.

    Args:
        held: The held-out examples, N >= 1.
        denoiser: For its schedule.
        times: The time distribution of training.
        count: Terms of the mean; examples are used in turn, with noise of their own each time.
        seed: Of the run.
    """

    def __init__(
        self,
        held: Dataset,
        denoiser: NetDenoiser,
        times: TimeDistribution,
        *,
        count: int,
        seed: int,
        precision: Precision = "f32",
    ) -> None:
        indices = torch.arange(count) % len(held)
        x, cond = held.batch(indices)
        eps = normal(x.shape, seed, "validation").to(x)
        with torch.no_grad():
            t = times(low_discrepancy(0.5 / count, count).to(x.device), denoiser.schedule)
        mixed = torch.arange(count) * 7919 % count  # neighbours are of one class
        if len(mixed.unique()) == count:
            t = t[mixed]
        self.batch = Batch(x, t, eps, cond)
        self.precision: Precision = precision

    @torch.no_grad()
    def __call__(self, denoiser: NetDenoiser, stop: Stop) -> float | None:
        """The mean loss; None if `stop` was set meanwhile."""
        losses: list[Tensor] = []
        for part in self.batch.parts(PIECE):
            if stop:
                return None
            with autocast(part.x.device, self.precision):
                losses.append(denoiser.loss(part.x, part.t, part.eps, **part.cond))
        return torch.cat(losses).double().mean().item()
