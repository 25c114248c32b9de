"""`ornstein show`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..data.options import DataOptions
from .machine import FLAT, Machine, cell, pairs, watching

COLUMNS = ("run", "data", "seen", "budget", "loss", "held_out_loss", "megabytes", "problem")


def show(
    what: Path,
    /,
    *,
    options: Annotated[DataOptions, Parameter(name="data")] = DataOptions(),
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Look at DATA before training, at a RUN, or at a folder of runs.

    Args:
        what: A dataset, a run folder, or a folder that holds run folders.
    """
    if (what / "run.json").is_file():
        machine.start(f"Opening the run {what}")
        from ..runs.facts import describe

        facts = describe(what)
        machine.result(facts, pairs(facts))
        return
    if what.is_dir() and any(what.glob("*/run.json")):
        machine.start(f"Opening the runs in {what}")
        from ..runs.facts import list_runs

        runs = list_runs(what)
        machine.result({"runs": runs}, [] if machine.json else _table(runs))
        return
    machine.start(f"Reading {what}")
    from ..data import open_data, profile_data

    options = replace(options, on_bad="skip")  # what cannot be read is part of the picture
    with watching():
        profile = profile_data(open_data(str(what), options))
    machine.result(asdict(profile), profile.lines())


def _table(rows: Sequence[dict[str, Any]]) -> list[object]:
    """A table for a person if this is a terminal, else plain columns for a program."""
    names = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    if not sys.stdout.isatty():
        return ["\t".join(names), *("\t".join(cell(row[n]) for n in names) for row in rows)]
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rich = Table(*names, box=None, pad_edge=False)
    for row in rows:
        rich.add_row(*(Text(cell(row[n])) for n in names))
    Console().print(rich)
    return []
