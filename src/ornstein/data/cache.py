"""The cache: what took long to make, kept on this machine for the commands to come.

All of it can be made again, so whoever needs the room may empty it at any time: what a training
has open stays until it ends.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["data", "texts", "hub"]
KINDS: tuple[Kind, ...] = ("data", "texts", "hub")
"""Data as they were prepared; what encoders said of texts; runs of the Hugging Face Hub."""

ABOUT = "about.json"  # in a folder of prepared data: where they came from


def folder() -> Path:
    """Where it lies: ``$ORNSTEIN_CACHE``, or the user's folder for such files.

    Not that of temporary files, which on many machines is memory.
    """
    if own := os.environ.get("ORNSTEIN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ornstein"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing in the cache.

    Args:
        kind: What it is; see `KINDS`.
        name: The place of the data, with what was said of how to read them; the mark of the
            encoder; the repository.
        path: Where it lies.
        size: Bytes.
        used: When it was last, in seconds since 1970.
    """

    kind: Kind
    name: str
    path: Path
    size: int
    used: float


def entries() -> list[Entry]:
    """All that is kept, by kind, the largest first."""
    found = [e for kind in KINDS for e in _of(kind)]
    return sorted(found, key=lambda entry: (KINDS.index(entry.kind), -entry.size, entry.name))


def emptied(kind: Kind | Literal["all"] = "all") -> int:
    """Remove what is kept, of one kind or all of it; how many bytes that were.

    Other files in the folder stay, and what cannot be removed.
    """
    gone = [entry for entry in entries() if kind in ("all", entry.kind)]
    for entry in gone:
        remove(entry.path)
    return sum(entry.size for entry in gone if not entry.path.exists())


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it, as far as that goes."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def in_words(size: int) -> str:
    """So many bytes.

    >>> in_words(3 * 2**29)
    '1.5 GiB'
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _of(kind: Kind) -> Iterator[Entry]:
    place = folder() / kind
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        with suppress(OSError):  # whoever uses it may remove it meanwhile
            files = [file.stat() for file in (path, *path.rglob("*")) if file.is_file()]
            used = max((f.st_mtime for f in files), default=path.stat().st_mtime)
            size = sum(f.st_size for f in files)
            yield Entry(kind=kind, name=_name(kind, path), path=path, size=size, used=used)


def _name(kind: Kind, path: Path) -> str:
    if kind == "hub":
        return path.name.replace("--", "/", 1)
    if kind == "data":
        with suppress(OSError, ValueError, KeyError, TypeError):
            about = json.loads((path / ABOUT).read_text("utf-8"))
            said = (f"{name} = {value}" for name, value in sorted(about["read_as"].items()))
            return ", ".join([str(about["source"]), *said])
    return path.name
