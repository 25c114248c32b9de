"""The operators that options name, for the examples of a run and the files of what was measured."""

from collections.abc import Callable
from math import ceil, floor, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import operators
from ..core.measure import Operator
from ..core.operators import OPERATORS
from ..core.rounding import jpeg_of
from ..data.codec import Codec
from ..data.image import ImageCodec
from ..data.names import shown
from ..data.options import DataOptions
from ..data.table import read_table
from ..errors import DataError, UsageError
from .examples import TABLES
from .options import RestoreOptions, suggestion
from .reading import Files, array_shape, coding_of, numbers, paths_of, picture_size, times

Plane = tuple[int, int]
"""Rows and columns."""


def asked(options: RestoreOptions) -> list[str]:
    """The ways of measuring that the options name, of which there should be one."""
    return [name for name in (*WAYS, "outpaint") if getattr(options, name)]


def named_operator(codec: Codec, options: RestoreOptions, files: Files | None = None) -> Operator:
    """The operator that the options name, for data in their own units.

    Args:
        codec: Of the data.
        options: Which.
        files: Of what was measured, of which some say by what.

    Raises:
        UsageError: If it does not fit the examples, or the options say too little of it.
    """
    (name,) = asked(options)
    paths: list[Path] = []
    if not (files is None or isinstance(files, Tensor) or options.simulate):
        paths = paths_of(codec, files)
    try:
        return WAYS[name](codec, options, paths)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"--{name} does not fit this run, whose examples have shape {codec.shape}: {error}."
        ) from None


def _deblur(codec: Codec, options: RestoreOptions, paths: list[Path]) -> Operator:
    try:
        return operators.blur(codec.shape, float(options.deblur or 0))
    except ValueError:
        if not Path(options.deblur or "").suffix:
            raise
    kernel = numbers(path := Path(options.deblur or ""))
    if not kernel.sum():
        raise UsageError(f"The kernel {shown(path)} sums to zero: give one that keeps the light.")
    return operators.convolution(codec.shape, torch.from_numpy(kernel / kernel.sum()))


def _mri(codec: Codec, options: RestoreOptions, paths: list[Path]) -> Operator:
    path, shape = Path(options.mri or ""), codec.shape
    if not path.suffix:
        return operators.mri(shape, str(options.mri))
    keep = numbers(path)
    if keep.shape != shape[1:]:
        raise UsageError(
            f"{path} samples k-space of {times(keep.shape)}, but the run makes pictures of "
            f"{times(shape[1:])}: give a mask of that size."
        )
    return operators.k_space(shape, torch.from_numpy(keep >= keep.max() / 2))


def _ct(codec: Codec, options: RestoreOptions, paths: list[Path]) -> Operator:
    angles = angles_of(options.ct or "")
    made = operators.radon(codec.shape, angles)
    if not paths:
        return made
    rows = plane(paths[0], picture=False)
    high, wide = codec.shape[1:]
    whole = ceil(sqrt(2) * max(high, wide))
    if rows != made.target and rows in [(n, made.target[0]) for n in (min(high, wide), whole)]:
        return operators.radon_of_scikit(codec.shape, angles, rows[0])
    return made


def angles_of(text: str) -> int | Tensor:
    """A number of angles, or degrees: in a row, as 0,7.5,15, or in a file.

    Raises:
        UsageError: If it is none of these.
        DataError: If the file cannot be read.
    """
    path = Path(text)
    if path.suffix in TABLES:
        if path.suffix == ".npy":
            return torch.from_numpy(numbers(path)).flatten()
        return torch.from_numpy(read_table(path, DataOptions()).values).flatten()
    try:
        degrees = [float(part) for part in text.split(",")]
    except ValueError:
        degrees = []
    if len(degrees) > 1:
        return torch.tensor(degrees, dtype=torch.float64)
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise UsageError(
            f"ct = {text!r} is no number of angles from 1 to 10,000, and no degrees: write 30, or "
            "0,6,12, or the name of a .txt, .csv or .npy file of degrees."
        )
    return int(text)


def _other(codec: Codec, options: RestoreOptions, paths: list[Path]) -> Operator:
    name = options.operator or ""
    if name not in OPERATORS:
        raise UsageError(f"There is no operator {name!r}{suggestion(name, OPERATORS)}")
    parameters = _parameters(options.parameters or {})
    if name == "jpeg":
        return _jpeg(codec, parameters, paths)
    return OPERATORS[name](codec.shape, **parameters)


def _jpeg(codec: Codec, parameters: dict[str, Any], paths: list[Path]) -> Operator:
    """By the tables in the files, unless a quality is said."""
    levels = codec.levels if isinstance(codec, ImageCodec) and codec.levels else 256
    parameters = {"unit": 255 / (levels - 1), **parameters}
    if "quality" in parameters:
        return operators.jpeg(codec.shape, **parameters)
    if not paths:
        raise UsageError("No file says of what quality it is: give --operator.quality.")
    found = {coding_of(path): path for path in paths}
    if None in found:
        raise UsageError(
            f"{shown(found[None])} is no JPEG file, so that it does not say of what quality it "
            "was: give --operator.quality."
        )
    if len(found) > 1:
        one, other, *_ = found.values()
        raise UsageError(
            f"{shown(one)} and {shown(other)} are JPEG files of different quality: restore them "
            "one after the other."
        )
    (coding,) = found
    assert coding is not None
    if codec.shape[0] == 3 and len(coding.tables) == 1:
        raise DataError(f"{shown(paths[0])} is grey, but the run makes pictures in colour.")
    tables = [torch.tensor(table).reshape(8, 8).double() for table in coding.tables]
    return jpeg_of(codec.shape, tables, coding.fewer, **parameters)


def _parameters(given: dict[str, float | str]) -> dict[str, Any]:
    """`given`, with whole numbers as integers."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in given.items()
    }


WAYS: dict[str, Callable[[Codec, RestoreOptions, list[Path]], Operator]] = {
    "upscale": lambda codec, o, _: operators.downsample(codec.shape, o.upscale or 0),
    "deblur": _deblur,
    "denoise": lambda codec, o, _: operators.identity(codec.shape),
    "colourise": lambda codec, o, _: operators.greyscale(codec.shape),
    "mri": _mri,
    "ct": _ct,
    "operator": _other,
}
"""Of the files that were measured, some operators want to know."""


# --- What is as large as what --------------------------------------------------------------------

NUMBERS = ("mri", "ct", "random-matrix", "phase-retrieval")
"""Operators that measure no pictures: their numbers may be of any kind and size."""


def makes_pictures(options: RestoreOptions) -> bool:
    """Whether what was measured are pictures too, in the units of the data."""
    return not (options.mri or options.ct or options.operator in NUMBERS)


def plane(path: Path, picture: bool) -> Plane:
    """Rows and columns of what a file holds, a `picture` or another measurement.

    Raises:
        DataError: If it cannot be read.
    """
    if path.suffix.lower() == ".npy" and not picture and len(shape := array_shape(path)) > 1:
        return shape[-2], shape[-1]
    wide, high = picture_size(path)
    return high, wide


def sought(measured: Plane, options: RestoreOptions) -> Plane | None:
    """Height and width of the example of which so much was measured; None if it may be any.

    Of CT, those of a square.
    """
    rows, columns = measured
    name, given = options.operator, _parameters(options.parameters or {})
    if options.simulate:
        return rows, columns
    if options.ct or name == "ct":
        angles = angles_of(options.ct) if options.ct else given.get("angles", 30)
        count = angles if isinstance(angles, int) else len(angles)
        side = floor((columns - 2) / sqrt(2)) if rows == count else rows
        return side, side
    if name == "random-matrix":
        return None
    if name == "phase-retrieval":
        by = given.get("oversampling", 2)
        return rows // by, columns // by
    if (margins := options.margins) is not None:
        left, top, right, bottom = margins
        return top + rows + bottom, left + columns + right
    by = options.upscale or (given.get("factor", 4) if name == "downsample" else 1)
    return by * rows, by * columns
