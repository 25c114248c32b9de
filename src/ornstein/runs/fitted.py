"""The rules fitted to a run, kept in its folder: sealed and hashed like its weights."""

import re

import torch

from ..core.fit import FittedRule
from ..errors import ModelFileError
from .folder import RunFolder


def keep_rule(run: RunFolder, seen: int, rule: FittedRule) -> None:
    """Keep `rule`, fitted to the weights at `seen`, in the place of one of as many steps.

    Raises:
        StorageError: If the disk refuses.
    """
    reach = max(map(len, rule.weights))
    weights = torch.zeros(rule.steps, reach, dtype=torch.float64)
    for row, values in zip(weights, rule.weights, strict=True):
        row[reach - len(values) :] = torch.tensor(values, dtype=torch.float64)
    times = torch.tensor(rule.times, dtype=torch.float64)
    run.keep(_name(rule.steps), {"times": times, "weights": weights, "seen": torch.tensor(seen)})
    run.write_card()


def kept_rule(run: RunFolder, seen: int, steps: int) -> FittedRule | None:
    """The rule of so many `steps` fitted to the weights at `seen`; None if there is none.

    Raises:
        StorageError: If it is not whole.
        ModelFileError: If it is no rule.
    """
    if _name(steps) not in run.kept_names():
        return None
    kept = run.kept(_name(steps))
    try:
        if int(kept["seen"]) != seen:
            return None
        times = tuple(kept["times"].tolist())
        rows = enumerate(kept["weights"].tolist(), 1)
        rule = FittedRule(times=times, weights=tuple(tuple(row[-i:]) for i, row in rows))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ModelFileError(
            f"The rule of {steps} steps kept in {run.path} is none ({error}); fit it again with "
            f"`ornstein tune --calls {steps}`."
        ) from None
    return rule


def kept_steps(run: RunFolder) -> list[int]:
    """The numbers of steps for which a rule was kept, whatever the weights were then."""
    found = (re.fullmatch(r"rule-(\d{1,6})", name) for name in run.kept_names())
    return sorted(int(match[1]) for match in found if match)


def _name(steps: int) -> str:
    return f"rule-{steps}"
