"""docs/pictures/classifying.png: held-out digits, and which they are taken for."""

import numpy as np
from gallery import Gallery, Shown, main, screen, sheet

import ornstein as ou
from ornstein.tasks.examples import training_data

SHOWN = 8


def make(gallery: Gallery) -> Shown:
    model = gallery.digits()
    held_out = training_data(model)[1]
    assert held_out.label is not None
    stored = held_out.stored[: gallery.pick(len(held_out), SHOWN)]
    options = gallery.pick({}, {"noises": 1, "held_out": 20, "levels": (-2.0, 0.0)})
    found = ou.classify(model, stored, **options)
    sure = found.probabilities.max(1)
    order = np.argsort(-sure, kind="stable")
    truth = [held_out.classes[int(c)] for c in held_out.label[: len(stored)]]
    rows, notes = [], []
    for name, picked in {"surest": order[:SHOWN], "least sure": order[-SHOWN:]}.items():
        rows.append((name, screen(model, model.codec.pack(stored[picked.tolist()]))))
        notes.append([told(found.labels[i], truth[i], sure[i]) for i in picked])
    wrong = sum(a != b for a, b in zip(found.labels, truth, strict=True))
    caption = (
        f"Of {len(stored)} held-out digits, those of which the run is most and least sure, with "
        f"the class and its probability; {wrong} of all are taken for another. The run has seen "
        f"{model.seen:,} examples, and was only trained to draw; seed 0. {found.calls:.0f} "
        "denoiser calls for each digit."
    )
    alt = "Two rows of digits, each with a class and a probability"
    return Shown(sheet(rows, notes=notes), alt, caption)


def told(label: str, truth: str, probability: float) -> str:
    return f"{label} {probability:.2f}" + (f", is {truth}" if label != truth else "")


if __name__ == "__main__":
    main("classifying", make)
