"""Patches cut from pictures of any sizes, at random places."""

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein.data import DataOptions, draws_at, open_data
from ornstein.data.patches import Patches, lay
from ornstein.errors import DataError, Notice, UsageError

SIZES = [(9, 14), (5, 5), (12, 7)]
SIZE = 4


def where(count: int) -> list[tuple[str, np.ndarray]]:
    """Pictures ``(3, H, W)`` whose pixels say where they are: picture, row, column."""
    pictures = []
    for k in range(count):
        height, width = SIZES[k % 3]
        rows, columns = np.mgrid[:height, :width]
        pictures.append((f"p{k}", np.stack([np.full_like(rows, k), rows, columns]).astype("u1")))
    return pictures


@pytest.fixture
def folder(tmp_path):
    """Three pictures of noise, of different sizes, two of them of class b."""
    draw = np.random.default_rng(0)
    for name, (height, width) in zip(("a/1", "b/2", "b/3"), SIZES, strict=True):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(256, size=(height, width, 3), dtype=np.uint8)).save(path)
    return tmp_path


def origins(patches: Patches) -> list[tuple[int, int, int]]:
    """Every place where a random patch may begin, once for each way to."""
    found = []
    for i, (_, _, rows, columns) in enumerate(patches.cell.tolist()):
        steps = torch.cartesian_prod(torch.arange(rows) / rows, torch.arange(columns) / columns)
        drawn = patches.drawn(torch.full((len(steps),), i), steps.double() + 1e-9)
        found += [tuple(corner) for corner in drawn[:, :, 0, 0].tolist()]
    return found


def test_every_patch_of_every_picture_is_as_likely():
    found = origins(lay(where(3), SIZE))
    expected = [
        (k, y, x)
        for k, (height, width) in enumerate(SIZES)
        for y in range(height - SIZE + 1)
        for x in range(width - SIZE + 1)
    ]
    assert sorted(found) == expected


def test_a_patch_is_a_square_of_its_picture():
    patches = lay(where(3), SIZE)
    indices = torch.arange(len(patches)).repeat(20)
    for cut in (patches.drawn(indices, draws_at(0, range(len(indices)))[:, 1:]), patches.fixed()):
        rows, columns = np.mgrid[:SIZE, :SIZE]
        corner = cut[:, :, :1, :1].long()
        grid = torch.from_numpy(np.stack([np.zeros_like(rows), rows, columns]))
        assert torch.equal(cut.long(), corner + grid)


def test_fixed_patches_do_not_overlap_and_are_named_after_their_place():
    patches = lay(where(3), SIZE)
    fixed = patches.fixed()
    pixels = fixed.movedim(1, 3).reshape(-1, 3).tolist()
    assert len({tuple(p) for p in pixels}) == len(pixels) == len(patches) * SIZE**2
    corners = [f"p{k}@{y},{x}" for k, y, x in fixed[:, :, 0, 0].tolist()]
    assert patches.ids == corners


@pytest.mark.parametrize("count", [3, 40], ids=["strips", "whole pictures"])
def test_no_pixel_is_on_both_sides_of_a_split(count):
    patches = lay(where(count), SIZE)
    sides = []
    for part in patches.split(0.2, seed=1):
        covered = set()
        for k, y, x in origins(part):
            covered |= {(k, y + i, x + j) for i in range(SIZE) for j in range(SIZE)}
        sides.append(covered)
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert len(sides[1]) < len(sides[0])


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.4])
def test_copies_of_a_picture_are_held_out_together(fraction):
    pictures = np.random.default_rng(0).integers(256, size=(12, 1, 8, 8), dtype=np.uint8)
    twice = [(f"p{i}", pictures[i % 12]) for i in range(24)]
    train, held = lay(twice, 8).split(fraction, seed=0)
    assert len(held) >= 24 * fraction - 0.5 and len(train) + len(held) == 24
    assert not {p.tobytes() for p in train.fixed().numpy()} & {
        p.tobytes() for p in held.fixed().numpy()
    }
    same = lay([(f"p{i}", pictures[0]) for i in range(24)], 8)
    assert [len(side) for side in same.split(fraction, seed=0)] == [24, 0]


def test_what_is_too_small_to_be_parted_is_trained_on():
    patches = lay(where(2)[1:], SIZE)
    train, held = patches.split(0.5, seed=0)
    assert len(train) == 1 and len(held) == 0 and held.fixed().shape == (0, 3, SIZE, SIZE)


def test_it_is_said_if_nothing_can_be_held_out():
    data = open_data(np.zeros((6, 10, 10), np.uint8), DataOptions(patch=8))
    with pytest.warns(Notice, match="Nothing is held out of array.*below 8"):
        train, held = data.split(0.1, 0)
    assert (len(train), len(held)) == (6, 0)


def test_a_folder_of_any_sizes_is_cut_and_keeps_its_classes(folder):
    data = open_data(folder, DataOptions(patch=SIZE))
    assert data.codec.shape == (3, SIZE, SIZE) and len(data) == 2 * 3 + 1 + 3 * 1
    assert data.sizes == {(14, 9): 1, (5, 5): 1, (7, 12): 1}
    for side in (data, *data.split(0.3, 0)):
        names = [side.classes[c] for c in side.label.tolist()]
        assert names == [name.split("/")[0] for name in side.pictures]
    whole = np.concatenate(
        [
            np.asarray(Image.open(folder / p)).reshape(-1, 3)
            for p in ("a/1.png", "b/2.png", "b/3.png")
        ]
    )
    assert data.codec.mean == pytest.approx(whole.mean(0).tolist())
    assert data.codec.std == pytest.approx([np.sqrt(whole.var(0).mean())] * 3)


def test_what_training_sees_is_a_function_of_seed_and_position(folder):
    data = open_data(folder, DataOptions(patch=SIZE))
    positions = range(30)
    indices = data.order(5, positions)
    all_at_once, _ = data.batch(indices, draws_at(5, positions))
    later, _ = data.batch(indices[20:], draws_at(5, positions[20:]))
    assert torch.equal(all_at_once[20:], later)
    assert not torch.equal(all_at_once, data.batch(indices, draws_at(6, positions))[0])


def test_arrays_of_one_size_and_sixteen_bits_are_cut_too():
    pictures = np.random.default_rng(0).integers(60_000, size=(4, 8, 8), dtype=np.uint16)
    data = open_data((pictures, ["a", "b", "a", "b"]), DataOptions(patch=SIZE))
    assert len(data) == 16 and data.stored.dtype == torch.uint16
    assert data.label.tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    assert (data.stored[5, 0].numpy() == pictures[1, :4, 4:]).all()
    drawn, _ = data.batch(torch.arange(16), draws_at(0, range(16)))
    assert drawn.shape == (16, 1, SIZE, SIZE)


def test_the_fingerprint_knows_pixels_that_no_fixed_patch_shows():
    pictures = np.zeros((1, 8, 11), np.uint8)
    marks = []
    for value in (0, 1):
        pictures[0, 0, 4] = value  # between the fixed patches
        marks.append(open_data(pictures, DataOptions(patch=3)).fingerprint)
    assert marks[0] != marks[1]


def test_values_are_few_only_if_they_are_in_all_pixels():
    pictures = np.zeros((40, 8, 17), np.uint8)
    pictures[:, 2:5] = 1
    masks = open_data(pictures, DataOptions(patch=8))
    pictures[0, 0, 8] = 2  # between the fixed patches
    seen = open_data(pictures, DataOptions(patch=8))
    assert masks.codec.values == (0, 1) and seen.codec.values == (0, 1, 2)
    pictures[0, :, 8] = np.arange(100, 108)
    many = open_data(pictures, DataOptions(patch=8))
    assert many.codec.values is None


def test_what_cannot_be_cut_is_said(folder):
    with pytest.raises(
        DataError, match=r"2\.png cannot be used: it is 5 x 5, less than a patch of 6"
    ):
        open_data(folder, DataOptions(patch=6))
    kept = open_data(folder, DataOptions(patch=6, on_bad="skip"))
    assert [p.path for p in kept.problems] == ["b/2.png"]
    with pytest.raises(DataError, match="no picture as large as a patch of 20"):
        open_data(folder, DataOptions(patch=20, on_bad="skip"))
    with pytest.raises(DataError, match="patch 2 is for pictures"):
        open_data("moons", DataOptions(patch=2))
    with pytest.raises(UsageError, match="shift is not for patches"):
        DataOptions(patch=4, shift=1)
    with pytest.raises(UsageError, match="patch is not for pairs"):
        DataOptions(patch=4, given="grey")
    with pytest.raises(DataError, match=r"or cut examples from them, as --data\.patch"):
        open_data(folder)


def test_photographs_leave_two_out():
    pytest.importorskip("skimage")
    photographs = open_data("photographs")
    assert photographs.options.patch == 32 and len(set(photographs.pictures)) == 5
    left_out = open_data("photographs-left-out", DataOptions(patch=64))
    assert set(left_out.pictures) == {"astronaut", "cat"}
    assert not set(left_out.pictures) & set(photographs.pictures)
