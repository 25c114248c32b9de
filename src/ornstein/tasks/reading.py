"""The user's files as tensors in the units of the data: examples, and measurements of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.operators import GREY
from ..data.arrays import NUMBERS, read_npy
from ..data.codec import Codec
from ..data.decode import channels_first, decode, is_picture, strict_decoders
from ..data.files import read_file
from ..data.image import ImageCodec
from ..data.names import Unreadable, shown
from ..data.places import Place, files_in
from ..data.points import PointsCodec
from ..errors import DataError, UsageError
from .examples import TABLES

Files = Place | Sequence[Place] | Tensor
"""Where measurements lie, or what they hold, in the units of the data."""

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Read:
    """What files hold.

    Args:
        values: In the units of the data ``(P, ...)``; NaN where a cell of a table is empty.
        sources: The file of each; empty for tensors.
        labels: The class of each, where a table has a column for it.
    """

    values: Tensor
    sources: tuple[Path, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of what is made of each: its file's, numbered if the file holds several."""
        return names_of(self.sources)


def names_of(sources: Sequence[Path]) -> tuple[str, ...]:
    """A name for each example, from the file it came from; none if two would be alike."""
    total, met, names = Counter(sources), Counter[Path](), list[str]()
    for path in sources:
        names.append(path.stem if total[path] == 1 else f"{path.stem}-{met[path]}")
        met[path] += 1
    return tuple(names) if len(set(names)) == len(names) else ()


def paths_of(codec: Codec, files: Place | Sequence[Place]) -> list[Path]:
    """The files that are named; of folders, those that may hold examples of this kind."""
    return files_in(files, _is_table if isinstance(codec, PointsCodec) else is_picture)


def _is_table(name: str) -> bool:
    return name.lower().endswith(TABLES)


def read_examples(codec: Codec, files: Files) -> Read:
    """Whole examples in the data's units ``(P, C, *S)``, but for empty cells of tables.

    Raises:
        UsageError: If a tensor is not of the codec's shape.
        DataError: If a file cannot be read.
    """
    if isinstance(files, Tensor):
        if tuple(files.shape[1:]) != codec.shape:
            raise UsageError(
                f"The examples have shape {tuple(files.shape)}, but the run was trained on "
                f"{codec.shape}: give (P, {', '.join(map(str, codec.shape))})."
            )
        return Read(files)
    parts, sources, labels = list[Tensor](), list[Path](), list[str]()
    for path in paths_of(codec, files):
        if isinstance(codec, PointsCodec):
            values, classes = codec.read_cells(path)
            labels += classes
        else:
            values = codec.read(path)
        parts.append(values)
        sources += [path] * len(values)
    told = tuple(labels) if len(labels) == len(sources) else ()
    return Read(torch.cat(parts), tuple(sources), told)


def read_measurements(codec: Codec, size: Shape, files: Files, picture: bool) -> Read:
    """Measurements ``(P, *size)`` in the data's units, float64.

    Args:
        codec: Of the examples that were measured.
        size: What the operator makes of one.
        files: Where they lie. Pairs of real and imaginary parts may be complex numbers.
        picture: Whether they are pictures, of which a file says the units by its depth; the
            numbers of other measurements, and those of arrays, are taken as they are.

    Raises:
        UsageError: If a tensor is not of that size.
        DataError: If a file cannot be read, or is of another size or depth.
    """
    if isinstance(files, Tensor):
        values = files
        if files.is_complex():
            values = torch.view_as_real(files).movedim(-1, 2).flatten(1, 2)
        if tuple(values.shape[1:]) != size:
            raise UsageError(
                f"The measurements have shape {tuple(files.shape)}, but the operator makes "
                f"(P, {', '.join(map(str, size))}) of the run's examples."
            )
        return Read(values.double())
    found, sources = list[np.ndarray](), list[Path]()
    for path in files_in(files):
        try:
            for array in _measured(codec, size, path, picture):
                found.append(array)
                sources.append(path)
        except (Unreadable, OSError, ValueError) as error:
            raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None
    return Read(torch.from_numpy(np.stack(found)), tuple(sources))


def _measured(codec: Codec, size: Shape, path: Path, picture: bool) -> Iterator[np.ndarray]:
    """The measurements in a file, each ``(*size)``, float64."""
    if path.suffix.lower() == ".npy":
        whole = _in_pairs(read_npy(path, NUMBERS))
        if whole.shape in (size, tuple(n for n in size if n != 1)):
            yield whole.astype(np.float64).reshape(size)
            return
        arrays = [whole[..., None] if whole.ndim == 2 else whole]
    else:
        with strict_decoders():
            arrays = decode(read_file(path), size[0])
        arrays = [_in_units(codec, array) for array in arrays] if picture else arrays
    for array in arrays:
        if array.ndim == 3 and array.shape[2] == 3 and size[0] == 1:
            array = (array @ np.array(GREY))[..., None]
        values = np.moveaxis(array, -1, 0).astype(np.float64)
        if values.shape != size:
            raise DataError(
                f"{shown(path)} is of {times(values.shape)} (channels first), but this measurement "
                f"of the run's examples is of {times(size)}: give a file of that size."
            )
        yield values


def _in_pairs(array: np.ndarray) -> np.ndarray:
    """Complex numbers ``(H, W)`` or ``(C, H, W)`` as real and imaginary parts ``(2 C, H, W)``."""
    if array.dtype.kind != "c":
        return array
    planes = array[None] if array.ndim == 2 else array
    return np.stack([np.real(planes), np.imag(planes)], 1).reshape(-1, *planes.shape[1:])


def _in_units(codec: Codec, array: np.ndarray) -> np.ndarray:
    """A picture of a file in the units of the data: refused if its depth is not theirs.

    What was measured need not be one of the levels of the data, nor a whole number.
    """
    if not isinstance(codec, ImageCodec) or array.dtype.kind == "f":
        return array
    scaled = codec.format == "png" and array.dtype == np.uint8 and (codec.levels or 256) < 256
    if array.dtype.name != codec.dtype and not (scaled and codec.dtype == "bool"):
        raise Unreadable(
            f"it holds {array.dtype}, but the run was trained on {codec.dtype}; convert it, or "
            "give a .npy file in the units of the data"
        )
    return array * ((codec.levels - 1) / 255) if scaled and codec.levels else array


def numbers(path: Path) -> np.ndarray:
    """A picture or an array ``(H, W)`` of a file, as numbers.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(read_npy(path), np.float64)
        with strict_decoders():
            (array,) = decode(read_file(path), 1)
        return array.astype(np.float64).mean(2)
    except (Unreadable, OSError, ValueError) as error:
        raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None


# --- What is known before anything is read -------------------------------------------------------


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture or an array in a file.

    Raises:
        DataError: If it cannot be read.
    """
    if path.suffix.lower() == ".npy":
        shape = array_shape(path)
        if len(shape) < 2:
            raise DataError(f"{shown(path)} holds numbers in a row: give a picture.")
        high, wide = shape[-2:] if len(shape) < 3 or channels_first(shape) else shape[-3:-1]
        return wide, high
    from PIL import Image

    try:
        with Image.open(path) as picture:
            wide, high = picture.size
            turned = picture.getexif().get(ORIENTATION, 1) >= 5
            return (high, wide) if turned else (wide, high)
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None


def array_shape(path: Path) -> Shape:
    """Of what a .npy file holds, real or complex.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return read_npy(path, NUMBERS).shape
    except (Unreadable, OSError, ValueError) as error:
        raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None


ORIENTATION = 0x0112  # of EXIF
SHARED = {(1, 1), (1, 2), (2, 1), (2, 2)}  # rows and columns of pixels with one colour


@dataclass(frozen=True)
class Coding:
    """How a JPEG file was made.

    Args:
        tables: Steps of luminance, and of colour if it has any; 64 numbers each, row by row.
        fewer: Rows and columns of pixels that share a colour.
    """

    tables: tuple[tuple[int, ...], ...]
    fewer: tuple[int, int] = (1, 1)


def coding_of(path: Path) -> Coding | None:
    """What the header of a JPEG file says; None of any other picture.

    Raises:
        DataError: If the file cannot be read, or its blocks are not those of the picture.
    """
    from PIL import Image, JpegImagePlugin

    try:
        with Image.open(path) as picture:
            if not isinstance(picture, JpegImagePlugin.JpegImageFile):
                return None
            turned = picture.getexif().get(ORIENTATION, 1) != 1
            layers, tables = picture.layer, picture.quantization
            plain = picture.mode == "L" or picture.info.get("adobe_transform") != 0
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None
    if turned:
        raise DataError(
            f"{shown(path)} is to be turned, as its EXIF says, and its blocks are not: turn it "
            "without loss first, as by `jpegtran -rotate 90`."
        )
    (_, across, down, first), *others = layers
    used = [tables[first], *(tables[number] for *_, number in others)]
    fewer = {(down // v, across // h) for _, h, v, _ in others} or {(1, 1)}
    alike = len(fewer) == 1 and fewer <= SHARED and used[1:2] == used[2:]
    if not plain or len(others) not in (0, 2) or not alike:
        raise DataError(
            f"{shown(path)} is a JPEG file of an unusual kind: save it as PNG, and say of what "
            "quality it is by --operator.quality."
        )
    return Coding(tuple(tuple(table) for table in used[:2]), fewer.pop())


def times(size: Sequence[int]) -> str:
    """``3 x 8 x 8``."""
    return " x ".join(map(str, size))
