"""A folder of small pictures with captions, the smallest that an encoder can learn from."""

from pathlib import Path

import numpy as np
from PIL import Image

from ornstein.rng import generator

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (60, 80, 240)}
PLACES = ("left", "right")


def captioned_folder(folder: Path, count: int = 60, side: int = 8) -> Path:
    """Pictures that are dark but for one half in a colour: "red left", or in other words."""
    folder.mkdir(parents=True)
    draw = generator("captioned")
    for i in range(count):
        colour, place = tuple(COLOURS)[i % 3], PLACES[i // 3 % 2]
        picture = draw.integers(0, 40, (side, side, 3))
        half = slice(0, side // 2) if place == "left" else slice(side // 2, side)
        picture[:, half] = np.array(COLOURS[colour]) + draw.integers(-15, 15, 3)
        picture = np.clip(picture, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i:03d}.png")
        said = f"{colour} {place}\na {colour} half on the {place}\n"
        (folder / f"{i:03d}.txt").write_text(said)
    return folder
