"""Codecs: between what a modality stores and the x that networks see, and back to files."""

import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, ModelFileError, StorageError
from .names import shown

if TYPE_CHECKING:
    from PIL import Image

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64")
DTYPES += ("float16", "float32", "float64")
SHORT = (torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16)  # exact in float32
FEW = 8  # values that a mask may have
ELEMENTS = 2**30  # of one example, at most


@dataclass(frozen=True, kw_only=True)
class Codec(ABC):
    """One modality: ``x = (stored - mean_c) / std_c``, and all that turns x into files again.

    Args:
        shape: Of one example: ``(C, *S)``.
        dtype: Of the source.
        mean: Of each channel, measured on the data, ``(C,)``.
        std: Likewise. Zero for a constant channel, which comes back as its mean exactly.
        levels: How many values an integer may take, counted from the lowest; None for floats.
        values: The only values that occur, rising, where they are as few as in a mask.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type["Codec"]]] = {}

    shape: tuple[int, ...]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    levels: int | None = None
    values: tuple[int, ...] | None = None

    def __init_subclass__(cls) -> None:
        Codec.kinds[cls.kind] = cls

    def __post_init__(self) -> None:
        if not (1 <= len(self.shape) <= 4 and all(n >= 1 for n in self.shape)):
            raise ValueError(f"shape must be 1 to 4 positive sizes, got {self.shape}")
        if math.prod(self.shape) > ELEMENTS:
            raise ValueError(f"shape {self.shape} has more than {ELEMENTS:,} elements")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"expected {self.shape[0]} means and stds, one for each channel")
        if not all(math.isfinite(v) for v in (*self.mean, *self.std)) or min(self.std) < 0:
            raise ValueError("means and stds must be finite, and no std negative")
        if self.levels is not None and not 2 <= self.levels <= 65536:
            raise ValueError(f"levels must lie in [2, 65536], got {self.levels}")
        if self.values is not None and list(self.values) != sorted(set(self.values)):
            raise ValueError(f"values must rise, got {self.values}")

    @property
    def data(self) -> "Codec":
        """The codec of the data themselves: this one, unless x is in latents of them."""
        return self

    def decoded(self, x: Tensor) -> Tensor:
        """x as `data` packs it."""
        return x

    # --- tensors

    def pack(self, stored: Tensor) -> Tensor:
        """x, float32 of mean 0 and variance 1, from a stored batch ``(B, C, *S)``.

        ``unpack(pack(stored))`` is `stored` exactly for integers of up to 16 bits; floats keep
        24 bits of their distance from the mean.
        """
        if tuple(stored.shape[1:]) != self.shape:
            raise ValueError(f"expected (B, {self.shape}), got {tuple(stored.shape)}")
        single = stored.dtype in SHORT or stored.device.type == "mps"  # which has no float64
        wide = stored.to(torch.float32 if single else torch.float64)
        mean, _, unit = self._of_channels(wide)
        return ((wide - mean) / unit).float()

    @abstractmethod
    def unpack(self, x: Tensor) -> np.ndarray:
        """Values in the source's units, dtype and layout, from x ``(B, C, *S)``."""

    def stored(self, x: Tensor) -> np.ndarray:
        """The source's units and dtype, ``(B, C, *S)``.

        Integers are rounded and clipped; to the nearest of `values`, if few occur.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected (B, {self.shape}), got {tuple(x.shape)}")
        if not x.isfinite().all():
            raise ValueError("expected finite x, got NaN or infinity")
        wide = x.detach().cpu().double()
        mean, std, _ = self._of_channels(wide)
        values = (mean + std * wide).numpy()
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            return values.astype(dtype)
        if self.values is not None:
            occur = np.array(self.values)
            return occur[np.searchsorted((occur[1:] + occur[:-1]) / 2, values)].astype(dtype)
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if self.levels is not None:
            high = low + self.levels - 1
        return np.clip(np.rint(values), low, high).astype(dtype)

    @property
    def range(self) -> tuple[Tensor, Tensor] | None:
        """The least and the most that x can be of integers, each ``(C,)``; None for floats."""
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f" or min(self.std) == 0:
            return None
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        high = high if self.levels is None else low + self.levels - 1
        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float64)
        return (low - mean) / std, (high - mean) / std

    @property
    def log_det(self) -> float:
        """``log |det d x / d stored|``, in nats: what a log-likelihood of x gains in its units.

        Constant channels count as zero: they have no density.
        """
        each = math.prod(self.shape[1:])
        return -each * sum(math.log(s) for s in self.std if s > 0)

    def _of_channels(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation, and that again with 1 in place of 0, beside a batch."""
        return _of_channels(self.mean, self.std, len(self.shape), like.dtype, like.device)

    # --- files

    @abstractmethod
    def save(
        self, x: Tensor, folder: Path, start: int = 0, labels: Sequence[str] | None = None
    ) -> Iterator[Path]:
        """Write x ``(B, C, *S)`` in the format of the source, and give each path written.

        Args:
            x: What to write.
            folder: Made if it is not there.
            start: The number of the first example; numbers name the files.
            labels: The class of each example, for its name or its column.

        Raises:
            StorageError: If the disk refuses.
        """

    @abstractmethod
    def preview(
        self, x: Tensor, columns: int | None = None, scale: int | None = None
    ) -> "Image.Image":
        """A picture of x ``(B, C, *S)`` to look at: a grid, or a scatter plot.

        Args:
            x: What to show.
            columns: Of the grid; about as wide as high by default.
            scale: Screen pixels for each pixel; enough to see small pictures by default.
        """

    @abstractmethod
    def read(self, path: Path) -> Tensor:
        """What one of the user's files holds, as a stored batch ``(B, C, *S)``.

        Raises:
            DataError: If it cannot be read, or is not of the kind the codec was made from.
        """

    # --- JSON

    def to_dict(self) -> dict[str, Any]:
        """Plain values, from which `from_dict` makes an equal codec."""
        return {"kind": self.kind} | {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Codec":
        """The codec that `to_dict` described.

        Raises:
            ModelFileError: If a key is unknown, missing, or out of its bounds.
        """
        from pydantic import TypeAdapter

        from . import image, points  # noqa: F401 (they enter `Codec.kinds`)

        kind = values.get("kind")
        if not isinstance(kind, str) or kind not in Codec.kinds:
            known = ", ".join(Codec.kinds)
            raise ModelFileError(f"The codec's kind {shown(repr(kind))} is not one of {known}.")
        made = Codec.kinds[kind]
        given = {k: v for k, v in values.items() if k != "kind"}
        try:
            if unknown := given.keys() - {f.name for f in fields(made)}:
                raise ValueError(f"there is no {min(map(str, unknown))!r}")
            return TypeAdapter(made).validate_python(given)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise ModelFileError(f"The run's codec is not valid: {shown(reason, 300)}.") from None


@lru_cache(maxsize=16)  # or a GPU would wait for two copies at each batch
def _of_channels(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    ndim: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    both = torch.tensor([mean, std], dtype=torch.float64).reshape(2, -1, *(1,) * (ndim - 1))
    both = both.to(dtype).to(device)
    return both[0], both[1], torch.where(both[1] > 0, both[1], 1)


# --- What the codecs share -----------------------------------------------------------------------


def measure(stored: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of ``(N, C, *S)``, in float64, in pieces.

    Raises:
        DataError: If they are infinite.
    """
    channels = stored.shape[1]
    count, mean, square = 0, torch.zeros(channels).double(), torch.zeros(channels).double()
    low, high = torch.full_like(mean, torch.inf), torch.full_like(mean, -torch.inf)
    for part in stored.split(max(1, 2**22 // stored[0].numel())):
        flat = part.to(torch.float64).transpose(0, 1).reshape(channels, -1)
        low, high = torch.minimum(low, flat.amin(1)), torch.maximum(high, flat.amax(1))
        var, mu = torch.var_mean(flat, 1, correction=0)
        n, gap = flat.shape[1], mu - mean
        count, mean = count + n, mean + gap * n / (count + n)
        square += n * var + gap**2 * n * (count - n) / count
    constant = low == high
    std = torch.where(constant, 0, (square / count).sqrt())
    mean = torch.where(constant, low, mean)  # exactly, not up to rounding
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise DataError(
            f"The data reach from {low.min():g} to {high.max():g}, which is too far to measure how "
            "they scatter: divide them by a constant."
        )
    return tuple(mean.tolist()), tuple(std.tolist())


def few_values(stored: Tensor) -> tuple[int, ...] | None:
    """The values that occur in integers ``(N, C, *S)``, if they are 2 to 8 and often the same.

    So are those of masks; of a handful of small pictures this may be chance, and is not said.
    """
    if stored.dtype == torch.bool or stored.is_floating_point():
        return None
    found: set[int] = set()
    for part in stored.split(max(1, 2**20 // stored[0].numel())):
        found |= set(np.unique(part.numpy()).tolist())
        if len(found) > FEW:
            return None
    return tuple(sorted(found)) if len(found) > 1 and stored.numel() > 2**12 else None


def storage(dtype: str) -> np.dtype:
    """The dtype in which torch stores and indexes values of `dtype` without loss."""
    return np.dtype({"uint32": "int64", "float16": "float32"}.get(dtype, dtype))


def movable(stored: Tensor) -> Tensor:
    """The same bits in a dtype that torch can index and gather on every device."""
    return stored.view(torch.int16) if stored.dtype == torch.uint16 else stored


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file that is whole or not there: a temporary neighbour, then a rename.

    Raises:
        StorageError: If the disk refuses; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"{shown(path)} cannot be written ({reason}); make room or choose another folder."
        ) from None
    return path


def file_name(index: int, label: str | None, suffix: str) -> str:
    """``000012-cat.png``: a label is cut to what every file system takes."""
    if label is None:
        return f"{index:06d}{suffix}"
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in label)
    return f"{index:06d}-{plain[:40]}{suffix}"
