"""`ornstein merge`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from pathlib import Path
from typing import Annotated

from .machine import FLAT, Adapted


def merge(
    run: Path,
    /,
    *,
    out: Path,
    machine: Annotated[Adapted, FLAT] = Adapted(),
) -> None:
    """Write RUN with its adapters as a run of its own, which needs neither.

    Args:
        run: The run folder; or an adapter's, to write it with its base.
        out: The run folder to write.
    """
    machine.start(f"Merging {', '.join([str(run), *machine.adapter])}")
    from ..tasks.merge import merge as write

    merged = write(run, machine.adapter, out=out)
    lines = [f"Run: {merged.path}", f"Sample it: ornstein sample {merged.path}"]
    machine.result({"run": merged.path}, lines)
