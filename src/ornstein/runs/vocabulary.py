"""What a run was told of its examples, in the user's words."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor

from ..data.captions import Words
from ..data.reader import Reader
from ..errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The conditions of a run in the user's words.

    Args:
        classes: Names of the labels, in order; empty if the data have none.
        attributes: Names of the numeric attributes.
        means: Of each attribute in the training data, in its own unit.
        stds: Likewise, > 0.
        context: Channels of what is given beside the noise.
        block: Pixels of it along each axis that one point of x hears.
        words: In which texts are read, or by whom; None if the run knows no captions.
        embedding: Numbers of the embedding that the network hears.
    """

    classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    means: tuple[float, ...] = ()
    stds: tuple[float, ...] = ()
    context: int = 0
    block: int = 1
    words: Words | Reader | None = None
    embedding: int = 0

    def label(self, name: str | int) -> int:
        """The number of a class given by its name or its number; -1 for ``any``."""
        if not self.classes:
            raise UsageError("This run was trained without labels: leave --label out.")
        if str(name) in self.classes:
            return self.classes.index(str(name))
        if str(name) in ("any", "-1"):
            return -1
        if str(name).isdecimal() and int(name) < len(self.classes):
            return int(name)
        raise UsageError(f"There is no class {name!r} in this run; there are: {self._known()}.")

    def tensors(
        self,
        count: int,
        label: str | int | Sequence[str | int] | None = None,
        attributes: dict[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Conditions for `count` examples: labels are dealt out in turn, NaN is 'not given'."""
        cond: dict[str, Tensor] = {}
        if label is not None:
            names = [label] if isinstance(label, (str, int)) else list(label)
            if not names:
                raise UsageError("An empty list of labels: give at least one.")
            numbers = torch.tensor([self.label(name) for name in names])
            cond["label"] = numbers.repeat(count // len(numbers) + 1)[:count]
        if attributes:
            row = torch.full((len(self.attributes),), torch.nan)
            for name, value in attributes.items():
                if name not in self.attributes:
                    known = ", ".join(self.attributes) or "none"
                    raise UsageError(f"There is no attribute {name!r} in this run; known: {known}.")
                i = self.attributes.index(name)
                row[i] = torch.nan if isnan(value) else (value - self.means[i]) / self.stds[i]
            cond["attributes"] = row.expand(count, -1)
        return cond

    def _known(self) -> str:
        shown = ", ".join(self.classes[:20])
        return shown + (", ..." if len(self.classes) > 20 else "")
