"""How well a recipe learns in a given time: the tasks of `tasks.py`, three seeds.

A budget is CPU seconds of this process, one thread, in which all happens: the choice of precision,
the trial of the pace, and the training, as in ``ornstein train`` but for the reviews on the way.
Labels are not used. All tasks are sampled in the same way, whatever the recipe would choose.

    taskset -c 0 python benchmarks/recipes.py [digits cifar3 ...] [--seeds 3] [--longest 240]
        [--set train.learning_rate=0.008 ...] [--out benchmarks/results/recipes.json]

Tasks that are not named keep the rows they had. With ``--set``, what a change of the recipe is
worth; then name the twins, mnist8 and cifar3-twin, on which to choose.
"""

import argparse
import json
import os
import platform
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import log
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from ornstein.data import DataOptions, open_data
from ornstein.runs.config import RunConfig
from ornstein.train import recipe
from ornstein.train.budget import OVERHEAD, settle
from ornstein.train.device import World, autocast
from ornstein.train.memory import memory_kept
from ornstein.train.signals import Stop
from ornstein.train.training import Training
from ornstein.train.validation import Validation, held_batch
from tasks import Absent, Task, gaussian, load

DEVICE = torch.device("cpu")
BLIND = "a Gaussian fitted to the numbers"


def trained(
    task: Task, seconds: float, seed: int, changes: Sequence[str]
) -> tuple[Training, float]:
    """A training of about `seconds` CPU seconds, and how many it took."""
    data = open_data(task.train_x, DataOptions(validation=0.0, flip=task.flips))
    began = time.process_time()
    config = changed(replace(recipe(data, minutes=seconds / 60), seed=seed), changes)
    all_of_it = seconds / (1 - OVERHEAD)  # there are no reviews here
    config, _ = settle(
        config, data, device=DEVICE, world=World(), seconds=all_of_it, clock=time.process_time
    )
    training = Training(config, data)
    while training.seen < config.train.seen:
        training.update()
    return training, time.process_time() - began


def changed(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """`config` with each ``table.key=value`` of `changes`, the value as in TOML."""
    values = asdict(config)
    for change in changes:
        place, value = change.split("=", 1)
        table, key = place.split(".")
        values[table][key] = tomllib.loads(f"value = {value}")["value"]
    return RunConfig.from_dict(values)


def loss(training: Training, task: Task) -> float:
    """On the test data, always with the same noise: steadier than distances of samples."""
    held = open_data(task.test_x, training.data.options)
    held = replace(held, codec=training.data.codec)
    denoiser, count = training.averages.learners[0], min(1200, 2 * len(held))
    batch = held_batch(held, denoiser.schedule, training.times, count=count, seed=0)
    value = Validation(batch, training.precision)(denoiser, Stop())
    assert value is not None
    return value


def samples_of(training: Training, task: Task, seed: int) -> Tensor:
    """Samples ``(N, C, *S)`` by the sampler of the task, in its units.

    It draws in the units of the codec, of mean 0 and variance 1 in each channel.
    """
    denoiser, codec = training.averages.learners[0], training.data.codec
    schedule = denoiser.schedule

    def denoise(x: Tensor, sigma: float) -> Tensor:
        t = schedule.time(torch.tensor(-2 * log(sigma), dtype=torch.float64))
        alpha, _ = schedule(t)
        with autocast(DEVICE, training.precision):
            return denoiser(alpha.to(x) * x, t.expand(len(x))).float()

    mean_of, std_of = (
        torch.tensor(values).view(-1, *(1,) * (len(codec.shape) - 1))
        for values in (codec.mean, codec.std)
    )
    return task.sample(denoise, seed) * std_of + mean_of


def row(task: Task, seconds: float, seed: int, changes: Sequence[str]) -> dict[str, Any]:
    with memory_kept():
        training, used = trained(task, seconds, seed, changes)
    config = training.config
    figures = task.measure(samples_of(training, task, seed))
    return {
        "task": task.name,
        "changes": " ".join(changes),
        "seconds": seconds,
        "used": round(used, 1),
        "seed": seed,
        "net": f"{config.net.kind} {config.net.size}",
        "parameters": sum(p.numel() for p in training.weights),
        "precision": config.train.precision,
        "updates": config.train.seen // config.train.batch,
        "examples": config.train.seen,
        "loss": round(loss(training, task), 5),
        **{name: round(value, 6) for name, value in figures.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure what a recipe learns in a given time.")
    parser.add_argument("tasks", nargs="*", default=["digits", "cifar3", "swiss-roll"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--longest", type=float, default=240.0)
    parser.add_argument("--set", nargs="*", default=[], metavar="TABLE.KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/recipes.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kept = json.loads(args.out.read_text()) if args.out.exists() else {}
    rows = [row for row in kept.get("rows", []) if row["task"] not in args.tasks]
    blind: dict[str, dict[str, float]] = kept.get(BLIND, {})
    for name in args.tasks:
        try:
            task = load(name)
        except Absent as error:
            print(f"{name}: {error}")
            continue
        blind[name] = task.measure(gaussian(task))
        for seconds in task.seconds:
            if seconds > args.longest:
                continue
            for seed in range(args.seeds):
                rows.append(row(task, seconds, seed, args.set))
                print(*rows[-1].values(), sep="\t", flush=True)
            mine = [r for r in rows if r["task"] == name and r["seconds"] == seconds]
            what = "energy" if task.train_x.ndim == 2 else "above_floor"
            print(f"{name} {seconds:g} s: {what} {mean(r[what] for r in mine):.4g}", flush=True)
    result = {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": 1,
        BLIND: blind,
        "rows": rows,
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
