"""Distillation: what a student that takes few steps is taught by a teacher that takes many.

A student is a denoiser that looks further: where a denoiser says which x_hat leads on an
infinitesimal step along the probability flow, a student says which one leads all the way from t
to s, by the same formula,

    x_s = alpha_s x_hat + (sigma_s / sigma_t) (x_t - alpha_t x_hat).

So every way of teaching gives, for each x_t, the x_hat to be said; and as ``x_t = alpha_t x_hat +
sigma_t eps_hat`` for the eps_hat that belongs to it, the pair (x_hat, eps_hat) can stand for (x,
eps) in the loss that every denoiser is trained by.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .denoise import Denoiser, align
from .noise import Schedule
from .trajectory import Draw, Instant, Mix, Past, Sampler, Step, held, transition


def carried(schedule: Schedule, x_t: Tensor, x_hat: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s, to which `x_hat` leads from x_t in one step: ``(B, *S)``, at times ``()`` or ``(B,)``.

    Source: Song et al. (2020), https://arxiv.org/abs/2010.02502, equation 12, eta = 0.
    """
    ratio, gain = _step(schedule, x_t, t, s)
    return ratio * x_t + gain * x_hat


def aimed(schedule: Schedule, x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The x_hat that leads from x_t to x_s in one step; `carried`, solved for it.

    Source: Salimans & Ho (2022), https://arxiv.org/abs/2202.00512, appendix G.
    """
    ratio, gain = _step(schedule, x_t, t, s)
    return (x_s - ratio * x_t) / gain


def followed(teacher: Denoiser, x_t: Tensor, times: Sequence[Tensor], **cond: Tensor) -> Tensor:
    """Where the steps of a teacher lead, along `times`, each ``()`` or ``(B,)``.

    One that is a student itself, in its own steps; if it has learned to look ahead, it looks as far
    as each leads.
    """
    for t, s in pairwise(times):
        x_t = carried(teacher.schedule, x_t, teacher(x_t, t, until=s, **cond), t, s)
    return x_t


@torch.no_grad()
def two_in_one(
    teacher: Denoiser, x_t: Tensor, t: Tensor, middle: Tensor, s: Tensor, **cond: Tensor
) -> Tensor:
    """The x_hat that does in one step what a teacher does in two: progressive distillation.

    Args:
        teacher: Of the student's noise schedule; a guided one teaches its guidance too.
        x_t: ``(B, *S)``.
        t: Where the step begins, ``()`` or ``(B,)``.
        middle: Where the teacher's second step begins.
        s: Where both end.
        **cond: Conditions of the examples.

    Source: Salimans & Ho (2022), https://arxiv.org/abs/2202.00512, algorithm 2.
    """
    x_s = followed(teacher, x_t, [t, middle, s], **cond)
    return aimed(teacher.schedule, x_t, x_s, t, s)


def relearned(schedule: Schedule, x_t: Tensor, x_hat: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The (x, eps) for which the usual loss, at `t`, sees x_t and is least at `x_hat`."""
    alpha, sigma = (_like(x_t, c) for c in schedule(t))
    return x_hat, (x_t - alpha * x_hat) / sigma


def _step(schedule: Schedule, x_t: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """``sigma_s / sigma_t`` and ``alpha_s - alpha_t sigma_s / sigma_t``, worked out in float64."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    ratio = sigma_s / sigma_t
    return _like(x_t, ratio), _like(x_t, alpha_s - alpha_t * ratio)


def _like(x: Tensor, c: Tensor) -> Tensor:
    """`c` ``()`` or ``(B,)``, to be multiplied with x."""
    return align(c, x).to(x)


# --- Flow maps -----------------------------------------------------------------------------------

FlowMap = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x_hat ``(B, *S)`` of y ``(B, *S)`` at tau ``(B,)``, looking as far as rho ``(B,)`` <= tau.

In flow coordinates, ``y = x_t / (alpha + sigma)`` and ``tau = sigma / (alpha + sigma)``.
"""


@torch.no_grad()
def mean_flow(student: FlowMap, y: Tensor, tau: Tensor, rho: Tensor, v: Tensor) -> Tensor:
    """The x_hat that a flow map has to say at (y, tau, rho) to agree with itself further on.

    With ``u = (y - x_hat) / tau`` the mean velocity from rho to tau, and v the velocity at tau,
    the mean changes along the flow by ``u = v - (tau - rho) du / dtau``; the answer is x_hat of
    that u. At rho = tau it is what a denoiser learns; at rho = 0 it trains a consistency model.

    Args:
        student: The flow map; its answer here is not differentiated through.
        y: ``(B, *S)``.
        tau: ``(B,)``, in (0, 1].
        rho: ``(B,)``, in [0, tau].
        v: The velocity at (y, tau): ``eps - x`` of the data, or a teacher's.

    Source: Geng et al. (2025), https://arxiv.org/abs/2505.13447, equation 6.
    """

    def u(y: Tensor, tau: Tensor) -> Tensor:
        return (y - student(y, tau, rho)) / _like(y, tau)

    slope = torch.func.jvp(u, (y, tau), (v, torch.ones_like(tau)))[1]
    return y - _like(y, tau) * (v - _like(y, tau - rho) * slope)


@dataclass(frozen=True, kw_only=True)
class Leap(Sampler):
    """Steps of one who looks as far as each leads: exact in any number, if it has learned to.

    The rule of DDIM, whose x_hat is asked for with `until` = s; of a denoiser that does not hear
    it, DDIM itself. So it is towards noise, where nobody has learned to look.

    Source: Boffi et al. (2024), https://arxiv.org/abs/2406.07507, section 3.
    """

    order = 1

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        if grid[0].t < grid[-1].t:
            return [transition(now.t, held(now, then)) for now, then in pairwise(grid)]
        return [Leaping(now.t, then.t, held(now, then)) for now, then in pairwise(grid)]


@dataclass(frozen=True, kw_only=True)
class Consistency(Sampler):
    """Steps of one who has learned to look all the way: to x_hat, and back with fresh noise.

        x_s = alpha_s x_hat + sigma_s noise

    Of a consistency map, whose x_hat is where the probability flow ends, every x_s is distributed
    as it should be, in any number of steps. Of a denoiser none is, in no number: a mean varies less
    than what it is the mean of. `until` is 0, for those who hear it.

    Source: Song et al. (2023), https://arxiv.org/abs/2303.01469, algorithm 1; latent: Luo et al.
    (2023), https://arxiv.org/abs/2310.04378, algorithm 3.
    """

    order = 0

    @property
    def deterministic(self) -> bool:
        return False

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        return [
            Leaping(now.t, torch.zeros_like(now.t), held(now, then, 0.0), then.sigma)
            for now, then in pairwise(grid)
        ]


@dataclass(frozen=True, slots=True)
class Leaping:
    """A step from t of one who looks as far as `until`.

    Args:
        t: The time of x_t.
        until: How far x_hat looks.
        mix: Of x_t and x_hat.
        fresh: The standard deviation of the noise.
    """

    t: Tensor
    until: Tensor
    mix: Mix
    fresh: float = 0.0

    def __call__(self, denoiser: Denoiser, x_t: Tensor, past: Past, noise: Draw) -> Tensor:
        x_s = self.mix(x_t, [denoiser(x_t, self.t, until=self.until)])
        return x_s.add_(noise(x_t), alpha=self.fresh) if self.fresh else x_s
