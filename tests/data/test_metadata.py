"""What a file says besides its pixels, carried over; and what must not be."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from ornstein.data.image import ImageCodec
from ornstein.data.metadata import read_metadata, with_metadata

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PICTURE = np.random.default_rng(0).integers(256, size=(6, 8, 3), dtype=np.uint8)
MODEL, SEEN = 0x0110, 0x9003  # of the camera, and when; the second in the inner directory


def written(kind: str, *, orientation: int = 1, icc: bytes = PROFILE) -> bytes:
    exif = Image.Exif()
    exif[MODEL], exif[0x0112] = "Box", orientation
    exif.get_ifd(0x8769).update({SEEN: "2020:02:02 02:02:02", 0xA002: 8, 0xA003: 6})
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, kind, exif=exif, icc_profile=icc, dpi=(300, 150))
    return out.getvalue()


def encoded(format: str, picture: np.ndarray) -> bytes:
    height, width, channels = picture.shape
    codec = ImageCodec(
        shape=(channels, height, width), dtype=picture.dtype.name, mean=(0.0,) * channels,
        std=(1.0,) * channels, format=format,
    )  # fmt: skip
    return codec.encode(picture)


@pytest.fixture
def known(tmp_path):
    """What a file says."""

    def read(source: bytes):
        path = tmp_path / "source"
        path.write_bytes(source)
        found = read_metadata(path)
        assert found is not None
        return found

    return read


@pytest.fixture
def carried(known):
    """A PNG of a picture, told what another file says."""

    def carry(source: bytes, picture: np.ndarray) -> Image.Image:
        found = Image.open(io.BytesIO(with_metadata(encoded("png", picture), known(source))))
        found.load()
        return found

    return carry


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_profile_and_resolution_reach_a_png(carried, kind):
    found = carried(written(kind), PICTURE)
    assert (np.asarray(found) == PICTURE).all()
    exif = found.getexif()
    assert exif[MODEL] == "Box" and exif.get_ifd(0x8769)[SEEN] == "2020:02:02 02:02:02"
    assert found.info["icc_profile"] == PROFILE
    if kind != "WEBP":  # which has no resolution
        assert found.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_profile_and_resolution_go_from_tiff_to_tiff(known):
    picture = PICTURE.astype(np.uint16) * 257
    file = with_metadata(encoded("tiff", picture), known(written("TIFF")))
    with tifffile.TiffFile(io.BytesIO(file)) as found:
        assert (found.asarray() == picture.transpose(2, 0, 1)).all()
        tags = found.pages[0].tags
        assert tags["InterColorProfile"].value == PROFILE
        across, down = (tags[name].value for name in ("XResolution", "YResolution"))
    assert (across[0] / across[1], down[0] / down[1]) == pytest.approx((300, 150))


def test_a_picture_that_was_turned_upright_is_not_turned_again(carried):
    """Orientation 6: what is stored 8 wide and 6 high is shown 6 wide and 8 high."""
    found = carried(written("JPEG", orientation=6), np.rot90(PICTURE, -1).copy())
    assert found.getexif().get(0x0112, 1) == 1 and found.size == (6, 8)
    inner = found.getexif().get_ifd(0x8769)
    assert (inner[0xA002], inner[0xA003]) == (6, 8)
    assert found.info["dpi"] == pytest.approx((150, 300), abs=0.02)


def test_an_orientation_that_is_no_number_is_none(known):
    exif = struct.pack(">4sIHHHI4sI", b"MM\0*", 8, 1, 0x0112, 2, 2, b"6\0", 0)
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, "JPEG", exif=b"Exif\0\0" + exif)
    assert known(out.getvalue()).size == (8, 6)


def test_a_picture_twice_as_large_has_twice_the_resolution(carried):
    found = carried(written("PNG"), PICTURE.repeat(2, 0).repeat(2, 1))
    assert found.info["dpi"] == pytest.approx((600, 300), abs=0.05)


def test_a_profile_of_other_colours_is_left_behind(carried):
    assert "icc_profile" not in carried(written("PNG"), PICTURE[..., :1]).info
    cmyk = PROFILE[:16] + b"CMYK" + PROFILE[20:]
    assert "icc_profile" not in carried(written("JPEG", icc=cmyk), PICTURE).info


def test_a_file_that_says_nothing_leaves_a_picture_as_it_was(tmp_path):
    path = tmp_path / "plain.png"
    path.write_bytes(encoded("png", PICTURE))
    known = read_metadata(path)
    assert known is not None and with_metadata(path.read_bytes(), known) == path.read_bytes()
    (tmp_path / "no.npy").write_bytes(b"\x93NUMPY")
    assert read_metadata(tmp_path / "no.npy") is None
