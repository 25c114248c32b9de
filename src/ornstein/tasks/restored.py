"""What restoring found: draws, their mean, how unsure it is; and the files that are made of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..core.conformal import Widening, band
from ..core.tally import Tally
from ..data.codec import write_bytes
from ..data.metadata import read_metadata, with_metadata
from ..data.points import PointsCodec
from ..errors import UsageError
from .options import Margins
from .picture import png
from .reading import Read, names_of
from .sample import Samples

if TYPE_CHECKING:
    from PIL import Image


BAND = 0.9
"""Share of the truths that a band should hold."""

FEWEST = round(2 / (1 - BAND)) - 1
"""Draws that have such bands: the truth has as many ranks among them, and one more."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the restorations of one picture took, all its draws together.

    Args:
        calls: Of the denoiser.
        products: With its Jacobian; each about as long as two calls.
        seconds: On this machine.
        worth: How many equal particles theirs were worth where their weights differed most; None
            where none competed.
    """

    calls: float
    products: float
    seconds: float
    worth: float | None = None

    @classmethod
    def of(cls, tally: Tally, begun: float, pictures: int, draws: int, block: int) -> "Cost":
        """From what was counted since `begun`, of the performance counter, in blocks of draws."""
        share = draws / ceil(pictures * draws / block)
        seconds = (time.perf_counter() - begun) / pictures
        return cls(calls=tally.calls * share, products=tally.products * share, seconds=seconds)

    def __str__(self) -> str:
        products = f" and {self.products:,.0f} Jacobian products" if self.products else ""
        worth = (
            "" if self.worth is None else f"; the particles were worth {self.worth:.1f} equal ones"
        )
        took = f"{self.calls:,.0f} denoiser calls{products}, {self.seconds:.2g} seconds a picture"
        return took + worth


@dataclass(frozen=True, eq=False)
class Restored:
    """Pictures, and draws of what they may have been.

    Args:
        given: What is known of them ``(P, C, *S)``, as x; under a mask, what was given.
        keep: True where it is known exactly ``(P, C, *S)``.
        samples: The restorations, `draws` of the first picture, then of the second.
        cost: What they took; None if it was not counted.
        names: Of the files given, to name the files written; empty for numbers.
        guess: The best guess in the mean square ``(P, C, *S)``, where one denoiser call gives it.
        sources: The files given, one for each picture, whose metadata the files written keep.
        widening: By what the run's own held-out examples say that the bands are too narrow; None
            if nobody has tried them with this measurement.
        read: What the files hold, in the units of the data, where a part of each example is known.
        margins: By how much the pictures have grown, if they have.
        caution: What is known to be wrong with draws by the method, in a sentence.
    """

    given: Tensor
    keep: Tensor
    samples: Samples
    cost: Cost | None = None
    names: tuple[str, ...] = ()
    guess: Tensor | None = None
    sources: tuple[Path, ...] = ()
    widening: Widening | None = None
    read: Read | None = None
    margins: Margins | None = None
    caution: str = ""

    @property
    def draws(self) -> int:
        """Restorations of each picture."""
        return len(self.samples) // len(self.given)

    @property
    def drawn(self) -> Tensor:
        """The restorations of each picture ``(P, draws, C, *S)``, as x."""
        return self.samples.x.unflatten(0, (len(self.given), self.draws))

    @property
    def mean(self) -> Tensor:
        """The best guess in the mean square ``(P, C, *S)``, as x: by default the draws' mean."""
        return self.drawn.mean(1) if self.guess is None else self.guess

    @property
    def sd(self) -> Tensor:
        """How unsure the mean is ``(P, C, *S)``, as x: the draws' standard deviation, widened."""
        factor = 1.0 if self.widening is None else self.widening.factor
        return factor * self.drawn.std(1, correction=1 if self.draws > 1 else 0)

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the 90 % bands ``(P, C, *S)``, in the units of the data, widened.

        Raises:
            UsageError: If there are fewer than 19 draws, of which none can say so much.
        """
        drawn = self.samples.codec.stored(self.samples.x).astype(np.float64)
        drawn = drawn.reshape(len(self.given), self.draws, *drawn.shape[1:])
        try:
            return band(drawn, BAND, 1.0 if self.widening is None else self.widening.factor)
        except ValueError as error:
            raise UsageError(f"Bands of {BAND:.0%}: {error}; draw more, with -n 19.") from None

    @property
    def trust(self) -> str:
        """Which calibration the uncertainty has, in a sentence."""
        if self.widening is None:
            return (
                "The uncertainty is as drawn, not calibrated: `ornstein restore RUN --calibrate "
                "100` with the same options measures it."
            )
        factor, count = self.widening
        return (
            f"The uncertainty is {factor:.2f} times that of the draws, as {count} held-out "
            "examples of the run ask for under this measurement."
        )

    @property
    def legend(self) -> str:
        """What the pictures of the standard deviation show, in a sentence; empty if none do."""
        if self.given.ndim != 4 or self._white == 0:
            return ""
        return f"In the pictures of sd/ black is 0, and white {self._white:.4g} units of the data."

    @property
    def _white(self) -> float:
        return float(_of_all_channels(self._sd_in_units()).max())

    def panel(self, scale: int | None = None) -> "Image.Image":
        """One row for each picture: what was given, what was known of it, its restorations.

        Without a mask what was given is what is known, and the mean of the restorations is last.
        """
        known, codec = torch.where(self.keep, self.given, 0.0), self.samples.codec
        if self.keep.any():
            rows = torch.cat([self.given[:, None], known[:, None], self.drawn], 1)
        else:
            rows = torch.cat([self.given[:, None], self.drawn, self.mean[:, None]], 1)
        return codec.preview(rows.flatten(0, 1), rows.shape[1], scale)

    def save(self, folder: str | Path, uncertainty: bool = False) -> list[Path]:
        """Write each restoration in the format of the data, and return the paths.

        They are named after the files given: ``torn-0.png``, ``torn-1.png``, ..., and keep their
        EXIF, ICC profile and resolution as far as the format has them. A table is written once
        for each draw, whole: ``rows-0.csv``, ...; known cells are those that were read.

        Args:
            folder: Where to.
            uncertainty: Also write the mean, and as arrays of floats in the data's units the
                standard deviation ``(C, *S)`` and, of 19 draws or more, the ends of the 90 %
                bands ``(2, C, *S)``, for each picture; of pictures the standard deviation also
                as a picture, see `legend`.
        """
        folder = Path(folder)
        codec = self.samples.codec
        if isinstance(codec, PointsCodec) and self.read is not None and self.sources:
            return self._save_tables(codec, self.read, folder, uncertainty)
        stems = [f"{name}-{i}" for name in self.names for i in range(self.draws)]
        paths = named(self.samples.save(folder), stems)
        _tell([path for path in self.sources for _ in range(self.draws)], paths, self.margins)
        if uncertainty:
            mean = replace(self.samples, x=self.mean, labels=None)
            means = named(mean.save(folder / "mean"), list(self.names))
            _tell(self.sources, means, self.margins)
            paths += means
            numbered = self.names or tuple(f"{i:06d}" for i in range(len(self.given)))
            for name, sd in zip(numbered, self._sd_in_units(), strict=True):
                paths.append(_write_array(folder / "sd" / f"{name}.npy", sd))
                if sd.ndim == 3:
                    paths.append(write_bytes(folder / "sd" / f"{name}.png", self._seen(sd)))
            if self.draws >= FEWEST:
                for name, ends in zip(numbered, np.stack(self.band, 1), strict=True):
                    paths.append(
                        _write_array(folder / "band" / f"{name}.npy", ends.astype(np.float32))
                    )
        return paths

    def _save_tables(
        self, codec: PointsCodec, read: Read, folder: Path, uncertainty: bool
    ) -> list[Path]:
        files = tuple(dict.fromkeys(self.sources))
        names = names_of(files) or tuple(f"{i:06d}" for i in range(len(files)))
        ends = np.stack(self.band) if uncertainty and self.draws >= FEWEST else None
        paths = list[Path]()
        for file, name in zip(files, names, strict=True):
            rows = [i for i, source in enumerate(self.sources) if source == file]
            keep, known = self.keep[rows].numpy(), read.values[rows].numpy()
            labels = [read.labels[i] for i in rows] if read.labels else None
            tables = {f"{name}-{k}": self.drawn[rows, k] for k in range(self.draws)}
            if uncertainty:
                tables[f"mean/{name}"] = self.mean[rows]
            for place, x in tables.items():
                drawn = codec.unpack(x)
                filled = np.where(keep, known, drawn).astype(drawn.dtype)
                file = codec.encode(filled, labels)
                paths.append(write_bytes(folder / f"{place}.{codec.format}", file))
            if uncertainty:
                sd = self._sd_in_units()[rows]
                paths.append(_write_array(folder / "sd" / f"{name}.npy", sd))
            if ends is not None:
                band = ends[:, rows].astype(np.float32)
                paths.append(_write_array(folder / "band" / f"{name}.npy", band))
        return paths

    def _seen(self, sd: np.ndarray) -> bytes:
        """A standard deviation ``(C, H, W)`` as a picture, of all channels together."""
        from PIL import Image, PngImagePlugin

        told, out = PngImagePlugin.PngInfo(), BytesIO()
        told.add_text("Comment", self.legend)
        grey = _of_all_channels(sd) / (self._white or 1.0)
        Image.fromarray(np.rint(255 * grey).astype(np.uint8)).save(out, "PNG", pnginfo=told)
        return out.getvalue()

    def _sd_in_units(self) -> np.ndarray:
        std = torch.tensor(self.samples.codec.std).reshape(-1, *(1,) * (self.given.ndim - 2))
        return (self.sd * std).float().numpy()

    def _repr_png_(self) -> bytes:
        return png(self.panel())


def named(paths: list[Path], stems: list[str]) -> list[Path]:
    """The files under their new names, if there is one for each."""
    if len(paths) != len(stems):
        return paths
    pairs = zip(paths, stems, strict=True)
    return [path.replace(path.with_name(stem + path.suffix)) for path, stem in pairs]


def _of_all_channels(sd: np.ndarray) -> np.ndarray:
    """The root mean square over the channels of ``(..., C, H, W)``."""
    return np.sqrt(np.square(sd).mean(-3))


def _tell(sources: Sequence[Path], paths: Sequence[Path], margins: Margins | None) -> None:
    """Put what the file of each picture says besides its pixels into the file made of it."""
    left, top, right, bottom = margins or (0, 0, 0, 0)
    for source, path in zip(sources, paths, strict=False):
        if (known := read_metadata(source)) is not None:
            wide, high = known.size  # on paper, what has grown is larger
            known = replace(known, size=(left + wide + right, top + high + bottom))
            write_bytes(path, with_metadata(path.read_bytes(), known))


def _write_array(path: Path, array: np.ndarray) -> Path:
    out = BytesIO()
    np.save(out, array, allow_pickle=False)
    return write_bytes(path, out.getvalue())
