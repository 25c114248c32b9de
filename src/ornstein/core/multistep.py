"""Multistep samplers: what x_hat was at the last few steps, continued as a polynomial."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import exp, expm1, inf, isinf, sqrt
from typing import Literal, NamedTuple

from torch import Tensor

from .denoise import Denoiser
from .noise import Schedule
from .solve import exponential_moments, power_moments, quadrature, runge_kutta
from .trajectory import Draw, Instant, Past, Sampler, Step, mix, transition

StartUp = Literal["ramp", "runge-kutta"]
"""What a multistep rule does while its memory fills.

``ramp``: itself, at orders 1, 2, ... The first step, of order 1, caps the order of the whole at 2,
unless x_hat hardly changes there yet, as where nearly all is noise. ``runge-kutta``: a one-step
rule one order lower, at a denoiser call for each order; that caps nothing.
"""

Weigh = Callable[[tuple[float, ...], float, float, float], list[float]]


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


def exponential_weights(
    now: Instant,
    then: Instant,
    nodes: Sequence[Instant],
    rate: float = 0.0,
    weigh: Weigh = weigh_exactly,
) -> tuple[float, list[float]]:
    """kept and w in ``x_s = kept x_t + sum_i w_i x_hat_i``, with x_hat known at the `nodes`.

    With h the step and p the polynomial through the x_hat_i,

        x_s = (sigma_s / sigma_t) e^(-rate h) x_t + alpha_s sum_i w_i x_hat_i.

    No polynomial goes to an infinite log-SNR: over such a step the mean of x_hat at its ends, as
    far as known, is held, and a value from there is left out. Nor does one go far beyond what it
    has seen: a step `FURTHEST` times as long as the last one takes the last value alone.

    Returns:
        kept; and one weight for each node, 0 for what is left out.
    """
    kept = then.sigma / now.sigma * (exp(rate * (now.half - then.half)) if rate > 0 else 1.0)
    if isinf(then.half - now.half):
        ends = [node is now or node is then for node in nodes]
        mean = (then.alpha - now.alpha * kept) / sum(ends)
        return kept, [mean * end for end in ends]
    halves = tuple([node.half for node in nodes if not isinf(node.half)])
    if len(halves) > 1 and abs(then.half - halves[-1]) > FURTHEST * abs(halves[-1] - halves[-2]):
        halves = halves[-1:]
    left_out = [0.0] * (len(nodes) - len(halves))
    return kept, left_out + [then.alpha * w for w in weigh(halves, now.half, then.half, rate)]


FURTHEST = 3.0  # cosine, 6 equal steps: at 2 to 5 the error is a tenth of that without a bound


def renewed(now: Instant, then: Instant, rate: float) -> float:
    """The standard deviation of the noise that is let go at this `rate`, to be drawn afresh."""
    if rate == 0 or then.sigma == 0:
        return 0.0
    return then.sigma * sqrt(-expm1(2 * rate * (now.half - then.half)))


def windows(
    grid: Sequence[Instant], count: int
) -> Iterator[tuple[Instant, Instant, Sequence[Instant]]]:
    """Of each step: now, then, and the last `count` instants up to now, as far as there are."""
    for i, (now, then) in enumerate(pairwise(grid)):
        yield now, then, grid[max(0, i + 1 - count) : i + 1]


def exponential_transition(
    now: Instant,
    then: Instant,
    nodes: Sequence[Instant],
    rate: float,
    weigh: Weigh = weigh_exactly,
) -> Step:
    """The step that `exponential_weights` describes, with its noise."""
    kept, weights = exponential_weights(now, then, nodes, rate, weigh)
    return transition(now.t, mix(kept, weights[::-1]), fresh=renewed(now, then, rate))


class RungeKuttaStep(NamedTuple):
    """A step of a one-step rule, while a multistep rule's memory fills.

    Remembered is x_hat, and before it x_t too if it is `whole`: for a `straight_step` that follows.
    """

    order: int
    now: Instant
    then: Instant
    whole: bool = False

    def __call__(self, denoiser: Denoiser, x_t: Tensor, past: Past, noise: Draw) -> Tensor:
        x_hat = denoiser(x_t, self.now.t)
        past.extendleft([x_hat, x_t] if self.whole else [x_hat])
        return runge_kutta(self.order, denoiser, x_t, x_hat, self.now, self.then)


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

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

    @property
    def memory(self) -> int:
        return self.order

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        return [
            RungeKuttaStep(self.order - 1, now, then)
            if _starting(self.start_up, len(nodes), self.order, then)
            else exponential_transition(now, then, nodes, self.eta**2)
            for now, then, nodes in windows(grid, self.order)
        ]


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

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

    @property
    def memory(self) -> int:
        return self.points

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        return [
            exponential_transition(now, then, nodes, self.eta**2, weigh_as_published)
            for now, then, nodes in windows(grid, self.points)
        ]


@dataclass(frozen=True, kw_only=True)
class UniPC(Sampler):
    """Exponential Adams-Bashforth predicts, Adams-Moulton corrects. One denoiser call a step.

    `Multistep` of the order before predicts x_s. The next step begins with x_hat there; before
    anything else, it takes the last step again, this time by interpolation, one order higher: the
    corrector needs no call of its own. Nor an operation: what it adds to x_t is linear in the same
    values as the step that follows. UniPC-p of the paper has order p + 1; its functions B(h)
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

    @property
    def memory(self) -> int:
        return self.order

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        found, points = list[Step](), self.order - 1
        mend: Sequence[float] = ()  # the weights of the corrector, less those of the predictor
        for now, then, nodes in windows(grid, self.order):
            known = nodes[-points:]
            if _starting(self.start_up, len(known), points, then):
                found.append(RungeKuttaStep(points, now, then))
                continue
            kept, predict = exponential_weights(now, then, known)
            weights = _sum(predict, [kept * w for w in mend])
            found.append(transition(now.t, mix(kept, weights[::-1])))
            correct = exponential_weights(now, then, [*known, then])[1]
            mend = _sum(correct, [*(-w for w in predict), 0.0])
        return found


def straight_weights(now: Instant, then: Instant, nodes: Sequence[Instant]) -> list[float]:
    """Of the velocities at the `nodes`, the weights of their polynomial's mean over the step."""
    h = then.tau - now.tau
    return quadrature([(node.tau - now.tau) / h for node in nodes], power_moments(1.0, len(nodes)))


def straight_memory(velocities: int) -> int:
    """How many values a `straight_step` along so many velocities looks at."""
    return 2 * velocities - 1


def straight_step(
    now: Instant, then: Instant, nodes: Sequence[Instant], weights: Sequence[float]
) -> Step:
    """``y_s = y_t + (tau_s - tau_t) sum_i w_i u_i``, in flow coordinates: see `solve.velocity`.

    Each velocity u_i is that of an x_t and its x_hat, and both are remembered.
    """
    pairs = list[tuple[float, float]]()  # what each x_t is worth, and its x_hat
    for w, node in zip(weights, nodes, strict=True):
        h = then.size * (then.tau - now.tau) * w / node.tau
        pairs.append((h / node.size, -h))
    (of_x_t, of_x_hat), *older = reversed(pairs)
    kept, t = then.size / now.size + of_x_t, now.t
    mixed = mix(kept, [of_x_hat, *chain.from_iterable(older)])

    def step(denoiser: Denoiser, x_t: Tensor, past: Past, noise: Draw) -> Tensor:
        past.appendleft(denoiser(x_t, t))
        x_s = mixed(x_t, past)
        past.appendleft(x_t)
        return x_s

    return step


@dataclass(frozen=True, kw_only=True)
class AdamsBashforth(Sampler):
    """Adams-Bashforth on the straight path. One denoiser call a step.

    In flow coordinates ``y = x_t / (alpha + sigma)``, ``tau = sigma / (alpha + sigma)``, every
    path is ``y = (1 - tau) x + tau eps``, and its velocity ``u = eps_hat - x_hat`` is finite at
    both ends. u is replaced by the polynomial through its last `order` values:

        y_s = y_t + integral from tau_t to tau_s of u dtau = y_t + (tau_s - tau_t) sum_i w_i u_i.

    The step to sigma = 0 is one like any other, which halves the error in few steps.

    Long steps are no place for high orders: with a ramp, order k is for ``2^k - 1`` steps and more.
    Nor are the kinks of a trained network: there order 2 is the nearest up to 12 steps, and
    from 16 on orders differ little; on denoisers that are exact, order 3 is.

    Args:
        order: How many values to use, 1 to 4; of convergence, if `start_up` allows.
        start_up: What to do while there are fewer values; see `StartUp`.

    Source: Zhang & Chen (2022), https://arxiv.org/abs/2204.13902, there for the noise.
    """

    order: int = 2
    start_up: StartUp = "ramp"

    def __post_init__(self) -> None:
        _check_order(self.order, 1, 4)

    def calls(self, steps: int) -> int:
        return steps + _start_calls(self.order, self.start_up, steps)

    @property
    def memory(self) -> int:
        return straight_memory(self.order)

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        found, order = list[Step](), self.order
        if self.start_up == "ramp":
            order = min(order, len(grid).bit_length() - 1)
        for now, then, nodes in windows(grid, order):
            if _starting(self.start_up, len(nodes), order, then):
                found.append(RungeKuttaStep(order - 1, now, then, whole=True))
                continue
            weights = straight_weights(now, then, nodes)
            found.append(straight_step(now, then, nodes, weights))
        return found


def _starting(start_up: StartUp, known: int, needed: int, then: Instant) -> bool:
    """Whether a step is one of Runge-Kutta's."""
    return start_up == "runge-kutta" and known < needed and then.sigma > 0


def _sum(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """The sum of two rows of weights, aligned at the newest."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    start = len(longer) - len(shorter)
    return [*longer[:start], *(x + y for x, y in zip(longer[start:], shorter, strict=True))]


def _start_calls(order: int, start_up: StartUp, steps: int) -> int:
    """Calls beyond one a step: order - 2 in each of the first order - 1 steps, but the last."""
    return max(order - 2, 0) * min(order - 1, steps - 1) if start_up == "runge-kutta" else 0


def _check_order(order: int, low: int, high: int) -> None:
    if order not in range(low, high + 1):
        raise ValueError(f"order must lie in [{low}, {high}], got {order}")


def _check_eta(eta: float) -> None:
    if not 0 <= eta < inf:
        raise ValueError(f"eta must be finite and >= 0, got {eta}")
