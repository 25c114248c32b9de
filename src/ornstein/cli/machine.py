"""What every command shares: how to compute, how to speak, what to print."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..errors import UsageError

FLAT = Parameter(name="*")
Flag = Annotated[bool, Parameter(show_default=False)]


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
            if self.threads < 1:
                raise UsageError(f"--threads {self.threads} must be at least 1.")
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


def say(line: str) -> None:
    """A line for the person who waits."""
    print(line, file=sys.stderr, flush=True)


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
