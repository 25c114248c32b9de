"""`ornstein restore`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..errors import UsageError
from ..tasks.options import RestoreOptions, checked
from .machine import FLAT, Flag, Folder, Opening, PictureFile, named, pairs, say, summary, watching
from .sample import show_plan


def restore(
    run: Path,
    files: list[Path] | None = None,
    /,
    options: Annotated[RestoreOptions, FLAT] = RestoreOptions(),
    *,
    mask: Path | None = None,
    out: Folder = None,
    grid: PictureFile = None,
    uncertainty: Flag = False,
    calibrate: int | None = None,
    dry_run: Flag = False,
    machine: Annotated[Opening, FLAT] = Opening(),
) -> None:
    """Mend what FILES hold, several times over: each restoration explains what was measured.

    Say what was measured by --mask, --outpaint, --upscale, --deblur, --denoise, --colourise,
    --mri, --ct or --operator; of tables, leave cells empty. What is known exactly is kept to the
    last bit. A run of patches (--data.patch) mends pictures of any size.

    Args:
        run: The run folder.
        files: One or several.
        mask: A picture that is white where to fill in.
        out: Folder for the restorations; RUN/samples/restored if not given.
        grid: One picture of what was known and the restorations.
        uncertainty: Also write the mean, how unsure it is, and of 19 restorations or more the
            bands that should hold the truth nine times in ten; as calibrated, if they were.
        calibrate: In place of files, measure and mend so many held-out examples of the run's own
            data, say how often the truth lies within the bands, and keep by how much to widen
            them for --uncertainty with the same options.
        dry_run: Say what would be drawn, and stop.
    """
    options = checked(RestoreOptions, asdict(options))
    if bool(files) == (calibrate is not None):
        raise UsageError("Give files to mend, or --calibrate and how many examples to try it on.")
    what = f"{calibrate} held-out examples" if not files else named(files)
    machine.start(f"Restoring {what} with {run}")
    from ..evaluate.measures.calibration import calibrate as measure
    from ..tasks.picture import write_picture
    from ..tasks.restore import at_once
    from ..tasks.restore import restore as mend

    model = machine.opened(run)
    if dry_run:
        show_plan(model, options, machine)
        return
    given = {k: v for k, v in asdict(options).items() if v != getattr(RestoreOptions(), k)}
    if calibrate is not None:
        with watching():
            found = measure(model, calibrate, mask, keep=True, **given)
        machine.result(found.facts, [*pairs(found.facts), found.verdict])
        return
    lists, paths, costs = at_once(model, files or [], options), list[Path](), []
    if grid is not None and len(lists) > 1:
        raise UsageError("--grid is for pictures of one size: leave it out, or give fewer files.")
    for alike in lists:
        with watching():
            restored = mend(model, alike, mask, **given)
        paths += restored.save(out or model.samples / "restored", uncertainty)
        if grid is not None:
            paths.append(write_picture(restored.panel(), grid))
        say(f"It took {restored.cost}.")
        if restored.caution and restored.draws > 1:
            say(restored.caution)
        if uncertainty:
            say(" ".join((restored.trust, restored.legend)).strip())
        costs.append(restored.cost and asdict(restored.cost))
    cost = costs[0] if len(costs) == 1 else costs
    machine.result({"paths": paths, "cost": cost}, summary(paths))
