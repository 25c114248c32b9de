"""Sources: folders, archives, metadata, arrays, tables, built-ins; what is read, and as what."""

import io
import json
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ornstein.data import DataOptions, open_data
from ornstein.errors import DataError, Notice, UsageError
from ornstein.progress import watched
from ornstein.train.start import name_of


def grey(value: int, size=(6, 4)) -> bytes:
    return encode(Image.new("L", size, value))


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def tree(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def to_zip(root: Path, files: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return root / "a.zip"


def to_tar(root: Path, files: dict[str, bytes | str], suffix: str = ".tar.gz") -> Path:
    mode = "w:gz" if suffix.endswith("gz") else "w"
    with tarfile.open(root / f"a{suffix}", mode) as archive:
        for name, data in reversed(files.items()):  # stored in another order than listed
            content = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return root / f"a{suffix}"


PLACES = [tree, to_zip, to_tar, lambda root, files: to_tar(root, files, ".tar")]

CLASSES = {
    "cat/10.png": grey(10),
    "cat/9.PNG": grey(9),
    "dog/a.png": grey(77),
    "dog/deep/b.png": grey(78),
    "dog/notes.txt": "not a picture",
    "dog/.hidden.png": b"",
    "__MACOSX/cat/._9.png": b"",
}


@pytest.mark.parametrize("place", PLACES, ids=["folder", "zip", "tar.gz", "tar"])
@pytest.mark.parametrize("prefix", ["", "set/", "set/train/"])
def test_folders_name_classes_wherever_they_are_kept(tmp_path, place, prefix):
    files = {prefix + name: data for name, data in CLASSES.items()}
    if prefix.endswith("train/"):
        files |= {"set/validation/cat/v.png": b"unread", "set/test/fox/t.png": b"unread"}
    dataset = open_data(place(tmp_path, files))
    assert dataset.ids == [prefix + n for n in ("cat/9.PNG", "cat/10.png", "dog/a.png",
                                                "dog/deep/b.png")]  # fmt: skip
    assert dataset.classes == ["cat", "dog"] and dataset.label.tolist() == [0, 0, 1, 1]
    assert dataset.stored.shape == (4, 1, 4, 6)
    assert dataset.stored[:, 0, 0, 0].tolist() == [9, 10, 77, 78]
    assert dataset.stored.dtype == torch.uint8


def test_the_fingerprint_tells_content_not_the_place(tmp_path):
    marks = set()
    for i, place in enumerate(PLACES):
        (tmp_path / str(i)).mkdir()
        marks.add(open_data(place(tmp_path / str(i), CLASSES)).fingerprint)
    assert len(marks) == 1
    for name, change in {"content": ("cat/9.PNG", grey(8)), "name": ("dog/c.png", grey(1)),
                         "class": ("fox/9.png", grey(9))}.items():  # fmt: skip
        (tmp_path / name).mkdir()
        marks.add(open_data(tree(tmp_path / name, CLASSES | dict([change]))).fingerprint)
    assert len(marks) == 4


@pytest.mark.parametrize("options", [{}, {"given": "small-2"}, {"word": "sks"}], ids=str)
def test_the_fingerprint_tells_captions_whatever_else_is_asked_for(tmp_path, options):
    marks = []
    for caption in ("a red square", "a blue square"):
        tree(tmp_path, {"a.png": grey(1), "b.png": grey(2), "a.txt": caption})
        marks.append(open_data(tmp_path, DataOptions(**options)).fingerprint)
    assert marks[0] != marks[1]


def test_a_flat_folder_has_no_classes(tmp_path):
    dataset = open_data(tree(tmp_path, {"a.png": grey(1), "b.png": grey(2)}))
    assert dataset.label is None and dataset.classes == []


def test_folders_named_by_numbers_are_classes_as_they_are_written(tmp_path):
    dataset = open_data(tree(tmp_path, {f"{n}/a.png": grey(1) for n in ("1.0", "0.5", "-3")}))
    assert set(dataset.classes) == {"1.0", "0.5", "-3"}


def test_pages_of_a_stack_share_the_class_of_their_file(tmp_path):
    out = io.BytesIO()
    tifffile.imwrite(out, np.zeros((2, 4, 6), np.uint16), photometric="minisblack")
    files = {"a#1.tif": out.getvalue(), "b.tif": out.getvalue()}
    files["metadata.csv"] = "file_name,label\na#1.tif,x\nb.tif,y\n"
    dataset = open_data(tree(tmp_path, files))
    assert dataset.ids == ["a#1.tif#0", "a#1.tif#1", "b.tif#0", "b.tif#1"]
    assert dataset.label.tolist() == [0, 0, 1, 1]


def test_pictures_beside_class_folders_have_no_label(tmp_path):
    dataset = open_data(tree(tmp_path, {"a.png": grey(1), "cat/b.png": grey(2)}))
    assert dataset.label.tolist() == [-1, 0]


@pytest.mark.parametrize("place", PLACES, ids=["folder", "zip", "tar.gz", "tar"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_metadata_give_classes_and_attributes(tmp_path, place, form):
    rows = [("images/a.png", "x", 1.5, "some text"), ("images/b.png", "", 2.5, ""),
            ("images/c.png", "y", None, "t")]  # fmt: skip
    if form == "csv":
        text = "file_name,label,size,text\n" + "".join(
            ",".join("" if c is None else str(c) for c in row) + "\n" for row in rows
        )
    else:
        keys = ("file_name", "label", "size", "text")
        text = "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)
    files = {f"images/{n}.png": grey(i) for i, n in enumerate("abcd")}
    dataset = open_data(place(tmp_path, files | {f"metadata.{form}": text}))
    assert dataset.classes == ["x", "y"] and dataset.label.tolist() == [0, -1, 1, -1]
    assert dataset.attributes.names == ("size",)
    assert dataset.attributes.mean == (2.0,) and dataset.attributes.std == (0.5,)
    _, cond = dataset.batch(torch.arange(4))
    torch.testing.assert_close(
        cond["attributes"][:, 0], torch.tensor([-1.0, 1.0, torch.nan, torch.nan]), equal_nan=True
    )


def test_metadata_within_the_training_split_are_relative_to_it(tmp_path):
    files = {"train/a.png": grey(1), "train/b.png": grey(2), "test/c.png": grey(3)}
    files["train/metadata.csv"] = "file_name,label\na.png,1\nb.png,0\n"
    files["test/metadata.csv"] = "file_name,label\nmissing.png,1\n"
    dataset = open_data(tree(tmp_path, files))
    assert dataset.classes == ["0", "1"] and dataset.label.tolist() == [1, 0]


def test_numbers_too_far_apart_to_measure_are_refused():
    with pytest.raises(DataError, match=r"reach from -1e\+300 to 1e\+300, which is too far"):
        open_data(np.array([[-1e300, 0.0], [1e300, 1.0]]))


def test_a_column_of_classes_that_is_not_there_is_refused(tmp_path):
    options = DataOptions(label="species")
    pictures = tree(tmp_path / "p", {"a.png": grey(1), "metadata.csv": "file_name,kind\na.png,x\n"})
    (table := tmp_path / "t.csv").write_text("x,y,kind\n1,2,0\n3,4,1\n")
    np.savez(arrays := tmp_path / "a.npz", x=np.zeros((2, 3)), kind=np.zeros(2))
    for source, there in (
        (pictures, "kind"),
        (table, "x, y, kind|kind, x, y"),
        (arrays, "kind, x"),
    ):
        with pytest.raises(
            DataError, match=rf"no column of classes 'species'; there are: .*{there}"
        ):
            open_data(source, options)
        open_data(source)
        assert open_data(source, DataOptions(label="kind")).classes
    with pytest.raises(DataError, match="'species'; there are none"):
        open_data(tree(tmp_path / "q", {"a.png": grey(1)}), options)


def test_metadata_that_name_a_picture_that_is_not_there_are_a_problem(tmp_path):
    files = {"a.png": grey(1), "metadata.csv": "file_name,label\na.png,1\n../b.png,0\n"}
    with pytest.raises(DataError, match=r"b\.png.*not there"):
        open_data(tree(tmp_path, files))
    dataset = open_data(tmp_path, DataOptions(on_bad="skip"))
    assert [p.path for p in dataset.problems] == ["../b.png"]


# --- What a picture becomes ----------------------------------------------------------------------


def one(tmp_path, name: str, data: bytes, **options) -> np.ndarray:
    """The picture in one file, ``(C, H, W)``."""
    return open_data(tree(tmp_path, {name: data}), DataOptions(**options)).stored[0].numpy()


RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"])
def test_lossless_formats_are_read_exactly(tmp_path, form):
    values = RGB if form != "GIF" else RGB // 255 * 255
    data = encode(Image.fromarray(values), form, lossless=True)
    suffix = {"PPM": ".pgm"}.get(form, f".{form.lower()}")
    assert np.array_equal(one(tmp_path, "a" + suffix.upper(), data), values.transpose(2, 0, 1))


def test_what_a_file_is_comes_from_its_content_not_its_name(tmp_path):
    assert one(tmp_path, "a.jpg", encode(Image.fromarray(RGB))).shape == (3, 4, 6)


def test_jpeg_is_turned_as_exif_says(tmp_path):
    picture = np.zeros((8, 16), np.uint8)
    picture[:, 8:] = 255  # bright on the right
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise: bright below
    found = one(tmp_path, "a.jpg", encode(Image.fromarray(picture), "JPEG", exif=exif))
    assert found.shape == (1, 16, 8)
    assert found[0, :7].max() < 30 and found[0, 9:].min() > 220


@pytest.mark.parametrize("turn", range(1, 9))
def test_tiff_and_pillow_agree_on_orientation(tmp_path, turn):
    values = np.arange(12, dtype=np.uint16).reshape(3, 4)
    out = io.BytesIO()
    tifffile.imwrite(out, values, extratags=[(274, 3, 1, turn, True)], photometric="minisblack")
    exif = Image.Exif()
    exif[0x0112] = turn
    png = encode(Image.fromarray(values.astype(np.uint8)), exif=exif)
    (tmp_path / "p").mkdir()
    assert np.array_equal(one(tmp_path, "a.tif", out.getvalue()), one(tmp_path / "p", "a.png", png))


def test_transparency_lies_on_white_unless_four_channels_are_asked_for(tmp_path):
    picture = Image.new("RGBA", (2, 2), (255, 0, 0, 51))  # a fifth of red
    (tmp_path / "4").mkdir()
    assert one(tmp_path, "a.png", encode(picture))[:, 0, 0].tolist() == [255, 204, 204]
    kept = one(tmp_path / "4", "a.png", encode(picture), channels=4)
    assert kept[:, 0, 0].tolist() == [255, 0, 0, 51]


def test_palettes_cmyk_and_bilevel_become_colour_or_grey(tmp_path):
    palette = Image.fromarray(RGB // 255 * 255).convert("P", palette=Image.Palette.ADAPTIVE)
    files = {"palette.png": encode(palette), "cmyk.jpg": encode(Image.new("CMYK", (6, 4)), "JPEG"),
             "bilevel.png": encode(Image.new("1", (6, 4), 1))}  # fmt: skip
    dataset = open_data(tree(tmp_path, files))
    by_name = dict(zip(dataset.ids, dataset.stored.numpy(), strict=True))
    assert np.array_equal(by_name["palette.png"], (RGB // 255 * 255).transpose(2, 0, 1))
    assert by_name["cmyk.jpg"].min() > 250  # no ink is white
    assert (by_name["bilevel.png"] == 255).all()  # grey among colour fills all three channels


def test_colour_becomes_grey_by_rec_601(tmp_path):
    found = one(tmp_path, "a.png", encode(Image.new("RGB", (2, 2), (100, 50, 200))), channels=1)
    assert found[:, 0, 0].tolist() == [round(0.299 * 100 + 0.587 * 50 + 0.114 * 200)]


def test_16_bit_png_and_deep_tiff_keep_their_values(tmp_path):
    deep = np.array([[0, 1, 256, 65535]], np.uint16)
    assert one(tmp_path, "a.png", encode(Image.fromarray(deep)))[0].tolist() == deep.tolist()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "uint8"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_stack_is_one_example_a_page(tmp_path, dtype, compression):
    stack = (np.random.default_rng(0).random((5, 4, 6)) * 200).astype(dtype)
    out = io.BytesIO()
    tifffile.imwrite(out, stack, compression=compression, photometric="minisblack")
    dataset = open_data(tree(tmp_path, {"a.tif": out.getvalue(), "b.tif": out.getvalue()}))
    assert dataset.ids[:2] == ["a.tif#0", "a.tif#1"] and len(dataset) == 10
    assert np.array_equal(dataset.stored[:5, 0].numpy(), stack)
    assert dataset.codec.format == "tiff" and dataset.codec.dtype == dtype


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg", "tiff_adobe_deflate"])
def test_a_tiff_stack_is_one_example_a_page_however_it_is_packed(tmp_path, mode, compression):
    pages = [Image.new("L", (6, 4), 50 * i).convert(mode) for i in range(5)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression=compression)
    found = open_data(tree(tmp_path, {"a.tif": data})).stored[:, 0, 0, 0]
    assert found.tolist() == pytest.approx([50 * i for i in range(5)], abs=3)


def test_a_tiff_stack_of_palettes_is_one_example_a_page(tmp_path):
    pages = [Image.new("L", (6, 4), 50 * i).convert("P") for i in range(5)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert len(open_data(tree(tmp_path, {"a.tif": data}))) == 5


def test_the_smaller_copies_in_a_tiff_are_no_examples(tmp_path):
    copy = Image.new("L", (3, 2), 9)
    copy.encoderinfo = {"tiffinfo": {254: 1}}  # a copy in fewer pixels
    data = encode(Image.new("L", (6, 4), 9), "TIFF", save_all=True, append_images=[copy],
                  compression="tiff_lzw")  # fmt: skip
    assert open_data(tree(tmp_path, {"a.tif": data})).ids == ["a.tif"]


def test_a_tiff_whose_pages_lie_in_other_files_is_refused(tmp_path):
    there = (
        '<TiffData IFD="0" FirstT="{0}" PlaneCount="1"><UUID FileName="{0}">{0}</UUID></TiffData>'
    )
    said = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="0"><Image ID="I:0">'
        '<Pixels ID="P:0" DimensionOrder="XYCZT" Type="uint16" SizeX="6" SizeY="4" SizeC="1" '
        'SizeZ="1" SizeT="2"><Channel ID="C:0" SamplesPerPixel="1"/>'
        f"{there.format(0)}{there.format(1)}</Pixels></Image></OME>"
    )
    out = io.BytesIO()
    tifffile.imwrite(out, np.ones((4, 6), np.uint16), description=said, metadata=None)
    with pytest.raises(DataError, match=r"a\.tif.*in other files: save it as one"):
        one(tmp_path, "a.tif", out.getvalue())


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("channels", [None, 4])
def test_transparency_of_a_tiff_is_that_of_a_png(tmp_path, mode, channels):
    draw = np.random.default_rng(0).integers(0, 256, (4, 6, len(mode))).astype(np.uint8)
    picture = Image.fromarray(draw, mode)
    kept = {"a.png": encode(picture), "b.tif": encode(picture, "TIFF"),
            "c.tif": encode(picture, "TIFF", compression="tiff_adobe_deflate"),
            "d.tif": encode(picture, "TIFF", compression="tiff_lzw")}  # fmt: skip
    found = open_data(tree(tmp_path, kept), DataOptions(channels=channels)).stored
    assert len(found) == 4 and found.shape[1] == (channels or 3)
    assert (found - found[:1]).to(torch.int8).abs().max() <= 1  # Pillow rounds otherwise


@pytest.mark.parametrize(("kind", "colour"), [(1, 13_107), (2, 65_535)])
def test_transparency_of_deep_colour_is_laid_on_white_too(tmp_path, kind, colour):
    """A fifth of red; of kind 1 the colour is multiplied by its transparency already."""
    values = np.broadcast_to(np.array([colour, 0, 0, 13_107], np.uint16), (4, 6, 4))
    out = io.BytesIO()
    tifffile.imwrite(out, values, photometric="rgb", extrasamples=[kind])
    found = one(tmp_path, "a.tif", out.getvalue())
    assert found[:, 0, 0].tolist() == [65_535, 52_428, 52_428]
    (tmp_path / "4").mkdir()
    kept = one(tmp_path / "4", "a.tif", out.getvalue(), channels=4)
    assert kept[:, 0, 0].tolist() == [65_535, 0, 0, 13_107]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16"])
def test_a_tiff_in_which_white_is_zero_is_turned_into_light(tmp_path, dtype):
    ink, out = np.eye(4, 6).astype(dtype), io.BytesIO()
    tifffile.imwrite(out, ink, photometric="miniswhite")
    most = 1 if dtype == "bool" else np.iinfo(dtype).max
    assert (one(tmp_path, "a.tif", out.getvalue())[0] == most - ink.astype(int)).all()


def test_16_bit_colour_png_is_refused_rather_than_cut_to_8_bits(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + bytes(range(6))))
    with pytest.raises(DataError, match=r"16 bits a channel.*TIFF"):
        one(tmp_path, "a.png", b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


@pytest.mark.parametrize("most", [65535, 256])
def test_16_bit_colour_ppm_is_refused_too(tmp_path, most):
    deep = f"P6\n# of 3 by 2\n3 2\n{most}\n".encode() + bytes(36)
    with pytest.raises(DataError, match=r"16 bits a channel.*TIFF"):
        one(tmp_path, "a.ppm", deep)
    (tmp_path / "8").mkdir()
    assert one(tmp_path / "8", "a.ppm", b"P6\n3 2\n255\n" + bytes(18)).shape == (3, 2, 3)


def test_deep_colour_tiff_keeps_its_values(tmp_path):
    values = np.arange(36, dtype=np.uint16).reshape(3, 4, 3) * 1000
    out = io.BytesIO()
    tifffile.imwrite(out, values, photometric="rgb")
    assert np.array_equal(one(tmp_path, "a.tiff", out.getvalue()), values.transpose(2, 0, 1))


def test_size_scales_the_short_side_and_cuts_the_centre(tmp_path):
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 255  # the central square
    found = one(tmp_path, "a.png", encode(Image.fromarray(picture)), size=8)
    assert found.shape == (3, 8, 8) and found[:, :, 2:6].min() > 240
    assert found[:, 4, :].mean() > 230  # nothing of the black sides but what the filter mixes


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_picture_too_thin_to_be_scaled_is_refused_by_name(tmp_path, dtype):
    thin = encode(Image.fromarray(np.zeros((1, 2**21), dtype)))
    with pytest.raises(DataError, match=r"a\.png.*134,217,728 x 64 pixels.*limit"):
        one(tmp_path, "a.png", thin, size=64)
    kept = tree(tmp_path, {"b.png": encode(Image.fromarray(np.zeros((9, 9), dtype)))})
    assert open_data(kept, DataOptions(size=64, on_bad="skip")).ids == ["b.png"]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_pictures_are_scaled_in_their_own_range(tmp_path, dtype):
    picture = np.full((1, 20, 20), 40_000).astype(dtype)
    found = open_data(picture, DataOptions(size=7)).stored
    assert found.dtype == getattr(torch, dtype) and (found == 40_000).all()


@pytest.mark.parametrize("dtype", ["int32", "uint32"])
def test_the_largest_values_stay_the_largest_when_scaled(dtype):
    most = np.iinfo(dtype).max
    found = open_data(np.full((1, 32, 32), most, dtype), DataOptions(size=16)).stored
    assert (found.numpy() == most).all()


def test_pictures_of_different_sizes_ask_for_one(tmp_path):
    tree(tmp_path, {"a.png": grey(1), "b.png": grey(2, (3, 3))})
    with pytest.raises(DataError, match=r"a\.png is 6 x 4, b\.png is 3 x 3.*size"):
        open_data(tmp_path)
    assert open_data(tmp_path, DataOptions(size=4)).stored.shape == (2, 1, 4, 4)


def test_limit_takes_a_share_of_each_class_and_the_same_each_time(tmp_path):
    tree(tmp_path, {f"{c}/{i}.png": grey(i) for c in "ab" for i in range(40)})
    first = open_data(tmp_path, DataOptions(limit=30))
    assert first.ids == open_data(tmp_path, DataOptions(limit=30)).ids and len(first) == 30
    assert 5 <= (first.label == 0).sum() <= 25
    assert set(first.ids) < set(open_data(tmp_path, DataOptions(limit=60)).ids)


def test_many_files_are_decoded_in_threads_in_their_order(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 160, 160)).astype(np.uint8)
    noise[:, 0, 0] = np.arange(200)
    tree(tmp_path, {f"{i}.png": encode(Image.fromarray(a)) for i, a in enumerate(noise)})
    shares = list[float]()
    with watched(shares.append):
        dataset = open_data(tmp_path)
    assert dataset.stored[:, 0, 0, 0].tolist() == list(range(200))
    assert len(shares) == 200 and shares == sorted(shares) and shares[-1] == 1


# --- Arrays and tables ---------------------------------------------------------------------------


def of_shape(shape: tuple[int, ...], values: bytes = b"") -> bytes:
    """A .npy file that says so, of float32."""
    said = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode().ljust(500)
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(said) + 1) + said + b"\n" + values


@pytest.mark.parametrize("shape", [(0, 10**30), (0, 2**40, 2**40), (1,) * 100])
def test_an_array_of_a_shape_that_none_has_is_refused(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(of_shape(shape, b"" if 0 in shape else bytes(4)))
    with pytest.raises(DataError, match=r"a\.npy cannot be used: its \d+ axes are more or longer"):
        open_data(tmp_path / "a.npy")


@pytest.mark.parametrize("cut", [-40, 100, 5])
def test_a_damaged_npz_is_said_to_be(tmp_path, cut):
    np.savez(tmp_path / "a.npz", x=np.zeros((20, 8, 8)))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:cut])
    with pytest.raises(DataError, match=r"a\.npz is damaged"):
        open_data(tmp_path / "a.npz")


@pytest.mark.parametrize("what", ["version", "name", "member"])
def test_a_foreign_or_damaged_zip_is_said_to_be(tmp_path, what):
    packed = zipfile.ZIP_LZMA if what == "member" else zipfile.ZIP_STORED
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packed) as archive:
        archive.writestr("\N{LATIN SMALL LETTER E WITH ACUTE}.png", grey(1, (64, 64)))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    if what == "version":
        data[data.find(b"PK\1\2") + 6] = 99
    elif what == "name":
        data = data.replace(b"\xc3\xa9", b"\xff\xfe")
    else:
        data[50:80] = bytes(30)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        open_data(tmp_path / "a.zip")


def test_npz_with_labels(tmp_path):
    x, y = np.arange(72, dtype=np.uint8).reshape(3, 4, 6), np.array([[2], [0], [-1]])
    np.savez_compressed(tmp_path / "a.npz", train_images=x, train_labels=y, test_images=x[:1])
    dataset = open_data(tmp_path / "a.npz")
    assert dataset.classes == ["0", "2"] and dataset.label.tolist() == [1, 0, -1]
    assert np.array_equal(dataset.codec.unpack(dataset.codec.pack(dataset.stored)), x)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "|b1", "<f4", ">f8"])
def test_npy_of_any_order_and_byte_order(tmp_path, order, dtype):
    values = np.asarray(np.random.default_rng(0).random((4, 3, 5)) * 2, dtype, order=order)
    np.save(tmp_path / "a.npy", values)
    assert np.array_equal(open_data(tmp_path / "a.npy").stored[:, 0].numpy(), values)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [((5, 8, 9), "HW", (1, 8, 9)), ((5, 8, 9, 3), "HWC", (3, 8, 9)),
     ((5, 3, 8, 9), "CHW", (3, 8, 9)), ((5, 8, 9, 12), "HWC", (12, 8, 9))],
)  # fmt: skip
def test_axes_of_arrays(shape, layout, expected):
    codec = open_data(np.random.default_rng(0).random(shape)).codec
    assert codec.layout == layout and codec.shape == expected


def test_an_array_of_volumes_is_said_to_be_read_as_pictures_of_many_channels():
    with pytest.warns(Notice, match="5 pictures of 8 x 6 in 32 channels. If they are volumes"):
        open_data(np.zeros((5, 8, 6, 32)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_data(np.zeros((5, 8, 6, 16))).codec.shape == (16, 8, 6)


def test_a_tensor_has_its_channels_first():
    assert open_data(torch.rand(5, 8, 9, 3)).codec.shape == (8, 9, 3)


def test_a_list_of_pictures_may_differ_in_size_if_one_is_chosen():
    pictures = [np.zeros((4, 6), np.uint8), np.zeros((9, 5, 3), np.uint8)]
    dataset = open_data((pictures, ["b", "a"]), DataOptions(size=4))
    assert dataset.stored.shape == (2, 3, 4, 4) and dataset.label.tolist() == [1, 0]


def test_a_list_of_pictures_is_limited_and_cut_as_others_are():
    pictures = [np.full((8, 8 + i), i, np.uint8) for i in range(6)]
    labels = [f"class-{i}" for i in range(6)]
    cut = open_data((pictures, labels), DataOptions(patch=4))
    assert [cut.classes[c] for c in cut.label] == [f"class-{v}" for v in cut.stored[:, 0, 0, 0]]
    few = open_data((pictures, labels), DataOptions(size=8, limit=2))
    assert len(few) == 2
    assert [few.classes[c] for c in few.label] == [f"class-{v}" for v in few.stored[:, 0, 0, 0]]


def test_what_was_opened_does_not_change_with_the_array_it_came_from():
    values = np.zeros((4, 3, 3), np.uint8)
    dataset = open_data(values)
    values += 1
    assert dataset.stored.sum() == 0


@pytest.mark.parametrize(
    "text",
    ["a,b\n1,2.5\n-3,4e0\n", "\ufeffa;b\n1;2,5\n-3;4\n", "a\tb\r\n1\t2.5\r\n\r\n-3\t4\r\n",
     "a b\n 1  2.5 \n-3 4\n", '"a", "b"\n"1", "2.5"\n-3, 4'],
    ids=["comma", "semicolon", "tab", "spaces", "quotes"],
)  # fmt: skip
def test_csv_dialects(tmp_path, text):
    dataset = open_data(tree(tmp_path, {"a.csv": text}) / "a.csv")
    assert dataset.codec.columns == ("a", "b") and dataset.codec.whole == (0,)
    assert dataset.stored.tolist() == [[1, 2.5], [-3, 4]]


def test_a_csv_without_header(tmp_path):
    dataset = open_data(tree(tmp_path, {"a.csv": "1,2\n3,4\n5,6\n"}) / "a.csv")
    assert dataset.codec.columns == () and dataset.stored.tolist() == [[1, 2], [3, 4], [5, 6]]


BAD_TABLES = {
    "missing": ("a,b\n1,2\n3,\n", r"line 3: column 'b' is missing.*on-bad"),
    "nan": ("a,b\n1,2\n3,nan\n", r"line 3: column 'b' is missing"),
    "infinite": ("a,b\n1,2\ninf,4\n", r"line 3: column 'a' holds 'inf'"),
    "text": ("a,b\n1,2\n3,cat\n", r"line 3: column 'b' holds 'cat'"),
    "underscore": ("a,b\n1,2\n1_000,3\n", r"line 3: column 'a' holds '1_000'"),
    "short": ("a,b\n1,2\n3\n", r"line 3: it has 1 cells where there should be 2"),
    "twice": ("a,a\n1,2\n", r"two columns named 'a'"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table_names_the_line_and_the_column(tmp_path, text, message):
    tree(tmp_path, {"a.csv": text})
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / "a.csv")


def test_bad_rows_are_left_out_and_listed(tmp_path):
    tree(tmp_path, {"a.csv": "a,b\n1,2\n3,\n5,6\n"})
    dataset = open_data(tmp_path / "a.csv", DataOptions(on_bad="skip"))
    assert dataset.stored.tolist() == [[1, 2], [5, 6]] and dataset.ids == ["line-2", "line-4"]
    assert [str(p) for p in dataset.problems] == ["line 3: column 'b' is missing"]


def test_rows_of_an_array_with_nan(tmp_path):
    values = np.array([[1.0, 2.0], [np.nan, 1.0], [3.0, 4.0]])
    with pytest.raises(DataError, match=r"row 1.*NaN.*on-bad"):
        open_data(values)
    dataset = open_data((values, [5, 6, 7]), DataOptions(on_bad="skip"))
    assert dataset.stored.tolist() == [[1, 2], [3, 4]] and dataset.classes == ["5", "7"]


# --- Built-in ------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    dataset, known = open_data("digits"), load_digits()
    assert np.array_equal(dataset.stored[:, 0].numpy(), known.images)
    assert dataset.label.tolist() == known.target.tolist()
    assert dataset.codec.levels == 17 and dataset.classes == list("0123456789")


@pytest.mark.parametrize(
    "name",
    [
        "swiss-roll",
        "moons",
        "checkerboard",
        "8-gaussians",
        "25-gaussians",
        "flower",
        "stacked-digits",
    ],
)
def test_drawn_data_are_a_function_of_the_seed(name):
    first, again, other = (open_data(name, DataOptions(limit=64, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first.stored, again.stored) and first.fingerprint == again.fingerprint
    assert not torch.equal(first.stored, other.stored)
    assert len(first) == 64 and len(set(first.ids)) == 64


def test_a_run_is_no_data_even_if_it_has_the_name_of_built_in_data(tmp_path, monkeypatch):
    """`ornstein train digits --out digits`: its pictures are what it drew."""
    monkeypatch.chdir(tmp_path)
    tree(Path("digits"), {"run.json": "{}", "samples/0.png": grey(3)})
    assert len(open_data("digits", DataOptions(limit=5))) == 5
    assert name_of("digits") == "digits"  # in the configuration of another run
    tree(Path("mine"), {"run.json": "{}", "samples/0.png": grey(3)})
    with pytest.raises(DataError, match="mine is a run, not data"):
        open_data("mine")
    tree(Path("moons"), {"0.png": grey(3), "1.png": grey(4)})
    assert open_data("moons").codec.shape == (1, 4, 6)
    assert name_of("moons") == str(tmp_path / "moons")


def test_the_checkerboard_is_uniform_on_its_dark_squares():
    points = open_data("checkerboard", DataOptions(limit=8000)).stored.numpy()
    square = np.floor(points).astype(int) + 2
    assert ((square.sum(1) % 2) == 0).all()
    counts = np.unique(square, axis=0, return_counts=True)[1]
    assert len(counts) == 8 and abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_stacked_digits_are_three_scans_whose_labels_the_name_tells():
    from sklearn.datasets import load_digits

    dataset, known = open_data("stacked-digits", DataOptions(limit=50)), load_digits()
    pairs = zip(known.images, known.target, strict=True)
    label_of = {image.tobytes(): label for image, label in pairs}
    for stack, name in zip(dataset.stored.double().numpy(), dataset.ids, strict=True):
        assert name[-3:] == "".join(str(label_of[channel.tobytes()]) for channel in stack)
    assert dataset.label is None and dataset.codec.shape == (3, 8, 8)


def test_patches_of_the_flower_have_the_size_asked_for():
    dataset = open_data("flower", DataOptions(limit=10, size=20))
    assert dataset.stored.shape == (10, 3, 20, 20)
    assert dataset.classes == ["china", "flower"]


# --- Options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [{"size": 0}, {"size": 10**6}, {"channels": 2}, {"on_bad": "ignore"}, {"shift": -1},
     {"given_noise": 1.0}, {"given_noise": -0.1}, {"seed": 2**63}, {"seed": -1},
     {"validation": 0.9}, {"limit": 0}, {"validation": float("nan")}],
    ids=str,
)  # fmt: skip
def test_options_have_bounds(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        DataOptions(**bad)


def test_what_is_open_already_is_refused_with_its_name():
    data = open_data("digits", DataOptions(limit=4))
    with pytest.raises(UsageError, match="open already: give digits"):
        open_data(data)  # pyright: ignore[reportArgumentType]
