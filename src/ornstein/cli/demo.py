"""`ornstein demo`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from pathlib import Path
from typing import Annotated

from .machine import FLAT, Machine, pairs, say, training


def demo(
    *,
    minutes: float = 1.5,
    out: Path = Path("demo"),
    seed: int = 0,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Train on real scanned digits, sample, mend pictures, and write one report to look at.

    Args:
        minutes: How long to train.
        out: Folder for the run and the report.
        seed: Same seed, same digits.
    """
    machine.start(f"Training on 1,797 scanned digits for {minutes:g} minutes, into {out}")
    import torch

    from ..evaluate.demo import run_demo
    from ..tasks.doctor import quickest_threads

    if machine.threads is None:
        torch.set_num_threads(quickest_threads())
    with training() as report:
        done, path = run_demo(
            out, minutes=minutes, seed=seed, device=machine.device, say=say, report=report
        )
    facts = {"report": path.resolve(), "run": done.run.path.resolve(), **done.facts}
    machine.result(facts, [*pairs(done.facts), f"Report: {path.resolve()}"])
