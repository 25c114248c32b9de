"""docs/pictures/restoring.png: held-out digits, measured in four ways, and restored.

    ornstein train digits --seen 24000 --out digits
    python docs/pictures/restoring.py digits

One row for each measurement. From left to right: the truth, what is known of it, three
restorations, the mean of eight, and by how much they differ (dark is none).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import ornstein as ou
from ornstein.data import open_data

WAYS = {
    "lower half masked": {},
    "4 x fewer pixels": {"upscale": 2},
    "blurred, noise 1": {"deblur": "1", "noise": 1.0},
    "CT, 6 angles": {"ct": 6},
}
SCALE, GAP, MARGIN = 10, 6, 130


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the picture of docs/restoring.md.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/restoring.png"))
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--steps", type=int, default=32)
    arguments = parser.parse_args()
    model = ou.load(arguments.run)
    config = model.config
    held_out = open_data(config.source, config.data).split(
        config.data.validation, config.data.seed
    )[1]
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 4:] = True
    rows = []
    for i, options in enumerate(WAYS.values()):
        truth = held_out.stored[5 * i + 3][None]
        restored = ou.restore(
            model,
            truth,
            mask if not options else None,
            arguments.draws,
            steps=arguments.steps,
            simulate=bool(options),
            **options,
        )
        known = torch.where(restored.keep, restored.given, 0.0) if not options else restored.given
        shown = torch.cat([model.codec.pack(truth), known, restored.drawn[0, :3], restored.mean])
        pictures = [*model.codec.screen(shown)]
        doubt = (restored.sd[0, 0] / 1.0).clamp(0, 1).numpy()
        pictures.append(np.repeat((255 * doubt).astype(np.uint8)[..., None], 3, 2))
        rows.append(pictures)
    draw(rows, list(WAYS)).save(arguments.out)


def draw(rows: list[list[np.ndarray]], names: list[str]) -> Image.Image:
    """A sheet with a name before each row."""
    side = 8 * SCALE + GAP
    sheet = Image.new("RGB", (MARGIN + side * len(rows[0]), GAP + side * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (pictures, name) in enumerate(zip(rows, names, strict=True)):
        pen.text((8, GAP + i * side + 4 * SCALE - 6), name, fill="black")
        for j, picture in enumerate(pictures):
            large = Image.fromarray(picture).resize(
                (8 * SCALE, 8 * SCALE), Image.Resampling.NEAREST
            )
            sheet.paste(large, (MARGIN + j * side, GAP + i * side))
    return sheet


if __name__ == "__main__":
    main()
