"""The trajectory of an example between data and noise, and the loop that walks it."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from itertools import pairwise
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
"""A rule's own memory of one trajectory, empty at first."""


class Instant(NamedTuple):
    """A time, and what the schedule says of it, in Python floats: no rule does algebra on tensors.

    Attributes:
        t: The time, in [0, 1].
        alpha: The scale of the data.
        sigma: The scale of the noise.
        half: ``log(alpha / sigma)``, half the log-SNR; infinite where one of the scales is 0.
    """

    t: float
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
    rows = torch.stack([times, alpha, sigma, schedule.log_snr(times) / 2], 1)
    return [Instant(*row) for row in rows.tolist()]


def time_of(now: Instant, like: Tensor) -> Tensor:
    """The time of an instant as a tensor ``()``, float64, on the device of `like`."""
    return torch.full((), now.t, dtype=torch.float64, device=like.device)


def held(x_t: Tensor, x_hat: Tensor, now: Instant, then: Instant, kept: float = 1.0) -> Tensor:
    """Where the probability flow leads if x_hat stays what it is; at sigma = 0, to x_hat itself.

    ``x_s = alpha_s x_hat + kept sigma_s eps_hat``.
    """
    ratio = kept * then.sigma / now.sigma
    return (x_t * ratio).add_(x_hat, alpha=then.alpha - now.alpha * ratio)


class Sampler(ABC):
    """A rule for one transition ``x_t -> x_s``. The loop over the steps is here, and only here.

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

    @abstractmethod
    def step(
        self, denoiser: Denoiser, x_t: Tensor, now: Instant, then: Instant, past: Past, noise: Draw
    ) -> Tensor:
        """One transition, from `now` to `then`; towards more noise if it encodes."""

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Tensor,
        *,
        noise: Draw = torch.randn_like,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Take `x` ``(B, *S)`` down the time grid `times` ``(N + 1,)``; it keeps its dtype.

        Args:
            denoiser: Its conditions are bound beforehand, with ``denoiser.given(**cond)``.
            x: x_t at the first time; see `start`.
            times: Strictly decreasing, in [0, 1].
            noise: Where randomness comes from.
            on_step: Looks on.

        Raises:
            ValueError: If the times do not decrease, or leave [0, 1].
        """
        if len(times) < 2 or not (times[:-1] > times[1:]).all() or times[0] > 1 or times[-1] < 0:
            raise ValueError(f"times must decrease strictly within [0, 1], got {times.tolist()}")
        return self.follow(denoiser, x, times, noise, on_step)

    @torch.no_grad()
    def follow(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, noise: Draw, on_step: OnStep | None
    ) -> Tensor:
        """As `__call__`, in either direction; `encode` is the other."""
        past: Past = deque()
        for i, (now, then) in enumerate(pairwise(instants(denoiser.schedule, times.to(x.device)))):
            x = self.step(denoiser, x, now, then, past, noise)
            if on_step is not None:
                on_step(x, times[i + 1])
        return x


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
    times = times.flip(0)
    data, first = instants(denoiser.schedule, times[:2].to(x.device))
    if data.sigma == 0:
        t, x_t = time_of(first, x), first.alpha * x
        for _ in range(3):
            x_t = x_t + first.alpha * (x - denoiser(x_t, t))
        x, times = x_t, times[1:]
    return sampler.follow(denoiser, x, times, _refuse, None)


def _refuse(like: Tensor) -> Tensor:
    raise ValueError("only a deterministic sampler can encode, and this one draws noise")
