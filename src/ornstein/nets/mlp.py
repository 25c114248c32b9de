"""A residual MLP, for points and rows of a table."""

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import AdaptiveBranch, Linear, feed_forward, normalise, zero
from .conditions import UNCONDITIONAL, Conditions, Inputs, check_range, check_shape, check_size


class MLP(nn.Module):
    """Network for points ``(B, D)``: residual blocks under the command of the embedding.

    Args:
        shape: ``(D,)``.
        size: Width of every block, a multiple of 8.
        depth: Number of blocks, each ``h + gate W2 silu(W1 modulate(h))``.
        conditions: What the network can be told.
        out_channels: Of the output ``(B, out_channels)``; D if not given.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        size: int = 128,
        depth: int = 4,
        conditions: Conditions = UNCONDITIONAL,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        shape, size = check_shape(shape, [0]), check_size(size)
        check_range("depth", depth, 1, 64)
        out_channels = shape[0] if out_channels is None else out_channels
        check_range("out_channels", out_channels, 1, 8192)
        self.inputs = Inputs(shape, conditions, size)
        self.first = Linear(self.inputs.channels, size)
        self.blocks = nn.ModuleList(
            AdaptiveBranch(feed_forward(size, 2), size, size, ndim=0) for _ in range(depth)
        )
        self.last = zero(Linear(size, out_channels))

    def forward(self, x: Tensor, log_snr: Tensor, **cond: Tensor | None) -> Tensor:
        """What is predicted ``(B, out_channels)``; `cond` is what `Inputs` can be told."""
        x, told = self.inputs(x, log_snr, **cond)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, told)
        return self.last(F.silu(normalise(h)))
