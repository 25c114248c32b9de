"""The trajectory of an example between data and noise, and the loop that walks it."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .denoise import Denoiser
from .noise import Schedule

Draw = Callable[[Tensor], Tensor]
"""Standard Gaussian noise like its argument, such as `ornstein.rng.Streams`."""

OnStep = Callable[[Tensor, Tensor], None]
"""Called with x_s ``(B, *S)`` and its time s ``()``, after each step."""

Past = deque[Any]
"""What a rule remembers of one trajectory, newest first; empty at first."""

Step = Callable[[Denoiser, Tensor, Past, Draw], Tensor]
"""One transition ``x_t -> x_s``, its coefficients known: of (denoiser, x_t, past, noise)."""


# --- Times ---------------------------------------------------------------------------------------


class Instant(NamedTuple):
    """A time, and what the schedule says of it, in Python floats: no rule does algebra on tensors.

    Attributes:
        t: The time, in [0, 1]: ``()``, float64.
        alpha: The scale of the data.
        sigma: The scale of the noise.
        half: ``log(alpha / sigma)``, half the log-SNR; infinite where one of the scales is 0.
    """

    t: Tensor
    alpha: float
    sigma: float
    half: float

    @property
    def size(self) -> float:
        """``alpha + sigma``, by which x_t is divided in flow coordinates; see `solve.velocity`."""
        return self.alpha + self.sigma

    @property
    def tau(self) -> float:
        """``sigma / (alpha + sigma)``, the time in flow coordinates."""
        return self.sigma / (self.alpha + self.sigma)


def instants(schedule: Schedule, times: Tensor) -> list[Instant]:
    """The instants of `times` ``(N,)``."""
    times = times.double()
    alpha, sigma = schedule(times)
    rows = torch.stack([alpha, sigma, schedule.log_snr(times) / 2], 1)
    return [Instant(t, *row) for t, row in zip(times.unbind(), rows.tolist(), strict=True)]


# --- Steps ---------------------------------------------------------------------------------------


Mix = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""A weighted sum of x and some values: a new tensor like x."""


def mix(kept: float, weights: Sequence[float]) -> Mix:
    """``kept x + sum_i w_i v_i``, in one tensor operation for each value: they take a microsecond.

    With ``S_i = kept + w_0 + ... + w_i``, each is an interpolation,

        out <- (S_{i-1} out + w_i v_i) / S_i = lerp(out, v_i, w_i / S_i),

    and the last is multiplied by S_n, as a sum, for which a product would take twice as long. On
    straight paths and in ``ve``, if the values are x_hat and no noise is drawn, S_n is 1. Positive
    weights come first: so no S_i is less than the first one or S_n, and nothing is divided by 0. A
    weight of 0 takes no operation.

    In float32 on a CPU the shares are tensors: the sum is the same to the bit, and `lerp_` takes a
    quarter less. A closure is called sooner than an object, and three values are taken without a
    loop: each of these is a twentieth of a step.

    Args:
        kept: Of x; not negative, or less than the first positive weight makes up for.
        weights: Of the values, the newest first; at least one. S_n is positive.
    """
    shares, total = list[tuple[int, float]](), kept
    heard = [(i, weight) for i, weight in enumerate(weights) if weight] or [(0, 0.0)]
    for i, weight in sorted(heard, key=lambda value: value[1] < 0):
        total += weight
        shares.append((i, weight / total))
    single, cpu = torch.float32, torch.device("cpu")
    tensors = [(i, torch.tensor(share, dtype=single, device=cpu)) for i, share in shares]
    as_tensors, as_numbers = (tensors[0], tensors[1:]), (shares[0], shares[1:])
    beyond = unless_rounding(total - 1)

    def mixed(x: Tensor, values: Sequence[Tensor]) -> Tensor:
        (i, share), rest = as_tensors if x.dtype is single and x.is_cpu else as_numbers
        out = x.lerp(values[i], share)
        for i, share in rest:
            out.lerp_(values[i], share)
        return out.add_(out, alpha=beyond) if beyond else out

    if len(tensors) != 3 or beyond:
        return mixed
    (i, p), (j, q), (k, r) = tensors

    def of_three(x: Tensor, values: Sequence[Tensor]) -> Tensor:
        if x.dtype is not single or not x.is_cpu:
            return mixed(x, values)
        return x.lerp(values[i], p).lerp_(values[j], q).lerp_(values[k], r)

    return of_three


def unless_rounding(value: float) -> float:
    """`value`, or 0 if it is what rounding leaves of numbers of order 1."""
    return 0.0 if abs(value) < 1e-14 else value


def transition(t: Tensor, mix: Mix, fresh: float = 0.0) -> Step:
    """A step that is linear in what the denoiser said: most of them are.

    ``x_s = kept x_t + sum_i weights_i v_i + fresh noise``, v_0, v_1, ... being x_hat now, a step
    ago, ...

    Args:
        t: The time of x_t.
        mix: Of x_t and the values.
        fresh: The standard deviation of the noise.
    """

    def step(denoiser: Denoiser, x_t: Tensor, past: Past, noise: Draw) -> Tensor:
        past.appendleft(denoiser(x_t, t))
        x_s = mix(x_t, past)
        return x_s.add_(noise(x_t), alpha=fresh) if fresh else x_s

    return step


def held(now: Instant, then: Instant, kept: float = 1.0) -> Mix:
    """Where the probability flow leads if x_hat stays what it is; at sigma = 0, to x_hat itself.

    ``x_s = alpha_s x_hat + kept sigma_s eps_hat``.
    """
    ratio = kept * then.sigma / now.sigma
    return mix(ratio, [then.alpha - now.alpha * ratio])


# --- Samplers ------------------------------------------------------------------------------------


class Sampler(ABC):
    """A rule for the transitions along a time grid.

    No rule depends on the path: along another schedule, at equal log-SNRs, every x_t is the same
    up to its scale. A step to sigma = 0 returns the posterior mean, unless the rule says otherwise.

    Attributes:
        order: Of convergence, as the steps get smaller: of the sample itself, if the rule is
            deterministic, else of its distribution.
    """

    order: int

    def calls(self, steps: int) -> int | None:
        """Denoiser calls for a grid of `steps` steps that ends at sigma = 0; None if adaptive."""
        return steps

    @property
    def deterministic(self) -> bool:
        """Whether it draws no noise, and so is a map from noise to data, with an inverse."""
        return True

    @property
    def memory(self) -> int:
        """How many values a step looks at, its own included."""
        return 1

    @abstractmethod
    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        """The transitions from each instant of `grid` to the next; towards noise if it encodes."""

    def plan(self, schedule: Schedule, times: Tensor) -> "Plan":
        """All that does not depend on x, worked out once for any number of batches.

        Args:
            schedule: Of the denoisers it is for.
            times: Strictly decreasing ``(N + 1,)``, in [0, 1], on the device of x.

        Raises:
            ValueError: If the times do not decrease, or leave [0, 1].
        """
        if len(times) < 2 or not (times[:-1] > times[1:]).all() or times[0] > 1 or times[-1] < 0:
            raise ValueError(f"times must decrease strictly within [0, 1], got {times.tolist()}")
        return _plan(self, schedule, times)

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Tensor,
        *,
        noise: Draw = torch.randn_like,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Take `x` down the time grid `times`: `plan` and `Plan` in one."""
        plan = self.plan(denoiser.schedule, times.to(x.device))
        return plan(denoiser, x, noise=noise, on_step=on_step)


@dataclass(frozen=True)
class Plan:
    """A sampler on one time grid. The loop over the steps is here, and only here.

    Args:
        times: Of the grid ``(N + 1,)``.
        transitions: From each to the next.
        memory: How many values they look at, their own included.
        calls: Of the denoiser; None if adaptive.
    """

    times: Tensor
    transitions: Sequence[Step]
    memory: int
    calls: int | None

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        *,
        noise: Draw = torch.randn_like,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Take `x` ``(B, *S)`` from the first time to the last; it keeps its dtype.

        Args:
            denoiser: Of the schedule that was planned for; its conditions are bound beforehand,
                with ``denoiser.given(**cond)``.
            x: x_t at the first time; see `start`.
            noise: Where randomness comes from.
            on_step: Looks on.
        """
        past: Past = deque(maxlen=self.memory)
        for i, step in enumerate(self.transitions, 1):
            x = step(denoiser, x, past, noise)
            if on_step is not None:
                on_step(x, self.times[i])
        return x


def _plan(sampler: Sampler, schedule: Schedule, times: Tensor) -> Plan:
    with torch.no_grad():
        grid = instants(schedule, times)
        calls = sampler.calls(len(times) - 1)
        return Plan(times, sampler.steps(schedule, grid), sampler.memory, calls)


def start(schedule: Schedule, time: Tensor, eps: Tensor) -> Tensor:
    """x_t at the first time of a grid, from unit noise: ``sqrt(alpha^2 + sigma^2) eps``.

    Data have variance 1, so x_t has this one.
    """
    return torch.hypot(*schedule(time.to(eps.device))).to(eps) * eps


@torch.no_grad()
def encode(sampler: Sampler, denoiser: Denoiser, x: Tensor, times: Tensor) -> Tensor:
    """Data -> noise: a deterministic `sampler` run backwards, along the same grid.

    ``sampler(denoiser, encode(sampler, denoiser, x, times), times)`` returns `x`, but for an error
    of the sampler's order. At sigma = 0 the slope of the flow is 0 / 0; there the last step of
    sampling, ``x = x_hat(x_t)``, is solved by ``x_t <- x_t + alpha_t (x - x_hat(x_t))``, three
    times from ``x_t = alpha_t x``. In a direction in which the data have the variance S, the error
    falls by ``sigma^2 / (alpha^2 S + sigma^2)`` each time: directions without data stay empty.

    Args:
        sampler: A rule that draws no noise.
        denoiser: Its conditions are bound beforehand.
        x: Data ``(B, *S)``.
        times: As for sampling: decreasing.

    Raises:
        ValueError: If the sampler draws noise.
    """
    if not sampler.deterministic:
        raise ValueError("only a deterministic sampler can encode, and this one draws noise")
    times = times.to(x.device).flip(0)
    data, first = instants(denoiser.schedule, times[:2])
    if data.sigma == 0:
        x_t = first.alpha * x
        for _ in range(3):
            x_t = x_t + first.alpha * (x - denoiser(x_t, first.t))
        x, times = x_t, times[1:]
    return _plan(sampler, denoiser.schedule, times)(denoiser, x)
