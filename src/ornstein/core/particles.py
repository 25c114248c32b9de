"""Sequential Monte Carlo: many trajectories that compete for explaining the measurement."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import exp, expm1, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from .denoise import Denoiser, covariance
from .measure import LinearOperator, Spectrum
from .posterior import TINY, Measured, isotropic, spectrum
from .trajectory import Draw, Instant, OnStep, instants

Uniform = Callable[[], float]
"""A number in [0, 1): where resampling takes its chance from."""


class Told(ABC):
    """What ``p(y | x_t) = N(y; A x_hat, S)`` says, moment-matched: S = A C A* + sigma_y^2 I.

    Attributes:
        x_hat: ``E[x | x_t]``.
        log_prob: ``log p(y | x_t)`` ``(N,)``, but for a constant.
    """

    x_hat: Tensor
    log_prob: Tensor

    @property
    @abstractmethod
    def pull(self) -> Tensor:
        """``C A* S^-1 (y - A x_hat)``, what the measurement adds to x_hat."""

    @abstractmethod
    def steered(self, fresh: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """eps with ``(I + U* U)^(1/2) eps ~ N(U* gap, I)``, and ``log N(eps; 0, I) - log q(eps)``.

        Args:
            fresh: Standard Gaussian noise ``(N, C, *S)``.
            scale: ``U = scale S^(-1/2) A C``; gap is ``S^(-1/2) (y - A x_hat)``.
        """

    @abstractmethod
    def take(self, chosen: Tensor) -> "Told":
        """Of the particles `chosen` ``(N,)``."""


@dataclass(frozen=True, eq=False)
class ByNumber(Told):
    """With all of S: a product for each of the M numbers measured.

    Args:
        x_hat: See `Told`.
        log_prob: See `Told`.
        gap: ``S^(-1/2) (y - A x_hat)`` ``(N, M)``.
        rows: ``S^(-1/2) A C`` ``(N, M, C, *S)``.
    """

    x_hat: Tensor
    log_prob: Tensor
    gap: Tensor
    rows: Tensor

    @classmethod
    def of(cls, denoiser: Denoiser, measured: Measured, x_t: Tensor, t: Tensor) -> "ByNumber":
        """The moments of `core.posterior.PosteriorDenoiser`, with nothing left to solve."""
        x_hat, spread = covariance(denoiser, x_t, t)
        gap, A = measured.reduced(x_hat)
        rows = torch.stack([spread(row) for row in A.unbind(1)], 1)
        values, axes = spectrum(rows.flatten(2) @ A.flatten(2).mT, measured.noise)
        gap = (gap.double()[:, None] @ axes)[:, 0] / values.sqrt()
        root = (axes / values.sqrt()[:, None]).mT.to(x_t)
        rows = (root @ rows.flatten(2)).view_as(rows)
        return cls(x_hat, -(gap**2 + values.log()).sum(1) / 2, gap.to(x_t), rows)

    @property
    def pull(self) -> Tensor:
        return combined(self.gap, self.rows)

    def steered(self, fresh: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        U = scale * self.rows
        flat = U.flatten(2)
        values, axes = torch.linalg.eigh((flat @ flat.mT).double())
        values = values.clamp_min(TINY)
        moved = fresh + combined(self.gap, U)
        # (I + U* U)^(-1/2) = I - U* (1 - (1 + values)^(-1/2)) / values U, in the axes of U U*
        along = (moved.flatten(1)[:, None].double() @ flat.mT.double() @ axes)[:, 0]
        kept = -torch.expm1(-torch.log1p(values) / 2) / values * along
        eps = moved - combined((kept[:, None] @ axes.mT)[:, 0].to(U), U)
        return eps, (_less(fresh, eps) - torch.log1p(values).sum(1)) / 2

    def take(self, chosen: Tensor) -> "ByNumber":
        return ByNumber(
            self.x_hat[chosen], self.log_prob[chosen], self.gap[chosen], self.rows[chosen]
        )


@dataclass(frozen=True, eq=False)
class ByDirection(Told):
    """With what C is along each singular vector of A, in the mean of all particles: S is diagonal.

    One product each, with a random sign at every place, however many numbers were measured. A twist
    need not be right to be allowed, and a mean is what a network knows better than each of its
    Jacobians: on digits, half of them known, a population is worth more by it than with all of S.

    Source: Bekas et al. (2007), https://doi.org/10.1016/j.apnum.2007.01.003 (diagonals by probes).

    Args:
        x_hat: See `Told`.
        log_prob: See `Told`.
        known: The decomposition of A.
        gap: ``S^(-1/2) U* (y - A x_hat)``, in the places of ``V* x``.
        gain: ``S^(-1/2) c s``, s the singular values, there.
    """

    x_hat: Tensor
    log_prob: Tensor
    known: Spectrum
    gap: Tensor
    gain: Tensor

    @classmethod
    def of(
        cls,
        known: Spectrum,
        noise: Draw,
        denoiser: Denoiser,
        measured: Measured,
        x_t: Tensor,
        t: Tensor,
    ) -> "ByDirection":
        x_hat, spread = covariance(denoiser, x_t, t)
        gap, seen = known.invert(measured.gap(x_hat)[0])
        probe = noise(x_t).sign()
        way, through = known.analyse(probe), known.analyse(spread(probe))
        most = isotropic(denoiser, t, x_t)
        c = (way.conj() * through).real.mean(0) / way.abs().square().mean(0)
        c = c.clamp(most / ROOM, most * ROOM)
        values = known.values.to(x_t)
        S = torch.where(seen, values**2 * c + measured.noise**2, 1.0).expand(gap.shape)
        gap = gap * values / S.sqrt()
        found = gap.abs().double().square() + S.double().log()
        gain = torch.where(seen, c * values / S.sqrt(), 0.0)
        return cls(x_hat, -found.flatten(1).sum(1) / 2, known, gap, gain)

    @property
    def pull(self) -> Tensor:
        return self.known.synthesise(self.gain * self.gap)

    def steered(self, fresh: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        u = scale * self.gain
        moved = self.known.analyse(fresh) + u * self.gap
        eps = self.known.synthesise(moved / (1 + u**2).sqrt())
        return eps, (_less(fresh, eps) - torch.log1p(u.double() ** 2).flatten(1).sum(1)) / 2

    def take(self, chosen: Tensor) -> "ByDirection":
        return ByDirection(
            self.x_hat[chosen],
            self.log_prob[chosen],
            self.known,
            self.gap[chosen],
            self.gain[chosen],
        )


ROOM = 1e2
"""How far the variance that a network claims may be from that of data N(0, I), as a factor."""

FEW = 16
"""Numbers measured up to which `Particles` take all of S."""


def _less(fresh: Tensor, eps: Tensor) -> Tensor:
    """``|fresh|^2 - |eps|^2`` of each ``(N,)``."""
    return (fresh.double() ** 2 - eps.double() ** 2).flatten(1).sum(1)


def combined(weights: Tensor, rows: Tensor) -> Tensor:
    """The sum of `rows` ``(N, M, C, *S)`` by `weights` ``(N, M)``."""
    return (weights[:, None] @ rows.flatten(2)).view_as(rows[:, :1])[:, 0]


class Drawn(NamedTuple):
    """What is left of the particles.

    Attributes:
        x: Equally weighted draws ``(N, C, *S)``, in no order; some may be equal but for the noise
            since they were one.
        worth: How many equal ones they were worth where their weights differed most.
    """

    x: Tensor
    worth: float


@dataclass(frozen=True, eq=False)
class Particles:
    """Draws of ``p(x | y)`` whose error vanishes as their number grows.

    Each of N particles steps as ``p(x | x_t, y)`` would have it if ``p(x | x_t)`` were Gaussian;
    its weight makes up for that. With the twist ``psi(x_t) = p(y | x_t)`` of `Told`, p DDPM's
    step of the prior and q the one taken, a step multiplies the weight by

        psi(x_s) p(x_s | x_t) / (psi(x_t) q(x_s | x_t)).

    Where the weights differ so much that they are worth fewer than `least` N equal ones, the
    particles are drawn anew by them. For any psi that ends in the likelihood, the weighted
    particles converge to the posterior under the prior's chain of steps; a good one makes few
    particles enough.

    The chain is near the prior because p has the mean and, to second order, the covariance of the
    true ``p(x_s | x_t)``: with v the variance of DDPM's step and a the weight of x_hat in it,
    ``v I + a^2 Cov[x | x_t]``, whose root takes one product. With one variance for all directions,
    that of a Gaussian's draws would be off by a tenth after 50 steps, however many particles.

    The weights stay near each other because q has the moments of ``p(x_s | x_t, y)``, the
    covariance too. For Gaussian data they stay equal, to second order in the step. No derivative
    of psi is taken: where it is steep, a step along it would lead too far, and one particle in
    thousands, which did not go, would outweigh all others.

    Args:
        measured: Of all particles alike: y ``(1, *M)``.
        least: Share of N, in [0, 1].

    Source: Wu et al. (2023), https://arxiv.org/abs/2306.17775 (twisted diffusion sampler), with
    the moments of Rozet et al. (2024), https://arxiv.org/abs/2405.13712, in the twist; Bao et al.
    (2022), https://arxiv.org/abs/2206.07309 (optimal covariance).
    """

    measured: Measured
    least: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise ValueError(f"least must lie in [0, 1], got {self.least}")

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
    ) -> Drawn:
        """Take the particles `x` ``(N, C, *S)`` down the grid `times` ``(K + 1,)``, to 0.

        The last step is to the posterior mean, whatever noise the schedule leaves at 0.

        Args:
            denoiser: Of the prior; its conditions are bound beforehand, and are those of all.
            x: x_t at the first time; see `core.trajectory.start`.
            times: Strictly decreasing.
            noise: Where the noise comes from.
            uniform: Where resampling takes its chance from.
            on_step: Looks on.

        Raises:
            UsageError: If the measurement is of more than `core.posterior.MOST` numbers, and the
                operator has no cheap decomposition.
        """
        grid = instants(denoiser.schedule, times.to(x.device))
        told = self._told(denoiser, tuple(x.shape[1:]), noise)
        found, worth = told(x, grid[0].t), float(len(x))
        log_weight = log_prob = 0 * found.log_prob  # of noise alone, nothing can be told
        for i, then in enumerate(grid[1:], 1):
            now = grid[i - 1]
            worth = min(worth, effective(log_weight))
            if effective(log_weight) < self.least * len(x):
                chosen = systematic(torch.softmax(log_weight, 0), uniform())
                x, found, log_prob = x[chosen], found.take(chosen), log_prob[chosen]
                log_weight = torch.zeros_like(log_weight)
            if then is grid[-1]:
                x = self.measured.settled(found.x_hat + found.pull)
            else:
                x, change = self._step(denoiser, x, found, now, then, noise)
                found = told(x, then.t)
                log_weight = log_weight + change + found.log_prob - log_prob
                log_prob = found.log_prob
            if on_step is not None:
                on_step(x, then.t)
        return Drawn(x[systematic(torch.softmax(log_weight, 0), uniform())], worth)

    def _told(
        self, denoiser: Denoiser, shape: tuple[int, ...], noise: Draw
    ) -> Callable[[Tensor, Tensor], Told]:
        """What the measurement says, from x_t and t: of few numbers with all of S."""
        operator = self.measured.operator
        known = operator.spectrum(shape) if isinstance(operator, LinearOperator) else None
        if known is not None and known.rank(shape) > FEW:
            return partial(ByDirection.of, known, noise, denoiser, self.measured)
        return partial(ByNumber.of, denoiser, self.measured)

    def _step(
        self, denoiser: Denoiser, x_t: Tensor, found: Told, now: Instant, then: Instant, noise: Draw
    ) -> tuple[Tensor, Tensor]:
        """x_s, and ``log p(x_s | x_t) - log q(x_s | x_t)``.

        Both draw ``mean + sqrt(v) (I + B / (1 + sqrt(SNR_s / SNR_t))) eps``, B = a^2 C / v. The
        root is that of ``I + B`` where C = 0, and where x_t alone tells of x, ``C = (sigma_t /
        alpha_t)^2 I``; between, to second order. Of p, eps ~ N(0, I); of q, see `Told.steered`.
        """
        wide = now.half - then.half
        share = -expm1(2 * wide)  # 1 - SNR_t / SNR_s
        ratio = sqrt(1 - share) * then.sigma / now.sigma
        a, std = then.alpha * share, then.sigma * sqrt(share)
        eps, change = found.steered(noise(x_t), a / std)
        _, spread = covariance(denoiser, x_t, now.t)
        root = eps + (a / std) ** 2 / (1 + exp(-wide)) * spread(eps)
        return ratio * x_t + a * found.x_hat + std * root, change


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
