"""`ornstein tune`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ..errors import UsageError
from ..tasks.options import TuneOptions, checked
from .machine import FLAT, Opening, say, watching


def tune(
    run: Path,
    /,
    options: Annotated[TuneOptions, FLAT] = TuneOptions(),
    *,
    machine: Annotated[Opening, FLAT] = Opening(),
) -> None:
    """Fit a sampler of few denoiser calls to RUN; `sample RUN --steps CALLS` then uses it.

    Args:
        run: The run folder.
    """
    options = checked(TuneOptions, asdict(options))
    if machine.adapter:
        raise UsageError(
            "A rule belongs to the weights it was fitted to: make them a run of their own by "
            "`ornstein merge`, and tune that."
        )
    machine.start(f"Fitting a sampler of {options.calls} calls to {run}")
    from ..tasks.tune import tune as fit

    with watching() as taken:
        tuned = fit(machine.opened(run), say=say, **asdict(options))
    say(f"It took {taken} in all.")
    machine.result({"seconds": taken.seconds, **asdict(tuned)}, tuned.lines())
