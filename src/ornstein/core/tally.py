"""Counts what a method costs: denoiser calls and products with its Jacobian."""

from typing import Any

import torch
from torch import Tensor

from .denoise import Denoiser


class Tally(Denoiser):
    """The same denoiser, with a count of its calls and of the gradients taken through it.

    Args:
        denoiser: What is counted; its conditions pass through.

    Attributes:
        calls: Of whole batches.
        products: Vector-Jacobian products, likewise; one of second order counts as several.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.calls, self.products = 0, 0

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        self.calls += 1
        return _Counted.apply(self.denoiser(x_t, t, **cond), self)  # pyright: ignore

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        self.calls += 1
        x_hat, v = self.denoiser.moments(x_t, t, **cond)
        return _Counted.apply(x_hat, self), v  # pyright: ignore


class _Counted(torch.autograd.Function):
    """The identity, which notices when a gradient comes back."""

    @staticmethod
    def forward(x: Tensor, tally: Tally) -> Tensor:  # pyright: ignore
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tally], output: Tensor) -> None:
        ctx.tally = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        ctx.tally.products += 1
        return gradient.view_as(gradient), None
