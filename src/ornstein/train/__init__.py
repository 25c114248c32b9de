"""Training: the one loop, its clock, its guards, its doctor. `train` in, a run folder out.

The package can be called, ``ornstein.train("digits", minutes=2)``, as `ornstein.train.train` can.
The names below are loaded when first used, so that importing it does not import torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .progress import Progress as Progress
    from .progress import shown as shown
    from .recipes import RECIPES as RECIPES
    from .recipes import recipe as recipe
    from .start import train as train

_HOME = {
    "Progress": "progress",
    "RECIPES": "recipes",
    "recipe": "recipes",
    "shown": "progress",
    "train": "start",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


class _Callable(ModuleType):
    """`ornstein.train` names a package and a verb; this makes it both."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.train(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
