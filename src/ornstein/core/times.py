"""Times: grids to sample on, and distributions to train on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import inf, log
from typing import Literal

import torch
from torch import Tensor

from .noise import MOMENT, Schedule

# --- Time grids, to sample on --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TimeGrid(ABC):
    """The times a sampler visits: strictly decreasing, N + 1 of them, the last one 0."""

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        """Times ``(steps + 1,)``, float64, from at most `start` down to 0.

        Args:
            schedule: The schedule of the path to sample along.
            steps: N >= 1.
            start: Where to begin, in (0, 1]: below 1 for a partly noised example.

        Raises:
            ValueError: If `steps` or `start` is out of its range, or the grid has no such N.
        """
        if steps < 1 or not 0 < start <= 1:
            raise ValueError(f"need steps >= 1 and 0 < start <= 1, got {steps} and {start}")
        return self._times(schedule, steps, start)

    @abstractmethod
    def _times(self, schedule: Schedule, steps: int, start: float) -> Tensor:
        """The times, for arguments known to be in range."""


@dataclass(frozen=True, kw_only=True)
class UniformGrid(TimeGrid):
    """Equal steps of t, after an optional warp ``t^power`` that packs the steps near the data."""

    power: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.power < inf:
            raise ValueError(f"power must be positive and finite, got {self}")

    def _times(self, schedule: Schedule, steps: int, start: float) -> Tensor:
        return start * _line(1.0, 0.0, steps) ** self.power


@dataclass(frozen=True, kw_only=True)
class StraightGrid(TimeGrid):
    """Equal steps of ``tau = sigma / (alpha + sigma)``: what `UniformGrid` is on rectified flow.

    Args:
        power: Below 1 it packs the steps near the noise: tau falls as ``line^power``. What examples
            are like at large (of pictures, their colours) is settled there.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.power < inf:
            raise ValueError(f"power must be positive and finite, got {self}")

    def _times(self, schedule: Schedule, steps: int, start: float) -> Tensor:
        first, last = torch.sigmoid(-_log_snrs(schedule, start, 0.0) / 2)
        tau = last + (first - last) * _line(1.0, 0.0, steps) ** self.power
        times = schedule.time(-2 * torch.logit(tau))
        times[0], times[-1] = start, 0.0
        return times


@dataclass(frozen=True, kw_only=True)
class LogSNRGrid(TimeGrid):
    """Equal steps of the log-SNR, between bounds that keep infinite ends out; then t = 0.

    Args:
        log_snr_min: Where to begin, if the schedule begins lower.
        log_snr_max: The last positive noise level, if the schedule goes on below it.
    """

    log_snr_min: float = -9.0
    log_snr_max: float = 9.0

    def __post_init__(self) -> None:
        if not -inf < self.log_snr_min < self.log_snr_max < inf:
            raise ValueError(f"need log_snr_min < log_snr_max, both finite, got {self}")

    def _times(self, schedule: Schedule, steps: int, start: float) -> Tensor:
        first, last, then_zero = _levels(schedule, start, self.log_snr_min, self.log_snr_max)
        line = _line(first, last, steps - then_zero)
        return _ending_at_zero(schedule.time(line).clamp(max=start), then_zero)


@dataclass(frozen=True, kw_only=True)
class KarrasGrid(TimeGrid):
    """Equal steps of ``(sigma / alpha)^(1 / rho)``; then t = 0.

    Args:
        rho: 1 is uniform in sigma / alpha, infinity uniform in log-SNR.
        sigma_min: The last positive noise level, if the schedule goes on below it.
        sigma_max: The first, if the schedule begins higher.

    Source: Karras et al. (2022), https://arxiv.org/abs/2206.00364, equation 5.
    """

    rho: float = 7.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max < inf and 0 < self.rho < inf):
            raise ValueError(f"need 0 < sigma_min < sigma_max and rho > 0, got {self}")

    def _times(self, schedule: Schedule, steps: int, start: float) -> Tensor:
        low, high = -2 * log(self.sigma_max), -2 * log(self.sigma_min)
        first, last, then_zero = _levels(schedule, start, low, high)
        most, least = (torch.exp(-log_snr / (2 * self.rho)) for log_snr in (first, last))
        line = -2 * self.rho * _line(most, least, steps - then_zero).log()
        return _ending_at_zero(schedule.time(line).clamp(max=start), then_zero)


@dataclass(frozen=True, kw_only=True)
class StrideGrid(TimeGrid):
    """A subset of DDPM's times i / T, evenly or quadratically spaced, always with i = T and 0.

    Args:
        train_steps: T; N may not exceed it.
        spacing: ``quadratic`` packs the steps near the data, as DDIM does for CIFAR-10.

    Source: Song et al. (2020), https://arxiv.org/abs/2010.02502, appendix D.2.
    """

    train_steps: int = 1000
    spacing: Literal["linear", "quadratic"] = "linear"

    def __post_init__(self) -> None:
        if not 1 <= self.train_steps <= 100_000:
            raise ValueError(f"train_steps must lie in [1, 100000], got {self}")
        if self.spacing not in ("linear", "quadratic"):
            raise ValueError(f"spacing must be linear or quadratic, got {self}")

    def _times(self, schedule: Schedule, steps: int, start: float) -> Tensor:
        first = int(start * self.train_steps + 1e-9)
        if steps > first:
            raise ValueError(f"steps must lie in [1, {first}], got {steps}")
        line = _line(1.0, 0.0, steps) ** (2 if self.spacing == "quadratic" else 1)
        floor = torch.arange(steps, -1, -1, dtype=torch.float64)  # keeps neighbours distinct
        return torch.maximum((first * line).round(), floor) / self.train_steps


@dataclass(frozen=True, kw_only=True)
class ExplicitGrid(TimeGrid):
    """The times one gives, decreasing to 0."""

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        t = self.times
        if not (len(t) > 1 and t[0] <= 1 and t[-1] == 0 and all(a > b for a, b in pairwise(t))):
            raise ValueError(f"times must decrease from at most 1 to 0, got {t}")

    def _times(self, schedule: Schedule, steps: int, start: float) -> Tensor:
        if steps != len(self.times) - 1:
            raise ValueError(f"this grid has {len(self.times) - 1} steps, asked for {steps}")
        return torch.tensor(self.times, dtype=torch.float64) * start


def _line(first: float | Tensor, last: float | Tensor, steps: int) -> Tensor:
    """From `first` to `last` in equal steps ``(steps + 1,)``, float64, the ends exact."""
    part = torch.arange(steps + 1, dtype=torch.float64) / max(steps, 1)
    return torch.as_tensor(first) * (1 - part) + torch.as_tensor(last) * part


def _levels(
    schedule: Schedule, start: float, low: float, high: float
) -> tuple[Tensor, Tensor, bool]:
    """The first and the last log-SNR of a grid, and whether t = 0 is a step beyond the last."""
    first, end = _log_snrs(schedule, start, 0.0)
    first = torch.where(low < end, first.clamp_min(low), first)
    last = first.clamp_min(high - 1) + 1  # of a start with less noise than the last level: 1 nat
    return (first, end, False) if end <= last + 1e-9 else (first, last, True)  # up to rounding


def _ending_at_zero(times: Tensor, then_zero: bool) -> Tensor:
    zero = times.new_zeros(1)
    return torch.cat([times if then_zero else times[:-1], zero])


def _log_snrs(schedule: Schedule, *times: float) -> Tensor:
    with torch.no_grad():
        return schedule.log_snr(torch.tensor(times, dtype=torch.float64))


# --- Time distributions, to train on -------------------------------------------------------------


def low_discrepancy(offset: float, count: int) -> Tensor:
    """Evenly spaced uniforms ``(count,)``, float64, all moved by one random `offset` in [0, 1).

    Each is uniform on its own; together they cover [0, 1) evenly, which lowers the variance of
    a mean over them.

    Source: Kingma et al. (2021), https://arxiv.org/abs/2107.00630, appendix I.1.
    """
    return (offset + torch.arange(count, dtype=torch.float64) / count) % 1.0


@dataclass(frozen=True, kw_only=True)
class TimeDistribution(ABC):
    """Which times to train on: a density on (0, 1), sampled through its quantile function."""

    @abstractmethod
    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Times of the shape of `u`, float64, for uniform `u` in [0, 1): the quantiles."""

    @abstractmethod
    def log_snr_density(self, log_snr: Tensor, schedule: Schedule) -> Tensor:
        """Density of ``lambda_t`` in 1 / nats; same shape. For importance weights."""

    @property
    def reach(self) -> tuple[float, float]:
        """The log-SNRs between which training looks often enough to learn: all, if none is rare."""
        return -inf, inf


@dataclass(frozen=True, kw_only=True)
class UniformTimes(TimeDistribution):
    """Uniform t: the density of the log-SNR is that of the schedule, ``-dt / dlambda``."""

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return u.double().clamp(MOMENT, 1 - MOMENT)

    def log_snr_density(self, log_snr: Tensor, schedule: Schedule) -> Tensor:
        with torch.enable_grad():
            t = schedule.time(log_snr.detach()).requires_grad_()
            learned = log_snr.requires_grad  # then the slope is a function of its weights too
            (slope,) = torch.autograd.grad(schedule.log_snr(t).sum(), t, create_graph=learned)
        return -1 / slope


@dataclass(frozen=True, kw_only=True)
class LogNormalTimes(TimeDistribution):
    """``log(sigma / alpha) ~ N(mean, std^2)``, whatever the schedule, within its reach.

    EDM's log-normal sigma (mean -1.2, std 1.2) and rectified flow's logit-normal t (mean 0,
    std 1) are one family: on the flow path sigma / alpha = t / (1 - t), whose logarithm is
    the logit of t.

    Source: Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1;
    Esser et al. (2024), https://arxiv.org/abs/2403.03206, section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (abs(self.mean) < inf and 0 < self.std < inf):
            raise ValueError(f"need a finite mean and std > 0, got {self}")

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        first, last = self._shares(schedule)
        z = torch.special.ndtri(first + (last - first) * u.double())
        return schedule.time(-2 * self.mean - 2 * self.std * z).clamp(MOMENT, 1 - MOMENT)

    @property
    def reach(self) -> tuple[float, float]:
        """Four standard deviations to either side: of 30,000 examples, one lies beyond."""
        return -2 * (self.mean + 4 * self.std), -2 * (self.mean - 4 * self.std)

    def log_snr_density(self, log_snr: Tensor, schedule: Schedule) -> Tensor:
        first, last = self._shares(schedule)
        z = (-log_snr / 2 - self.mean) / self.std
        return torch.exp(-z * z / 2) / (2 * self.std * (2 * torch.pi) ** 0.5 * (last - first))

    def _shares(self, schedule: Schedule) -> tuple[float, float]:
        """Of the distribution, those below the schedule's least and most noise."""
        low, high = schedule.reach
        first, last = _normal_shares(
            *((-log_snr / 2 - self.mean) / self.std for log_snr in (high, low))
        )
        if not last - first > MOMENT:
            raise ValueError(f"{self} has no mass within the reach of {schedule}")
        return first, last


@dataclass(frozen=True, kw_only=True)
class UniformLogSNR(TimeDistribution):
    """Uniform log-SNR between two bounds, within the reach of the schedule: all levels alike."""

    log_snr_min: float = -9.0
    log_snr_max: float = 9.0

    def __post_init__(self) -> None:
        if not -inf < self.log_snr_min < self.log_snr_max < inf:
            raise ValueError(f"need log_snr_min < log_snr_max, both finite, got {self}")

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        low, high = self._bounds(schedule)
        return schedule.time(high - (high - low) * u.double()).clamp(MOMENT, 1 - MOMENT)

    @property
    def reach(self) -> tuple[float, float]:
        """The bounds."""
        return self.log_snr_min, self.log_snr_max

    def log_snr_density(self, log_snr: Tensor, schedule: Schedule) -> Tensor:
        low, high = self._bounds(schedule)
        return ((log_snr >= low) & (log_snr <= high)).double() / (high - low)

    def _bounds(self, schedule: Schedule) -> tuple[float, float]:
        low, high = schedule.reach
        low, high = max(low, self.log_snr_min), min(high, self.log_snr_max)
        if not low < high:
            raise ValueError(f"{self} lies out of the reach of {schedule}")
        return low, high


@lru_cache(maxsize=8)
def _normal_shares(*z: float) -> list[float]:
    """Of the standard normal distribution, those below each of `z`."""
    return torch.special.ndtr(torch.tensor(z, dtype=torch.float64)).tolist()
