"""Operators made of others: one after another, side by side, of a part, through a map."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from .measure import LinearOperator, Mask, Operator, Tangent


@dataclass(frozen=True, eq=False)
class Compose(LinearOperator):
    """One linear operator after another: ``A x = outer(inner(x))``."""

    outer: LinearOperator
    inner: LinearOperator

    def __call__(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


@dataclass(frozen=True, eq=False)
class Through(Operator):
    """An operator of what a differentiable map makes of x: ``A(f(x))``.

    Args:
        inner: A.
        map: f, from x ``(B, C, *S)``, example by example.
    """

    inner: Operator
    map: Callable[[Tensor], Tensor]

    @property
    def rounding(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.rounding

    def __call__(self, x: Tensor) -> Tensor:
        return self.inner(self.map(x))

    def tangent(self, x: Tensor) -> tuple[Tensor, LinearOperator]:
        made, slope = Tangent.of(self.map, x)
        seen, tangent = self.inner.tangent(made)
        return seen, Compose(tangent, slope)


@dataclass(frozen=True, eq=False)
class Stack(LinearOperator):
    """Several linear operators on the same x; their measurements, flat, one after the other.

    Args:
        parts: The operators.
        shapes: What each makes of one example, ``(*M)``.
    """

    parts: tuple[LinearOperator, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([part(x).flatten(1) for part in self.parts], 1)

    def adjoint(self, y: Tensor) -> Tensor:
        pieces = y.split([prod(shape) for shape in self.shapes], 1)
        rows = zip(self.parts, pieces, self.shapes, strict=True)
        return torch.stack([A.adjoint(u.unflatten(1, shape)) for A, u, shape in rows]).sum(0)


@dataclass(frozen=True, eq=False)
class Slice(LinearOperator):
    """A part of x, or of what another operator measured: a crop.

    Args:
        shape: What it is a part of, ``(*M)``.
        region: A tuple of slices, as ``numpy.s_`` makes.
    """

    shape: tuple[int, ...]
    region: tuple[slice, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return x[(slice(None), *self.region)]

    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(len(y), *self.shape)
        x[(slice(None), *self.region)] = y
        return x

    def consistent(self, x: Tensor, y: Tensor, ratio: Tensor | float = 0.0) -> Tensor:
        keep = torch.zeros(self.shape, dtype=torch.bool, device=x.device)
        keep[self.region] = True
        return Mask(keep).consistent(x, self.adjoint(y), ratio)
