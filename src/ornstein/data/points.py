"""Points: rows of D numbers, each column in its own unit, from CSV and NPY files."""

import csv
import io
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
from .names import Unreadable, shown
from .options import DataOptions
from .table import read_table, safe_cell

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class PointsCodec(Codec):
    """Rows ``(D,)``.

    Args:
        format: Of the file that `save` writes.
        columns: Names of the columns; empty if the source has no header.
        whole: Columns of whole numbers, by position.
        delimiter: Between the cells of a CSV.
        decimal: The mark in the numbers of a CSV.
        label: Name of the column with the class.
    """

    kind: ClassVar[str] = "points"

    format: Literal["csv", "npy"] = "csv"
    columns: tuple[str, ...] = ()
    whole: tuple[int, ...] = ()
    delimiter: Literal[",", ";", "\t", " "] = ","
    decimal: Literal[".", ","] = "."
    label: str = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) != 1:
            raise ValueError(f"shape must be (D,), got {self.shape}")
        if self.columns and len(self.columns) != self.shape[0]:
            raise ValueError(f"expected {self.shape[0]} names of columns, got {len(self.columns)}")
        if any(not 0 <= i < self.shape[0] for i in self.whole):
            raise ValueError(f"whole must be positions of columns, got {self.whole}")
        if self.decimal == self.delimiter:
            raise ValueError("delimiter and decimal must differ")

    def unpack(self, x: Tensor) -> np.ndarray:
        values = self.stored(x)
        whole = list(self.whole)
        values[:, whole] = np.rint(values[:, whole])
        return values

    def save(
        self, x: Tensor, folder: Path, start: int = 0, labels: Sequence[str] | None = None
    ) -> Iterator[Path]:
        """Write one file with a row for each example; see `Codec.save`."""
        path = folder / file_name(start, None, f".{self.format}")
        yield write_bytes(path, self.encode(self.unpack(x), labels))

    def encode(self, values: np.ndarray, labels: Sequence[str] | None = None) -> bytes:
        """The bytes of a file of `format` that holds rows ``(N, D)`` in the units of the data."""
        if self.format == "npy":
            out = io.BytesIO()
            np.save(out, values, allow_pickle=False)
            return out.getvalue()
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=self.delimiter, lineterminator="\n")
        if self.columns:
            names = [*self.columns] if labels is None else [*self.columns, self.label]
            writer.writerow([safe_cell(name) for name in names])
        whole = set(self.whole)
        for i, row in enumerate(values.tolist()):
            cells = [self._cell(v, j in whole) for j, v in enumerate(row)]
            writer.writerow(cells if labels is None else [*cells, safe_cell(labels[i])])
        return text.getvalue().encode()

    def _cell(self, value: float, whole: bool) -> str:
        text = str(int(value)) if whole else repr(value)
        return text.replace(".", self.decimal)

    def preview(
        self, x: Tensor, columns: int | None = None, scale: int | None = None
    ) -> "Image.Image":
        """A scatter plot of the first two columns, from mean - 3 std to mean + 3 std.

        Args:
            x: What to show.
            columns: Of no meaning here.
            scale: Pixels for each standard deviation.
        """
        from PIL import Image

        points = x.detach().cpu().double().numpy()
        across = points[:, 0]
        up = points[:, 1] if points.shape[1] > 1 else np.linspace(-2.5, 2.5, len(points))
        side = 6 * (scale or 80)
        hits, _, _ = np.histogram2d(-up, across, bins=side, range=[[-3, 3], [-3, 3]])
        dots = sum(
            np.roll(hits, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if i * j == 0
        )
        ink = 1 - np.exp(-np.asarray(dots) * 0.7)
        colour = 255 - ink[..., None] * (255 - np.array([31, 78, 121]))
        return Image.fromarray(np.rint(colour).astype(np.uint8))

    def read(self, path: Path) -> Tensor:
        values, _ = self._rows(path, holes=False)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DataError(f"{shown(path)} holds NaN or infinite numbers; leave those rows out.")
        return torch.from_numpy(np.ascontiguousarray(values).astype(storage(self.dtype)))

    def read_cells(self, path: Path) -> tuple[Tensor, list[str]]:
        """Rows ``(N, D)``, float64, NaN where a cell is empty; and the class of each, if told.

        Raises:
            DataError: As `read`, but for numbers that are missing.
        """
        values, labels = self._rows(path, holes=True)
        values = values.astype(np.float64)
        if np.isinf(values).any():
            raise DataError(f"{shown(path)} holds infinite numbers; leave those cells empty.")
        return torch.from_numpy(values), labels

    def _rows(self, path: Path, holes: bool) -> tuple[np.ndarray, list[str]]:
        labels: list[str] = []
        if path.suffix.lower() == ".npy":
            try:
                values = read_npy(path)
            except (Unreadable, OSError) as error:
                raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None
            values = values[None] if values.ndim == 1 else values
        else:
            values, labels = self._table(path, holes)
        if values.ndim != 2 or values.shape[1] != self.shape[0]:
            raise DataError(
                f"{shown(path)} holds rows of shape {values.shape[1:]}, but the run was trained "
                f"on {self.shape[0]} columns; give the same columns."
            )
        return values, labels

    def _table(self, path: Path, holes: bool) -> tuple[np.ndarray, list[str]]:
        table = read_table(path, DataOptions(label=self.label), holes)
        if not self.columns or not table.columns:
            return table.values, table.labels
        for name in self.columns:
            if name not in table.columns:
                raise DataError(
                    f"{shown(path)} has no column {shown(repr(name))}, which the run was trained "
                    "on; give the same columns."
                )
        order = [table.columns.index(name) for name in self.columns]
        return table.values[:, order], table.labels
