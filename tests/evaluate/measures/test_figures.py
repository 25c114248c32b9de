"""Which figures are measured where: reduced where data are large, left out where they are few."""

import numpy as np
import pytest
import torch

from ornstein.data.codec import Codec
from ornstein.data.dataset import Dataset
from ornstein.data.image import ImageCodec
from ornstein.evaluate.features.labelled import fixed_features
from ornstein.evaluate.measures.figures import Figure, Spaces, measure_figures
from ornstein.evaluate.measures.metrics import Score
from ornstein.rng import generator


def codec(*shape: int) -> Codec:
    return ImageCodec(shape=shape, dtype="uint8", mean=(128.0,), std=(64.0,), layout="HW")


def pictures(kind: Codec, count: int, *key: int | str) -> Dataset:
    values = generator("pictures", *key).integers(0, 256, (count, *kind.shape)).astype(np.uint8)
    return Dataset(codec=kind, stored=torch.from_numpy(values), ids=[str(i) for i in range(count)])


def test_large_pictures_are_measured_on_their_principal_components():
    kind = codec(1, 16, 16)
    train = pictures(kind, 200, "train")
    spaces = Spaces(kind, {"fixed": fixed_features(kind.shape)}, train)
    found = spaces(kind.pack(train.stored))
    assert found["flat"].shape == (200, 256)
    assert found["data"].shape == (200, 64)
    assert found["fixed"].shape == (200, 64)
    centred = found["data"] - found["data"].mean(0)
    covariance = centred.T @ centred / 200
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.05 * covariance[0, 0]


def test_small_pictures_are_measured_as_they_are():
    kind = codec(1, 8, 8)
    train = pictures(kind, 20, "train")
    found = Spaces(kind, {}, train)(kind.pack(train.stored))
    assert np.array_equal(found["data"], found["flat"].astype(np.float64))


@pytest.mark.parametrize(("n", "measured"), [(40, 0), (60, 8), (100, 10), (130, 11)])
def test_each_figure_needs_enough_examples(n, measured):
    draw = generator("sides")
    dims = {"fixed": 64, "data": 4}
    sides = [{space: draw.standard_normal((n, d)) for space, d in dims.items()} for _ in range(3)]
    figures = measure_figures(*sides)
    assert len(figures) == 11
    assert sum(f.score is not None for f in figures) == measured
    for figure in figures:
        if figure.score is None:
            assert figure.sentence == f"needs {figure.fewest} examples on each side, there are {n}"
            assert figure.worse is None


def test_equal_laws_are_at_their_floor_in_every_figure_and_others_are_not():
    draw = generator("laws")
    train, held_out, same = (
        {space: draw.standard_normal((400, 6)) for space in ("fixed", "data")} for _ in range(3)
    )
    other = {space: 1.3 * x + 0.3 for space, x in same.items()}
    good, bad = measure_figures(same, train, held_out), measure_figures(other, train, held_out)
    assert all(f.worse is not None and f.worse < 4 for f in good)
    worse = {f.name: f.worse for f in bad}
    assert all(value is not None and value > 2 for name, value in worse.items() if name != "recall")


def test_only_the_features_of_inception_make_an_fid():
    draw = generator("fid")
    sides = [
        {space: draw.standard_normal((60, 4)) for space in ("flat", "data", "inception", "clip")}
        for _ in range(3)
    ]
    figures = measure_figures(*(side | {"fixed": side["data"]} for side in sides))
    assert [f.key for f in figures if f.name == "fid"] == ["fid (inception)"]
    assert {f.space for f in figures if f.name == "frechet"} == {"clip", "fixed"}


def test_the_chance_of_the_mmd_says_what_its_excess_says():
    draw = generator("one law")
    train, held_out, same = (
        {space: draw.standard_normal((200, 3)) for space in ("fixed", "data")} for _ in range(3)
    )
    other = {space: x + 0.5 for space, x in same.items()}
    for samples, low, high in ((same, 0.01, 1.0), (other, 0.0, 0.002)):
        found = measure_figures(samples, train, held_out)
        chance = next(f.chance for f in found if f.name == "mmd")
        assert chance is not None
        assert low < chance <= high
        assert all(f.chance is None for f in found if f.name != "mmd")


def test_worse_points_the_same_way_for_all():
    low = Score(value=1.0, spread=0.3, floor=2.0, floor_spread=0.4, n=100)
    for higher, expected in ((True, 2.0), (False, -2.0)):
        figure = Figure(name="x", space="data", higher=higher, score=low, fewest=50, n=100)
        assert figure.worse == pytest.approx(expected)
