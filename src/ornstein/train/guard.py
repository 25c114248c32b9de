"""Two guards against a training that has gone wrong: not finite, and growing without bound."""

from dataclasses import asdict, dataclass, field
from enum import Enum
from math import inf, isfinite
from statistics import median
from typing import Any

STREAK = 3  # updates in a row that are not finite
WINDOW = 20  # losses of one median
GROWTH = 5.0  # times the smallest median
PATIENCE = 200  # updates in a row that are so much larger


class Verdict(Enum):
    """What to do with an update."""

    TAKE = "take"
    SKIP = "skip"
    ROLL_BACK = "roll back"


@dataclass
class Guard:
    """Looks at each update before it is taken.

    - A loss or gradient that is not finite is skipped; three in a row call for a roll-back.
    - So do 200 updates in a row whose loss is more than five times the smallest median of 20
      consecutive losses so far.

    What it remembers are plain values and part of a checkpoint.

    Args:
        skipped: Updates skipped in all.
        streak: Updates in a row that were not finite.
        losses: Of the median in the making.
        smallest: Median so far.
        above: Updates in a row with a loss far above it.
    """

    skipped: int = 0
    streak: int = 0
    losses: list[float] = field(default_factory=list)
    smallest: float = inf
    above: int = 0

    def judge(self, loss: float, norm: float) -> Verdict:
        """The verdict on an update with this mean loss and norm of the gradient."""
        if not (isfinite(loss) and isfinite(norm)):
            self.skipped += 1
            self.streak += 1
            return Verdict.ROLL_BACK if self.streak >= STREAK else Verdict.SKIP
        self.streak = 0
        far = self.smallest > 0 and loss > GROWTH * self.smallest  # a learned weight may be < 0
        self.above = self.above + 1 if far else 0
        self.losses.append(loss)
        if len(self.losses) == WINDOW:
            self.smallest = min(self.smallest, median(self.losses))
            self.losses = []
        return Verdict.ROLL_BACK if self.above >= PATIENCE else Verdict.TAKE

    @property
    def calm(self) -> bool:
        """Whether the weights are worth rolling back to."""
        return not self.streak and self.above < WINDOW

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return values | {"smallest": self.smallest if self.smallest < inf else None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Guard":
        smallest = values["smallest"]
        return cls(**{**values, "smallest": inf if smallest is None else smallest})
