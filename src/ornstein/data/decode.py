"""The bytes of one picture file -> arrays ``(H, W, C)``; scaling, and changes of channels.

The policy: the first frame of an animation; turned as EXIF says; palettes become colour; CMYK and
other colour spaces become RGB by Pillow's formulas, without colour management; transparency is
laid on white unless four channels are asked for; 16 bits, floats and any number of channels are
kept. A TIFF may hold a stack: axes S and C are channels, all others count examples. An array file
holds one picture ``(H, W)`` or ``(H, W, C)``; ``(C, H, W)`` where the first axis alone has 1, 3, 4.
"""

import io
import logging
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from .arrays import parse_npy
from .names import Unreadable

if TYPE_CHECKING:
    from PIL import Image
    from tifffile import TiffFile, TiffPage

PIXELS = 2**26  # largest picture, by the size its header claims; Pillow's own limit is above it
STACK_BYTES = 2**32  # largest TIFF stack, by the size its header claims
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".pgm",
    ".ppm",
    ".npy",
)

Array = np.ndarray


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return name.lower().endswith(SUFFIXES)


def decode(data: bytes, channels: int | None = None) -> list[Array]:
    """The pictures in one file, each ``(H, W, C)`` in the file's own dtype.

    Args:
        data: The content of the file.
        channels: 4 keeps transparency; all else lays it on white.

    Raises:
        Unreadable: With the reason, whatever is wrong.
    """
    if not data:
        raise Unreadable("it is empty")
    try:
        if data.startswith(b"\x93NUMPY"):
            return [_decode_array(data)]
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _decode_tiff(data, channels)
        return _decode_picture(data, channels)
    except Unreadable:
        raise
    except (MemoryError, RecursionError):
        raise Unreadable("it does not fit into memory") from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = str(error).split("\n")[0][:150] or type(error).__name__
        if "cannot identify image file" in reason:
            reason = f"it is not a picture (it begins with {data[:12]!r})"
        raise Unreadable(reason) from None


@contextmanager
def strict_decoders() -> Iterator[None]:
    """Inside, Pillow's warning of decompression bombs is an error, and tifffile does not log.

    To be entered once, outside the threads that decode.
    """
    from PIL import Image

    log = logging.getLogger("tifffile")
    level = log.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            log.setLevel(level)


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether axes ``(..., A, H, W)`` or ``(..., H, W, A)`` put the channels before the pixels."""
    few = (1, 3, 4)
    return shape[-3] in few and shape[-1] not in few


def _decode_array(data: bytes) -> Array:
    array = parse_npy(data)
    if array.ndim not in (2, 3) or not array.size:
        raise Unreadable(f"its shape {array.shape} is not (H, W) or (H, W, C)")
    if array.ndim == 2:
        return array[..., None]
    return np.moveaxis(array, 0, 2) if channels_first(array.shape) else array


def _decode_picture(data: bytes, channels: int | None, frames: Sequence[int] = (0,)) -> list[Array]:
    """The `frames` of a file that Pillow reads."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(*image.size)
        if image.format == "PNG" and len(data) > 25 and data[24] == 16 and data[25] != 0:
            raise Unreadable(
                "it is a colour PNG of 16 bits a channel, which would be read in 8: "
                "convert it to TIFF"
            )
        if image.format == "PPM" and image.mode == "RGB" and _levels_of_ppm(data) > 255:
            raise Unreadable(
                "it is a colour PPM of 16 bits a channel, which would be read in 8: "
                "convert it to TIFF"
            )
        depth16 = image.format == "PNG" and image.mode == "I"
        found: list[Array] = []
        for frame in frames:
            image.seek(frame)
            _check_size(*image.size)
            array = _pixels(image, channels)
            found.append(array.astype(np.uint16) if depth16 else array)
        return found


def _pixels(image: "Image.Image", channels: int | None) -> Array:
    """One frame ``(H, W, C)``, turned upright, as grey, colour, or colour and transparency."""
    from PIL import Image, ImageOps

    image.load()
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image)[..., None]
    if "transparency" in image.info or image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        image = image.convert("RGBA")
        if channels != 4:
            paper = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(paper, image).convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def _levels_of_ppm(data: bytes) -> int:
    """The largest value, which is the fourth word of the header."""
    return int(re.sub(rb"#[^\r\n]*", b"", data[:4096]).split(maxsplit=4)[3])


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= PIXELS:
        raise Unreadable(f"it claims {width} x {height} pixels; the limit is {PIXELS:,} in all")


# --- TIFF ----------------------------------------------------------------------------------------


def _decode_tiff(data: bytes, channels: int | None) -> list[Array]:
    """The examples of a TIFF stack; those of 8 bits, a palette or JPEG are read by Pillow."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        first = tiff.pages.first
        plain = first.dtype == np.uint8 and first.samplesperpixel in (1, 3) and len(tiff.pages) == 1
        packed = first.compression not in (1, 8, 32946, 32773)
        if packed and first.dtype != np.uint8:
            name = getattr(first.compression, "name", first.compression)
            raise Unreadable(f"it is compressed by {name}: save it uncompressed or as Deflate")
        if packed or plain or first.photometric not in (0, 1, 2):
            return _decode_picture(data, channels, _frames(tiff, data))
        found: list[Array] = []
        for series in tiff.series:
            size = int(np.prod(series.shape, dtype=object)) * np.dtype(series.dtype).itemsize
            _check_stack(size, data)
            for page in series.pages:
                if page is None:
                    raise Unreadable("pages of it lie in other files: save it as one file")
                _check_strips(tiff, page.aspage())
            found += _examples(series.asarray(), series.axes)
        tag = first.tags.get(274)
        turn = int(tag.value) if tag is not None else 1
        return [_turn(_upon_white(a, first, channels), turn) for a in found]


def _frames(tiff: "TiffFile", data: bytes) -> list[int]:
    """Where the pages are that are no smaller copies of others."""
    pages = [page.aspage() for page in tiff.pages]
    frames = [i for i, page in enumerate(pages) if not i or not page.is_reduced]
    if len(frames) > 1:
        _check_stack(sum(pages[i].size for i in frames), data)
    return frames


def _check_stack(size: int, data: bytes) -> None:
    if size > STACK_BYTES or size > 1100 * len(data):
        raise Unreadable(f"it claims {size:,} bytes of pixels in {len(data):,} of file")


def _upon_white(array: Array, page: "TiffPage", channels: int | None) -> Array:
    """Samples of which more is brighter, transparency laid on white unless channels are four.

    Only whole numbers have transparency. Grey that has it becomes colour, as by Pillow.
    """
    clear = page.extrasamples in ((1,), (2,)) and array.shape[2] == page.samplesperpixel
    if not clear or array.dtype.kind != "u":
        return _bright(array, page)
    top = np.iinfo(array.dtype).max
    colour, alpha = _bright(array[..., :-1], page), array[..., -1:] / top
    colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
    if page.extrasamples == (1,):  # the colours are multiplied by it
        colour = np.minimum(colour / np.maximum(alpha, 1 / top), top)
    if channels != 4:
        return like(colour * alpha + top * (1 - alpha), array.dtype)
    return np.concatenate([like(colour, array.dtype), array[..., -1:]], 2)


def _bright(array: Array, page: "TiffPage") -> Array:
    if page.photometric != 0 or array.dtype.kind not in "bu":  # else white is zero
        return array
    return ~array


def _check_strips(tiff, page) -> None:
    """Refuse a page whose Deflate strips unpack to more than a strip holds: a bomb."""
    _check_size(page.imagewidth, page.imagelength)
    if page.compression not in (8, 32946):
        return
    expected = int(np.prod(page.chunks, dtype=object)) * page.dtype.itemsize
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(offset)
        strip = tiff.filehandle.read(count)
        if len(zlib.decompressobj().decompress(strip, expected + 1)) > expected:
            raise Unreadable("a strip unpacks to more than its size, as in a bomb")


def _examples(array: Array, axes: str) -> list[Array]:
    """Split a stack with the named axes into examples ``(H, W, C)``."""
    if "Y" not in axes or "X" not in axes or len(axes) != array.ndim:
        raise Unreadable(f"its axes {axes!r} are not those of pictures")
    inner = [i for i, name in enumerate(axes) if name in "SC"]
    outer = [i for i, name in enumerate(axes) if name not in "SCYX"]
    array = array.transpose(*outer, axes.index("Y"), axes.index("X"), *inner)
    height, width = array.shape[len(outer) : len(outer) + 2]
    return list(array.reshape(-1, height, width, max(1, *(1, *array.shape[len(outer) + 2 :]))))


def _turn(array: Array, orientation: int) -> Array:
    """Undo the EXIF `orientation` 1 to 8 of an array ``(H, W, C)``."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array[::-1] if orientation in (3, 4, 7, 8) else array


# --- Size and channels ---------------------------------------------------------------------------


def cover(array: Array, height: int, width: int) -> Array:
    """Scale ``(H, W, C)`` to the smallest size that covers height x width, and cut the centre.

    Pillow's antialiased Lanczos filter, in 8 bits or in float32; integers are rounded and clipped.

    Raises:
        Unreadable: If it is so thin that the whole would be larger than pictures may be.
    """
    from PIL import Image

    h, w = array.shape[:2]
    if (h, w) == (height, width):
        return array
    size, top, left = _covering(h, w, height, width)
    if size[0] * size[1] > PIXELS:
        raise Unreadable(
            f"it is so thin, {w} x {h}, that it would be scaled to {size[0]:,} x {size[1]:,} "
            f"pixels; the limit is {PIXELS:,} in all"
        )
    if array.dtype == np.uint8 and array.shape[2] in (1, 3):
        scaled = np.asarray(
            Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).resize(
                size, Image.Resampling.LANCZOS
            )
        ).reshape(size[1], size[0], -1)
    else:
        planes = [
            np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS))
            for plane in np.moveaxis(array, 2, 0).astype(np.float32)
        ]
        scaled = like(np.stack(planes, 2), array.dtype)
    return scaled[top : top + height, left : left + width]


def uncovered(array: Array, height: int, width: int, fill: float) -> Array:
    """What belongs to a picture of height x width that `cover` has made h x w, as large again.

    Of an `array` ``(h, w, C)``: values are those of the nearest point; what was cut off is `fill`.
    """
    h, w = array.shape[:2]
    size, top, left = _covering(height, width, h, w)
    whole = np.full((size[1], size[0], array.shape[2]), fill, array.dtype)
    whole[top : top + h, left : left + w] = array
    rows = (np.arange(height) + 0.5) * size[1] / height
    columns = (np.arange(width) + 0.5) * size[0] / width
    return whole[rows.astype(int)[:, None], columns.astype(int)]


def _covering(h: int, w: int, height: int, width: int) -> tuple[tuple[int, int], int, int]:
    """The (width, height) to which h x w is scaled to cover height x width; what is cut off."""
    ratio = max(height / h, width / w)
    size = max(width, round(w * ratio)), max(height, round(h * ratio))
    return size, (size[1] - height) // 2, (size[0] - width) // 2


def like(values: Array, dtype: np.dtype) -> Array:
    """Float `values` in another dtype: rounded and clipped for integers and truth values."""
    if dtype.kind == "f":
        return values.astype(dtype)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if dtype.itemsize > 2:  # whose limits float32 would round up, beyond what they hold
        values = values.astype(np.float64)
    return np.clip(np.rint(values), low, high).astype(dtype)


def rechannel(array: Array, channels: int | None) -> Array:
    """``(H, W, C)`` with so many channels; C in 1, 3, 4.

    Colour becomes grey by the weights of Rec. 601, 0.299 R + 0.587 G + 0.114 B.
    """
    found = array.shape[2]
    if channels is None or found == channels:
        return array
    if found not in (1, 3, 4):
        raise Unreadable(f"its {found} channels cannot become {channels}: leave channels out")
    if array.dtype.kind == "f" and 4 in (found, channels):
        raise Unreadable("pictures in floats have no transparency: ask for 1 or 3 channels")
    top = 1.0 if array.dtype.kind in "bf" else np.iinfo(array.dtype).max
    if found == 4:
        alpha = array[..., 3:] / top
        array = like(array[..., :3] * alpha + top * (1 - alpha), array.dtype)
    if channels == 1:
        if array.shape[2] == 3:
            grey = array.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
            array = like(grey, array.dtype)[..., None]
        return array
    array = np.repeat(array, 3, 2) if array.shape[2] == 1 else array
    if channels == 4:
        array = np.concatenate([array, np.full_like(array[..., :1], top)], 2)
    return array
