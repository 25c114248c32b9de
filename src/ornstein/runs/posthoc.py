"""The average of a run's weights at any width, after training."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.ema import Profile, coefficients, exponent, misfit
from ..errors import UsageError
from .config import RunConfig
from .folder import RunFolder

FARTHEST = 0.25  # misfit of a profile that still is worth its name


def posthoc(
    run: RunFolder | str | Path, sigma_rel: float, seen: int | None = None
) -> dict[str, Tensor]:
    """The weights averaged with the relative width `sigma_rel`, as a state of the denoiser.

    Rebuilt from the averages that training kept: within a hundredth of what tracking them would
    have given for widths between those tracked, less closely beyond.

    Args:
        run: The run.
        sigma_rel: The width, in (0, 0.2887).
        seen: When; one of the positions at which averages were kept, the last by default.

    Raises:
        UsageError: If nothing was kept then, or the width is too far from those tracked.
        StorageError: If a kept average is damaged.

    Source: Karras et al. (2023), https://arxiv.org/abs/2312.02696, section 3.2.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    widths = RunConfig.from_toml(folder.config_toml).train.ema
    kept = kept_averages(folder)
    if not kept:
        raise UsageError(f"{folder.path} has kept no averages yet: train on.")
    places = sorted({place for _, _, place in kept})
    seen = places[-1] if seen is None else seen
    if seen not in places:
        known = ", ".join(map(str, places))
        raise UsageError(f"No averages were kept at {seen}; choose one of: {known}.")
    try:
        exponent(sigma_rel)
    except ValueError as error:
        raise UsageError(f"{error}.") from None
    stored = [Profile(width, place) for _, width, place in kept]
    c = coefficients(stored, target := Profile(sigma_rel, seen))
    if misfit(stored, target, c) > FARTHEST:
        raise UsageError(
            f"A width of {sigma_rel:g} at {seen} cannot be rebuilt from what was kept: choose one "
            f"nearer to {' or '.join(map(str, widths))}, or the last position, {places[-1]}."
        )
    return combine(folder, {name: w for (name, _, _), w in zip(kept, c, strict=True)})


def kept_averages(folder: RunFolder) -> list[tuple[str, float, int]]:
    """Name, relative width and place in the training of each average that was kept."""
    widths = RunConfig.from_toml(folder.config_toml).train.ema
    matches = [re.fullmatch(r"ema-(\d+)-(\d+)", name) for name in folder.kept_names()]
    return [(m[0], widths[int(m[1])], int(m[2])) for m in matches if m and int(m[1]) < len(widths)]


def combine(folder: RunFolder, weights: dict[str, np.floating]) -> dict[str, Tensor]:
    """``sum_i weights_i kept_i``, added in float64, one file in memory at a time."""
    total: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for name, weight in weights.items():
        if weight == 0:
            continue
        for key, value in folder.kept(name).items():
            dtypes[key] = value.dtype
            total[key] = total.get(key, 0) + float(weight) * value.double()
    return {key: value.to(dtypes[key]) for key, value in total.items()}
