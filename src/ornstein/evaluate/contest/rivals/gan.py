"""A GAN by the recipe of R3GAN: relativistic pairs, gradients penalised on both sides."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....data.dataset import Dataset
from .nets import decoder, encoder
from .rival import (
    Average,
    Budget,
    Clock,
    Rival,
    batches,
    drawn,
    finite,
    learning_rate,
    seeded,
    size_of,
    width_for,
)

LATENT = 64
BATCH = {"points": 64, "pictures": 16}  # small: in minutes, more updates bring more
RATE = {"points": 2e-3, "pictures": 1e-3}
GAMMA = {"points": 0.1, "pictures": 1.0}
"""Weight of the penalties at the end of the burn-in, which begins with ten times as much."""

BURN_IN = 0.3
"""Share of the budget over which gamma falls, and Adam's memory of squares rises to 0.99."""


def relativistic(ahead: Tensor, behind: Tensor) -> Tensor:
    """``E[softplus(behind - ahead)]``: small where each score `ahead` exceeds its partner's.

    Of the discriminator, `ahead` are the scores of real examples; of the generator, of drawn ones.

    Source: Jolicoeur-Martineau (2019), https://arxiv.org/abs/1807.00734; Huang et al. (2025),
    https://arxiv.org/abs/2501.05441, equation 2.
    """
    return F.softplus(behind - ahead).mean()


def penalty(scores: Tensor, x: Tensor) -> Tensor:
    """``E |grad_x D(x)|^2``, of which half, times gamma, is R1 on real and R2 on drawn examples.

    Source: Mescheder et al. (2018), https://arxiv.org/abs/1801.04406, equation 9.
    """
    (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()


def discriminator_loss(critic: nn.Module, real: Tensor, fake: Tensor, gamma: float) -> Tensor:
    """The relativistic loss with R1 and R2.

    Source: Huang et al. (2025), equation 6.
    """
    real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
    on_real, on_fake = critic(real), critic(fake)
    slopes = penalty(on_real, real) + penalty(on_fake, fake)
    return relativistic(on_real, on_fake) + gamma / 2 * slopes


class GAN(Rival):
    """Generator and discriminator of one shape, trained in turn; the generator's average draws."""

    title: ClassVar[str] = "GAN"

    def fit(self, data: Dataset, budget: Budget, seed: int, device: torch.device) -> None:
        shape, clock = data.codec.shape, Clock(budget, device)
        kind = "pictures" if len(shape) == 3 else "points"

        def both(width: int) -> nn.ModuleList:
            return nn.ModuleList([decoder(shape, width, LATENT), encoder(shape, width, 1)])

        with seeded(seed, device):
            generator, critic = both(width_for(both, self.weights)).to(device)
            self._trained, self._average = size_of(generator, critic), Average(generator)
            duel = _Duel(generator, critic, RATE[kind], GAMMA[kind])
            for x in batches(data, clock, BATCH[kind], seed):
                duel.update(x, clock.part)
                self._average.update(self.seen, clock.seen)
                self.seen = clock.seen

    def sample(self, count: int, seed: int) -> Tensor:
        return drawn(self._average.net, count, (LATENT,), seed)

    @property
    def parameters(self) -> tuple[int, int]:
        return self._trained, size_of(self._average.net)


class _Duel:
    """The two networks and their optimisers."""

    def __init__(self, generator: nn.Module, critic: nn.Module, rate: float, gamma: float) -> None:
        self.generator, self.critic, self.rate, self.gamma = generator, critic, rate, gamma
        self.steps = [
            torch.optim.Adam(net.parameters(), lr=rate, betas=(0.0, 0.9), eps=1e-8)
            for net in (generator, critic)
        ]

    def update(self, x: Tensor, part: float) -> None:
        """A step of the discriminator, then one of the generator."""
        of_generator, of_critic = self.steps
        burnt = min(part / BURN_IN, 1.0)
        for optimizer in self.steps:
            optimizer.param_groups[0]["lr"] = self.rate * learning_rate(part)
            optimizer.param_groups[0]["betas"] = (0.0, 0.9 + 0.09 * burnt)
        gamma = self.gamma * 10 ** (1 - burnt)

        fake = self.generator(torch.randn(len(x), LATENT, device=x.device))
        loss = discriminator_loss(self.critic, x, fake, gamma)
        of_critic.zero_grad()
        finite(loss, GAN.title).backward()
        of_critic.step()

        with torch.no_grad():
            on_real = self.critic(x)
        self.critic.requires_grad_(False)
        fake = self.generator(torch.randn(len(x), LATENT, device=x.device))
        loss = relativistic(self.critic(fake), on_real)
        of_generator.zero_grad()
        finite(loss, GAN.title).backward()
        of_generator.step()
        self.critic.requires_grad_(True)
