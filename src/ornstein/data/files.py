"""Files in a folder, a zip or a tar: listed and checked first, then read in place.

Nothing is ever extracted. An archive is refused as a whole, naming the member, for a name that
leads elsewhere, a link, a device, a duplicate, or a size out of proportion.
"""

import gzip
import os
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, cast

from ..errors import DataError
from .names import Unusable, hidden, objection, shown

INDEX_BYTES = 2**25  # largest single read of an archive's index: about 400,000 zip members
MEMBER_BYTES = 2**30  # largest member
FILE_BYTES = 2**32  # largest picture outside of archives
MEMBERS = 2_000_000
PROPORTION = 200  # bytes out for each byte in; refused above it once FREE_BYTES are exceeded
FREE_BYTES = 2**26

Stamp = tuple[int, int, int]
"""Of a file its size, and when its content and its status changed, in nanoseconds."""

_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    OSError,
    NotImplementedError,  # of a newer version of zip
    UnicodeDecodeError,  # of a name
)


class Files(ABC):
    """Regular files under one root, by path relative to it, with ``/``.

    Args:
        path: The folder or archive.
        wanted: Which names to list; the others are checked all the same.
    """

    def __init__(self, path: Path, wanted: Callable[[str], bool]) -> None:
        self.path, self.wanted = path, wanted
        self.sizes: dict[str, int] = {}
        self.problems: list[Unusable] = []

    @abstractmethod
    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes | Unusable]]:
        """The content of `names`, in the order in which they are stored."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_files(path: Path, wanted: Callable[[str], bool]) -> Files:
    """List a folder, zip, tar or tar.gz.

    Raises:
        DataError: If it is none of these, or refused.
    """
    if path.is_dir():
        return Folder(path, wanted)
    with path.open("rb") as file:
        magic = file.read(262)
    try:
        if magic.startswith((b"PK\3\4", b"PK\5\6")):
            return Zip(path, wanted)
        if magic.startswith(b"\x1f\x8b") or magic[257:262] == b"ustar":
            return Tar(path, wanted, compressed=magic.startswith(b"\x1f\x8b"))
    except _BROKEN as error:
        raise _damaged(path, error) from None
    raise DataError(
        f"{shown(path)} is none of what is read: folders, .zip, .tar and .tar.gz of pictures; "
        ".npy, .npz and .csv. Slices of volumes can be saved as 16-bit .png; sound is not read."
    )


class Folder(Files):
    """A folder and those below it. Links to files are followed, links to folders are not.

    Attributes:
        stamps: The stamp of each file.
    """

    def __init__(self, path: Path, wanted: Callable[[str], bool]) -> None:
        super().__init__(path, wanted)
        self.stamps: dict[str, Stamp] = {}
        pending = [""]
        while pending:
            prefix = pending.pop()
            try:
                with os.scandir(path / prefix) as found:
                    entries = list(found)
            except OSError as error:
                self.problems.append(Unusable(prefix or ".", _reason(error)))
                continue
            for entry in entries:
                name = prefix + entry.name
                if hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False) and not wanted(name):
                    pending.append(name + "/")
                else:
                    self._add(name, entry)

    def _add(self, name: str, entry: os.DirEntry[str]) -> None:
        try:
            status = entry.stat()
        except OSError as error:
            if self.wanted(name):
                self.problems.append(Unusable(name, _reason(error)))
            return
        if stat.S_ISDIR(status.st_mode):
            what = "a link to a folder, which is not followed" if entry.is_symlink() else "a folder"
            self.problems.append(Unusable(name, f"it is {what}"))
        elif self.wanted(name):
            if stat.S_ISREG(status.st_mode):
                self.sizes[name], self.stamps[name] = status.st_size, stamp(status)
            else:
                self.problems.append(Unusable(name, "it is a pipe or device, not a regular file"))

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes | Unusable]]:
        for name in names:
            try:
                yield name, read_file(self.path / name)
            except OSError as error:
                yield name, Unusable(name, _reason(error))

    def close(self) -> None:
        """Nothing stays open."""


def stamp(status: os.stat_result) -> Stamp:
    """What is another once a file was written to.

    Whoever writes can set back when that was, but not when they did so: the last of the three.
    """
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_file(path: Path) -> bytes:
    """The content of a regular file; a pipe in its place is refused and does not hang."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("it is not a regular file")
        if os.fstat(handle).st_size > FILE_BYTES:
            raise OSError(f"it is larger than {FILE_BYTES:,} bytes")
        return file.read(FILE_BYTES + 1)


class _Bounded:
    """A file of which no single read may ask for more than `limit` bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.limit = file, INDEX_BYTES
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(self.limit + 1 if size < 0 else min(size, self.limit + 1))
        if len(data) > self.limit:
            raise DataError(
                "The archive's list of members is larger than the 32 MiB that are read; "
                "unpack it and give the folder."
            )
        return data


class _Archive(Files):
    """What zip and tar have in common: the checks, made before a member is read."""

    def __init__(self, path: Path, wanted: Callable[[str], bool]) -> None:
        super().__init__(path, wanted)
        self.packed, self.unpacked, self.members = path.stat().st_size, 0, 0
        self.seen: set[str] = set()

    def refuse(self, name: str, reason: str) -> DataError:
        return DataError(
            f"{shown(self.path)} is refused: member {shown(repr(name))}: {reason}; "
            "make the archive again without it."
        )

    def admit(self, name: str, size: int, *, kind: str, packed: int | None = None) -> bool:
        """Whether a member is wanted. Raises `DataError` if the archive must be refused."""
        self.members += 1
        if self.members > MEMBERS:
            raise self.refuse(name, f"it comes after more than {MEMBERS:,} others")
        if kind not in ("file", "folder"):
            raise self.refuse(name, f"it is a {kind}")
        if reason := objection(name.rstrip("/") if kind == "folder" else name):
            raise self.refuse(name, reason)
        if kind == "folder":
            return False
        if name in self.seen:
            raise self.refuse(name, "there are two of this name")
        self.seen.add(name)
        self.unpacked += size
        if size > MEMBER_BYTES:
            raise self.refuse(name, f"its {size:,} bytes are above the limit of {MEMBER_BYTES:,}")
        for total, source in ((size, packed), (self.unpacked, self.packed)):
            if source is not None and total > max(FREE_BYTES, PROPORTION * source):
                raise self.refuse(name, f"{source:,} bytes unpack to {total:,}, as in a bomb")
        return not hidden(name) and self.wanted(name)


class Zip(_Archive):
    """A zip archive.

    Raises:
        DataError: If it is none, damaged, or refused.
    """

    def __init__(self, path: Path, wanted: Callable[[str], bool]) -> None:
        super().__init__(path, wanted)
        self.bounded = _Bounded(path.open("rb"))
        try:
            self.zip = zipfile.ZipFile(cast("IO[bytes]", self.bounded))
            self.bounded.limit = MEMBER_BYTES
            self.infos: dict[str, zipfile.ZipInfo] = {}
            for info in self.zip.infolist():
                self._list(info)
        except BaseException as error:
            self.bounded.close()
            if isinstance(error, _BROKEN):
                raise _damaged(path, error) from None
            raise

    def _list(self, info: zipfile.ZipInfo) -> None:
        mode = stat.S_IFMT(info.external_attr >> 16)
        name, kind = info.orig_filename, "folder" if info.is_dir() else "file"
        if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "link" if mode == stat.S_IFLNK else "device"
        if info.flag_bits & 1:
            raise self.refuse(name, "it is encrypted")
        if self.admit(name, info.file_size, kind=kind, packed=info.compress_size):
            self.infos[name], self.sizes[name] = info, info.file_size

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes | Unusable]]:
        for name in sorted(names, key=lambda name: self.infos[name].header_offset):
            try:
                with self.zip.open(self.infos[name]) as member:
                    found = member.read(self.sizes[name])
            except (DataError, MemoryError):
                raise
            # Nothing of ours runs in here but the reading of the file, which may say DataError. Of
            # damaged members each unpacker has errors of its own, and they share no base.
            except Exception as error:
                found = Unusable(name, f"damaged in the archive ({error})")
            yield name, found

    def close(self) -> None:
        self.zip.close()
        self.bounded.close()


class Tar(_Archive):
    """A tar archive, compressed by gzip or not. Read from front to back, twice."""

    def __init__(self, path: Path, wanted: Callable[[str], bool], compressed: bool) -> None:
        super().__init__(path, wanted)
        self.bounded = _Bounded(
            cast("IO[bytes]", gzip.GzipFile(path)) if compressed else path.open("rb")
        )
        self.offsets: dict[str, int] = {}
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", self.bounded), mode="r:") as tar:
                for info in tar:
                    self._list(info)
                    tar.members = []  # pyright: ignore[reportAttributeAccessIssue] (60 MB otherwise)
                self._check_end(tar.offset)
        except BaseException:
            self.bounded.close()
            raise
        self.bounded.limit = MEMBER_BYTES

    def _check_end(self, offset: int) -> None:
        """Refuse a header that is damaged, which tarfile takes for the end."""
        self.bounded.seek(offset)
        if self.bounded.read(512).strip(b"\0"):
            raise tarfile.ReadError(f"no header at byte {offset:,}")

    def _list(self, info: tarfile.TarInfo) -> None:
        kind = "file" if info.isreg() else "folder" if info.isdir() else "device"
        if info.issym() or info.islnk():
            kind = "link"
        if info.issparse():
            kind = "sparse file"
        name = info.name.removeprefix("./")
        if name == "." and kind == "folder":
            return
        if self.admit(name, info.size, kind=kind):
            self.offsets[name], self.sizes[name] = info.offset_data, info.size

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes | Unusable]]:
        for name in sorted(names, key=self.offsets.__getitem__):
            try:
                self.bounded.seek(self.offsets[name])
                data = self.bounded.read(self.sizes[name])
            except _BROKEN as error:
                raise DataError(
                    f"{shown(self.path)} is damaged at member {shown(name)} ({error}); "
                    "make it again."
                ) from None
            short = len(data) < self.sizes[name]
            yield name, Unusable(name, "cut short in the archive") if short else data

    def close(self) -> None:
        self.bounded.close()


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{shown(path)} is damaged ({shown(error)}); make it again.")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
