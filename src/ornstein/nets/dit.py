"""A diffusion transformer, for signals, images and volumes."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import (
    AdaptiveBranch,
    Attention,
    Linear,
    Modulation,
    Reading,
    Told,
    feed_forward,
    modulate,
    run,
    zero,
)
from .conditions import UNCONDITIONAL, Conditions, Inputs, check_range, check_shape, check_size

MOST_TOKENS = 2**14


class Beside(nn.Module):
    """Each patch as it hears those next to it: a kernel of 3 each way for each channel.

    It begins as the identity. In the middle of a feed-forward it tells a transformer from the first
    update on what lies beside what, which attention has to find out.

    Args:
        width: Of a token.
        grid: The patches along each axis.

    Source: Xie et al. (2021), https://arxiv.org/abs/2105.15203, section 3.1 (Mix-FFN); in
    diffusion: Xie et al. (2024), https://arxiv.org/abs/2410.10629, section 2.3.
    """

    def __init__(self, width: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.grid = grid
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(grid) - 1]
        self.kernel = zero(kind(width, width, 3, padding=1, groups=width))
        with torch.no_grad():
            self.kernel.weight[(slice(None), 0, *(1 for _ in grid))] = 1

    def forward(self, h: Tensor) -> Tensor:
        """Of tokens ``(B, N, width)``."""
        maps = h.transpose(1, 2).unflatten(2, self.grid)
        return self.kernel(maps).flatten(2).transpose(1, 2)


class DiT(nn.Module):
    """Network that cuts x ``(B, C, *S)`` into patches and lets all of them attend to each other.

    An axis that is not a multiple of the patch is padded with zeros, and the output cropped.

    Args:
        shape: ``(C, *S)``, S of one, two or three axes.
        size: Width of a token, a multiple of 8.
        depth: Number of blocks, each of self-attention and feed-forward, see `Beside`.
        patch: Points along each axis of a patch, at most the axis. If not given, the least power
            of two that leaves at most 256 tokens.
        conditions: What the network can be told.
        out_channels: Of the output ``(B, out_channels, *S)``; C if not given.
        recompute: Keep only what lies between the blocks for the gradient; see `blocks.run`.

    Raises:
        ValueError: If an argument is out of its range, or there would be more than 16,384 tokens.

    Source: Peebles & Xie (2022), https://arxiv.org/abs/2212.09748; large patches, with data as
    the prediction: Li & He (2025), https://arxiv.org/abs/2511.13720.
    """

    position: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        size: int = 256,
        depth: int = 8,
        patch: int | None = None,
        conditions: Conditions = UNCONDITIONAL,
        out_channels: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        shape, size = check_shape(shape, [1, 2, 3]), check_size(size)
        check_range("depth", depth, 1, 64)
        out_channels = shape[0] if out_channels is None else out_channels
        check_range("out_channels", out_channels, 1, 8192)
        self.patch, self.grid = cut(shape[1:], patch)
        points = prod(self.patch)
        check_range("numbers in a patch", points * max(shape[0], out_channels), 1, 2**16)

        self.inputs = Inputs(shape, conditions, size)
        self.first = Linear(self.inputs.channels * points, size)
        self.register_buffer("position", positions(self.grid, size), persistent=False)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            self.blocks.append(AdaptiveBranch(Attention(size), size, size, 1))
            if conditions.length:
                self.blocks.append(Reading(size, self.inputs.heard))
            forward = feed_forward(size, 4, Beside(4 * size, self.grid))
            self.blocks.append(AdaptiveBranch(forward, size, size, 1))
        self.modulation = Modulation(size, size, 2, 1)
        self.last = zero(Linear(size, out_channels * points))

    def forward(
        self, x: Tensor, log_snr: Tensor, *, added: Sequence[Tensor] = (), **cond: Tensor | None
    ) -> Tensor:
        """What is predicted ``(B, out_channels, *S)``; `cond` is what `Inputs` can be told.

        Args:
            x: Noisy examples.
            log_snr: Of each ``(B,)``.
            added: By a control branch, to what `encode` gives.
            **cond: As the arguments of `Inputs.forward`.
        """
        x, told = self.inputs(x, log_snr, **cond)
        h = self.first(self._patches(x)) + self.position
        for i, block in enumerate(self.blocks):
            h = run(block, h, told, self.recompute)
            if i < len(added):  # by a control branch, to what `encode` gives
                h = h + added[i]
        return self._assemble(self.last(modulate(h, *self.modulation(told))), x.shape[2:])

    def encode(self, x: Tensor, told: Told) -> list[Tensor]:
        """The output of each block, from what `inputs` gives."""
        h, outputs = self.first(self._patches(x)) + self.position, []
        for block in self.blocks:
            h = run(block, h, told, self.recompute)
            outputs.append(h)
        return outputs

    def _patches(self, x: Tensor) -> Tensor:
        """Patches ``(B, N, C points)`` of `x` ``(B, C, *S)``."""
        pads: list[int] = []  # written so that a compiler can follow
        for n, p, count in zip(x.shape[2:], self.patch, self.grid, strict=True):
            pads = [0, p * count - n, *pads]  # F.pad counts axes from the last
        x = F.pad(x, pads)
        for axis, p in enumerate(self.patch):  # (B, C, n1, p1, n2, p2, ...)
            x = x.unflatten(2 + 2 * axis, (-1, p))
        grid, points = range(2, x.ndim, 2), range(3, x.ndim, 2)
        return x.permute(0, *grid, 1, *points).flatten(1 + len(grid)).flatten(1, len(grid))

    def _assemble(self, patches: Tensor, space: torch.Size) -> Tensor:
        """Inverse of `_patches`, cropped to `space`."""
        x = patches.unflatten(2, (-1, *self.patch)).unflatten(1, self.grid)
        ndim = len(self.grid)  # (B, n1, n2, ..., C, p1, p2, ...)
        pairs = [axis for i in range(ndim) for axis in (1 + i, 2 + ndim + i)]
        x = x.permute(0, 1 + ndim, *pairs)
        for axis in range(ndim):
            x = x.flatten(2 + axis, 3 + axis)
        return x[(..., *(slice(n) for n in space))]


def cut(space: tuple[int, ...], patch: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The patch, its points along each axis, and the grid, the patches along each axis."""
    if patch is None:
        patch = 1
        while prod(-(-n // patch) for n in space) > 256:
            patch *= 2
    else:
        check_range("patch", patch, 1, max(space))
    sides = tuple(min(patch, n) for n in space)
    grid = tuple(-(-n // p) for n, p in zip(space, sides, strict=True))
    if prod(grid) > MOST_TOKENS:
        raise ValueError(
            f"expected at most {MOST_TOKENS} tokens, got {prod(grid)} of patch {patch}"
        )
    return sides, grid


def positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Sines and cosines of the place on the grid, ``(N, width)``, a share of channels per axis.

    Source: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762, section 3.5.
    """
    count = width // (2 * len(grid))
    rates = 10_000.0 ** -(torch.arange(count) / count)
    places = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    phases = torch.cat([place.reshape(-1, 1) * rates for place in places], 1)
    waves = torch.cat([phases.sin(), phases.cos()], 1)
    return F.pad(waves, [0, width - waves.shape[1]])
