"""How often rows may be seen before they are learned by heart: tables of few rows, in half an hour.

Five tables of scikit-learn and 300 points of the Swiss roll, a fifth of each held out. Trainings
that end after so many epochs, the rate falling to nothing: the loss on what was held
out, with fixed noise, beside that of the best linear denoiser. `--recipe points`, and the network
of fewer than five minutes for all of a minute, as it was before epochs were counted.

    python benchmarks/rows.py [NAME ...] [--seeds 2]
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from measure import RESULTS, grid
from pages import put

from ornstein.data import DataOptions, open_data
from ornstein.data.dataset import Dataset
from ornstein.runs.config import RunConfig
from ornstein.train import recipe
from ornstein.train.doctor import linear_denoiser
from ornstein.train.recipes import epochs_of
from ornstein.train.signals import Stop
from ornstein.train.training import Training
from ornstein.train.validation import Validation, held_batch

RESULT = RESULTS / "rows.json"
NAMES = ("swiss-roll", "iris", "diabetes", "wine", "breast_cancer", "digits")
EPOCHS = (50, 100, 200, 400, 800, 1600)
MINUTE = 9_000  # updates of a minute of the smaller network, on the slower machine
TERMS = 4096


def sides(name: str) -> tuple[Dataset, Dataset]:
    """The rows to train on, and those held out."""
    plain = DataOptions(validation=0.0)
    if name == "swiss-roll":
        train = open_data(name, plain).subset(torch.arange(300))
        return train, open_data(name, replace(plain, seed=1))
    from sklearn import datasets

    rows = getattr(datasets, f"load_{name}")().data.astype(np.float64)
    rows = rows[np.random.default_rng(1).permutation(len(rows))]
    count = len(rows) // 5
    train = open_data(rows[count:], plain)
    held = open_data(rows[:count], plain)
    return train, replace(held, codec=train.codec)


def row(name: str, seed: int) -> dict[str, Any]:
    train, held = sides(name)
    config = recipe(train, "points")
    losses = {n: loss(replace(config, seed=seed), train, held, n) for n in EPOCHS}
    found = {"data": name, "rows": len(train), "numbers": train.codec.shape[0], "seed": seed}
    brief = replace(recipe(train, minutes=1), seed=seed)
    epochs = MINUTE * brief.train.batch // len(train)
    found |= {"a minute": loss(brief, train, held, epochs), "epochs of a minute": epochs}
    return found | {"epochs": losses, "linear": linear(config, train, held)}


def loss(config: RunConfig, train: Dataset, held: Dataset, epochs: int) -> float:
    batch = config.train.batch
    updates = max(1, epochs * len(train) // batch)
    config = replace(config, train=replace(config.train, precision="f32", seen=updates * batch))
    training = Training(config, train)
    while training.seen < config.train.seen:
        training.update()
    schedule, times = training.denoiser.schedule, training.times
    side = Validation(held_batch(held, schedule, times, count=TERMS, seed=0), "f32")
    return round(side(training.averages.learners[0], Stop()) or 0.0, 4)


@torch.no_grad()
def linear(config: RunConfig, train: Dataset, held: Dataset) -> float:
    """The loss of the best linear denoiser of the rows to train on."""
    training = Training(replace(config, train=replace(config.train, precision="f32")), train)
    schedule = training.denoiser.schedule
    batch = held_batch(held, schedule, training.times, count=TERMS, seed=0)
    alpha, sigma = (c[:, None] for c in schedule(batch.t))
    best = linear_denoiser(train.batch(torch.arange(len(train)))[0], schedule)
    error = best(alpha * batch.x + sigma * batch.eps, batch.t) - batch.x
    weight = 1 + torch.exp(schedule.log_snr(batch.t))  # of x, as `weigh_balanced` counts it
    return round((weight * error.square().mean(1)).mean().item(), 4)


def table(rows: list[dict[str, Any]]) -> str:
    shown = list[tuple[object, ...]]()
    for name in dict.fromkeys(row["data"] for row in rows):
        of = [row for row in rows if row["data"] == name]
        losses = [mean(row["epochs"][str(n)] for row in of) for n in EPOCHS]
        told = [f"**{v:.3f}**" if v == min(losses) else f"{v:.3f}" for v in losses]
        minutes = f"{mean(row['a minute'] for row in of):.3f}"
        first = of[0]
        known = (first["rows"], first["numbers"], f"{first['linear']:.3f}")
        shown.append((name, *known, *told, minutes, epochs_of(first["numbers"])))
    heads = ("data", "rows", "numbers", "linear", *(f"{n}" for n in EPOCHS))
    return grid((*heads, "a minute", "the recipe ends after"), shown)


def write_table() -> None:
    put(Path("docs/training.md"), "rows", table(json.loads(RESULT.read_text())))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how often rows may be seen.")
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else []
    rows = [row(name, seed) for name in arguments.names for seed in range(arguments.seeds)]
    rows += [row for row in known if row["data"] not in arguments.names]
    rows.sort(key=lambda row: (NAMES.index(row["data"]), row["seed"]))
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    write_table()


if __name__ == "__main__":
    main()
