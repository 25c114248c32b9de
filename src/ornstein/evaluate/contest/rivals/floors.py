"""The floors: models of no network. What does not beat them has learned nothing worth a network."""

import math
from typing import ClassVar

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ....core.likelihood import dequantise
from ....data.dataset import Dataset
from ....rng import generator, normal
from .rival import Budget, Likelihood, Rival, measured, seeded, unit

CENTRES = 10_000  # of a kernel density, at most
JUDGED = 1000  # examples by which its bandwidth is chosen
LOG_2PI = math.log(2 * math.pi)


def _spread(data: Dataset, seed: int) -> Tensor:
    """x ``(N, D)``, float64, integers spread evenly over their levels."""
    x = data.codec.pack(data.stored).cpu()
    with seeded(seed, torch.device("cpu")):
        x = dequantise(x, unit(data.codec), torch.rand_like(x))
    return x.flatten(1).double()


class GaussianModel(Rival):
    """One Gaussian, its covariance shrunk towards a multiple of the identity.

    Source: Ledoit & Wolf (2004), https://doi.org/10.1016/S0047-259X(03)00096-4.
    """

    title: ClassVar[str] = "Gaussian"

    def fit(self, data: Dataset, budget: Budget, seed: int, device: torch.device) -> None:
        from sklearn.covariance import ledoit_wolf

        self._codec, x = data.codec, _spread(data, seed)
        self._mean, self.seen = x.mean(0), len(x)
        covariance = torch.from_numpy(np.asarray(ledoit_wolf(x.numpy())[0]))
        least = 1e-9 * covariance.trace() / len(covariance)  # a constant channel has no variance
        self._root = torch.linalg.cholesky(covariance + least * torch.eye(len(covariance)))

    def log_prob(self, x: Tensor) -> Tensor:
        """``log N(x; mean, R R^T)`` ``(B,)``."""
        gap = x.flatten(1).double() - self._mean
        z = torch.linalg.solve_triangular(self._root, gap.T, upper=False)
        return -0.5 * (z**2 + LOG_2PI).sum(0) - self._root.diagonal().log().sum()

    def sample(self, count: int, seed: int) -> Tensor:
        z = normal((count, len(self._mean)), "gaussian", seed).double()
        return (self._mean + z @ self._root.T).float().view(-1, *self._codec.shape)

    @property
    def parameters(self) -> tuple[int, int]:
        d = len(self._mean)
        return d + d * (d + 1) // 2, d + d * (d + 1) // 2

    def likelihood(self, train: Dataset, held_out: Dataset) -> Likelihood | None:
        return measured(self.log_prob, self._codec, held_out, how="exact")


class KernelDensity(Rival):
    """The training data with Gaussian noise, whose width makes each example likely by the others.

    The bandwidth h maximises the mean over i of ``log mean_{j != i} N(x_i; x_j, h^2 I)``. It draws
    copies of the training data with noise: what any model must beat that claims to make new ones.
    """

    title: ClassVar[str] = "Kernel density"

    def fit(self, data: Dataset, budget: Budget, seed: int, device: torch.device) -> None:
        self._codec, x = data.codec, _spread(data, seed)
        order = torch.from_numpy(generator("centres", seed).permutation(len(x)).copy())
        self._centres = x[order[:CENTRES]]
        self.seen = len(self._centres)
        judged = self._centres[:JUDGED]
        squares = torch.cdist(judged, self._centres) ** 2
        squares[torch.arange(len(judged)), torch.arange(len(judged))] = torch.inf

        def cost(log_h: float) -> float:
            return -float(self._log_mean(squares, math.exp(log_h), len(self._centres) - 1).mean())

        nearest = squares.min(1).values.clamp(min=1e-12).sqrt().median().item()
        bounds = (math.log(nearest) - 4, math.log(nearest) + 2)
        self.bandwidth = math.exp(float(minimize_scalar(cost, bounds=bounds, method="bounded").x))  # pyright: ignore[reportAttributeAccessIssue]

    def _log_mean(self, squares: Tensor, h: float, count: int) -> Tensor:
        """``log mean_j N(x_i; x_j, h^2 I)`` ``(B,)``, of squared distances ``(B, N)``."""
        d = self._centres.shape[1]
        among = torch.logsumexp(-squares / (2 * h**2), 1)
        return among - math.log(count) - d * (math.log(h) + LOG_2PI / 2)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density ``(B,)``."""
        squares = torch.cdist(x.flatten(1).double(), self._centres) ** 2
        return self._log_mean(squares, self.bandwidth, len(self._centres))

    def sample(self, count: int, seed: int) -> Tensor:
        draw = generator("kernel-density", seed)
        rows = torch.from_numpy(draw.integers(len(self._centres), size=count))
        noise = normal((count, self._centres.shape[1]), "kernel-density", seed)
        x = self._centres[rows] + self.bandwidth * noise
        return x.float().view(-1, *self._codec.shape)

    @property
    def parameters(self) -> tuple[int, int]:
        return self._centres.numel() + 1, self._centres.numel() + 1

    def likelihood(self, train: Dataset, held_out: Dataset) -> Likelihood | None:
        return measured(self.log_prob, self._codec, held_out, how="exact")
