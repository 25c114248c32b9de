"""Tables of numbers in CSV files, read line by line within bounds."""

import csv
import io
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import DataError
from .names import Unusable, shown
from .options import DataOptions

LINE_BYTES = 2**20
COLUMNS = 10_000
MISSING = frozenset(("", "nan", "na", "n/a", "null", "none", "?"))
_NUMBER = re.compile(
    r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?|nan", re.ASCII | re.IGNORECASE
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of finite numbers, and the dialect they were written in.

    Args:
        columns: Names of the columns of numbers; empty if the file has no header.
        values: ``(N, D)``, float64.
        whole: Which columns hold whole numbers only.
        labels: The class of each row; empty without such a column.
        lines: The line of the file each row stood on.
        problems: Rows left out.
        delimiter: Between cells.
        decimal: Of numbers: a point or a comma.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    whole: tuple[bool, ...]
    labels: list[str]
    lines: list[int]
    problems: list[Unusable]
    delimiter: str
    decimal: str


def read_table(path: Path, options: DataOptions, holes: bool = False) -> Table:
    """Read a CSV: with a header or without, a byte-order mark, ``,`` ``;`` tab or spaces between.

    A row with a missing or infinite number is bad: an error, or left out with ``on_bad = skip``.
    With `holes`, what is missing is NaN.

    Raises:
        DataError: Naming the file, the line, and the column.
    """
    if not path.is_file():
        raise DataError(f"{shown(path)} is not a regular file; give a CSV file.")
    with path.open("rb") as file:
        delimiter = _delimiter(_lines(file, path))
        file.seek(0)
        return _Reading(path, options, delimiter, holes).table(_rows(file, path, delimiter))


def read_rows(data: bytes, place: str) -> list[dict[str, str]]:
    """The rows of a CSV with a header, as text: the metadata beside pictures."""
    path = Path(place)
    delimiter = _delimiter(_lines(io.BytesIO(data), path))
    rows = _rows(io.BytesIO(data), path, delimiter)
    _, header = next(rows, (0, []))
    _check_header(header, path)
    found = list[dict[str, str]]()
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{shown(path)}, line {line} has {len(row)} cells where there should be "
                f"{len(header)}; put texts with a {delimiter!r} in them in quotes."
            )
        found.append(dict(zip(header, row, strict=True)))
    return found


def read_number(text: str) -> float | None:
    """The number that `text` is, in digits; None of any other text, such as ``1_000``."""
    return float(text) if _NUMBER.fullmatch(text) else None


def safe_cell(text: str) -> str:
    """Text that a spreadsheet shows and does not run: ``=cmd()`` gets a leading quote."""
    return f"'{text}" if text.startswith(_FORMULA) else text


class _Reading:
    """The state of reading one file."""

    def __init__(self, path: Path, options: DataOptions, delimiter: str, holes: bool) -> None:
        self.path, self.options, self.delimiter = path, options, delimiter
        self.holes = holes
        self.decimal = "."
        self.header: list[str] = []
        self.numeric: list[int] = []
        self.whole: list[bool] = []
        self.label: int | None = None
        self.problems: list[Unusable] = []

    def table(self, rows: Iterator[tuple[int, list[str]]]) -> Table:
        values, labels, lines = array("d"), [], []
        for number, row in rows:
            if not self.numeric and self._begin(row):
                continue
            numbers = self._parse(row, number)
            if numbers is None:
                continue
            for j, i in enumerate(self.numeric):
                self.whole[j] = self.whole[j] and row[i].lstrip("+-").isdecimal()
            values.extend(numbers)
            lines.append(number)
            if self.label is not None:
                labels.append(_plain(row[self.label]))
        if not lines:
            first = f": {self.problems[0].path}: {self.problems[0].reason}" if self.problems else ""
            raise DataError(
                f"{shown(self.path)} has no row of numbers{first}; leave out "
                "the columns that hold something else."
            )
        return Table(
            columns=tuple(self.header[i] for i in self.numeric) if self.header else (),
            values=np.frombuffer(values).reshape(len(lines), -1).copy(),
            whole=tuple(self.whole),
            labels=labels,
            lines=lines,
            problems=self.problems,
            delimiter=self.delimiter,
            decimal=self.decimal,
        )

    def _begin(self, row: list[str]) -> bool:
        """Take the first row; whether it was the header."""
        if self.header or all(self._number(c) is not None or _missing(c) for c in row):
            self._choose(len(self.header or row))
            return False
        self.header = [_plain(cell) for cell in row]
        _check_header(self.header, self.path)
        self._choose(len(row))
        return True

    def _choose(self, width: int) -> None:
        if self.options.label in self.header:
            self.label = self.header.index(self.options.label)
        self.numeric = [i for i in range(width) if i != self.label]
        self.whole = [True] * len(self.numeric)
        if not self.numeric:
            raise DataError(f"{shown(self.path)} has no column of numbers beside the label.")

    def _parse(self, row: list[str], line: int) -> list[float] | None:
        reason = None
        numbers: list[float] = []
        width = len(self.header) or len(self.numeric)
        if len(row) != width:
            reason = f"it has {len(row)} cells where there should be {width}"
        else:
            for i in self.numeric:
                if self.holes and _missing(row[i]):
                    numbers.append(math.nan)
                    continue
                value = self._number(row[i])
                if value is None or not math.isfinite(value):
                    what = f"column {shown(repr(self.header[i])) if self.header else i + 1}"
                    bad = "is missing" if _missing(row[i]) else f"holds {shown(repr(row[i]), 40)}"
                    reason = f"{what} {bad}"
                    break
                numbers.append(value)
        if reason is None:
            return numbers
        if self.options.on_bad == "error":
            raise DataError(
                f"{shown(self.path)}, line {line}: {reason}; mend it, "
                "or leave such rows out with --data.on-bad skip."
            )
        self.problems.append(Unusable(f"line {line}", reason))
        return None

    def _number(self, cell: str) -> float | None:
        if self.delimiter == ";" and "," in cell and "." not in cell:
            self.decimal, cell = ",", cell.replace(",", ".")
        return read_number(cell)


def _lines(file: IO[bytes], path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES:
            raise DataError(
                f"{shown(path)}, line {number} is longer than {LINE_BYTES:,} bytes: "
                "it is not a table; give one row a line."
            )
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            yield text.rstrip(" \r\n") + "\n"
        except UnicodeDecodeError:
            raise DataError(
                f"{shown(path)}, line {number} is not UTF-8 text; save the table as CSV UTF-8."
            ) from None


def _rows(file: IO[bytes], path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, with their line."""
    lines = _lines(file, path)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{shown(path)}, line {line}: {error}; mend the line.") from None
        if len(row) > COLUMNS:
            raise DataError(f"{shown(path)}, line {line} has more than {COLUMNS:,} columns.")
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield line, cells


def _delimiter(lines: Iterator[str]) -> str:
    """The mark that cuts the first line with content into the most cells."""
    first = next((line for line in lines if line.strip()), "")
    marks = {mark: first.count(mark) for mark in (";", "\t", ",")}
    best = max(marks, key=lambda mark: marks[mark])
    if marks[best]:
        return best if not (best == "," and marks[";"]) else ";"  # 1,5;2,5: decimal commas
    return " " if len(first.split()) > 1 else ","


def _check_header(header: Sequence[str], path: Path) -> None:
    for name in header:
        if list(header).count(name) > 1:
            raise DataError(
                f"{shown(path)} has two columns named {shown(repr(name))}; rename one of them."
            )


def _missing(cell: str) -> bool:
    return cell.lower() in MISSING


def _plain(cell: str) -> str:
    """Undo `safe_cell`."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
