"""Sequential Monte Carlo: many trajectories that compete for explaining the measurement."""

from collections.abc import Callable
from dataclasses import dataclass
from math import expm1, sqrt

import torch
from torch import Tensor

from .denoise import Denoiser, align, covariance
from .posterior import Measured, evidence
from .trajectory import Draw, Instant, OnStep, instants

Uniform = Callable[[], float]
"""A number in [0, 1): where resampling takes its chance from."""


@dataclass(frozen=True, eq=False)
class Particles:
    """Draws of ``p(x | y)`` whose error vanishes as their number grows.

    Each of N particles steps with the moment-matched denoiser of ``p(x | x_t, y)``, which is
    biased; its weight makes up for that. With the twist ``psi(x_t) = p(y | x_t)`` of
    `core.posterior.evidence`, p DDPM's step of the prior and q the one taken, a step multiplies
    the weight by

        psi(x_s) p(x_s | x_t) / (psi(x_t) q(x_s | x_t)).

    Where the weights differ so much that they are worth fewer than `least` N equal ones, the
    particles are drawn anew by them. For any psi that ends in the likelihood, the weighted
    particles converge to the posterior under the prior's chain of steps; a good one makes few
    particles enough. The variance of a step is the optimal one, DDPM's and what x_hat leaves of
    ``Var[x | x_t]``, so that a few dozen steps make a chain that is near the prior.

    Args:
        measured: Of all particles alike: y ``(1, *M)``, of at most `core.posterior.MOST` numbers.
        least: Share of N.

    Source: Wu et al. (2023), https://arxiv.org/abs/2306.17775 (twisted diffusion sampler), with
    the moments of Rozet et al. (2024), https://arxiv.org/abs/2405.13712, in the twist; Bao et al.
    (2022), https://arxiv.org/abs/2201.06503 (optimal variance).
    """

    measured: Measured
    least: float = 0.5

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Tensor,
        *,
        noise: Draw = torch.randn_like,
        uniform: Uniform = lambda: torch.rand(()).item(),
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Take the particles `x` ``(N, C, *S)`` down the grid `times` ``(K + 1,)``, to 0.

        Args:
            denoiser: Of the prior; its conditions are bound beforehand, and are those of all.
            x: x_t at the first time; see `core.trajectory.start`.
            times: Strictly decreasing.
            noise: Where the noise comes from.
            uniform: Where resampling takes its chance from.
            on_step: Looks on.

        Returns:
            Equally weighted draws ``(N, C, *S)``, in no order; some may be equal but for the
            noise since they were one.
        """
        grid = instants(denoiser.schedule, times.to(x.device))
        log_weight = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        found = evidence(denoiser, self.measured, x, grid[0].t)
        log_weight = log_weight + found.log_prob
        for i, then in enumerate(grid[1:], 1):
            now = grid[i - 1]
            if effective(log_weight) < self.least * len(x):
                chosen = systematic(torch.softmax(log_weight, 0), uniform())
                x, log_weight = x[chosen], torch.zeros_like(log_weight)
                found = type(found)(*(part[chosen] for part in found))
            if then.sigma == 0:
                x = self.measured.settled(found.x_hat + found.pull)
            else:
                x, change = self._step(denoiser, x, found, now, then, noise)
                before = found.log_prob
                found = evidence(denoiser, self.measured, x, then.t)
                log_weight = log_weight + change + found.log_prob - before
            if on_step is not None:
                on_step(x, then.t)
        return x[systematic(torch.softmax(log_weight, 0), uniform())]

    def _step(
        self, denoiser: Denoiser, x_t: Tensor, found, now: Instant, then: Instant, noise: Draw
    ) -> tuple[Tensor, Tensor]:
        """x_s, and ``log p(x_s | x_t) - log q(x_s | x_t)``: two Gaussians of one variance."""
        share = -expm1(2 * (now.half - then.half))  # 1 - SNR_t / SNR_s
        ratio = sqrt(1 - share) * then.sigma / now.sigma
        of_x = then.alpha - now.alpha * ratio
        probe = noise(x_t).sign()
        _, spread = covariance(denoiser, x_t, now.t)
        left = (probe * spread(probe)).flatten(1).mean(1).clamp_min(0)  # Var[x | x_t], estimated
        var = align(share * then.sigma**2 + of_x**2 * left, x_t)
        eps, shift = noise(x_t), of_x * found.pull
        x_s = ratio * x_t + of_x * found.x_hat + shift + var.sqrt() * eps
        # log N(x_s; m, v) - log N(x_s; m + shift, v), x_s = m + shift + sqrt(v) eps
        change = -((shift * eps / var.sqrt() + shift**2 / (2 * var)).flatten(1).sum(1))
        return x_s, change.double()


def effective(log_weight: Tensor) -> float:
    """How many equal weights these ``(N,)`` are worth: ``1 / sum w^2``."""
    return 1 / torch.softmax(log_weight, 0).square().sum().item()


def systematic(weights: Tensor, offset: float) -> Tensor:
    """N indices, each i drawn ``N weights_i`` times up to rounding.

    Source: Kitagawa (1996), https://doi.org/10.2307/1390750.
    """
    N = len(weights)
    places = (torch.arange(N, dtype=weights.dtype, device=weights.device) + offset) / N
    return torch.searchsorted(weights.cumsum(0), places).clamp(max=N - 1)
