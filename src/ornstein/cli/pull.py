"""`ornstein pull`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from pathlib import Path
from typing import Annotated

from .machine import FLAT, Machine


def pull(
    name: str,
    /,
    *,
    out: Path | None = None,
    revision: str | None = None,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Fetch the run or the pipeline NAME from the Hugging Face Hub into a folder.

    Only safetensors and plain text are fetched; nothing that could run.

    Args:
        name: Of the repository, as user/name.
        out: The folder; that of its name if not given.
        revision: A branch, a tag or a commit.
    """
    machine.start(f"Pulling {name}")
    from ..interop.hub import pull as fetch

    place = fetch(name, out, revision=revision)
    machine.result({"place": place}, [place, f"Sample it: ornstein sample {place}"])
