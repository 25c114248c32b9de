"""Pictures: any number of channels, 8 and 16 bits, integers, truth values and floats."""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .arrays import read_npy
from .codec import Codec, file_name, storage, write_bytes
from .decode import cover, decode, rechannel, strict_decoders
from .files import read_file
from .metadata import tiff
from .names import Unreadable, shown

if TYPE_CHECKING:
    from PIL import Image

Format = Literal["png", "tiff", "npy"]
Layout = Literal["HWC", "HW", "CHW"]


@dataclass(frozen=True, kw_only=True)
class ImageCodec(Codec):
    """Pictures ``(C, H, W)``.

    Args:
        format: Of the files that `save` writes: that of the source, or its lossless neighbour.
        layout: Of the arrays that `unpack` gives, after the batch.

    Integers with fewer than 256 levels are stretched to all of 0 to 255 in PNG files, to be seen,
    and pressed back by `read`.
    """

    kind: ClassVar[str] = "image"

    format: Format = "png"
    layout: Layout = "HWC"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) != 3:
            raise ValueError(f"shape must be (C, H, W), got {self.shape}")
        if self.format == "png" and not fits_png(self.dtype, self.shape[0]):
            raise ValueError(f"no PNG of {self.shape[0]} channels of {self.dtype}")
        if self.layout == "HW" and self.shape[0] != 1:
            raise ValueError(f"layout HW is for one channel, got {self.shape[0]}")

    def unpack(self, x: Tensor) -> np.ndarray:
        stored = self.stored(x)
        match self.layout:
            case "CHW":
                return stored
            case "HW":
                return stored[:, 0]
            case "HWC":
                return np.ascontiguousarray(stored.transpose(0, 2, 3, 1))

    def save(
        self, x: Tensor, folder: Path, start: int = 0, labels: Sequence[str] | None = None
    ) -> Iterator[Path]:
        for i, picture in enumerate(self.unpack(x)):
            label = None if labels is None else labels[i]
            name = file_name(start + i, label, f".{self.format}")
            yield write_bytes(folder / name, self.encode(picture))

    def encode(self, picture: np.ndarray) -> bytes:
        """The bytes of a file of `format` that holds one picture of `layout`."""
        out = io.BytesIO()
        match self.format:
            case "npy":
                np.save(out, picture, allow_pickle=False)
            case "tiff":
                return tiff(self._planes(picture))
            case "png":
                from PIL import Image

                values = self._stretch(np.moveaxis(self._planes(picture), 0, 2))
                values = values[..., 0] if values.shape[2] == 1 else values
                Image.fromarray(values).save(out, "PNG")
        return out.getvalue()

    def preview(
        self, x: Tensor, columns: int | None = None, scale: int | None = None
    ) -> "Image.Image":
        from PIL import Image

        screen = self.screen(x)
        count, height, width, _ = screen.shape
        scale = scale or max(1, min(8, round(48 / min(height, width))))
        columns = columns or max(1, round(math.sqrt(count * height / width)))
        rows, gap = math.ceil(count / columns), 2
        tall, wide = height * scale + gap, width * scale + gap
        sheet = np.full((max(1, rows) * tall + gap, columns * wide + gap, 3), 255, np.uint8)
        for i, picture in enumerate(screen.repeat(scale, axis=1).repeat(scale, axis=2)):
            top, left = gap + i // columns * tall, gap + i % columns * wide
            sheet[top : top + height * scale, left : left + width * scale] = picture
        return Image.fromarray(sheet)

    def screen(self, x: Tensor) -> np.ndarray:
        """x as 8-bit colour ``(B, H, W, 3)``, to look at.

        8 bits are shown as they are, all else from mean - 3 std to mean + 3 std, as far as the
        dtype goes. Transparency of 8 bits lies on white; of other channels the first three are
        shown, of two the first.
        """
        values = self.stored(x).transpose(0, 2, 3, 1)
        if np.dtype(self.dtype).kind in "bu" and (self.levels or 65536) <= 256:
            values = self._stretch(values)
        else:
            mean, std = np.array(self.mean), np.array(self.std)
            low, high = (mean - 3 * std).min(), (mean + 3 * std).max()
            if np.dtype(self.dtype).kind == "u":
                low = max(0.0, low)
            span = high - low if high > low else 1.0
            values = np.rint(np.clip((values - low) / span, 0, 1) * 255).astype(np.uint8)
        channels = values.shape[3]
        if channels == 4 and self.dtype == "uint8":
            alpha = values[..., 3:] / 255
            return np.rint(values[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        return values[..., :3] if channels >= 3 else np.repeat(values[..., :1], 3, 3)

    def read(self, path: Path) -> Tensor:
        try:
            if path.suffix.lower() == ".npy":
                found = list(self._batch(read_npy(path)))
            else:
                with strict_decoders():
                    found = decode(read_file(path), self.shape[0])
            pressed = path.suffix.lower() != ".npy"  # which holds the units of the data
            return torch.from_numpy(np.stack([self._conform(array, pressed) for array in found]))
        except OSError as error:
            raise DataError(f"{shown(path)} cannot be read ({error.strerror or error}).") from None
        except Unreadable as error:
            raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None

    def _conform(self, array: np.ndarray, pressed: bool) -> np.ndarray:
        """A picture ``(H, W, C)`` made to fit `shape` and `dtype`, as ``(C, H, W)``."""
        stretched = pressed and self.format == "png" and array.dtype == np.uint8
        if array.dtype.name != self.dtype and not (stretched and self.dtype == "bool"):
            raise Unreadable(f"it holds {array.dtype}, but the run was trained on {self.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Unreadable("it holds NaN or infinite values")
        array = rechannel(array, self.shape[0])
        array = cover(array, *self.shape[1:])
        array = self._press(array) if stretched else array
        return np.ascontiguousarray(np.moveaxis(array, 2, 0)).astype(storage(self.dtype))

    def _batch(self, array: np.ndarray) -> np.ndarray:
        """An array as ``(N, H, W, C)``: one picture or several, in `layout`."""
        ndim = len(self.layout)
        if array.ndim not in (ndim, ndim + 1):
            raise Unreadable(f"its shape {array.shape} is not that of pictures {self.layout}")
        array = array[None] if array.ndim == ndim else array
        if self.layout == "HW":
            return array[..., None]
        return np.moveaxis(array, 1, 3) if self.layout == "CHW" else array

    def _planes(self, picture: np.ndarray) -> np.ndarray:
        if self.layout == "HW":
            return picture[None]
        return picture if self.layout == "CHW" else np.moveaxis(picture, 2, 0)

    def _stretch(self, values: np.ndarray) -> np.ndarray:
        top = (self.levels or 256) - 1
        if values.dtype == np.uint16 or top == 255:
            return values
        return np.rint(np.clip(values, 0, top) * (255 / top)).astype(np.uint8)

    def _press(self, values: np.ndarray) -> np.ndarray:
        top = (self.levels or 256) - 1
        return values if top >= 255 else np.rint(values * (top / 255)).astype(np.uint8)


def fits_png(dtype: str, channels: int) -> bool:
    """Whether a PNG holds such pictures without loss."""
    if dtype == "uint16":
        return channels == 1
    return dtype in ("bool", "uint8") and channels in (1, 3, 4)
