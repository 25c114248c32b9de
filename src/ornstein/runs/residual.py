"""A run that learns what the mean of another run of the same pairs leaves."""

from dataclasses import replace
from math import sqrt

import torch
from torch import Tensor

from ..core.residual import Residual, regression
from ..data.dataset import Dataset
from ..data.image import ImageCodec
from ..errors import UsageError
from .model import Model

PIECE = 64  # examples at once


def around(mean: Model, model: Model) -> Model:
    """The model of pictures that a mean and a model of what it leaves are together.

    Raises:
        UsageError: If they are not of the same pairs.
    """
    check_pairs(mean, model.shape)
    denoiser = Residual(mean.denoiser, model.denoiser, model.codec.std[0])
    # what draws from a model asks of its denoiser no more than any has
    return replace(model, denoiser=denoiser.eval(), codec=mean.codec)  # pyright: ignore[reportArgumentType]


def left_by(mean: Model, train: Dataset, held: Dataset) -> tuple[Dataset, Dataset]:
    """What the mean leaves of training and held-out examples, in its units of x.

    Their codec divides by one number, the deviation of what is left of the held-out examples: of
    those that the mean was trained on, it may leave less. Without any, of the training's.

    Raises:
        UsageError: If the data are varied, or not the pairs of the mean.
    """
    check_pairs(mean, train.codec.shape)
    if train.given is None or train.options.augmentations:
        raise UsageError("A mean is for pairs that are not varied: leave flip, shift, noise out.")
    left = [_left(mean, side) for side in (train, held)]
    measured = left[1] if len(held) else left[0]
    scale = sqrt(measured.double().square().mean().item())
    if not scale > 0:
        raise UsageError("The mean leaves nothing: there is nothing to learn.")
    shape = train.codec.shape
    codec = ImageCodec(
        shape=shape,
        dtype="float32",
        mean=(0.0,) * shape[0],
        std=(scale,) * shape[0],
        format="npy",
        layout="CHW",
    )
    sides = zip((train, held), left, strict=True)
    first, second = (
        replace(side, codec=codec, stored=x.to(side.stored.device)) for side, x in sides
    )
    return first, second


def check_pairs(mean: Model, shape: tuple[int, ...]) -> None:
    """Refuse a mean that is given nothing, or makes what is not of `shape`."""
    if mean.given is None or mean.shape != shape:
        raise UsageError(
            f"The mean makes {mean.shape} {'of pictures' if mean.given else 'of nothing given'}, "
            f"but is to make {shape} of what is given: train it on the same pairs."
        )


@torch.no_grad()
def _left(mean: Model, data: Dataset) -> Tensor:
    parts = [torch.empty(0, *data.codec.shape)]
    for indices in torch.arange(len(data)).split(PIECE):
        x, cond = data.batch(indices)
        x, cond = mean.codec.pack(data.stored[indices]), {k: v.to(x) for k, v in cond.items()}
        parts.append(x - regression(mean.denoiser, x, {"context": cond["context"]}))
    return torch.cat(parts)
