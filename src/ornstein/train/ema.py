"""The averages of the weights that training tracks."""

from copy import deepcopy

import torch
from torch import Tensor

from ..core.denoise import NetDenoiser
from ..core.ema import decay, exponent


class Averages:
    """Power-function averages of the weights of `denoiser`, in float32, one for each width.

    Args:
        denoiser: What is trained.
        sigma_rels: The widths.

    Attributes:
        denoisers: Copies of `denoiser` that hold the averages, in evaluation mode.
    """

    def __init__(self, denoiser: NetDenoiser, sigma_rels: tuple[float, ...]) -> None:
        self._exponents = [exponent(s) for s in sigma_rels]
        self._weights: list[Tensor] = list(denoiser.parameters())
        constant = {id(value): value for value in denoiser.buffers()}  # in no need of a copy
        copies = [deepcopy(denoiser, dict(constant)) for _ in sigma_rels]
        self.denoisers = [copy.eval().requires_grad_(False) for copy in copies]
        self._averages: list[list[Tensor]] = [list(d.parameters()) for d in self.denoisers]

    @torch.no_grad()
    def update(self, before: int, after: int) -> None:
        """Add the present weights, as those from `before` to `after` on the training clock."""
        for g, averages in zip(self._exponents, self._averages, strict=True):
            share = 1 - decay(g, before, after)
            torch._foreach_lerp_(averages, self._weights, share)  # pyright: ignore[reportPrivateImportUsage]
