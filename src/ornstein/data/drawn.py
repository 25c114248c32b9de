"""Pictures drawn from a seed, with the truth about them."""

import numpy as np
import torch

from ..errors import DataError
from ..rng import generator
from .dataset import Dataset
from .given import PLAIN, Given
from .names import shown
from .options import DataOptions
from .pictures import describe, make_codec

CELLS = 2_048
MASK = "mask"


def cells(options: DataOptions) -> Dataset:
    """Cells as under a microscope, grey, 32 x 32 or `size`, and the mask of where they are.

    Two to six ellipses, brighter than their uneven background, with soft edges, specks that are
    no cells, and the noise of counting photons. ``given = image, make = mask`` asks for the mask
    of a picture, ``given = mask`` for a picture of a mask; the pictures alone are the default.

    Raises:
        DataError: If what is given or made is neither.
    """
    size, count = options.size or 32, options.limit or CELLS
    draw = generator("cells", options.seed)
    drawn = [draw_cells(draw, size) for _ in range(count)]
    pictures, masks = (
        torch.from_numpy(np.stack(kind)[:, None]) for kind in zip(*drawn, strict=True)
    )
    of_pictures, of_masks = (make_codec(s, "uint8", "png", "HWC") for s in (pictures, masks))
    stored, codec, given = pictures, of_pictures, None
    made = options.make or PLAIN[0]
    if options.given in PLAIN and made == MASK:
        stored, codec, given = masks, of_masks, Given(codec=of_pictures, stored=pictures)
    elif options.given == MASK and made in PLAIN:
        given = Given(codec=of_masks, stored=masks)
    elif options.make is not None:
        raise DataError(
            f"cells has no pairs of {shown(str(options.given))} and {shown(made)}: say "
            "given = image, make = mask, or given = mask."
        )
    ids = [f"cells-{i:05d}" for i in range(count)]
    return describe(
        Dataset(codec=codec, stored=stored, ids=ids, given=given, source="cells", options=options)
    )


def draw_cells(draw: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its mask of 0 and 255, both ``(size, size)`` in 8 bits."""
    y, x = np.mgrid[:size, :size] / size + 0.5 / size
    slope = draw.uniform(-0.25, 0.25, 2)
    light = 0.3 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    mask = np.zeros((size, size), bool)
    for _ in range(draw.integers(2, 7)):
        cx, cy = draw.uniform(0.05, 0.95, 2)
        radius, squeeze, angle = draw.uniform(0.07, 0.17), draw.uniform(0.6, 1), draw.uniform(0, 3)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        depth = 1 - np.hypot(u, v / squeeze) / radius  # 1 in the middle, 0 at the rim
        inside = 1 / (1 + np.exp(-depth * radius * size / 0.6))
        light = light + draw.uniform(0.12, 0.35) * inside * (0.8 + 0.2 * np.clip(depth, 0, 1))
        mask |= depth > 0
    for _ in range(draw.integers(0, 4)):
        cx, cy = draw.uniform(0, 1, 2)
        light = light + draw.uniform(0.2, 0.5) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) * size**2)
    photons = draw.poisson(np.clip(light, 0.02, None) * 120) / 120
    picture = np.clip(255 * photons, 0, 255).astype(np.uint8)
    return picture, np.where(mask, 255, 0).astype(np.uint8)
