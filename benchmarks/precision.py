"""What products in bfloat16 gain, and what they change: drawing, mending, telling classes apart.

A run of the digits, and the same run `quick`. *Changed by*: root mean square over the standard
deviation of what was drawn. What a task is worth is measured against the truth, both ways.

    python benchmarks/precision.py [--quick]
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measure import Claim, Options, Result, grid, in_turn, main, seconds_of

import ornstein as ou
from ornstein.runs.model import Model
from ornstein.tasks.examples import training_data
from ornstein.train import recipe

SEEN, COUNT = 20_000, 64
Task = Callable[[Model], tuple[np.ndarray, str, float]]
"""What a task makes of a model, what is measured of it, and the figure."""


def measure(options: Options) -> Result:
    torch.set_num_threads(options.threads)
    seen, count = (640, 8) if options.quick else (SEEN, COUNT)
    with TemporaryDirectory() as folder:
        config = recipe(ou.open_data("digits"), minutes=2)
        config = replace(config, train=replace(config.train, precision="auto"))
        run = ou.train("digits", out=f"{folder}/run", config=config, seen=seen, device="cpu")
        models = {"f32": ou.load(run.path), "bf16": ou.quick(ou.load(run.path), "bf16")}
    return {name: compared(models, task, options) for name, task in tasks(models["f32"], count)}


def tasks(model: Model, count: int) -> list[tuple[str, Task]]:
    held = training_data(model)[1]
    held = held.subset(torch.arange(min(count, len(held))))
    assert held.label is not None
    truth, mask = held.stored.numpy().astype(float), torch.zeros(8, 8, dtype=torch.bool)
    mask[4:] = True
    right = np.array(held.classes)[held.label.numpy()]

    def draw(model: Model) -> tuple[np.ndarray, str, float]:
        drawn = ou.sample(model, len(held), device="cpu")
        x = drawn.x.numpy()
        return x, "standard deviation", float(x.std())

    def mend(model: Model) -> tuple[np.ndarray, str, float]:
        found = ou.restore(model, held.stored[:16], mask, draws=1, device="cpu")
        made = model.codec.stored(found.samples.x).astype(float).reshape(-1, 64)
        error = np.sqrt(np.square(made - truth[: len(made)].reshape(-1, 64)).mean())
        return made, "error, grey levels", float(error)

    def tell(model: Model) -> tuple[np.ndarray, str, float]:
        found = ou.classify(model, held.stored[:16], noises=4, held_out=20, device="cpu")
        return found.probabilities, "right", float((np.array(found.labels) == right[:16]).mean())

    return [("draw 64", draw), ("mend half of 16", mend), ("tell 16 apart", tell)]


def compared(models: dict[str, Model], task: Task, options: Options) -> dict[str, Any]:
    made = {name: task(model) for name, model in models.items()}
    runs = {
        name: partial(seconds_of, partial(task, m), options.threads) for name, m in models.items()
    }
    times = {name: median(found) for name, found in in_turn(runs, options.rounds(3)).items()}
    exact, near = made["f32"][0], made["bf16"][0]
    return {
        "seconds": times,
        "changed": float(np.sqrt(np.square(exact - near).mean()) / exact.std()),
        "what": made["f32"][1],
        "figure": {name: found[2] for name, found in made.items()},
    }


def table(result: Result) -> str:
    rows = [
        (
            name,
            f"{row['seconds']['f32']:.2f}",
            f"{row['seconds']['bf16']:.2f}",
            f"{row['changed']:.2%}",
            f"{row['what']}: {row['figure']['f32']:.3f}, {row['figure']['bf16']:.3f}",
        )
        for name, row in result["rows"].items()
    ]
    return grid(("task", "s, float32", "s, bfloat16", "changed by", "figure, both"), rows)


PRECISION = Claim("precision", measure, table)

if __name__ == "__main__":
    main(PRECISION, __doc__)
