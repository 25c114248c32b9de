"""`ornstein cache`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

import time
from dataclasses import asdict
from typing import Annotated, Literal

from .machine import FLAT, Machine


def cache(
    *,
    empty: Literal["all", "data", "texts", "hub"] | None = None,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Show what is kept on this machine because it took long to make, or remove it.

    It lies in the folder $ORNSTEIN_CACHE, or in that of the user for such files.

    Args:
        empty: Remove data as they were prepared, what encoders said of texts, runs fetched from
            the Hugging Face Hub, or all of these. They are made again when they are wanted.
    """
    from ..data.cache import emptied, entries, folder, in_words
    from ..data.names import shown

    if empty is not None:
        size = emptied(empty)
        machine.result({"removed": size}, [f"Removed {in_words(size)} from {shown(folder())}"])
        return
    kept = entries()
    lines = [f"{in_words(sum(entry.size for entry in kept))} in {shown(folder())}"]
    for entry in kept:
        day = time.strftime("%Y-%m-%d", time.localtime(entry.used))
        lines.append(f"{entry.kind:<5}  {in_words(entry.size):>9}  {day}  {shown(entry.name)}")
    facts = {"folder": folder(), "entries": [asdict(entry) for entry in kept]}
    machine.result(facts, lines)
