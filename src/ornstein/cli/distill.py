"""`ornstein distill`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..tasks.options import DistillOptions, checked
from .machine import FLAT, Folder, Machine, say, training


def distill(
    run: Path,
    /,
    options: Annotated[DistillOptions, FLAT] = DistillOptions(),
    *,
    out: Folder = None,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Teach students to do in few steps what RUN does in many; keep those that are worth it.

    Args:
        run: The run folder.
        out: Folder for the students, each a run of its own; RUN/students if not given.
    """
    options = checked(DistillOptions, asdict(options))
    named = ", ".join(map(str, options.steps))
    machine.start(f"Teaching students of {named} steps, with {run} as their teacher")
    from ..evaluate.distillation import distill as teach

    said = list[str]()

    def tell(line: str) -> None:
        said.append(line)
        say(line)

    with training() as report:
        grades = teach(
            run, out=out, device=machine.device, report=report, say=tell, **asdict(options)
        )
    kept = [grade.folder.path for grade in grades if grade.folder]
    seen = said if sys.stdout.isatty() and sys.stderr.isatty() else []  # by one person, as it came
    lines = [grade.line for grade in grades if grade.line not in seen]
    lines += [f"Sample it: ornstein sample {path}" for path in kept[-1:]]
    machine.result({"grades": [g.facts for g in grades], "runs": kept}, lines)
