"""What an autoencoder is trained by: how far what comes back is from what went in."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import Autoencoder
from .blocks import MEMORY_FORMATS, convolution, normalise


class Reconstruction(nn.Module):
    """An autoencoder with its loss.

        |x - x_hat|^2 / D + kl KL(q(z | x) || N(0, I)) / d
            + features |h(x_hat) - h(x)|^2 - critic log(1 + exp(c(x_hat)))

    with D and d the numbers in x and z, h the encoder's own maps, normalised at each point, and c
    a critic of patches, which learns to tell x_hat from x in the same update: the gradient of its
    own loss is turned round where it enters x_hat.

    Args:
        autoencoder: To train.
        kl: Weight, of Gaussian latents.
        features: Weight.
        critic: Weight; without it there is no critic.

    Source: Larsen et al. (2015), https://arxiv.org/abs/1512.09300, for features and critic; the
    turned gradient: Ganin & Lempitsky (2014), https://arxiv.org/abs/1409.7495; patches: Isola et
    al. (2016), https://arxiv.org/abs/1611.07004.
    """

    def __init__(
        self, autoencoder: Autoencoder, channels: int, *, kl: float, features: float, critic: float
    ) -> None:
        super().__init__()
        self.autoencoder, self.kl, self.features = autoencoder, kl, features
        self.critic = Critic(channels, autoencoder.ndim) if critic else None
        self.weight = critic

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, **cond: Any) -> Tensor:
        """The loss of each example ``(B,)``.

        Args:
            x: ``(B, C, *S)``.
            t: Of no meaning: nothing is noisy but the latents.
            eps: The noise of the latents, unit normal ``(B, c, *s)``.
            **cond: Likewise.
        """
        net = self.autoencoder
        x = net.padded(x)
        mean, log_var = net.latents(x)
        z = mean if log_var is None else torch.addcmul(mean, torch.exp(log_var / 2), eps)
        x_hat = net.decode(z)
        total = (x - x_hat).square().flatten(1).mean(1)
        if log_var is not None:
            nats = (mean.square() + log_var.exp() - 1 - log_var) / 2
            total = total + self.kl * nats.flatten(1).mean(1)
        if self.features:
            gaps = zip(_maps(net, x), _maps(net, x_hat), strict=True)
            total = total + self.features * sum(
                (h - h_hat).square().flatten(1).mean(1) for h, h_hat in gaps
            )
        if self.critic is not None:
            real, made = self.critic(x), self.critic(_turned(x_hat, self.weight))
            told = F.softplus(-real).flatten(1).mean(1) + F.softplus(made).flatten(1).mean(1)
            total = total + told
        return total


class Critic(nn.Module):
    """Logits ``(B, 1, *s)``: how real each patch of ``(B, C, *S)`` looks."""

    def __init__(self, channels: int, ndim: int, width: int = 32) -> None:
        super().__init__()
        kernel, halves = ((1, 3), (1, 2)) if ndim == 1 else ((3,) * ndim, (2,) * ndim)
        self.lifted = ndim == 1
        self.first = convolution(channels, width, kernel, halves)
        self.second = convolution(width, 2 * width, kernel, halves)
        self.last = convolution(2 * width, 1, kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(2) if self.lifted else x
        h = F.silu(self.first(x.contiguous(memory_format=MEMORY_FORMATS[x.ndim - 2])))
        return self.last(F.silu(_normalised(self.second(h))))


def _maps(net: Autoencoder, x: Tensor) -> Sequence[Tensor]:
    """What the encoder makes of x at each level; its weights are no part of the slope."""
    h = x.unsqueeze(2) if net.ndim == 1 else x
    maps = list[Tensor]()
    for layer in list(net.encoder.children())[:-1]:
        frozen = {name: p.detach() for name, p in layer.named_parameters()}
        h = torch.func.functional_call(layer, frozen, (h,))
        maps.append(_normalised(h))
    return maps


def _normalised(h: Tensor) -> Tensor:
    return normalise(h.movedim(1, -1)).movedim(-1, 1)


def _turned(x: Tensor, weight: float) -> Tensor:
    """x, whose gradient is turned round and weighted."""
    return (1 + weight) * x.detach() - weight * x
