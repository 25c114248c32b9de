"""Datasets: order, split, batches, variation; each a function of its arguments alone."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ornstein.data import DataOptions, open_data, order
from ornstein.data.dataset import Attributes, draws_at, number_classes, vary
from ornstein.errors import DataError, UsageError


def labelled(sizes: list[int], **options):
    count = sum(sizes)
    values = np.random.default_rng(0).integers(0, 256, (count, 4, 4)).astype(np.uint8)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return open_data((values, labels), DataOptions(**options))


# --- Order ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 2**62), st.integers(0, 300), st.integers(0, 100))
def test_order_is_a_function_of_seed_and_position_alone(count, seed, first, many):
    whole = order(seed, count, range(401))
    here = range(first, first + many)
    assert torch.equal(order(seed, count, here), whole[here.start : here.stop])


def test_each_epoch_is_a_permutation_of_its_own():
    epochs = order(3, 100, range(500)).reshape(5, 100)
    assert (epochs.sort(1).values == torch.arange(100)).all()
    assert len({tuple(e.tolist()) for e in epochs}) == 5
    assert not torch.equal(order(4, 100, range(100)), epochs[0])


@pytest.mark.parametrize("sizes", [[90, 9, 1], [50, 50], [3, 1]])
def test_a_balanced_order_shows_classes_equally_often(sizes):
    dataset = labelled(sizes, balance=True)
    count, epochs = len(dataset), 60
    shown = dataset.order(0, range(count * epochs))
    labels = dataset.label[shown].reshape(epochs, count)
    for c in range(len(sizes)):
        assert ((labels == c).sum(1) - count / len(sizes)).abs().max() <= 1
    times = torch.bincount(shown, minlength=count).float()
    largest = times[: sizes[0]]  # within the class, all examples come up
    expected = epochs * count / len(sizes) / sizes[0]
    assert largest.min() > 0.4 * expected and largest.max() < 1.8 * expected


def test_order_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="count"):
        order(0, 0, range(1))
    for bad in (range(-1, 2), range(0, 8, 2)):
        with pytest.raises(ValueError, match="follow each other"):
            order(0, 5, bad)


# --- Split ---------------------------------------------------------------------------------------


def test_a_split_takes_its_share_of_each_class_and_loses_nothing():
    dataset = labelled([200, 50, 10])
    train, held = dataset.split(0.1, seed=0)
    assert torch.bincount(held.label).tolist() == [20, 5, 1]
    assert sorted(train.ids + held.ids) == dataset.ids
    assert train.codec is dataset.codec and train.fingerprint == dataset.fingerprint


def test_a_split_is_a_function_of_content_and_seed():
    dataset = labelled([200, 50])
    held = dataset.split(0.1, 7)[1]
    backwards = dataset.subset(torch.arange(249, -1, -1))
    assert set(backwards.split(0.1, 7)[1].ids) == set(held.ids)
    assert set(dataset.split(0.1, 8)[1].ids) != set(held.ids)


def test_copies_fall_on_the_same_side():
    values = np.random.default_rng(0).integers(0, 256, (100, 4, 4)).astype(np.uint8)
    dataset = open_data(np.concatenate([values, values]))
    train, held = dataset.split(0.25, 0)
    assert len(held) >= 50
    assert not {a.tobytes() for a in train.stored.numpy()} & {
        a.tobytes() for a in held.stored.numpy()
    }


def test_copies_of_other_classes_fall_on_the_same_side():
    values = np.random.default_rng(0).integers(0, 256, (200, 4, 4)).astype(np.uint8)
    values = np.concatenate([values, values[:40]])
    train, held = open_data((values, [0] * 200 + [1] * 40)).split(0.1, 0)
    assert 20 <= len(held) <= 30 and len(train) + len(held) == 240
    assert not {a.tobytes() for a in train.stored.numpy()} & {
        a.tobytes() for a in held.stored.numpy()
    }


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (2, 1), (3, 1), (9, 1), (10, 1)])
def test_training_is_never_empty(count, held_out):
    dataset = open_data(np.arange(count * 9, dtype=np.uint8).reshape(count, 3, 3))
    train, held = dataset.split(0.1, 0)
    assert (len(train), len(held)) == (count - held_out, held_out)


def test_equal_examples_are_all_for_training():
    train, held = open_data(np.ones((5, 3, 3), np.uint8)).split(0.5, 0)
    assert len(train) == 5 and len(held) == 0


def test_a_share_of_zero_holds_nothing_out():
    assert len(labelled([10, 10]).split(0.0, 0)[1]) == 0


# --- Batches and variation -----------------------------------------------------------------------


def test_a_batch_is_packed_and_carries_its_conditions():
    dataset = labelled([3, 3])
    x, cond = dataset.batch(torch.tensor([5, 0]))
    assert torch.equal(x, dataset.codec.pack(dataset.stored[[5, 0]]))
    assert set(cond) == {"label"} and cond["label"].tolist() == [1, 0]


def test_draws_are_a_function_of_seed_and_position_alone():
    whole = draws_at(5, range(3000))
    assert ((whole >= 0) & (whole < 1)).all()
    some = torch.tensor([2999, 0, 1024, 1023, 0])
    assert torch.equal(draws_at(5, some), whole[some])
    assert not torch.equal(draws_at(6, some), whole[some])


def test_untouched_is_all_zeros():
    dataset = labelled([4], flip=True, shift=2)
    x, cond = dataset.batch(torch.arange(4))
    assert torch.equal(cond["augment"], torch.zeros(4, 3))
    assert torch.equal(x, dataset.codec.pack(dataset.stored))


def test_a_variation_does_what_it_tells():
    options = DataOptions(flip=True, shift=2)
    stored = torch.arange(25, dtype=torch.uint8).reshape(1, 1, 5, 5).expand(200, 1, 5, 5)
    varied, told = vary(stored, draws_at(0, range(200)), options)
    assert told.shape == (200, options.augmentations)
    for picture, (mirrored, down, right) in zip(varied[:, 0], told.tolist(), strict=True):
        expected = stored[0, 0].flip(1) if mirrored else stored[0, 0]
        rows = (torch.arange(5) - round(2 * down)).clamp(0, 4)
        columns = (torch.arange(5) - round(2 * right)).clamp(0, 4)
        assert torch.equal(picture, expected[rows][:, columns])
    assert 60 < told[:, 0].sum() < 140
    assert set((2 * told[:, 1:]).unique().tolist()) == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize(("options", "names"), [({"flip": True}, 1), ({"shift": 3}, 2), ({}, 0)])
def test_the_condition_has_the_size_the_options_say(options, names):
    dataset = labelled([6], **options)
    _, cond = dataset.batch(torch.arange(6), draws_at(0, range(6)))
    assert dataset.options.augmentations == names
    assert ("augment" in cond) == bool(names)
    if names:
        assert cond["augment"].shape == (6, names)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16", "float32", "float64"])
def test_pictures_of_every_type_can_be_varied(dtype):
    values = (np.random.default_rng(0).random((5, 6, 7, 2)) * 2).astype(dtype)
    dataset = open_data(values, DataOptions(flip=True, shift=1))
    x, _ = dataset.batch(torch.arange(5), draws_at(0, range(5)))
    assert x.shape == (5, 2, 6, 7) and x.isfinite().all()


def test_a_variation_does_not_depend_on_the_batch_it_is_in():
    dataset = labelled([20], flip=True, shift=1)
    draws = draws_at(0, range(20))
    together, _ = dataset.batch(torch.arange(20), draws)
    alone, _ = dataset.batch(torch.tensor([7]), draws[7:8])
    assert torch.equal(together[7:8], alone)


# --- Classes -------------------------------------------------------------------------------------


def test_classes_are_in_natural_order_and_missing_is_minus_one():
    label, classes = number_classes(["10", "9", None, "", 9, float("nan"), -1], "x")
    assert classes == ["9", "10"] and label.tolist() == [1, 0, -1, -1, 0, -1, -1]
    label, classes = number_classes(["b10", "b9", None], "x")
    assert classes == ["b9", "b10"]
    assert number_classes([None, -1], "x") == (None, [])
    label, classes = number_classes(["0", "nan", "NA", "null", "1", "?"], "x")
    assert classes == ["0", "1"] and label.tolist() == [0, -1, -1, -1, 1, -1]


def test_texts_that_only_python_takes_for_numbers_are_names():
    label, classes = number_classes(["1_1", "11", "1_1"], "x")
    assert sorted(classes) == ["11", "1_1"] and label[0] == label[2] != label[1]
    label, classes = number_classes(["007", "7", "1e1"], "x")
    assert classes == ["7", "10"] and label.tolist() == [0, 0, 1]


@pytest.mark.parametrize("bad", [[0, 0.5], [0, -2], ["0.5", "1"]], ids=str)
def test_measurements_are_no_classes(bad):
    with pytest.raises(DataError, match=r"no class.*attribute"):
        number_classes(bad, "x")


def test_attributes_far_from_zero_keep_their_differences():
    seconds = 1_763_000_000 + np.arange(50.0)[:, None]
    attributes = Attributes.measured(["seconds"], seconds)
    standard = attributes.standard(torch.arange(50))[:, 0]
    expected = (np.arange(50) - 24.5) / np.arange(50).std()
    assert standard.dtype == torch.float32
    torch.testing.assert_close(standard, torch.from_numpy(expected).float())


# --- Imports -------------------------------------------------------------------------------------


def test_the_options_need_no_torch_and_the_package_no_decoder():
    code = (
        "import sys; from ornstein.data import DataOptions; DataOptions();"
        "assert 'torch' not in sys.modules;"
        "from ornstein.data import open_data, ImageCodec, PointsCodec, profile_data;"
        "heavy = {'PIL', 'tifffile', 'sklearn', 'matplotlib', 'scipy', 'pydantic'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exact_copies_within_a_class_are_dropped_if_asked():
    pictures = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)[[0, 1, 0, 2, 1, 3]]
    labels = np.array([0, 0, 0, 1, 1, 1])
    kept = open_data((pictures, labels), DataOptions(duplicates="drop"))
    assert len(open_data((pictures, labels))) == 6
    assert torch.equal(kept.stored[:, 0], torch.from_numpy(pictures[[0, 1, 3, 4, 5]]))
    assert kept.label is not None and kept.label.tolist() == [0, 0, 1, 1, 1]
    with pytest.raises(UsageError, match="keep or drop"):
        DataOptions(duplicates="maybe")  # type: ignore[arg-type]
