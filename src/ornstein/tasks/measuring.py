"""What was measured, in the user's own units and files, made ready for the posterior of x."""

from dataclasses import dataclass, replace
from math import hypot, sqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core import operators
from ..core.combine import Compose, Through
from ..core.measure import Diagonal, FourierMask, LinearOperator, Mask, Operator, Separable
from ..core.operators import Units
from ..core.posterior import Measured
from ..core.rounding import Quantise
from ..data.codec import Codec
from ..errors import UsageError
from ..rng import normal
from ..runs.latents import LatentCodec
from ..runs.model import Model
from .options import RestoreOptions
from .reading import Files, Read, names_of, read_examples, read_measurements
from .ways import makes_pictures, named_operator


@dataclass(frozen=True, eq=False)
class Problem:
    """A measurement of each of P examples, in units of x.

    Args:
        operator: Of all examples alike; a mask may have a row for each ``(P, C, *S)``.
        y: ``(P, *M)``, float32.
        sigma_y: The standard deviation of its noise.
        sources: The file of each measurement; empty if from none.
        latents: Through which the examples are seen, where x is in latents of them.
        slack: The standard deviation of what these cannot say, in the units of `y`.
    """

    operator: Operator
    y: Tensor
    sigma_y: float
    sources: tuple[Path, ...] = ()
    latents: LatentCodec | None = None
    slack: float = 0.0

    def __len__(self) -> int:
        return len(self.y)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the files that will be made of each; see `names_of`."""
        return names_of(self.sources)

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
            operator = Mask(self._rows(operator.keep, rows).to(device))
        elif isinstance(operator, Diagonal):
            operator = Diagonal(self._rows(operator.factors, rows).to(device))
        if self.latents is not None:
            operator = Through(operator, self.latents.decode)
        return Measured(operator, self.y[rows].to(device), hypot(self.sigma_y, self.slack))

    def _rows(self, entries: Tensor, rows: Tensor) -> Tensor:
        alike = entries.ndim < self.y.ndim or len(entries) == 1
        return entries if alike else entries[rows]

    def shown(self, shape: tuple[int, ...]) -> Tensor:
        """What is known, as examples ``(P, C, *S)``: the smallest x that explains `y`."""
        zero = self.y.new_zeros(len(self.y), *shape)
        if isinstance(self.operator, LinearOperator):
            ratio = 1e-3 + self.sigma_y**2
            return self.operator.consistent(zero, self.y, ratio)
        return self.operator.tangent(zero)[1].adjoint(self.y)


def problem_of(
    model: Model, files: Files, options: RestoreOptions, own: Operator | None = None
) -> Problem:
    """What was measured of the examples in `files`, by any operator but a mask.

    Args:
        model: The run.
        files: Of measurements; of whole examples, if they are to be measured first.
        options: Which operator, and how much noise.
        own: The operator, of data in their own units, if the options do not name it.

    Raises:
        UsageError: If not one operator is named, or it does not fit the run.
        DataError: If a file cannot be read, or is of another size.
    """
    codec = model.codec.data
    operator = own or named_operator(codec, options, files)
    size, noise = _size(operator, codec.shape), _noise(codec, operator, options)
    if options.simulate:
        whole = read_examples(codec, files)
        y = operator(whole.values.double())
        y = y + noise * normal(y.shape, "measurement", options.seed).double()
        sources = whole.sources
    else:
        read = _left(codec, operator, size, files, options)
        y, sources = _looked_at(operator, read.values), read.sources
    return through(model.codec, _in_units(codec, operator, y, noise, sources))


def _left(
    codec: Codec, operator: Operator, size: tuple[int, ...], files: Files, options: RestoreOptions
) -> Read:
    """y. Of what was rounded, files hold the examples it was decoded to: rounded again, they are
    what they were."""
    if isinstance(files, Tensor) or not isinstance(operator, Quantise):
        return read_measurements(codec, size, files, makes_pictures(options))
    read = read_measurements(codec, codec.shape, files, picture=True)
    return replace(read, values=operator(read.values))


def _looked_at(operator: Operator, y: Tensor) -> Tensor:
    """`y`, and zeros where the operator never looks."""
    outer = operator.outer if isinstance(operator, Compose) else operator
    seen = isinstance(outer, (Mask, FourierMask))
    return torch.where(outer.keep, y, 0.0) if seen else y


def through(codec: Codec, problem: Problem) -> Problem:
    """The same problem, where x is seen through the decoder of `codec`, if it has one.

    What the autoencoder does not bring back stands beside the noise: that much any latent errs.
    """
    if not isinstance(codec, LatentCodec):
        return problem
    linear = isinstance(problem.operator, LinearOperator)  # then y is in units of x
    slack = codec.error * (1 if linear else _typical(codec.data))
    return replace(problem, latents=codec, slack=slack)


def masked(model: Model, given: Read, keep: Tensor, options: RestoreOptions) -> Problem:
    """Examples ``(P, C, *S)``, of which what `keep` says is known, and may have noise.

    The noise is one of the data, whose channels become x by deviations of their own:
    ``std x / s + noise / s``, s a typical std.
    """
    codec = model.codec.data
    if keep.all():
        raise UsageError("The mask asks for nothing: make it white where to fill in.")
    if not keep.any():
        raise UsageError("The mask keeps nothing: to draw from nothing, use `ornstein sample`.")
    scale, x = _typical(codec), codec.pack(given.values)
    noise, ratio = (options.noise or 0.0) / scale, _of_channels(codec.std, codec) / scale
    even = noise == 0 or bool((ratio - 1).abs().max() < 1e-9)
    y = x if even else ratio.to(x) * x
    if options.simulate and noise > 0:
        y = y + noise * normal(y.shape, "measurement", options.seed)
    y = torch.where(keep, y, 0.0)
    operator = Mask(keep) if even else Diagonal(torch.where(keep, ratio, 0.0).float())
    return through(model.codec, Problem(operator, y, noise, given.sources))


def _of_channels(numbers: tuple[float, ...], codec: Codec) -> Tensor:
    """``(C, 1, ...)``, float64."""
    axes = (1,) * (len(codec.shape) - 1)
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, *axes)


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


def _noise(codec: Codec, operator: Operator, options: RestoreOptions) -> float:
    """Of the measurement, in the data's units; by default what rounding to whole numbers is."""
    if options.denoise is not None:
        return options.denoise
    if options.noise is not None:
        return options.noise
    rounded = np.dtype(codec.dtype).kind != "f" and operator.rounding == 0
    return 12**-0.5 if rounded else 0.0


def _typical(codec: Codec) -> float:
    """The root mean square of the channels' standard deviations; 1 if all are constant."""
    return sqrt(sum(s * s for s in codec.std) / len(codec.std)) or 1.0


def _in_units(
    codec: Codec, operator: Operator, y: Tensor, noise: float, sources: tuple[Path, ...]
) -> Problem:
    """The same measurement, of x in place of ``mean + std x``.

    If A is linear, ``(y - A mean) / s = A (std / s) x + noise / s``, s a typical std.
    """
    mean, std = _of_channels(codec.mean, codec), torch.tensor(codec.std, dtype=torch.float64)
    if not isinstance(operator, LinearOperator):
        units = Units(operator, mean, _of_channels(codec.std, codec))
        return Problem(units, y.float(), noise, sources)
    scale = _typical(codec)
    y = (y - operator(mean.expand(1, *codec.shape))) / scale
    if (std - scale).abs().max() > 1e-9 * scale:
        operator = _after(operator, torch.diag(std / scale), codec.shape)
    return Problem(operator, y.float(), noise / scale, sources)


def _after(operator: LinearOperator, mix: Tensor, shape: tuple[int, ...]) -> LinearOperator:
    """`operator` after a mixing of the channels; two tensor products are one."""
    if not isinstance(operator, Separable):
        return Compose(operator, operators.channels(shape, mix))
    first, *others = operator.matrices
    return Separable((mix if first is None else first @ mix, *others))
