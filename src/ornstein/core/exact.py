"""Denoisers known in closed form: Gaussian, Gaussian mixture, a finite dataset.

They prove samplers, posteriors and likelihoods right, teach what a trained network approximates,
and give the training doctor its two references.
"""

import math

import torch
from torch import Tensor

from .denoise import Denoiser, align
from .noise import Schedule


class MixtureDenoiser(Denoiser):
    """Exact denoiser of ``sum_k weights_k N(means_k, covs_k)``.

    With ``M_k = alpha^2 S_k + sigma^2 I`` the covariance of x_t in component k and r_k its
    posterior weight, ``E[x | x_t] = sum_k r_k [mu_k + alpha S_k M_k^-1 (x_t - alpha mu_k)]``.

    Args:
        weights: ``(K,)``, positive, summing to 1.
        means: ``(K, D)``.
        covs: ``(K, D, D)``, symmetric, positive semidefinite.
        schedule: The noise schedule.

    The optional condition ``label`` ``(B,)``, an integer, picks a component; -1 means any.
    """

    def __init__(self, weights: Tensor, means: Tensor, covs: Tensor, schedule: Schedule) -> None:
        super().__init__()
        K, D = means.shape
        if weights.shape != (K,) or covs.shape != (K, D, D):
            raise ValueError(
                f"expected weights (K,), means (K, D), covs (K, D, D), got "
                f"{tuple(weights.shape)}, {tuple(means.shape)}, {tuple(covs.shape)}"
            )
        self.schedule = schedule
        var, axes = torch.linalg.eigh(covs)
        self.weights, self.means, self.covs = weights, means, covs
        rounding = D * torch.finfo(var.dtype).eps * var.amax(-1, keepdim=True)
        self.var, self.axes = var.where(var > rounding, 0.0), axes  # covs = axes diag(var) axes^T

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        x, log_joint = self._components(x_t, t)
        return (torch.softmax(self._given(log_joint, cond), 1)[..., None] * x).sum(1)

    def log_prob(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """``log p(x_t)`` ``(B,)``, in nats; at t = 0, that of the data."""
        return torch.logsumexp(self._given(self._components(x_t, t)[1], cond), 1)

    def responsibilities(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``p(k | x_t)`` ``(B, K)``."""
        return torch.softmax(self._components(x_t, t)[1], 1)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent examples ``(count, D)`` of the data distribution."""
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[k] + torch.einsum(
            "bij,bj->bi", self.axes[k] * self.var[k, None].sqrt(), z
        )

    def _components(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean ``(B, K, D)`` and log joint density ``(B, K)`` of each component."""
        alpha, sigma = (align(c.expand(len(x_t)), x_t).to(x_t)[..., None] for c in self.schedule(t))
        means, var, axes = self.means.to(x_t), self.var.to(x_t), self.axes.to(x_t)
        gap = torch.einsum("bki,kij->bkj", x_t[:, None] - alpha * means, axes)
        rounding = torch.finfo(x_t.dtype).eps ** 2  # nothing is narrower than its own rounding
        noisy = (alpha**2 * var + sigma**2).clamp_min(rounding)
        x = means + torch.einsum("bkj,kij->bki", alpha * var / noisy * gap, axes)
        energy = (gap**2 / noisy + torch.log(2 * math.pi * noisy)).sum(-1)
        return x, self.weights.to(x_t).log() - energy / 2

    def _given(self, log_joint: Tensor, cond: dict[str, Tensor]) -> Tensor:
        if (label := cond.get("label")) is None:
            return log_joint
        chosen = torch.arange(log_joint.shape[1], device=label.device) == label[:, None]
        return log_joint.masked_fill(~chosen & (label >= 0)[:, None], -math.inf)


class GaussianDenoiser(MixtureDenoiser):
    """Exact denoiser of ``N(mean, cov)``, of which the probability flow too is known.

    Args:
        mean: ``(D,)``.
        cov: ``(D, D)``, symmetric, positive semidefinite.
        schedule: The noise schedule.
    """

    def __init__(self, mean: Tensor, cov: Tensor, schedule: Schedule) -> None:
        super().__init__(mean.new_ones(1), mean[None], cov[None], schedule)

    def flow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Where the probability flow takes `x_t` ``(B, D)`` from time `t` to `s`: an affine map."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.schedule(t), self.schedule(s)
        mean, var, axes = self.means[0], self.var[0], self.axes[0]
        scale = ((alpha_s**2 * var + sigma_s**2) / (alpha_t**2 * var + sigma_t**2)).sqrt().to(x_t)
        gap = (x_t - alpha_t.to(x_t) * mean) @ axes
        return alpha_s.to(x_t) * mean + (gap * scale) @ axes.T

    def posterior(self, x_t: Tensor, t: Tensor, A: Tensor, y: Tensor, sigma_y: float) -> Tensor:
        """``E[x | x_t, y]``, ``y = A x + sigma_y n``, A ``(M, D)``, y ``(B, M)``; regular cov."""
        alpha, sigma = (c.to(x_t) for c in self.schedule(t))
        prior = torch.linalg.inv(self.covs[0])
        eye = torch.eye(len(prior), dtype=prior.dtype, device=prior.device)
        precision = prior + (alpha / sigma) ** 2 * eye + A.T @ A / sigma_y**2
        pull = prior @ self.means[0] + x_t * alpha / sigma**2 + y @ A / sigma_y**2
        return pull @ torch.linalg.inv(precision)


class EmpiricalDenoiser(Denoiser):
    """Exact denoiser of a finite dataset, each example equally likely: it memorises.

    ``E[x | x_t] = sum_i softmax_i(-|x_t - alpha x_i|^2 / (2 sigma^2)) x_i``. No network that
    generalises reaches its training loss; one that does has learned the dataset by heart.

    Args:
        data: ``(N, *S)``.
        schedule: The noise schedule.
    """

    def __init__(self, data: Tensor, schedule: Schedule) -> None:
        super().__init__()
        self.data, self.schedule = data, schedule

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        alpha, sigma = (align(c.expand(len(x_t)), x_t.flatten(1)).to(x_t) for c in self.schedule(t))
        data, flat = self.data.flatten(1).to(x_t), x_t.flatten(1)
        # |x_t - alpha x|^2 up to its first term, which is common to all examples
        distance = alpha**2 * (data**2).sum(1) - 2 * alpha * flat @ data.T
        excess = distance - distance.amin(1, keepdim=True)
        weight = torch.softmax(-excess / (2 * sigma**2).clamp_min(torch.finfo(x_t.dtype).tiny), 1)
        return (weight @ data).view_as(x_t)
