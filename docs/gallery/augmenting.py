"""docs/pictures/augmenting.png: drawn digits, each above the training example nearest to it."""

import numpy as np
import torch
from gallery import Gallery, Shown, main, screen, sheet

import ornstein as ou

CLASSES, EACH = ("2", "5", "8"), 8


def make(gallery: Gallery) -> Shown:
    model = gallery.digits()
    classes = CLASSES[: gallery.pick(3, 1)]
    made = ou.augment(
        model, EACH, label=classes, seeds=0, steps=gallery.pick(None, 2), guidance=1.0
    )
    real = {name: i for i, name in enumerate(made.real.ids)}
    rows = []
    for name in classes:
        drawn = [d for d in made.drawn if model.vocabulary.classes[d.label] == name]
        nearest = made.real.stored[[real[d.nearest] for d in drawn]]
        shown = torch.from_numpy(np.stack([d.stored for d in drawn]))
        rows.append((f"drawn as {name}", screen(model, model.codec.pack(shown))))
        rows.append(("nearest scan", screen(model, model.codec.pack(nearest))))
    caption = (
        f"The first {EACH} digits drawn for each of three classes, not picked, each above the "
        f"training scan nearest to it; {made.refused.total()} were refused as near copies. The run "
        f"has seen {model.seen:,} examples; seed 0."
    )
    alt = "Rows of drawn digits, each above the training digit nearest to it"
    return Shown(sheet(rows, side=64), alt, caption)


if __name__ == "__main__":
    main("augmenting", make)
