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
    with pytest.raises(UsageError, match=r"draws \(-n\) = 0"):
        restore(model, stored, hole, 0)
    with pytest.raises(DataError, match=r"none\.png"):
        restore(model, tmp_path / "none.png", hole)
    with pytest.raises(UsageError, match="at least one"):
        restore(model, [], hole)


# --- Other operators -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"upscale": 2},
        {"deblur": "1"},
        {"denoise": 2.0},
        {"mri": "cartesian"},
        {"ct": 6},
        {"operator": "quantise", "parameters": {"step": 4}},
        {"operator": "motion-blur", "parameters": {"length": 3, "angle": 45}},
    ],
    ids=str,
)
def test_any_operator_can_be_measured_and_mended(model, stored, options):
    restored = restore(model, stored, draws=2, steps=3, simulate=True, **options)
    assert restored.samples.arrays.shape == (4, 8, 8)
    assert not restored.keep.any()
    assert restored.mean.shape == restored.sd.shape == (2, 1, 8, 8)
    across, down = restored.panel(scale=1).size
    assert across / down == pytest.approx((2 + 2) / 2, rel=0.1)


def test_an_exact_measurement_explains_the_restorations(model, stored):
    restored = restore(model, stored, draws=1, upscale=2, simulate=True, noise=0.0)
    small = restored.samples.x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    given = model.codec.pack(stored).unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert torch.allclose(small, given, atol=1e-4)


def test_a_small_picture_from_a_file_is_what_a_tensor_of_it_is(model, stored, tmp_path):
    small = stored[:1, :, ::2, ::2]
    values = (small[0, 0].numpy() * (255 / 16)).round().astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "small.png")
    from_file = restore(model, tmp_path / "small.png", upscale=2, draws=1)
    from_tensor = restore(model, small, upscale=2, draws=1)
    assert torch.allclose(from_file.samples.x, from_tensor.samples.x, atol=0.1)
    (path,) = from_file.save(tmp_path / "out")
    assert path.name == "small-0.png"


def test_mean_and_standard_deviation_are_written(model, stored, hole, tmp_path):
    (picture,) = model.codec.save(model.codec.pack(stored[:1]), tmp_path)
    restored = restore(model, picture, hole, 3)
    paths = restored.save(tmp_path / "out", uncertainty=True)
    assert [p.parent.name for p in paths] == ["out"] * 3 + ["mean", "sd", "sd"]
    sd = np.load(paths[-2])
    assert sd.shape == (1, 8, 8) and (sd[:, :4] == 0).all() and (sd[:, 4:] > 0).any()
    mean = model.codec.read(paths[-3])
    assert torch.equal(mean[:, :, :4], stored[:1, :, :4])
    seen = Image.open(paths[-1])
    white = float(seen.info["Comment"].split()[-5])
    assert f"white {sd.max():.4g} units" in restored.legend
    np.testing.assert_allclose(
        np.asarray(seen) * white / 255, sd[0], atol=white / 400
    )  # half a level, and of 4 figures


@pytest.mark.parametrize("method", ["pigdm", "ddnm", "diffpir", "ddrm", "dps", "daps", "repaint"])
def test_every_method_keeps_what_a_mask_keeps(model, stored, hole, method):
    restored = restore(model, stored, hole, 1, method=method, steps=2)
    assert torch.equal(restored.samples.x[..., :4, :], restored.given[..., :4, :])
    assert restored.cost.calls >= 2


def test_particles_are_drawn_for_each_picture(model, stored):
    hole = torch.ones(1, 8, 8, dtype=torch.bool)
    hole[:, :1, :3] = False
    options = {"method": "particles", "particles": 4, "steps": 2, "noise": 1.0}
    restored = restore(model, stored, hole, 3, **options)
    assert len(restored.samples) == 6 and restored.samples.x.isfinite().all()
    again = restore(model, stored[:1], hole, 3, **options)
    assert torch.equal(again.samples.x, restored.samples.x[:3])
    with pytest.raises(UsageError, match="as many particles"):
        restore(model, stored, hole, 5, **options)


def test_the_cost_is_counted(model, stored, hole):
    cost = restore(model, stored, hole, 2, steps=4, iterations=2).cost
    assert cost.calls == 2 * (4 + 1)  # one more where there is no signal to differentiate by
    assert cost.products == 2 * 4 * 3
    assert cost.seconds > 0 and "denoiser calls" in str(cost)


def test_what_cannot_be_measured_is_said_in_one_sentence(model, stored, hole, tmp_path):
    def picture(name, *size):
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / name)
        return tmp_path / name

    with pytest.raises(UsageError, match="none was given"):
        restore(model, stored)
    with pytest.raises(UsageError, match="--upscale and --denoise"):
        restore(model, stored, upscale=2, denoise=1.0)
    with pytest.raises(UsageError, match="--mask and --upscale"):
        restore(model, stored, hole, upscale=2)
    with pytest.raises(UsageError, match="divide"):
        restore(model, stored, upscale=3)
    with pytest.raises(UsageError, match="3 channels"):
        restore(model, stored, colourise=True)
    with pytest.raises(UsageError, match="did you mean 'blur'"):
        restore(model, stored, operator="blurs")
    with pytest.raises(UsageError, match="sigmma"):
        restore(model, stored, operator="blur", parameters={"sigmma": 2})
    with pytest.raises(UsageError, match="did you mean 'mmps'"):
        restore(model, stored, hole, method="mmp")
    with pytest.raises(UsageError, match="to be exact"):
        restore(model, stored, hole, method="ddnm", noise=1.0)
    with pytest.raises(UsageError, match="masks alone"):
        restore(model, stored, upscale=2, simulate=True, method="repaint")
    with pytest.raises(UsageError, match="keeps nothing"):
        restore(model, stored, torch.ones(8, 8, dtype=torch.bool))
    with pytest.raises(UsageError, match="loses everything"):
        restore(model, stored, operator="declip", parameters={"low": 1e6, "high": 2e6})
    with pytest.raises(UsageError, match=r"\(2, 1, 8, 8\).*4, 4"):
        restore(model, stored, upscale=2)
    with pytest.raises(DataError, match=r"1 x 5 x 5.*1 x 4 x 4"):
        restore(model, picture("odd.png", 5, 5), upscale=2)
    with pytest.raises(UsageError, match=r"8 x 4 pixels.*of 8 x 8"):
        restore(model, picture("whole.png", 8, 8), picture("mask.png", 4, 8))


def test_a_run_of_another_kind_says_what_does_not_fit():
    with pytest.raises(UsageError, match=r"--ct does not fit this run.*\(2,\)"):
        restore(tiny_model("mlp"), torch.zeros(1, 2), ct=3)


def test_a_picture_of_another_size_is_refused_under_a_mask_naming_both(model, tmp_path):
    for name in ("photo.png", "mask.png"):
        Image.fromarray(np.full((16, 16), 255, np.uint8)).save(tmp_path / name)
    with pytest.raises(UsageError, match=r"photo\.png is of 16 x 16 .* makes pictures of 8 x 8"):
        restore(model, tmp_path / "photo.png", tmp_path / "mask.png")
