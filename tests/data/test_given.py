"""Pairs of pictures: found, matched, varied and split together."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein.data import DataOptions, open_data
from ornstein.data.dataset import draws_at
from ornstein.errors import DataError, UsageError


def write(path, value, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Two folders: what is made is twice as wide and twice as bright."""
    for i in range(6):
        write(tmp_path / "low" / f"{i}.png", 10 * i)
        write(tmp_path / "high" / f"{i}.png", 20 * i, (8, 8))
    return tmp_path


def test_two_folders_pair_by_name(folders):
    data = open_data(folders, DataOptions(given="low", make="high"))
    assert data.codec.shape == (3, 8, 8) and data.given.codec.shape == (3, 4, 4)
    assert torch.equal(data.stored[:, 0, 0, 0], 2 * data.given.stored[:, 0, 0, 0])
    assert not data.classes


def test_columns_of_metadata_pair_and_are_no_examples_of_their_own(tmp_path):
    rows = []
    for i in range(4):
        write(tmp_path / f"cell-{i}.png", 40 * i)
        write(tmp_path / "masks" / f"m{i}.png", 255 * (i % 2))
        rows.append({"file_name": f"cell-{i}.png", "mask_file_name": f"masks/m{i}.png"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(open_data(tmp_path)) == 4
    data = open_data(tmp_path, DataOptions(given="image", make="mask"))
    assert data.stored[:, 0, 0, 0].tolist() == [0, 255, 0, 255]
    assert data.given.stored[:, 0, 0, 0].tolist() == [0, 40, 80, 120]
    swapped = open_data(tmp_path, DataOptions(given="mask"))
    assert swapped.stored[:, 0, 0, 0].tolist() == [0, 40, 80, 120]


def test_what_has_no_partner_is_named_or_left_out(folders):
    (folders / "low" / "3.png").unlink()
    options = DataOptions(given="low", make="high")
    with pytest.raises(DataError, match=r"high/3\.png.*nothing is given"):
        open_data(folders, options)
    data = open_data(folders, DataOptions(given="low", make="high", on_bad="skip"))
    assert len(data) == 5 and [p.path for p in data.problems] == ["high/3.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"given": "lows", "make": "high"}, r"no pairs of 'lows' and 'high'.*high, low"),
        ({"given": "low"}, "no pairs of 'low'"),
        ({"given": "small-9", "make": None}, "smaller than the pictures, 8 x 8"),
        ({"given": "small-0"}, "smaller"),
    ],
)
def test_what_cannot_be_given_is_said(folders, options, words):
    (folders / "high" / "3.png").rename(folders / "high" / "03.png")
    source = folders if "low" in options["given"] else folders / "high"
    with pytest.raises(DataError, match=words):
        open_data(source, DataOptions(**options))


def test_to_make_something_needs_something_given():
    with pytest.raises(UsageError, match="needs given"):
        DataOptions(make="high")


def test_points_have_nothing_small():
    with pytest.raises(DataError, match="for pictures"):
        open_data("moons", DataOptions(given="small-2"))


def test_the_small_picture_is_the_mean_of_what_it_covers():
    data = open_data("digits", DataOptions(given="small-4", limit=50))
    blocks = data.stored.double().unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    told = data.given.stored.double()
    together = torch.stack([blocks.flatten(), told.flatten()])
    assert torch.corrcoef(together)[0, 1] > 0.97
    assert told.max() <= 16


def test_grey_is_the_luminance():
    data = open_data("flower", DataOptions(given="grey", limit=8, size=16))
    red, green, blue = data.stored.double().unbind(1)
    assert (data.given.stored[:, 0] - (0.299 * red + 0.587 * green + 0.114 * blue)).abs().max() < 1


def test_the_context_is_standardised_and_as_large_as_the_example():
    data = open_data("digits", DataOptions(given="small-4"))
    x, cond = data.batch(torch.arange(len(data)))
    assert cond["context"].shape == x.shape
    assert abs(cond["context"].mean()) < 0.05 and 0.6 < cond["context"].std() < 1.1


def test_what_is_given_is_mirrored_and_moved_with_its_example():
    options = DataOptions(given="grey", flip=True, shift=3, limit=16, size=16)
    data = open_data("flower", options)
    draws = draws_at(0, range(16))
    x, cond = data.batch(torch.arange(16), draws)
    plain, told = data.batch(torch.arange(16))
    assert not torch.equal(plain, x) and not torch.equal(told["context"], cond["context"])
    std, mean = torch.tensor(data.codec.std), torch.tensor(data.codec.mean)
    grey = (
        (x * std[:, None, None] + mean[:, None, None])
        * torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    ).sum(1)
    again = cond["context"][:, 0] * data.given.codec.std[0] + data.given.codec.mean[0]
    assert (grey - again).abs().max() < 1


def test_split_and_subset_keep_pairs_together(folders):
    data = open_data(folders, DataOptions(given="low", make="high"))
    for part in data.split(0.4, seed=1):
        assert torch.equal(part.stored[:, 0, 0, 0], 2 * part.given.stored[:, 0, 0, 0])


def test_what_is_given_counts_in_the_fingerprint_and_in_copies(folders):
    options = DataOptions(given="low", make="high", duplicates="drop")
    before = open_data(folders, options)
    write(folders / "low" / "6.png", 77)
    write(folders / "high" / "6.png", 100, (8, 8))  # as high/5, from another low
    after = open_data(folders, options)
    assert len(after) == len(before) + 1
    write(folders / "low" / "6.png", 78)
    assert open_data(folders, options).fingerprint != after.fingerprint
