"""What the networks are made of. The choice among operators that do the same is made here.

Which operator is fastest depends on the device and the dtype alone; `benchmarks/networks.py`
measures each choice on a CPU with AVX-512:

- maps lie in channels-last memory, in which every product runs at its best;
- LayerNorm over channels, in that memory one contiguous row at each point, in place of GroupNorm,
  whose backward in bfloat16 is several times slower there;
- products of rows run as convolutions in float32: see `Linear`;
- convolutions of one example run as those of many: see `Convolution`;
- attention is written out in bfloat16 for short sequences, fused otherwise: see `attend`.
"""

import math
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

READING = 16  # channels of a head that reads, at most
MEMORY_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}

Module = TypeVar("Module", bound=nn.Module)


# --- Operators -----------------------------------------------------------------------------------

ONE_DNN = torch.backends.mkldnn.is_available()  # asked once: the question breaks a compiled graph


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a matrix product of `x` runs, given autocast."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


class Linear(nn.Linear):
    """`nn.Linear`, which runs as a 1x1 convolution where that is faster.

    In float32 on a CPU, oneDNN's convolution can be twice as fast as the BLAS product, which on
    AMD leaves AVX-512 unused; below some four million multiplications, half as fast. PyTorch asks
    oneDNN from a batch of 16 on, so many rows are dealt into 16 images, one pixel high; the views
    cost nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # to a graph for any batch, and any machine
            return F.linear(input, self.weight, self.bias)
        rows = math.prod(input.shape[:-1])
        on_cpu_in_float32 = input.device.type == "cpu" and product_dtype(input) == torch.float32
        if not on_cpu_in_float32 or rows % 16 or rows * self.weight.numel() < 2**22:
            return F.linear(input, self.weight, self.bias)
        pixels = input.reshape(16, 1, rows // 16, self.in_features).permute(0, 3, 1, 2)
        kernel = self.weight.view(self.out_features, 1, 1, self.in_features).permute(0, 3, 1, 2)
        output = F.conv2d(pixels, kernel, self.bias).permute(0, 2, 3, 1)
        return output.reshape(*input.shape[:-1], self.out_features)


class Convolution(nn.Conv2d):
    """`nn.Conv2d`, which asks oneDNN where PyTorch would not, though that is faster.

    In float32 on a CPU, PyTorch unfolds a single map of up to 20,480 numbers and multiplies it by
    BLAS; on one thread it does so in batches below 16, too, where the kernel is one point. From
    some eight million multiplications on that takes up to twice as long. oneDNN's own operator is
    asked where no gradient is wanted, as it has no forward-mode derivatives.
    """

    def forward(self, input: Tensor) -> Tensor:
        on_cpu_in_float32 = input.device.type == "cpu" and product_dtype(input) == torch.float32
        pixels = input[:, 0].numel() / math.prod(self.stride)
        if (
            torch.is_grad_enabled()
            or torch.compiler.is_exporting()  # to a graph for any batch, and any machine
            or not on_cpu_in_float32
            or not ONE_DNN
            or pixels * self.weight.numel() < 2**23
        ):
            return super().forward(input)
        how = (self.padding, self.stride, self.dilation, self.groups)
        try:
            return torch.mkldnn_convolution(input, self.weight, self.bias, *how)  # pyright: ignore[reportArgumentType]
        except NotImplementedError:  # no such derivative
            return super().forward(input)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(D) + bias) v`` of ``(B, heads, N, D)``; no bias is zero.

    On a CPU and in bfloat16, the fused operator makes a step of a small `DiT` 1.4 times as long;
    from some 1000 points on, and in float32 from some 100, it is the faster one. It has no
    forward-mode derivatives.

    The scores of each example begin at a multiple of 16 bytes, for which keys are added that are
    not listened to: BLAS multiplies small matrices otherwise where they do not, and the last bits
    of an example would depend on its place in the batch.
    """
    longest = 512 if q.dtype == torch.bfloat16 else 64
    if q.device.type != "cpu" or k.shape[2] > longest:
        try:
            return F.scaled_dot_product_attention(q, k, v, bias)
        except NotImplementedError:  # no such derivative: so written out
            pass
    keys = k.shape[2]
    if math.prod(q.shape[1:3]) * keys % 4:
        k = F.pad(k, (0, 0, 0, -keys % 4))
    scores = (q.shape[-1] ** -0.5 * q @ k.transpose(-1, -2))[..., :keys]
    return torch.softmax(scores if bias is None else scores + bias, -1) @ v


def normalise(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the last axis of `x`, its channels, at each point by itself."""
    return F.layer_norm(x, x.shape[-1:])


def convolution(
    channels: int, out_channels: int, kernel: tuple[int, ...], stride: tuple[int, ...] | int = 1
) -> nn.Module:
    """A convolution over 2 or 3 axes.

    An axis of length n leaves with ``ceil(n / stride)`` points; `kernel` is odd on each axis. Its
    weights are contiguous, although the maps are not: fused optimisers and files pair a weight
    with its moments by place in memory, and training is as fast. See `answering`.
    """
    kind = {2: Convolution, 3: nn.Conv3d}[len(kernel)]
    padding = tuple(n // 2 for n in kernel)
    return kind(channels, out_channels, kernel, stride, padding)  # type: ignore[arg-type]


def answering(module: Module, device: str | torch.device) -> Module:
    """`module` on a device, only to answer from now on: its kernels lie in memory as the maps do.

    oneDNN brings kernels into a format of its own at every call, which then takes less: up to a
    tenth of a call with one example. The answers are the same to the last bit.
    """
    module.to(device).eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, (Convolution, nn.Conv3d)):
            weight = part.weight
            weight.data = weight.contiguous(memory_format=MEMORY_FORMATS[weight.ndim - 2])
    return module


class Heard(NamedTuple):
    """A text as attention sees it.

    Args:
        pieces: ``(B, L, width)``.
        bias: Of the attention to each of them, ``(B, 1, 1, L)``; minus infinity is no piece.
    """

    pieces: Tensor
    bias: Tensor


class Told(NamedTuple):
    """What a network is told, as its blocks hear it.

    Args:
        embedding: ``(B, width)``.
        text: Piece by piece, if the network reads.
    """

    embedding: Tensor
    text: Heard | None = None


def run(block: nn.Module, x: Tensor, told: Told | Tensor, recompute: bool) -> Tensor:
    """``block(x, told)``; with `recompute`, of what lies inside the block nothing is kept.

    It is computed once more when the gradient is wanted: a third more time, for the memory of one
    block at a time instead of all of them.

    Source: Chen et al. (2016), https://arxiv.org/abs/1604.06174.
    """
    if not (recompute and torch.is_grad_enabled()):
        return block(x, told)
    output = checkpoint(block, x, told, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(output, Tensor)
    return output


def zero(module: Module) -> Module:
    """`module`, all its parameters set to zero: a branch that starts silent."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def heads_of(width: int, most: int = 64) -> int:
    """The least number of heads that divide `width`, a multiple of 8, into at most `most` each."""
    return next(width // d for d in range(most, 0, -8) if width % d == 0)


# --- Blocks --------------------------------------------------------------------------------------


class FourierFeatures(nn.Module):
    """Cosines and sines of a log-SNR ``(B,)``, of periods from 2 to 120 nats: ``(B, 2 count)``.

    All log-SNRs in [-30, 30] are told apart by the longest period, and a tenth of a nat by the
    shortest; the features lie in [-1, 1] for any log-SNR.
    """

    rate: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        rate = 2 * math.pi * torch.logspace(math.log10(1 / 120), math.log10(1 / 2), count)
        self.register_buffer("rate", rate, persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        precise = torch.promote_types(log_snr.dtype, torch.float32)  # a phase reaches 94 radians
        phase = log_snr[:, None].to(precise) * self.rate
        return torch.cat([phase.cos(), phase.sin()], 1)


class Modulation(nn.Module):
    """``parts`` vectors of `width` channels that depend on the embedding; they start at zero.

    Args:
        told: Width of the embedding.
        width: Channels of what is modulated.
        parts: How many vectors.
        ndim: Axes between batch and channels, over which each vector is constant.
    """

    def __init__(self, told: int, width: int, parts: int, ndim: int) -> None:
        super().__init__()
        self.parts, self.axes = parts, (1,) * ndim
        self.linear = zero(Linear(told, parts * width))

    def forward(self, told: Told) -> tuple[Tensor, ...]:
        vectors = self.linear(told.embedding)
        return vectors.view(vectors.shape[0], *self.axes, -1).chunk(self.parts, -1)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``normalise(x) (1 + scale) + shift``, channels last."""
    return torch.addcmul(shift, normalise(x), 1 + scale)


class ResidualBlock(nn.Module):
    """``skip(x) + conv(silu(conv(normalise(x)) (1 + scale) + shift))``, just ``skip(x)`` at first.

    One normalisation, where Dhariwal & Nichol (2021) have two. Scale and shift work between the
    convolutions, on the channels of the output, which on the way up are half or a third of those
    of the input: fewer weights and a little less time, for the same loss.

    Args:
        channels: Of the input.
        out_channels: Of the output; where they differ, `skip` is a 1x1 convolution.
        told: Width of the embedding.
        kernel: Of both convolutions, odd on each axis.
    """

    def __init__(
        self, channels: int, out_channels: int, told: int, kernel: tuple[int, ...]
    ) -> None:
        super().__init__()
        same, point = channels == out_channels, (1,) * len(kernel)
        self.skip = nn.Identity() if same else convolution(channels, out_channels, point)
        self.first = convolution(channels, out_channels, kernel)
        self.modulation = Modulation(told, out_channels, 2, len(kernel))
        self.last = zero(convolution(out_channels, out_channels, kernel))

    def forward(self, x: Tensor, told: Told) -> Tensor:
        h = self.first(normalise(x.movedim(1, -1)).movedim(-1, 1)).movedim(1, -1)
        scale, shift = (part.to(h.dtype) for part in self.modulation(told))
        h = torch.addcmul(shift, h, 1 + scale).movedim(-1, 1)
        return self.skip(x) + self.last(F.silu(h))


class Attention(nn.Module):
    """Self-attention of the points ``(B, N, width)``, in heads of at most `most` channels."""

    def __init__(self, width: int, most: int = 64) -> None:
        super().__init__()
        self.heads = heads_of(width, most)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, bias).transpose(1, 2).flatten(2))


class Reading(nn.Module):
    """``x + attention of the points (B, N, width) to the pieces of the text``, just x at first.

    In small heads: one that hears of one thing is deaf to the others.

    Args:
        width: Of the points.
        told: Width of the pieces.

    Source: Rombach et al. (2022), https://arxiv.org/abs/2112.10752, section 3.3.
    """

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.heads = heads_of(width, READING)
        self.q, self.kv = Linear(width, width), Linear(told, 2 * width)
        self.out = zero(Linear(width, width))

    def forward(self, x: Tensor, told: Told) -> Tensor:
        if told.text is None:
            return x
        pieces, bias = told.text
        q = self.q(normalise(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(pieces).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return x + self.out(attend(q, k, v, bias.to(q)).transpose(1, 2).flatten(2))


def feed_forward(width: int, ratio: int, between: nn.Module | None = None) -> nn.Module:
    """``W2 silu(W1 x)`` over the last axis; `between`, `ratio` times wider, more can be done."""
    wide, back = Linear(width, ratio * width), Linear(ratio * width, width)
    return nn.Sequential(wide, *([between] if between else []), nn.SiLU(), back)


class AdaptiveBranch(nn.Module):
    """``x + gate branch(modulate(x))``, where scale, shift and gate come from the embedding.

    The gate starts at zero, so the whole does nothing at the start.

    Args:
        branch: Keeps the shape ``(B, *S, width)``.
        told: Width of the embedding.
        width: Of the last axis of x.
        ndim: Number of axes S.

    Source: Peebles & Xie (2022), https://arxiv.org/abs/2212.09748, section 3.2 (adaLN-Zero).
    """

    def __init__(self, branch: nn.Module, told: int, width: int, ndim: int) -> None:
        super().__init__()
        self.branch, self.modulation = branch, Modulation(told, width, 3, ndim)

    def forward(self, x: Tensor, told: Told) -> Tensor:
        scale, shift, gate = self.modulation(told)
        return torch.addcmul(x, gate, self.branch(modulate(x, scale, shift)))
