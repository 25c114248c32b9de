"""Which features a set of data is measured on: learned from it, fixed, and those of others."""

import torch
from torch import Tensor

from ...data import Dataset
from ...data.codec import Codec
from ...rng import generator
from .foundation import open_foundation
from .labelled import LEARNERS, Encoder, Labeller, fixed_features, train_labeller
from .unlabelled import train_self_taught

CLASSES = 100  # more are not told apart
EXAMPLES_OF_A_CLASS = 10  # on average, for an encoder to learn from
FEWEST_LEARNERS = 64  # for an encoder to learn from without labels


def encoders_of(
    codec: Codec, train: Dataset, held_out: Dataset, foundation: str | None = None
) -> tuple[dict[str, Encoder], Labeller | None]:
    """The encoders by the names of their spaces, the most telling first.

    Those of others if they are asked for; one learned here, from the labels where there are
    enough, else from the examples alone, unless they are too few; and one fixed.

    Args:
        codec: Of what is to be measured.
        train: To learn from.
        held_out: To know how often labels are read right.
        foundation: What `open_foundation` takes.

    Returns:
        Also the classifier, where there are labels to learn from.
    """
    encoders: dict[str, Encoder] = {}
    if foundation is not None:
        opened = open_foundation(foundation, codec)
        encoders[opened.kind] = opened
    order = generator("learners").permutation(len(train))[:LEARNERS].copy()
    some = train.subset(torch.from_numpy(order))
    labeller = _labeller(codec, some, held_out)
    if labeller is not None:
        encoders["learned"] = labeller.features
    elif len(some) >= FEWEST_LEARNERS:
        encoders["learned"] = train_self_taught(packed(codec, some).numpy())
    return {**encoders, "fixed": fixed_features(codec.shape)}, labeller


def packed(codec: Codec, data: Dataset) -> Tensor:
    """All of `data` as x ``(N, C, *S)``, by a codec that may not be its own."""
    return codec.pack(data.stored)


def _labeller(codec: Codec, train: Dataset, held_out: Dataset) -> Labeller | None:
    """A classifier, where there are labels to learn from."""
    if train.label is None or held_out.label is None:
        return None
    there = train.label[train.label >= 0].unique()
    enough = len(train) >= EXAMPLES_OF_A_CLASS * len(there) and (held_out.label >= 0).any()
    if not 2 <= len(there) <= CLASSES or not enough or train.classes != held_out.classes:
        return None
    return train_labeller(
        packed(codec, train).numpy(),
        train.label.numpy(),
        packed(codec, held_out).numpy(),
        held_out.label.numpy(),
    )
