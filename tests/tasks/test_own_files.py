"""What a person's own files hold is read as what it is: levels, tables, degrees, k-space."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ornstein.core.rounding import CHROMINANCE, LUMINANCE, jpeg, scaled
from ornstein.data.image import ImageCodec
from ornstein.errors import DataError, UsageError
from ornstein.tasks.measuring import Problem, problem_of
from ornstein.tasks.options import RestoreOptions, checked
from ornstein.tasks.restore import at_once
from ornstein.tasks.ways import named_operator

SIZE = (40, 56)
COLOUR = ImageCodec(shape=(3, *SIZE), dtype="uint8", mean=(0.0,) * 3, std=(1.0,) * 3, levels=256)
GREY = ImageCodec(shape=(1, *SIZE), dtype="uint8", mean=(0.0,), std=(1.0,), levels=256)
FEW = ImageCodec(shape=(1, 8, 8), dtype="uint8", mean=(0.0,), std=(1.0,), levels=17, layout="HW")


def measured(codec: ImageCodec, files, **options) -> Problem:
    model = SimpleNamespace(codec=codec, shape=codec.shape)
    return problem_of(model, files, checked(RestoreOptions, options))  # pyright: ignore


def scene(height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    """A smooth picture in colour, far from black and white."""
    y, x = np.mgrid[:height, :width] / 9
    planes = [np.sin(x + y), np.cos(x - 2 * y), np.sin(2 * x) * np.cos(y)]
    return np.rint(128 + 60 * np.stack(planes, 2)).astype(np.uint8)


# --- JPEG ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [1, 7, 20, 33, 50, 75, 96, 100])
def test_the_steps_of_a_quality_are_those_that_libjpeg_writes(tmp_path, quality):
    Image.fromarray(scene()).save(tmp_path / "a.jpg", quality=quality)
    tables = Image.open(tmp_path / "a.jpg").quantization  # pyright: ignore
    for i, table in enumerate((LUMINANCE, CHROMINANCE)):
        assert scaled(table, quality).flatten().tolist() == tables[i]


@pytest.mark.parametrize("chroma", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(40, 56), (37, 51)], ids=str)
def test_a_jpeg_file_gives_the_coefficients_of_the_picture_it_was_made_of(tmp_path, chroma, size):
    """Neither quality nor chroma are said. Blocks at the lower right reach beyond the picture."""
    codec = ImageCodec(shape=(3, *size), dtype="uint8", mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels = scene(*size)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=30, subsampling=chroma)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    expected = jpeg(codec.shape, 30, chroma=chroma)(x).float()
    y = measured(codec, tmp_path / "a.jpg", operator="jpeg").y
    assert (y == expected).double().mean() > (0.99 if size == SIZE else 0.97)
    assert expected.ne(0).sum() > 60


def test_the_picture_is_within_half_a_level_of_its_own_jpeg_file(tmp_path):
    """In the units of a run of 17 levels, stretched to all of 0 to 255 in files."""
    stored = torch.randint(0, 17, FEW.shape, generator=torch.Generator().manual_seed(0))
    shown = (stored[0].numpy() * (255 / 16)).round().astype(np.uint8)
    Image.fromarray(shown).save(tmp_path / "digit.jpg", quality=40)
    problem = measured(FEW, tmp_path / "digit.jpg", operator="jpeg")
    exact = problem.operator.tangent(stored[None].float())[0]
    assert (exact - problem.y).abs().max() < 0.6 and (exact - problem.y).abs().mean() > 0.1
    assert problem.sigma_y == 0  # what is rounded off, the operator knows


def test_a_file_says_its_quality_or_the_command_does(tmp_path):
    for name, quality in (("a.jpg", 30), ("b.jpg", 60), ("c.jpg", 30)):
        Image.fromarray(scene()).save(tmp_path / name, quality=quality)
    Image.fromarray(scene()).save(tmp_path / "d.png")
    a, b, c, d = (tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg", "d.png"))
    with pytest.raises(UsageError, match=r"d\.png is no JPEG file.*--operator\.quality"):
        measured(COLOUR, d, operator="jpeg")
    with pytest.raises(UsageError, match=r"a\.jpg and .*b\.jpg are JPEG files of different qual"):
        measured(COLOUR, [a, b], operator="jpeg")
    with pytest.raises(UsageError, match=r"No file says of what quality"):
        measured(COLOUR, a, operator="jpeg", simulate=True)
    said = measured(COLOUR, [a, d], operator="jpeg", parameters={"quality": 30.0})
    assert_close(said.y[:1], measured(COLOUR, a, operator="jpeg").y)
    model = SimpleNamespace(codec=COLOUR, config=SimpleNamespace(data=SimpleNamespace(patch=None)))
    jpegs = RestoreOptions(operator="jpeg")
    assert at_once(model, [a, b, c], jpegs) == [[a, c], [b]]  # pyright: ignore
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(scene()).save(b, exif=turned)
    with pytest.raises(DataError, match=r"b\.jpg is to be turned.*jpegtran"):
        measured(COLOUR, b, operator="jpeg")
    Image.fromarray(scene()[..., 0]).save(c)
    with pytest.raises(DataError, match=r"c\.jpg is grey"):
        measured(COLOUR, c, operator="jpeg")


def test_what_was_quantised_is_given_as_the_picture_that_is_left(tmp_path):
    values = scene()[..., 0]
    left = 32 * np.rint(values / 32)
    Image.fromarray(left.clip(0, 224).astype(np.uint8)).save(tmp_path / "left.png")
    problem = measured(GREY, tmp_path / "left.png", operator="quantise", parameters={"step": 32.0})
    levels = torch.from_numpy(np.rint(values / 32).clip(0, 7))
    assert_close(problem.y[0, 0], levels.float())
    tensor = measured(GREY, levels[None, None], operator="quantise", parameters={"step": 32.0})
    assert torch.equal(tensor.y, problem.y)  # which is what the operator makes


# --- Levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_file_of_a_run_of_few_levels_is_pressed_to_them_whatever_its_format(tmp_path, suffix):
    levels = np.arange(64).reshape(8, 8) % 17
    Image.fromarray(np.rint(levels * 255 / 16).astype(np.uint8)).save(tmp_path / f"a{suffix}")
    assert_close(FEW.read(tmp_path / f"a{suffix}")[0], torch.from_numpy(levels)[None].byte())
    y = measured(FEW, tmp_path / f"a{suffix}", denoise=2.0).y
    assert_close(y[0, 0], torch.from_numpy(levels).float(), rtol=0, atol=0.05)
    np.save(tmp_path / "a.npy", levels.astype(np.uint8))  # an array is in the units of the data
    assert_close(FEW.read(tmp_path / "a.npy")[0], torch.from_numpy(levels)[None].byte())
    assert torch.equal(measured(FEW, tmp_path / "a.npy", denoise=2.0).y, y.round())


def test_a_file_of_another_depth_than_the_run_is_refused_and_not_misread(tmp_path):
    values = np.full(SIZE, 200)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "flat.png")
    deep = ImageCodec(shape=(1, *SIZE), dtype="uint16", mean=(0.0,), std=(1.0,), levels=65536)
    with pytest.raises(DataError, match=r"deep\.png .*holds uint16, but .* trained on uint8"):
        measured(GREY, tmp_path / "deep.png", deblur=1.0)
    with pytest.raises(DataError, match=r"flat\.png .*holds uint8, but .* trained on uint16"):
        measured(deep, tmp_path / "flat.png", denoise=5.0)
    assert (measured(deep, tmp_path / "deep.png", denoise=5.0).y == 200).all()
    assert (measured(GREY, tmp_path / "flat.png", denoise=5.0).y == 200).all()
    np.save(tmp_path / "y.npy", values.astype(np.float32) / 3)  # a measurement need not be whole
    assert_close(
        measured(GREY, tmp_path / "y.npy", denoise=5.0).y, torch.full((1, 1, *SIZE), 200 / 3)
    )


# --- Scanners ------------------------------------------------------------------------------------


def test_k_space_may_be_complex_and_what_was_not_sampled_is_not_looked_at(tmp_path):
    x = torch.from_numpy(scene()[..., 0].copy())[None, None].double()
    lit = np.zeros(SIZE, np.uint8)
    lit[:, ::3] = 255
    Image.fromarray(lit).save(tmp_path / "lines.png")
    axes = (-2, -1)
    z = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x[0, 0].numpy(), axes), norm="ortho"), axes)
    np.save(tmp_path / "kspace.npy", z)  # all of it, as documented
    options = {"mri": str(tmp_path / "lines.png")}
    expected = named_operator(GREY, checked(RestoreOptions, options))(x).float()
    assert_close(
        measured(GREY, tmp_path / "kspace.npy", **options).y, expected, rtol=1e-5, atol=1e-3
    )
    assert (expected[..., 1::3] == 0).all()
    tensor = torch.from_numpy(z)[None, None]
    assert_close(measured(GREY, tensor, **options).y, expected, rtol=1e-5, atol=1e-3)


def test_two_channels_are_one_complex_picture(tmp_path):
    codec = ImageCodec(
        shape=(2, 8, 10), dtype="float32", mean=(0.0,) * 2, std=(1.0,) * 2, format="npy"
    )
    g = torch.Generator().manual_seed(0)
    z = torch.complex(*torch.randn(2, 8, 10, generator=g, dtype=torch.float64))
    k = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(z), norm="ortho"))
    np.save(tmp_path / "k.npy", k.numpy())
    np.save(tmp_path / "all.npy", np.ones((8, 10)))
    problem = measured(codec, tmp_path / "k.npy", mri=str(tmp_path / "all.npy"), noise=0.0)
    back = problem.operator.adjoint(problem.y)  # pyright: ignore
    assert_close(torch.complex(back[0, 0], back[0, 1]), z.to(torch.complex64))


def test_ct_takes_degrees_in_a_row_or_in_a_file(tmp_path):
    degrees = [0.0, 7.5, 90.0, 130.0]
    (tmp_path / "degrees.txt").write_text("\n".join(map(str, degrees)))
    np.save(tmp_path / "degrees.npy", np.array(degrees))
    x = torch.from_numpy(scene()[..., 0].copy())[None, None].double()
    row, text, array = (
        named_operator(GREY, checked(RestoreOptions, {"ct": said}))(x)
        for said in ("0,7.5,90,130", str(tmp_path / "degrees.txt"), str(tmp_path / "degrees.npy"))
    )
    assert row.shape[2] == 4 and torch.equal(row, text) and torch.equal(row, array)
    even = named_operator(GREY, checked(RestoreOptions, {"ct": 2}))(x)
    assert torch.equal(even, named_operator(GREY, checked(RestoreOptions, {"ct": "0,90"}))(x))
    for wrong in ("0", "few", "0,east"):
        with pytest.raises(UsageError, match="number of angles"):
            named_operator(GREY, checked(RestoreOptions, {"ct": wrong}))


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("circle", [True, False])
def test_a_sinogram_of_scikit_image_is_known_by_its_shape(tmp_path, n, circle):
    """It interpolates the turned picture where we share out pixels: alike where it is smooth."""
    transform = pytest.importorskip("skimage.transform")
    codec = ImageCodec(shape=(1, n, n), dtype="float32", mean=(0.0,), std=(1.0,), format="npy")
    y, x = np.mgrid[:n, :n] - n / 2
    blob = np.exp(-((x - 4) ** 2 + (y + 2) ** 2) / 30) + 0.5 * np.exp(-((x + 5) ** 2 + y**2) / 12)
    blob[x**2 + y**2 > (n // 2 - 1) ** 2] = 0
    angles = np.linspace(0, 180, 20, endpoint=False)
    sinogram = transform.radon(blob, angles, circle=circle)
    np.save(tmp_path / "sinogram.npy", sinogram)
    problem = measured(codec, tmp_path / "sinogram.npy", ct=20)
    seen = problem.operator(torch.from_numpy(blob)[None, None])
    assert problem.y.shape == seen.shape == (1, 1, *sinogram.shape)
    error = (seen - problem.y).norm() / problem.y.norm()
    assert error < 0.03  # half a pixel aside: 0.1
