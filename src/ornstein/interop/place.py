"""What a path is: a run of ours, a pipeline of diffusers, or one of them on the Hub."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..runs.adapters import Adapter, parsed, worn
from ..runs.lent import lender, opened_once
from ..runs.model import Model, load
from .adopted import LENT
from .diffusers import load_diffusers
from .hub import MARK, fetched
from .pipeline import INDEX
from .words import with_word

__all__ = ["load", "open_model"]


def open_model(
    place: str | Path,
    *,
    device: str | torch.device = "cpu",
    adapters: Sequence[Adapter] = (),
) -> Model:
    """The model at a place.

    Args:
        place: A run folder; a folder with a ``model_index.json``; or ``hf:user/name``, which is
            fetched once.
        device: Where to put the network.
        adapters: What to put on, one after the other: folders, and the files of words.

    Raises:
        UsageError: If it is none of these, or an adapter was learned on something else.
        StorageError: If a run has no checkpoint that verifies.
        ModelFileError: If it cannot be mapped, or its weights are refused.
    """
    if str(place).startswith(MARK):
        place = fetched(str(place))
    files = [path for adapter in adapters if (path := parsed(adapter)[0]).is_file()]
    folders = [adapter for adapter in adapters if parsed(adapter)[0] not in files]
    if (Path(place) / INDEX).is_file():
        if folders:
            with opened_once():
                model = worn(lender(LENT, place).to(device), folders)
        else:
            model = load_diffusers(place, device=device)
    else:
        model = load(place, device=device, adapters=folders)
    for path in files:
        model = with_word(model, path)
    return model
