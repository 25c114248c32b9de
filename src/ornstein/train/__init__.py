"""Training: the one loop, its clock, its guards, its doctor. `train` in, a run folder out.

The package can be called, ``ornstein.train("digits", minutes=2)``, as `ornstein.train.train` can.
The names below are loaded when first used, so that importing it does not import torch.
"""

from typing import TYPE_CHECKING

from ..lazy import loader, verb

if TYPE_CHECKING:
    from .draft import Draft as Draft
    from .draft import Sequel as Sequel
    from .progress import Progress as Progress
    from .progress import shown as shown
    from .recipes import RECIPES as RECIPES
    from .recipes import recipe as recipe
    from .start import train as train

_HOME = {
    "Draft": "draft",
    "Progress": "progress",
    "RECIPES": "recipes",
    "Sequel": "draft",
    "recipe": "recipes",
    "shown": "progress",
    "train": "start",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__ = loader(__name__, _HOME)
verb(__name__)
