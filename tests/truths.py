"""Distributions whose diffusion is known in closed form, and the probability flow solved to 1e-12.

Float64 throughout. The solver is scipy's and knows nothing of the package's samplers.
"""

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ornstein.core.denoise import Denoiser
from ornstein.core.exact import GaussianDenoiser, MixtureDenoiser
from ornstein.core.noise import GeometricSchedule, Schedule

F64 = torch.float64
VE = GeometricSchedule(log_snr_min=-9.0, log_snr_max=9.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard Gaussian noise, float64, of its own generator."""
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def covariances(count: int, dims: int, seed: int = 1) -> Tensor:
    """Regular covariance matrices ``(count, dims, dims)``."""
    root = normal(count, dims, dims, seed=seed)
    return 0.15 * root @ root.mT + 0.05 * torch.eye(dims, dtype=F64)


def mixture(schedule: Schedule = VE, dims: int = 2) -> MixtureDenoiser:
    """Three Gaussians with full covariances."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    return MixtureDenoiser(weights, normal(3, dims, seed=2), covariances(3, dims), schedule)


def gaussian(schedule: Schedule = VE, dims: int = 3) -> GaussianDenoiser:
    return GaussianDenoiser(normal(dims, seed=3), covariances(1, dims)[0], schedule)


def noised(denoiser: MixtureDenoiser, t: Tensor, count: int = 6) -> Tensor:
    """Draws of x_t ``(count, D)`` at one time."""
    alpha, sigma = denoiser.schedule(t)
    x = denoiser.draw(count, torch.Generator().manual_seed(4))
    return alpha * x + sigma * normal(*x.shape, seed=5)


def flow(denoiser: Denoiser, x_t: Tensor, t: float, s: float) -> Tensor:
    """Where the probability flow takes `x_t` ``(B, D)`` from `t` to `s`, of any denoiser.

    On the clock of the log-SNR, ``d(x / alpha) / d lambda = (x_hat - x / alpha) / 2``.
    """
    schedule = denoiser.schedule
    start, stop = schedule.log_snr(torch.tensor([t, s], dtype=F64)).tolist()

    def slope(log_snr: float, y: np.ndarray) -> np.ndarray:
        at = schedule.time(torch.tensor(log_snr, dtype=F64))
        y = torch.from_numpy(y).view_as(x_t)
        return ((denoiser(schedule(at)[0] * y, at) - y) / 2).numpy().ravel()

    alpha_t, alpha_s = schedule(torch.tensor([t, s], dtype=F64))[0]
    y = (x_t / alpha_t).numpy().ravel()
    solution = solve_ivp(slope, (start, stop), y, method="DOP853", rtol=1e-12, atol=1e-12)
    return alpha_s * torch.from_numpy(solution.y[:, -1]).view_as(x_t)


MEAN, STD = 0.7, 0.4


def exact_map(y, tau, rho):
    """The flow map of ``N(MEAN, STD^2)`` in flow coordinates, as the x_hat that leads to rho."""

    def spread(c):
        return ((1 - c) ** 2 * STD**2 + c**2).sqrt()

    tau, rho = tau.view(-1, 1), rho.view(-1, 1)
    end = (1 - rho) * MEAN + spread(rho) / spread(tau) * (y - (1 - tau) * MEAN)
    near = tau - rho < 1e-9
    mean = (1 - tau) * STD**2 / spread(tau) ** 2 * (y - (1 - tau) * MEAN) + MEAN
    far = (end - rho / tau * y) / (1 - rho / tau).masked_fill(near, 1)
    return torch.where(near, mean, far)
