"""Weights in files: safetensors only, read with bounds of our own and hashed as they are read.

A safetensors file is eight bytes N (little-endian), N bytes of JSON that give each tensor's dtype,
shape and place, and the bytes of the tensors. Nothing in it can run. A header can still lie, so
all it says is checked against the size of the file before anything is allocated.

Source: https://github.com/huggingface/safetensors (format).
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..data.names import shown
from ..errors import ModelFileError, StorageError
from .disk import NewFile, open_regular, strict_json

HEADER = 8 * 2**20  # bytes of JSON, at most
TENSORS = 50_000
ELEMENTS = 2**48
DIMENSIONS = 16
CHUNK = 2**24

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}

OTHERS = {
    b"PK": "it is a zip archive, as PyTorch's own files are, which can run code",
    b"\x80": "it is a pickle, which can run code",
    b"\x93NUMPY": "it is a NumPy array",
    b"\x89HDF": "it is an HDF5 file",
    b"\x1f\x8b": "it is compressed",
    b"GGUF": "it is a GGUF file",
}


class Entry(NamedTuple):
    """Where a tensor lies: bytes `start` to `stop` after the header."""

    start: int
    stop: int
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


# --- Writing -------------------------------------------------------------------------------------


def write_tensors(file: NewFile, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` as safetensors, widest dtypes first so that all are aligned."""
    layout = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header, stop = dict[str, Any](), 0
    for name in layout:
        tensor = tensors[name]
        if not _is_name(name) or tensor.dtype not in CODES:
            raise ValueError(f"expected a printable name and a plain dtype, got {name!r}, {tensor}")
        start, stop = stop, stop + tensor.nbytes
        header[name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER or len(header) > TENSORS:
        raise ValueError(f"expected at most {TENSORS:,} tensors, got {len(header):,}")
    file.write(len(text).to_bytes(8, "little") + text)
    for name in layout:
        if tensors[name].numel():
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


# --- Reading -------------------------------------------------------------------------------------


def read_tensors(
    path: str | Path, *, sha256: str | None = None, finite: bool = True
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, each in memory of its own, on the CPU.

    Args:
        path: The file. It is opened once; the bytes that are hashed are the bytes that are used.
        sha256: What the file must hash to, in hexadecimal.
        finite: Refuse tensors that hold NaN or infinity.

    Raises:
        ModelFileError: If it is not a safetensors file, is damaged, or is not finite.
        StorageError: If it cannot be read.
    """
    return dict(stream_tensors(Path(path), sha256, finite))


def stream_tensors(
    path: Path, sha256: str | None = None, finite: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """As `read_tensors`, one by one: none may be trusted before the last has come."""
    fd, size = open_regular(path)
    with os.fdopen(fd, "rb", buffering=0) as file:
        try:
            yield from _stream(path, file, size, sha256, finite)
        except OSError as error:
            raise StorageError(f"{shown(path)} cannot be read ({error.strerror}).") from None


def _stream(
    path: Path, file: BinaryIO, size: int, sha256: str | None, finite: bool
) -> Iterator[tuple[str, Tensor]]:
    digest = hashlib.sha256()
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8:
        _refuse(path, "it is empty" if not start else "it ends before its header", start)
    if length > HEADER:
        _refuse(path, f"its header claims {length:,} bytes, more than {HEADER:,}", start)
    if 8 + length > size:
        _refuse(path, "it ends before its header does", start)
    header = file.read(length)
    digest.update(start + header)
    try:
        entries = parse_header(header, size - 8 - length)
    except ValueError as error:
        _refuse(path, str(error), start)
    for entry in entries:
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        if entry.stop > entry.start:
            flat = tensor.view(-1).view(torch.uint8)
            view = flat.numpy().data
            while view:
                got = file.readinto(view[:CHUNK])  # pyright: ignore[reportAttributeAccessIssue]
                if not got:
                    _refuse(path, "it ends before its tensors do", start)
                digest.update(view[:got])
                view = view[got:]
            if entry.dtype == torch.bool and flat.max() > 1:
                _refuse(path, f"{shown(repr(entry.name))} holds bytes that are no booleans", start)
        if finite and not _is_finite(tensor):
            raise ModelFileError(
                f"{shown(path)} is refused: {shown(repr(entry.name))} holds values that are not "
                "finite; use an earlier checkpoint."
            )
        yield entry.name, tensor
    if file.read(1):
        _refuse(path, "it grew while it was read", start)
    if sha256 is not None and digest.hexdigest() != sha256:
        raise ModelFileError(f"{shown(path)} is damaged: its SHA-256 is not that of its manifest.")


def parse_header(header: bytes, body: int) -> list[Entry]:
    """The places of all tensors, in the order in which they tile the `body` bytes that follow.

    Raises:
        ValueError: With the reason for which a strict reader refuses the file.
    """
    if header[:1] != b"{":
        raise ValueError("its header is not a JSON object")
    try:
        # each has a table of its own, a shape and a place
        found = strict_json(header, lists=3 * TENSORS + 2, values=8 * TENSORS)
    except ValueError as error:
        raise ValueError(f"its header {error}") from None
    metadata = found.pop("__metadata__", {})
    if not _is_strings(metadata):
        raise ValueError("its metadata are not a table of strings")
    entries = sorted(_entry(name, value) for name, value in found.items())
    place = 0
    for entry in entries:
        if entry.start != place:
            kind = "overlap" if entry.start < place else "leave a hole"
            raise ValueError(f"its tensors {kind} before {shown(repr(entry.name))}")
        place = entry.stop
    if place != body:
        raise ValueError(f"its tensors take {place:,} bytes, but it has {body:,}")
    return entries


def _entry(name: str, value: object) -> Entry:
    """What the header says of one tensor, if it can be true."""
    label = shown(repr(name))
    if not _is_name(name):
        raise ValueError(f"{label} is no name for a tensor")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{label} does not have a dtype, a shape and a place, and nothing else")
    code, shape, place = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"{label} has the dtype {shown(repr(code), 40)}")
    if not _is_sizes(shape) or len(shape) > DIMENSIONS:
        raise ValueError(f"{label} has a shape that is none")
    if math.prod(max(n, 1) for n in shape) > ELEMENTS:
        raise ValueError(f"{label} has more than {ELEMENTS:,} elements")
    if not _is_sizes(place) or len(place) != 2:
        raise ValueError(f"{label} has a place that is none")
    size = math.prod(shape) * DTYPES[code].itemsize
    if place[1] - place[0] != size:
        raise ValueError(f"{label} needs {size:,} bytes, but its place has another size")
    return Entry(place[0], place[1], name, DTYPES[code], tuple(shape))


def _refuse(path: Path, reason: str, start: bytes) -> NoReturn:
    known = next((what for magic, what in OTHERS.items() if start.startswith(magic)), reason)
    raise ModelFileError(
        f"{shown(path)} is not a safetensors file: {known}; weights are read from no other format."
    )


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 1000 and name.isprintable() and name != "__metadata__"


def _is_sizes(values: object) -> bool:
    """Whether these are whole numbers from 0; True and 1.0 are not."""
    return isinstance(values, list) and all(type(n) is int and 0 <= n <= ELEMENTS for n in values)


def _is_strings(table: object) -> bool:
    return isinstance(table, dict) and all(isinstance(value, str) for value in table.values())


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:  # few operations know 8-bit floats
        tensor = tensor.half()
    return bool(tensor.isfinite().all())
