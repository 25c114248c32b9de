"""The probability flow all the way from noise to data, solved to 1e-12 on the straight path.

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
    """The data ``(B, D)`` to which the probability flow takes `x_t` ``(B, D)`` from time `t`.

    With ``y = x_t / (alpha + sigma)`` and ``tau = sigma / (alpha + sigma)``,
    ``dy / dtau = (y - x_hat) / tau``.
    """
    schedule = denoiser.schedule

    def x_hat(y: Tensor, tau: float) -> Tensor:
        odds = torch.tensor((1 - tau) / tau, dtype=torch.float64)
        at = schedule.time(2 * odds.log())
        return denoiser(sum(schedule(at)) * y, at)

    def slope(tau: float, y: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(y).view_as(x_t)
        return ((y - x_hat(y, tau)) / tau).numpy().ravel()

    alpha, sigma = schedule(t)
    y, tau = x_t / (alpha + sigma), (sigma / (alpha + sigma)).item()
    solution = solve_ivp(
        slope, (tau, TAU_MIN), y.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12
    )
    return x_hat(torch.from_numpy(solution.y[:, -1]).view_as(x_t), TAU_MIN)
