"""Operators that round what they measured: to whole numbers of a step, or as a JPEG file does."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import pi, sqrt

import torch
from torch import Tensor

from .combine import Compose, Stack
from .measure import LinearOperator, Operator, Separable, Spectrum

Shape = tuple[int, ...]
Table = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Quantise(Operator):
    """A linear measurement, rounded: ``y = round(A (x - centre))``, in levels.

    Rounding has no derivative. What it adds is nearly uniform between -1/2 and 1/2, so it counts
    as noise of that variance, 1/12, and ``A (x - centre)`` is compared with y.

    Args:
        inner: A.
        centre: The number from which levels are counted.
    """

    inner: LinearOperator
    centre: float = 0.0
    rounding = 12**-0.5

    def __call__(self, x: Tensor) -> Tensor:
        return self.exact(x).round()

    def exact(self, x: Tensor) -> Tensor:
        """What is rounded."""
        return self.inner(x - self.centre)

    def tangent(self, x: Tensor) -> tuple[Tensor, LinearOperator]:
        return self.exact(x), self.inner


def quantise(shape: Shape, step: float = 1.0) -> Quantise:
    """Each entry in whole numbers of `step`."""
    if not step > 0:
        raise ValueError(f"step must be positive, got {step}")
    return Quantise(Separable((torch.eye(shape[0]).double() / step, *(None for _ in shape[1:]))))


# --- JPEG ----------------------------------------------------------------------------------------

LUMINANCE: Table = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Steps of the coefficients, ITU-T T.81, table K.1."""

CHROMINANCE: Table = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""Table K.2."""

LUMA = (0.299, 0.587, 0.114)
CHROMA = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Blue less grey and red less grey; ITU-T T.871, section 7."""

FEWER = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""How many rows and columns share a colour."""


@dataclass(frozen=True, eq=False)
class BlockCosine(LinearOperator):
    """The discrete cosine transform of blocks of 8 x 8 pixels, over a table of steps.

    Args:
        steps: ``(8, 8)``, > 0.
    """

    steps: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self._blocks(x, self._cosines) / self._tiled(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._blocks(y / self._tiled(y), self._cosines.mT)

    def spectrum(self, shape: Shape) -> Spectrum:
        values = 1 / self._tiled(torch.empty(shape, dtype=torch.float64))
        return Spectrum(
            values,
            lambda x: self._blocks(x, self._cosines),
            lambda c: self._blocks(c, self._cosines.mT),
            lambda y: y,
        )

    @cached_property
    def _cosines(self) -> Tensor:
        k, n = torch.arange(8).double()[:, None], torch.arange(8).double()
        matrix = torch.cos(pi * (2 * n + 1) * k / 16) / 2
        matrix[0] /= sqrt(2)
        return matrix

    def _blocks(self, x: Tensor, matrix: Tensor) -> Tensor:
        matrix, (height, width) = matrix.to(x), x.shape[-2:]
        cells = x.unflatten(-2, (height // 8, 8)).unflatten(-1, (width // 8, 8)).movedim(-3, -2)
        return (matrix @ cells @ matrix.mT).movedim(-2, -3).flatten(-2).flatten(-3, -2)

    def _tiled(self, x: Tensor) -> Tensor:
        return self.steps.to(x).repeat(x.shape[-2] // 8, x.shape[-1] // 8)


def jpeg(shape: Shape, quality: int = 20, unit: float = 1.0, chroma: str = "4:2:0") -> Quantise:
    """What a JPEG file of this quality keeps; see `jpeg_of`.

    Args:
        shape: Of one example, ``(C, H, W)``.
        quality: 1 to 100, libjpeg's.
        unit: Of x, in grey levels of 0 to 255.
        chroma: 4:4:4, 4:2:2 or 4:2:0, libjpeg's own choice: how many pixels share a colour.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must lie in [1, 100], got {quality}")
    if chroma not in FEWER:
        raise ValueError(f"chroma must be one of {', '.join(FEWER)}, got {chroma!r}")
    tables = [scaled(table, quality) for table in (LUMINANCE, CHROMINANCE)]
    return jpeg_of(shape, tables, FEWER[chroma], unit)


def scaled(table: Table, quality: int) -> Tensor:
    """The steps ``(8, 8)`` of a quality, as libjpeg computes them: in whole numbers."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(table) * percent + 50) // 100).clamp(1, 255).double()


def jpeg_of(
    shape: Shape, tables: Sequence[Tensor], fewer: tuple[int, int] = (1, 1), unit: float = 1.0
) -> Quantise:
    """The coefficients that a JPEG file with these tables keeps.

    Of three channels, luminance and two of colour, of which `fewer` pixels share one: all of an
    example in a row. Of any other number, each channel as luminance, ``(C, 8 h, 8 w)``. Where
    blocks reach beyond the picture, its last row and column go on, as libjpeg has it.

    Args:
        shape: Of one example, ``(C, H, W)``.
        tables: Steps ``(8, 8)`` of luminance; and of colour.
        fewer: Rows and columns of pixels that share a colour.
        unit: Of x, in grey levels of 0 to 255.

    Source: ITU-T T.81, https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex A.3.
    """
    if len(shape) != 3:
        raise ValueError(f"JPEG is of pictures (C, H, W), got {shape}")
    centre = 128 / unit
    grey, whole = BlockCosine(tables[0] / unit), [_whole(n) for n in shape[1:]]
    if shape[0] != 3:
        even = all(m is None for m in whole)
        return Quantise(grey if even else Compose(grey, Separable((None, *whole))), centre)
    mix = torch.tensor([LUMA, *CHROMA], dtype=torch.float64)
    shared = [_shared(n, by) for n, by in zip(shape[1:], fewer, strict=True)]
    ends = [_extended(len(mean)) @ mean for mean in shared]
    parts = (
        Compose(grey, Separable((mix[:1], *whole))),
        Compose(BlockCosine(tables[1] / unit), Separable((mix[1:], *ends))),
    )
    sizes = (1, *map(_up, shape[1:])), (2, *(len(end) for end in ends))
    return Quantise(Stack(parts, sizes), centre)


def _up(n: int) -> int:
    """To the next multiple of 8."""
    return -(-n // 8) * 8


def _whole(n: int) -> Tensor | None:
    return _extended(n) if n % 8 else None


def _extended(n: int, by: int = 8) -> Tensor:
    """``(M, n)``: the last entry goes on, up to a multiple of `by`."""
    places = torch.arange(-(-n // by) * by).clamp(max=n - 1)
    return torch.eye(n, dtype=torch.float64)[places]


def _shared(n: int, by: int) -> Tensor:
    """``(M, n)``: the mean of each `by` entries."""
    return _extended(n, by).unflatten(0, (-1, by)).mean(1)
