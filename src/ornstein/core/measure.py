"""Measurements of data: what an operator is, and the general ones.

`core.combine` puts them together; `core.operators` makes the ones people name: downsampling, blur,
MRI, CT, clipping.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .denoise import align
from .solve import conjugate_gradient

SMALL = 2**12  # rows or columns of a matrix that is decomposed


# --- What an operator is -------------------------------------------------------------------------


class Operator(ABC):
    """A known measurement ``y = A(x)``, applied to each example of a batch.

    Attributes:
        rounding: The standard deviation of what the operator itself rounds off, in the units of y.
    """

    rounding: ClassVar[float] = 0.0

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """``A(x)``, of shape ``(B, *M)``, for `x` ``(B, C, *S)``."""

    def tangent(self, x: Tensor) -> "tuple[Tensor, LinearOperator]":
        """``A(x)``, and the derivative of A at `x`: ``A(x + v) = A(x) + A' v``, but for o(v)."""
        return Tangent.of(self, x)


class LinearOperator(Operator):
    """A linear measurement: an operator with an exact adjoint."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """``A* y``, of the shape of x: the operator with ``<A x, y> = <x, A* y>``."""

    def spectrum(self, shape: tuple[int, ...]) -> "Spectrum | None":
        """The singular value decomposition for x ``(B, *shape)``; None where it is not cheap."""
        return None

    def tangent(self, x: Tensor) -> "tuple[Tensor, LinearOperator]":
        return self(x), self

    def consistent(self, x: Tensor, y: Tensor, ratio: Tensor | float = 0.0) -> Tensor:
        """The compromise between `x` and what explains `y`.

            argmin_z |y - A z|^2 + ratio |z - x|^2 = x + A* (A A* + ratio I)^-1 (y - A x)

        With ratio = 0, the point nearest to `x` that explains `y` as well as any does.

        Args:
            x: ``(B, C, *S)``.
            y: ``(B, *M)``.
            ratio: >= 0; a number or one for each example ``(B,)``.
        """
        gap = y - self(x)
        ratio = torch.as_tensor(ratio, dtype=x.dtype, device=x.device)
        if (known := self.spectrum(tuple(x.shape[1:]))) is not None:
            return x + known.solve(gap, ratio)

        def normal(v: Tensor) -> Tensor:
            return self.adjoint(self(v)) + align(ratio, v) * v

        pull = self.adjoint(gap)
        # beyond that, what is left is rounding, and may lie where A is blind
        enough = RANK * torch.finfo(x.dtype).eps
        return x + conjugate_gradient(normal, pull, min(2 * pull[0].numel(), ENOUGH), enough)


ENOUGH = 1000  # iterations to find a consistent point where no decomposition is cheap


@dataclass(frozen=True, eq=False)
class Spectrum:
    """``A = U diag(values) V*``, U and V unitary and never formed.

    Args:
        values: The singular values, >= 0, of a shape that broadcasts to that of ``V* x``.
        analyse: ``V* x``, real or complex, from x ``(B, C, *S)``.
        synthesise: ``V c``.
        measured: ``U* y``, in the places of ``V* x``, and zero where the value is.
    """

    values: Tensor
    analyse: Callable[[Tensor], Tensor]
    synthesise: Callable[[Tensor], Tensor]
    measured: Callable[[Tensor], Tensor]

    def rank(self, shape: tuple[int, ...]) -> int:
        """How many numbers A tells of an example of `shape`."""
        none = torch.zeros(1, *shape, dtype=torch.float64, device=self.values.device)
        return int(self._known(self.values).expand(self.analyse(none).shape).sum())

    def _known(self, values: Tensor) -> Tensor:
        return values > values.amax() * RANK * torch.finfo(values.dtype).eps

    def invert(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """``V* A^+ y``, and where it is known: the places of singular values that are not 0."""
        values = self.values.to(y)
        known = self._known(values)
        c = self.measured(y)
        return torch.where(known, c / torch.where(known, values, 1.0), 0.0), known

    def solve(self, gap: Tensor, ratio: Tensor) -> Tensor:
        """``A* (A A* + ratio I)^-1 gap``; its limit, the pseudo-inverse, at ratio = 0."""
        c, known = self.invert(gap)
        square = self.values.to(gap).square()
        total = torch.where(known, square + align(ratio, c), 1.0)
        share = torch.where(known, square / total, 0.0)
        return self.synthesise(share * c)


RANK = 100.0  # singular values below so many roundings of the largest are none


@dataclass(frozen=True, eq=False)
class Tangent(LinearOperator):
    """The derivative of an operator, or of any map, at one point: by automatic differentiation."""

    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, operator: Callable[[Tensor], Tensor], x: Tensor) -> "tuple[Tensor, Tangent]":
        """``A(x)`` and the derivative there."""
        y, pull = torch.func.vjp(operator, x)[:2]
        return y, cls(
            lambda v: torch.func.jvp(operator, (x,), (v,))[1],
            lambda u: pull(u)[0],
        )

    def __call__(self, x: Tensor) -> Tensor:
        return self.push(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pull(y)


# --- The general ones ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Mask(LinearOperator):
    """Zeroes the entries where `keep` is false: inpainting, imputation, forecasting.

    What lies under the mask is never looked at, and may be NaN.

    Args:
        keep: True where an entry is known: ``(*S)``, ``(C, *S)``, or ``(B, C, *S)`` for a mask
            of each example's own; anything that broadcasts to x.

    Raises:
        ValueError: If `keep` is not a tensor of booleans.
    """

    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool:
            raise ValueError(f"a mask must be boolean, got {self.keep.dtype}")

    @classmethod
    def without(cls, shape: Sequence[int], *regions: tuple[slice, ...]) -> "Mask":
        """All of an example of `shape` ``(C, *S)`` but boxes, intervals, channels or cells.

        Args:
            shape: Of one example.
            *regions: Each a tuple of slices from the first axis, C, on; as ``numpy.s_`` makes.
        """
        keep = torch.ones(tuple(shape), dtype=torch.bool)
        for region in regions:
            keep[region] = False
        return cls(keep)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.keep.to(x.device), x, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def spectrum(self, shape: tuple[int, ...]) -> Spectrum:
        return Spectrum(self.keep.double(), _same, _same, self)

    def consistent(self, x: Tensor, y: Tensor, ratio: Tensor | float = 0.0) -> Tensor:
        """`x` with the known entries drawn to those of `y`; at ratio = 0 copied, bit for bit."""
        ratio = align(torch.as_tensor(ratio, dtype=x.dtype, device=x.device), x)
        near = torch.where(ratio > 0, x + (y.to(x) - x) / (1 + ratio), y.to(x))
        return torch.where(self.keep.to(x.device), near, x)


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, eq=False)
class Diagonal(LinearOperator):
    """Multiplies each entry; where by zero, it is never looked at, and may be NaN.

    Args:
        factors: >= 0; broadcasts to x, as the booleans of a `Mask`.
    """

    factors: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        factors = self.factors.to(x)
        return torch.where(factors != 0, factors * x, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def spectrum(self, shape: tuple[int, ...]) -> Spectrum:
        return Spectrum(self.factors, _same, _same, Mask(self.factors != 0))


@dataclass(frozen=True, eq=False)
class Separable(LinearOperator):
    """One matrix along each axis: a tensor product. Its decomposition is that of its factors.

    Args:
        matrices: ``(M_i, N_i)`` for each axis of x after the batch, C first; None is the identity.
    """

    matrices: tuple[Tensor | None, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return along(x, self.matrices)

    def adjoint(self, y: Tensor) -> Tensor:
        return along(y, [None if m is None else m.mT for m in self.matrices])

    def spectrum(self, shape: tuple[int, ...]) -> Spectrum | None:
        if any(m is not None and max(m.shape) > SMALL for m in self.matrices):
            return None
        values = torch.ones((), dtype=torch.float64)
        for size, factor in zip(shape, self._factors, strict=True):
            one = torch.ones(size, dtype=torch.float64) if factor is None else factor.values
            values = values[..., None] * one.to(values.device)
        left = [factor and factor.left for factor in self._factors]
        right = [factor and factor.right for factor in self._factors]
        back = [factor and factor.right.mT for factor in self._factors]
        return Spectrum(
            values,
            lambda x: along(x, right),
            lambda c: along(c, back),
            lambda y: along(y, left),
        )

    @cached_property
    def _factors(self) -> "list[Factor | None]":
        return [None if m is None else Factor.of(m) for m in self.matrices]


class Factor(NamedTuple):
    """The decomposition of one ``(M, N)`` matrix, in N places: ``U diag(values) V*``."""

    left: Tensor  # U*, with rows of zeros where there is no value
    values: Tensor
    right: Tensor  # V*

    @classmethod
    def of(cls, matrix: Tensor) -> "Factor":
        U, s, right = torch.linalg.svd(matrix.double())
        spare = len(right) - len(s)
        pad = torch.nn.functional.pad
        return cls(pad(U[:, : len(s)].mT, (0, 0, 0, spare)), pad(s, (0, spare)), right)


def along(x: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Each matrix applied along its axis of `x` after the batch; None leaves the axis alone."""
    for axis, m in enumerate(matrices, 1):
        if m is not None:
            x = (x.movedim(axis, -1) @ m.to(x).mT).movedim(-1, axis)
    return x


@dataclass(frozen=True, eq=False)
class Filter(LinearOperator):
    """Convolution on a torus: multiplication of the Fourier coefficients.

    Args:
        response: The factor of each coefficient ``(*S)`` or ``(C, *S)``, complex, with that of
            the opposite frequency its conjugate, as ``torch.fft.fftn`` of a real kernel is.
        ndim: How many axes *S are.
    """

    response: Tensor
    ndim: int

    def __call__(self, x: Tensor) -> Tensor:
        return self._back(self._response(x) * self._fourier(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._back(self._response(y).conj() * self._fourier(y))

    def spectrum(self, shape: tuple[int, ...]) -> Spectrum:
        size = self.response.abs()
        phase = torch.where(size > 0, self.response / torch.where(size > 0, size, 1.0), 1.0)

        def measured(y: Tensor) -> Tensor:
            c = self._fourier(y)
            return phase.conj().to(c) * c

        return Spectrum(size, self._fourier, self._back, measured)

    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.ndim, 0))

    def _fourier(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=self._axes(), norm="ortho")

    def _back(self, c: Tensor) -> Tensor:
        return torch.fft.ifftn(c, dim=self._axes(), norm="ortho").real

    def _response(self, x: Tensor) -> Tensor:
        return self.response.to(x.device, x.dtype.to_complex())


@dataclass(frozen=True, eq=False)
class FourierMask(LinearOperator):
    """Some of the Fourier coefficients of a complex picture: single-coil MRI.

    Real and imaginary parts are two channels, of x and of y; several pairs are several pictures.
    The zero frequency lies in the middle of the axes, in x and in y, as scanners have it.

    Args:
        keep: True where k-space is sampled ``(*S)``.
    """

    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool:
            raise ValueError(f"a mask must be boolean, got {self.keep.dtype}")

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.keep.to(x.device), self._turned(x, torch.fft.fftn), 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._turned(torch.where(self.keep.to(y.device), y, 0.0), torch.fft.ifftn)

    def spectrum(self, shape: tuple[int, ...]) -> Spectrum:
        return Spectrum(
            self.keep.double(),
            lambda x: self._turned(x, torch.fft.fftn),
            lambda c: self._turned(c, torch.fft.ifftn),
            lambda y: torch.where(self.keep.to(y.device), y, 0.0),
        )

    def _turned(self, x: Tensor, turn: Callable[..., Tensor]) -> Tensor:
        if x.shape[1] % 2:
            raise ValueError(
                f"expected pairs of real and imaginary parts, got {x.shape[1]} channels"
            )
        axes = tuple(range(-self.keep.ndim, 0))
        z = torch.fft.ifftshift(torch.complex(x[:, 0::2], x[:, 1::2]), dim=axes)
        z = torch.fft.fftshift(turn(z, dim=axes, norm="ortho"), dim=axes)
        return torch.stack([z.real, z.imag], 2).flatten(1, 2)


@dataclass(frozen=True, eq=False)
class Matrix(LinearOperator):
    """Any matrix, dense or sparse, applied to the last axes of x.

    Args:
        matrix: ``(M, N)``, dense or sparse.
        source: The sizes of the axes of x it takes in, N in all.
        target: The sizes of the axes of y it makes, M in all; ``(M,)`` by default.
    """

    matrix: Tensor
    source: tuple[int, ...]
    target: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        M, N = self.matrix.shape
        if prod(self.source) != N or prod(self.target or (M,)) != M:
            raise ValueError(
                f"expected a matrix ({prod(self.target or (M,))}, {prod(self.source)}), "
                f"got ({M}, {N})"
            )

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(-len(self.source))
        return self._times(self.matrix, flat).unflatten(-1, self.target or (-1,))

    def adjoint(self, y: Tensor) -> Tensor:
        flat = y.flatten(-len(self.target or (1,)))
        return self._times(self.matrix.t(), flat).unflatten(-1, self.source)

    def spectrum(self, shape: tuple[int, ...]) -> Spectrum | None:
        if self.matrix.is_sparse or max(self.matrix.shape) > SMALL:
            return None
        left, values, right = self._factor
        return Spectrum(
            values,
            lambda x: self._times(right, x.flatten(-len(self.source))),
            lambda c: self._times(right.mT, c).unflatten(-1, self.source),
            lambda y: self._times(left, y.flatten(-len(self.target or (1,)))),
        )

    @cached_property
    def _factor(self) -> Factor:
        return Factor.of(self.matrix)

    def _times(self, matrix: Tensor, flat: Tensor) -> Tensor:
        rows = flat.reshape(-1, flat.shape[-1])
        product = (matrix.to(rows.device, rows.dtype) @ rows.mT).mT
        return product.reshape(*flat.shape[:-1], -1)
