"""`ornstein augment`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..tasks.options import AugmentOptions, checked
from .machine import FLAT, Opening, say, watching


def augment(
    run: Path,
    /,
    options: Annotated[AugmentOptions, FLAT] = AugmentOptions(),
    *,
    out: Path,
    machine: Annotated[Opening, FLAT] = Opening(),
) -> None:
    """Write a training set in which all classes have as many examples: real ones and drawn ones.

    Near copies of training data are refused, and what the drawn ones are worth is measured.

    Args:
        run: The run folder, trained with labels.
        out: A new folder for the set, in the layout of the data.
    """
    options = checked(AugmentOptions, asdict(options))
    machine.start(f"Drawing beside the training data of {run}")
    from ..tasks.augment import augment as draw
    from ..tasks.augment import refuse_full

    refuse_full(out)
    with watching() as taken:
        made = draw(machine.opened(run), device=machine.device, say=say, **asdict(options))
    say(f"It took {taken} in all.")
    paths = made.save(out)
    lines = [*made.lines(), f"Written: {len(paths):,} files to {out}"]
    values = {"out": out.resolve(), "files": len(paths), "seconds": taken.seconds}
    machine.result(values | made.facts, lines)
