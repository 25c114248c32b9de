"""Sheets of pictures, as pages show them, and moving ones."""

from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

from ...data.codec import Codec
from ...data.image import ImageCodec

GAP = 8  # pixels between pictures
HOLE = (196, 120, 72)  # the colour of what is missing


def sheet(
    codec: Codec, x: Tensor, columns: int | None = None, missing: Tensor | None = None
) -> Image.Image:
    """Pictures in rows, with clear glass between them, larger than any page will show them.

    Args:
        codec: Of pictures.
        x: ``(B, C, H, W)``.
        columns: Of the sheet; all in one row by default.
        missing: True where to put `HOLE` in place of the picture ``(B, 1, H, W)``.
    """
    assert isinstance(codec, ImageCodec)
    screen = codec.screen(x)
    if missing is not None:
        screen = np.where(missing.movedim(1, 3).numpy(), np.array(HOLE, np.uint8), screen)
    scale = max(1, 96 // max(screen.shape[1:3]))
    screen = screen.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, _ = screen.shape
    in_a_row = columns or count
    across, down = width + GAP, height + GAP
    out = Image.new("RGBA", (in_a_row * across - GAP, -(-count // in_a_row) * down - GAP))
    for i, picture in enumerate(screen):
        out.paste(Image.fromarray(picture), (i % in_a_row * across, i // in_a_row * down))
    return out


def animated(pictures: list["Image.Image"], milliseconds: int = 70) -> bytes:
    """A lossless animated WebP that rests on its last picture for two seconds, and repeats."""
    out = BytesIO()
    times = [milliseconds] * (len(pictures) - 1) + [2000]
    first, *rest = pictures
    first.save(
        out, "WEBP", save_all=True, append_images=rest, duration=times, loop=0, lossless=True
    )
    return out.getvalue()
