"""A small picture of samples on disk now and then, to look at while training goes on."""

import io
from pathlib import Path

import torch

from ..core.sample import SAMPLERS, Ancestral, start
from ..core.times import LogSNRGrid
from ..data.codec import write_bytes
from ..rng import normal
from ..runs.model import GRIDS
from .device import autocast
from .signals import Stop
from .training import Training

COUNT = 16
STEPS = 12


class _Stopped(Exception):
    """The flag was set between two steps."""


def preview(folder: Path, training: Training, stop: Stop) -> bool:
    """Write ``samples/preview-<seen>.png``; false, and nothing, if `stop` was set meanwhile.

    Always from the same noise, one class after the other: from preview to preview, only the
    weights change.
    """
    denoiser, device = training.averages.denoisers[0], training.device
    eps = normal((COUNT, *training.data.codec.shape), training.config.seed, "preview").to(device)
    classes = len(training.data.classes)
    cond = {"label": torch.arange(COUNT, device=device) % classes} if classes else {}

    def look(*_: object) -> None:
        if stop:
            raise _Stopped

    if (given := training.data.given) is not None:
        rows = torch.arange(COUNT, device=device) % len(training.data)
        cond["context"] = given.context(rows, training.data.codec.shape[1:])
    sampler, times = Ancestral(eta=0), LogSNRGrid()(denoiser.schedule, STEPS)
    if training.lessons is not None:  # a student is good at its own steps alone
        plan = training.config.sample
        sampler, times = SAMPLERS[plan.sampler], GRIDS[plan.grid](denoiser.schedule, plan.steps)
    try:
        with autocast(device, training.precision):
            x = start(denoiser.schedule, times[0], eps)
            x = sampler(denoiser.given(**cond), x, times, on_step=look)
    except _Stopped:
        return False
    if x.isfinite().all():
        png = io.BytesIO()
        training.data.codec.preview(x).save(png, "PNG")
        write_bytes(folder / "samples" / f"preview-{training.seen}.png", png.getvalue())
    return True
