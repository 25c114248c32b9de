"""`ornstein export`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..tasks.options import ExportOptions, checked
from .machine import FLAT, Adapted, pairs


def export(
    run: Path,
    /,
    options: Annotated[ExportOptions, FLAT] = ExportOptions(),
    *,
    out: Path | None = None,
    machine: Annotated[Adapted, FLAT] = Adapted(),
) -> None:
    """Write the sampler of RUN as one graph, from unit noise to data, for other programs.

    It is opened again, and what it draws is compared with what the run draws.

    Args:
        run: The run folder.
        out: The file; in exports/ of the run if not given.
    """
    options = checked(ExportOptions, asdict(options))
    machine.start(f"Exporting {run}")
    from ..tasks.export import export as write

    exported = write(machine.opened(run), out, device=machine.device, **asdict(options))
    facts = asdict(exported)
    machine.result(facts, [exported.path, *pairs({k: v for k, v in facts.items() if k != "path"})])
