"""`ornstein evaluate`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from ..tasks.options import EvaluateOptions, checked
from .machine import FLAT, Folder, Opening, say, watching


def reconstructions(run: Path) -> tuple[dict[str, Any], list[str]]:
    """What was measured of an autoencoder, as values and as lines."""
    from ..evaluate.reconstruction import measure_reconstructions
    from ..runs.folder import RunFolder

    found = measure_reconstructions(run)
    picture = found.save(RunFolder.open(run))
    return {"picture": picture, **found.facts}, [*found.lines(), f"Side by side: {picture}"]


def retrievals(run: Path) -> tuple[dict[str, Any], list[str]]:
    """What was measured of an encoder of pictures and texts, likewise."""
    from ..evaluate.retrieval import measure_retrieval
    from ..runs.folder import RunFolder

    found = measure_retrieval(run)
    found.save(RunFolder.open(run))
    return found.facts, found.lines()


def evaluate(
    run: Path,
    /,
    options: Annotated[EvaluateOptions, FLAT] = EvaluateOptions(),
    *,
    out: Folder = None,
    machine: Annotated[Opening, FLAT] = Opening(),
) -> None:
    """Measure how good the RUN is, how diverse, and whether it copies its training data.

    Of an autoencoder, how well it brings back what its training left out; of an encoder of
    pictures and texts, how often it finds the one by the other.

    Each figure stands beside what real data reach; where examples are too few, there is none.

    Args:
        run: The run folder.
        out: Folder for report.html and metrics.json; RUN/evaluation if not given.
    """
    options = checked(EvaluateOptions, asdict(options))
    machine.start(f"Measuring {run} on {options.count:,} examples")
    from ..evaluate.evaluation import evaluate as measure
    from ..evaluate.evaluation import write
    from ..evaluate.reconstruction import is_autoencoder
    from ..evaluate.retrieval import is_encoder

    if is_autoencoder(run):
        machine.result(*reconstructions(run))
        return
    if is_encoder(run):
        machine.result(*retrievals(run))
        return
    with watching():
        found = measure(machine.opened(run), device=machine.device, say=say, **asdict(options))
    report = write(found, out)
    values = {"report": report.resolve(), **found.facts}
    machine.result(values, [*found.lines(), f"Report: {report.resolve()}"])
