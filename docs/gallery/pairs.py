"""docs/pictures/pairs.png: pictures of cells, their masks, and how sure the run is of them."""

import torch
from gallery import Gallery, Shown, grey, main, sheet

import ornstein as ou
from ornstein.data import DataOptions, open_data

COUNT, FRESH = 5, 7  # a seed that the training did not have
ASKED = DataOptions(given="image", make="mask")


def make(gallery: Gallery) -> Shown:
    model = gallery.run("masks", "cells", 12_000, ASKED)
    fresh = open_data("cells", DataOptions(given="image", make="mask", seed=FRESH, limit=COUNT))
    assert fresh.given is not None
    found = ou.segment(model, fresh.given.stored, gallery.pick(16, 1), steps=gallery.pick(None, 1))
    dice = found.overlap(fresh.stored.numpy())
    columns = {
        "picture": fresh.given.stored[:, 0] / 255,
        "true mask": fresh.stored[:, 0] / 255,
        "one draw": one_draw(model, fresh.given.stored, gallery),
        "the vote": torch.from_numpy(found.masks)[:, 0] / 255,
        "the mean": found.mean[:, 0],
        "the doubt": 2 * found.doubt[:, 0],
    }
    pictures = [grey(maps.float()) for maps in columns.values()]
    rows = [(f"Dice {d:.3f}", [c[i] for c in pictures]) for i, d in enumerate(dice)]
    assert found.cost is not None
    caption = (
        "Drawn cells that the run never saw, and what it says of them: one mask, the vote of 16, "
        f"their mean, and where they disagree. The run has seen {model.seen:,} pairs, four minutes "
        f"of one processor core; seed 0. {found.cost.calls:.0f} denoiser calls for each picture."
    )
    alt = "Rows of cells: a picture, its true mask, masks that were drawn, and their doubt"
    return Shown(sheet(rows, tuple(columns), side=96), alt, caption)


def one_draw(model, pictures: torch.Tensor, gallery: Gallery) -> torch.Tensor:
    """The first mask drawn for each, ``(P, H, W)``, 0 and 1."""
    found = ou.segment(model, pictures, 1, steps=gallery.pick(None, 1))
    return torch.from_numpy(found.masks)[:, 0] / 255


if __name__ == "__main__":
    main("pairs", make)
