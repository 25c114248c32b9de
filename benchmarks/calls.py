"""Quality against denoiser calls, before and after a sampler is fitted to so few.

A run on the built-in digits is trained by the recipe of `ornstein demo`, unless one is given. For
each number of calls: the root mean square distance from where 1000 steps end, from the same noise,
and the Frechet distance of the samples on features of a classifier of the real digits, beside that
of 1000 steps and that of real held-out digits, its floor. The grid is the recipe's, the uniform
one, or a fitted one.

    python benchmarks/calls.py [--run RUN] [--out benchmarks/results/calls.json]
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import RESULTS
from torch import Tensor

import ornstein as ou
from ornstein.data import Dataset
from ornstein.evaluate.features.labelled import train_labeller
from ornstein.evaluate.measures.distances import frechet_distance
from ornstein.rng import generator
from ornstein.runs.model import Model
from ornstein.tasks.sample import opened, sample
from ornstein.tasks.tune import Error, tune
from ornstein.train import recipe

SEEN = 110_000
CALLS, MANY = (4, 6, 8, 16), 1000
FITTED = (4, 6)
COUNT = 1600  # samples, about as many as training digits
RESAMPLES = 16
SAMPLER: dict[str, Any] = {"sampler": "adams-bashforth", "time_grid": "early"}
UNIFORM = SAMPLER | {"time_grid": "uniform"}


def trained(folder: Path) -> Path:
    """A run of the demo's recipe, by examples seen, so that no clock decides what it is."""
    config = recipe(ou.open_data("digits"), minutes=1.5)
    return ou.train("digits", out=folder / "digits", seen=SEEN, config=config).path


def flat(x: Tensor) -> np.ndarray:
    return x.flatten(1).double().numpy()


def packed(data: Dataset) -> np.ndarray:
    return flat(data.codec.pack(data.stored))


def measure(model: Model, rounds: int) -> dict[str, Any]:
    config = model.config
    known, unseen = ou.open_data(config.source, config.data).split(
        config.data.validation, config.seed
    )
    assert known.label is not None and unseen.label is not None
    real, held = packed(known), packed(unseen)
    features = train_labeller(real, known.label.numpy(), held, unseen.label.numpy()).features
    real_features = features(real)

    def frechet(found: np.ndarray) -> dict[str, float]:
        """Of samples to the training digits, and its standard error by resampling the samples."""
        order = generator("calls").integers(0, len(found), (RESAMPLES, len(found)))
        spread = np.std([frechet_distance(found[rows], real_features) for rows in order])
        return {"value": frechet_distance(found, real_features), "spread": float(spread)}

    def drawn(**options: Any) -> Tensor:
        return sample(model, COUNT, seed=1, **options).x

    def quality(x: Tensor, target: Tensor) -> dict[str, Any]:
        return {"error": asdict(Error.of(x, target)), "frechet": frechet(features(flat(x)))}

    target = drawn(steps=MANY, **SAMPLER)
    table: dict[str, Any] = {
        "real, held out": {"floor": {"error": {"value": 0.0}, "frechet": frechet(features(held))}},
        str(MANY): {"default": quality(target, target)},
    }
    print(json.dumps(table, default=float), flush=True)
    for calls in CALLS:
        ways = {"default": SAMPLER, "uniform": UNIFORM}
        if calls in FITTED:
            tune(model, calls, rounds=rounds)
            ways["fitted"] = {}
        found = {name: drawn(steps=calls, **options) for name, options in ways.items()}
        table[str(calls)] = {name: quality(x, target) for name, x in found.items()}
        print(calls, json.dumps(table[str(calls)], default=float), flush=True)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Quality against denoiser calls.")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=RESULTS / "calls.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = opened(args.run or trained(Path(folder)), "cpu")
        result = {"seen": model.seen, "samples": COUNT, "calls": measure(model, args.rounds)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, default=float) + "\n")
    for calls, row in result["calls"].items():
        cells = [
            f"{name} {r['error']['value']:.3f} {r['frechet']['value']:.2f}"
            for name, r in row.items()
        ]
        print(calls, *cells, sep="  ")


if __name__ == "__main__":
    main()
