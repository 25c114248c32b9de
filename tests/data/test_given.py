"""Pairs of pictures: found, matched, varied and split together."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein.data import DataOptions, open_data
from ornstein.data.dataset import draws_at
from ornstein.data.given import edges, sketch
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


@pytest.mark.parametrize("word", ["edges", "grey", "sketch", "small-2"])
def test_folders_may_be_called_what_can_also_be_derived(folders, word):
    (folders / "low").rename(folders / word)
    data = open_data(folders, DataOptions(given=word, make="high"))
    assert len(data) == 6
    assert torch.equal(data.stored[:, 0, 0, 0], 2 * data.given.stored[:, 0, 0, 0])


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


def named(root, path, **options):
    """The one problem, which is named at once unless it is left out; the dataset without it."""
    with pytest.raises(DataError, match=re.escape(path)):
        open_data(root, DataOptions(**options))
    data = open_data(root, DataOptions(**options, on_bad="skip"))
    assert [p.path for p in data.problems] == [path]
    return data


def test_what_is_given_for_nothing_is_named_too(folders):
    (folders / "high" / "3.png").unlink()
    assert len(named(folders, "low/3.png", given="low", make="high")) == 5


def test_a_stack_for_a_single_picture_is_named(folders):
    (folders / "high" / "3.png").unlink()
    pages = [Image.new("RGB", (8, 8)) for _ in range(2)]
    pages[0].save(folders / "high" / "3.tif", save_all=True, append_images=pages[1:])
    options = {"given": "low", "make": "high"}
    with pytest.raises(DataError, match=r"high/3\.tif#0.*low/3\.png.*other pages"):
        open_data(folders, DataOptions(**options))
    data = open_data(folders, DataOptions(**options, on_bad="skip"))
    assert len(data) == 5 and [p.path for p in data.problems] == ["high/3.tif#0", "high/3.tif#1"]


@pytest.mark.parametrize(
    ("rows", "path"),
    [
        ("0.png,m0.png\n1.png,m1.png\n", "2.png"),
        ("0.png,m0.png\n1.png,m1.png\n2.png,\n", "2.png"),
        ("0.png,m0.png\n1.png,m1.png\n2.png,m1.png\n", "2.png"),
        ("0.png,m0.png\n1.png,m1.png\n2.png,gone.png\n", "gone.png"),
    ],
    ids=["no row", "an empty cell", "a mask of two", "no file"],
)
def test_what_metadata_pair_with_nothing_is_named(tmp_path, rows, path):
    for name in ("0", "1", "2", "m0", "m1"):
        write(tmp_path / f"{name}.png", 9)
    (tmp_path / "metadata.csv").write_text("file_name,mask_file_name\n" + rows)
    assert len(named(tmp_path, path, given="image", make="mask")) == 2


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


@pytest.mark.parametrize("options", [{"make": "high"}, {"given_noise": 0.5}])
def test_what_is_for_pairs_needs_something_given(options):
    with pytest.raises(UsageError, match="needs given"):
        open_data("digits", DataOptions(**options))


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


# --- Lines ---------------------------------------------------------------------------------------


def step_picture(angle):
    """A picture of two halves, on either side of a line through its centre, 16 x 16."""
    rows, columns = torch.meshgrid(torch.arange(16) - 7.5, torch.arange(16) - 7.5, indexing="ij")
    angle = torch.tensor(angle)
    return torch.tanh(columns * angle.cos() + rows * angle.sin())[None, None]


@pytest.mark.parametrize("angle", [0.0, 0.785, 1.571, 2.356])
def test_an_edge_is_a_thin_line_where_two_halves_meet(angle):
    x = step_picture(angle)
    lines = edges(x)[0, 0]
    far = x[0, 0].abs() > 0.95
    assert lines.max() > 0.9 and not lines[far].any()
    assert 14 <= (lines > 0.5).sum() <= 34  # one or two pixels across
    assert torch.equal(edges(3 * x + 1)[0, 0] > 0.5, lines > 0.5)


def test_what_is_flat_has_no_edges_and_a_sketch_has_no_shades():
    flat = torch.ones(1, 3, 8, 8)
    assert not edges(flat).any() and not sketch(flat).any()
    strokes = sketch(step_picture(0.5))
    assert strokes.any() and set(strokes.unique().tolist()) == {0.0, 1.0}
    assert (edges(step_picture(0.5))[strokes > 0] > 0).all()


@pytest.mark.parametrize("word", ["edges", "sketch"])
def test_lines_are_given_as_pictures_of_one_channel(word):
    data = open_data("flower", DataOptions(limit=4, size=16, given=word))
    assert data.given is not None and data.given.stored.shape == (4, 1, 16, 16)
    assert data.given.stored.dtype == torch.uint8 and data.given.stored.max() == 255
    _, cond = data.batch(torch.arange(4))
    assert cond["context"].shape == (4, 1, 16, 16)
