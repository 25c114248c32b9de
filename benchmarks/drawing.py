"""What examples and the optimiser cost a training update: their shares of its time.

Updates of the recipe ``auto`` for an hour, in bfloat16 where the processor has it. *Examples*:
finding the next ones, reading and varying them, making x of them. *All that is drawn*: these, noise
levels and noise. What is mapped was read before, as where the system has memory to spare.
*Optimiser*: the steps of Muon and AdamW, gradients clipped before; *Muon*: its part of them.

    python benchmarks/drawing.py [--quick]
"""

from collections import defaultdict
from dataclasses import replace
from os import environ
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measure import Claim, Options, Result, grid, main, seconds_of

from ornstein.data import DataOptions, open_data, room
from ornstein.data.dataset import Dataset
from ornstein.rng import generator
from ornstein.train import recipe
from ornstein.train.aims import Denoising
from ornstein.train.device import has_bf16
from ornstein.train.memory import memory_kept
from ornstein.train.optimise import AdamW, Muon
from ornstein.train.training import Training

HOUR, MOMENT = 60.0, 2.0  # minutes; in the second, points are learned by a smaller network
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
        rows = {name: shares(data, options) for name, data in found.items()}
        points = shares(found["swiss-roll"], options, minutes=MOMENT)
        return rows | {f"swiss-roll, {MOMENT:g} minutes": points}


def shares(data: Dataset, options: Options, minutes: float = HOUR) -> dict[str, Any]:
    config = recipe(data, minutes=minutes)
    if options.quick:
        config = replace(config, net=replace(config.net, size=8, depth=1))
    faster = has_bf16(torch.device("cpu")) and len(data.codec.shape) > 1
    train = replace(config.train, precision="bf16" if faster else "f32")
    training = Training(replace(config, train=train), data)
    training.update()
    updates = 1 if options.quick else 3 if len(data.codec.shape) > 1 else 100
    spent = defaultdict[str, float](float)
    with (
        timed(spent, Dataset, "order", "examples", options),
        timed(spent, Dataset, "batch", "examples", options),
        timed(spent, Denoising, "draw", "drawn", options),
        timed(spent, AdamW, "step", "adamw", options),
        timed(spent, Muon, "step", "muon", options),
    ):
        for _ in range(updates):
            spent["update"] += seconds_of(training.update, options.threads)
    return {
        "batch": train.batch,
        "net": f"{config.net.kind} of size {config.net.size}, {train.precision}",
        "step": spent["update"] / updates,
        "examples": spent["examples"] / spent["update"],
        "drawn": (spent["drawn"] + spent["order"]) / spent["update"],
        "optimiser": (spent["adamw"] + spent["muon"]) / spent["update"],
        "muon": spent["muon"] / spent["update"],
    }


def timed(spent: defaultdict[str, float], kind: type, method: str, name: str, options: Options):
    """Meanwhile, what a method takes is added to what was spent on the `name`, and on itself."""
    plain = getattr(kind, method)

    def run(*arguments: Any, **named: Any) -> Any:
        found = list[Any]()
        seconds = seconds_of(lambda: found.append(plain(*arguments, **named)), options.threads)
        spent[name] += seconds
        spent[method] += seconds
        return found[0]

    return patch.object(kind, method, run)


def table(result: Result) -> str:
    rows = [
        (
            name,
            row["net"],
            row["batch"],
            f"{1e3 * row['step']:.0f}",
            f"{row['examples']:.1%}",
            f"{row['drawn']:.1%}",
            f"{row['optimiser']:.1%}",
            f"{row['muon']:.1%}" if row.get("muon") else "",
        )
        for name, row in result["rows"].items()
    ]
    shares = ("examples", "all that is drawn", "optimiser", "Muon")
    return grid(("data", "network", "batch", "ms an update", *shares), rows)


DRAWING = Claim("drawing", measure, table)

if __name__ == "__main__":
    main(DRAWING, __doc__)
