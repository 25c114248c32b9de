"""The operators people name, made for examples of one shape. `OPERATORS` lists them by name."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, pi, prod, radians, sqrt
from typing import Literal

import torch
from torch import Tensor

from ..rng import generator
from .combine import Compose
from .measure import Filter, FourierMask, LinearOperator, Mask, Matrix, Operator, Separable
from .rounding import jpeg, quantise

Shape = tuple[int, ...]
"""Of one example, ``(C, *S)``."""

GREY = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in Rec. 601."""


# --- Linear --------------------------------------------------------------------------------------


def identity(shape: Shape) -> Mask:
    """All is seen: denoising."""
    return Mask(torch.ones((1,) * len(shape), dtype=torch.bool))


def box(shape: Shape, share: float = 0.5) -> Mask:
    """All but a box in the middle, `share` of each axis *S wide; of rows ``(C,)``, of C."""
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    edges = []
    for n in shape[1:] or shape:
        width = max(1, round(share * n))
        edges.append(slice((n - width) // 2, (n - width) // 2 + width))
    return Mask.without(shape, (slice(None), *edges) if shape[1:] else tuple(edges))


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


Edges = Literal["unknown", "torus"]


def convolution(shape: Shape, kernel: Tensor, edges: Edges = "unknown") -> LinearOperator:
    """Any kernel ``(*K)``, its middle at the place it is applied to.

    Args:
        shape: Of one example.
        kernel: Of as many axes as *S.
        edges: ``unknown``, of a photograph: what came in from beyond it nobody knows, so that
            places which the kernel joins to the other side are not looked at; ``torus``, what
            leaves comes in again.
    """
    space = shape[1:]
    if kernel.ndim != len(space):
        raise ValueError(f"expected a kernel of {len(space)} axes, got {tuple(kernel.shape)}")
    if edges not in ("unknown", "torus"):
        raise ValueError(f"edges must be unknown or torus, got {edges!r}")
    places = [(torch.arange(k) - k // 2) % n for k, n in zip(kernel.shape, space, strict=True)]
    whole = torch.zeros(space, dtype=torch.float64)
    whole.index_put_(torch.meshgrid(*places, indexing="ij"), kernel.double(), accumulate=True)
    turned = Filter(torch.fft.fftn(whole), len(space))
    return turned if edges == "torus" else Compose(Mask(_within(space, kernel)), turned)


def _within(space: Shape, kernel: Tensor) -> Tensor:
    """True where a kernel, its middle there, does not reach beyond ``(*S)``."""
    keep = torch.zeros(space, dtype=torch.bool)
    inner = []
    for axis, (n, k) in enumerate(zip(space, kernel.shape, strict=True)):
        lit = kernel.movedim(axis, 0).reshape(k, -1).any(1).nonzero() - k // 2
        inner.append(slice(max(0, int(lit.max())), max(0, n + min(0, int(lit.min())))))
    keep[tuple(inner)] = True
    if not keep.any():
        raise ValueError(f"a kernel of {tuple(kernel.shape)} reaches beyond {space} everywhere")
    return keep


def motion_blur(
    shape: Shape, length: float = 5.0, angle: float = 0.0, edges: Edges = "unknown"
) -> LinearOperator:
    """The path of a camera that moves `length` pixels, `angle` degrees from the last axis.

    At the edges as `convolution`.
    """
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
    return convolution(shape, kernel / kernel.sum(), edges)


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
    if not space:
        raise ValueError("k-space is of pictures, series and volumes: rows (C,) have none")
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
    if len(space) != 2:
        raise ValueError(f"radial lines are of pictures (C, H, W), not of {space}: take cartesian")
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
    """Single-coil MRI: some of `k_space`.

    Args:
        shape: Of one example.
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
    """The points of k-space where `keep` ``(*S)`` is true: pairs of real and imaginary parts.

    Two channels are the real and the imaginary part of one picture, `FourierMask`; any other
    number are real pictures, with a k-space each.
    """
    measured = FourierMask(keep)
    return measured if shape[0] == 2 else Compose(measured, complex_from_real(shape))


def radon(shape: Shape, angles: int | Tensor = 30) -> Matrix:
    """CT: line integrals of pictures ``(C, H, W)`` -> ``(C, angles, detectors)``.

    Each pixel is shared between the two detectors beside its shadow, `x cos + y sin` of it with x
    to the right and y down from the middle of the picture. One pixel wide, the detectors reach as
    far as the diagonal.

    Args:
        shape: Of one example.
        angles: Degrees ``(A,)``; or how many, evenly over half a turn.
    """
    height, width = _sides(shape)
    turn, count = _radians(angles), detectors(height, width)
    y = (torch.arange(height).double() - (height - 1) / 2).repeat_interleave(width)
    x = (torch.arange(width).double() - (width - 1) / 2).repeat(height)
    shadow = x * torch.cos(turn) + y * torch.sin(turn) + (count - 1) / 2  # (A, H W)
    size = (len(turn), count)
    return Matrix(_shares(shadow, count, (count, 1)), (height, width), size)


def radon_of_scikit(shape: Shape, angles: int | Tensor, count: int) -> Matrix:
    """CT as `skimage.transform.radon` has it: ``(C, H, W)`` -> ``(C, detectors, angles)``.

    It turns the other way, about the pixel H // 2, W // 2, which falls on detector count // 2.

    Args:
        shape: Of one example.
        angles: As `radon`.
        count: Detectors: ``min(H, W)`` with ``circle=True``, when what they miss should be zero.
    """
    height, width = _sides(shape)
    turn = _radians(angles)
    y = (torch.arange(height).double() - height // 2).repeat_interleave(width)
    x = (torch.arange(width).double() - width // 2).repeat(height)
    shadow = x * torch.cos(turn) - y * torch.sin(turn) + count // 2
    size = (count, len(turn))
    return Matrix(_shares(shadow, count, (1, len(turn))), (height, width), size)


def detectors(height: int, width: int) -> int:
    """How many `radon` has."""
    return ceil(sqrt(height**2 + width**2)) + 2


def _sides(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(f"CT is of pictures (C, H, W), got {shape}")
    return shape[1:]


def _radians(angles: int | Tensor) -> Tensor:
    """``(A, 1)``."""
    if isinstance(angles, int):
        angles = torch.arange(angles).double() * (180 / angles)
    return torch.deg2rad(angles.double())[:, None]


def _shares(shadow: Tensor, count: int, steps: tuple[int, int]) -> Tensor:
    """The sparse matrix that shares pixels between the detectors beside their shadows ``(A, N)``.

    Its rows are angle times the first of `steps` plus detector times the second.
    """
    low = shadow.floor()
    share = shadow - low
    beside = torch.stack([low, low + 1]).long()
    rows = beside * steps[1] + torch.arange(len(shadow))[:, None] * steps[0]
    pixels = torch.arange(shadow.shape[1]).expand_as(rows)
    met = (beside >= 0) & (beside < count)
    index = torch.stack([rows[met], pixels[met]])
    values = torch.stack([1 - share, share])[met]
    size = (len(shadow) * count, shadow.shape[1])
    return torch.sparse_coo_tensor(index, values, size, check_invariants=True).coalesce()


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
        shift: Of each channel: ``(C, 1, ...)``.
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
