"""What a picture's file says besides its pixels, carried over to another file.

EXIF, the ICC profile and the resolution, from any file that Pillow reads, to PNG; the profile and
the resolution also to TIFF. What would no longer be true is left behind: the EXIF orientation, by
which pictures are turned when they are read, its thumbnail, and a profile of other colours.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*")
INCH = 0.0254  # metres
ORIENTATION, EXIF, WIDTH, HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003


@dataclass(frozen=True)
class Metadata:
    """What a file says of its picture.

    Args:
        size: Width and height, the picture turned upright.
        exif: As a TIFF header with directories; empty if there is none.
        icc: The profile; empty if there is none.
        dpi: Pixels an inch, across and down; None if it is not said.
    """

    size: tuple[int, int]
    exif: bytes = b""
    icc: bytes = b""
    dpi: tuple[float, float] | None = None


def read_metadata(path: Path) -> Metadata | None:
    """The metadata of a picture file; None of a file that Pillow does not know."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            exif, dpi = picture.getexif(), picture.info.get("dpi")
            width, height = picture.size
            if exif.pop(ORIENTATION, 1) in (5, 6, 7, 8):  # a damaged file may say anything
                width, height, dpi = height, width, dpi and dpi[::-1]
            inner = exif.get_ifd(EXIF)
            inner |= {tag: n for tag, n in ((WIDTH, width), (HEIGHT, height)) if tag in inner}
            told = b"" if picture.format == "TIFF" or not exif else exif.tobytes()
            icc = picture.info.get("icc_profile") or b""
    except (OSError, ValueError, struct.error, SyntaxError):
        return None
    known = dpi is not None and all(0 < float(d) < 1e6 for d in dpi)
    return Metadata(
        size=(width, height),
        exif=told.removeprefix(b"Exif\0\0"),
        icc=icc if isinstance(icc, bytes) else b"",
        dpi=(float(dpi[0]), float(dpi[1])) if dpi is not None and known else None,
    )


def with_metadata(file: bytes, known: Metadata) -> bytes:
    """The same picture, bit for bit, in a file that says what is known.

    The resolution is that of a picture as large on paper: one enlarged twice has twice as many
    pixels an inch.

    Args:
        file: A PNG or a TIFF as `image.ImageCodec` writes them; any other is given back.
        known: What to say.
    """
    if file.startswith(PNG):
        return _png(file, known)
    return _tiff(file, known) if file[:4] in TIFF else file


def _png(file: bytes, known: Metadata) -> bytes:
    """Source: https://www.w3.org/TR/png-3/#11Chunks."""
    width, height, _, kind = struct.unpack(">IIBB", file[16:26])
    chunks = []
    if _suits(known.icc, grey=kind in (0, 4)):
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(known.icc)))
    if known.dpi is not None:
        across, down = _resolution(known, (width, height))
        metres = (round(across / INCH), round(down / INCH))
        chunks.append((b"pHYs", struct.pack(">IIB", *metres, 1)))
    if known.exif:
        chunks.append((b"eXIf", known.exif))
    stop = 8 + 12 + 13  # signature, IHDR
    return file[:stop] + b"".join(_chunk(*c) for c in chunks) + file[stop:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _tiff(file: bytes, known: Metadata) -> bytes:
    import tifffile

    planes = tifffile.imread(io.BytesIO(file))
    planes = planes[None] if planes.ndim == 2 else planes
    return tiff(planes, known)


def tiff(planes: np.ndarray, known: Metadata | None = None) -> bytes:
    """A TIFF file of channels ``(C, H, W)``, one after the other, that says what is known."""
    import tifffile

    count, height, width = planes.shape
    out, many = io.BytesIO(), count > 1
    icc = known.icc if known and _suits(known.icc, grey=not many) else None
    dpi = _resolution(known, (width, height)) if known and known.dpi else None
    tifffile.imwrite(
        out,
        planes if many else planes[0],
        photometric="minisblack",
        planarconfig="separate" if many else None,
        metadata={"axes": "CYX" if many else "YX"},
        iccprofile=icc,
        resolution=dpi,
        resolutionunit=None if dpi is None else "INCH",
    )
    return out.getvalue()


def _suits(icc: bytes, *, grey: bool) -> bool:
    """Whether a profile is of such colours: its header names them in bytes 16 to 19."""
    return icc[16:20] == (b"GRAY" if grey else b"RGB ")


def _resolution(known: Metadata, size: tuple[int, int]) -> tuple[float, float]:
    assert known.dpi is not None
    across, down = (d * n / m for d, n, m in zip(known.dpi, size, known.size, strict=True))
    return across, down
