"""What is wanted of a run before its data are open: a recipe, and what shall differ from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..data.dataset import Dataset
from ..data.options import DataOptions
from ..runs.config import RunConfig
from .recipes import recipe


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A configuration to be, of data that need not be open yet.

    Args:
        recipe: By name; see `recipes.recipe`.
        changes: What shall differ from it, table by table.
        place: Where the changes come from, for messages.
    """

    recipe: str = "auto"
    changes: Mapping[str, Any] = field(default_factory=dict)
    place: str = "the changes"

    @property
    def data(self) -> DataOptions:
        """How the data are to be read.

        Raises:
            UsageError: If the changes name what there is not, or a value that cannot be.
        """
        return self._known.data

    def settled(self, data: Dataset, minutes: float | None, device: str) -> RunConfig:
        """The configuration of a run on these data, which were read as said.

        Args:
            data: All that were opened.
            minutes: The time there is; None for plenty.
            device: Where it will be trained.

        Raises:
            UsageError: Likewise, or if there is no such recipe.
        """
        known = self._known
        base = recipe(
            data,
            self.recipe,
            minutes,
            latent=known.latent,
            embedding=known.embedding,
            size=known.net.size if "size" in self.changes.get("net", {}) else None,
            device=device,
        )
        return RunConfig.from_dict(merged(asdict(base), self.changes), self.place)

    @property
    def _known(self) -> RunConfig:
        """What the changes say, among what is so by default."""
        return RunConfig.from_dict(dict(self.changes), self.place)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, table by table."""
    both = dict(base)
    for key, value in changes.items():
        old = both.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            value = merged(old, value)
        both[key] = value
    return both
