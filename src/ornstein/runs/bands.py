"""How far the bands of restorations are to be widened: measured once, kept in the run."""

import torch

from ..core.conformal import Widening
from ..errors import ModelFileError
from .folder import RunFolder


def keep_widening(run: RunFolder, seen: int, key: str, found: Widening) -> None:
    """Keep what was measured of the weights at `seen`, for the measurement that `key` names.

    Raises:
        StorageError: If the disk refuses.
    """
    tensors = {"factor": torch.tensor(found.factor, dtype=torch.float64)}
    run.keep(
        _name(key),
        {**tensors, "examples": torch.tensor(found.examples), "seen": torch.tensor(seen)},
    )


def kept_widening(run: RunFolder, seen: int, key: str) -> Widening | None:
    """What was kept for the measurement, of the weights at `seen`; None if there is none.

    Raises:
        StorageError: If it is not whole.
        ModelFileError: If it is none.
    """
    if _name(key) not in run.kept_names():
        return None
    kept = run.kept(_name(key))
    try:
        found = Widening(float(kept["factor"]), int(kept["examples"]))
        return found if int(kept["seen"]) == seen else None
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ModelFileError(
            f"The calibration {_name(key)} kept in {run.path} is none ({error}); measure it again "
            "with `ornstein restore --calibrate`."
        ) from None


def _name(key: str) -> str:
    return f"bands-{key}"
