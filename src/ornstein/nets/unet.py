"""A U-Net, for signals, images and volumes."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import (
    MEMORY_FORMATS,
    AdaptiveBranch,
    Attention,
    Reading,
    ResidualBlock,
    Told,
    convolution,
    normalise,
    run,
    zero,
)
from .conditions import UNCONDITIONAL, Conditions, Inputs, check_range, check_shape, check_size

MOST_ATTENDED = 4096  # points; the memory attention takes grows as their square
MOST_READING = 256  # points of a level that attends to a text
LEVELS = ((1, 2), (2, 2), (2, 2), (4, 2))


class UNet(nn.Module):
    """Network for signals ``(B, C, L)``, images ``(B, C, H, W)``, volumes ``(B, C, D, H, W)``.

    Residual blocks at each level on the way down and, beside their outputs, again on the way up;
    self-attention between the two, where points are fewest. No axis has to be a multiple of
    anything.

    Args:
        shape: ``(C, *S)``.
        size: Width of the finest level, a multiple of 8.
        levels: Of each level, the finest first, its width over `size` and how many residual blocks
            it has, down as well as up; as the last of them are all that are coarser.
        depth: If given, that many residual blocks at every level instead.
        attended: Levels of at most this many points attend in each of their blocks too. In
            short runs that costs more than it brings.
        conditions: What the network can be told.
        out_channels: Of the output ``(B, out_channels, *S)``; C if not given.
        recompute: Keep only what lies between the stages for the gradient; see `blocks.run`.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Ho et al. (2020), https://arxiv.org/abs/2006.11239; Dhariwal & Nichol (2021),
    https://arxiv.org/abs/2105.05233.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        size: int = 64,
        levels: Sequence[tuple[int, int]] = LEVELS,
        depth: int | None = None,
        attended: int = 0,
        conditions: Conditions = UNCONDITIONAL,
        out_channels: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        shape, size = check_shape(shape, [1, 2, 3]), check_size(size)
        check_range("levels", len(levels), 1, 16)
        check_range("attended", attended, 0, MOST_ATTENDED)
        out_channels = shape[0] if out_channels is None else out_channels
        check_range("out_channels", out_channels, 1, 8192)
        spaces = coarsen(shape[1:])
        levels = [*levels, *[levels[-1]] * len(spaces)][: len(spaces)]
        widths = [check_range("size times multiplier", size * m, 8, 2048) for m, _ in levels]
        depths = [blocks if depth is None else depth for _, blocks in levels]
        self.depths = [check_range("depth", blocks, 1, 16) for blocks in depths]

        told = 4 * size
        kernel = tuple(3 if n > 1 else 1 for n in _lift(shape[1:]))
        attends = [prod(s) <= attended for s in spaces]
        self.inputs = Inputs(shape, conditions, told)
        heard = self.inputs.heard if conditions.length else 0
        reads = [heard * (prod(s) <= MOST_READING) for s in spaces]
        self.steps, self.down, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels, skips = self.inputs.channels + 1, list[int]()
        for i, (width, depth) in enumerate(zip(widths, self.depths, strict=True)):
            stride = _stride(spaces[max(i - 1, 0)], spaces[i])
            reach = tuple(5 if s == 4 else k for k, s in zip(kernel, stride, strict=True))
            self.steps.append(convolution(channels, width, reach, stride))
            for _ in range(depth):
                self.down.append(Stage(width, width, told, kernel, attends[i], reads[i]))
            channels = width
            skips += [width] * depth
        few = prod(spaces[-1]) <= MOST_ATTENDED
        self.middle = Stage(channels, channels, told, kernel, few, heard)
        for i, width in reversed(list(enumerate(widths))):
            for _ in range(self.depths[i]):
                before = channels + skips.pop()
                self.up.append(Stage(before, width, told, kernel, attends[i], reads[i]))
                channels = width
        self.last = zero(convolution(channels, out_channels, kernel))

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
        space, skips = x.shape[2:], self.encode(x, told)
        if added:
            skips = [skip + more for skip, more in zip(skips, added, strict=True)]
        h = skips.pop()
        for stage in self.up:
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:
                h = F.interpolate(h, skip.shape[2:])
            h = run(stage, torch.cat([h, skip], 1), told, self.recompute)
        h = self.last(F.silu(normalise(h.movedim(1, -1))).movedim(-1, 1))
        return h.view(h.shape[0], -1, *space) if h.ndim == len(space) + 3 else h

    def encode(self, x: Tensor, told: Told) -> list[Tensor]:
        """The output of each stage on the way down, and of the middle, from what `inputs` gives."""
        # ones, which the zeros beyond the border are not; and two channels have a memory format
        h = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        h = h.unsqueeze(2) if h.ndim == 3 else h
        h = h.contiguous(memory_format=MEMORY_FORMATS[h.ndim - 2])
        skips: list[Tensor] = []  # `list[Tensor]()` would break the graph of `torch.compile`
        stages = iter(self.down)
        for step, depth in zip(self.steps, self.depths, strict=True):
            h = step(h)
            for _ in range(depth):
                h = run(next(stages), h, told, self.recompute)
                skips.append(h)
        skips.append(run(self.middle, h, told, self.recompute))
        return skips


class Stage(nn.Module):
    """A residual block and, where the level does so, attention of all its points.

    Args:
        channels: Of the input.
        width: Of the output.
        told: Width of the embedding.
        kernel: Of the block.
        attends: To each other.
        reads: Width of the pieces of a text that they attend to; 0 for none.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        told: int,
        kernel: tuple[int, ...],
        attends: bool,
        reads: int,
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(channels, width, told, kernel)
        self.attention = AdaptiveBranch(Attention(width), told, width, 1) if attends else None
        self.reading = Reading(width, reads) if reads else None

    def forward(self, x: Tensor, told: Told) -> Tensor:
        x = self.block(x, told)
        for branch in (self.attention, self.reading):
            if branch is not None:
                points = branch(x.flatten(2).transpose(1, 2), told)
                x = points.transpose(1, 2).unflatten(2, x.shape[2:])
        return x


def coarsen(space: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The sizes of the levels of a U-Net, the finest first.

    A step halves, rounding up, the axes longer than half the longest; it quarters the axis of a
    signal longer than 16, whose points would else stay many for long. Levels end when no axis is
    longer than 8, yet not before the third if one has 7.

    >>> coarsen((28, 28)), coarsen((12, 40))
    ([(28, 28), (14, 14), (7, 7)], [(12, 40), (12, 20), (6, 10), (3, 5)])
    >>> coarsen((1000,))
    [(1000,), (250,), (63,), (16,), (8,)]
    """
    spaces = [space]
    while max(space) > 8 or (max(space) >= 7 and len(spaces) < 3):
        longest = max(space)
        factor = 4 if len(space) == 1 and longest > 16 else 2
        space = tuple(-(-n // factor) if 2 * n > longest else n for n in space)
        spaces.append(space)
    return spaces


def _lift(space: tuple[int, ...]) -> tuple[int, ...]:
    """A signal is an image one pixel high: convolutions of images have a fast memory format."""
    return (1, *space) if len(space) == 1 else space


def _stride(fine: tuple[int, ...], coarse: tuple[int, ...]) -> tuple[int, ...]:
    return _lift(tuple(-(-n // m) for n, m in zip(fine, coarse, strict=True)))
