"""Latents beside pixels: how fast a training is, and how good it is in equal time.

Patches of photographs, 64 x 64 in colour. Both denoisers are the same U-Net with the same
settings, so that only what they see differs. Updates are timed in turn, in seconds of the
processor. Then three runs: on pixels; on latents, in the time that the autoencoder leaves; and on
latents in as much time as the pixels had.

    python benchmarks/latent.py [--seconds 150] [--out benchmarks/results/latent.json]
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from ornstein.data import DataOptions, open_data
from ornstein.evaluate.distances import frechet_distance
from ornstein.evaluate.encoders import encoders_of
from ornstein.evaluate.evaluation import rounded
from ornstein.evaluate.metrics import score
from ornstein.runs.config import RunConfig
from ornstein.runs.latents import encoded, latents_of
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


def timed(work: Callable[[], Any]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latent.json"))
    parser.add_argument("--keep", type=Path, help="Where to leave the runs.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep = arguments.keep or Path(tempfile.mkdtemp())
    seconds = arguments.seconds

    data = open_data("flower", OPTIONS)
    learn, held = data.split(OPTIONS.validation, 0)
    settled = {"precision": "f32"}
    pixels = recipe(data, minutes=3)
    pixels = replace(pixels, source="flower", train=replace(pixels.train, **settled))
    coder = recipe(data, "autoencoder")
    coder = replace(coder, source="flower", train=replace(coder.train, **settled))

    # --- The autoencoder, and what it costs
    own = paces({"autoencoder": Training(coder, learn)}, 3)["autoencoder"]
    spent: dict[str, float] = {}
    run(coder, SHARE * seconds / own, keep / "autoencoder", spent)
    latents = replace(pixels, latent=str(keep / "autoencoder"))
    codec = latents_of(keep / "autoencoder")
    z = encoded(learn, codec)
    pace = paces(
        {"pixels": Training(pixels, learn), "latents": Training(latents, z)}, arguments.rounds
    )

    # --- The runs
    left = (1 - SHARE) * seconds
    run(pixels, seconds / pace["pixels"], keep / "pixels", spent)
    run(latents, left / pace["latents"], keep / "latents", spent)
    run(latents, seconds / pace["latents"], keep / "latents-longer", spent)

    # --- How good they are
    encoders, _ = encoders_of(data.codec, learn, held)
    real = [data.codec.pack(d.stored) for d in (learn, held)]
    back = codec.data.pack(torch.from_numpy(codec.stored(codec.pack(held.stored))))
    drawn = {"reconstructions": data.codec.pack(torch.from_numpy(codec.data.stored(back)))}
    for name in ("pixels", "latents", "latents-longer"):
        model = load(keep / name)
        found = sample(model, COUNT, seed=0)
        found.grid(16).save(keep / f"{name}.png")
        drawn[name] = rounded(
            data.codec, data.codec.pack(torch.from_numpy(found.codec.stored(found.x)))
        )
    rows: dict[str, Any] = {}
    for name, x in drawn.items():
        rows[name] = {
            space: asdict(score(frechet_distance, *(e(v.numpy()) for v in (x, *real))))
            for space, e in encoders.items()
        }
    result = {
        "place": {"processor": platform.processor(), "torch": torch.__version__, "threads": 1},
        "data": {"name": "flower", "size": 64, "train": len(learn), "held_out": len(held)},
        "seconds": seconds,
        "examples_per_second": {k: 1 / v for k, v in (pace | {"autoencoder": own}).items()},
        "ratio": pace["pixels"] / pace["latents"],
        "processor_seconds": spent,
        "error": codec.error,
        "frechet": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def run(config: RunConfig, seen: float, place: Path, spent: dict[str, float]) -> None:
    """Train for so many examples, and note what it took."""
    whole = max(1, round(seen / config.train.batch)) * config.train.batch
    config = replace(config, data=OPTIONS, train=replace(config.train, seen=whole))
    spent[place.name] = timed(lambda: train("flower", out=place, config=config))
    print(place.name, whole, spent[place.name], flush=True)


if __name__ == "__main__":
    main()
