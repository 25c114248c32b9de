"""Noise schedules: how much signal and how much noise there is at each time."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import inf, log
from typing import Literal, get_args

import torch
from torch import Tensor

Scaling = Literal["vp", "ve", "flow", "sub-vp"]

MOMENT = 1e-6  # see `Schedule.reach`


# --- Schedules -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    r"""The kernel ``p(x_t | x) = N(alpha_t x, sigma_t^2 I)``, with data at t = 0, noise at t = 1.

    Two independent choices make a schedule:

    - a *curve*, the log-SNR ``lambda_t = log(alpha_t^2 / sigma_t^2)``, which decreases in t;
    - a *scaling* of the pair: ``vp`` alpha^2 + sigma^2 = 1, ``ve`` alpha = 1,
      ``flow`` alpha + sigma = 1, ``sub-vp`` alpha^2 + sigma = 1. Sampling paths in two scalings
      differ by a factor alone.

    A member states its curve on its own clock u in [0, 1]; t is u, cut to where the curve lies in
    ``[log_snr_min, log_snr_max]`` and rescaled to [0, 1] again. Infinite bounds cut nothing.

    Args:
        scaling: How alpha and sigma follow from their ratio.
        shift: Added to the whole curve; ``2 log(64 / d)`` suits images d > 64 pixels wide.
        log_snr_min: Log-SNR at t = 1, before the shift.
        log_snr_max: Log-SNR at t = 0, before the shift.

    Raises:
        ValueError: If ``log_snr_min >= log_snr_max``, or a parameter is out of its range.

    Source: Kingma & Gao (2023), https://arxiv.org/abs/2303.00848 (log-SNR as the clock);
    Song et al. (2021), https://arxiv.org/abs/2011.13456, appendix B (sub-VP);
    Hoogeboom et al. (2023), https://arxiv.org/abs/2301.11093 (shift).
    """

    scaling: Scaling = "vp"
    shift: float = 0.0
    log_snr_min: float = -inf
    log_snr_max: float = inf

    def __post_init__(self) -> None:
        if not self.log_snr_min < self.log_snr_max:
            raise ValueError(f"log_snr_min must be below log_snr_max, got {self}")
        if not abs(self.shift) < inf:
            raise ValueError(f"shift must be finite, got {self}")
        if self.scaling not in get_args(Scaling):
            raise ValueError(f"scaling must be one of {get_args(Scaling)}, got {self.scaling!r}")

    @abstractmethod
    def curve(self, u: Tensor) -> Tensor:
        """Log-SNR of the uncut, unshifted curve at `u` in [0, 1]; same shape, float64."""

    @abstractmethod
    def clock(self, log_snr: Tensor) -> Tensor:
        """Inverse of `curve`; same shape, float64, clamped to [0, 1]."""

    def log_snr(self, t: Tensor) -> Tensor:
        """Log-SNR at the times `t` in [0, 1], in nats; same shape, float64."""
        start, stop = self._ends
        return self.curve(start + (stop - start) * t.double()) + self.shift

    def time(self, log_snr: Tensor) -> Tensor:
        """Inverse of `log_snr`; same shape, float64. Values out of reach give t = 0 or t = 1."""
        start, stop = self._ends
        u = self.clock(log_snr.double() - self.shift)
        return ((u - start) / (stop - start)).clamp(0, 1)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Scales ``(alpha_t, sigma_t)``, both >= 0, each of the shape of `t`, float64."""
        return scales(self.log_snr(t), self.scaling)

    @cached_property
    def reach(self) -> tuple[float, float]:
        """The log-SNRs a `MOMENT` before t = 1 and after t = 0: nothing is trained on beyond.

        They are finite, as those at the ends need not be.
        """
        with torch.no_grad():
            ends = torch.tensor([1 - MOMENT, MOMENT], dtype=torch.float64)
            low, high = self.log_snr(ends).tolist()
        return low, high

    @cached_property
    def _ends(self) -> tuple[float, float]:
        cuts = torch.tensor([self.log_snr_max, self.log_snr_min], dtype=torch.float64)
        start, stop = self.clock(cuts).tolist()
        if not start < stop:
            raise ValueError(f"log_snr_min and log_snr_max leave nothing of the curve of {self}")
        return start, stop


def scales(log_snr: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """The pair ``(alpha, sigma)`` with ``alpha^2 / sigma^2 = exp(log_snr)``, in one scaling."""
    half = log_snr / 2  # log(alpha / sigma)
    match scaling:
        case "vp":
            return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
        case "ve":
            return torch.ones_like(half), torch.exp(-half)
        case "flow":
            return torch.sigmoid(half), torch.sigmoid(-half)
        case "sub-vp":  # the root of alpha^2 + r alpha - 1 = 0, with r = sigma / alpha
            r = torch.exp(-half)
            alpha = 2 / (r + torch.sqrt(r * r + 4))
            return alpha, torch.where(r < 1, alpha * r, 1 - alpha * alpha)


@dataclass(frozen=True, kw_only=True)
class DDPMSchedule(Schedule):
    """``alpha_bar_i = prod (1 - beta_j)`` at t = i / T, the betas linear from first to last.

    Or their roots are, with a power of 2, as in Stable Diffusion.

    Exact on the grid i / T; between two grid points beta acts at a constant rate, that is,
    log alpha_bar is linear, so that the same schedule serves continuous times.

    Args:
        steps: T.
        beta_first: beta_1.
        beta_last: beta_T.
        power: p, ``beta_i^(1/p)`` being linear: 1, or 2.

    Source: Ho et al. (2020), https://arxiv.org/abs/2006.11239, section 4; roots: Rombach et al.
    (2022), https://arxiv.org/abs/2112.10752, in their code.

    >>> DDPMSchedule()(torch.tensor(1.0))[0].square()
    tensor(4.0358e-05, dtype=torch.float64)
    """

    steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02
    power: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_steps(self.steps)
        if not (0 < self.beta_first < 1 and 0 < self.beta_last < 1):
            raise ValueError(f"betas must lie strictly between 0 and 1, got {self}")
        if self.power not in (1, 2):
            raise ValueError(f"power must be 1 or 2, got {self}")

    @cached_property
    def _decay(self) -> Tensor:
        """``-log alpha_bar`` at u = i / T, ``(T + 1,)``: zero first, strictly increasing."""
        first, last = (beta ** (1 / self.power) for beta in (self.beta_first, self.beta_last))
        return _decay_of_betas(
            torch.linspace(first, last, self.steps, dtype=torch.float64) ** self.power
        )

    def curve(self, u: Tensor) -> Tensor:
        return _curve_of_table(self._decay.to(u.device), u)

    def clock(self, log_snr: Tensor) -> Tensor:
        return _clock_of_table(self._decay.to(log_snr.device), log_snr)


@dataclass(frozen=True, kw_only=True)
class CosineTableSchedule(Schedule):
    """As `DDPMSchedule`, with ``beta_i = min(1 - f(i / T) / f((i - 1) / T), 0.999)``.

    ``f(u) = cos^2((u + 0.008) / 1.008 pi / 2)``. It is `CosineSchedule`, cut at its end by a bound
    on the last betas, and known to the networks that were trained by this table.

    Args:
        steps: T.

    Source: Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672, equation 17.

    >>> CosineTableSchedule()(torch.tensor(0.5))[0].square()
    tensor(0.4938, dtype=torch.float64)
    """

    steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_steps(self.steps)

    @cached_property
    def _decay(self) -> Tensor:
        """``-log alpha_bar`` at u = i / T, ``(T + 1,)``."""
        u = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        angle = (u + 0.008) / 1.008 * torch.pi / 2
        a, b = angle[:-1], angle[1:]
        # 1 - cos^2 b / cos^2 a, in a form in which nothing cancels
        betas = torch.sin(b - a) * torch.sin(b + a) / torch.cos(a) ** 2
        return _decay_of_betas(betas.clamp_max(0.999))

    def curve(self, u: Tensor) -> Tensor:
        return _curve_of_table(self._decay.to(u.device), u)

    def clock(self, log_snr: Tensor) -> Tensor:
        return _clock_of_table(self._decay.to(log_snr.device), log_snr)


@dataclass(frozen=True, kw_only=True)
class TableSchedule(Schedule):
    """Any table of ``alpha_bar_i`` at t = i / T, i = 1 to T; in between as in `DDPMSchedule`.

    Args:
        alpha_bar: Strictly decreasing, each strictly between 0 and 1.

    >>> TableSchedule(alpha_bar=(0.9, 0.5))(torch.tensor(1.0))[0].square()
    tensor(0.5000, dtype=torch.float64)
    """

    alpha_bar: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.alpha_bar) <= 100_000:
            raise ValueError(f"alpha_bar must hold 1 to 100000 values, got {len(self.alpha_bar)}")
        if not all(a > b for a, b in pairwise((1.0, *self.alpha_bar, 0.0))):
            raise ValueError("alpha_bar must decrease strictly between 1 and 0")

    @cached_property
    def _decay(self) -> Tensor:
        """``-log alpha_bar`` at u = i / T, ``(T + 1,)``."""
        return -torch.tensor((1.0, *self.alpha_bar), dtype=torch.float64).log()

    def curve(self, u: Tensor) -> Tensor:
        return _curve_of_table(self._decay.to(u.device), u)

    def clock(self, log_snr: Tensor) -> Tensor:
        return _clock_of_table(self._decay.to(log_snr.device), log_snr)


def number_of(schedule: Schedule, steps: int, log_snr: Tensor) -> Tensor:
    """Which step of a table of so many has this log-SNR, and in between: ``i = T t - 1 >= 0``."""
    return (schedule.time(log_snr) * steps - 1).clamp(0, steps - 1)


@dataclass(frozen=True, kw_only=True)
class LinearSchedule(Schedule):
    """The VP SDE: ``-log alpha_bar = beta_min u + (beta_max - beta_min) u^2 / 2``.

    With the scaling ``sub-vp``, use `SubVPSchedule`: there the curve differs too.

    Source: Song et al. (2021), https://arxiv.org/abs/2011.13456, equation 11.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_min <= self.beta_max < inf:
            raise ValueError(f"need 0 < beta_min <= beta_max, got {self}")

    def curve(self, u: Tensor) -> Tensor:
        return _log_snr_of_decay(_beta_integral(self, u))

    def clock(self, log_snr: Tensor) -> Tensor:
        return _beta_integral_inverse(self, _decay_of_log_snr(log_snr))


@dataclass(frozen=True, kw_only=True)
class SubVPSchedule(Schedule):
    """The sub-VP SDE: ``alpha = exp(-I / 2)``, ``sigma = 1 - exp(-I)``, I that of the VP SDE.

    Its marginals are those of a schedule like any other, in the scaling ``sub-vp``. Its SDE has
    a diffusion of its own; stochastic samplers here use the one that follows from the marginals.

    Source: Song et al. (2021), https://arxiv.org/abs/2011.13456, equation 29.
    """

    scaling: Scaling = "sub-vp"
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_min <= self.beta_max < inf:
            raise ValueError(f"need 0 < beta_min <= beta_max, got {self}")

    def curve(self, u: Tensor) -> Tensor:
        integral = _beta_integral(self, u)
        return -integral - 2 * torch.log(-torch.expm1(-integral))

    def clock(self, log_snr: Tensor) -> Tensor:
        alpha, sigma = scales(log_snr, "sub-vp")
        decay = torch.where(sigma < 0.5, -torch.log1p(-sigma), -2 * torch.log(alpha))
        return _beta_integral_inverse(self, decay)


@dataclass(frozen=True, kw_only=True)
class CosineSchedule(Schedule):
    r"""``lambda = -2 log tan(pi u / 2)``: the angle of (alpha, sigma) turns at a constant rate.

    Nichol and Dhariwal's offset s = 0.008 is ``log_snr_max = 8.77``, but for their division by
    ``cos^2 = 0.99984`` at t = 0.

    Source: Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672.

    >>> torch.stack(CosineSchedule()(torch.tensor(0.5)))
    tensor([0.7071, 0.7071], dtype=torch.float64)
    """

    log_snr_min: float = -15.0
    log_snr_max: float = 15.0

    def curve(self, u: Tensor) -> Tensor:
        angle = u * (torch.pi / 2)
        return 2 * (torch.cos(angle).clamp_min(0).log() - torch.sin(angle).log())

    def clock(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / torch.pi)


@dataclass(frozen=True, kw_only=True)
class SigmoidSchedule(Schedule):
    """``alpha_bar`` falls as a sigmoid between `start` and `end`, rescaled to reach 1 and 0.

    Source: Jabri et al. (2022), https://arxiv.org/abs/2212.11972, algorithm 2.
    """

    log_snr_min: float = -15.0
    log_snr_max: float = 15.0
    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (-inf < self.start < self.end < inf and 0 < self.tau < inf):
            raise ValueError(f"need start < end and tau > 0, all finite, got {self}")

    # With A = (end - start) / (2 tau), the differences of sigmoids that make alpha_bar become
    #     lambda = log sinh(A (1 - u)) - log sinh(A u) + gap,
    # which loses no digit at either end.

    @cached_property
    def _half_width(self) -> float:
        return (self.end - self.start) / (2 * self.tau)

    @cached_property
    def _gap(self) -> float:
        ends = torch.tensor([self.start, self.end], dtype=torch.float64) / (2 * self.tau)
        low, high = _log_cosh(ends).tolist()
        return low - high

    def curve(self, u: Tensor) -> Tensor:
        A = self._half_width
        return _log_sinh(A * (1 - u)) - _log_sinh(A * u) + self._gap

    def clock(self, log_snr: Tensor) -> Tensor:
        A, gap = self._half_width, log_snr - self._gap
        # 2 A u = log((e^gap + e^A) / (e^gap + e^-A)), and y is the lesser of u and 1 - u
        y = (_log_1p_exp(A - gap.abs()) - _log_1p_exp(-A - gap.abs())) / (2 * A)
        return torch.where(gap > 0, y, 1 - y).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class FlowSchedule(Schedule):
    """Rectified flow: ``x_t = (1 - t) x + t eps``. No cut: alpha_1 = 0 and sigma_0 = 0.

    Source: Liu et al. (2022), https://arxiv.org/abs/2209.03003; Lipman et al. (2022),
    https://arxiv.org/abs/2210.02747.
    """

    scaling: Scaling = "flow"

    def curve(self, u: Tensor) -> Tensor:
        return 2 * (torch.log1p(-u) - torch.log(u))

    def clock(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


@dataclass(frozen=True, kw_only=True)
class KarrasSchedule(Schedule):
    """``sigma / alpha`` linear in u after the power 1 / rho, from sigma_min to sigma_max.

    Source: Karras et al. (2022), https://arxiv.org/abs/2206.00364, equation 5.
    """

    scaling: Scaling = "ve"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.sigma_min < self.sigma_max < inf and 0 < self.rho < inf):
            raise ValueError(f"need 0 < sigma_min < sigma_max and rho > 0, got {self}")

    def curve(self, u: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return -2 * self.rho * torch.log(low + (high - low) * u)

    def clock(self, log_snr: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        root = torch.exp(-log_snr / (2 * self.rho))
        return ((root - low) / (high - low)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class GeometricSchedule(Schedule):
    """Log-SNR linear in t: the VE SDE's geometric sigmas, and the VDM's fixed schedule.

    Source: Song et al. (2021), https://arxiv.org/abs/2011.13456, appendix C;
    Kingma et al. (2021), https://arxiv.org/abs/2107.00630.
    """

    scaling: Scaling = "ve"
    log_snr_min: float = -2 * log(50.0)
    log_snr_max: float = 2 * log(100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.log_snr_min > -inf and self.log_snr_max < inf):
            raise ValueError(f"log_snr_min and log_snr_max must be finite, got {self}")

    def curve(self, u: Tensor) -> Tensor:
        return self.log_snr_max + (self.log_snr_min - self.log_snr_max) * u

    def clock(self, log_snr: Tensor) -> Tensor:
        part = (self.log_snr_max - log_snr) / (self.log_snr_max - self.log_snr_min)
        return part.clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class LearnedSchedule(Schedule):
    """Log-SNR between two ends along a monotone function that is learned.

    The variational bound depends on the ends alone; the curve between them decides the variance
    of its estimate, and is trained to lower it.

    Args:
        net: An increasing map of [0, 1] onto [0, 1], applied elementwise.

    Source: Kingma et al. (2021), https://arxiv.org/abs/2107.00630, appendix H.
    """

    net: Callable[[Tensor], Tensor]
    log_snr_min: float = -13.3
    log_snr_max: float = 5.0

    def curve(self, u: Tensor) -> Tensor:
        part = self.net(u).double()
        return self.log_snr_max + (self.log_snr_min - self.log_snr_max) * part

    @torch.no_grad()
    def clock(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(54):  # bisection to the last bit of a float64 in [0, 1]
            middle = (low + high) / 2
            above = self.curve(middle) > log_snr
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2

    @cached_property
    def reach(self) -> tuple[float, float]:
        """Those at the ends, which are finite, whatever the net has learned."""
        return self.log_snr_min + self.shift, self.log_snr_max + self.shift

    @cached_property
    def _ends(self) -> tuple[float, float]:
        return 0.0, 1.0  # the net reaches both by construction


def _log_sinh(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-2 * y)) - log(2)


def _log_cosh(y: Tensor) -> Tensor:
    return y.abs() + torch.log1p(torch.exp(-2 * y.abs())) - log(2)


def _log_snr_of_decay(decay: Tensor) -> Tensor:
    """``log(alpha_bar / (1 - alpha_bar))`` for ``alpha_bar = exp(-decay)``, at full precision."""
    return -decay - torch.log(-torch.expm1(-decay))


def _decay_of_log_snr(log_snr: Tensor) -> Tensor:
    """Inverse of `_log_snr_of_decay`: ``-log sigmoid(log_snr)``."""
    return _log_1p_exp(-log_snr)


def _log_1p_exp(y: Tensor) -> Tensor:
    return torch.nn.functional.softplus(y, threshold=700.0)


def _check_steps(steps: int) -> None:
    if not 1 <= steps <= 100_000:
        raise ValueError(f"steps must lie in [1, 100000], got {steps}")


def _decay_of_betas(betas: Tensor) -> Tensor:
    """``-log alpha_bar`` before the first beta and after each ``(T + 1,)``."""
    return torch.cat([betas.new_zeros(1), -torch.log1p(-betas).cumsum(0)])


def _curve_of_table(decay: Tensor, u: Tensor) -> Tensor:
    """Log-SNR at `u` in [0, 1], from ``-log alpha_bar`` at u = i / T, ``(T + 1,)``."""
    place = u.clamp(0, 1) * (len(decay) - 1)
    i = (place.floor().long()).clamp(max=len(decay) - 2)
    return _log_snr_of_decay(torch.lerp(decay[i], decay[i + 1], place - i))


def _clock_of_table(decay: Tensor, log_snr: Tensor) -> Tensor:
    """Inverse of `_curve_of_table`."""
    target = _decay_of_log_snr(log_snr)
    i = (torch.searchsorted(decay, target.contiguous()) - 1).clamp(0, len(decay) - 2)
    part = (target - decay[i]) / (decay[i + 1] - decay[i])
    return ((i + part.clamp(0, 1)) / (len(decay) - 1)).clamp(0, 1)


def _beta_integral(schedule: LinearSchedule | SubVPSchedule, u: Tensor) -> Tensor:
    return schedule.beta_min * u + (schedule.beta_max - schedule.beta_min) / 2 * u * u


def _beta_integral_inverse(schedule: LinearSchedule | SubVPSchedule, integral: Tensor) -> Tensor:
    slope = schedule.beta_max - schedule.beta_min
    integral = integral.clamp(max=schedule.beta_min + slope / 2)  # its value at u = 1
    root = torch.sqrt(schedule.beta_min**2 + 2 * slope * integral)
    return (2 * integral / (schedule.beta_min + root)).clamp(0, 1)
