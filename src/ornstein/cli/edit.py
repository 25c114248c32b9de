"""`ornstein edit`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

from ..errors import UsageError
from ..tasks.options import DrawOptions, EditOptions, checked
from .machine import FLAT, Folder, Opening, PictureFile, named, say, summary, watching


def edit(
    run: Path,
    pictures: list[Path],
    /,
    options: Annotated[EditOptions, FLAT] = EditOptions(),
    *,
    to: Path | None = None,
    mask: Path | None = None,
    strokes: Path | None = None,
    between: int | None = None,
    out: Folder = None,
    grid: PictureFile = None,
    machine: Annotated[Opening, FLAT] = Opening(),
) -> None:
    """Change PICTURES: vary them, finish a sketch or a stroke, make another class or style of them.

    Args:
        run: The run folder.
        pictures: Files, or folders of them.
        to: Another run: the pictures are encoded by RUN and decoded by it.
        mask: A picture that is white where something may change; the rest is kept exactly.
        strokes: A picture with transparency, painted over the pictures before they are changed.
        between: Draw so many pictures on the way from the first of two to the second.
        out: Folder for the results; RUN/samples/edited if not given.
        grid: One picture of what was given, and of the results.
    """
    options = checked(EditOptions, asdict(options))
    machine.start(f"Editing {named(pictures)} with {run}")
    from ..tasks import edit as task
    from ..tasks.picture import write_picture

    model = machine.opened(run)
    folder, cost = out or model.samples / "edited", None
    if between is not None:
        if len(pictures) != 2:
            raise UsageError(f"--between goes from one picture to another; got {len(pictures)}.")
        drawing = {f.name: getattr(options, f.name) for f in fields(DrawOptions)}
        with watching() as taken:
            way = task.between(model, *pictures, count=between, **drawing)
        say(f"It took {taken} in all.")
        paths, picture = way.save(folder), way.grid(columns=between)
    else:
        other = None if to is None else machine.beside(to)
        with watching():
            done = task.edit(
                model, pictures, to=other, mask=mask, strokes=strokes, **asdict(options)
            )
        cost = done.cost
        say(f"It took {cost}.")
        paths, picture = done.save(folder), done.panel()
    if grid is not None:
        paths.append(write_picture(picture, grid))
    machine.result({"paths": paths, "cost": cost and asdict(cost)}, summary(paths))
