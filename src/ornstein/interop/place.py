"""What a path is: a run of ours, a pipeline of diffusers, or one of them on the Hub."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..runs.model import Model, load
from .hub import MARK, fetched
from .pipeline import INDEX, Pipeline


def open_model(
    place: str | Path, texts: Sequence[str] = (), *, device: str | torch.device = "cpu"
) -> Model:
    """The model at a place.

    Args:
        place: A run folder; a folder with a ``model_index.json``; or ``hf:user/name``, which is
            fetched once.
        texts: What may be asked for, where the network reads texts.
        device: Where to put the network.

    Raises:
        UsageError: If it is none of these.
        StorageError: If a run has no checkpoint that verifies.
        ModelFileError: If it cannot be mapped, or its weights are refused.
    """
    if str(place).startswith(MARK):
        place = fetched(str(place))
    if (Path(place) / INDEX).is_file():
        from .diffusers import ENCODERS, load_diffusers

        reads = Pipeline(Path(place)).part(ENCODERS, needed=False) is not None
        asked = [text for text in dict.fromkeys(texts) if text != "any"]
        return load_diffusers(place, asked if reads else (), device=device)
    return load(place, device=device)
