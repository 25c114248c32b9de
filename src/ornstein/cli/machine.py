"""What every command shares: how to compute, how to speak, what to print."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ..errors import UsageError

if TYPE_CHECKING:
    from ..progress import Watch
    from ..runs.model import Model
    from ..train.progress import Report


FLAT = Parameter(name="*")
Flag = Annotated[bool, Parameter(show_default=False)]
SILENCE = 10.0  # seconds between two lines about how far it is
MOST_THREADS = 1024  # more than any machine has cores; many more, and torch crashes


# --- Places to write to, refused before anything is computed -------------------------------------


def _refuse_file(_: object, path: Path | None) -> None:
    if path is not None and path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file: name a folder.")


def _refuse_no_picture(_: object, path: Path | None) -> None:
    from ..tasks.picture import format_of

    if path is not None:
        format_of(path)


Folder = Annotated[Path | None, Parameter(validator=_refuse_file)]
PictureFile = Annotated[Path | None, Parameter(validator=_refuse_no_picture)]


# --- How to compute and how to speak --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How to compute and how to speak.

    Args:
        device: Where to compute: cpu, cuda, cuda:1; auto takes a GPU if there is one.
        threads: Of the processor; fewer are often faster when other programs are busy.
        json: Print the result as one JSON object, for programs.
        debug: Show where an error comes from.
    """

    device: str = "auto"
    threads: int | None = None
    json: Flag = False
    debug: Flag = False

    def start(self, line: str) -> None:
        """Say what is about to happen, then wait for torch."""
        if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun, one speaks
            say(line)
        if self.threads is not None:
            if not 1 <= self.threads <= MOST_THREADS:
                raise UsageError(
                    f"--threads {self.threads} must be from 1 to {MOST_THREADS}: one for each core "
                    "is most often the quickest."
                )
            os.environ["OMP_NUM_THREADS"] = str(self.threads)
            import torch

            torch.set_num_threads(self.threads)

    def result(self, values: dict[str, Any], lines: Sequence[object]) -> None:
        """Print `values` as JSON if that was asked for, else the lines."""
        if self.json:
            import json

            print(json.dumps(values, default=str))
        else:
            for line in lines:
                print(line)


@dataclass(frozen=True, kw_only=True)
class Adapted(Machine):
    """How to open a run for what is written of it, to compute and to speak.

    Args:
        adapter: An adapter to put on the run, with its strength if that is not 1, as in
            style:0.5, or the file of a word for a pipeline; several are put on one after the other.
    """

    adapter: tuple[str, ...] = ()

    def opened(self, run: Path) -> "Model":
        """The model at a place, with the adapters on; see `tasks.sample.opened`."""
        from ..tasks.sample import opened

        return opened(run, self.device, self.adapter)


@dataclass(frozen=True, kw_only=True)
class Opening(Machine):
    """How to open a run that is to draw, to compute and to speak.

    Args:
        adapter: An adapter to put on the run, with its strength if that is not 1, as in
            style:0.5, or the file of a word for a pipeline; several are put on one after the other.
        precision: Of products in the network; auto is bf16 where the hardware has it: quicker,
            and not quite the same results.
        compile: Compile the network, on a GPU: a minute once, for many examples.
    """

    adapter: tuple[str, ...] = ()
    precision: Literal["auto", "f32", "bf16"] = "f32"
    compile: Flag = False

    def opened(self, run: Path) -> "Model":
        """The model at a place, with the adapters on, as quick as it shall be."""
        return self._opened(run, self.adapter)

    def beside(self, run: Path) -> "Model":
        """Another one that it works with, which wears no adapters."""
        return self._opened(run, ())

    def _opened(self, run: Path, adapters: tuple[str, ...]) -> "Model":
        from ..runs.quick import quick
        from ..tasks.sample import opened

        return quick(opened(run, self.device, adapters), self.precision, self.compile)


def say(line: str) -> None:
    """A line for the person who waits."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def training() -> "Iterator[Report]":
    """For what trains: gives a report to standard error; memory that is freed is kept meanwhile.

    How far the data are read is a line now and then.
    """
    from ..progress import watched
    from ..train import shown
    from ..train.memory import memory_kept

    with redirect_stdout(sys.stderr), memory_kept(), watched(_Lines()), shown() as report:
        yield report


@contextmanager
def watching() -> "Iterator[Taken]":
    """Show how far the task inside is: a bar in a terminal, else a line now and then.

    Gives a watch, which stops when the task is done. Memory that is freed is kept meanwhile.
    """
    from ..progress import watched
    from ..train.memory import memory_kept

    taken, bar = Taken(), _bar() if sys.stderr.isatty() else nullcontext(_Lines())
    with memory_kept(), bar as watch, watched(watch):
        yield taken
    taken.stop()


class Taken:
    """How long a task has taken."""

    def __init__(self) -> None:
        self._begun, self.seconds = time.monotonic(), 0.0

    def stop(self) -> None:
        """It is done."""
        self.seconds = time.monotonic() - self._begun

    def __str__(self) -> str:
        from ..train.progress import duration

        return duration(self.seconds) if self.seconds >= 10 else f"{self.seconds:.1f} s"


@contextmanager
def _bar() -> "Iterator[Watch]":
    """A bar that is gone when the task is done; lines that are said meanwhile stand above it."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task, last = progress.add_task("", total=1.0), 0.0

        def watch(share: float) -> None:
            nonlocal last
            if share < last:
                progress.reset(task)
            progress.update(task, completed=share)
            last = share

        yield watch


class _Lines:
    """How far it is, as a line every `SILENCE` seconds.

    The pace is that since the first report of a stage: what comes before is spent on getting ready.
    """

    def __init__(self) -> None:
        self.said = time.monotonic()
        self.begun, self.first, self.last = self.said, 0.0, float("inf")

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if share < self.last:  # the first stage, or another one
            self.begun, self.first = now, share
        self.last = share
        if now - self.said >= SILENCE and self.first < share < 1:
            from ..train.progress import duration

            left = (now - self.begun) * (1 - share) / (share - self.first)
            self.said = now
            say(f"{share:4.0%}  {duration(left)} left")


def named(places: Sequence[object]) -> str:
    """The first three of what a user named, and how many more there are."""
    more = f" and {len(places) - 3:,} more" if len(places) > 3 else ""
    return ", ".join(str(place) for place in places[:3]) + more


def summary(paths: Sequence[Path]) -> list[object]:
    """Each path if there are few, else the first and the last."""
    if len(paths) <= 20:
        return list(paths)
    return [paths[0], f"... {len(paths) - 2:,} more", paths[-1]]


def pairs(facts: dict[str, Any]) -> list[str]:
    """Names and values in two columns."""
    width = max(map(len, facts), default=0)
    return [f"{k:<{width}}  {cell(v)}" for k, v in facts.items() if v is not None]


def cell(value: object) -> str:
    """Four digits of a float are enough to look at."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
