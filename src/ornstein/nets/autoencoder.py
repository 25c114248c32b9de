"""An autoencoder of signals, images and volumes: convolutions alone, so that all is local."""

from collections.abc import Callable, Iterator
from itertools import product
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import MEMORY_FORMATS, convolution, normalise, zero
from .conditions import check_range, check_size

TILE = 64  # latent points along an axis that are encoded or decoded at once
BLOCK = 4  # examples that are decoded in one call
SHARPEST = (-8.0, 8.0)  # log-variances of the latents


class Autoencoder(nn.Module):
    """Between examples ``(B, C, *S)`` and latents ``(B, c, *s)``, ``s = ceil(S / factor)``.

    The latents are Gaussians, whose means are taken where nothing is learned; or, with `levels`,
    on a grid of ``levels^c`` points. Each step of the way halves the axes, at once by the first
    convolution: none works at full size but the last, which has few channels. Nothing attends,
    and the norms are those of single points, so that what is far away is not heard: examples of
    any size are taken in tiles, see `reach`.

    Args:
        shape: ``(C, *S)``; the sizes matter as to how many there are.
        size: Width of the finest level, a multiple of 8.
        factor: 2, 4 or 8.
        channels: c.
        levels: Values of each channel of the latents; 0 for Gaussians.
        depth: Residual blocks at each level, down as well as up.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Gaussians: Kingma & Welling (2013), https://arxiv.org/abs/1312.6114, as Rombach et al.
    (2022), https://arxiv.org/abs/2112.10752, have them; grids: Mentzer et al. (2023),
    https://arxiv.org/abs/2309.15505.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        size: int = 32,
        factor: int = 4,
        channels: int = 4,
        levels: int = 0,
        depth: int = 1,
    ) -> None:
        super().__init__()
        if factor not in (2, 4, 8):
            raise ValueError(f"factor must be 2, 4 or 8, got {factor}")
        self.ndim = check_range("axes of an example", len(shape) - 1, 1, 3)
        self.size = check_size(size)
        self.channels = check_range("latent channels", channels, 1, 64)
        self.depth = check_range("depth", depth, 1, 16)
        if levels:
            check_range("levels", levels, 2, 256)
        self.factor, self.levels = factor, levels
        self.steps = factor.bit_length() - 1
        kernel, halves = (
            ((1, 3), (1, 2)) if self.ndim == 1 else ((3,) * self.ndim, (2,) * self.ndim)
        )
        widths = [size * m for m in (1, 2, 4)[: self.steps]]
        parts = 1 if levels else 2

        down: list[nn.Module] = []
        for before, width in zip([shape[0], *widths], widths, strict=False):
            down += [convolution(before, width, kernel, halves)]
            down += [Block(width, kernel) for _ in range(depth)]
        self.encoder = nn.Sequential(*down, convolution(widths[-1], parts * channels, kernel))

        up: list[nn.Module] = [convolution(channels, widths[-1], kernel)]
        last = max(8, size // 2)
        for width, after in zip(widths[::-1], [*widths[-2::-1], last], strict=True):
            up += [Block(width, kernel) for _ in range(depth)]
            up += [Doubled(width, after, kernel, halves)]
        self.decoder = nn.Sequential(*up, nn.SiLU(), convolution(last, shape[0], kernel))

    @property
    def reach(self) -> int:
        """Latent points beyond which nothing is heard, of decoding as well as of encoding.

        A 3-wide convolution hears one point further, a block two; a point of level i is 2^i wide.
        """
        wide = [2**i for i in range(1, self.steps + 1)]
        blocks = sum(w * (2 * self.depth + 1) for w in wide)
        return ceil((1 + blocks + self.factor) / self.factor) + 1

    @property
    def at_once(self) -> int:
        """Examples to decode in one call: what is drawn is the same then, however many are."""
        return BLOCK

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # --- Between examples and latents

    def encode(self, x: Tensor, tile: int = TILE) -> Tensor:
        """The latents; axes that are no multiple of `factor` are continued by their last point."""
        x = self.padded(x)
        return self._quantised(_tiled(self._means, x, tile, self.reach, self.factor, 1))

    def decode(self, z: Tensor, tile: int = TILE) -> Tensor:
        """Examples of `factor` points for each latent one; a grid's latents are rounded to it."""
        return _tiled(self._decode, self._rounded(z), tile, self.reach, 1, self.factor)

    def latents(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The means and log-variances of the latents of padded x; on a grid there are none."""
        h = self._run(self.encoder, x)
        if self.levels:
            return self._quantised(h), None
        mean, log_var = h.chunk(2, 1)
        return mean, log_var.clamp(*SHARPEST)

    def padded(self, x: Tensor) -> Tensor:
        """x with each axis a multiple of `factor`."""
        short = [-n % self.factor for n in x.shape[2:]]
        if not any(short):
            return x
        return F.pad(x, [n for more in short[::-1] for n in (0, more)], mode="replicate")

    def _means(self, x: Tensor) -> Tensor:
        return self._run(self.encoder, x)[:, : self.channels]

    def _decode(self, z: Tensor) -> Tensor:
        return self._run(self.decoder, z)

    def _quantised(self, h: Tensor) -> Tensor:
        return self._rounded(torch.tanh(h)) if self.levels else h

    def _rounded(self, z: Tensor) -> Tensor:
        """The nearest points of the grid, with the slope of z itself; all else as it is."""
        if not self.levels:
            return z
        half = (self.levels - 1) / 2
        z = z.clamp(-1, 1)
        return z + (torch.round((z + 1) * half) / half - 1 - z).detach()

    def _run(self, layers: nn.Module, x: Tensor) -> Tensor:
        x = x.unsqueeze(2) if self.ndim == 1 else x  # an image one pixel high
        x = layers(x.contiguous(memory_format=MEMORY_FORMATS[x.ndim - 2]))
        return x.squeeze(2) if self.ndim == 1 else x


class Block(nn.Module):
    """``x + conv(silu(conv(normalise(x))))``, just x at first."""

    def __init__(self, width: int, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.first = convolution(width, width, kernel)
        self.last = zero(convolution(width, width, kernel))

    def forward(self, x: Tensor) -> Tensor:
        h = normalise(x.movedim(1, -1)).movedim(-1, 1)
        return x + self.last(F.silu(self.first(h)))


class Doubled(nn.Module):
    """A convolution whose channels are dealt out to the points of a map twice as fine.

    Source: Shi et al. (2016), https://arxiv.org/abs/1609.05158.
    """

    def __init__(
        self, width: int, after: int, kernel: tuple[int, ...], halves: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.halves = halves
        self.convolution = convolution(width, after * prod(halves), kernel)

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolution(x).unflatten(1, (-1, *self.halves))
        count = len(self.halves)
        order = [n for i in range(count) for n in (2 + count + i, 2 + i)]
        h = h.permute(0, 1, *order)
        for i in range(count):
            h = h.flatten(2 + i, 3 + i)
        return h.contiguous(memory_format=MEMORY_FORMATS[count])


# --- Tiles ---------------------------------------------------------------------------------------


def _tiled(
    f: Callable[[Tensor], Tensor], x: Tensor, tile: int, reach: int, fine: int, coarse: int
) -> Tensor:
    """``f(x)``, where f hears no further than `reach`, in tiles of so many points.

    Args:
        f: From x of `fine` points for each point counted here to `coarse` points for each.
        x: ``(B, C, *S)``.
        tile: Points along each axis of what is kept of one call.
        reach: Points on each side that are heard and then left out.
        fine: Of x for each point.
        coarse: Of ``f(x)`` for each point.
    """
    points = [n // fine for n in x.shape[2:]]
    if max(points) <= tile + 2 * reach:
        return f(x)
    out: Tensor | None = None
    for spans in product(*(list(_spans(n, tile, reach)) for n in points)):
        heard = tuple(slice(fine * s.heard.start, fine * s.heard.stop) for s in spans)
        part = f(x[(..., *heard)])
        if out is None:
            out = part.new_empty(*part.shape[:2], *(coarse * n for n in points))
        inner = tuple(
            slice(coarse * (s.start - s.heard.start), coarse * (s.stop - s.heard.start))
            for s in spans
        )
        place = tuple(slice(coarse * s.start, coarse * s.stop) for s in spans)
        out[(..., *place)] = part[(..., *inner)]
    assert out is not None
    return out


class _Span:
    """Points from `start` to `stop`, and those that are `heard`, as far as there are any."""

    def __init__(self, start: int, stop: int, reach: int, end: int) -> None:
        self.start, self.stop = start, stop
        self.heard = range(max(0, start - reach), min(end, stop + reach))


def _spans(n: int, tile: int, reach: int) -> Iterator[_Span]:
    for start in range(0, n, tile):
        yield _Span(start, min(start + tile, n), reach, n)
