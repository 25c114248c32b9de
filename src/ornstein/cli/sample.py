"""`ornstein sample`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..tasks.options import DrawOptions, SampleOptions, checked
from .machine import FLAT, Flag, Machine, pairs, summary

if TYPE_CHECKING:
    from ..runs.model import Model

MOST_IN_A_GRID = 1024  # examples in one picture


def sample(
    run: Path,
    /,
    *cascade: Path,
    options: Annotated[SampleOptions, FLAT] = SampleOptions(),
    out: Path | None = None,
    grid: Path | None = None,
    dry_run: Flag = False,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Draw new examples from the trained RUN.

    Args:
        run: The run folder.
        cascade: Runs trained on pairs, each of which is given what the one before drew.
        out: Folder for the examples, in the format of the data; samples/ of the last run if not
            given.
        grid: One picture of all of them, as in grid.png.
        dry_run: Say what would be drawn, and stop.
    """
    options = checked(SampleOptions, asdict(options))
    count = len(options.indices)
    runs = [run, *cascade]
    names = ", then ".join(map(str, runs))
    machine.start(f"Drawing {count:,} example{'s' * (count > 1)} from {names}")
    import torch

    from ..tasks import sample as task

    models = [task.opened(run, machine.device) for run in runs]
    model = models[-1]
    if dry_run:
        show_plan(models[0], options, machine)
        return
    assert model.run is not None
    folder, paths, shown = out or model.run.samples, [], []
    for part in task.cascade(models, options):
        paths += part.save(folder)
        if grid is not None and sum(map(len, shown)) < MOST_IN_A_GRID:
            shown.append(part.x)
    if grid is not None:
        picture = model.codec.preview(torch.cat(shown)[:MOST_IN_A_GRID])
        paths.append(task.write_picture(picture, grid))
    machine.result({"paths": paths}, summary(paths))


def show_plan(model: "Model", options: DrawOptions, machine: Machine) -> None:
    """Print what would be drawn, and how."""
    from ..tasks.sample import fitted_rule, plan

    _, steps = plan(model, options)
    config, fitted = model.config.sample, fitted_rule(model, options) is not None
    facts = {
        "run": model.run and model.run.path,
        "seen": model.seen,
        "sampler": "fitted to this run" if fitted else options.sampler or config.sampler,
        "time_grid": "fitted to this run" if fitted else options.time_grid or config.grid,
        "steps": len(steps.times) - 1,
        "denoiser_calls": steps.calls,
        "guidance": config.guidance if options.guidance is None else options.guidance,
        "label": options.label,
        "seed": options.seed,
    }
    machine.result(facts, pairs(facts))
