"""docs/pictures/editing.png: variations, a mask, another class, another kind of data, between."""

import numpy as np
import torch
from gallery import Gallery, Shown, main, screen, sheet
from scipy.ndimage import grey_dilation

import ornstein as ou
from ornstein.data import open_data
from ornstein.runs.model import Model
from ornstein.tasks.edit import Edited
from ornstein.tasks.examples import training_data

COLUMNS = 8


def make(gallery: Gallery) -> Shown:
    model = gallery.digits()
    held_out = training_data(model)[1]
    assert held_out.label is not None
    of = {c: held_out.stored[held_out.label == c] for c in range(10)}
    three, seven = of[3][1:2], of[7][1:2]
    steps, draws = gallery.pick(32, 2), COLUMNS - 1
    rows = []
    for strength in (0.3, 0.5, 0.7):
        edited = ou.edit(model, three, strength, draws=draws, steps=steps)
        rows.append((f"variations, {strength}", in_a_row(model, edited)))

    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[..., 4:] = True
    edited = ou.edit(model, three, 0.9, mask=mask, draws=draws, steps=steps)
    rows.append(("right half may change", in_a_row(model, edited)))

    encode = {"how": "encode", "steps": gallery.pick(64, 2)}
    others = [
        ou.edit(model, three, 1.0, source="3", label=label, **encode).samples.x
        for label in ("0", "2", "5", "6", "7", "8", "9")
    ]
    x = torch.cat([model.codec.pack(three), *others])
    rows.append(("same hand, other digits", screen(model, x)))

    bold = gallery.run("bold", thick(), 20_000)
    bridged = ou.edit(model, torch.cat([of[c][2:3] for c in (0, 2, 5, 6)]), 1.0, to=bold, **encode)
    both = zip(screen(model, bridged.given), screen(bold, bridged.samples.x), strict=True)
    rows.append(("thin pen, broad pen", [picture for pair in both for picture in pair]))

    way = ou.between(model, three, seven, COLUMNS, steps=gallery.pick(64, 2))
    rows.append(("from a 3 to a 7", screen(model, way.x)))
    caption = (
        f"Held-out digits, by a run that has seen {model.seen:,} others; seed 0. First in each row "
        "is what was given; then what became of it. The more of the way to noise it is taken, the "
        "less of it is left. Same hand: encoded as a 3, decoded as 0, 2, 5, 6, 7, 8, 9. Thin pen, "
        f"broad pen: encoded by this run, decoded by one that has seen {bold.seen:,} digits of a "
        "broad pen and no pairs, each digit before what it becomes: the shape is kept, though in "
        "64 pixels the loops close. Last, from one digit to another by way of their noises."
    )
    return Shown(sheet(rows), "Rows of digits: given, and edited in seven ways", caption)


def in_a_row(model: Model, edited: Edited) -> list[np.ndarray]:
    """What was given, and what became of it."""
    return screen(model, torch.cat([edited.given, edited.samples.x]))


def thick() -> tuple[np.ndarray, np.ndarray]:
    """The digits as a broad pen would write them, in 0 to 240, and which they are."""
    data = open_data("digits")
    assert data.label is not None
    return 15 * grey_dilation(data.stored[:, 0].numpy(), (1, 2, 2)), data.label.numpy()


if __name__ == "__main__":
    main("editing", make)
