"""Names found in the user's files: how they are sorted, shown, and when they are refused."""

import re
from typing import NamedTuple


class Unusable(NamedTuple):
    """A file or row that cannot be used, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.path)}: {shown(self.reason, 200)}"


class Unreadable(Exception):
    """One file or row cannot be used, for the reason given; becomes an `Unusable`."""


def shown(text: object, limit: int = 120) -> str:
    """`text` in one line that is safe in a terminal: no control or direction characters.

    Of an error of the system, its words: the number and the path are of no use behind a path.
    """
    said = text.strerror.lower() if isinstance(text, OSError) and text.strerror else str(text)
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said[:5000])
    return line if len(line) <= limit else f"{line[: limit - 20]}...{line[-17:]}"


def natural(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sort key in which ``9.png`` comes before ``10.png``."""
    parts: list[str | tuple[int, str]] = []
    for i, part in enumerate(re.split(r"([0-9]+)", name)):
        digits = part.lstrip("0")
        parts.append((len(digits), digits) if i % 2 else part)
    return parts, name


def objection(name: str) -> str | None:
    """Why a member of an archive may not have this name; None if it may."""
    if not name or any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "its name is empty or holds control characters"
    if "\\" in name:
        return "its name holds a backslash"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "its name is an absolute path"
    if ".." in name.split("/"):
        return "its name leads out of the archive"
    return None


def hidden(name: str) -> bool:
    """Whether a path is what file managers leave behind: ``.DS_Store``, ``__MACOSX/``."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
