"""What a file beside the pictures says of each of them: metadata.csv, metadata.jsonl."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .captions import TEXT
from .dataset import Labels, name_classes, number_classes
from .files import Files
from .names import Unusable, shown
from .options import DataOptions
from .table import MISSING, read_number, read_rows

METADATA = ("metadata.jsonl", "metadata.csv")
METADATA_BYTES = 2**28
FILE_NAME = "_file_name"  # ends the columns that name a second picture of an example
ATTRIBUTES = 256

Rows = dict[str, dict[str, Any]]
"""What is said of each picture, by its name: columns and their values."""


def is_beside(name: str) -> bool:
    """Whether a file of this name is such a one."""
    return name.rsplit("/", 1)[-1].lower() in METADATA


def read_beside(files: Files, path: Path, root: str) -> Rows:
    """Rows by the name of their picture; a later file adds to an earlier one.

    Several rows of a file for one picture are several captions of it, and agree in all else.
    """
    rows: Rows = {}
    names = [n for n in files.sizes if is_beside(n)]
    names = [n for n in names if n.startswith(root) or root.startswith(_folder(n))]
    for name, data in files.stream(sorted(names)):
        place = f"{path}/{name}"
        if isinstance(data, Unusable) or len(data) > METADATA_BYTES:
            raise DataError(f"{shown(place)} cannot be read; mend or remove it.")
        table = read_rows(data, place) if name.lower().endswith("csv") else _json_rows(data, place)
        said: Rows = {}
        for row in table:
            file_name = row.pop("file_name", None)
            if not isinstance(file_name, str):
                raise DataError(f"{shown(place)} has a row without file_name; add that column.")
            full = _folder(name) + file_name
            for column, value in row.items():
                if column.endswith(FILE_NAME) and isinstance(value, str) and value:
                    row[column] = _folder(name) + value
            if full.startswith(root):
                said[full] = _joined(said[full], row, full, place) if full in said else row
        for full, row in said.items():
            rows.setdefault(full, {}).update(row)
    return rows


def _joined(row: dict[str, Any], other: dict[str, Any], name: str, place: str) -> dict[str, Any]:
    """Two rows of one picture: its captions, one after the other, and what they agree on."""
    texts = list[Any]()
    for text in (row.get(TEXT), other.get(TEXT)):
        texts += text if isinstance(text, list) else [text]
    for column in row:
        if column in other and column != TEXT and row[column] != other[column]:
            raise DataError(
                f"{shown(place)} has two rows of {shown(name)}, whose {shown(column)} is "
                f"{shown(repr(row[column]), 40)} and {shown(repr(other[column]), 40)}; keep one."
            )
    return row | other | {TEXT: texts}


def _folder(name: str) -> str:
    """The folder a file is in, with ``/`` behind, or nothing."""
    return name[: name.rfind("/") + 1]


def _json_rows(data: bytes, place: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line) if len(line) <= 2**20 else None
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{shown(place)}, line {number} is no JSON object; mend the line.")
        yield row


def labels_of(
    origin: Sequence[str],
    rows: Rows,
    root: str,
    place: str,
    options: DataOptions,
) -> Labels:
    """The class of each picture: by the metadata, else by its folder."""
    options.check_label({column for row in rows.values() for column in row}, place)
    if any(options.label in row for row in rows.values()):
        values = [_scalar(rows.get(n, {}).get(options.label)) for n in origin]
        return number_classes(values, place)
    return name_classes([n[len(root) :].rpartition("/")[0].split("/")[0] for n in origin])


def attributes_of(
    origin: Sequence[str], rows: Rows, options: DataOptions
) -> tuple[list[str], np.ndarray] | None:
    """The columns that hold numbers in every row that has them."""
    apart = (options.label, TEXT)
    names = dict.fromkeys(k for row in rows.values() for k in row if k not in apart)
    columns: dict[str, list[float]] = {}
    for name in names:
        values = [_measurement(rows.get(n, {}).get(name)) for n in origin]
        if None not in values and not np.isnan(np.array(values, float)).all():
            columns[name] = [float(v) for v in values if v is not None]
    if not columns:
        return None
    if len(columns) > ATTRIBUTES:
        raise DataError(
            f"The metadata hold {len(columns):,} columns of numbers; keep at most {ATTRIBUTES}."
        )
    return list(columns), np.stack([np.array(v) for v in columns.values()], 1)


def unread_of(rows: Rows, options: DataOptions, attributes: Sequence[str]) -> list[str]:
    """The columns of which nothing is made: other words than `TEXT`, most often."""
    columns = dict.fromkeys(k for row in rows.values() for k in row)
    known = {options.label, TEXT, *attributes}
    return [name for name in columns if name not in known and not name.endswith(FILE_NAME)]


def _scalar(value: Any) -> object:
    if isinstance(value, bool) or value is None or isinstance(value, (str, int, float)):
        missing = isinstance(value, str) and value.strip().lower() in MISSING
        return None if missing else value
    raise DataError(f"A class in the metadata is {shown(repr(value))}; write a name or a number.")


def _measurement(value: Any) -> float | None:
    """A number; NaN if missing; None if it is text or anything else."""
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING):
        return np.nan
    if isinstance(value, str):
        return read_number(value.strip())
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:
        return None
