"""Which encoders measure: learned from labels where they can be, else without, and one fixed."""

from dataclasses import replace

import pytest
import torch

from ornstein.data import DataOptions, open_data
from ornstein.evaluate import comparison
from ornstein.evaluate.features import encoders
from ornstein.evaluate.features.encoders import encoders_of, packed
from ornstein.evaluate.features.labelled import Features
from ornstein.evaluate.features.unlabelled import SelfTaught

DATA = open_data("8-gaussians", DataOptions(limit=400))
SIDES = DATA.split(0.2, 0)


def unlabelled(data):
    return replace(data, label=None, classes=[])


def test_labels_are_learned_from_where_there_are_enough():
    found, labeller = encoders_of(DATA.codec, *SIDES)
    assert list(found) == ["learned", "fixed"]
    assert labeller is not None and found["learned"] is labeller.features
    assert labeller.accuracy.value > 0.9


@pytest.mark.parametrize(
    "why", ["there are none", "there are too few of each", "held-out data have others"]
)
def test_without_labels_that_can_be_learned_the_examples_teach_alone(why):
    train, held_out = SIDES
    if why == "there are none":
        train, held_out = unlabelled(train), unlabelled(held_out)
    elif why == "there are too few of each":
        train = train.subset(torch.arange(70))
    else:
        held_out = replace(held_out, classes=[*held_out.classes, "another"])
    found, labeller = encoders_of(DATA.codec, train, held_out)
    assert list(found) == ["learned", "fixed"] and labeller is None
    assert isinstance(found["learned"], SelfTaught)


def test_too_few_examples_teach_nothing():
    few = SIDES[0].subset(torch.arange(encoders.FEWEST_LEARNERS - 1))
    found, labeller = encoders_of(DATA.codec, unlabelled(few), SIDES[1])
    assert list(found) == ["fixed"] and labeller is None
    assert isinstance(found["fixed"], Features)


def test_another_codec_than_the_data_s_own_may_pack_them():
    other = replace(DATA.codec, mean=tuple(m + 1 for m in DATA.codec.mean))
    gap = DATA.codec.pack(DATA.stored) - packed(other, DATA)
    assert gap.std(0).max() < 1e-5 and gap.abs().min() > 0.1


def test_a_comparison_measures_on_the_same_features_as_an_evaluation():
    found = comparison.compare(
        "moons", DataOptions(limit=500, validation=0.3), models=("gaussian",), seeds=1, count=150,
        likely=0, device="cpu", seen=64, size=8,
    )  # fmt: skip
    keys = {figure.key for figure in found.entries[0].done[0].figures}
    assert {"frechet (learned)", "frechet (fixed)"} <= keys
