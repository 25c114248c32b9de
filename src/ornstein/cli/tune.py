"""`ornstein tune`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..tasks.options import TuneOptions, checked
from .machine import FLAT, Machine, say, watching


def tune(
    run: Path,
    /,
    options: Annotated[TuneOptions, FLAT] = TuneOptions(),
    *,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Fit a sampler of few denoiser calls to RUN; `sample RUN --steps CALLS` then uses it.

    Args:
        run: The run folder.
    """
    options = checked(TuneOptions, asdict(options))
    machine.start(f"Fitting a sampler of {options.calls} calls to {run}")
    from ..tasks.tune import tune as fit

    with watching() as taken:
        tuned = fit(run, device=machine.device, say=say, **asdict(options))
    say(f"It took {taken} in all.")
    machine.result({"seconds": taken.seconds, **asdict(tuned)}, tuned.lines())
