"""What becomes of few examples: digits, some to train on and 600 others, in some 35 CPU seconds.

The recipe for two minutes, in 480 updates: the loss on both with fixed noise, at each sixth of the
way. Where it rises on what was held out while it falls on the rest, these are learned by heart.

    python benchmarks/few.py 100 300 [--changes base shift ...] [--docs docs/training.md]
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measure import RESULTS, grid
from pages import put

from ornstein.data import DataOptions, open_data
from ornstein.data.dataset import Dataset
from ornstein.runs.config import RunConfig
from ornstein.train import recipe
from ornstein.train.memory import memory_kept
from ornstein.train.signals import Stop
from ornstein.train.training import Training
from ornstein.train.validation import Validation, held_batch

RESULT = RESULTS / "few.json"
HELD, UPDATES, LOOKS = 600, 480, 6
CHANGES = {
    "base": "the recipe",
    "small": "size 16",
    "decayed": "weight decay 1",
    "shift": "moved by up to 1 pixel, and told so",
}


def changed(config: RunConfig, change: str) -> RunConfig:
    config = replace(config, train=replace(config.train, precision="bf16", ema=(0.05,)))
    if change == "small":
        return replace(config, net=replace(config.net, size=16))
    if change == "decayed":
        return replace(config, train=replace(config.train, weight_decay=1.0))
    return config


def row(count: int, change: str) -> dict[str, Any]:
    data = open_data("digits", DataOptions(shift=int(change == "shift")))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(5))
    train, held = data.subset(order[:count]), data.subset(order[-HELD:])
    config = changed(recipe(data, minutes=2), change)
    batch = config.train.batch
    config = replace(config, train=replace(config.train, seen=UPDATES * batch))
    training = Training(config, train)
    sides = [look(training, side) for side in (held, train)]
    losses = list[list[float]]()
    while training.seen < config.train.seen:
        training.update()
        if training.seen // batch % (UPDATES // LOOKS) == 0:
            average = training.averages.learners[0]
            losses.append([round(side(average, Stop()) or 0.0, 4) for side in sides])
    return {"count": count, "change": change, "held out and trained on": losses}


def look(training: Training, side: Dataset) -> Validation:
    schedule = training.denoiser.schedule
    return Validation(held_batch(side, schedule, training.times, count=HELD, seed=0), "bf16")


def table(rows: list[dict[str, Any]]) -> str:
    shown = list[tuple[object, ...]]()
    for row in rows:
        held, known = zip(*row["held out and trained on"], strict=True)
        told = [f"{loss:.3f}" for loss in (*held, known[-1])]
        shown.append((row["count"], CHANGES[row["change"]], *told))
    looks = [f"{UPDATES * i // LOOKS}" for i in range(1, LOOKS + 1)]
    return grid(("examples", "", *looks, "in the end, trained on"), shown)


def write_table() -> None:
    put(Path("docs/training.md"), "few", table(json.loads(RESULT.read_text())))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what becomes of few examples.")
    parser.add_argument("counts", nargs="*", type=int, default=[100, 300])
    parser.add_argument("--changes", nargs="*", choices=CHANGES, default=list(CHANGES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with memory_kept():
        rows = [row(n, change) for n in arguments.counts for change in arguments.changes]
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    write_table()


if __name__ == "__main__":
    main()
