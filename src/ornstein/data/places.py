"""Places that a user names on a command line or in a call, as the files that are there."""

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import DataError, UsageError
from .decode import is_picture
from .names import hidden, natural, shown

Place = str | Path
"""A file, a folder, or a pattern as ``scans/*.png``; ``**`` in it stands for any folders."""


def files_in(
    places: Place | Sequence[Place], could_be: Callable[[str], bool] = is_picture
) -> list[Path]:
    """Every file that is named, in the order given; of a folder or pattern, 9 before 10.

    Args:
        places: One or several. What has the name of a pattern and is there is no pattern.
        could_be: Of a name: what is taken of a folder, and of all folders in it. What file
            managers leave behind is not.

    Raises:
        UsageError: If nothing is named, or a folder or a pattern holds no such file.
        DataError: If a file is not there.
    """
    paths: list[Path] = []
    for place in map(Path, [places] if isinstance(places, (str, Path)) else places):
        if place.is_dir():
            inside = (p for p in place.rglob("*") if not hidden(str(p.relative_to(place))))
            found = [p for p in inside if could_be(p.name) and p.is_file()]
        elif not place.exists() and glob.has_magic(str(place)):
            found = [Path(p) for p in glob.glob(str(place), recursive=True)]  # noqa: PTH207 (of any root)
            found = [p for p in found if p.is_file()]
        elif place.exists():
            found = [place]
        else:
            raise DataError(f"There is no {shown(place)}.")
        if not found:
            what = "holds no examples" if place.is_dir() else "matches no files"
            raise UsageError(f"{shown(place)} {what}: give files, folders or patterns.")
        paths += sorted(found, key=lambda path: natural(str(path)))
    if not paths:
        raise UsageError("An empty list of files: give at least one.")
    return paths
