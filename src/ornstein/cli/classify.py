"""`ornstein classify`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..tasks.options import ClassifyOptions, checked
from .machine import FLAT, Folder, Opening, named, say, watching


def classify(
    run: Path,
    examples: list[Path],
    /,
    options: Annotated[ClassifyOptions, FLAT] = ClassifyOptions(),
    *,
    out: Folder = None,
    machine: Annotated[Opening, FLAT] = Opening(),
) -> None:
    """Say which class each of the EXAMPLES is of, with a RUN that was trained with labels.

    Args:
        run: The run folder.
        examples: Files, folders, or patterns in quotes.
        out: Folder for classes.csv; RUN/classified if not given.
    """
    options = checked(ClassifyOptions, asdict(options))
    machine.start(f"Classifying {named(examples)} with {run}")
    from ..tasks.classify import classify as tell

    model = machine.opened(run)
    with watching() as taken:
        found = tell(model, examples, say=say, **asdict(options))
    say(f"It took {taken} in all.")
    (path,) = found.save(out or model.folder.path / "classified")
    values = {"classes": path, "seconds": taken.seconds}
    machine.result(values | found.facts, [*found.lines(), f"Classes: {path}"])
