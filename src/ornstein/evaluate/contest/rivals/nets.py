"""Networks from pictures or points to a few numbers, and back: what GAN and VAE are made of.

Residual blocks without normalisation whose last layer starts at zero: as stable as with it, and
gradients of gradients are cheap. Source: Zhang et al. (2019), https://arxiv.org/abs/1901.09321;
Huang et al. (2025), https://arxiv.org/abs/2501.05441, section 3 (for GANs).
"""

from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....nets.blocks import zero

SLOPE = 0.2  # of the leaky ReLU below 0
COARSEST = 4
DEPTH = 3  # residual blocks of a network for points


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def encoder(shape: tuple[int, ...], width: int, outputs: int) -> nn.Module:
    """From examples ``(B, C, *S)`` to ``(B, outputs)``."""
    if len(shape) == 3:
        return PictureEncoder(shape, width, outputs)
    return nn.Sequential(nn.Flatten(), Dense(prod(shape), width, outputs))


def decoder(shape: tuple[int, ...], width: int, inputs: int) -> nn.Module:
    """From ``(B, inputs)`` to examples ``(B, C, *S)``."""
    if len(shape) == 3:
        return PictureDecoder(shape, width, inputs)
    return nn.Sequential(Dense(inputs, width, prod(shape)), nn.Unflatten(1, shape))


class Dense(nn.Module):
    """Residual layers ``h + W2 leaky(W1 leaky(h))`` between two affine maps."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.inner = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(DEPTH))
        self.outer = nn.ModuleList(zero(nn.Linear(2 * width, width)) for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            h = h + outer(leaky(inner(leaky(h))))
        return self.last(leaky(h))


class Block(nn.Module):
    """``h + conv(leaky(conv(leaky(h))))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.outer(leaky(self.inner(leaky(h))))


class PictureEncoder(nn.Module):
    """Two blocks at each level, the next level half as large, and all of the last one read."""

    def __init__(self, shape: tuple[int, ...], width: int, outputs: int) -> None:
        super().__init__()
        self.sizes = levels(shape[1:])
        widths = [width * m for m in multipliers(len(self.sizes))]
        self.first = nn.Conv2d(shape[0], width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(Block(w), Block(w)) for w in widths)
        self.widen = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.last = nn.Linear(widths[-1] * prod(self.sizes[-1]), outputs)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        for i, blocks in enumerate(self.blocks):
            if i:
                h = resized(self.widen[i - 1](h), self.sizes[i])
            h = blocks(h)
        return self.last(leaky(h).flatten(1))


class PictureDecoder(nn.Module):
    """The same from the last level to the first."""

    def __init__(self, shape: tuple[int, ...], width: int, inputs: int) -> None:
        super().__init__()
        self.sizes = levels(shape[1:])[::-1]
        widths = [width * m for m in multipliers(len(self.sizes))][::-1]
        self.start = (widths[0], *self.sizes[0])
        self.first = nn.Linear(inputs, prod(self.start))
        self.blocks = nn.ModuleList(nn.Sequential(Block(w), Block(w)) for w in widths)
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], shape[0], 3, padding=1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(z).view(-1, *self.start)
        h = h.contiguous(memory_format=torch.channels_last)
        for i, blocks in enumerate(self.blocks):
            if i:
                h = resized(self.narrow[i - 1](h), self.sizes[i])
            h = blocks(h)
        return self.last(leaky(h))


def levels(space: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The sizes of a picture, halved and rounded up until no side is above `COARSEST`."""
    sizes = [tuple(space)]
    while max(sizes[-1]) > COARSEST:
        sizes.append(tuple(-(-n // 2) if n > COARSEST else n for n in sizes[-1]))
    return sizes


def multipliers(count: int) -> tuple[int, ...]:
    """The width of each level over that of the first: those of `ornstein.nets.unet.UNet`."""
    return ((1, 2, 2) + (4,) * count)[:count]


def resized(h: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(h, size, mode="bilinear", align_corners=False)
