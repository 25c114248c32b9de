"""Masks drawn several times over: their vote, their mean, their doubt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein.data import DataOptions, open_data
from ornstein.errors import DataError, UsageError
from ornstein.tasks.sample import sample
from ornstein.tasks.segment import Segmented, compare, segment
from untrained import grey_codec, tiny_model

MASKS = replace(grey_codec((1, 8, 8)), values=(0, 4, 16))


@pytest.fixture(scope="module")
def model():
    return replace(tiny_model(given=(1, 8, 8)), codec=MASKS)


@pytest.fixture
def pictures(tmp_path):
    for i, value in enumerate((10, 200, 90)):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / f"cell{i}.png")
    return tmp_path


def told(*shares):
    """Two values, 0 and 16, one picture: the share of masks that say 16 at each place."""
    high = torch.tensor(shares, dtype=torch.float32).view(1, 1, 1, -1)
    codec = replace(grey_codec((1, 1, len(shares))), values=(0, 16))
    given = torch.zeros(1, 1, 1, len(shares), dtype=torch.uint8)
    return Segmented(("a",), given, torch.stack([1 - high, high], 1), codec, codec)


def test_the_vote_the_mean_and_the_doubt_of_known_shares():
    found = told(0.0, 0.25, 0.5, 0.75, 1.0)
    assert found.masks.ravel().tolist() == [0, 0, 0, 16, 16]
    assert found.mean.flatten().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.doubt.flatten().tolist() == [0, 0.25, 0.5, 0.25, 0]


@pytest.mark.parametrize(
    ("shares", "truth", "dice"),
    [
        ([1, 1, 0, 0], [16, 0, 0, 0], 2 / 3),
        ([1, 1, 0, 0], [0, 0, 16, 16], 0.0),
        ([1, 0, 1, 0], [16, 0, 16, 0], 1.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),
    ],
)
def test_overlap_is_dice(shares, truth, dice):
    assert told(*shares).overlap(np.array(truth).reshape(1, 1, 1, 4)) == [pytest.approx(dice)]


def test_the_masks_are_those_that_sampling_draws(model, pictures):
    found = segment(model, pictures, draws=4)
    given = [p for p in sorted(pictures.glob("*.png")) for _ in range(4)]
    drawn = MASKS.stored(sample(model, 12, given=given).x)
    assert set(np.unique(drawn)) <= {0, 4, 16}
    expected = np.stack([(drawn == v).reshape(3, 4, 1, 8, 8).mean(1) for v in (0, 4, 16)], 1)
    np.testing.assert_allclose(found.shares, expected)
    torch.testing.assert_close(found.shares.sum(1), torch.ones(3, 1, 8, 8))
    assert found.names == ("cell0", "cell1", "cell2")


def test_a_mask_is_written_in_the_format_of_the_data(model, pictures, tmp_path):
    found = segment(model, [pictures / "cell1.png"], draws=3)
    paths = found.save(tmp_path / "out")
    assert [p.name for p in paths] == ["cell1-mask.png", "cell1-mean.png", "cell1-doubt.png"]
    assert np.array_equal(MASKS.read(paths[0]).numpy(), found.masks)
    assert compare(found, paths[0]) == [1.0]
    mean = np.asarray(Image.open(paths[1]))
    np.testing.assert_allclose(mean, 255 * found.mean[0, 0], atol=0.51)
    assert found.panel(2).size == (4 * 18 + 2, 18 + 2)


def test_masks_of_pictures_that_were_scaled_are_as_large_as_they_were(model, tmp_path):
    sized = replace(model, config=replace(model.config, data=DataOptions(size=8)))
    Image.fromarray(np.full((48, 32), 90, np.uint8)).save(tmp_path / "tall.png")
    found = segment(sized, tmp_path / "tall.png", draws=3)
    mask, mean, _ = (np.asarray(Image.open(p)) for p in found.save(tmp_path / "out"))
    assert mask.shape == mean.shape == (48, 32)
    assert not mask[:8].any() and not mask[-8:].any()  # cut off before the network saw it
    small = mask[8:-8][2::4, 2::4]
    np.testing.assert_array_equal(np.rint(small / 255 * 16), found.masks[0, 0])
    np.testing.assert_array_equal(mask[8:-8], small.repeat(4, 0).repeat(4, 1))


def test_what_makes_no_masks_is_refused(model, pictures):
    for other in (tiny_model(given=(1, 8, 8)), replace(tiny_model(), codec=MASKS)):
        with pytest.raises(UsageError, match="does not make masks"):
            segment(other, pictures)
    with pytest.raises(UsageError, match="2 true masks for 3"):
        compare(segment(model, pictures, draws=1), sorted(pictures.glob("*.png"))[:2])


def test_cells_come_with_their_masks_and_only_two_values():
    made = open_data("cells", DataOptions(given="image", make="mask", limit=40))
    assert made.codec.values == (0, 255) and made.given.codec.values is None
    lit = made.given.stored[made.stored == 255].double().mean()
    assert lit > 1.2 * made.given.stored[made.stored == 0].double().mean()
    drawn = made.codec.stored(torch.randn(2, 1, 32, 32))
    assert set(np.unique(drawn)) == {0, 255}
    plain = open_data("cells", DataOptions(limit=40))
    assert torch.equal(plain.stored, made.given.stored) and plain.given is None
    with pytest.raises(DataError, match="no pairs"):
        open_data("cells", DataOptions(given="mask", make="mask", limit=4))
