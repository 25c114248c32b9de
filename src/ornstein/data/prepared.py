"""Data as they were prepared before: what takes long to read is read once, and kept in the cache.

What is kept is called by a hash of all that it was made of: the files with their sizes and times
of change, the options, the code that read them. If one of these is another, so is the name. So
nothing in the cache is brought up to date, and nothing that is out of date is found.
"""

import json
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelFileError, Notice
from .arrays import read_npy
from .cache import ABOUT, folder, in_words, remove
from .dataset import Dataset
from .files import Folder, stamp
from .names import Unreadable, shown
from .options import DataOptions
from .pictures import is_of_pictures
from .plain import from_plain, tensors_of, to_plain
from .room import most_held

PATIENCE = 5.0  # seconds: what was read in less is read again
DAY = 86_400  # seconds after which nobody writes any more what was begun; or, thirty, wants it
PLACES, BYTES = 256, 4096  # of a file, that are looked at when it is opened
EXAMPLES, BEGUN = "examples.json", ".begun-"
LATER = ("on_bad", "balance", "flip", "shift", "validation", "given_noise")
"""Options on which it does not depend what is read."""
LIBRARIES = ("numpy", "pillow", "tifffile", "torch")
"""By which it is read."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What data are made of.

    Args:
        source: Where the user's files are.
        read_as: The options that say how they are read, where they are not as by default.
        mark: A hash of that, of when the files were changed, and of what reads them.
    """

    source: str
    read_as: dict[str, Any]
    mark: str

    @classmethod
    def of(cls, source: Path, options: DataOptions) -> "Origin | None":
        """None if that cannot be said: who reads them says why."""
        try:
            place, stamps = str(source.resolve()), _stamps(source)
        except (OSError, ValueError):
            return None
        usual = asdict(DataOptions())
        said = {k: v for k, v in asdict(options).items() if k not in LATER and v != usual[k]}
        digest = blake2b(repr((place, said, _reading())).encode(), digest_size=16)
        for each in stamps:
            digest.update(repr(each).encode())
        return cls(source=place, read_as=said, mark=digest.hexdigest())

    @property
    def place(self) -> Path:
        """Where it is kept what was made of them."""
        return folder() / "data" / self.mark


def prepared(source: Path, options: DataOptions, read: Callable[[], Dataset]) -> Dataset:
    """What `read` reads, or has read before, if nothing that it depends on has changed since.

    Args:
        source: Where the user's files are.
        options: How they are read.
        read: That reads them. What takes longer than `PATIENCE` is kept.
    """
    if (origin := Origin.of(source, options)) is None:
        return read()
    if (found := _opened(origin, source, options)) is not None:
        return found
    began = time.monotonic()
    data = read()
    took = time.monotonic() - began
    if took < PATIENCE or not _keep(data, origin, took):
        return data
    mapped = any(tensor.nbytes > most_held() for tensor in tensors_of(data).values())
    return (_opened(origin, source, options) if mapped else None) or data


def _stamps(source: Path) -> list[Any]:
    """Of each file its name, its size and its times; of what cannot be looked at, why."""
    if not source.is_dir():
        return [stamp(source.stat())]
    inside = Folder(source, is_of_pictures)
    return sorted(inside.stamps.items()) + sorted(inside.problems)


@cache
def _reading() -> str:
    """A hash of the code that reads: what another version has kept is not taken for ours."""
    digest = blake2b(digest_size=16)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    digest.update(repr((platform.machine(), [version(name) for name in LIBRARIES])).encode())
    return digest.hexdigest()


# --- Kept ----------------------------------------------------------------------------------------


def _keep(data: Dataset, origin: Origin, took: float) -> bool:
    """Write `data` to the cache if as much room again stays there, and say so, or why not."""
    place, size = origin.place.parent, sum(t.nbytes for t in tensors_of(data).values())
    read = f"Reading {shown(origin.source)} took {took:.0f} s"
    try:
        place.mkdir(parents=True, exist_ok=True)
        _let_go(place, origin)
        if (free := shutil.disk_usage(place).free) < 2 * size:
            raise OSError(f"{in_words(free)} are free; twice the room is wanted, half to stay so")
        _write(data, origin)
    except OSError as error:
        warnings.warn(
            f"{read}, and will again: the {in_words(size)} that it came to cannot be kept in "
            f"{shown(place)} ({error.strerror or error}): make room there, or name another folder "
            "as ORNSTEIN_CACHE.",
            Notice,
            stacklevel=4,
        )
        return False
    warnings.warn(
        f"{read}: the {in_words(size)} that it came to are kept in {shown(place)}, and need not be "
        "read again until the files change; `ornstein cache` shows and empties it.",
        Notice,
        stacklevel=4,
    )
    return True


def _let_go(place: Path, origin: Origin) -> None:
    """Remove what files that have changed since were made into, and what nobody wants any more."""
    for path in place.iterdir():
        if path == origin.place:  # another process was faster
            continue
        begun, known = path.name.startswith(BEGUN), path / ABOUT
        try:
            idle = time.time() - (path if begun else known).stat().st_mtime
            about = {} if begun else json.loads(known.read_text("utf-8"))
            past = (about.get("source"), about.get("read_as")) == (origin.source, origin.read_as)
        except (OSError, ValueError):  # nobody can open it
            past, idle = True, 0.0
        if past or idle > (DAY if begun else 30 * DAY):
            remove(path)


def _write(data: Dataset, origin: Origin) -> None:
    """Under another name first: what has its own is whole, whoever else writes the same."""
    new = Path(tempfile.mkdtemp(prefix=BEGUN, dir=origin.place.parent))
    try:
        for name, tensor in tensors_of(data).items():
            array = tensor.numpy()
            _put(new / f"{name}.npy", lambda file, array=array: np.save(file, array))
        _put(new / EXAMPLES, lambda file: file.write(json.dumps(to_plain(data)).encode()))
        seals = {path.name: _seal(path) for path in sorted(new.iterdir())}
        about = {"source": origin.source, "read_as": origin.read_as, "seals": seals}
        _put(new / ABOUT, lambda file: file.write(json.dumps(about).encode()))
        try:
            new.rename(origin.place)
        except OSError:
            if not origin.place.is_dir():  # else another process was faster
                raise
    finally:
        remove(new)


def _put(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file, and have it on the disk before it gets its name."""
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _seal(path: Path) -> str:
    """A hash of a file's size, and of what lies at some places of it: all of a small one."""
    size = path.stat().st_size
    digest = blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        for i in range(PLACES):
            file.seek(max(0, size - BYTES) * i // (PLACES - 1))
            digest.update(file.read(BYTES))
    return digest.hexdigest()


# --- Opened again --------------------------------------------------------------------------------


def _opened(origin: Origin, source: Path, options: DataOptions) -> Dataset | None:
    """What is kept of them; None if nothing is, or nothing that is whole."""
    place = origin.place
    if not place.is_dir():
        return None
    try:
        seals = json.loads((place / ABOUT).read_text("utf-8"))["seals"]
        if any(_seal(place / name) != seal for name, seal in seals.items()):
            raise ValueError("it is not what was written")
        told = json.loads((place / EXAMPLES).read_text("utf-8"))
        if told["problems"] and options.on_bad == "error":
            return None
        files = [place / name for name in seals if name != EXAMPLES]
        tensors = {file.stem: _tensor(file) for file in files}
        data = from_plain(told, tensors, str(source), options)
    except (OSError, ValueError, KeyError, TypeError, Unreadable, ModelFileError):
        remove(place)
        return None
    with suppress(OSError):  # of a cache that is only read
        os.utime(place / ABOUT)
    return data


def _tensor(file: Path) -> Tensor:
    """What a file holds; mapped, to be read only, where it is large."""
    array = read_npy(file)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
