"""What a network hears of the noise, what it predicts, and how much its errors count."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .noise import Schedule
from .times import TimeDistribution, UniformTimes

LOG_SNR_LIMIT = 30.0  # nats; no network is told more, so that no end is infinite

# --- The noise level -----------------------------------------------------------------------------


def flow_time(log_snr: Tensor) -> Tensor:
    """``tau = sigma / (alpha + sigma)``: the time of rectified flow, of the noise level alone."""
    return torch.sigmoid(-log_snr / 2)


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """What a network hears of a log-SNR: itself, but never one that it was not trained on.

    At t = 1 it would else be asked about noise that it never saw.

    Args:
        low: Heard in place of what is below it.
        high: Heard in place of what is above it.
        bend: Below this log-SNR it hears the tangent in flow time there; None for nowhere. A
            network that learns from how its answers change in flow time has to hear time pass at
            tau = 1, too. There the log-SNR has no slope, but goes to infinity; a tangent has one.
    """

    low: float = -LOG_SNR_LIMIT
    high: float = LOG_SNR_LIMIT
    bend: float | None = None

    def __call__(self, log_snr: Tensor) -> Tensor:
        """Of a log-SNR of any shape, what is heard of it."""
        log_snr = log_snr.clamp(self.low, self.high)
        if self.bend is None:
            return log_snr
        begin = torch.tensor(self.bend, dtype=log_snr.dtype, device=log_snr.device)
        tau = flow_time(begin)
        tangent = begin - 2 / (tau * (1 - tau)) * (flow_time(log_snr) - tau)
        return torch.where(log_snr > begin, log_snr, tangent)


EVERY_LOG_SNR = Hearing()


# --- Predictions ---------------------------------------------------------------------------------


class Coefficients(NamedTuple):
    """Turns a raw network F into a denoiser: ``x_hat = skip x_t + out F(inp x_t, lambda_t)``."""

    inp: Tensor
    skip: Tensor
    out: Tensor


Prediction = Callable[[Tensor, Tensor], Coefficients]
"""The coefficients as a function of (alpha, sigma), float64, of any shape."""


def predict_noise(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F predicts eps. Blind at alpha = 0: for schedules with a finite ``log_snr(1)``.

    Source: Ho et al. (2020), https://arxiv.org/abs/2006.11239.
    """
    return Coefficients((alpha**2 + sigma**2).rsqrt(), 1 / alpha, -sigma / alpha)


def predict_score(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F predicts ``grad log p(x_t) = -eps_hat / sigma``. Blind at alpha = 0, like `predict_noise`.

    Source: Song et al. (2021), https://arxiv.org/abs/2011.13456.
    """
    return Coefficients((alpha**2 + sigma**2).rsqrt(), 1 / alpha, sigma**2 / alpha)


def predict_data(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F predicts x."""
    zero = torch.zeros_like(alpha)
    return Coefficients((alpha**2 + sigma**2).rsqrt(), zero, zero + 1)


def predict_velocity(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F predicts ``v = (alpha eps - sigma x) / sqrt(alpha^2 + sigma^2)``; the root is 1 in ``vp``.

    Source: Salimans & Ho (2022), https://arxiv.org/abs/2202.00512.
    """
    var = alpha**2 + sigma**2
    return Coefficients(var.rsqrt(), alpha / var, -sigma * var.rsqrt())


def predict_flow(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F predicts ``u = eps - x``, the velocity of rectified flow.

    Source: Liu et al. (2022), https://arxiv.org/abs/2209.03003.
    """
    total = alpha + sigma
    return Coefficients((alpha**2 + sigma**2).rsqrt(), 1 / total, -sigma / total)


def predict_balanced(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F has unit-variance input and target at every noise level: EDM's preconditioning.

    The same as `predict_velocity` but for the sign of F.

    Source: Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1.
    """
    var = alpha**2 + sigma**2
    return Coefficients(var.rsqrt(), alpha / var, sigma * var.rsqrt())


@dataclass(frozen=True, kw_only=True)
class PredictMean:
    """F predicts the mean of ``q(x_s | x_t, x)``, one DDPM step ahead: the teaching form.

    ``mu = (alpha_ts sigma_s^2 x_t + alpha_s sigma_ts^2 x) / sigma_t^2``, s = t - 1 / T. At the
    first step the mean is x itself.

    Source: Ho et al. (2020), https://arxiv.org/abs/2006.11239, equation 7.
    """

    schedule: Schedule
    steps: int

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        t = self.schedule.time(2 * (alpha.log() - sigma.log()))
        first = t * self.steps < 1.5
        alpha_s, sigma_s = self.schedule((t - 1 / self.steps).clamp_min(0))
        ratio, kept = alpha / alpha_s, torch.where(first, 0.0, (sigma_s / sigma) ** 2)
        of_x_t = ratio * kept
        of_x = torch.where(first, 1.0, alpha_s * (1 - ratio**2 * kept))
        return Coefficients((alpha**2 + sigma**2).rsqrt(), -of_x_t / of_x, 1 / of_x)


PREDICTIONS: dict[str, Prediction] = {
    "noise": predict_noise,
    "score": predict_score,
    "data": predict_data,
    "velocity": predict_velocity,
    "flow": predict_flow,
    "balanced": predict_balanced,
}


# --- Weightings ----------------------------------------------------------------------------------
#
# A weighting says how much a squared error counts at each noise level, whatever the network
# predicts. It multiplies the squared error of the velocity, the one error of order 1 at both ends:
#     |v - v_hat|^2 = |eps - eps_hat|^2 / sigmoid(lambda) = |x - x_hat|^2 / sigmoid(-lambda).

Weighting = Callable[[Tensor], Tensor]


def weigh_simple(log_snr: Tensor) -> Tensor:
    """The error of eps, unweighted: DDPM's L_simple (Ho et al., 2020)."""
    return torch.sigmoid(log_snr)


def weigh_data(log_snr: Tensor) -> Tensor:
    """The error of x, unweighted."""
    return torch.sigmoid(-log_snr)


def weigh_balanced(log_snr: Tensor) -> Tensor:
    """The error of v, unweighted: EDM's ``lambda(sigma) = 1 / c_out^2`` (Karras et al., 2022)."""
    return torch.ones_like(log_snr)


def weigh_flow(log_snr: Tensor) -> Tensor:
    """The error of ``u = eps - x``, unweighted: flow matching."""
    return 1 + 1 / torch.cosh(log_snr / 2)


@dataclass(frozen=True, kw_only=True)
class MinSNR:
    """The error of x times ``min(SNR, gamma)`` (Hang et al., 2023, arXiv 2303.09556)."""

    gamma: float = 5.0

    def __call__(self, log_snr: Tensor) -> Tensor:
        # sigmoid(-lambda) min(e^lambda, gamma), without the overflow of e^lambda
        return torch.minimum(torch.sigmoid(log_snr), self.gamma * torch.sigmoid(-log_snr))


@dataclass(frozen=True, kw_only=True)
class SigmoidWeighting:
    """The error of eps times ``sigmoid(bias - lambda)`` (Kingma & Gao, 2023, arXiv 2303.00848)."""

    bias: float = 2.0

    def __call__(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr) * torch.sigmoid(self.bias - log_snr)


@dataclass(frozen=True, kw_only=True)
class Variational:
    """The variational bound: ``-1/2 d lambda`` times the error of eps, over the density of lambda.

    The mean of this loss over the times of `times` is the diffusion part of the negative log
    likelihood bound, in nats per dimension.

    Source: Kingma et al. (2021), https://arxiv.org/abs/2107.00630, equation 17.
    """

    schedule: Schedule
    times: TimeDistribution = UniformTimes()  # noqa: RUF009 (frozen)

    def __call__(self, log_snr: Tensor) -> Tensor:
        density = self.times.log_snr_density(log_snr.double(), self.schedule)
        return (torch.sigmoid(log_snr.double()) / (2 * density)).to(log_snr)


WEIGHTINGS: dict[str, Weighting] = {
    "simple": weigh_simple,
    "data": weigh_data,
    "balanced": weigh_balanced,
    "flow": weigh_flow,
    "min-snr": MinSNR(),
    "sigmoid": SigmoidWeighting(),
}
