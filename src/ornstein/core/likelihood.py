"""Likelihood: log p by the probability flow, and the variational bound; bits per dimension.

Both speak of the density of ``x + (sigma / alpha) n`` at x, where sigma / alpha is the lowest noise
level: the schedule's own at t = 0, or that of `Range`, if the schedule goes on below it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from .denoise import Denoiser, align, noisy, reverse_variances
from .noise import Schedule

Noise = Callable[[Tensor], Tensor]
"""Standard Gaussian noise like its argument, such as `ornstein.rng.Streams`."""

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True)
class Range:
    """The log-SNRs to integrate over: those of the schedule, kept finite.

    At the defaults, noise of standard deviation ``e^-7 = 0.0009`` is left on the data at one end,
    and 8e-7 of the variance of x_t is signal at the other.
    """

    log_snr_min: float = -14.0
    log_snr_max: float = 14.0

    def __post_init__(self) -> None:
        if not -math.inf < self.log_snr_min < self.log_snr_max < math.inf:
            raise ValueError(f"need log_snr_min < log_snr_max, both finite, got {self}")

    def __call__(self, schedule: Schedule) -> tuple[float, float]:
        """The log-SNR at the noisy end and at the data's."""
        with torch.no_grad():
            high, low = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        return max(low, self.log_snr_min), min(high, self.log_snr_max)


# --- The probability flow ------------------------------------------------------------------------


class LogLikelihood(NamedTuple):
    """What `log_likelihood` finds.

    Attributes:
        nats: ``log p(x)`` ``(B,)``, the density over all dimensions of an example.
        standard_error: Of `nats` ``(B,)``, from the spread of the probes; 0 without probes.
        calls: Denoiser calls, each with one Jacobian product for each probe or dimension.
    """

    nats: Tensor
    standard_error: Tensor
    calls: int


def standard_log_prob(x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """``log N(x_t; 0, (alpha^2 + sigma^2) I)`` ``(B,)``: p(x_t) at t = 1 for data of variance 1.

    In truth a direction in which the data have variance S has ``alpha^2 S + sigma^2``; over the
    data, the error comes to ``(SNR (S - 1))^2 / 4`` nats a dimension, if their mean is 0.
    """
    var = torch.hypot(*schedule(t)).to(x_t) ** 2
    return -0.5 * (x_t**2 / align(var, x_t) + align(var.log(), x_t) + LOG_2PI).flatten(1).sum(1)


def rademacher(noise: Noise, like: Tensor, count: int) -> Tensor:
    """Probes ``(count, B, *S)`` of random signs, for Hutchinson's estimate of a trace."""
    return torch.stack([noise(like).sign() for _ in range(count)])


@torch.no_grad()
def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    probes: Tensor | None = None,
    prior: Callable[[Tensor, Tensor], Tensor] | None = None,
    tolerance: float = 1e-5,
    within: Range = Range(),
    **cond: Tensor,
) -> LogLikelihood:
    """Log-density of `x` under the model, by the change of variables along its probability flow.

    With ``z = x_t / sqrt(alpha^2 + sigma^2)`` on the clock of the log-SNR lambda, and alpha,
    sigma those of the ``vp`` scaling, whatever the schedule's,

        dz / dlambda = f = (alpha / 2) (x_hat - alpha z),
        log p(z_0) = log p(z_1) + integral from lambda_0 to lambda_1 of div f dlambda.

    Solved in float64 by an adaptive Runge-Kutta method of order 8, whose steps serve the whole
    batch: to within the tolerance of its mean error, what an example gets depends on the others.

    Args:
        denoiser: The model.
        x: Data ``(B, *S)``, as the denoiser knows them: standardised, and dequantised if they
            are discrete (see `dequantise`).
        probes: Signs ``(n, B, *S)``, n >= 2, from `rademacher`: the divergence is estimated as the
            mean of ``u^T J u``, n Jacobian products a call. By default it is exact, at one for
            each dimension.
        prior: ``log p(x_t)`` ``(B,)`` of (x_t, t) at the noisy end; by default
            `standard_log_prob`.
        tolerance: Relative and absolute, of one step of the solver.
        within: The log-SNRs to integrate over.
        **cond: Conditions, for log p(x | cond).

    Raises:
        ValueError: If `probes` does not match `x`.

    Source: Song et al. (2021), https://arxiv.org/abs/2011.13456, appendix D.2; Grathwohl et al.
    (2019), https://arxiv.org/abs/1810.01367 (the trace estimator).
    """
    if probes is not None and (probes.shape[1:] != x.shape or len(probes) < 2):
        raise ValueError(f"expected probes (n >= 2, {tuple(x.shape)}), got {tuple(probes.shape)}")
    x = x.double()
    directions = _basis(x) if probes is None else probes.to(x)
    columns, size = 1 if probes is None else len(probes), x.numel()
    schedule, calls = denoiser.schedule, 0

    def field(z: Tensor, log_snr: Tensor) -> Tensor:
        t = schedule.time(log_snr)
        x_hat = denoiser(z * torch.hypot(*schedule(t)), t, **cond)
        alpha = torch.sigmoid(log_snr).sqrt()
        return alpha / 2 * (x_hat - alpha * z)

    def right_hand_side(log_snr: float, state: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        z = torch.from_numpy(state[:size]).to(x).view_as(x)
        at = torch.tensor(log_snr, dtype=torch.float64, device=x.device)
        f, vjp = torch.func.vjp(lambda z: field(z, at), z)[:2]
        forms = torch.stack([(vjp(u)[0] * u).flatten(1).sum(1) for u in directions])
        divergence = forms.sum(0, keepdim=True) if probes is None else forms
        return torch.cat([f.flatten(), divergence.flatten()]).cpu().numpy()

    low, high = within(schedule)
    alpha = torch.tensor(high, dtype=torch.float64).sigmoid().sqrt().item()
    start = np.concatenate([(alpha * x).flatten().cpu().numpy(), np.zeros(columns * len(x))])
    solution = solve_ivp(
        right_hand_side, (high, low), start, method="DOP853", rtol=tolerance, atol=tolerance
    )
    if not solution.success:
        raise ArithmeticError(f"the probability flow could not be solved: {solution.message}")
    end = torch.from_numpy(solution.y[:, -1]).to(x)

    t = schedule.time(torch.tensor(low, dtype=torch.float64, device=x.device))
    scale, dims = torch.hypot(*schedule(t)), x[0].numel()
    x_t = end[:size].view_as(x) * scale
    log_p_x_t = standard_log_prob(x_t, t, schedule) if prior is None else prior(x_t, t)
    log_p = log_p_x_t + dims * (scale.log() + math.log(alpha)) + end[size:].view(columns, -1)
    error = log_p.std(0) / columns**0.5 if columns > 1 else torch.zeros_like(log_p[0])
    return LogLikelihood(log_p.mean(0), error, calls)


def _basis(x: Tensor) -> Tensor:
    """The unit vectors ``(D, 1, *S)`` of an example."""
    dims = x[0].numel()
    eye = torch.eye(dims, dtype=x.dtype, device=x.device)
    return eye.view(dims, 1, *x.shape[1:]).expand(dims, *x.shape)


# --- The variational bound -----------------------------------------------------------------------


class Bound(NamedTuple):
    """An upper bound of ``-log p(x)`` in three parts, nats ``(B,)``, over all dimensions.

    Attributes:
        prior: ``KL(q(x_1 | x) || N(0, (alpha^2 + sigma^2) I))``: what is left of x at t = 1.
        diffusion: What the reverse steps add.
        reconstruction: ``-log p(x | x_0)``, of the data given their least noisy version.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        return self.prior + self.diffusion + self.reconstruction


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x: Tensor,
    noise: Noise,
    *,
    steps: int | None = None,
    calls: int = 64,
    levels: Tensor | None = None,
    within: Range = Range(),
    **cond: Tensor,
) -> Bound:
    """An upper bound of ``-log p(x)``, estimated without bias at `calls` stratified times.

    With T steps, and the learned reverse variance if there is one, the diffusion part is

        sum over i of KL(q(x_s | x_t, x) || p(x_s | x_t)),  t = i / T,  s = (i - 1) / T,

    which decreases as 1 / T to that in continuous time,

        1/2 integral from lambda_1 to lambda_0 of E |eps - eps_hat|^2 dlambda.

    That last bound is tight: with the exact denoiser it equals ``-log p(x)`` at every x, and is
    the I-MMSE identity.

    Args:
        denoiser: The model.
        x: Data ``(B, *S)``, as the denoiser knows them. Discrete data as they are.
        noise: Standard Gaussian noise, of which all that is random here is made.
        steps: T; by default, continuous time.
        calls: Denoiser calls. With ``calls = steps``, each step is visited once.
        levels: The values that discrete data take, ``(L,)`` or ``(..., L)`` to broadcast against
            ``x[..., None]``: the reconstruction is then the probability of the level, and the
            bound is on the probability of x. By default x is continuous, the reconstruction
            ``N(x; x_0 / alpha_0, (sigma_0 / alpha_0)^2)``, and the bound is on the density.
        within: The log-SNRs to integrate over.
        **cond: Conditions, for log p(x | cond).

    Raises:
        ValueError: If `steps` or `calls` is not positive.

    Source: Kingma et al. (2021), https://arxiv.org/abs/2107.00630, sections 4 and 5; Kong et al.
    (2023), https://arxiv.org/abs/2302.03792 (I-MMSE).
    """
    if calls < 1 or (steps is not None and steps < 1):
        raise ValueError(f"steps and calls must be at least 1, got {steps} and {calls}")
    x, schedule = x.double(), denoiser.schedule
    low, high = within(schedule)
    offset = torch.special.ndtr(noise(x.flatten(1)[:, :1])[:, 0])  # uniform, one per example
    diffusion = torch.zeros_like(offset)
    for j in range(calls):
        u = (offset + j) / calls
        if steps is None:
            t = schedule.time(high + (low - high) * u)
            term = (high - low) / 2 * noise_error(denoiser, x, t, noise(x), **cond)
        else:
            i = (u * steps).floor().clamp(max=steps - 1)
            ends = schedule.log_snr(torch.stack([i + 1, i]) / steps).clamp(low, high)
            t, s = schedule.time(ends)
            term = steps * _step_divergence(denoiser, x, t, s, noise(x), cond)
        diffusion = diffusion + term / calls
    return Bound(_prior_divergence(x, low), diffusion, reconstruction(x, noise(x), high, levels))


@torch.no_grad()
def noise_error(denoiser: Denoiser, x: Tensor, t: Tensor, eps: Tensor, **cond: Tensor) -> Tensor:
    """``|eps - eps_hat|^2 = SNR |x - x_hat|^2`` ``(B,)``: twice what a nat of log-SNR costs.

    Of no use is a denoiser that is wrong by more than ``|eps|^2``, D in the mean: ``x_t / alpha``
    would have done as well.
    """
    alpha, sigma = (align(c, x) for c in denoiser.schedule(t))
    x_hat = denoiser(alpha * x + sigma * eps, t, **cond)
    return (alpha / sigma * (x - x_hat)).square().flatten(1).sum(1)


def _step_divergence(
    denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, eps: Tensor, cond: dict[str, Tensor]
) -> Tensor:
    """``KL(q(x_s | x_t, x) || p(x_s | x_t))`` ``(B,)``."""
    x_hat, v = denoiser.moments(noisy(denoiser.schedule, x, t, eps), t, **cond)
    small, large, of_x = (align(c, x) for c in reverse_variances(denoiser.schedule, t, s))
    gap = (of_x * (x - x_hat)).square() / small  # in units of the variance of q
    if v is None:
        kl = gap / 2
    else:
        excess = v * (large / small).log()  # log of p's variance over q's
        kl = (excess + torch.expm1(-excess) + gap * torch.exp(-excess)) / 2
    return torch.where(small > 0, kl, 0.0).flatten(1).sum(1)  # nothing happens in an empty step


def _prior_divergence(x: Tensor, log_snr: float) -> Tensor:
    """``KL(N(alpha x, sigma^2 I) || N(0, I))`` ``(B,)``, in the ``vp`` scaling."""
    lam = torch.tensor(log_snr, dtype=x.dtype, device=x.device)
    kept, lost = torch.sigmoid(lam), torch.sigmoid(-lam)  # alpha^2, sigma^2
    return 0.5 * (kept * (x**2 - 1) - lost.log()).flatten(1).sum(1)


def reconstruction(x: Tensor, eps: Tensor, log_snr: float, levels: Tensor | None) -> Tensor:
    """``E[-log p(x | x_0)]`` ``(B,)``: exact for a density, one draw for a probability.

    The last part of `variational_bound`, ``x_0 = alpha x + sigma eps`` being at `log_snr`.
    """
    if levels is None:
        return torch.full_like(x.flatten(1)[:, 0], x[0].numel() / 2 * (LOG_2PI + 1 - log_snr))
    levels, ratio = levels.to(x), math.exp(log_snr / 2)
    gap = (x[..., None] - levels) * ratio + eps[..., None]  # (x_0 / alpha - level) alpha / sigma
    return (torch.logsumexp(-(gap**2) / 2, -1) + eps**2 / 2).flatten(1).sum(1)


@torch.no_grad()
def flow_bound(
    denoiser: Denoiser,
    x: Tensor,
    noise: Noise,
    *,
    probes: Tensor | None = None,
    levels: Tensor | None = None,
    within: Range = Range(),
    **cond: Tensor,
) -> Tensor:
    """``-log p(x)`` ``(B,)`` of a model that draws y by the probability flow, and x around y.

    y stops where the noise is still ``s = sigma / alpha`` at the end of `within`, and x is then
    drawn as in `variational_bound`: one of the `levels`, or ``N(x; y, s^2)``. So

        -log p(x) <= E[-log p(y) + log q(y | x) - log p(x | y)],  q(y | x) = N(y; x, s^2),

    of which -log p(y) is `log_likelihood`. Data on levels are thus spread by the noise that the
    model was trained on, where even spreading (`dequantise`) asks it about values between levels,
    which it has never seen. The bound is tight if y leaves no doubt of its x.

    Args:
        denoiser: The model.
        x: Data ``(B, *S)``, as the denoiser knows them. Discrete data as they are.
        noise: Standard Gaussian noise.
        probes: As in `log_likelihood`.
        levels: As in `variational_bound`.
        within: As there.
        **cond: Conditions.

    Source: Zheng et al. (2023), https://arxiv.org/abs/2305.03935, section 4.2.
    """
    x, (_, high) = x.double(), within(denoiser.schedule)
    eps = noise(x)
    y = x + math.exp(-high / 2) * eps
    log_y = log_likelihood(denoiser.given(**cond), y, probes=probes, within=within).nats
    if levels is None:  # then p(x | y) = q(y | x)
        return -log_y
    log_q = -0.5 * (eps**2 + LOG_2PI - high).flatten(1).sum(1)
    return reconstruction(x, eps, high, levels) + log_q - log_y


# --- Units ---------------------------------------------------------------------------------------


def dequantise(x: Tensor, unit: Tensor, u: Tensor) -> Tensor:
    """Spread discrete data evenly over their levels: ``x + unit (u - 1/2)``.

    The mean of ``log p + D log unit`` over u is then a lower bound of the log-probability of the
    discrete data, which is what `bits_per_dimension` states.

    Args:
        x: Data ``(B, *S)``.
        unit: The distance of two neighbouring levels in the units of `x`; broadcasts.
        u: Uniform in [0, 1), like `x`.

    Source: Theis et al. (2016), https://arxiv.org/abs/1511.01844, section 3.1.
    """
    return x + unit * (u - 0.5)


def bits_per_dimension(nats: Tensor, shape: torch.Size, unit: Tensor) -> Tensor:
    """Bits for each dimension ``(B,)``, of data measured in a declared unit.

        -(nats / D + mean of log unit) / log 2

    Args:
        nats: Log-density ``(B,)`` of the data as the denoiser knows them.
        shape: Of one example, ``(*S)``, with D elements.
        unit: How many of the denoiser's units make one of the data's; broadcasts to `shape`.
            For discrete data, the distance of two levels, as in `dequantise`; for continuous
            data, what one volt, pixel or kelvin became; for log-probabilities, 1.
    """
    log_unit = unit.double().log().expand(shape).mean()
    return -(nats / math.prod(shape) + log_unit.to(nats)) / math.log(2)
