"""`ornstein evaluate`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..tasks.options import EvaluateOptions, checked
from .machine import FLAT, Opening, say, watching


def evaluate(
    run: Path,
    /,
    options: Annotated[EvaluateOptions, FLAT] = EvaluateOptions(),
    *,
    out: Path | None = None,
    machine: Annotated[Opening, FLAT] = Opening(),
) -> None:
    """Measure how good the RUN is, how diverse, and whether it copies its training data.

    Each figure stands beside what real data reach; where examples are too few, there is none.

    Args:
        run: The run folder.
        out: Folder for report.html and metrics.json; RUN/evaluation if not given.
    """
    options = checked(EvaluateOptions, asdict(options))
    machine.start(f"Measuring {run} on {options.count:,} examples")
    from ..evaluate.evaluation import evaluate as measure
    from ..evaluate.evaluation import write

    with watching():
        found = measure(machine.opened(run), device=machine.device, say=say, **asdict(options))
    report = write(found, out)
    values = {"report": report.resolve(), **found.facts}
    machine.result(values, [*found.lines(), f"Report: {report.resolve()}"])
