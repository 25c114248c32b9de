"""`ornstein doctor`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from typing import Annotated

from .machine import FLAT, Machine, pairs


def doctor(*, machine: Annotated[Machine, FLAT] = Machine()) -> None:
    """Say what this machine has: versions, devices, threads, compiler, disk."""
    machine.start("Looking at this machine")
    from ..tasks.doctor import examine

    facts = examine()
    machine.result(facts, pairs(facts))
