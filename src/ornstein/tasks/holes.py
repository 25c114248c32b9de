"""Examples of which a part is unknown: under a mask, beyond the edges, in empty cells of tables."""

from dataclasses import replace
from pathlib import Path
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor

from ..data.codec import Codec
from ..data.image import ImageCodec
from ..data.places import files_in
from ..data.points import PointsCodec
from ..errors import UsageError
from ..rng import generator
from ..runs.model import Model
from .options import Margins, RestoreOptions
from .reading import Files, Read, paths_of, picture_size, read_examples
from .ways import WAYS

HoleSource = str | Path | Tensor | np.ndarray | None
"""A picture, white where to fill in; or booleans, true there."""


def incomplete(
    model: Model, files: Files, mask: HoleSource, options: RestoreOptions
) -> tuple[Read, Tensor]:
    """Examples ``(P, C, *S)``, and true where they are to be filled in.

    Args:
        model: The run, for examples of that size.
        files: Of the examples, or of what is to grow to them.
        mask: See `restore`.
        options: Say how far to grow.

    Raises:
        UsageError: If the mask or the margins do not fit, or nothing says what is unknown.
        DataError: If a file cannot be read.
    """
    codec = model.codec.data
    if options.margins is not None and len(codec.shape) != 3:
        raise UsageError("--outpaint is for pictures, and this run makes none.")
    if options.margins is not None and not options.simulate:
        return _grown(codec, files, options.margins)
    if mask is not None:
        same_cut(mask, files)
        same_size(model, files)
    read = read_examples(codec, files)
    hole = read.values.isnan()
    if options.margins is not None:
        hole |= _around(codec.shape, options.margins)
    if mask is not None:
        hole = hole | read_mask(codec.shape, mask, len(hole))
    elif not hole.any():
        ways = ", ".join(f"--{name}" for name in ("mask", "outpaint", *WAYS))
        empty = ", or leave cells empty" if isinstance(codec, PointsCodec) else ""
        raise UsageError(f"Say what was measured by one of {ways}{empty}; none was given.")
    return read, hole


def _grown(codec: Codec, files: Files, margins: Margins) -> tuple[Read, Tensor]:
    """Pictures with empty margins, as large as `codec` has them."""
    left, top, right, bottom = margins
    channels, *space = codec.shape
    high, wide = space[0] - top - bottom, space[1] - left - right
    if isinstance(files, Tensor):
        found = {(files.shape[-1], files.shape[-2])}
    else:
        found = {picture_size(path) for path in paths_of(codec, files)}
    for columns, rows in found - {(wide, high)}:
        raise UsageError(
            f"A picture of {columns} x {rows} pixels, with so many around it, is of "
            f"{columns + left + right} x {rows + top + bottom}, but the run makes pictures of "
            f"{space[1]} x {space[0]}: add as many as are missing, or train with --data.patch."
        )
    read = read_examples(replace(codec, shape=(channels, high, wide)), files)
    values = read.values.new_zeros(len(read.values), *codec.shape)
    values[_within(codec.shape, margins)] = read.values
    return replace(read, values=values), _around(codec.shape, margins).expand(values.shape)


def _within(shape: tuple[int, ...], margins: Margins) -> tuple[EllipsisType, slice, slice]:
    """What lies within the margins, of ``(P, C, H, W)`` or ``(C, H, W)``."""
    left, top, right, bottom = margins
    return ..., slice(top, shape[1] - bottom), slice(left, shape[2] - right)


def _around(shape: tuple[int, ...], margins: Margins) -> Tensor:
    """True in the margins ``(C, H, W)``."""
    hole = torch.ones(shape, dtype=torch.bool)
    hole[_within(shape, margins)] = False
    return hole


def same_cut(mask: object, files: Files) -> None:
    """Refuse a mask, or another layer, that is not of the proportions of the pictures it is for.

    Both are scaled and cut to the size of the run, and would be cut differently.
    """
    if not isinstance(mask, (str, Path)) or isinstance(files, Tensor):
        return
    wide, high = picture_size(Path(mask))
    for path in files_in(files):
        width, height = picture_size(path)
        if abs(wide * height - high * width) > max(wide, high, width, height):
            raise UsageError(
                f"{mask} is of {wide} x {high} pixels and {path} of {width} x {height}: give one "
                "of the size of the picture."
            )


def same_size(model: Model, files: Files) -> None:
    """Refuse pictures under a mask that would have to be scaled: what is known is to be kept.

    Raises:
        UsageError: If one is not of the size of the model's examples, naming both sizes.
    """
    space = model.codec.data.shape[1:]
    if isinstance(files, Tensor) or len(space) != 2:
        return
    high, wide = space
    for path in files_in(files):
        if (size := picture_size(path)) != (wide, high):
            raise UsageError(
                f"{path} is of {size[0]} x {size[1]} pixels, but the run makes pictures of {wide} "
                f"x {high}: scale it to that size, or train with --data.patch for any size."
            )


def windows_of(mask: HoleSource, window: tuple[int, ...], count: int, seed: int) -> Tensor:
    """Parts of a mask ``(count, 1, *window)``, each from a random place where it hides something.

    A mask of the size of a window is taken as it is.

    Raises:
        UsageError: If it is smaller than a window, or hides nothing or everything.
    """
    if isinstance(mask, (str, Path)):
        wide, high = picture_size(Path(mask))
        mask = read_mask((1, high, wide), mask, 1)[0]
    hole = torch.as_tensor(mask)
    if hole.shape[-len(window) :] == window:
        return hole
    hole = hole.reshape(-1, *hole.shape[-len(window) :])[:1]
    if any(n < w for n, w in zip(hole.shape[1:], window, strict=True)):
        small, large = (" x ".join(map(str, size)) for size in (hole.shape[1:], window))
        raise UsageError(
            f"The mask of {small} is smaller than what the run was trained on, {large}."
        )
    chance, parts = generator("windows", seed), list[Tensor]()
    for _ in range(100 * count):
        begin = [
            int(chance.integers(n - w + 1)) for n, w in zip(hole.shape[1:], window, strict=True)
        ]
        part = hole[(slice(None), *(slice(b, b + w) for b, w in zip(begin, window, strict=True)))]
        if part.any() and not part.all():
            parts.append(part)
        if len(parts) == count:
            return torch.stack(parts)
    raise UsageError("The mask hides nothing, or everything, wherever one looks.")


def read_mask(shape: tuple[int, ...], mask: str | Path | Tensor | np.ndarray, count: int) -> Tensor:
    """True where to fill in, ``(P, C, *S)``; a picture is scaled and cut as those of the data."""
    if isinstance(mask, (str, Path)):
        if len(shape) != 3:
            raise UsageError("A mask from a file is for pictures: give a tensor of booleans.")
        grey = ImageCodec(shape=(1, *shape[1:]), dtype="uint8", mean=(0.0,), std=(1.0,))
        hole = grey.read(Path(mask)) >= 128
        if not hole.any():
            wide, high = picture_size(Path(mask))
            scaled = f" of {wide} x {high} pixels, seen as {shape[2]} x {shape[1]}"
            scaled = "" if (high, wide) == shape[1:] else scaled + ","
            raise UsageError(
                f"The mask {mask}{scaled} asks for nothing: make it white where to fill in."
            )
        if len(hole) not in (1, count):
            raise UsageError(f"{mask} holds {len(hole)} pictures: give one, or {count}.")
    else:
        hole = torch.as_tensor(mask)
        if hole.dtype != torch.bool:
            raise UsageError(f"The mask is of {hole.dtype}: give booleans, true where to fill in.")
    try:
        return hole.expand(count, *shape)
    except RuntimeError:
        raise UsageError(
            f"The mask has shape {tuple(hole.shape)}, which does not fit {count} pictures of "
            f"shape {shape}."
        ) from None
