"""A small picture of samples on disk now and then, to look at while training goes on."""

import io
from pathlib import Path

from ..data.codec import write_bytes
from .device import autocast
from .signals import Stop
from .training import Training

COUNT = 16


class _Stopped(Exception):
    """The flag was set between two steps."""


def preview(folder: Path, training: Training, stop: Stop) -> bool:
    """Write ``samples/preview-<seen>.png``; false, and nothing, if `stop` was set meanwhile.

    Always from the same noise, one class after the other, and told no captions: from preview to
    preview, only the weights change.
    """
    average = training.averages.learners[0]

    def look(*_: object) -> None:
        if stop:
            raise _Stopped

    try:
        with autocast(training.device, training.precision):
            x = training.aim.shown(average, training.data, COUNT, look)
    except _Stopped:
        return False
    if x.isfinite().all():
        png = io.BytesIO()
        training.data.codec.preview(x.float()).save(png, "PNG")
        write_bytes(folder / "samples" / f"preview-{training.seen}.png", png.getvalue())
    return True
