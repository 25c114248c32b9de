"""The probability flow all the way from noise to data, solved to 1e-12 in flow coordinates.

`truths.flow` takes the log-SNR as its clock and so needs finite ends; this one starts where there
is no signal and ends where there is no noise.
"""

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ornstein.core.denoise import Denoiser

TAU_MIN = 1e-5  # below, the flow is x_hat but for tau^2


def sampled(denoiser: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
    """Where the probability flow takes `x_t` ``(B, D)`` from time `t` to 0.

    With ``y = x_t / (alpha + sigma)`` and ``tau = sigma / (alpha + sigma)``,
    ``dy / dtau = (y - x_hat) / tau``.
    """
    schedule = denoiser.schedule
    (alpha, alpha_0), (sigma, sigma_0) = schedule(torch.stack([t, torch.zeros_like(t)]))
    first, last = (sigma / (alpha + sigma)).item(), (sigma_0 / (alpha_0 + sigma_0)).item()

    def x_hat(y: Tensor, tau: float) -> Tensor:
        odds = torch.tensor((1 - tau) / tau, dtype=torch.float64)
        at = schedule.time(2 * odds.log())
        return denoiser(sum(schedule(at)) * y, at)

    def slope(tau: float, flat: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(flat).view_as(x_t)
        return ((y - x_hat(y, tau)) / tau).numpy().ravel()

    solution = solve_ivp(
        slope,
        (first, max(last, TAU_MIN)),
        (x_t / (alpha + sigma)).numpy().ravel(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
    )
    y = torch.from_numpy(solution.y[:, -1]).view_as(x_t)
    return x_hat(y, TAU_MIN) if last < TAU_MIN else (alpha_0 + sigma_0) * y
