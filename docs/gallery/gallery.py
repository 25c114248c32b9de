"""What the gallery's scripts share: runs, sheets of pictures, and their place in a page of docs.

Each script makes the picture of one page from runs of built-in data, trained by examples seen so
that they are the same everywhere, and writes what is to be seen in it below the picture.

    python docs/gallery/editing.py [--runs FOLDER] [--docs FOLDER] [--tiny]
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import ornstein as ou
from ornstein.data import DataOptions, ImageCodec, open_data
from ornstein.data.open import Source
from ornstein.runs.model import Model
from ornstein.train import recipe

FIRST, LAST = "<!-- gallery -->", "<!-- end of gallery -->"
GAP = 6  # pixels between pictures
INK = "#333333"
SIZE = 13  # of letters

Value = TypeVar("Value")


@dataclass(frozen=True)
class Shown:
    """A picture, what it shows for those who do not see it, and what to see in it."""

    picture: Image.Image
    alt: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Where runs are kept and pages lie.

    Args:
        runs: A folder; a run that is there is not trained again.
        docs: With the pages, and ``pictures/`` in it.
        tiny: Whether only to see that everything works.
    """

    runs: Path
    docs: Path
    tiny: bool = False

    def pick(self, real: Value, tiny: Value) -> Value:
        """The real value, or one that takes next to no time."""
        return tiny if self.tiny else real

    def run(
        self, name: str, source: Source, seen: int, options: DataOptions | None = None
    ) -> Model:
        """A run that has seen so many examples of `source`."""
        place, seen = self.runs / name, self.pick(seen, 64)
        if (place / "run.json").is_file():
            if ou.load(place).seen < seen:  # it was stopped
                ou.train(source, out=place, resume=True, device="cpu")
        else:
            config = recipe(open_data(source, options))
            if self.tiny:
                config = replace(config, net=replace(config.net, size=8))
            ou.train(source, out=place, config=config, seen=seen, device="cpu")
        torch.set_num_threads(1)
        return ou.load(place, device="cpu")

    def digits(self) -> Model:
        """A run of scanned digits: less than a minute of one processor core."""
        return self.run("digits", "digits", 60_000)


def main(
    page: str, make: Callable[[Gallery], Shown], arguments: Sequence[str] | None = None
) -> None:
    """Write ``pictures/PAGE.png``, and its place in ``PAGE.md``."""
    parser = argparse.ArgumentParser(description=f"Make the picture of docs/{page}.md.")
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"))
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--tiny", action="store_true", help="Only see that it works.")
    chosen = parser.parse_args(arguments)
    shown = make(Gallery(chosen.runs, chosen.docs, chosen.tiny))
    path = chosen.docs / "pictures" / f"{page}.png"
    path.parent.mkdir(exist_ok=True)
    shown.picture.save(path, optimize=True)
    made = f"Made by [gallery/{page}.py](gallery/{page}.py)."
    block = f"![{shown.alt}](pictures/{page}.png)\n\n*{shown.caption} {made}*"
    text = (chosen.docs / f"{page}.md").read_text()
    head, rest = text.split(FIRST)
    _, tail = rest.split(LAST)
    (chosen.docs / f"{page}.md").write_text(f"{head}{FIRST}\n\n{block}\n\n{LAST}{tail}")


# --- Pictures ------------------------------------------------------------------------------------


def screen(model: Model, x: Tensor) -> list[np.ndarray]:
    """Pictures of x ``(B, C, H, W)`` as a screen shows them."""
    assert isinstance(model.codec.data, ImageCodec)
    return list(model.codec.data.screen(x))


def grey(values: Tensor) -> list[np.ndarray]:
    """Maps ``(B, H, W)`` of values in [0, 1], black to white."""
    levels = (255 * values.clamp(0, 1)).round().byte().numpy()
    return [np.repeat(level[..., None], 3, 2) for level in levels]


def sheet(
    rows: Sequence[tuple[str, Sequence[np.ndarray | None]]],
    heads: Sequence[str] = (),
    notes: Sequence[Sequence[str]] = (),
    side: int = 80,
) -> Image.Image:
    """Rows of pictures, each with a name before it; `heads` above the columns, `notes` below each.

    Args:
        rows: A name, and pictures of any size; None leaves a gap.
        heads: One for each column, or none.
        notes: One for each picture, row by row, or none.
        side: Of each picture on the sheet, in pixels; a whole multiple of its own if it is smaller.
    """
    font = ImageFont.load_default(SIZE)
    margin = 3 * GAP + round(max(font.getlength(name) for name, _ in rows))
    top = GAP + (SIZE + GAP if heads else 0)
    below = SIZE + GAP if notes else 0
    columns = max(len(pictures) for _, pictures in rows)
    size = (margin + columns * (side + GAP), top + len(rows) * (side + below + GAP))
    out = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(out)
    for j, head in enumerate(heads):
        pen.text((margin + j * (side + GAP) + side / 2, GAP), head, INK, font, anchor="ma")
    for i, (name, pictures) in enumerate(rows):
        y = top + i * (side + below + GAP)
        pen.text((GAP, y + side / 2), name, INK, font, anchor="lm")
        for j, picture in enumerate(pictures):
            if picture is None:
                continue
            x = margin + j * (side + GAP)
            large = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            out.paste(large, (x, y))
            if notes:
                pen.text((x + side / 2, y + side + 2), notes[i][j], INK, font, anchor="ma")
    return out
