"""docs/pictures/text.png: two runs in a row, asked in words: small pictures, and these enlarged."""

import csv
from pathlib import Path

import numpy as np
from gallery import Gallery, Shown, main, screen, sheet
from PIL import Image
from sklearn.datasets import load_digits

import ornstein as ou
from ornstein.data import DataOptions
from ornstein.data.scenes import COLOURS

SMALL, SIDE = 8, 16
TEXTS = ("a red 7", "a green 3", "a blue 0", "a yellow 5", "a white 2")
EACH, SEED = 4, 1


def make(gallery: Gallery) -> Shown:
    source = gallery.runs / "coloured-digits"
    if not (source / "metadata.csv").is_file():
        draw(source, gallery.pick(None, 40))
    base = gallery.run("words", source, 60_000, DataOptions(size=SMALL))
    larger = DataOptions(size=SIDE, given=f"small-{SMALL}", given_noise=0.5)
    sharp = gallery.run("words-larger", source, 8_000, larger)
    asked = {"text": TEXTS, "guidance": 2.0, "seed": SEED, "steps": gallery.pick(None, 1)}
    count = EACH * len(TEXTS)
    small = ou.sample(base, count, **asked)
    large = ou.sample([base, sharp], count, given_noise=0.1, **asked)
    pairs = list(zip(screen(base, small.x), screen(sharp, large.x), strict=True))
    rows = [
        (text, [picture for pair in pairs[i :: len(TEXTS)] for picture in pair])
        for i, text in enumerate(TEXTS)
    ]
    caption = (
        f"Not picked. Beside each picture of {SMALL} x {SMALL}, drawn for the text before the row, "
        f"what a second run makes of it at {SIDE} x {SIDE}, told the same text: `ornstein sample "
        f"words words-larger --text ... --guidance 2 --given-noise 0.1 --seed {SEED}`. The first "
        f"has seen {base.seen:,} coloured digits with captions, the second {sharp.seen:,}."
    )
    alt = "Coloured digits in pairs, small and blurred, then larger and sharp; a text for each row"
    return Shown(
        sheet(rows, (f"{SMALL} x {SMALL}", f"{SIDE} x {SIDE}") * EACH, side=64), alt, caption
    )


def draw(folder: Path, limit: int | None) -> None:
    """Scanned digits, each in a colour and somewhere on a dark ground, and what they are."""
    scans, kinds = load_digits(return_X_y=True)
    chance, rows = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for i, (scan, kind) in enumerate(list(zip(scans, kinds, strict=True))[:limit]):
        name = list(COLOURS)[chance.integers(len(COLOURS))]
        wide = int(chance.integers(11, 14))
        grey = Image.fromarray(scan.reshape(8, 8).astype(np.float32) / 16)
        ink = np.clip(1.25 * np.asarray(grey.resize((wide, wide), Image.Resampling.BICUBIC)), 0, 1)
        ground = np.full((SIDE, SIDE, 3), chance.uniform(20, 60))
        top, left = chance.integers(SIDE - wide + 1, size=2)
        here = ground[top : top + wide, left : left + wide]
        here += ink[..., None] * (np.array(COLOURS[name]) - here)
        Image.fromarray(np.rint(ground).astype(np.uint8)).save(folder / f"{i:04d}.png")
        rows.append((f"{i:04d}.png", f"a {name} {kind}"))
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *rows])


if __name__ == "__main__":
    main("text", make)
