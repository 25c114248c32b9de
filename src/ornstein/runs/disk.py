"""Files that are whole or not there, also after a power cut; and files read with bounds.

POSIX promises that a rename is atomic. It promises nothing about the order in which data and
names reach the disk: hence each file is synced before it gets its name, and the folder after.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import signal
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from ..data.names import shown
from ..errors import StorageError, UsageError

TEMPORARY = ".tmp-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# --- Writing -------------------------------------------------------------------------------------


class NewFile:
    """A file that was not there, hashed while it is written, and on the disk once closed.

    Attributes:
        size: Bytes written so far.
        sha256: Of these bytes, in hexadecimal.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd, self._hash, self.size = os.open(path, flags, 0o666), hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`; raises the `OSError` of a disk that is full."""
        self._hash.update(data)
        self.size += len(data)
        write_all(self._fd, data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __enter__(self) -> "NewFile":
        return self

    def __exit__(self, kind: type | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                hook("after_write")
                os.fsync(self._fd)
                hook("after_fsync")
        finally:
            os.close(self._fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """``os.write`` until nothing is left: one call writes at most 2 GiB."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_text(path: Path, text: str) -> None:
    """Write `path` so that whoever opens it finds the old text or the new one.

    Raises:
        StorageError: If the disk refuses.
    """
    data, new = text.encode(), temporary(path.parent)
    with storing(path, len(data)), discarding(new):
        with NewFile(new) as file:
            file.write(data)
        new.replace(path)
        sync_folder(path.parent)


def make_once(path: Path, text: str) -> None:
    """Write `path`, whole or not at all, and never over that of a process that was faster.

    Raises:
        UsageError: If another process was.
        StorageError: If the disk refuses.
    """
    data, new = text.encode(), temporary(path.parent)
    with storing(path, len(data)), discarding(new):
        with NewFile(new) as file:
            file.write(data)
        try:
            os.link(new, path)
        except FileExistsError:
            raise UsageError(f"{shown(path)} was made by another process meanwhile.") from None
        except OSError:  # a file system without links
            new.rename(path)
        remove(new)
        sync_folder(path.parent)


def append(path: Path, text: str) -> None:
    """Add `text` to the end of `path`, in one write.

    Raises:
        StorageError: If the disk refuses, or `path` is a link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with storing(path, len(text)):
        fd = os.open(path, flags, 0o666)
        try:
            write_all(fd, text.encode())
        finally:
            os.close(fd)


def make_folder(path: Path) -> None:
    """Make `path` and all it lies in, and bring their names to the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def temporary(folder: Path) -> Path:
    """A name in `folder` that nobody else has; a fixed one would be shared by two writers."""
    return folder / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk: a rename is not safe before."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it; of a link the link alone."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def withdraw(path: Path) -> None:
    """Remove what others may be reading: its name first, so that nobody finds it half gone."""
    gone = temporary(path.parent)
    with suppress(FileNotFoundError):
        path.rename(gone)
    remove(gone)


def sweep(folder: Path) -> None:
    """Remove what a writer that was killed has left in `folder`."""
    with suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(TEMPORARY):
                remove(Path(entry.path))


@contextmanager
def discarding(path: Path) -> Iterator[None]:
    """On any error, remove `path` and pass the error on."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            remove(path)
        raise


@contextmanager
def storing(path: Path, size: int) -> Iterator[None]:
    """Say of an `OSError` within what could not be stored, and why, as a `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            no_room(path, size, error.strerror or "")
        reason = error.strerror or str(error)
        raise StorageError(
            f"{shown(path)} cannot be written ({reason}): mend that, or choose another folder."
        ) from None


def no_room(path: Path, size: int, reason: str) -> NoReturn:
    """Raise the `StorageError` of a disk without `size` free bytes for `path`."""
    raise StorageError(
        f"{shown(path)} cannot be written: it needs {size:,} bytes and {free_bytes(path):,} are "
        f"free ({reason}); make room, then go on with --resume."
    )


def free_bytes(path: Path) -> int:
    """Free space where `path` lies or would lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


# --- Reading -------------------------------------------------------------------------------------


def open_regular(path: Path) -> tuple[int, int]:
    """A file descriptor to read `path` with, and its size; never waits, as a pipe would.

    Raises:
        StorageError: If there is no such file, or it is not one.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{shown(path)} cannot be read ({reason}).") from None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise StorageError(f"{shown(path)} cannot be read (it is not a file).")
    return fd, found.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes.

    Raises:
        StorageError: If it cannot be read, or is larger.
    """
    fd, size = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise StorageError(f"{shown(path)} has {size:,} bytes, more than the {most:,} it may have.")
    return data


def read_object(path: Path, most: int) -> dict[str, Any]:
    """The JSON object in a file of at most `most` bytes; raises as `read_bytes`, or if damaged."""
    try:
        return strict_json(read_bytes(path, most))
    except ValueError as error:
        raise StorageError(f"{shown(path)} is damaged: it {error}.") from None


def check_schema(path: Path, found: dict[str, Any], known: int) -> None:
    """Refuse what a newer version has written, and what has no version."""
    version = found.get("schema")
    if type(version) is not int or version < 1:
        raise StorageError(f"{shown(path)} is damaged: it names no schema.")
    if version > known:
        raise StorageError(
            f"{shown(path)} was written by a newer version of ornstein (its schema is "
            f"{shown(version, 40)}, this one knows {known}): upgrade ornstein."
        )


def strict_json(data: bytes, lists: int = 200_000, values: int = 500_000) -> dict[str, Any]:
    """A JSON object of at most so many lists and tables, and values in them.

    Raises:
        ValueError: With the reason: it is no such object, names something twice, or holds NaN.
    """
    # Lists and tables take twenty times their text in memory: they are counted before
    if data.count(b"[") + data.count(b"{") > lists or data.count(b",") > values:
        raise ValueError("holds too many values")
    try:
        found = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError:
        raise ValueError("is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("names something twice")
    return table


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}")


# --- For the tests that kill a writer ------------------------------------------------------------

_passed: Counter[str] = Counter()


def hook(point: str) -> None:
    """Die here and now if ``ORNSTEIN_KILL_AT`` is ``point:n`` and this is the n-th time."""
    if (wanted := os.environ.get("ORNSTEIN_KILL_AT")) is None:
        return
    _passed[point] += 1
    if wanted == f"{point}:{_passed[point]}":
        os.kill(os.getpid(), signal.SIGKILL)
