"""Samplers: from noise to data, one transition at a time. `SAMPLERS` lists them by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import exp, expm1, hypot, inf, log, log1p, sqrt
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..errors import UsageError
from .denoise import Denoiser, align
from .distill import Consistency, Leap
from .multistep import AdamsBashforth, DPMSolver, Multistep, UniPC
from .noise import Schedule
from .solve import DORMAND_PRINCE, DORMAND_PRINCE_ERROR, mixed, slopes, velocity
from .trajectory import (
    Draw,
    Instant,
    Mix,
    OnStep,
    Past,
    Plan,
    Sampler,
    Step,
    encode,
    held,
    instants,
    mix,
    start,
    transition,
)

__all__ = [
    "RK45",
    "SAMPLERS",
    "AdamsBashforth",
    "Ancestral",
    "Churn",
    "Consistency",
    "DPMSolver",
    "Draw",
    "Euler",
    "Heun",
    "Instant",
    "Leap",
    "Multistep",
    "OnStep",
    "Plan",
    "PredictorCorrector",
    "Sampler",
    "UniPC",
    "encode",
    "langevin",
    "posterior_variance",
    "start",
]

# --- Ancestral: DDPM, DDIM and what lies between -------------------------------------------------

Named = Literal["small", "large", "learned"]
Variance = Named | Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Ancestral(Sampler):
    """DDPM at eta = 1, DDIM at eta = 0. Order 1; one denoiser call a step.

    With beta_tilde the variance of ``q(x_s | x_t, x)``, and ``v = eta^2 beta_tilde``,

        x_s = alpha_s x_hat + sqrt(sigma_s^2 - v) (x_t - alpha_t x_hat) / sigma_t + noise.

    Args:
        eta: How much fresh noise, in [0, 1].
        variance: Of the noise. ``small`` is v. ``large`` is ``eta^2 beta``, beta that of
            ``q(x_t | x_s)``: too much in few steps. ``learned`` lies between them, where the
            denoiser's variance head says. A function of the log-SNR that gives ``Var[x | x_t]``,
            such as `posterior_variance`, adds to v what x_hat lacks of it, the optimal variance:
            for Gaussian data of one variance, exact at any number of steps. With it the last step
            adds noise too.

    Source: Ho et al. (2020), https://arxiv.org/abs/2006.11239; Song et al. (2020),
    https://arxiv.org/abs/2010.02502, equation 12; Nichol & Dhariwal (2021),
    https://arxiv.org/abs/2102.09672, equation 15 (learned); Bao et al. (2022),
    https://arxiv.org/abs/2201.06503 (optimal).
    """

    eta: float = 1.0
    variance: Variance = "small"
    order = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")
        if not callable(self.variance) and self.variance not in get_args(Named):
            raise ValueError(f"variance must be one of {get_args(Named)}, got {self.variance!r}")

    @property
    def deterministic(self) -> bool:
        return self.eta == 0 and not callable(self.variance)

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        return [self._step(now, then) for now, then in pairwise(grid)]

    def _step(self, now: Instant, then: Instant) -> Step:
        lost = -expm1(2 * (now.half - then.half)) if self.eta > 0 else 0.0  # 1 - SNR_t / SNR_s
        share = self.eta**2 * lost
        kept = sqrt(1 - share)  # of the noise
        mean, small = held(now, then, kept), share * then.sigma**2
        sizes = hypot(then.alpha, then.sigma) / hypot(now.alpha, now.sigma)
        large = share * (now.sigma * sizes) ** 2
        if callable(self.variance):
            of_x = then.alpha - kept * now.alpha * then.sigma / now.sigma
            var = small + of_x**2 * self.variance(2 * now.half)
        elif self.variance == "learned" and small > 0:
            return LearnedStep(now.t, mean, log(small), log(large))
        else:
            var = small if self.variance == "small" or small == 0 else large
        return transition(now.t, mean, fresh=sqrt(var))


class LearnedStep(NamedTuple):
    """A step whose variance the denoiser says, between two bounds, in the logarithm."""

    t: Tensor
    mean: Mix
    log_small: float
    log_large: float

    def __call__(self, denoiser: Denoiser, x_t: Tensor, past: Past, noise: Draw) -> Tensor:
        x_hat, place = denoiser.moments(x_t, self.t)
        if place is None:
            raise UsageError(
                "The sampler asks for a learned variance, and this model has no variance head, or "
                "not where it is guided so: sample with ddpm, or train one with a variance head."
            )
        log_var = self.log_small + place * (self.log_large - self.log_small)
        return self.mean(x_t, [x_hat]).addcmul_(torch.exp(log_var / 2), noise(x_t))


@torch.no_grad()
def posterior_variance(
    denoiser: Denoiser, x: Tensor, noise: Draw = torch.randn_like, levels: int = 49
) -> Callable[[float], float]:
    """``Var[x | x_t]`` as a function of the log-SNR, in the mean over data and dimensions.

    It is the denoiser's mean squared error on examples `x` ``(B, *S)``, measured at `levels`
    log-SNRs in [-12, 12]. Between them ``(1 + SNR) Var``, which is of order 1 throughout, is
    interpolated linearly; beyond, it is constant.
    """
    log_snrs = torch.linspace(-12, 12, levels, dtype=torch.float64, device=x.device)
    schedule, values = denoiser.schedule, []
    for now in instants(schedule, schedule.time(log_snrs)):
        x_t = torch.add(now.alpha * x, noise(x), alpha=now.sigma)
        error = (x - denoiser(x_t, now.t)).square().mean().item()
        values.append((1 + exp(2 * now.half)) * error)

    def variance(log_snr: float) -> float:
        place = (min(max(log_snr, -12.0), 12.0) + 12) / 24 * (levels - 1)
        i = min(int(place), levels - 2)
        value = values[i] + (values[i + 1] - values[i]) * (place - i)
        return value / (1 + exp(min(log_snr, 700.0)))

    return variance


# --- Euler and Heun, with churn ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Churn:
    """Fresh noise before a step: sigma / alpha rises by a factor ``1 + rate``.

    Sampling converges if the rate falls as 1 / N; at a constant rate an error of its order stays.

    Args:
        rate: In [0, sqrt(2) - 1]; EDM's gamma, ``S_churn / N``.
        sigma_min: Noise is added where sigma / alpha is not below this; EDM's S_min.
        sigma_max: Nor above this, S_max; nor beyond the noisy end of the schedule.
        inflation: Factor of the standard deviation of the noise; S_noise.

    Source: Karras et al. (2022), https://arxiv.org/abs/2206.00364, algorithm 2.
    """

    rate: float = 0.0
    sigma_min: float = 0.0
    sigma_max: float = inf
    inflation: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= sqrt(2) - 1:
            raise ValueError(f"the rate of churn must lie in [0, sqrt(2) - 1], got {self.rate}")

    def raised(self, schedule: Schedule, now: Instant) -> Instant:
        """The instant that x_t belongs to once it has its fresh noise."""
        if self.rate == 0 or now.alpha == 0:
            return now
        if not self.sigma_min <= now.sigma / now.alpha <= self.sigma_max:
            return now
        log_snr = torch.full_like(now.t, 2 * (now.half - log1p(self.rate)))
        return instants(schedule, schedule.time(log_snr[None]))[0]

    def before(self, step: Step, now: Instant, up: Instant) -> Step:
        """The same step, with the noise from `now` to `up` added to x_t before it."""
        if up is now:
            return step
        added = sqrt(max((up.sigma / up.alpha) ** 2 - (now.sigma / now.alpha) ** 2, 0.0))
        return ChurnedStep(mix(up.alpha / now.alpha, [up.alpha * added * self.inflation]), step)


class ChurnedStep(NamedTuple):
    """Fresh noise, then a step."""

    up: Mix
    step: Step

    def __call__(self, denoiser: Denoiser, x_t: Tensor, past: Past, noise: Draw) -> Tensor:
        return self.step(denoiser, self.up(x_t, [noise(x_t)]), past, noise)


STILL = Churn()


@dataclass(frozen=True, kw_only=True)
class Euler(Sampler):
    """Straight on, as if x_hat stayed what it is: DDIM. Order 1; one denoiser call a step.

    ``x_s = alpha_s x_hat + sigma_s eps_hat``: Euler's rule for the probability flow, on the clock
    sigma / alpha as on that of rectified flow.

    Args:
        churn: Fresh noise before each step.

    Source: Karras et al. (2022), https://arxiv.org/abs/2206.00364; Liu et al. (2022),
    https://arxiv.org/abs/2209.03003.
    """

    churn: Churn = STILL
    order = 1

    @property
    def deterministic(self) -> bool:
        return self.churn.rate == 0

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        found = list[Step]()
        for now, then in pairwise(grid):
            up = self.churn.raised(schedule, now)
            found.append(self.churn.before(transition(up.t, held(up, then)), now, up))
        return found


@dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    """The trapezoidal rule. Order 2; two denoiser calls a step, one in the step to sigma = 0.

    With x_hat' the estimate where Euler's step leads, the mean of the slopes at both ends is

        x_s = Euler's + c_s (tau_t / tau_s - 1) / 2 (x_hat' - x_hat),

    where ``c = alpha + sigma``, ``tau = sigma / c`` in the scaling ``flow``, and ``c = alpha``,
    ``tau = sigma / alpha`` in ``ve``, which is EDM's. In ``ve`` the difference is magnified where
    one step takes off most of the noise; from alpha = 0, where there is no such slope, the step
    is that of ``flow``.

    Args:
        churn: Fresh noise before each step.
        scaling: The one in which the slopes are averaged, whatever the path.

    Source: Karras et al. (2022), https://arxiv.org/abs/2206.00364, algorithms 1 and 2.
    """

    churn: Churn = STILL
    scaling: Literal["flow", "ve"] = "flow"
    order = 2

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

    @property
    def deterministic(self) -> bool:
        return self.churn.rate == 0

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        found = list[Step]()
        for now, then in pairwise(grid):
            up = self.churn.raised(schedule, now)
            found.append(self.churn.before(self._step(up, then), now, up))
        return found

    def _step(self, now: Instant, then: Instant) -> Step:
        ahead = held(now, then)
        if then.sigma == 0:
            return transition(now.t, ahead)
        if self.scaling == "ve" and min(now.alpha, then.alpha) > 0:
            gain = then.alpha * expm1(then.half - now.half)
        else:
            gain = then.size * (now.tau / then.tau - 1)
        return heun_step(now.t, then.t, ahead, mix(1.0, [gain / 2, -gain / 2]))


def heun_step(t: Tensor, s: Tensor, ahead: Mix, mend: Mix) -> Step:
    """Euler's step `ahead`, from t to s, mended by what the denoiser says where it leads."""

    def step(denoiser: Denoiser, x_t: Tensor, past: Past, noise: Draw) -> Tensor:
        x_hat = denoiser(x_t, t)
        x_s = ahead(x_t, (x_hat,))
        return mend(x_s, (denoiser(x_s, s), x_hat))

    return step


# --- Langevin steps, adaptive steps --------------------------------------------------------------


def langevin(denoiser: Denoiser, x_t: Tensor, now: Instant, snr: float, noise: Draw) -> Tensor:
    """One Langevin step within p(x_t), which stays what it is, but for O(snr^2).

    ``x_t + e score + sqrt(2 e) noise``, with ``e = 2 (snr sigma)^2``: the score SDE's, with the
    norms that score and noise have in expectation instead of those of the batch, so that no
    example depends on its neighbours.

    Source: Song et al. (2021), https://arxiv.org/abs/2011.13456, algorithms 4 and 5.
    """
    x_hat, part = denoiser(x_t, now.t), 2 * snr**2
    mean = torch.add(x_t * (1 - part), x_hat, alpha=part * now.alpha)
    return torch.add(mean, noise(x_t), alpha=2 * snr * now.sigma)


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector(Sampler):
    """A step of another sampler, then Langevin steps at the noise level it has reached.

    They mend what the predictor got wrong, and bring an error O(snr^2) of their own, which more
    steps do not lower; but for it, order 1. Denoiser calls: those of the predictor, and
    `corrections` at each noise level between.

    Args:
        predictor: The rule for the transition.
        corrections: Langevin steps after each.
        snr: Their size; see `langevin`.

    Source: Song et al. (2021), https://arxiv.org/abs/2011.13456, section 4.2.
    """

    predictor: Sampler = Ancestral()
    corrections: int = 1
    snr: float = 0.16
    order = 1

    def __post_init__(self) -> None:
        if self.corrections < 1 or not 0 < self.snr < sqrt(0.5):
            raise ValueError(f"need corrections >= 1 and 0 < snr < 0.7, got {self}")

    def calls(self, steps: int) -> int | None:
        calls = self.predictor.calls(steps)
        return None if calls is None else calls + (steps - 1) * self.corrections

    @property
    def deterministic(self) -> bool:
        return False

    @property
    def memory(self) -> int:
        return self.predictor.memory

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        steps = zip(self.predictor.steps(schedule, grid), grid[1:], strict=True)
        return [
            CorrectedStep(step, then, self.snr, self.corrections if then.sigma > 0 else 0)
            for step, then in steps
        ]


class CorrectedStep(NamedTuple):
    """A step, then Langevin steps where it leads."""

    step: Step
    then: Instant
    snr: float
    corrections: int

    def __call__(self, denoiser: Denoiser, x_t: Tensor, past: Past, noise: Draw) -> Tensor:
        x_s = self.step(denoiser, x_t, past, noise)
        for _ in range(self.corrections):
            x_s = langevin(denoiser, x_s, self.then, self.snr, noise)
        return x_s


SHORTEST = 1e-4  # of the steps of RK45


@dataclass(frozen=True, kw_only=True)
class RK45(Sampler):
    """Dormand-Prince, with steps as long as a tolerance allows. Order 5: a reference.

    Between two times of the grid it takes what steps it needs, of six denoiser calls each, in flow
    coordinates (see `AdamsBashforth`). Every example has steps of its own, so that none depends on
    its batch; the batch takes as many as its slowest.

    Args:
        rtol: Error of one step, relative to y.
        atol: Error of one step; y has variance of order 1.
        tau_min: The step to sigma = 0 goes as far as this ``sigma / (alpha + sigma)``, then takes
            x_hat.

    Source: Dormand & Prince (1980), https://doi.org/10.1016/0771-050X(80)90013-3; for diffusion,
    Song et al. (2021), https://arxiv.org/abs/2011.13456, appendix D.4.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    tau_min: float = 1e-3
    order = 5

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and 0 < self.tau_min < 1):
            raise ValueError(f"need rtol > 0, atol > 0 and 0 < tau_min < 1, got {self}")

    def calls(self, steps: int) -> None:
        return None

    @property
    def memory(self) -> int:
        return 1  # how long its last step was

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        return [partial(self._step, now, then) for now, then in pairwise(grid)]

    def _step(
        self,
        now: Instant,
        then: Instant,
        denoiser: Denoiser,
        x_t: Tensor,
        past: Past,
        noise: Draw,
    ) -> Tensor:
        tau = torch.full((len(x_t),), now.tau, dtype=torch.float64, device=x_t.device)
        longest = past.pop() if past else torch.full_like(tau, 0.1)
        y, end = x_t / now.size, then.tau if then.sigma > 0 else min(self.tau_min, now.tau)
        slope = velocity(denoiser, y, tau)
        while (tau != end).any():
            left = end - tau
            h = left.clamp(-longest, longest)
            ks = slopes(
                DORMAND_PRINCE,
                lambda y, part, tau=tau, h=h: velocity(denoiser, y, tau + part * h),
                y,
                slope,
                align(h, y).to(y),
            )
            new = y + align(h, y).to(y) * mixed(DORMAND_PRINCE.weights, ks)
            error = self._size(align(h, y).to(y) * mixed(DORMAND_PRINCE_ERROR, ks), y, new)
            # What is not a number is let through, and so is what rounding keeps from the tolerance.
            good = ~(error > 1) | (h.abs() <= SHORTEST)
            at_end = good & (h == left)
            y = torch.where(align(good, y), new, y)
            slope = torch.where(align(good, y), ks[-1], slope)
            tau = torch.where(at_end, end, torch.where(good, tau + h, tau))
            growth = (0.9 * error.clamp_min(1e-6) ** -0.2).clamp(0.2, 5).nan_to_num(1.0)
            longest = torch.where(at_end, longest, (h.abs() * growth).clamp_min(SHORTEST))
        past.append(longest)
        return then.size * y if then.sigma > 0 else then.alpha * (y - end * slope)

    def _size(self, error: Tensor, y: Tensor, new: Tensor) -> Tensor:
        """Root mean square ``(B,)`` of the error over what is tolerated."""
        tolerated = self.atol + self.rtol * torch.maximum(y.abs(), new.abs())
        return (error / tolerated).double().square().flatten(1).mean(1).sqrt()


# --- By name -------------------------------------------------------------------------------------

SAMPLERS: dict[str, Sampler] = {
    "ddpm": Ancestral(),
    "ddpm-large": Ancestral(variance="large"),
    "ddpm-learned": Ancestral(variance="learned"),
    "ddim": Ancestral(eta=0.0),
    "euler": Euler(),
    "heun": Heun(),
    "edm": Heun(scaling="ve"),
    "edm-churn": Heun(scaling="ve", churn=Churn(rate=0.2, sigma_min=0.05, sigma_max=50.0)),
    "dpm++2m": Multistep(order=2),
    "dpm++3m": Multistep(order=3),
    "dpm++2m-published": DPMSolver(points=2),
    "dpm++3m-published": DPMSolver(points=3),
    "sde-dpm++2m": Multistep(order=2, eta=1.0),
    "sde-dpm++2m-published": DPMSolver(points=2, eta=1.0),
    "unipc": UniPC(),
    "adams-bashforth": AdamsBashforth(),
    "leap": Leap(),
    "consistency": Consistency(),
    "predictor-corrector": PredictorCorrector(),
    "rk45": RK45(),
}
"""Default instances, for commands and configurations."""
