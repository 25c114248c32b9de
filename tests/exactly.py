"""Runs whose denoiser is exact: what a verb makes of them is known."""

import torch
from torch import Tensor, nn

from ornstein.core.denoise import Denoiser
from ornstein.data import open_data
from ornstein.data.dataset import Dataset
from ornstein.data.options import DataOptions
from ornstein.runs.config import RunConfig
from ornstein.runs.model import Model
from ornstein.runs.vocabulary import Vocabulary


class Exact(Denoiser):
    """A denoiser of flat examples, for a model: it has a device, and knows any shape."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.here = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        told = {name: value for name, value in cond.items() if name == "label"}
        return self.denoiser(x_t.flatten(1), t, **told).view_as(x_t)


def exact_model(denoiser: Denoiser, data: Dataset) -> Model:
    """A run of `data` that was trained to perfection; of an array, so it has no folder."""
    config = RunConfig(source="array", data=data.options)
    words = Vocabulary(classes=tuple(data.classes))
    return Model(Exact(denoiser), data.codec, words, config)  # pyright: ignore


def standard(x: Tensor, labels: object = None, validation: float = 0.2) -> Dataset:
    """A dataset of `x` whose codec measures nothing worth speaking of: x is its own unit."""
    source = (x, labels) if labels is not None else x
    return open_data(source, DataOptions(validation=validation))
