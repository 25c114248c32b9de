"""One writer for each run folder: a lock that dies with its process."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from ..data.names import shown
from ..errors import LockedError
from .disk import storing, write_all

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` against other writers, as long as this process lives.

    The kernel lets go of an ``flock`` when its holder dies, however it dies. Where there are no
    such locks, as on some network drives, a file that can be made only once stands in; it is taken
    over from a process of this host that is gone.

    Raises:
        LockedError: At once, if another process holds it; names that process and its host.
        StorageError: If the folder cannot be written.
    """
    path = folder / "lock"
    with storing(path, 0):
        fd = os.open(path, FLAGS, 0o666)
    try:
        with _signed(fd) if _flock(folder, path, fd) else _claimed(folder):
            yield
    finally:
        os.close(fd)


def _flock(folder: Path, path: Path, fd: int) -> bool:
    """Take the kernel's lock on `path`; false if this file system has none."""
    with storing(path, 0):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _refuse(folder, _holder(path))
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise
    return True


@contextmanager
def _signed(fd: int) -> Iterator[None]:
    """Our name in the locked file, for those who come to wait."""
    os.ftruncate(fd, 0)
    write_all(fd, _me())
    try:
        yield
    finally:
        os.ftruncate(fd, 0)  # the file stays: removing it would let two writers in


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """The same without ``flock``: whoever makes the file ``lock.pid`` holds the folder."""
    path = folder / "lock.pid"
    with storing(path, 0):
        if not _make(path):
            _take_over(folder, path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take_over(folder: Path, path: Path) -> None:
    """Replace the claim of a process that is gone. One process at a time may try."""
    turn = folder / "lock.turn"
    if not _make(turn):
        _refuse(folder, _holder(turn) or _holder(path))
    try:
        holder = _holder(path)
        if _is_alive(holder):
            _refuse(folder, holder)
        path.unlink(missing_ok=True)
        if not _make(path):
            _refuse(folder, _holder(path))
    finally:
        turn.unlink(missing_ok=True)


def _make(path: Path) -> bool:
    """Make the file with our name in it; false if it is there."""
    try:
        fd = os.open(path, FLAGS | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        write_all(fd, _me())
    finally:
        os.close(fd)
    return True


def _me() -> bytes:
    pid = os.getpid()
    return json.dumps({"pid": pid, "host": socket.gethostname(), "began": _began(pid)}).encode()


def _holder(path: Path) -> dict[str, Any]:
    """Who wrote the file; empty if that cannot be said."""
    with suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
        found = json.loads(file.read(1000))
        if isinstance(found, dict) and type(found.get("pid")) is int:
            return found
    return {}


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether that process may still write; of another host's one cannot know."""
    if holder.get("host") != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return _began(holder["pid"]) == holder.get("began")  # or another process has its number


def _began(pid: int) -> str:
    """When that process began, in ticks since the machine did; nothing where there is no /proc."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _refuse(folder: Path, holder: dict[str, Any]) -> NoReturn:
    who = "another process"
    if holder:
        who = f"process {holder['pid']} on {shown(holder.get('host', 'an unknown host'))}"
    raise LockedError(
        f"{shown(folder)} is being written by {who}: wait until it ends, or stop it; if it is "
        "gone, remove the files named lock* in that folder."
    )
