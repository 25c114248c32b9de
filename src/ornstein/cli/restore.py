"""`ornstein restore`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..tasks.options import RestoreOptions, checked
from .machine import FLAT, Flag, Machine, summary
from .sample import show_plan


def restore(
    run: Path,
    pictures: list[Path],
    /,
    options: Annotated[RestoreOptions, FLAT] = RestoreOptions(),
    *,
    mask: Path,
    out: Path | None = None,
    grid: Path | None = None,
    dry_run: Flag = False,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Fill in the masked part of PICTURES, several times over; the rest is kept exactly.

    Args:
        run: The run folder.
        pictures: One or several files.
        mask: A picture that is white where to fill in.
        out: Folder for the restorations; RUN/samples/restored if not given.
        grid: One picture of what was given, what was kept, and the restorations.
        dry_run: Say what would be drawn, and stop.
    """
    options = checked(RestoreOptions, asdict(options))
    machine.start(f"Restoring {', '.join(str(p) for p in pictures[:3])} with {run}")
    from ..tasks.restore import restore as fill_in
    from ..tasks.sample import opened, write_picture

    model = opened(run, machine.device)
    if dry_run:
        show_plan(model, options, machine)
        return
    assert model.run is not None
    restored = fill_in(model, pictures, mask, **asdict(options))
    paths = restored.save(out or model.run.samples / "restored")
    if grid is not None:
        paths.append(write_picture(restored.panel(), grid))
    machine.result({"paths": paths}, summary(paths))
