"""What are drawn examples worth? Digits of which half of the classes are rare.

Of the even digits all scans are kept, of the odd ones 20; a run learns from these,
draws what is missing, and classifiers that learn with and without the drawn ones read held-out
digits of all classes, as many of each as there are. Five seeds, a paired interval; beside it,
classifiers for which the rare digits were repeated instead.

    python benchmarks/augment.py           about four minutes of one core
    python benchmarks/augment.py table     into docs/augmenting.md
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from pages import put
from sklearn.datasets import load_digits

import ornstein as ou
from ornstein.data import DataOptions, open_data
from ornstein.rng import generator
from ornstein.tasks.examples import flat
from ornstein.tasks.gain import Labelled, measure_gain
from ornstein.train import recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "augment.json"
PAGE = HERE.parent / "docs" / "augmenting.md"
RARE, SEEN, SEEDS, TEST = 20, 30_000, 5, 60
GUIDANCES = (1.0, 2.0)


def measure(folder: Path) -> dict[str, Any]:
    """The gain at each weight of guidance."""
    pictures, labels = load_digits(return_X_y=True)
    pictures = pictures.reshape(-1, 8, 8).astype(np.uint8)
    train, test = [], []
    for c in range(10):
        rows = generator("rare", c).permutation(np.flatnonzero(labels == c))
        test.append(rows[:TEST])  # of each class alike
        train.append(rows[TEST:] if c % 2 == 0 else rows[TEST : TEST + RARE])
    rows, held = np.concatenate(train), np.concatenate(test)
    source, place = folder / "rare.npz", folder / "rare"
    if not (place / "run.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(source, images=pictures[rows], labels=labels[rows])
        data = open_data(source, DataOptions(validation=0.1))
        ou.train(source, config=recipe(data, minutes=1), seen=SEEN, out=place, device="cpu")
    model = ou.load(place)
    x = model.codec.pack(torch.from_numpy(pictures[held])[:, None])
    unseen = Labelled(x=flat(x), label=labels[held])
    found = []
    for guidance in GUIDANCES:
        began = time.process_time()
        made = ou.augment(model, guidance=guidance, seeds=0, device="cpu")
        drawing = time.process_time() - began
        real = made.real
        assert real.label is not None
        stored = torch.from_numpy(np.stack([d.stored for d in made.drawn]))
        names = np.array([int(name) for name in model.vocabulary.classes])
        known = Labelled(x=flat(model.codec.pack(real.stored)), label=names[real.label.numpy()])
        label = names[[d.label for d in made.drawn]]
        new = Labelled(x=flat(model.codec.pack(stored)), label=label)
        gain = measure_gain(known, new, unseen, SEEDS)
        row = {"guidance": guidance, "real": len(real), "drawn": len(made.drawn)}
        row |= {"refused": made.refused.total(), "seconds": drawing, "gain": asdict(gain)}
        print(json.dumps(row), flush=True)
        found.append(row)
    return {"rows": found, "rare": RARE, "seen": SEEN}


def table() -> None:
    """Put the table between the markers of the page."""
    found = json.loads(RESULTS.read_text())
    head = ("guidance", "drawn", "refused", "real alone", "repeated", "with drawn")
    lines = ["| " + " | ".join([*head, "gain (95 %)", "over repeated (95 %)"]) + " |"]
    lines.append("|---" * 8 + "|")
    for row in found["rows"]:
        gain = row["gain"]
        each = [_told(gain, name) for name in ("difference", "over_repeated")]
        lines.append(
            f"| {row['guidance']:g} | {row['drawn']:,} | {row['refused']:,} | {gain['real']:.1%} | "
            f"{gain['repeated']:.1%} | {gain['drawn']:.1%} | {' | '.join(each)} |"
        )
    put(PAGE, "augment", "\n".join(lines))


def _told(gain: dict[str, Any], name: str) -> str:
    """A gain and its interval."""
    low, high = gain["interval" if name == "difference" else f"{name}_interval"]
    return f"{gain[name]:+.1%} ({low:+.1%} to {high:+.1%})"


def main() -> None:
    if sys.argv[1:] != ["table"]:
        kept = os.environ.get("ORNSTEIN_RUNS")
        with tempfile.TemporaryDirectory() as temporary:
            RESULTS.write_text(json.dumps(measure(Path(kept or temporary)), indent=1) + "\n")
    table()


if __name__ == "__main__":
    main()
