"""The U-Net of DDPM as the library diffusers builds it, for weights that both can open."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import run, zero
from .conditions import UNCONDITIONAL, Conditions, check_range, check_shape, check_size

GROUPS = 8
HEAD = 8  # channels of a head of attention
WIDEST = 10_000.0  # of the periods by which the time is heard


class UNet2D(nn.Module):
    """Network for images ``(B, C, H, W)`` that hears of nothing but the noise.

    What `UNet2DModel` of diffusers computes, from the same weights under the same names: blocks
    with norms over groups of channels at each level, attention where points are fewest. For all
    else `UNet` is the better choice.

    Args:
        shape: ``(C, H, W)``.
        size: Width of the finest level, a multiple of 8; that of the others is 2 and 4 times it.
        depth: Residual blocks at each level on the way down; on the way up there is one more.
        clock: What is heard in place of the log-SNR ``(B,)``: the number of a step.
        conditions: Must be none.
        out_channels: Must be C.
        recompute: Keep only what lies between the blocks for the gradient.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Ho et al. (2020), https://arxiv.org/abs/2006.11239, appendix B.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        size: int = 64,
        depth: int = 2,
        clock: Callable[[Tensor], Tensor],
        conditions: Conditions = UNCONDITIONAL,
        out_channels: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.size = check_shape(shape, [2]), check_size(size)
        self.depth, self.clock = check_range("depth", depth, 1, 16), clock
        if conditions != UNCONDITIONAL or out_channels not in (None, shape[0]):
            raise ValueError(
                "a UNet2D hears of nothing but the noise: expected no flip, no shift, nothing "
                "given and no learned variance"
            )
        self.widths = [size * m for m in (1, 2, 4, 4)[: _levels(shape[1:])]]
        told, channels, skips = 4 * size, size, [size]
        self.conv_in = nn.Conv2d(shape[0], size, 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(size, told), "linear_2": nn.Linear(told, told)}
        )
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for width, last in zip(self.widths, _is_last(self.widths), strict=True):
            before = [channels] + [width] * (depth - 1)
            self.down_blocks.append(Down(before, width, told, not last, recompute))
            channels = width
            skips += [width] * (depth + (not last))
        self.mid_block = Middle(channels, told, recompute)
        for width, last in zip(self.widths[::-1], _is_last(self.widths), strict=True):
            before = [c + skips.pop() for c in [channels] + [width] * depth]
            self.up_blocks.append(Up(before, width, told, not last, recompute))
            channels = width
        self.conv_norm_out = nn.GroupNorm(GROUPS, size)
        self.conv_out = zero(nn.Conv2d(size, shape[0], 3, padding=1))

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        told, h = self._told(self.clock(log_snr).to(x)), self.conv_in(x)
        skips = [h]
        for level in self.down_blocks:
            skips += level(skips[-1], told)
        h = self.mid_block(skips[-1], told)
        for level in self.up_blocks:
            h = level(h, skips, told)
        return self.conv_out(F.silu(self.conv_norm_out(h)))

    def _told(self, step: Tensor) -> Tensor:
        """The number of the step, embedded ``(B, 4 size)``: first by cosines and sines."""
        half = self.size // 2
        rates = WIDEST ** (-torch.arange(half, device=step.device, dtype=step.dtype) / half)
        angle = step.reshape(-1, 1) * rates
        h = torch.cat([angle.cos(), angle.sin()], 1)
        first, second = self.time_embedding.values()
        return second(F.silu(first(h)))

    @property
    def config(self) -> dict[str, Any]:
        """What diffusers has to know to build it."""
        levels = len(self.widths)
        return {
            "_class_name": "UNet2DModel",
            "sample_size": list(self.shape[1:]),
            "in_channels": self.shape[0],
            "out_channels": self.shape[0],
            "block_out_channels": self.widths,
            "layers_per_block": self.depth,
            "down_block_types": ["DownBlock2D"] * levels,
            "up_block_types": ["UpBlock2D"] * levels,
            "attention_head_dim": HEAD,
            "norm_num_groups": GROUPS,
        }


class Down(nn.Module):
    """A level on the way down: what each block and then the next, coarser level is given."""

    def __init__(
        self, before: Sequence[int], width: int, told: int, halve: bool, recompute: bool
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.resnets = nn.ModuleList(Resnet(channels, width, told) for channels in before)
        self.downsamplers = nn.ModuleList([Sampler(width, 2)] if halve else [])

    def forward(self, x: Tensor, told: Tensor) -> list[Tensor]:
        out = list[Tensor]()
        for block in self.resnets:
            x = run(block, x, told, self.recompute)
            out.append(x)
        return out + [sampler(x) for sampler in self.downsamplers]


class Middle(nn.Module):
    """Two blocks, and attention in between."""

    def __init__(self, width: int, told: int, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.resnets = nn.ModuleList(Resnet(width, width, told) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(width)])

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        first, last = self.resnets
        [attention] = self.attentions
        return run(last, attention(run(first, x, told, self.recompute)), told, self.recompute)


class Up(nn.Module):
    """A level on the way up, whose blocks see what those on the way down have found."""

    def __init__(
        self, before: Sequence[int], width: int, told: int, double: bool, recompute: bool
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.resnets = nn.ModuleList(Resnet(channels, width, told) for channels in before)
        self.upsamplers = nn.ModuleList([Sampler(width, 1)] if double else [])

    def forward(self, x: Tensor, skips: list[Tensor], told: Tensor) -> Tensor:
        for block in self.resnets:
            x = run(block, torch.cat([x, skips.pop()], 1), told, self.recompute)
        for sampler in self.upsamplers:
            x = sampler(F.interpolate(x, scale_factor=2.0))
        return x


class Sampler(nn.Module):
    """A convolution between two levels."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Resnet(nn.Module):
    """``shortcut(x) + conv(silu(norm(conv(silu(norm(x))) + told)))``."""

    def __init__(self, channels: int, width: int, told: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(told, width)
        self.norm2 = nn.GroupNorm(GROUPS, width)
        self.conv2 = zero(nn.Conv2d(width, width, 3, padding=1))
        self.conv_shortcut = nn.Conv2d(channels, width, 1) if channels != width else None

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(told))[..., None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class Attention(nn.Module):
    """``x + attention(norm(x))`` over all points."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.group_norm = nn.GroupNorm(GROUPS, width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([zero(nn.Linear(width, width))])

    def forward(self, x: Tensor) -> Tensor:
        points = self.group_norm(x).flatten(2).mT
        parts = (to(points) for to in (self.to_q, self.to_k, self.to_v))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.to_out[0](h).mT.reshape(x.shape)


def _is_last(of: Sequence[int]) -> list[bool]:
    return [i == len(of) - 1 for i in range(len(of))]


def _levels(space: Sequence[int]) -> int:
    """How many there are: each halves both sides, down to 4 points, where they can be halved."""
    levels = 1
    while levels < 4 and all(n % 2**levels == 0 and n >> levels >= 4 for n in space):
        levels += 1
    return levels
