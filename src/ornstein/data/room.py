"""Room for examples: memory while they are few, a mapped file where they are many.

A mapped file looks like memory to all who read it: the system brings in what is touched, and lets
go of it when others need the place. It has no name in its folder, so that the disk has its room
again as soon as nobody refers to it, and when the process ends, however it ends.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..errors import StorageError
from .cache import folder
from .names import shown

SHARE = 0.25  # of the memory that examples may take: while they are opened they are there twice
PIECE = 2**26  # bytes that are worked on at once
CHUNK = 2**28  # bytes of a file in which small arrays are put away
ALIGNED = 64
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory() -> int:
    """Bytes of memory there are: the machine's, or its container's if that may have less."""
    found = list[int]()
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for place in LIMITS:
        with suppress(OSError, ValueError):
            found.append(int(Path(place).read_text()))
    return min(found, default=2**40)


def most_held() -> int:
    """Bytes of the largest array that is held in memory."""
    return int(SHARE * memory())


def room(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array to be filled, in memory if it is not larger than `most_held`, else mapped.

    Raises:
        StorageError: If the disk has no room for it; nothing is left behind.
    """
    size = prod(shape) * dtype.itemsize
    return np.empty(shape, dtype) if size <= most_held() else _mapped(shape, dtype, size)


def _mapped(shape: tuple[int, ...], dtype: np.dtype, size: int) -> np.ndarray:
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(place).free) < size:
            raise StorageError(
                f"The examples take {size / 2**30:.1f} GiB, more than is held in memory, and "
                f"{shown(place)} has {free / 2**30:.1f} free: make room, name another folder as "
                "ORNSTEIN_CACHE, or choose a smaller size or a limit."
            )
        with TemporaryFile(dir=place) as file:
            _reserve(file, size)
            return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"The examples, {size / 2**30:.1f} GiB, cannot be kept in {shown(place)} ({reason}): "
            "mend that, name another folder as ORNSTEIN_CACHE, or choose a smaller size or a limit."
        ) from None


def _reserve(file: IO[bytes], size: int) -> None:
    """Take room on the disk: to fill a hole in a mapped file when there is none is a crash."""
    if sys.platform == "linux":
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for first in range(0, size, PIECE):
        file.write(bytes(min(PIECE, size - first)))
    file.flush()


def packed(array: np.ndarray, dtype: np.dtype, rows: np.ndarray | None = None) -> np.ndarray:
    """A copy of an array ``(N, ...)``, or of some of its rows, one after the other in memory."""
    count = len(array) if rows is None else len(rows)
    made = room((count, *array.shape[1:]), dtype)
    for some in parts(made):
        made[some] = array[some if rows is None else rows[some]]
    return made


def taken(stored: Tensor, indices: Tensor) -> Tensor:
    """``stored[indices]``; where that is large, looked up when it is asked for, not copied."""
    size = len(indices) * prod(stored.shape[1:]) * stored.element_size()
    if stored.device.type != "cpu" or size <= most_held():
        return stored[indices]
    return Picked(stored, indices)


class Picked(Tensor):
    """Some rows of a mapped tensor ``(N, ...)``, which are looked up when they are asked for.

    To all who read it a tensor like any other. Rows of it are taken from where they lie; whoever
    asks for more, as by a sum, works on a copy of all, mapped too.

    Args:
        base: That they are rows of.
        rows: Which ``(M,)``.
    """

    base: Tensor
    rows: Tensor

    @staticmethod
    def __new__(cls, base: Tensor, rows: Tensor) -> "Picked":
        if isinstance(base, Picked):
            base, rows = base.base, base.rows[rows]
        shape = (len(rows), *base.shape[1:])
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=base.dtype)  # pyright: ignore[reportAttributeAccessIssue]
        made.base, made.rows = base, rows
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """One operation of torch, of which at least one argument is of this kind."""
        aten, (here, *rest) = torch.ops.aten, args
        if isinstance(here, cls):
            match func, rest:
                case aten.index.Tensor, [[Tensor() as which]]:
                    return taken(here.base, here.rows[which])
                case aten.slice.Tensor, [0, *ends]:
                    return taken(here.base, here.rows[slice(*ends)])
                case aten.select.int, [0, row]:
                    return here.base[int(here.rows[row])]
                case aten.view.dtype, [dtype]:
                    return cls(here.base.view(dtype), here.rows)
                case ((aten.detach.default | aten.alias.default), []):
                    return cls(here.base, here.rows)
        args, kwargs = tree_map_only(cls, cls.copied, (args, kwargs or {}))
        return func(*args, **kwargs)

    def copied(self) -> Tensor:
        """All of it, one row after the other, in memory or mapped."""
        array = self.base.numpy()
        return torch.from_numpy(packed(array, array.dtype, self.rows.numpy()))

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """As an array: a copy."""
        return self.copied().numpy(force=force)

    def __repr__(self, **how: Any) -> str:
        return f"Picked({tuple(self.shape)} of {tuple(self.base.shape)}, {self.dtype})"


def parts(array: np.ndarray | Tensor) -> Iterator[slice]:
    """Rows of an array ``(N, ...)``, as many at once as take about `PIECE` bytes."""
    itemsize = array.element_size() if isinstance(array, Tensor) else array.itemsize
    step = max(1, PIECE // max(1, prod(array.shape[1:]) * itemsize))
    for first in range(0, len(array), step):
        yield slice(first, min(len(array), first + step))


class Shelf:
    """Where arrays are put away one by one, of which nobody knows yet how many there will be.

    Those beyond the memory that arrays may take lie side by side in mapped files, each of which is
    gone when the last of its arrays is.
    """

    def __init__(self) -> None:
        self._held, self._chunk = 0, np.empty(0, np.uint8)

    def put(self, array: np.ndarray) -> np.ndarray:
        """`array` itself, or a copy of it on the disk."""
        self._held += array.nbytes
        if self._held <= most_held() or not array.nbytes:
            return array
        if len(self._chunk) < array.nbytes:
            size = max(CHUNK, array.nbytes)
            self._chunk = _mapped((size,), np.dtype(np.uint8), size)
        place = self._chunk[: array.nbytes].view(array.dtype).reshape(array.shape)
        place[...] = array
        self._chunk = self._chunk[-(-array.nbytes // ALIGNED) * ALIGNED :]
        return place
