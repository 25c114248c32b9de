"""Samples turned into numbers, each beside its floor, and into a report a person reads.

The package can be called, ``ornstein.evaluate(run)``, as `ornstein.evaluate.evaluate` can. The
names below are loaded when first used, so that importing it does not import torch.
"""

from typing import TYPE_CHECKING

from ..lazy import loader, verb

if TYPE_CHECKING:
    from .evaluation import Evaluation as Evaluation
    from .evaluation import evaluate as evaluate
    from .evaluation import write as write

_HOME = {"Evaluation": "evaluation", "evaluate": "evaluation", "write": "evaluation"}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__ = loader(__name__, _HOME)
verb(__name__)
