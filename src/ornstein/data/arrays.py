"""Arrays in .npy and .npz files: the header is judged before anything is allocated; no pickle."""

import io
from pathlib import Path

import numpy as np

from .files import Zip
from .names import Unreadable, Unusable
from .room import most_held

HEADER_BYTES = 4096
PLAIN = "buif"  # kinds of numbers, as NumPy calls them
NUMBERS = PLAIN + "c"


def read_npy(path: Path, kinds: str = PLAIN) -> np.ndarray:
    """The array in a .npy file, see `parse_npy`; mapped, to be read only, where it is large.

    Args:
        path: Of the file.
        kinds: Of numbers that are read: `PLAIN`, or all `NUMBERS`, complex ones too.

    Raises:
        Unreadable: If it is not a regular file of such numbers.
    """
    if not path.is_file():  # a pipe would hang
        raise Unreadable("it is not a regular file")
    with path.open("rb") as file:
        return _read(file, path.stat().st_size, kinds)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a .npz file, by name. Raises as `read_npy`, and `DataError` as `Zip`."""
    arrays: dict[str, np.ndarray] = {}
    with Zip(path, lambda name: name.endswith(".npy")) as archive:
        for name, data in archive.stream(archive.sizes):
            if isinstance(data, Unusable):
                raise Unreadable(str(data))
            arrays[name.removesuffix(".npy")] = parse_npy(data)
    return arrays


def parse_npy(data: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file.

    Raises:
        Unreadable: If the header is not that of plain numbers, or does not fit the data.
    """
    return _read(io.BytesIO(data), len(data))


def _read(file: io.BufferedReader | io.BytesIO, size: int, kinds: str = PLAIN) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise Unreadable(f"its NPY version {version} is not read; save it again with numpy")
        shape, fortran, dtype = read_header(file, max_header_size=HEADER_BYTES)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, EOFError) as error:
        raise Unreadable(f"it is not an array of numbers ({str(error)[:80]})") from None
    widest = 16 if dtype.kind == "c" else 8
    if dtype.kind not in kinds or dtype.itemsize > widest or dtype == np.uint64:
        raise Unreadable(f"its values are of type {dtype}: only plain numbers are read")
    if any(n < 0 for n in shape):
        raise Unreadable(f"its shape {shape} is negative")
    count = int(np.prod(shape, dtype=object))
    claimed, there = count * dtype.itemsize, size - file.tell()
    if claimed != there:
        raise Unreadable(f"its header claims {claimed:,} bytes of values, the file holds {there:,}")
    try:
        np.broadcast_to(np.empty((), dtype), shape)
    except ValueError:
        raise Unreadable(f"its {len(shape)} axes are more or longer than arrays have") from None
    if isinstance(file, io.BufferedReader) and claimed > most_held():
        order = "F" if fortran else "C"
        return np.memmap(file, dtype, "r", file.tell(), shape, order).view(np.ndarray)
    flat = np.empty(count, dtype)
    if count and file.readinto(flat.view(np.uint8).data) != claimed:
        raise Unreadable("it is cut short")
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)
