"""Latents beside pixels: how fast a training is, and how good it is in equal time.

Patches of photographs, 64 x 64 in colour. Both denoisers are the same U-Net with the same
settings, so that only what they see differs. Updates are timed in turn, in seconds of the
processor. Then three runs: on pixels; on latents, in the time that the autoencoder leaves; and on
latents in as much time as the pixels had.

    python benchmarks/latent.py [--seeds 0 1 2] [--seconds 110]
    python benchmarks/latent.py --table          docs/latent.md alone, from what was measured
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measure import environment, grid
from pages import put

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

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "latent.json"
PAGE = HERE.parent / "docs" / "latent.md"
OPTIONS = DataOptions(size=64, limit=3000)
SHARE = 1 / 3  # of the time, for the autoencoder
COUNT = 200  # samples
ROUNDS = 5
SPACES = ("learned", "fixed")  # of features
NAMES = {
    "pixels": "on pixels",
    "latents": "an autoencoder, then on its latents",
    "latents-longer": "on its latents, the autoencoder not counted",
    "reconstructions": "reconstructions alone",
}


def paces(trainings: dict[str, Training]) -> dict[str, float]:
    """Processor seconds of an example of each, the median of updates in turn."""
    times: dict[str, list[float]] = {name: [] for name in trainings}
    for _ in range(ROUNDS):
        for name, training in trainings.items():
            before = time.process_time()
            training.update()
            times[name].append((time.process_time() - before) / training.config.train.batch)
    return {name: median(found[1:]) for name, found in times.items()}


def measure(seed: int, seconds: float, keep: Path) -> dict[str, Any]:
    """How fast both are, and how good after so many seconds; the runs are left in `keep`."""
    data = open_data("flower", OPTIONS)
    learn, held = data.split(OPTIONS.validation, seed)
    coder = settled(recipe(data, "autoencoder"), seed)
    pixels = settled(recipe(data, minutes=3), seed)
    latents = replace(pixels, latent=str(keep / "autoencoder"))
    spent: dict[str, float] = {}

    own = paces({"autoencoder": Training(coder, learn)})
    run(coder, SHARE * seconds / own["autoencoder"], keep / "autoencoder", spent)
    codec = latents_of(keep / "autoencoder")
    both = {"pixels": Training(pixels, learn), "latents": Training(latents, encoded(learn, codec))}
    pace = paces(both)
    run(pixels, seconds / pace["pixels"], keep / "pixels", spent)
    run(latents, (1 - SHARE) * seconds / pace["latents"], keep / "latents", spent)
    run(latents, seconds / pace["latents"], keep / "latents-longer", spent)
    return {
        "train": len(learn),
        "held_out": len(held),
        "examples_per_second": {name: 1 / took for name, took in (pace | own).items()},
        "processor_seconds": spent,
        "error": codec.error,
        "frechet": quality(keep, learn, held, codec),
    }


def settled(config: RunConfig, seed: int) -> RunConfig:
    """The same on the data of this benchmark, with nothing left to the machine."""
    train = replace(config.train, precision="f32")
    return replace(config, source="flower", seed=seed, train=train)


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


# --- The page ------------------------------------------------------------------------------------


def write_table() -> None:
    put(PAGE, "latent", lines(json.loads(RESULTS.read_text())))


def lines(found: dict[str, Any]) -> str:
    """How fast, and how good after equal time."""
    seeds = list(found["seeds"].values())
    speed = {
        name: median(seed["examples_per_second"][name] for seed in seeds)
        for name in ("pixels", "latents", "autoencoder")
    }
    ratios = [
        seed["examples_per_second"]["latents"] / seed["examples_per_second"]["pixels"]
        for seed in seeds
    ]
    spread = f" ({min(ratios):.1f} to {max(ratios):.1f})" if len(seeds) > 1 else ""
    each = f"the mean of {len(seeds)} seeds, and each one's" if len(seeds) > 1 else "one seed"
    said = (
        f"At 64 x 64 in colour, the same U-Net sees {speed['latents']:.0f} latents a second in "
        f"training, and {speed['pixels']:.0f} pictures: {median(ratios):.1f} times as many"
        f"{spread}, on one thread, in seconds of the processor, update by update in turn. The "
        f"autoencoder itself sees {speed['autoencoder']:.0f}.\n\n"
        f"How good both are after {spent_on(seeds, 'pixels')} seconds on pixels and "
        f"{spent_on(seeds, 'latents')} on an autoencoder and its latents, timed beforehand to take "
        f"as long, on {seeds[0]['train']:,} patches of two photographs "
        f"([latent.py](../benchmarks/latent.py), [results](../benchmarks/results/latent.json)); "
        f"{each}:"
    )
    scores = [seed["frechet"] for seed in seeds]
    rows = [
        (name, spent_on(seeds, kind), *(told([f[kind][s] for f in scores]) for s in SPACES))
        for kind, name in NAMES.items()
    ]
    floors = (told([f["pixels"][space] for f in scores], "floor") for space in SPACES)
    rows.append(("*real pictures*", "", *floors))
    head = ("trained", "processor seconds", "Fréchet distance, learned features", "fixed features")
    return f"{said}\n\n{grid(head, rows)}"


def spent_on(seeds: list[dict[str, Any]], kind: str) -> str:
    """Seconds of the processor, of the autoencoder first where it counts."""
    parts = {"latents": ("autoencoder", "latents"), "reconstructions": ("autoencoder",)}
    each = parts.get(kind, (kind,))
    return " + ".join(f"{mean(s['processor_seconds'][part] for s in seeds):.0f}" for part in each)


def told(scores: list[dict[str, float]], what: str = "value") -> str:
    """The mean over seeds and each one's; of one seed its spread."""
    if len(scores) == 1:
        spread = scores[0]["spread" if what == "value" else f"{what}_spread"]
        return f"{scores[0][what]:.2f} ± {spread:.2f}"
    each = [score[what] for score in scores]
    return f"{mean(each):.2f} ({', '.join(f'{v:.2f}' for v in each)})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=110, help="Of a run.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, help="Where to leave the runs.")
    parser.add_argument("--table", action="store_true", help="Write the page, measure nothing.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep = arguments.keep or Path(tempfile.mkdtemp())
    if not arguments.table:
        result: dict[str, Any] = {"seeds": {}, "place": environment(1)}
        for seed in arguments.seeds:
            result["seeds"][str(seed)] = measure(seed, arguments.seconds, keep / str(seed))
            RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    write_table()


if __name__ == "__main__":
    main()
