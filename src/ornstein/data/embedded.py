"""What an encoder makes of each example, or of each of its captions: points that networks hear."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """One embedding for each of N examples, or several to pick from, or none.

    Args:
        values: ``(M, E)``, standardised: those of the first example first.
        count: ``(N,)``, how many of the M are of each; on the CPU.
    """

    values: Tensor = field(repr=False)
    count: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if int(self.count.sum()) != len(self.values):
            raise ValueError(f"expected {int(self.count.sum())} embeddings, got {len(self.values)}")

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, indices: Tensor) -> "Embedded":
        here = indices.cpu()
        first, count = self._first[here], self.count[here]
        each = torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
        rows = (first.repeat_interleave(count) + each).to(self.values.device)
        return replace(self, values=self.values[rows], count=count)

    def to(self, device: str | torch.device) -> "Embedded":
        """The same on another device."""
        return replace(self, values=self.values.to(device))

    @cached_property
    def _first(self) -> Tensor:
        return self.count.cumsum(0) - self.count

    def tensor(self, indices: Tensor, draws: Tensor | None = None) -> Tensor:
        """The condition ``embedding`` ``(B, E)`` of examples, NaN where there is none.

        Args:
            indices: ``(B,)``.
            draws: ``(B,)`` in [0, 1), which of several; the first if not given.
        """
        here = indices.cpu()
        many = self.count[here]
        picked = torch.zeros_like(here) if draws is None else (draws.cpu() * many).long()
        rows = torch.where(many > 0, self._first[here] + picked, 0).to(self.values.device)
        absent = (many == 0)[:, None].to(self.values.device)
        return self.values[rows].masked_fill(absent, torch.nan)
