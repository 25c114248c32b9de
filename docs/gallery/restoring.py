"""docs/pictures/restoring.png: held-out digits, measured in four ways, and restored."""

import torch
from gallery import Gallery, Shown, grey, main, screen, sheet

import ornstein as ou
from ornstein.tasks.examples import training_data

WAYS = {
    "lower half masked": {},
    "4 x fewer pixels": {"upscale": 2},
    "blurred, noise 1": {"deblur": "1", "noise": 1.0},
    "CT, 6 angles": {"ct": 6},
}
HEADS = ("truth", "known", "one", "another", "a third", "mean of 8", "differ")


def make(gallery: Gallery) -> Shown:
    model = gallery.digits()
    held_out = training_data(model)[1]
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 4:] = True
    rows = []
    for i, (name, options) in enumerate(WAYS.items()):
        truth = held_out.stored[5 * i + 3][None]
        hole = None if options else mask
        restored = ou.restore(
            model,
            truth,
            hole,
            gallery.pick(8, 3),
            steps=gallery.pick(32, 2),
            simulate=bool(options),
            **options,
        )
        known = restored.given if options else torch.where(restored.keep, restored.given, 0.0)
        x = torch.cat([model.codec.pack(truth), known, restored.drawn[0, :3], restored.mean])
        rows.append((name, [*screen(model, x), *grey(restored.sd[:, 0])]))
    caption = (
        "Held-out digits: the truth, what is known of it, three restorations, the mean of eight, "
        "and by how much they differ, white where by one standard deviation of the data. The run "
        f"has seen {model.seen:,} other digits; seed 0."
    )
    alt = "Rows of digits: the truth, what is known, restorations, their mean, how they differ"
    return Shown(sheet(rows, HEADS), alt, caption)


if __name__ == "__main__":
    main("restoring", make)
