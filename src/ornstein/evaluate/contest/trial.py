"""What came of each model that is compared: its trials, one for each seed."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from ..measures.copies import Copies
from ..measures.figures import Figure
from .modes import Modes
from .rivals import Likelihood

COLLAPSE = 1 / 3  # of the coverage of real data, below which a model has lost most of it


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model, trained once from one seed.

    Args:
        seed: Of its weights, its data's order, its noise.
        seconds: Of the training.
        seen: Examples seen in it.
        failure: Why there is nothing else; empty if there is.
        drawing: Seconds for each example drawn.
        figures: Of quality.
        copies: None where examples are too few to ask.
        modes: None where the data have none that are known.
        likelihood: None for models without.
    """

    seed: int
    seconds: float
    seen: int
    failure: str = ""
    drawing: float | None = None
    figures: list[Figure] = field(default_factory=list)
    copies: Copies | None = None
    modes: Modes | None = None
    likelihood: Likelihood | None = None

    @property
    def collapsed(self) -> bool:
        """Does it cover less than a third of what real data do?"""
        for figure in self.figures:
            if figure.name == "coverage" and figure.score is not None:
                return figure.score.value < COLLAPSE * figure.score.floor
        return False


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One model, all its trials.

    Args:
        name: In options.
        title: On pages.
        weights: Numbers that were fitted.
        drawing_weights: Those of them that draw.
        calls: Of a network, for one example.
        memory: Bytes at the fullest moment of an update.
        trials: One for each seed.
        x: What it drew in the first trial that did not fail, rounded, or empty.
    """

    name: str
    title: str
    weights: int
    drawing_weights: int
    calls: int
    memory: int
    trials: list[Trial]
    x: Tensor

    @property
    def done(self) -> list[Trial]:
        """The trials that did not fail."""
        return [trial for trial in self.trials if not trial.failure]

    @property
    def facts(self) -> dict[str, Any]:
        """Everything but what it drew as plain values, for programs."""
        trials = []
        for trial in self.trials:
            figures = {f.key: f.score and asdict(f.score) for f in trial.figures}
            copies = trial.copies and {
                "found": trial.copies.found,
                "leaning": trial.copies.leaning,
                "share": trial.copies.worst.count / trial.copies.worst.n,
            }
            rest = asdict(replace(trial, figures=[], copies=None))
            trials.append(
                rest | {"figures": figures, "copies": copies, "collapsed": trial.collapsed}
            )
        return {
            "weights": self.weights,
            "drawing_weights": self.drawing_weights,
            "calls": self.calls,
            "memory": self.memory,
            "trials": trials,
        }
