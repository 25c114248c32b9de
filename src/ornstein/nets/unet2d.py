"""The U-Net of DDPM as the library diffusers builds it, for weights that both can open."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import run, zero
from .conditions import UNCONDITIONAL, Conditions, check_range, check_shape, check_size

WIDEST = 10_000.0  # of the periods by which the time is heard


@dataclass(frozen=True, kw_only=True)
class Layout:
    """In what networks of one size and depth differ; by default, as we train them.

    Args:
        widths: Of each level, the finest first; by default 1, 2, 4 and 4 times the size, as many
            as there is room for.
        attended: The levels with attention behind each block, from 0; in the middle there always
            is.
        head: Channels of a head of attention; 0 for as many as there are.
        groups: Of channels, over which norms are taken.
        epsilon: Added to the variance in norms.
        centred: Whether a level is halved with zeros around it, or only behind it.
        sines_first: Whether the time is heard by its sines and then cosines.
        shift: By which the last of its periods is nearer to `WIDEST`.
    """

    widths: tuple[int, ...] = ()
    attended: tuple[int, ...] = ()
    head: int = 8
    groups: int = 8
    epsilon: float = 1e-5
    centred: bool = True
    sines_first: bool = False
    shift: float = 0.0

    def norm(self, channels: int) -> nn.GroupNorm:
        """A norm of so many channels."""
        return nn.GroupNorm(self.groups, channels, self.epsilon)


OURS = Layout()


class UNet2D(nn.Module):
    """Network for images ``(B, C, H, W)`` that hears of nothing but the noise.

    What `UNet2DModel` of diffusers computes, from the same weights under the same names: blocks
    with norms over groups of channels at each level, attention where points are fewest. For all
    else `UNet` is the better choice.

    Args:
        shape: ``(C, H, W)``.
        size: Width of the finest level, a multiple of 8.
        depth: Residual blocks at each level on the way down; on the way up there is one more.
        clock: What is heard in place of the log-SNR ``(B,)``: the number of a step.
        layout: All else.
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
        layout: Layout = OURS,
        conditions: Conditions = UNCONDITIONAL,
        out_channels: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.size = check_shape(shape, [2]), check_size(size)
        self.depth, self.clock = check_range("depth", depth, 1, 16), clock
        self.layout = layout
        if conditions != UNCONDITIONAL or out_channels not in (None, shape[0]):
            raise ValueError(
                "a UNet2D hears of nothing but the noise: expected no flip, no shift, nothing "
                "given and no learned variance"
            )
        room = [size * m for m in (1, 2, 4, 4)[: _levels(shape[1:])]]
        self.widths = list(layout.widths) or room
        _check_layout(layout, self.widths, self.shape, size)
        told, channels, skips = 4 * size, size, [size]
        self.conv_in = nn.Conv2d(shape[0], size, 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(size, told), "linear_2": nn.Linear(told, told)}
        )
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        levels, deepest = list(enumerate(self.widths)), len(self.widths) - 1
        for i, width in levels:
            before = [channels] + [width] * (depth - 1)
            how = Level(layout, i in layout.attended, i < deepest, recompute)
            self.down_blocks.append(Down(before, width, told, how))
            channels = width
            skips += [width] * (depth + how.moves)
        self.mid_block = Middle(channels, told, layout, recompute)
        for i, width in reversed(levels):
            before = [c + skips.pop() for c in [channels] + [width] * depth]
            how = Level(layout, i in layout.attended, i > 0, recompute)
            self.up_blocks.append(Up(before, width, told, how))
            channels = width
        self.conv_norm_out = layout.norm(size)
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
        half, layout = self.size // 2, self.layout
        number = torch.arange(half, device=step.device, dtype=step.dtype)
        angle = step.reshape(-1, 1) * WIDEST ** (-number / (half - layout.shift))
        waves = [angle.cos(), angle.sin()]
        h = torch.cat(waves[::-1] if layout.sines_first else waves, 1)
        first, second = self.time_embedding.values()
        return second(F.silu(first(h)))

    @property
    def config(self) -> dict[str, Any]:
        """What diffusers has to know to build it."""
        layout = self.layout
        kinds = ["Attn" * (i in layout.attended) for i in range(len(self.widths))]
        return {
            "_class_name": "UNet2DModel",
            "sample_size": list(self.shape[1:]),
            "in_channels": self.shape[0],
            "out_channels": self.shape[0],
            "block_out_channels": self.widths,
            "layers_per_block": self.depth,
            "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
            "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
            "attention_head_dim": layout.head or None,
            "norm_num_groups": layout.groups,
            "norm_eps": layout.epsilon,
            "downsample_padding": int(layout.centred),
            "flip_sin_to_cos": not layout.sines_first,
            "freq_shift": layout.shift,
        }


@dataclass(frozen=True)
class Level:
    """How a level is built.

    Args:
        layout: Of the network.
        attends: Whether there is attention behind each block.
        moves: Whether it ends in another resolution: the coarsest does not on the way down, nor
            does the finest on the way up.
        recompute: Keep only what lies between the blocks for the gradient.
    """

    layout: Layout
    attends: bool
    moves: bool
    recompute: bool

    def attentions(self, width: int, count: int) -> nn.ModuleList:
        """What stands behind each of `count` blocks."""
        return nn.ModuleList(
            Attention(width, self.layout) if self.attends else nn.Identity() for _ in range(count)
        )


class Down(nn.Module):
    """A level on the way down: what each block and then the next, coarser level is given."""

    def __init__(self, before: Sequence[int], width: int, told: int, how: Level) -> None:
        super().__init__()
        self.recompute, layout = how.recompute, how.layout
        self.resnets = nn.ModuleList(Resnet(channels, width, told, layout) for channels in before)
        self.attentions = how.attentions(width, len(before))
        down = [Resampling(width, 2, layout.centred)] if how.moves else []
        self.downsamplers = nn.ModuleList(down)

    def forward(self, x: Tensor, told: Tensor) -> list[Tensor]:
        out: list[Tensor] = []
        for block, attend in zip(self.resnets, self.attentions, strict=True):
            x = attend(run(block, x, told, self.recompute))
            out.append(x)
        return out + [down(x) for down in self.downsamplers]


class Middle(nn.Module):
    """Two blocks, and attention in between."""

    def __init__(self, width: int, told: int, layout: Layout, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.resnets = nn.ModuleList(Resnet(width, width, told, layout) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(width, layout)])

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        first, last = self.resnets
        [attention] = self.attentions
        return run(last, attention(run(first, x, told, self.recompute)), told, self.recompute)


class Up(nn.Module):
    """A level on the way up, whose blocks see what those on the way down have found."""

    def __init__(self, before: Sequence[int], width: int, told: int, how: Level) -> None:
        super().__init__()
        self.recompute, layout = how.recompute, how.layout
        self.resnets = nn.ModuleList(Resnet(channels, width, told, layout) for channels in before)
        self.attentions = how.attentions(width, len(before))
        self.upsamplers = nn.ModuleList([Resampling(width, 1)] if how.moves else [])

    def forward(self, x: Tensor, skips: list[Tensor], told: Tensor) -> Tensor:
        for block, attend in zip(self.resnets, self.attentions, strict=True):
            x = attend(run(block, torch.cat([x, skips.pop()], 1), told, self.recompute))
        for up in self.upsamplers:
            x = up(F.interpolate(x, scale_factor=2.0))
        return x


class Resampling(nn.Module):
    """A convolution between two levels, with zeros around or, if not `centred`, behind."""

    def __init__(self, width: int, stride: int, centred: bool = True) -> None:
        super().__init__()
        self.centred = centred
        self.conv = nn.Conv2d(width, width, 3, stride, padding=int(centred))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.centred else F.pad(x, (0, 1, 0, 1)))


class Resnet(nn.Module):
    """``shortcut(x) + conv(silu(norm(conv(silu(norm(x))) + told)))``."""

    def __init__(self, channels: int, width: int, told: int, layout: Layout) -> None:
        super().__init__()
        self.norm1 = layout.norm(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(told, width)
        self.norm2 = layout.norm(width)
        self.conv2 = zero(nn.Conv2d(width, width, 3, padding=1))
        self.conv_shortcut = nn.Conv2d(channels, width, 1) if channels != width else None

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(told))[..., None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class Attention(nn.Module):
    """``x + attention(norm(x))`` over all points."""

    def __init__(self, width: int, layout: Layout) -> None:
        super().__init__()
        self.heads = width // (layout.head or width)
        self.group_norm = layout.norm(width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([zero(nn.Linear(width, width))])

    def forward(self, x: Tensor) -> Tensor:
        points = self.group_norm(x).flatten(2).mT
        parts = (to(points) for to in (self.to_q, self.to_k, self.to_v))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.to_out[0](h).mT.reshape(x.shape)


def _check_layout(layout: Layout, widths: Sequence[int], shape: Sequence[int], size: int) -> None:
    """Raise `ValueError` if no such network can be built."""
    if not widths[0] == size or not all(1 <= width <= 16 * size for width in widths):
        raise ValueError(f"expected widths from size = {size} on to 16 times it, got {widths}")
    if any(n % 2 ** (len(widths) - 1) for n in shape[1:]):
        raise ValueError(f"expected sides that {len(widths)} levels can halve, got {shape}")
    if not set(layout.attended) <= set(range(len(widths))):
        raise ValueError(f"expected attended of {len(widths)} levels, got {layout.attended}")
    check_range("head", layout.head, 0, 4096)
    check_range("groups", layout.groups, 1, 4096)
    attending = {widths[-1], *(widths[i] for i in layout.attended)}
    if layout.head and any(width % layout.head for width in attending):
        raise ValueError(f"expected widths that heads of {layout.head} fill, got {widths}")
    if not (layout.epsilon > 0 and 0 <= layout.shift < size // 2):
        raise ValueError(f"expected epsilon > 0 and shift in [0, size / 2), got {layout}")


def _levels(space: Sequence[int]) -> int:
    """How many there are: each halves both sides, down to 4 points, where they can be halved."""
    levels = 1
    while levels < 4 and all(n % 2**levels == 0 and n >> levels >= 4 for n in space):
        levels += 1
    return levels
