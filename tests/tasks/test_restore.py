"""Restoring: what is known is kept, what is masked is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein.errors import DataError, UsageError
from ornstein.tasks.restore import restore
from untrained import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def stored():
    return torch.randint(0, 17, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture
def hole():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 4:] = True
    return mask


def test_what_is_known_is_kept_exactly_and_the_rest_is_drawn(model, stored, hole):
    restored = restore(model, stored, hole, draws=3)
    arrays, given = restored.samples.arrays.reshape(2, 3, 8, 8), stored[:, :, :].numpy()
    assert np.array_equal(arrays[:, :, :4], np.repeat(given[:, :, :4], 3, 1))
    assert (arrays[:, 0, 4:] != arrays[:, 1, 4:]).any()
    assert not torch.equal(restored.samples.x[0, 0, 4:], restored.given[0, 0, 4:])


def test_each_restoration_depends_on_its_number_alone(model, stored, hole):
    both = restore(model, stored, hole, 2).samples.x
    assert torch.equal(restore(model, stored[:1], hole, 2).samples.x, both[:2])


def test_what_is_known_changes_what_is_drawn(model, stored, hole):
    darker = stored.clone()
    darker[:, :, :4] = 0
    a, b = (restore(model, s, hole, 1).samples.x[:, :, 4:] for s in (stored, darker))
    assert not torch.equal(a, b)


def test_each_picture_may_have_a_mask_of_its_own(model, stored, hole):
    masks = torch.stack([hole, ~hole])
    restored = restore(model, stored, masks, 1)
    assert torch.equal(restored.keep, ~masks)
    same = restored.samples.x == restored.given
    assert bool(same[restored.keep].all())


def test_masks_and_pictures_come_from_files(model, stored, hole, tmp_path):
    (picture,) = model.codec.save(model.codec.pack(stored[:1]), tmp_path)
    mask = Image.fromarray(np.kron(hole[0].numpy(), np.ones((4, 4))).astype(np.uint8) * 255)
    mask.save(tmp_path / "mask.png")
    from_files = restore(model, picture, tmp_path / "mask.png", 2)
    assert torch.equal(from_files.samples.x, restore(model, stored[:1], hole, 2).samples.x)
    paths = from_files.save(tmp_path / "out")
    assert len(paths) == 2
    assert torch.equal(model.codec.read(paths[0])[:, :, :4], stored[:1, :, :4])


def test_the_panel_has_a_row_for_each_picture(model, stored, hole):
    restored = restore(model, stored, hole, 3)
    across, down = restored.panel(scale=1).size
    assert across / down == pytest.approx((3 + 2) / 2, rel=0.1)
    assert restored._repr_png_()[:4] == b"\x89PNG"


def test_a_mask_or_picture_that_does_not_fit_is_named(model, stored, hole, tmp_path):
    with pytest.raises(UsageError, match="booleans"):
        restore(model, stored, hole.float())
    with pytest.raises(UsageError, match="does not fit"):
        restore(model, stored, torch.ones(9, 9, dtype=torch.bool))
    with pytest.raises(UsageError, match="asks for nothing"):
        restore(model, stored, torch.zeros_like(hole))
    with pytest.raises(UsageError, match="shape"):
        restore(model, stored[..., :4], hole)
    with pytest.raises(UsageError, match="draws = 0"):
        restore(model, stored, hole, 0)
    with pytest.raises(DataError, match=r"none\.png"):
        restore(model, tmp_path / "none.png", hole)
    with pytest.raises(UsageError, match="at least one"):
        restore(model, [], hole)
