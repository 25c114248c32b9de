"""Multistep samplers: what x_hat was at the last few steps, continued as a polynomial."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import exp, expm1, inf, isinf, sqrt
from typing import Literal

import torch
from torch import Tensor

from .denoise import Denoiser
from .solve import exponential_moments, power_moments, quadrature, runge_kutta
from .trajectory import Draw, Instant, Past, Sampler, held, time_of

StartUp = Literal["ramp", "runge-kutta"]
"""What a multistep rule does while its memory fills.

``ramp``: itself, at orders 1, 2, ... The first step, of order 1, caps the order of the whole at 2,
unless x_hat hardly changes there yet, as where nearly all is noise. ``runge-kutta``: a one-step
rule one order lower, at a denoiser call for each order; that caps nothing.
"""

Weigh = Callable[[tuple[float, ...], float, float, float], list[float]]


@lru_cache(maxsize=4096)  # the next batch takes the same grid
def weigh_exactly(halves: tuple[float, ...], now: float, then: float, rate: float) -> list[float]:
    """The integral of ``(1 + rate) e^((1 + rate) (h - then)) p(h)``, p through the `halves`."""
    scale = 1 + rate
    moments = exponential_moments(scale * (now - then), len(halves))
    return quadrature([scale * (h - then) for h in halves], moments)


def weigh_as_published(
    halves: tuple[float, ...], now: float, then: float, rate: float
) -> list[float]:
    """DPM-Solver++'s approximations of `weigh_exactly`, at up to three points.

    With two, the slope of p is weighed by half the step, as if the exponential were constant.
    With three, by the exact weight; but the second difference, which is half a second derivative,
    by the weight of a second derivative.
    """
    step = (1 + rate) * (then - now)
    total = -expm1(-step)
    ratios = [(b - a) / (then - now) for a, b in pairwise(halves)]
    if not ratios:
        return [total]
    if len(ratios) == 1:
        slope = total / (2 * ratios[0])
        return [-slope, total + slope]
    r1, r0 = ratios
    of_slope = 1 - total / step
    of_bend = (of_slope * r0 + 0.5 - of_slope / step) / (r0 + r1)
    new, old = (of_slope + of_bend) / r0, of_bend / r1
    return [old, -new - old, total + new]


def exponential_step(
    x_t: Tensor,
    now: Instant,
    then: Instant,
    values: Sequence[tuple[Instant, Tensor]],
    rate: float = 0.0,
    weigh: Weigh = weigh_exactly,
) -> Tensor:
    """``x_s = (sigma_s / sigma_t) e^(-rate h) x_t + alpha_s sum_i w_i x_hat_i``, h the step.

    No polynomial goes to an infinite log-SNR: over such a step the mean of x_hat at its ends, as
    far as known, is held, and a value from there is left out. Nor does one go far beyond what it
    has seen: a step `FURTHEST` times as long as the last one takes the last value alone.
    """
    kept = exp(rate * (now.half - then.half)) if rate > 0 else 1.0
    if isinf(then.half - now.half):
        ends = [x_hat for at, x_hat in values if at in (now, then)]
        return held(x_t, sum(ends[1:], ends[0]) / len(ends), now, then, kept)
    nodes = [value for value in values if not isinf(value[0].half)]
    halves = tuple([at.half for at, _ in nodes])
    if len(nodes) > 1 and abs(then.half - halves[-1]) > FURTHEST * abs(halves[-1] - halves[-2]):
        halves, nodes = halves[-1:], nodes[-1:]
    x_s = x_t * (kept * then.sigma / now.sigma)
    for w, (_, x_hat) in zip(weigh(halves, now.half, then.half, rate), nodes, strict=True):
        x_s.add_(x_hat, alpha=then.alpha * w)
    return x_s


FURTHEST = 3.0  # cosine, 6 equal steps: at 2 to 5 the error is a tenth of that without a bound


def renewed(x_s: Tensor, now: Instant, then: Instant, rate: float, noise: Draw) -> Tensor:
    """x_s with the noise that `exponential_step` let go at this `rate` drawn afresh."""
    if rate == 0 or then.sigma == 0:
        return x_s
    share = -expm1(2 * rate * (now.half - then.half))
    return torch.add(x_s, noise(x_s), alpha=then.sigma * sqrt(share))


@dataclass(frozen=True, kw_only=True)
class Multistep(Sampler):
    """Exponential Adams-Bashforth: DPM-Solver++(2M) and (3M), corrected. One denoiser call a step.

    With ``h = log(alpha / sigma)`` as the clock, the probability flow is exactly

        x_s = (sigma_s / sigma_t) x_t + sigma_s * integral from h_t to h_s of e^h x_hat(h) dh.

    The only approximation is to replace x_hat by the polynomial through its last `order` values:

        x_s = (sigma_s / sigma_t) x_t + alpha_s * sum_i w_i x_hat_i.

    With eta > 0 it is SDE-DPM-Solver++: over a step h the share ``e^(-eta^2 h)`` of the noise is
    kept, the rest drawn afresh, and e^h above becomes ``(1 + eta^2) e^((1 + eta^2) h)``. Its
    distribution then converges at order 2 at most.

    Args:
        order: How many values to use, 1 to 4; of convergence, if `start_up` allows.
        eta: How much fresh noise; 1 is the reverse SDE.
        start_up: What to do while there are fewer values; see `StartUp`.

    Source: Lu et al. (2022), https://arxiv.org/abs/2211.01095, proposition 4.1 and section 5.
    """

    order: int = 2
    eta: float = 0.0
    start_up: StartUp = "ramp"

    def __post_init__(self) -> None:
        _check_order(self.order, 1, 4)
        _check_eta(self.eta)
        if self.eta > 0 and self.start_up != "ramp":
            raise ValueError(f"Runge-Kutta starts up the probability flow, eta = 0, got {self}")

    def calls(self, steps: int) -> int:
        return steps + _start_calls(self.order, self.start_up, steps)

    def step(
        self, denoiser: Denoiser, x_t: Tensor, now: Instant, then: Instant, past: Past, noise: Draw
    ) -> Tensor:
        x_hat = denoiser(x_t, time_of(now, x_t))
        _remember(past, (now, x_hat), self.order)
        if self.start_up == "runge-kutta" and len(past) < self.order and then.sigma > 0:
            return runge_kutta(self.order - 1, denoiser, x_t, x_hat, now, then)
        rate = self.eta**2
        return renewed(exponential_step(x_t, now, then, past, rate), now, then, rate, noise)


@dataclass(frozen=True, kw_only=True)
class DPMSolver(Sampler):
    """DPM-Solver++(2M) and (3M) as published. Order 2; one denoiser call a step.

    `Multistep`, but for weights that are approximate: with three points, too, the order is 2.

    Args:
        points: How many values of x_hat to use: 2 in 2M, 3 in 3M.
        eta: How much fresh noise; SDE-DPM-Solver++ at 1.

    Source: Lu et al. (2022), https://arxiv.org/abs/2211.01095, algorithm 2 and appendix B.
    """

    points: int = 2
    eta: float = 0.0
    order = 2

    def __post_init__(self) -> None:
        if self.points not in (2, 3):
            raise ValueError(f"points must be 2 or 3, got {self.points}")
        _check_eta(self.eta)

    def step(
        self, denoiser: Denoiser, x_t: Tensor, now: Instant, then: Instant, past: Past, noise: Draw
    ) -> Tensor:
        _remember(past, (now, denoiser(x_t, time_of(now, x_t))), self.points)
        rate = self.eta**2
        x_s = exponential_step(x_t, now, then, past, rate, weigh_as_published)
        return renewed(x_s, now, then, rate, noise)


@dataclass(frozen=True, kw_only=True)
class UniPC(Sampler):
    """Exponential Adams-Bashforth predicts, Adams-Moulton corrects. One denoiser call a step.

    `Multistep` of the order before predicts x_s. The next step begins with x_hat there; before
    anything else, it takes the last step again, this time by interpolation, one order higher: the
    corrector needs no call of its own. UniPC-p of the paper has order p + 1; its functions B(h)
    approximate the weights that are exact here.

    Args:
        order: 2 to 4; of convergence, if `start_up` allows: at 2 and 3 either does.
        start_up: What to do while there are fewer values; see `StartUp`.

    Source: Zhao et al. (2023), https://arxiv.org/abs/2302.04867.
    """

    order: int = 3
    start_up: StartUp = "ramp"

    def __post_init__(self) -> None:
        _check_order(self.order, 2, 4)

    def calls(self, steps: int) -> int:
        started = self.start_up == "runge-kutta"
        return steps + started * (self.order - 2) * min(self.order - 2, steps - 1)

    def step(
        self, denoiser: Denoiser, x_t: Tensor, now: Instant, then: Instant, past: Past, noise: Draw
    ) -> Tensor:
        x_hat, points = denoiser(x_t, time_of(now, x_t)), self.order - 1
        if past and (self.start_up == "ramp" or len(past) == points):
            last, _, x_last = past[-1]
            values = [*((at, x) for at, x, _ in past), (now, x_hat)]
            x_t = exponential_step(x_last, last, now, values)
        _remember(past, (now, x_hat, x_t), points)
        if self.start_up == "runge-kutta" and len(past) < points and then.sigma > 0:
            return runge_kutta(points, denoiser, x_t, x_hat, now, then)
        return exponential_step(x_t, now, then, [(at, x) for at, x, _ in past])


@dataclass(frozen=True, kw_only=True)
class AdamsBashforth(Sampler):
    """Adams-Bashforth on the straight path. One denoiser call a step.

    In flow coordinates ``y = x_t / (alpha + sigma)``, ``tau = sigma / (alpha + sigma)``, every
    path is ``y = (1 - tau) x + tau eps``, and its velocity ``u = eps_hat - x_hat`` is finite at
    both ends. u is replaced by the polynomial through its last `order` values:

        y_s = y_t + integral from tau_t to tau_s of u dtau = y_t + sum_i w_i u_i.

    The step to sigma = 0 is one like any other, which halves the error in few steps.

    Args:
        order: How many values to use, 1 to 4; of convergence, if `start_up` allows.
        start_up: What to do while there are fewer values; see `StartUp`.

    Source: Zhang & Chen (2022), https://arxiv.org/abs/2204.13902, there for the noise.
    """

    order: int = 3
    start_up: StartUp = "ramp"

    def __post_init__(self) -> None:
        _check_order(self.order, 1, 4)

    def calls(self, steps: int) -> int:
        return steps + _start_calls(self.order, self.start_up, steps)

    def step(
        self, denoiser: Denoiser, x_t: Tensor, now: Instant, then: Instant, past: Past, noise: Draw
    ) -> Tensor:
        x_hat = denoiser(x_t, time_of(now, x_t))
        tau, size = now.tau, then.size
        u = (x_t * (1 / now.sigma)).sub_(x_hat, alpha=1 / tau)
        _remember(past, (tau, u), self.order)
        if self.start_up == "runge-kutta" and len(past) < self.order and then.sigma > 0:
            return runge_kutta(self.order - 1, denoiser, x_t, x_hat, now, then)
        moments = power_moments(then.tau - tau, len(past))
        weights = quadrature([node - tau for node, _ in past], moments)
        x_s = x_t * (size / now.size)
        for w, (_, u) in zip(weights, past, strict=True):
            x_s.add_(u, alpha=size * w)
        return x_s


def _remember(past: Past, value: tuple, count: int) -> None:
    past.append(value)
    if len(past) > count:
        past.popleft()


def _start_calls(order: int, start_up: StartUp, steps: int) -> int:
    """Calls beyond one a step: order - 2 in each of the first order - 1 steps, but the last."""
    return max(order - 2, 0) * min(order - 1, steps - 1) if start_up == "runge-kutta" else 0


def _check_order(order: int, low: int, high: int) -> None:
    if order not in range(low, high + 1):
        raise ValueError(f"order must lie in [{low}, {high}], got {order}")


def _check_eta(eta: float) -> None:
    if not 0 <= eta < inf:
        raise ValueError(f"eta must be finite and >= 0, got {eta}")
