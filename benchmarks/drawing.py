"""What examples cost a training update: their share of its time, held in memory and mapped.

An update of the recipe ``auto``, in the precision that is the faster one here. *Examples*: which
are next, read, varied, made x. *All that is drawn*: these, noise levels and noise. What is mapped
was read before, as it is where the system has memory to spare.

    python benchmarks/drawing.py [--quick]
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from os import environ
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measure import Claim, Options, Result, grid, in_turn, main, seconds_of

from ornstein.data import DataOptions, open_data, room
from ornstein.data.dataset import Dataset, draws_at
from ornstein.rng import generator
from ornstein.train import recipe
from ornstein.train.budget import settle
from ornstein.train.device import World, choose_device
from ornstein.train.memory import memory_kept
from ornstein.train.training import Training

HOUR = 60.0
MANY = {"3x32x32": (4096, 32), "3x64x64": (1024, 64)}  # pictures of noise, and their size


def datasets() -> dict[str, Dataset]:
    found = {"swiss-roll": open_data("swiss-roll"), "digits": open_data("digits")}
    for name, (count, size) in MANY.items():
        draw = generator("pictures", size)
        pictures = draw.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
        options = DataOptions(flip=True, shift=2)
        found[name] = open_data(pictures, options)
        with patch.object(room, "most_held", lambda: 0):
            found[f"{name}, mapped"] = open_data(pictures, options)
    return found


def measure(options: Options) -> Result:
    with TemporaryDirectory() as folder, patch.dict(environ, ORNSTEIN_CACHE=folder), memory_kept():
        found = datasets()
        if options.quick:
            found = {name: data.subset(torch.arange(64)) for name, data in found.items()}
        return {name: shares(data, options) for name, data in found.items()}


def shares(data: Dataset, options: Options) -> dict[str, Any]:
    config = recipe(data, minutes=HOUR)
    if options.quick:
        config = replace(config, net=replace(config.net, size=8, depth=1))
    world = World()
    config, _ = settle(config, data, device=choose_device(), world=world, seconds=None)
    training = Training(config, data)
    count, steps = config.train.batch, 1 if options.quick else 3

    def examples() -> None:
        moves = draws_at(0, torch.arange(count)) if data.options.augmentations else None
        data.batch(order(data, count), moves)

    def draw() -> None:
        training.aim.draw(data, order(data, count), 0, slice(None))

    def update() -> None:
        for _ in range(steps):
            training.update()

    update()
    parts: dict[str, Callable[[], object]] = {
        "examples": examples,
        "drawn": draw,
        "update": update,
    }
    runs = {name: partial(seconds_of, run, options.threads) for name, run in parts.items()}
    times = {name: median(found) for name, found in in_turn(runs, options.rounds(7)).items()}
    step = times.pop("update") / steps
    return {
        "batch": count,
        "net": f"{config.net.kind} of size {config.net.size}, {config.train.precision}",
        "step": step,
        **{name: seconds / step for name, seconds in times.items()},
    }


def order(data: Dataset, count: int) -> torch.Tensor:
    return data.order(0, torch.arange(count))


def table(result: Result) -> str:
    rows = [
        (
            name,
            row["net"],
            row["batch"],
            f"{1e3 * row['step']:.0f}",
            f"{row['examples']:.1%}",
            f"{row['drawn']:.1%}",
        )
        for name, row in result["rows"].items()
    ]
    head = ("data", "network", "batch", "ms an update", "examples", "all that is drawn")
    return grid(head, rows)


DRAWING = Claim("drawing", measure, table)

if __name__ == "__main__":
    main(DRAWING, __doc__)
