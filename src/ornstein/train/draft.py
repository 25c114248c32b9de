"""What is wanted of a run before its data are open, or the run that it goes on from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..data.dataset import Dataset
from ..data.options import DataOptions
from ..runs.config import RunConfig
from .adapt import adaptation, begun, options_of
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


@dataclass(frozen=True, kw_only=True)
class Sequel:
    """A configuration to be, of what goes on from a run that need not be open yet.

    Args:
        base: Where that lies; or a pipeline of diffusers.
        learn: What it learns of it; see `adapt.adaptation`, as for all that follows.
        rank: Of additions of low rank.
        targets: Layers that get them.
        like: The class that new ones begin as.
        predict: What the network learns to predict in place of what it does.
        changes: What shall differ from the configuration of that run, table by table.
        place: Where the changes come from, for messages.
    """

    base: str
    learn: Literal["all", "low-rank", "words", "control"] = "low-rank"
    rank: int = 8
    targets: tuple[str, ...] = ()
    like: str = ""
    predict: Literal["velocity", "flow"] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    place: str = "the changes"

    def settled(self) -> RunConfig:
        """The configuration.

        Raises:
            UsageError: If nothing is there, it cannot be gone on from, or the changes name what
                there is not.
        """
        base = begun(self.base)
        own: dict[str, Any] = {"rank": self.rank, "targets": self.targets, "like": self.like}
        config = asdict(adaptation(base, self.learn, **own, predict=self.predict))
        said = RunConfig.from_dict({"data": self.changes.get("data", {})}, self.place).data
        changes = {**self.changes, "data": asdict(options_of(base, said))}
        return RunConfig.from_dict(merged(config, changes), self.place)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, table by table."""
    both = dict(base)
    for key, value in changes.items():
        old = both.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            value = merged(old, value)
        both[key] = value
    return both
