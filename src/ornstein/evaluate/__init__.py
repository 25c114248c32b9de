"""Samples turned into numbers, each beside its floor, and into a report a person reads.

The package can be called, ``ornstein.evaluate(run)``, as `ornstein.evaluate.evaluate` can. The
names below are loaded when first used, so that importing it does not import torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluation import Evaluation as Evaluation
    from .evaluation import evaluate as evaluate
    from .evaluation import write as write

_HOME = {"Evaluation": "evaluation", "evaluate": "evaluation", "write": "evaluation"}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


class _Callable(ModuleType):
    """`ornstein.evaluate` names a package and a verb; this makes it both."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
