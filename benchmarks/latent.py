"""Latents beside pixels: how fast a training is, and how good it is in equal time.

Patches of photographs, 64 x 64 in colour. Both denoisers are the same U-Net with the same
settings, so that only what they see differs. Updates are timed in turn, in seconds of the
processor. Then three runs: on pixels; on latents, in the time that the autoencoder leaves; and on
latents in as much time as the pixels had.

    python benchmarks/latent.py [--seconds 110] [--out benchmarks/results/latent.json]
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from ornstein.data import DataOptions, Dataset, open_data
from ornstein.evaluate.evaluation import rounded
from ornstein.evaluate.features.encoders import encoders_of
from ornstein.evaluate.measures.distances import frechet_distance
from ornstein.evaluate.measures.metrics import score
from ornstein.runs.config import RunConfig
from ornstein.runs.latents import LatentCodec, encoded, latents_of
from ornstein.runs.model import load
from ornstein.tasks.sample import sample
from ornstein.train import train
from ornstein.train.recipes import recipe
from ornstein.train.training import Training

OPTIONS = DataOptions(size=64, limit=3000)
SHARE = 1 / 3  # of the time, for the autoencoder
COUNT = 200  # samples


def paces(trainings: dict[str, Training], rounds: int) -> dict[str, float]:
    """Processor seconds of an example of each, the median of updates in turn."""
    times: dict[str, list[float]] = {name: [] for name in trainings}
    for _ in range(rounds):
        for name, training in trainings.items():
            before = time.process_time()
            training.update()
            times[name].append((time.process_time() - before) / training.config.train.batch)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=110, help="Of a run; 0 for speed alone.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latent.json"))
    parser.add_argument("--keep", type=Path, help="Where to leave the runs.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep = arguments.keep or Path(tempfile.mkdtemp())
    data = open_data("flower", OPTIONS)
    learn, held = data.split(OPTIONS.validation, 0)
    coder = settled(recipe(data, "autoencoder"))
    pixels = settled(recipe(data, minutes=3))
    latents = replace(pixels, latent=str(keep / "autoencoder"))
    spent: dict[str, float] = {}

    own = paces({"autoencoder": Training(coder, learn)}, arguments.rounds)
    run(coder, SHARE * arguments.seconds / own["autoencoder"], keep / "autoencoder", spent)
    codec = latents_of(keep / "autoencoder")
    both = {"pixels": Training(pixels, learn), "latents": Training(latents, encoded(learn, codec))}
    pace = paces(both, arguments.rounds)
    result: dict[str, Any] = {
        "place": {"machine": platform.machine(), "torch": torch.__version__, "threads": 1},
        "data": {"name": "flower", "size": 64, "train": len(learn), "held_out": len(held)},
        "examples_per_second": {name: 1 / seconds for name, seconds in (pace | own).items()},
        "ratio": pace["pixels"] / pace["latents"],
    }
    if arguments.seconds:
        left = (1 - SHARE) * arguments.seconds
        run(pixels, arguments.seconds / pace["pixels"], keep / "pixels", spent)
        run(latents, left / pace["latents"], keep / "latents", spent)
        run(latents, arguments.seconds / pace["latents"], keep / "latents-longer", spent)
        result |= {"processor_seconds": spent, "error": codec.error}
        result["frechet"] = quality(keep, learn, held, codec)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def settled(config: RunConfig) -> RunConfig:
    """The same on the data of this benchmark, with nothing left to the machine."""
    return replace(config, source="flower", train=replace(config.train, precision="f32"))


def quality(keep: Path, learn: Dataset, held: Dataset, codec: LatentCodec) -> dict[str, Any]:
    """Of each run, and of what the autoencoder brings back: Frechet distances, with floors."""
    data = learn.codec
    encoders, _ = encoders_of(data, learn, held)
    real = [data.pack(d.stored) for d in (learn, held)]
    some = learn.stored[:COUNT]
    drawn = {"reconstructions": data.pack(torch.from_numpy(codec.stored(codec.pack(some))))}
    for name in ("pixels", "latents", "latents-longer"):
        found = sample(load(keep / name), COUNT, seed=0)
        found.grid(16).save(keep / f"{name}.png")
        drawn[name] = rounded(data, found.x)
    return {
        name: {
            space: asdict(score(frechet_distance, *(e(v.numpy()) for v in (x, *real))))
            for space, e in encoders.items()
        }
        for name, x in drawn.items()
    }


def run(config: RunConfig, seen: float, place: Path, spent: dict[str, float]) -> None:
    """Train for so many examples, and note what it took."""
    whole = max(1, round(seen / config.train.batch)) * config.train.batch
    config = replace(config, data=OPTIONS, train=replace(config.train, seen=whole))
    before = time.process_time()
    train("flower", out=place, config=config)
    spent[place.name] = time.process_time() - before
    print(place.name, whole, spent[place.name], flush=True)


if __name__ == "__main__":
    main()
