"""`ornstein detect`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..tasks.options import DetectOptions, checked
from .machine import FLAT, Folder, Opening, named, say, watching


def detect(
    run: Path,
    examples: list[Path],
    /,
    options: Annotated[DetectOptions, FLAT] = DetectOptions(),
    *,
    out: Folder = None,
    machine: Annotated[Opening, FLAT] = Opening(),
) -> None:
    """Say which EXAMPLES are unlike the data of the RUN, and where, at a rate of false alarms.

    Args:
        run: The run folder.
        examples: Files, folders, or patterns in quotes.
        out: Folder for scores.csv and, of pictures, overlays; RUN/detected if not given.
    """
    options = checked(DetectOptions, asdict(options))
    machine.start(f"Looking for anomalies in {named(examples)} with {run}")
    from ..tasks.detect import detect as look

    model = machine.opened(run)
    with watching() as taken:
        found = look(model, examples, say=say, **asdict(options))
    say(f"It took {taken} in all.")
    (scores, *overlays) = found.save(out or model.folder.path / "detected")
    lines = [*found.lines(), f"Scores: {scores}"]
    if overlays:
        lines.append(f"Overlays: {overlays[0].parent}")
    values = {"scores": scores, "overlays": overlays, "seconds": taken.seconds}
    machine.result(values | found.facts, lines)
