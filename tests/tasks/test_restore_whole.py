"""Restoring pictures larger than what a run was trained on, and out of white noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ornstein.core.denoise import Denoiser
from ornstein.data.image import ImageCodec
from ornstein.data.options import DataOptions
from ornstein.errors import UsageError
from ornstein.tasks.edit import edit
from ornstein.tasks.options import RestoreOptions
from ornstein.tasks.restore import at_once, restore, space_of
from ornstein.tasks.sample import sample
from ornstein.tasks.ways import named_operator
from untrained import tiny_model

VAR, MEAN, STD = 0.5, 100.0, 40.0


class Pixels(Denoiser):
    """Exact for pixels that are independent, N(0.3, VAR)."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.here = schedule, nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x_t, t, **cond):
        alpha, sigma = (c.reshape(-1, *(1,) * (x_t.ndim - 1)).to(x_t) for c in self.schedule(t))
        gain = alpha * VAR / (alpha**2 * VAR + sigma**2)
        return 0.3 + gain * (x_t - alpha * 0.3)


@pytest.fixture(scope="module")
def model():
    """Of patches of 8 x 8 in colour."""
    made = tiny_model(shape=(1, 8, 8))
    codec = ImageCodec(shape=(3, 8, 8), dtype="uint8", mean=(MEAN,) * 3, std=(STD,) * 3)
    config = replace(made.config, data=DataOptions(patch=8))
    return replace(made, denoiser=Pixels(made.denoiser.schedule), codec=codec, config=config)


@pytest.fixture
def photograph(tmp_path):
    """13 wide, 19 high, with a resolution."""
    pixels = np.random.default_rng(0).integers(256, size=(19, 13, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path, dpi=(300, 300))
    return path


def test_white_noise_is_taken_off_by_the_exact_posterior(model):
    """Gaussian pixels: mean and variance of p(x | y), whatever the size of the picture."""
    noise = 20.0
    y = MEAN + STD * torch.randn(1, 3, 20, 11, generator=torch.Generator().manual_seed(1)).double()
    restored = restore(model, y, denoise=noise, draws=64, sampler="sde-dpm++2m", steps=64)
    s = (noise / STD) ** 2
    z = (y - MEAN) / STD
    mean, var = (VAR * z + s * 0.3) / (VAR + s), VAR * s / (VAR + s)
    torch.testing.assert_close(restored.mean.double(), mean, rtol=0, atol=1e-5)
    gap = restored.drawn.double() - mean[:, None]
    assert gap.mean().abs() < 4 * (var / gap.numel()) ** 0.5 + 0.002
    assert gap.square().mean().item() == pytest.approx(var, rel=0.02)


def test_a_rule_without_noise_draws_by_moments_instead(model):
    """Along the flow, one y would always end in one x."""
    y = torch.full((1, 3, 8, 8), 120.0)
    restored = restore(model, y, denoise=20.0, draws=2, sampler="ddim", steps=4)
    assert restored.samples.x[0].ne(restored.samples.x[1]).any()


def test_a_large_picture_keeps_its_size_its_known_pixels_and_its_metadata(
    model, photograph, tmp_path
):
    mask = np.zeros((19, 13), np.uint8)
    mask[4:9, 3:7] = 255
    hole = tmp_path / "mask.png"
    Image.fromarray(mask).save(hole)
    paths = restore(model, photograph, hole, draws=2, steps=4).save(tmp_path / "out", True)
    names = ["photo-0.png", "photo-1.png", "photo.png", "photo.npy", "photo.png"]
    assert [path.name for path in paths] == names
    before = np.asarray(Image.open(photograph))
    for path in paths[:3]:
        after = Image.open(path)
        assert after.info["dpi"] == pytest.approx((300, 300), abs=0.05)
        assert (np.asarray(after)[mask == 0] == before[mask == 0]).all()
        assert (np.asarray(after)[mask == 255] != before[mask == 255]).any()
    assert np.load(paths[3]).shape == (3, 19, 13)


def test_a_picture_is_enlarged_beyond_the_patches_of_the_run(model, photograph):
    restored = restore(model, photograph, upscale=2, draws=1, steps=4)
    assert restored.samples.arrays.shape == (1, 38, 26, 3)
    small = restored.samples.x.double().unflatten(3, (13, 2)).unflatten(2, (19, 2)).mean((3, 5))
    known = (torch.from_numpy(np.asarray(Image.open(photograph)).copy()) - MEAN) / STD
    assert (small[0].permute(1, 2, 0) - known).abs().max() < 0.05


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("motion-blur", {"length": 3.0}),
        ("low-pass", {"share": 0.5}),
        ("declip", {"low": 40.0, "high": 200.0}),
        ("quantise", {"step": 16.0}),
        ("jpeg", {"quality": 50.0}),
        ("downsample", {"factor": 2.0}),
    ],
)
def test_any_operator_of_pictures_takes_them_as_large_as_they_are(
    model, photograph, name, parameters
):
    restored = restore(
        model, photograph, operator=name, parameters=parameters, draws=1, steps=2, iterations=1
    )
    by = 2 if name == "downsample" else 1
    assert restored.samples.arrays.shape == (1, by * 19, by * 13, 3)


def test_a_scan_says_how_large_the_picture_is(model, tmp_path):
    """K-space is as large; the detectors of a sinogram reach over the diagonal of a square."""
    x = torch.randn(1, 3, 14, 14, generator=torch.Generator().manual_seed(0)).double()
    made = replace(model.codec, shape=(3, 14, 14))
    np.save(tmp_path / "lines.npy", np.arange(14)[:, None].repeat(14, 1) % 2)
    for options in ({"ct": "5"}, {"mri": str(tmp_path / "lines.npy")}):
        y = named_operator(made, RestoreOptions(**options))(x)  # pyright: ignore
        np.save(tmp_path / "y.npy", y[0].numpy())
        restored = restore(model, tmp_path / "y.npy", draws=1, steps=2, iterations=1, **options)
        assert restored.samples.arrays.shape == (1, 14, 14, 3)


def test_each_page_of_a_file_keeps_what_the_file_says(model, tmp_path):
    pages = np.random.default_rng(0).integers(256, size=(2, 8, 8, 3), dtype=np.uint8)
    first, second = (Image.fromarray(page) for page in pages)
    first.save(tmp_path / "stack.tif", save_all=True, append_images=[second], dpi=(200, 200))
    restored = restore(model, tmp_path / "stack.tif", denoise=9.0, draws=1, steps=2)
    paths = restored.save(tmp_path / "out")
    assert [path.name for path in paths] == ["stack-0-0.png", "stack-1-0.png"]
    assert all(Image.open(path).info["dpi"] == pytest.approx((200, 200), abs=0.1) for path in paths)


def test_a_picture_grows_beyond_the_patches_of_the_run(model, photograph):
    restored = restore(model, photograph, outpaint="0,0,5,2", draws=1, steps=2)
    assert restored.samples.arrays.shape == (1, 21, 18, 3)
    assert (restored.samples.arrays[0, :19, :13] == np.asarray(Image.open(photograph))).all()


def test_pictures_of_several_sizes_are_named_and_taken_in_turn(model, photograph, tmp_path):
    other = tmp_path / "wide.png"
    Image.fromarray(np.zeros((9, 20, 3), np.uint8)).save(other)
    files = [photograph, other, photograph]
    with pytest.raises(UsageError, match=r"photo\.png is 13 x 19, .*wide\.png is 20 x 9: give"):
        restore(model, files, denoise=9.0)
    lists = at_once(model, files)
    assert lists == [[photograph, photograph], [other]]
    assert [space_of(alike) for alike in lists] == [(19, 13), (9, 20)]
    assert at_once(tiny_model(), files) == [files]  # which makes all of its own size


def test_a_picture_smaller_than_a_patch_is_refused(model):
    with pytest.raises(UsageError, match="7 x 30 is smaller than what the run was trained on, 8 x"):
        restore(model, torch.zeros(1, 3, 7, 30), denoise=9.0)


def test_pictures_of_any_size_are_drawn_in_windows(model):
    """Independent pixels: as drawn at any size, so of the same mean and variance."""
    drawn = sample(model, 2, size="20x11", steps=8)
    assert drawn.arrays.shape == (2, 20, 11, 3)
    assert drawn.x.mean().item() == pytest.approx(0.3, abs=4 * (VAR / drawn.x.numel()) ** 0.5)
    again = sample(model, 1, size="20x11", steps=8, examples="1")
    assert torch.equal(again.x, drawn.x[1:])
    with pytest.raises(UsageError, match="size = '20by11' is no height and width"):
        sample(model, 1, size="20by11")
    with pytest.raises(UsageError, match="20 x 7 is smaller than what the run was trained on"):
        sample(model, 1, size="20x7")
    with pytest.raises(UsageError, match="A run of pairs draws pictures of the size"):
        sample(tiny_model(given=(1, 8, 8)), 1, size="16x16")


def test_a_large_picture_is_edited_as_it_is(model, photograph):
    changed = edit(model, photograph, 0.5, draws=2, steps=8)
    assert changed.samples.arrays.shape == (2, 19, 13, 3)
    keep = torch.zeros(1, 19, 13, dtype=torch.bool)
    keep[:, 9:] = True
    part = edit(model, photograph, 0.5, mask=~keep, draws=1, steps=8)
    same = part.samples.arrays[0] == np.asarray(Image.open(photograph))
    assert same[9:].all() and not same[:9].all()
