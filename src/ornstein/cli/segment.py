"""`ornstein segment`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..tasks.options import SegmentOptions, checked
from .machine import FLAT, Folder, Opening, PictureFile, named, say, summary, watching


def segment(
    run: Path,
    pictures: list[Path],
    /,
    options: Annotated[SegmentOptions, FLAT] = SegmentOptions(),
    *,
    truth: Path | None = None,
    out: Folder = None,
    grid: PictureFile = None,
    machine: Annotated[Opening, FLAT] = Opening(),
) -> None:
    """Say what is where in PICTURES: a mask of each, its mean over several draws, and its doubt.

    RUN was trained to make masks: ornstein train DATA --given pictures --make masks.

    Args:
        run: The run folder.
        pictures: Files, or folders of them.
        truth: True masks, a file or a folder with one for each picture in the same order, to say
            how well the masks overlap with them.
        out: Folder for the masks; RUN/samples/masks if not given.
        grid: One picture of all: each picture, its mask, the mean and the doubt.
    """
    options = checked(SegmentOptions, asdict(options))
    machine.start(f"Segmenting {named(pictures)} with {run}")
    from ..tasks.picture import write_picture
    from ..tasks.segment import compare, segment

    model = machine.opened(run)
    with watching():
        found = segment(model, pictures, **asdict(options))
    if cost := found.cost:
        say(f"It took {cost}.")
    paths = found.save(out or model.samples / "masks")
    if grid is not None:
        paths.append(write_picture(found.panel(), grid))
    scores = [] if truth is None else compare(found, truth)
    lines = [*summary(paths)]
    if scores:
        mean = sum(scores) / len(scores)
        lines.append(f"Dice with {truth}: {mean:.3f} ({min(scores):.3f} to {max(scores):.3f})")
    machine.result({"paths": paths, "dice": scores, "cost": cost and asdict(cost)}, lines)
