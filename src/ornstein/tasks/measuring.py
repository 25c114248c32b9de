"""What was measured, in the user's own units and files, made ready for the posterior of x."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import operators
from ..core.measure import Compose, LinearOperator, Mask, Operator, Separable, Through
from ..core.operators import OPERATORS, Units
from ..core.posterior import Measured
from ..data.arrays import read_npy
from ..data.codec import Codec
from ..data.decode import decode, strict_decoders
from ..data.files import read_file
from ..data.image import ImageCodec
from ..data.names import Unreadable, shown
from ..data.places import Place, files_in
from ..errors import DataError, UsageError
from ..rng import normal
from ..runs.latents import LatentCodec
from ..runs.model import Model
from .options import RestoreOptions, suggestion

Files = Place | Sequence[Place] | Tensor
"""Where measurements lie, or what they hold, in the units of the data."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A measurement of each of P examples, in units of x.

    Args:
        operator: Of all examples alike; a mask may have a row for each ``(P, C, *S)``.
        y: ``(P, *M)``, float32.
        sigma_y: The standard deviation of its noise.
        names: Of the files the measurements came from; empty if from none.
        latents: Through which the examples are seen, where x is in latents of them.
        slack: The standard deviation of what these cannot say, in the units of `y`.
    """

    operator: Operator
    y: Tensor
    sigma_y: float
    names: tuple[str, ...] = ()
    latents: LatentCodec | None = None
    slack: float = 0.0

    def __len__(self) -> int:
        return len(self.y)

    @property
    def copied(self) -> Mask | None:
        """The mask, if what it keeps is known exactly."""
        operator = self.operator
        return operator if isinstance(operator, Mask) and self.sigma_y == 0 else None

    @property
    def white(self) -> bool:
        """Whether all is seen, in noise of one level: `y` is then an x_t over its alpha_t."""
        everything = isinstance(self.operator, Mask) and bool(self.operator.keep.all())
        return everything and self.sigma_y > 0 and self.latents is None

    def rows(self, rows: Tensor, device: torch.device) -> Measured:
        """The measurements of some of the examples, on `device`."""
        operator = self.operator
        if isinstance(operator, Mask):
            alike = operator.keep.ndim < self.y.ndim or len(operator.keep) == 1
            operator = Mask((operator.keep if alike else operator.keep[rows]).to(device))
        if self.latents is not None:
            operator = Through(operator, self.latents.decode)
        return Measured(operator, self.y[rows].to(device), hypot(self.sigma_y, self.slack))

    def shown(self, shape: tuple[int, ...]) -> Tensor:
        """What is known, as examples ``(P, C, *S)``: the smallest x that explains `y`."""
        zero = self.y.new_zeros(len(self.y), *shape)
        if isinstance(self.operator, LinearOperator):
            ratio = 1e-3 + self.sigma_y**2
            return self.operator.consistent(zero, self.y, ratio)
        return self.operator.tangent(zero)[1].adjoint(self.y)


def problem_of(model: Model, files: Files, options: RestoreOptions) -> Problem:
    """What the options say was measured of the examples in `files`, by any operator but a mask.

    Args:
        model: The run.
        files: Of measurements; of whole examples, if they are to be measured first.
        options: Which operator, and how much noise.

    Raises:
        UsageError: If not one operator is named, or it does not fit the run.
        DataError: If a file cannot be read, or is of another size.
    """
    codec = model.codec.data
    operator = named_operator(codec.shape, options)
    size, noise = _size(operator, codec.shape), _noise(codec, options)
    if options.simulate:
        stored, names = read_examples(codec, files)
        y = operator(stored.double())
        y = y + noise * normal(y.shape, "measurement", options.seed).double()
    else:
        y, names = _read(codec, size, files)
    return through(model.codec, _in_units(codec, operator, y, noise, names))


def through(codec: Codec, problem: Problem) -> Problem:
    """The same problem, where x is seen through the decoder of `codec`, if it has one.

    What the autoencoder does not bring back stands beside the noise: that much any latent errs.
    """
    if not isinstance(codec, LatentCodec):
        return problem
    linear = isinstance(problem.operator, LinearOperator)  # then y is in units of x
    slack = codec.error * (1 if linear else _typical(codec.data))
    return replace(problem, latents=codec, slack=slack)


def masked(
    model: Model, stored: Tensor, names: tuple[str, ...], keep: Tensor, options: RestoreOptions
) -> Problem:
    """Examples ``(P, C, *S)``, of which what `keep` says is known."""
    codec = model.codec.data
    if named := [name for name in _WAYS if getattr(options, name)]:
        raise UsageError(f"--mask and --{named[0]} are two measurements: give one.")
    if keep.all():
        raise UsageError("The mask asks for nothing: make it white where to fill in.")
    if not keep.any():
        raise UsageError("The mask keeps nothing: to draw from nothing, use `ornstein sample`.")
    noise, given = (options.noise or 0.0) / _typical(codec), codec.pack(stored)
    if options.simulate and noise > 0:
        given = given + noise * normal(given.shape, "measurement", options.seed)
    known = torch.where(keep, given, 0.0)
    return through(model.codec, Problem(Mask(keep), known, noise, names))


def _size(operator: Operator, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a measurement. Refuses what cannot take examples of `shape`, and what loses all."""
    one, two = (50 * normal((1, *shape), "probe", i).double() for i in (0, 1))
    try:
        seen = operator(one)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"The operator does not fit examples of shape {shape}: {error}.") from None
    if torch.equal(seen, operator(two)):
        raise UsageError(
            "The operator loses everything: to draw from nothing, use `ornstein sample`."
        )
    return tuple(seen.shape[1:])


def named_operator(shape: tuple[int, ...], options: RestoreOptions) -> Operator:
    """The operator that the options name, for data in their own units.

    Raises:
        UsageError: If none or several are named, or it does not fit examples of `shape`.
    """
    chosen = [name for name in _WAYS if getattr(options, name)]
    if len(chosen) != 1:
        flags = ", ".join(f"--{name}" for name in ("mask", *_WAYS))
        found = " and ".join(f"--{name}" for name in chosen) or "none"
        raise UsageError(f"Say what was measured by one of {flags}; {found} was given.")
    (name,) = chosen
    try:
        return _WAYS[name](shape, options)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"--{name} does not fit this run, whose examples have shape {shape}: {error}."
        ) from None


def _deblur(shape: tuple[int, ...], options: RestoreOptions) -> Operator:
    try:
        return operators.blur(shape, float(options.deblur or 0))
    except ValueError:
        if not Path(options.deblur or "").suffix:
            raise
    kernel = _grey(Path(options.deblur or ""))
    return operators.convolution(shape, torch.from_numpy(kernel / kernel.sum()))


def _mri(shape: tuple[int, ...], options: RestoreOptions) -> Operator:
    path = Path(options.mri or "")
    if not path.suffix:
        return operators.mri(shape, str(options.mri))
    keep = _grey(path)
    if keep.shape != shape[1:]:
        raise UsageError(
            f"{path} samples k-space of {_times(keep.shape)}, but the run makes pictures of "
            f"{_times(shape[1:])}: give a mask of that size."
        )
    return operators.k_space(shape, torch.from_numpy(keep >= keep.max() / 2))


def _other(shape: tuple[int, ...], options: RestoreOptions) -> Operator:
    name = options.operator or ""
    if name not in OPERATORS:
        raise UsageError(f"There is no operator {name!r}{suggestion(name, OPERATORS)}")
    return OPERATORS[name](shape, **_parameters(OPERATORS[name], options.parameters or {}))


def _parameters(make: Callable[..., Operator], given: dict[str, float | str]) -> dict[str, Any]:
    """`given`, with whole numbers as integers; what `make` does not know is a `TypeError`."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in given.items()
    }


_WAYS: dict[str, Callable[[tuple[int, ...], RestoreOptions], Operator]] = {
    "upscale": lambda shape, o: operators.downsample(shape, o.upscale or 0),
    "deblur": _deblur,
    "denoise": lambda shape, o: operators.identity(shape),
    "colourise": lambda shape, o: operators.greyscale(shape),
    "mri": _mri,
    "ct": lambda shape, o: operators.radon(shape, o.ct or 0),
    "operator": _other,
}


def _noise(codec: Codec, options: RestoreOptions) -> float:
    """Of the measurement, in the data's units; by default what rounding to whole numbers is."""
    if options.denoise is not None:
        return options.denoise
    if options.noise is not None:
        return options.noise
    return 0.0 if np.dtype(codec.dtype).kind == "f" else 12**-0.5


def _typical(codec: Codec) -> float:
    """The root mean square of the channels' standard deviations; 1 if all are constant."""
    return sqrt(sum(s * s for s in codec.std) / len(codec.std)) or 1.0


def _in_units(
    codec: Codec, operator: Operator, y: Tensor, noise: float, names: tuple[str, ...]
) -> Problem:
    """The same measurement, of x in place of ``mean + std x``.

    If A is linear, ``(y - A mean) / s = A (std / s) x + noise / s``, s a typical std.
    """
    axes = (1,) * (len(codec.shape) - 1)
    mean = torch.tensor(codec.mean, dtype=torch.float64).reshape(-1, *axes)
    std = torch.tensor(codec.std, dtype=torch.float64)
    if not isinstance(operator, LinearOperator):
        units = Units(operator, mean, std.reshape(-1, *axes))
        return Problem(units, y.float(), noise, names)
    scale = _typical(codec)
    y = (y - operator(mean.expand(1, *codec.shape))) / scale
    if (std - scale).abs().max() > 1e-9 * scale:
        operator = _after(operator, torch.diag(std / scale), codec.shape)
    return Problem(operator, y.float(), noise / scale, names)


def _after(operator: LinearOperator, mix: Tensor, shape: tuple[int, ...]) -> LinearOperator:
    """`operator` after a mixing of the channels; two tensor products are one."""
    if not isinstance(operator, Separable):
        return Compose(operator, operators.channels(shape, mix))
    first, *others = operator.matrices
    return Separable((mix if first is None else first @ mix, *others))


# --- Files ---------------------------------------------------------------------------------------


def read_examples(codec: Codec, files: Files) -> tuple[Tensor, tuple[str, ...]]:
    """Whole examples in the data's units ``(P, C, *S)``, and the names of their files."""
    if isinstance(files, Tensor):
        if tuple(files.shape[1:]) != codec.shape:
            raise UsageError(
                f"The pictures have shape {tuple(files.shape)}, but the run was trained on "
                f"{codec.shape}: give (P, {', '.join(map(str, codec.shape))})."
            )
        return files, ()
    found = [(path, codec.read(path)) for path in files_in(files)]
    return torch.cat([x for _, x in found]), _names([(path, len(x)) for path, x in found])


def _read(codec: Codec, size: tuple[int, ...], files: Files) -> tuple[Tensor, tuple[str, ...]]:
    """Measurements ``(P, *size)`` in the data's units, float64, and the names of their files."""
    if isinstance(files, Tensor):
        if tuple(files.shape[1:]) != size:
            raise UsageError(
                f"The measurements have shape {tuple(files.shape)}, but the operator makes "
                f"(P, {', '.join(map(str, size))}) of the run's examples."
            )
        return files.double(), ()
    paths = files_in(files)
    y = torch.stack([_read_one(codec, size, path) for path in paths])
    return y, _names([(path, 1) for path in paths])


def _read_one(codec: Codec, size: tuple[int, ...], path: Path) -> Tensor:
    try:
        if path.suffix.lower() == ".npy":
            array = read_npy(path)
            if array.shape in (size, tuple(n for n in size if n != 1)):
                return torch.from_numpy(array.astype(np.float64)).reshape(size)
            array = array[..., None] if array.ndim == 2 else array
        else:
            with strict_decoders():
                (array,) = decode(read_file(path), size[0])
    except (Unreadable, OSError, ValueError) as error:
        raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None
    if array.ndim == 3 and array.shape[2] == 3 and size[0] == 1:
        array = array @ np.array(operators.GREY)
        array = array[..., None]
    found = np.moveaxis(array, -1, 0)
    if found.shape != size:
        raise DataError(
            f"{shown(path)} is of {_times(found.shape)} (channels first), but this measurement of "
            f"the run's examples is of {_times(size)}: give a file of that size."
        )
    values = found.astype(np.float64)
    if isinstance(codec, ImageCodec) and path.suffix.lower() == ".png" and codec.levels:
        top = codec.levels - 1
        values = values * (top / 255) if top < 255 else values
    return torch.from_numpy(values)


def _grey(path: Path) -> np.ndarray:
    """A picture or an array ``(H, W)`` of a file, as numbers."""
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(read_npy(path), np.float64)
        with strict_decoders():
            (array,) = decode(read_file(path), 1)
        return array.astype(np.float64).mean(2)
    except (Unreadable, OSError, ValueError) as error:
        raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture or an array in a file.

    Raises:
        DataError: If it cannot be read.
    """
    if path.suffix.lower() == ".npy":
        size = _grey(path).shape
        return size[1], size[0]
    from PIL import Image

    try:
        with Image.open(path) as picture:
            wide, high = picture.size
            turned = picture.getexif().get(0x0112, 1) >= 5
            return (high, wide) if turned else (wide, high)
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None


def _names(found: Sequence[tuple[Path, int]]) -> tuple[str, ...]:
    """A name for each example: its file's, numbered if the file holds several."""
    names = [
        path.stem if count == 1 else f"{path.stem}-{i}"
        for path, count in found
        for i in range(count)
    ]
    return tuple(names) if len(set(names)) == len(names) else ()


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
