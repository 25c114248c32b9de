"""Linear measurements of data: operators with their adjoints."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoise import align


class LinearOperator(ABC):
    """A known linear measurement ``y = A x``, applied to each example of a batch."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """``A x``, of shape ``(B, *M)``, for `x` ``(B, *S)``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """``A* y``, of shape ``(B, *S)``: the operator with ``<A x, y> = <x, A* y>``."""

    def consistent(self, x: Tensor, y: Tensor) -> Tensor:
        """The point nearest to `x` that explains `y`: ``x + A* (A A*)^-1 (y - A x)``."""

        def gram(u: Tensor) -> Tensor:
            return self(self.adjoint(u))

        gap = y - self(x)
        return x + self.adjoint(conjugate_gradient(gram, gap, iterations=gap[0].numel()))


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

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.keep.to(x.device), x, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def consistent(self, x: Tensor, y: Tensor) -> Tensor:
        """`x` with the known entries copied from `y`, bit for bit."""
        return torch.where(self.keep.to(x.device), y.to(x), x)


def conjugate_gradient(
    A: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float | None = None
) -> Tensor:
    """Solve ``A x = b``, A symmetric and positive, one system for each example of `b` ``(B, ...)``.

    An example stops where it has converged, or where A turns out not to be positive in the
    direction searched, as the Jacobian of a trained network may; it then keeps what it has.

    Args:
        A: The system, applied to the batch.
        b: Right-hand sides ``(B, ...)``.
        iterations: At most this many; n of them solve a system with n distinct eigenvalues.
        tolerance: Stop where ``|b - A x| <= tolerance |b|``; by default the machine epsilon.

    Returns:
        The solutions ``(B, ...)``, without NaN whatever A is.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1)

    size = b.abs().flatten(1).amax(1)
    unit = align(torch.where(size > 0, size, 1.0), b)  # so that no square underflows
    number = torch.finfo(b.dtype)
    tolerance = number.eps if tolerance is None else tolerance
    x, r = torch.zeros_like(b), b / unit
    p, rr = r, dot(r, r)
    active, enough = size > 0, tolerance**2 * rr
    for _ in range(iterations):
        Ap = A(p)
        curvature = dot(p, Ap)
        active = active & (curvature > number.tiny) & (rr > enough)
        if not active.any():
            break
        step = align(torch.where(active, rr / curvature, 0.0), b)
        x, r = torch.where(step > 0, x + step * p, x), torch.where(step > 0, r - step * Ap, r)
        rr, before = dot(r, r), rr
        p = r + align(torch.where(active, rr / before, 0.0), b) * p
    return x * unit
