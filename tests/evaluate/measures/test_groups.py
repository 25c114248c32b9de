"""Groups that are short, groups that are left out: found where they are, and only there."""

from functools import cache

import numpy as np
import pytest
import torch

from ornstein.core.shares import Share
from ornstein.data.dataset import Attributes, Dataset
from ornstein.data.points import PointsCodec
from ornstein.evaluate.features.labelled import train_labeller
from ornstein.evaluate.measures.groups import Grouping, below, group
from ornstein.rng import generator

CODEC = PointsCodec(shape=(4,), dtype="float32", mean=(0.0,) * 4, std=(1.0,) * 4)
CENTRES = 3 * np.eye(4)[:3]


def people(count: int, *key: int | str, rare: float = 1 / 3) -> Dataset:
    """Three classes apart, and an age that the last column tells; `rare` is the third's share."""
    draw = generator("people", *key)
    label = draw.choice(3, count, p=[(1 - rare) / 2, (1 - rare) / 2, rare])
    x = CENTRES[label] + draw.standard_normal((count, 4))
    ages = 40 + 10 * x[:, 3] + 2 * draw.standard_normal(count)
    shoes = draw.standard_normal(count)
    return Dataset(
        codec=CODEC,
        stored=torch.from_numpy(x.astype(np.float32)),
        ids=[str(i) for i in range(count)],
        label=torch.from_numpy(label),
        classes=["ant", "bee", "cat"],
        attributes=Attributes.measured(["age", "shoes"], np.stack([ages, shoes], 1)),
    )


TRAIN, HELD_OUT = people(2000, "train"), people(600, "held out")


@cache
def reader():
    assert TRAIN.label is not None and HELD_OUT.label is not None
    x = [data.stored.double().numpy() for data in (TRAIN, HELD_OUT)]
    return train_labeller(x[0], TRAIN.label.numpy(), x[1], HELD_OUT.label.numpy())


def found(samples: Dataset, wanted: dict[str, float] | None = None) -> dict[str, Grouping]:
    assert samples.label is not None
    x = [data.stored.double().numpy() for data in (samples, TRAIN, HELD_OUT)]
    labeller = reader()
    sides = [{"flat": each, "learned": labeller.features(each), "fixed": each} for each in x]
    asked = [HELD_OUT.classes[c] for c in samples.label]
    groupings = group(sides, TRAIN, HELD_OUT, labeller, asked, wanted or {})
    return {grouping.of: grouping for grouping in groupings}


def test_fair_samples_are_short_of_nobody():
    fair = found(people(600, "fair"))
    assert list(fair) == ["class", "age", "shoes"]
    for of in ("class", "age"):
        assert "no group is drawn or covered less than chance allows" in fair[of].sentence
    classes = fair["class"].groups
    assert [g.name for g in classes] == ["ant", "bee", "cat"]
    for shares in ([g.got.value for g in classes], [g.data.value for g in classes]):
        assert sum(shares) == pytest.approx(1)
    for g in classes:
        assert g.asked is not None and g.right is not None and g.coverage is not None
        assert g.got.value == pytest.approx(g.asked, abs=0.03)
        assert g.right.value > 0.9 < g.real.value
        assert g.coverage.value > 0.85
        assert g.coverage.n == g.data.hits


def test_a_class_that_is_seldom_drawn_is_named():
    unfair = found(people(600, "unfair", rare=0.1))["class"]
    assert [g.name for g in unfair.groups if g.short] == ["cat"]
    assert "drawn less often than in the data: cat (" in unfair.sentence
    assert "  " not in unfair.sentence and " % against " in unfair.sentence
    assert [g.name for g in unfair.groups if g.left_out] == ["cat"]
    assert "covered less than real data cover: cat" in unfair.sentence


def test_an_age_that_is_not_drawn_is_named_and_what_nobody_can_read_is_not_judged():
    everybody = people(1200, "everybody")
    assert everybody.attributes is not None
    young = everybody.subset((everybody.attributes.values[:, 0] < 45).nonzero()[:, 0])
    groupings = found(young)
    age = groupings["age"]
    assert len(age.groups) == 4
    assert [g.name for g in age.groups if g.short] == [age.groups[3].name]
    assert age.groups[3].name.startswith("age from 4")
    assert "R² = 0.9" in age.reader
    assert groupings["shoes"].groups == []
    assert "cannot be read from examples" in groupings["shoes"].sentence


def test_what_was_asked_of_an_attribute_is_held_against_what_came():
    samples = people(600, "thirty")
    asked = found(samples, {"age": 60.0})["age"]
    assert [g.asked for g in asked.groups] == [0, 0, 0, 1]
    assert asked.groups[3].right is not None
    assert asked.groups[3].right.value == pytest.approx(0.25, abs=0.06)
    assert asked.groups[0].right is None


def test_a_share_is_below_another_only_beyond_chance():
    def share(hits: int, n: int) -> Share:
        return Share(hits=hits, n=n)

    assert below(share(50, 1000), share(100, 1000))
    assert not below(share(100, 1000), share(50, 1000))
    assert not below(share(9, 100), share(10, 100))
    assert not below(share(0, 10), share(0, 10))
    assert not below(share(10, 10), share(10, 10))
