"""The operators people name, made for examples of one shape. `OPERATORS` lists them by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import ceil, pi, prod, radians, sqrt

import torch
from torch import Tensor

from ..rng import generator
from .measure import (
    Compose,
    Filter,
    FourierMask,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    Separable,
    Spectrum,
)

Shape = tuple[int, ...]
"""Of one example, ``(C, *S)``."""

GREY = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in Rec. 601."""


# --- Linear --------------------------------------------------------------------------------------


def identity(shape: Shape) -> Mask:
    """All is seen: denoising."""
    return Mask(torch.ones((1,) * len(shape), dtype=torch.bool))


def box(shape: Shape, share: float = 0.5) -> Mask:
    """All but a box in the middle, `share` of each axis *S wide."""
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    edges = []
    for n in shape[1:]:
        width = max(1, round(share * n))
        edges.append(slice((n - width) // 2, (n - width) // 2 + width))
    return Mask.without(shape, (slice(None), *edges))


def random_mask(shape: Shape, keep: float = 0.3, seed: int = 0) -> Mask:
    """A share `keep` of the places *S, drawn at random; all channels alike."""
    return Mask(_drawn(shape[1:] or shape, keep, seed))


def downsample(shape: Shape, factor: int = 4, kernel: str = "area") -> Separable:
    """Every axis *S shorter by an integer factor.

    Args:
        shape: Of one example.
        factor: >= 2, a divisor of each size.
        kernel: ``area``, the mean of each block; ``bicubic``, Keys' cubic (a = -0.5) as wide as
            the factor says, mirrored at the edges, as Pillow's and MATLAB's.

    Source: Keys (1981), https://doi.org/10.1109/TASSP.1981.1163711.
    """
    if factor < 2 or any(n % factor for n in shape[1:]) or len(shape) < 2:
        raise ValueError(f"factor must be at least 2 and divide {shape[1:]}, got {factor}")
    if kernel not in ("area", "bicubic"):
        raise ValueError(f"kernel must be area or bicubic, got {kernel!r}")

    def matrix(n: int) -> Tensor:
        if kernel == "area":
            return torch.eye(n // factor).double().repeat_interleave(factor, 1) / factor
        centre = (torch.arange(n // factor).double()[:, None] + 0.5) * factor - 0.5
        return _mirrored(n, centre, 2 * factor, lambda r: _cubic(r / factor))

    return Separable((None, *(matrix(n) for n in shape[1:])))


def _cubic(r: Tensor) -> Tensor:
    r = r.abs()
    near, far = 1.5 * r**3 - 2.5 * r**2 + 1, -0.5 * r**3 + 2.5 * r**2 - 4 * r + 2
    return torch.where(r < 1, near, torch.where(r < 2, far, 0.0))


def _mirrored(n: int, centre: Tensor, reach: int, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """Rows that weigh the places around `centre` ``(M, 1)``; what lies outside is mirrored in."""
    places = torch.arange(-reach - 1, reach + 2) + centre.floor().long()
    weights = weigh(places - centre)
    folded = places % (2 * n)
    folded = torch.where(folded < n, folded, 2 * n - 1 - folded)
    matrix = torch.zeros(len(centre), n, dtype=torch.float64).scatter_add_(1, folded, weights)
    return matrix / matrix.sum(1, keepdim=True)


def blur(shape: Shape, sigma: float = 1.0) -> Separable:
    """A Gaussian of standard deviation `sigma`, in pixels; mirrored at the edges, cut at 4 sigma.

    ``scipy.ndimage.gaussian_filter(x, sigma, mode="reflect")``.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    reach = int(4 * sigma + 0.5)

    def weigh(r: Tensor) -> Tensor:
        return torch.where(r.abs() <= reach, torch.exp(-((r / sigma) ** 2) / 2), 0.0)

    centres = (torch.arange(n).double()[:, None] for n in shape[1:])
    matrices = (_mirrored(n, c, reach, weigh) for n, c in zip(shape[1:], centres, strict=True))
    return Separable((None, *matrices))


def convolution(shape: Shape, kernel: Tensor) -> Filter:
    """Any kernel ``(*K)``, its middle at the place it is applied to; what leaves comes in again."""
    space = shape[1:]
    if kernel.ndim != len(space):
        raise ValueError(f"expected a kernel of {len(space)} axes, got {tuple(kernel.shape)}")
    places = [(torch.arange(k) - k // 2) % n for k, n in zip(kernel.shape, space, strict=True)]
    whole = torch.zeros(space, dtype=torch.float64)
    whole.index_put_(torch.meshgrid(*places, indexing="ij"), kernel.double(), accumulate=True)
    return Filter(torch.fft.fftn(whole), len(space))


def motion_blur(shape: Shape, length: float = 5.0, angle: float = 0.0) -> Filter:
    """The path of a camera that moves `length` pixels, `angle` degrees from the last axis."""
    if not length > 0 or len(shape) not in (2, 3):
        raise ValueError(f"need length > 0 and one or two axes, got {length} and {shape[1:]}")
    reach = ceil(length / 2) + 1
    places = torch.linspace(-0.5, 0.5, 16 * (2 * reach + 1), dtype=torch.float64) * length
    turn = torch.tensor(radians(angle), dtype=torch.float64)
    directions = [-torch.sin(turn), torch.cos(turn)][2 - (len(shape) - 1) :]
    kernel = torch.zeros((2 * reach + 1,) * (len(shape) - 1), dtype=torch.float64)
    hats = [
        (1 - (torch.arange(-reach, reach + 1) - (d * places)[:, None]).abs()).clamp_min(0)
        for d in directions
    ]
    kernel = hats[0].sum(0) if len(hats) == 1 else torch.einsum("pi,pj->ij", *hats)
    return convolution(shape, kernel / kernel.sum())


def low_pass(shape: Shape, share: float = 0.25) -> Filter:
    """The frequencies below `share` of the highest, along each axis *S; the others are lost."""
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    response = torch.ones(shape[1:], dtype=torch.float64)
    for axis, n in enumerate(shape[1:]):
        kept = torch.fft.fftfreq(n, dtype=torch.float64).abs() <= 0.5 * share
        response = response * kept.reshape([-1 if i == axis else 1 for i in range(len(shape) - 1)])
    return Filter(response.to(torch.complex128), len(shape) - 1)


def channels(shape: Shape, matrix: Tensor) -> Separable:
    """Mixes the channels: `matrix` ``(M, C)``."""
    if matrix.ndim != 2 or matrix.shape[1] != shape[0]:
        raise ValueError(f"expected a matrix (M, {shape[0]}), got {tuple(matrix.shape)}")
    return Separable((matrix.double(), *(None for _ in shape[1:])))


def greyscale(shape: Shape) -> Separable:
    """Red, green and blue to grey, by `GREY`."""
    if shape[0] != 3:
        raise ValueError(f"grey is made of 3 channels, got {shape[0]}")
    return channels(shape, torch.tensor([GREY]))


def complex_from_real(shape: Shape) -> Separable:
    """Real channels with an imaginary part of zero each: what `FourierMask` wants."""
    return channels(shape, torch.eye(shape[0]).repeat_interleave(2, 0) * _even(2 * shape[0]))


def _even(rows: int) -> Tensor:
    return (torch.arange(rows) % 2 == 0).double()[:, None]


def cartesian(
    space: Shape, acceleration: float = 4.0, centre: float = 0.08, seed: int = 0
) -> Tensor:
    """k-space ``(*S)`` sampled along whole lines: the middle, and others at random.

    Args:
        space: *S.
        acceleration: Lines there are, over lines sampled.
        centre: Share of all lines that lies in the middle and is always sampled.
        seed: Which lines.
    """
    n = space[-1]
    wanted, middle = max(1, round(n / acceleration)), max(1, round(centre * n))
    first = n // 2 - middle // 2
    lines = set(range(first, first + middle))
    others = [i for i in generator("k-space", seed).permutation(n).tolist() if i not in lines]
    lines.update(others[: max(0, wanted - len(lines))])
    keep = torch.zeros(n, dtype=torch.bool)
    keep[sorted(lines)] = True
    return keep.expand(space).clone()


def radial(space: Shape, spokes: int = 16) -> Tensor:
    """k-space ``(H, W)`` sampled along lines through the middle, at equal angles."""
    height, width = space
    keep = torch.zeros(space, dtype=torch.bool)
    r = torch.linspace(-1, 1, 4 * max(space), dtype=torch.float64)
    for i in range(spokes):
        angle = torch.tensor(pi * i / spokes)
        row = (height // 2 + r * torch.sin(angle) * (height / 2)).round().long()
        column = (width // 2 + r * torch.cos(angle) * (width / 2)).round().long()
        keep[row.clamp(0, height - 1), column.clamp(0, width - 1)] = True
    return keep


def mri(
    shape: Shape, pattern: str = "cartesian", acceleration: float = 4.0, seed: int = 0
) -> LinearOperator:
    """Single-coil MRI: some of k-space.

    Of a picture of real channels, `FourierMask` after `complex_from_real`; of pairs of real and
    imaginary channels, `FourierMask` itself: use that for complex data.

    Args:
        shape: Of one example, real channels.
        pattern: ``cartesian``, ``radial`` or ``random``.
        acceleration: Points of k-space there are, over points sampled.
        seed: Of what is random.
    """
    space = shape[1:]
    match pattern:
        case "cartesian":
            keep = cartesian(space, acceleration, seed=seed)
        case "radial":
            keep = radial(space, max(1, round(max(space) / acceleration)))
        case "random":
            keep = _drawn(space, 1 / acceleration, seed)
            keep[tuple(n // 2 for n in space)] = True
        case _:
            raise ValueError(f"pattern must be cartesian, radial or random, got {pattern!r}")
    return k_space(shape, keep)


def k_space(shape: Shape, keep: Tensor) -> LinearOperator:
    """The points of k-space where `keep` ``(*S)`` is true, of real channels."""
    return Compose(FourierMask(keep), complex_from_real(shape))


def radon(shape: Shape, angles: int | Tensor = 30) -> Matrix:
    """CT: line integrals of pictures ``(C, H, W)`` -> ``(C, angles, detectors)``.

    Each pixel is shared between the two detectors beside its shadow. One pixel wide, the
    detectors reach as far as the diagonal.

    Args:
        shape: Of one example.
        angles: Degrees ``(A,)``; or how many, evenly over half a turn.
    """
    if len(shape) != 3:
        raise ValueError(f"CT is of pictures (C, H, W), got {shape}")
    height, width = shape[1:]
    if isinstance(angles, int):
        angles = torch.arange(angles).double() * (180 / angles)
    turn = torch.deg2rad(angles.double())[:, None]
    count = ceil(sqrt(height**2 + width**2)) + 2
    y = (torch.arange(height).double() - (height - 1) / 2).repeat_interleave(width)
    x = (torch.arange(width).double() - (width - 1) / 2).repeat(height)
    shadow = x * torch.cos(turn) + y * torch.sin(turn) + (count - 1) / 2  # (A, H W)
    low = shadow.floor()
    share = shadow - low
    rows = low.long() + torch.arange(len(turn))[:, None] * count
    pixels = torch.arange(height * width).expand_as(rows)
    index = torch.stack([torch.cat([rows, rows + 1]).flatten(), pixels.repeat(2, 1).flatten()])
    values = torch.cat([1 - share, share]).flatten()
    size = (len(turn) * count, height * width)
    matrix = torch.sparse_coo_tensor(index, values, size, check_invariants=True).coalesce()
    return Matrix(matrix, (height, width), (len(turn), count))


def random_matrix(shape: Shape, rows: int = 16, seed: int = 0) -> Matrix:
    """Gaussian projections of the whole example, each of variance 1 / rows: compressed sensing."""
    entries = generator("matrix", seed).standard_normal((rows, prod(shape)))
    return Matrix(torch.from_numpy(entries) / sqrt(rows), shape)


def _drawn(space: Shape, keep: float, seed: int) -> Tensor:
    """A share `keep` of the places, at random, at least one."""
    if not 0 < keep <= 1:
        raise ValueError(f"the share to keep must lie in (0, 1], got {keep}")
    places = torch.zeros(prod(space), dtype=torch.bool)
    order = generator("mask", seed).permutation(len(places))
    places[torch.from_numpy(order[: max(1, round(keep * len(places)))])] = True
    return places.reshape(space)


# --- Nonlinear -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Declip(Operator):
    """What a recorder keeps that goes from `low` to `high`: ``min(max(x, low), high)``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"need low < high, got {self.low} and {self.high}")

    def __call__(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


@dataclass(frozen=True, eq=False)
class Quantise(Operator):
    """A linear measurement, rounded: ``y = round(A x)``, the unit of A x being one level.

    Rounding has no derivative. What it adds is nearly uniform between -1/2 and 1/2, so it counts
    as noise of that variance, 1/12, and A x is compared with y.
    """

    inner: LinearOperator
    rounding = 12**-0.5

    def __call__(self, x: Tensor) -> Tensor:
        return self.inner(x).round()

    def tangent(self, x: Tensor) -> tuple[Tensor, LinearOperator]:
        return self.inner.tangent(x)


def quantise(shape: Shape, step: float = 1.0) -> Quantise:
    """Each entry in whole numbers of `step`."""
    if not step > 0:
        raise ValueError(f"step must be positive, got {step}")
    return Quantise(Separable((torch.eye(shape[0]).double() / step, *(None for _ in shape[1:]))))


JPEG_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation of the luminance, ITU-T T.81, table K.1."""


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
        height, width = x.shape[-2:]
        whole = (torch.block_diag(*[matrix] * (n // 8)).to(x) for n in (height, width))
        rows, columns = whole
        return rows @ x @ columns.mT

    def _tiled(self, x: Tensor) -> Tensor:
        return self.steps.to(x).repeat(x.shape[-2] // 8, x.shape[-1] // 8)


def jpeg(shape: Shape, quality: int = 20, unit: float = 1.0) -> Quantise:
    """The coefficients that a JPEG file of the luminance keeps.

    Args:
        shape: Of one example, ``(C, H, W)``, H and W multiples of 8.
        quality: 1 to 99; libjpeg's scale of the table.
        unit: Of x in grey levels of 0 to 255.
    """
    if len(shape) != 3 or shape[1] % 8 or shape[2] % 8 or not 1 <= quality <= 99:
        raise ValueError(f"need blocks of 8 x 8 and quality 1 to 99, got {shape} and {quality}")
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    steps = torch.tensor(JPEG_TABLE, dtype=torch.float64).mul(scale).round().clamp(1, 255)
    return Quantise(BlockCosine(steps / unit))


@dataclass(frozen=True, eq=False)
class PhaseRetrieval(Operator):
    """The sizes of the Fourier coefficients, without their phases; padded by zeros.

    Args:
        ndim: How many axes *S are.
        oversampling: How many times as long each axis becomes; from 2 on, a picture is known but
            for its place and its mirror image.
    """

    ndim: int
    oversampling: int = 2

    def __call__(self, x: Tensor) -> Tensor:
        sizes = [n * self.oversampling for n in x.shape[-self.ndim :]]
        axes = tuple(range(-self.ndim, 0))
        c = torch.fft.fftn(x, s=sizes, dim=axes, norm="ortho")
        return (c.real**2 + c.imag**2 + torch.finfo(x.dtype).tiny ** 0.5).sqrt()


def phase_retrieval(shape: Shape, oversampling: int = 2) -> PhaseRetrieval:
    """See `PhaseRetrieval`."""
    if oversampling < 1:
        raise ValueError(f"oversampling must be at least 1, got {oversampling}")
    return PhaseRetrieval(len(shape) - 1, oversampling)


@dataclass(frozen=True, eq=False)
class Units(Operator):
    """An operator of data in units of their own, as one of x: ``A(shift + scale x)``.

    Args:
        inner: The operator.
        shift: Broadcasts to x ``(C, *S)``.
        scale: Likewise.
    """

    inner: Operator
    shift: Tensor
    scale: Tensor

    @property
    def rounding(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.rounding

    def __call__(self, x: Tensor) -> Tensor:
        return self.inner(self._data(x))

    def tangent(self, x: Tensor) -> tuple[Tensor, LinearOperator]:
        seen, slope = self.inner.tangent(self._data(x))
        matrix = torch.diag(self.scale.flatten())
        return seen, Compose(slope, Separable((matrix, *(None for _ in x.shape[2:]))))

    def _data(self, x: Tensor) -> Tensor:
        return self.shift.to(x) + self.scale.to(x) * x


def declip(shape: Shape, low: float = -1.0, high: float = 1.0) -> Declip:
    """See `Declip`."""
    return Declip(low, high)


# --- By name -------------------------------------------------------------------------------------

OPERATORS: dict[str, Callable[..., Operator]] = {
    "identity": identity,
    "box": box,
    "random-mask": random_mask,
    "downsample": downsample,
    "blur": blur,
    "motion-blur": motion_blur,
    "low-pass": low_pass,
    "greyscale": greyscale,
    "mri": mri,
    "ct": radon,
    "random-matrix": random_matrix,
    "declip": declip,
    "quantise": quantise,
    "jpeg": jpeg,
    "phase-retrieval": phase_retrieval,
}
"""Each is made from the shape of one example and numbers or words, for commands."""
