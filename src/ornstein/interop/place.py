"""What a path is: a run of ours, a pipeline of diffusers, or one of them on the Hub."""

from pathlib import Path

import torch

from ..runs.model import Model, load
from .hub import MARK, fetched
from .pipeline import INDEX


def open_model(place: str | Path, *, device: str | torch.device = "cpu") -> Model:
    """The model at a place.

    Args:
        place: A run folder; a folder with a ``model_index.json``; or ``hf:user/name``, which is
            fetched once.
        device: Where to put the network.

    Raises:
        UsageError: If it is none of these.
        StorageError: If a run has no checkpoint that verifies.
        ModelFileError: If it cannot be mapped, or its weights are refused.
    """
    if str(place).startswith(MARK):
        place = fetched(str(place))
    if (Path(place) / INDEX).is_file():
        from .diffusers import load_diffusers

        return load_diffusers(place, device=device)
    return load(place, device=device)
