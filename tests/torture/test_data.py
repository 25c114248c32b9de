"""Data that is broken or hostile: named, refused before it is allocated, and never waited for.

The letters are those of the list of torture tests: D1 a folder of bad files, D2 bombs, D3 names in
archives, D5 tables, D7 tiny datasets, D8 data that changed.
"""

import gzip
import io
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ornstein.data import DataOptions, open_data, order
from ornstein.errors import DataError

SKIP = DataOptions(on_bad="skip")


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


# --- D1: a folder as people have them ------------------------------------------------------------


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for i in range(188):
        picture = Image.fromarray(draw.integers(0, 256, (16, 16, 3)).astype(np.uint8))
        picture.save(tmp_path / f"good-{i:03d}.png")
    picture = Image.fromarray(draw.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    jpeg = encode(picture, "JPEG")
    for i, length in enumerate((10, 200, len(jpeg) - 300)):
        (tmp_path / f"truncated-{i}.jpg").write_bytes(jpeg[:length])
    for i in range(2):
        (tmp_path / f"empty-{i}.png").write_bytes(b"")
    (tmp_path / "page.png").write_text("<!doctype html><title>404</title>")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(draw.integers(0, 2**16, (16, 16)).astype(np.uint16)).save(tmp_path / "deep.png")
    palette = picture.quantize(16)
    palette.save(tmp_path / "palette.png", transparency=3)
    exif = Image.Exif()
    exif[0x0112] = 8
    picture.save(tmp_path / "turned.JPG", "JPEG", exif=exif)
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    picture.save(tmp_path / "UPPER.PNG", "PNG")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "x.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    return tmp_path


BAD = {
    "truncated-0.jpg": "", "truncated-1.jpg": "", "truncated-2.jpg": "truncated",
    "empty-0.png": "it is empty", "empty-1.png": "it is empty", "page.png": "it is not a picture",
    "deep.png": "uint16 where most hold uint8", "dot.png": "1 x 1 where most are 16 x 16",
    "pipe.png": "pipe", "x.png": "a folder", "dangling.png": "No such file",
}  # fmt: skip


def test_d1_skipping_keeps_the_good_and_lists_the_bad_with_reasons(messy):
    dataset = open_data(messy, SKIP)
    assert {p.path for p in dataset.problems} == set(BAD)
    for problem in dataset.problems:
        assert BAD[problem.path].lower() in problem.reason.lower(), problem
    assert len(dataset) == 188 + 5
    assert {"cmyk.jpg", "palette.png", "turned.JPG", "moving.gif", "UPPER.PNG"} < set(dataset.ids)
    red = dataset.stored[dataset.ids.index("moving.gif")]
    assert red[:, 0, 0].tolist() == [255, 0, 0]  # the first frame


def test_d1_the_same_files_are_used_each_time(messy):
    first, again = open_data(messy, SKIP), open_data(messy, SKIP)
    assert first.ids == again.ids and first.fingerprint == again.fingerprint
    epochs = [sorted(order(0, len(first), range(e * 193, e * 193 + 193)).tolist()) for e in (0, 1)]
    assert epochs[0] == epochs[1] == list(range(193))


def test_d1_the_default_stops_and_names_the_file_at_once(messy):
    start = time.process_time()
    with pytest.raises(DataError, match=r"(dangling|pipe|x)\.png.*--data.on-bad skip"):
        open_data(messy)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", ["truncated-1.jpg", "empty-0.png", "page.png"])
def test_d1_one_bad_file_among_good_is_named(messy, name):
    for bad in set(BAD) - {name}:
        path = messy / bad
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=rf"{name}.*--data.on-bad skip"):
        open_data(messy)


def test_d1_a_folder_of_nothing_but_bad_files_is_an_error_even_when_skipping(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1.*a\.png: it is empty"):
        open_data(tmp_path, SKIP)


@pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.npz", "a.zip", "a.tar.gz", "a.png"])
def test_d1_a_pipe_in_the_place_of_a_file_does_not_hang(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError):
        open_data(tmp_path / name)


def test_d1_every_truncation_and_bit_flip_of_a_picture_is_read_or_refused(tmp_path):
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (8, 8, 3)).astype(np.uint8))
    deep = io.BytesIO()
    tifffile.imwrite(deep, draw.integers(0, 99, (3, 8, 8)).astype(np.uint16), compression="zlib")
    for suffix, data in {
        "png": encode(picture), "jpg": encode(picture, "JPEG"), "gif": encode(picture, "GIF"),
        "webp": encode(picture, "WEBP"), "bmp": encode(picture, "BMP"), "tif": deep.getvalue(),
    }.items():  # fmt: skip
        for i in range(120):
            broken = bytearray(data)
            if i % 2:
                broken = broken[: draw.integers(len(data))]
            else:
                broken[draw.integers(len(data))] ^= 1 << draw.integers(8)
            (tmp_path / f"{i:03d}-{suffix}.{suffix}").write_bytes(broken)
    (tmp_path / "good.png").write_bytes(encode(picture))
    dataset = open_data(tmp_path, DataOptions(on_bad="skip", size=8, channels=3))
    assert len(dataset) >= 1 and len(dataset.problems) > 200
    assert all(p.reason for p in dataset.problems)


# --- D2: bombs -----------------------------------------------------------------------------------


def huge_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    body = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def zip_records(name: str, packed: int, size: int, start: int = 0) -> tuple[bytes, bytes]:
    """The local and the central header of a deflated member."""
    both = (20, 0, 8, 0, 33, 0, packed, size, len(name), 0)
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, *both)
    central = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, *both, 0, 0, 0, 0, start)
    return local + name.encode(), central + name.encode()


def make_zip_of_zeros(path: Path, name: str, size: int = 2**31) -> Path:
    """A zip of `size` zeros: one deflated block, written as often as it takes."""
    block = 2**20
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = deflate.compress(bytes(block)) + deflate.flush(zlib.Z_FULL_FLUSH)
    data = first * (size // block) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    local, central = zip_records(name, len(data), size)
    start = len(local) + len(data)
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(central), start, 0)
    path.write_bytes(local + data + central + tail)
    return path


def make_zip_of_a_million(path: Path) -> Path:
    central = zip_records("", 0, 0)[1][:28] + struct.pack("<H", 8) + zip_records("", 0, 0)[1][30:]
    with path.open("wb") as file:
        file.write(b"PK\3\4" + bytes(60))
        start = file.tell()
        file.write(b"".join(central + b"%08d" % i for i in range(10**6)))
        size, record = file.tell() - start, file.tell()
        end = (0x06064B50, 44, 45, 45, 0, 0, 10**6, 10**6, size, start)
        file.write(struct.pack("<IQHHIIQQQQ", *end))
        file.write(struct.pack("<IIQI", 0x07064B50, 0, record, 1))
        end = (0x06054B50, 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
        file.write(struct.pack("<IHHHHIIH", *end))
    return path


def make_tar_of_zeros(path: Path, name: str, size: int) -> Path:
    """A tar.gz that claims `size` zeros; its first 16 MiB are there."""
    info = tarfile.TarInfo(name)
    info.size = size
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(2**24))
    return path


def npy_header(shape: tuple, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"


def make_bomb(kind: str, folder: Path) -> Path:
    match kind:
        case "png of 50,000 x 50,000":
            (folder / "a.png").write_bytes(huge_png())
            return folder
        case "bmp of 50,000 x 50,000":
            data = bytearray(encode(Image.new("RGB", (1, 1)), "BMP"))
            data[18:26] = struct.pack("<ii", 50_000, 50_000)
            (folder / "a.bmp").write_bytes(data)
            return folder
        case "zip of zeros named as a picture":
            return make_zip_of_zeros(folder / "a.zip", "a.png")
        case "zip that unpacks a thousandfold":
            return make_zip_of_zeros(folder / "a.zip", "a.png", 2**28)
        case "npz of zeros":
            return make_zip_of_zeros(folder / "a.npz", "x.npy")
        case "zip of 10^6 members":
            return make_zip_of_a_million(folder / "a.zip")
        case "tar.gz of zeros named as a picture":
            return make_tar_of_zeros(folder / "a.tar.gz", "a.png", 10 * 2**30)
        case "tar.gz of zeros beside pictures":
            return make_tar_of_zeros(folder / "a.tar.gz", "a.bin", 2**29)
        case "tar.gz with a long name of 4 GiB":
            info = tarfile.TarInfo("././@LongLink")
            info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**32
            with gzip.open(folder / "a.tar.gz", "wb", compresslevel=1) as file:
                file.write(info.tobuf(tarfile.GNU_FORMAT))
                file.write(bytes(2**26))
            return folder / "a.tar.gz"
        case "gzip in gzip":
            inner = gzip.compress(bytes(2**24))
            (folder / "a.tar.gz").write_bytes(gzip.compress(inner))
            return folder / "a.tar.gz"
        case "npy claiming a terabyte":
            (folder / "a.npy").write_bytes(npy_header((10**6, 1000, 1000)) + bytes(100))
            return folder / "a.npy"
        case "npy with a huge header":
            text = b"{'descr': '|u1', 'shape': (" + b"1," * 2**20
            (folder / "a.npy").write_bytes(b"\x93NUMPY\x02\0" + struct.pack("<I", len(text)) + text)
            return folder / "a.npy"
        case "npy whose size overflows":
            (folder / "a.npy").write_bytes(npy_header((2**40, 2**40)) + bytes(100))
            return folder / "a.npy"
        case "csv of one endless line":
            with (folder / "a.csv").open("wb") as file:
                file.write(b"a,b\n")
                file.truncate(2**30)  # a gigabyte of NUL on disk, in a hole
            return folder / "a.csv"
        case "csv of a line of digits":
            (folder / "a.csv").write_bytes(b"1," * 2**22)
            return folder / "a.csv"
        case "tiff claiming a huge page":
            out = io.BytesIO()
            tifffile.imwrite(out, np.zeros((4, 4), np.uint16), photometric="minisblack")
            data = out.getvalue()
            for tag in (256, 257):  # ImageWidth, ImageLength
                entry = data.index(struct.pack("<H", tag), 8)
                data = data[:entry] + struct.pack("<HHII", tag, 4, 1, 60_000) + data[entry + 12 :]
            (folder / "a.tif").write_bytes(data)
            return folder
        case "tiff with a huge strip count":
            out = io.BytesIO()
            tifffile.imwrite(out, np.zeros((4, 4), np.uint16), photometric="minisblack")
            data = out.getvalue()
            entry = data.index(struct.pack("<H", 273))  # StripOffsets
            data = data[: entry + 4] + struct.pack("<I", 2**31 - 1) + data[entry + 8 :]
            (folder / "a.tif").write_bytes(data)
            return folder
        case "tiff whose strip unpacks to a gigabyte":
            deflate = zlib.compressobj(9)
            strip = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
            strip = strip[:2] + strip[2:] * 1024
            out = io.BytesIO()
            tifffile.imwrite(
                out, iter([strip]), shape=(4, 4), dtype="uint16", compression="zlib",
                rowsperstrip=4, photometric="minisblack",
            )  # fmt: skip
            (folder / "a.tif").write_bytes(out.getvalue())
            return folder
    raise AssertionError(kind)


BOMBS = {
    "png of 50,000 x 50,000": "50000 x 50000|limit",
    "bmp of 50,000 x 50,000": "50000 x 50000|limit",
    "zip of zeros named as a picture": "a.png.*limit",
    "zip that unpacks a thousandfold": "a.png.*bomb",
    "npz of zeros": "x.npy.*limit",
    "zip of 10^6 members": "list of members",
    "tar.gz of zeros named as a picture": "a.png.*limit",
    "tar.gz of zeros beside pictures": "a.bin.*bomb",
    "tar.gz with a long name of 4 GiB": "list of members",
    "gzip in gzip": "damaged",
    "npy claiming a terabyte": "claims",
    "npy with a huge header": "not an array",
    "npy whose size overflows": "claims",
    "csv of one endless line": "line 2 is longer",
    "csv of a line of digits": "line 1 is longer",
    "tiff claiming a huge page": "claims|limit",
    "tiff with a huge strip count": "a.tif",
    "tiff whose strip unpacks to a gigabyte": "bomb",
}

OPEN = """
import json, resource, sys, time
from PIL import Image
import tifffile
from ornstein.data import open_data
from ornstein.data.pictures import open_pictures
from ornstein.errors import DataError
for path in sys.argv[1:]:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        said = repr(open_data(path))
    except DataError as error:
        said = str(error)
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([said, rise / 1024, time.process_time() - start]))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> dict[str, tuple[str, float, float]]:
    """What was said of each bomb, by how many MB memory then peaked higher, and the seconds."""
    paths = [make_bomb(kind, tmp_path_factory.mktemp("bomb")) for kind in BOMBS]
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *map(str, paths)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return dict(zip(BOMBS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("kind", BOMBS)
def test_d2_a_bomb_is_refused_before_it_is_allocated(refusals, kind):
    said, megabytes, seconds = refusals[kind]
    assert re.search(BOMBS[kind], said), said
    assert megabytes < 100 and seconds < 1


def test_d2_a_bomb_among_good_pictures_is_left_out(tmp_path):
    (tmp_path / "bomb.png").write_bytes(huge_png())
    for i in range(3):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    dataset = open_data(tmp_path, SKIP)
    assert len(dataset) == 3 and [p.path for p in dataset.problems] == ["bomb.png"]


def test_d2_what_repeats_itself_in_good_measure_is_no_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(30):
            archive.writestr(f"{i}.bmp", encode(Image.new("RGB", (400, 400)), "BMP"))
    assert len(open_data(tmp_path / "a.zip")) == 30


def test_d2_arrays_with_pickles_are_refused_unopened(tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    evil = np.array([Evil()], dtype=object)
    np.save(tmp_path / "a.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=evil)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="plain numbers"):
            open_data(tmp_path / name)
    assert not canary.exists()


# --- D3: names in archives -----------------------------------------------------------------------

PICTURE = encode(Image.new("L", (4, 4)))
NAMES = ["../x.png", "a/../../x.png", "/etc/x.png", "C:\\x.png", "C:/x.png", "a\\x.png",
         "x\x1b[31m.png", "\\\\server\\x.png"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_d3_names_that_lead_elsewhere_are_refused_by_name(tmp_path, form, name):
    path = tmp_path / f"in/a.{form}"
    path.parent.mkdir()
    members = [("good.png", PICTURE), (name, PICTURE)]
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in members:
                archive.writestr(zipfile.ZipInfo(member), data)
    else:
        with tarfile.open(path, "w") as archive:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    with pytest.raises(DataError, match="refused: member") as caught:
        open_data(path, SKIP)
    assert "x" in str(caught.value) and str(caught.value).isprintable()
    assert {p.name for p in tmp_path.rglob("*")} == {"in", f"a.{form}"}


KINDS = {
    "symbolic link": (tarfile.SYMTYPE, "link"),
    "hard link": (tarfile.LNKTYPE, "link"),
    "character device": (tarfile.CHRTYPE, "device"),
    "block device": (tarfile.BLKTYPE, "device"),
    "pipe": (tarfile.FIFOTYPE, "device"),
}


@pytest.mark.parametrize(("kind", "said"), KINDS.values(), ids=KINDS)
def test_d3_links_and_devices_in_a_tar_are_refused_by_name(tmp_path, kind, said):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("sneaky")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError, match=f"sneaky.*{said}"):
        open_data(tmp_path / "a.tar")


def test_d3_a_link_in_a_zip_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("sneaky.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"sneaky\.png.*link"):
        open_data(tmp_path / "a.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_d3_two_members_of_one_name_are_refused(tmp_path, form):
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for _ in range(2):
                archive.writestr("twin.png", PICTURE)
    else:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name in ("twin.png", "./twin.png"):
                info = tarfile.TarInfo(name)
                info.size = len(PICTURE)
                archive.addfile(info, io.BytesIO(PICTURE))
    with pytest.raises(DataError, match=r"twin\.png.*two of this name"):
        open_data(tmp_path / f"a.{form}")


def test_d3_a_nul_in_a_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("evil#.png", PICTURE)
    data = (tmp_path / "a.zip").read_bytes().replace(b"evil#.png", b"evil\0.png")
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"refused: member.*control characters"):
        open_data(tmp_path / "a.zip")


def test_d3_an_encrypted_member_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", PICTURE)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        open_data(tmp_path / "a.zip")


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_d3_every_truncation_of_an_archive_is_refused_or_read(tmp_path, form):
    path = tmp_path / f"a.{form}"
    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(5):
                archive.writestr(f"{i}.png", PICTURE)
    else:
        with tarfile.open(path, "w:gz" if form == "tar.gz" else "w") as archive:
            for i in range(5):
                info = tarfile.TarInfo(f"{i}.png")
                info.size = len(PICTURE)
                archive.addfile(info, io.BytesIO(PICTURE))
    data = path.read_bytes()
    refused = 0
    for length in np.linspace(0, len(data) - 1, 64).astype(int):
        path.write_bytes(data[:length])
        try:
            open_data(path, SKIP)
        except DataError:
            refused += 1
    assert refused > 10  # a tar may end after any member


def test_d3_a_damaged_header_inside_a_tar_is_no_early_end(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(5):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = len(PICTURE)
            archive.addfile(info, io.BytesIO(PICTURE))
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[data.index(b"3.png")] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        open_data(tmp_path / "a.tar", SKIP)


def test_d3_a_name_that_is_no_text_is_read_and_shown(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in (b"good\xff.png", b"bad\xfe.png"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(
            PICTURE if name.startswith(b"good") else b""
        )
    dataset = open_data(folder, SKIP)
    assert len(dataset) == 1 and len(dataset.fingerprint) == 32
    str(dataset.problems[0]).encode()


# --- D5: tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "no row"), (b"a,b\n", "no row"), (b"\xff\xfe1\x00", "UTF-8"), (b'a,b\n"1,2\n', "line"),
     (b"a\n\n\n", "no row"), (b"label\nx\n", "no column of numbers"),
     (b"," * 20_000 + b"1\n", "columns")],
    ids=["empty", "header alone", "UTF-16", "open quote", "blank lines", "labels alone", "wide"],
)  # fmt: skip
def test_d5_a_table_without_numbers_is_one_sentence(tmp_path, data, message):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        open_data(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)


def test_d5_one_row_and_a_constant_column_come_back_exactly(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n0.1,3\n")
    dataset = open_data(tmp_path / "a.csv")
    assert dataset.codec.unpack(torch.randn(5, 2)).tolist() == [[0.1, 3.0]] * 5


# --- D7: tiny datasets and odd labels ------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_d7_one_or_two_pictures_work(count):
    values = np.random.default_rng(0).integers(0, 256, (count, 4, 4)).astype(np.uint8)
    dataset = open_data(values)
    train, held = dataset.split(0.1, 0)
    x, _ = train.batch(order(0, len(train), range(64)))  # a batch larger than the dataset
    assert x.shape == (64, 1, 4, 4) and x.isfinite().all()
    assert len(held) == count - 1


@pytest.mark.parametrize("empty", [np.zeros((0, 4, 4)), np.zeros((5, 0, 4)), []], ids=str)
def test_d7_nothing_is_an_error(empty):
    with pytest.raises(DataError):
        open_data(empty)


def test_d7_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no pictures"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    "labels", [[0, 1], [0, -7, 1], [0.5, 1.0, 0.0], [[0], [1]], [[0], [1, 2]], 3], ids=str
)
def test_d7_labels_that_are_none_are_refused_in_one_sentence(labels):
    with pytest.raises(DataError) as caught:
        open_data((np.zeros((3, 4, 4)), labels))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "labels", [[0, -1, 1], [0.0, float("nan"), 1.0], ["a", None, "b"]], ids=str
)
def test_d7_missing_labels_are_minus_one(labels):
    dataset = open_data((np.zeros((3, 4, 4)), labels))
    assert dataset.label.tolist() == [0, -1, 1]


# --- D8: data that changed -----------------------------------------------------------------------


def test_d8_the_fingerprint_tells_any_change_and_nothing_else(tmp_path):
    for i in range(5):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    before = open_data(tmp_path).fingerprint
    (tmp_path / "notes.txt").write_text("no picture")
    os.utime(tmp_path / "0.png", (0, 0))
    assert open_data(tmp_path).fingerprint == before
    changed = Image.new("L", (4, 4), 3)
    changed.putpixel((2, 2), 4)
    changed.save(tmp_path / "3.png")
    assert open_data(tmp_path).fingerprint != before
    Image.new("L", (4, 4), 3).save(tmp_path / "3.png")
    assert open_data(tmp_path).fingerprint == before
    (tmp_path / "4.png").rename(tmp_path / "5.png")
    assert open_data(tmp_path).fingerprint != before
