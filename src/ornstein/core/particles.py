"""Sequential Monte Carlo: many trajectories that compete for explaining the measurement."""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, expm1, sqrt

import torch
from torch import Tensor

from .denoise import Denoiser, covariance
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
    particles enough.

    The chain is near the prior because p has the mean and, to second order, the covariance of the
    true ``p(x_s | x_t)``: with v the variance of DDPM's step and a the weight of x_hat in it,
    ``v I + a^2 Cov[x | x_t]``, whose root takes one product. With one variance for all directions,
    that of a Gaussian's draws would be off by a tenth after 50 steps, however many particles.

    Args:
        measured: Of all particles alike: y ``(1, *M)``, of at most `core.posterior.MOST` numbers.
        least: Share of N.

    Source: Wu et al. (2023), https://arxiv.org/abs/2306.17775 (twisted diffusion sampler), with
    the moments of Rozet et al. (2024), https://arxiv.org/abs/2405.13712, in the twist; Bao et al.
    (2022), https://arxiv.org/abs/2206.07309 (optimal covariance).
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
        """x_s, and ``log p(x_s | x_t) - log q(x_s | x_t)``.

        Both draw ``mean + sqrt(v) (I + B / (1 + sqrt(SNR_s / SNR_t))) eps``, B = a^2 C / v: p with
        eps ~ N(0, I), q with eps ~ N(shift, I). The root is that of ``I + B`` where C = 0, and
        where x_t alone tells of x, ``C = (sigma_t / alpha_t)^2 I``; between, to second order.
        """
        wide = now.half - then.half
        share = -expm1(2 * wide)  # 1 - SNR_t / SNR_s
        ratio = sqrt(1 - share) * then.sigma / now.sigma
        a, std = then.alpha * share, then.sigma * sqrt(share)
        _, spread = covariance(denoiser, x_t, now.t)
        fresh, shift = noise(x_t), a / std * found.pull
        eps = fresh + shift
        root = eps + (a / std) ** 2 / (1 + exp(-wide)) * spread(eps)
        change = -(shift * fresh + shift**2 / 2).flatten(1).sum(1)  # log N(eps; 0) / N(eps; shift)
        return ratio * x_t + a * found.x_hat + std * root, change.double()


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
