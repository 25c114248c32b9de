"""The averages of the weights that training tracks."""

from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ..core.ema import decay, exponent

Module = TypeVar("Module", bound=nn.Module)


class Averages(Generic[Module]):
    """Power-function averages of the weights of `learner`, in float32, one for each width.

    Args:
        learner: What is trained.
        sigma_rels: The widths.

    Attributes:
        learners: Copies of `learner` that hold the averages, in evaluation mode.
    """

    def __init__(self, learner: Module, sigma_rels: tuple[float, ...]) -> None:
        self._exponents = [exponent(s) for s in sigma_rels]
        self._weights: list[Tensor] = list(learner.parameters())
        constant = {id(value): value for value in learner.buffers()}  # in no need of a copy
        copies = [deepcopy(learner, dict(constant)) for _ in sigma_rels]
        self.learners: list[Module] = [copy.eval().requires_grad_(False) for copy in copies]
        self._averages: list[list[Tensor]] = [list(d.parameters()) for d in self.learners]

    @torch.no_grad()
    def update(self, before: int, after: int) -> None:
        """Add the present weights, as those from `before` to `after` on the training clock."""
        for g, averages in zip(self._exponents, self._averages, strict=True):
            share = 1 - decay(g, before, after)
            torch._foreach_lerp_(averages, self._weights, share)  # pyright: ignore[reportPrivateImportUsage]
