"""A variational autoencoder whose decoder knows how wrong it is: a variance for each number."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from ....core.likelihood import dequantise
from ....data.dataset import Dataset
from ....rng import normal
from .nets import decoder, encoder
from .rival import (
    Budget,
    Clock,
    Likelihood,
    Rival,
    descend,
    drawn,
    measured,
    seeded,
    size_of,
    unit,
    width_for,
)

LATENT = 16  # numbers in z, or as many as in x
BATCH = {"points": 128, "pictures": 16}  # small: in minutes, more updates bring more
RATE = 2e-3
WARM = 0.1  # share of the budget over which the weight of the divergence rises to 1
SHARP = 0.01
"""The variance is held below it until then. At its optimum from the start, 1 where the decoder
knows nothing yet, the decoder need not listen, and on points it never does."""
MEMORY = 0.95  # of the running variance
LEAST = 1e-8  # of the variance of a number
IMPORTANCE = 64  # draws of z for the likelihood
FITTED = 4096  # training examples that the variance is measured on at the end
LOG_2PI = math.log(2 * math.pi)


class Autoencoder(nn.Module):
    """``q(z | x) = N(mean(x), diag(spread(x)))``, ``p(x | z) = N(decode(z), diag(variance))``.

    Args:
        encode: To the mean and the log-variance of z ``(B, 2 L)``.
        decode: From z ``(B, L)`` to the mean of x ``(B, *S)``.
        variance: ``(*S)``, kept at its optimum, which is the mean squared error.

    Source: Kingma & Welling (2014), https://arxiv.org/abs/1312.6114; Rybkin et al. (2021),
    https://arxiv.org/abs/2006.13202, section 3.2 (the variance; theirs is one for all numbers).
    """

    variance: Tensor

    def __init__(self, encode: nn.Module, decode: nn.Module, variance: Tensor) -> None:
        super().__init__()
        self.encode, self.decode = encode, decode
        self.register_buffer("variance", variance)

    def parts(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors ``(B, *S)`` of the decoder at a z drawn with `eps`, and the divergence.

        ``KL(q(z | x) | N(0, I))`` is in closed form: ``(v + m^2 - 1 - log v) / 2`` for each z.
        """
        mean, log_var = self.encode(x).chunk(2, 1)
        z = mean + (log_var / 2).exp() * eps
        divergence = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(1)
        return (x - self.decode(z)).square(), divergence

    def elbo(self, x: Tensor, eps: Tensor) -> Tensor:
        """``E[log p(x | z)] - KL(q(z | x) | N(0, I))`` ``(B,)``, with z from one `eps`."""
        errors, divergence = self.parts(x, eps)
        return self.log_density(errors) - divergence

    def log_density(self, errors: Tensor) -> Tensor:
        """``log p(x | z)`` ``(B,)`` of squared errors."""
        return -0.5 * (errors / self.variance + self.variance.log() + LOG_2PI).flatten(1).sum(1)

    def importance(self, x: Tensor, eps: Tensor) -> Tensor:
        """``log mean_k p(x, z_k) / q(z_k | x)`` ``(B,)``, with z from `eps` ``(K, B, L)``.

        At least the ELBO and at most ``log p(x)``, in the mean.

        Source: Burda et al. (2016), https://arxiv.org/abs/1509.00519, equation 8.
        """
        mean, log_var = self.encode(x).chunk(2, 1)
        ratios = []
        for e in eps:
            z = mean + (log_var / 2).exp() * e
            log_ratio = 0.5 * (e**2 - z**2 + log_var).sum(1)  # log p(z) - log q(z | x)
            errors = (x - self.decode(z)).square()
            ratios.append(self.log_density(errors) + log_ratio)
        return torch.logsumexp(torch.stack(ratios), 0) - math.log(len(eps))

    @torch.no_grad()
    def settle(self, errors: Tensor, keep: float = 0.0) -> None:
        """Move the variance to its optimum for these errors, but for a share of `keep`."""
        self.variance.lerp_(errors.mean(0), 1 - keep).clamp_(min=LEAST)


class VAE(Rival):
    """It draws x, not the mean of p(x | z), which is less diverse than the data in all figures."""

    title: ClassVar[str] = "VAE"

    def fit(self, data: Dataset, budget: Budget, seed: int, device: torch.device) -> None:
        self._codec, clock = data.codec, Clock(budget, device)
        shape = self._codec.shape
        size = BATCH["pictures" if len(shape) == 3 else "points"]
        self._latent, step = min(LATENT, math.prod(shape)), unit(self._codec).to(device)

        def make(width: int) -> Autoencoder:
            encode = encoder(shape, width, 2 * self._latent)
            return Autoencoder(encode, decoder(shape, width, self._latent), torch.ones(shape))

        with seeded(seed, device):
            net = make(width_for(make, self.weights)).to(device)
            net.variance.fill_(SHARP)

            def loss(x: Tensor) -> Tensor:
                eps = torch.randn(len(x), self._latent, device=device)
                errors, divergence = net.parts(x, eps)
                weight = min(1.0, clock.part / WARM)
                net.settle(errors if weight == 1 else errors.clamp(max=SHARP), MEMORY)
                return (weight * divergence - net.log_density(errors)).mean()

            self._average = descend(self, net, loss, data, clock, size=size, seed=seed, rate=RATE)
            some = data.codec.pack(data.stored[:FITTED]).to(device)
            some = dequantise(some, step, torch.rand_like(some))
            with torch.no_grad():
                eps = torch.randn(len(some), self._latent, device=device)
                self._net.settle(self._net.parts(some, eps)[0])

    @property
    def _net(self) -> Autoencoder:
        net = self._average.net
        assert isinstance(net, Autoencoder)
        return net

    def sample(self, count: int, seed: int) -> Tensor:
        mean = drawn(self._net.decode, count, (self._latent,), seed)
        return mean + self._net.variance.cpu().sqrt() * normal(mean.shape, "decoder", seed)

    @property
    def parameters(self) -> tuple[int, int]:
        return size_of(self._net), size_of(self._net.decode)

    def likelihood(self, train: Dataset, held_out: Dataset) -> Likelihood | None:
        device = self._net.variance.device

        def noise(x: Tensor, count: int) -> Tensor:
            return normal((count, len(x), self._latent), "importance", count).to(device)

        return measured(
            lambda x: self._net.importance(x, noise(x, IMPORTANCE)),
            self._codec,
            held_out,
            how=f"bound, {IMPORTANCE} draws",
            bound=lambda x: self._net.elbo(x, noise(x, 1)[0]),
            device=device,
        )
