"""Runs of pairs beside simple methods: enlarging digits, and finding cells.

*Digits* of 8 x 8 from their 4 x 4, on those that training left out: decibels of the range of the
data against the truth, and the Fréchet distance of all pixels to the real digits. The mean of many
draws is nearest in squares; each of them is sharp and therefore further away, but looks like a
digit. One step is the mean too, as far as training has seen pure noise. Beside it stand a
run for the mean and one that learns what it leaves, which together see as many examples; CRPS is
that of 16 draws.

*Cells*: Dice's coefficient with the true mask, on pictures that training left out, beside Otsu's
threshold, of the picture as it is and smoothed by the Gaussian that serves best on these pictures.

    python benchmarks/pairs.py [--digits] [--cells] [--docs docs/pairs.md]
"""

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from pages import put
from PIL import Image

from ornstein.data import DataOptions, open_data
from ornstein.data.dataset import Dataset
from ornstein.evaluate.measures.distances import frechet_distance
from ornstein.runs.model import Model, load
from ornstein.tasks.options import SampleOptions
from ornstein.tasks.sample import stream
from ornstein.tasks.segment import segment
from ornstein.train import recipe, train

RESULT = Path("benchmarks/results/pairs.json")
DIGITS = DataOptions(given="small-4")
CELLS = DataOptions(given="image", make="mask")
SEEN = {"digits": 20_000, "cells": 6_000}
DRAWS = 16
NOISIEST = 8.0  # a run for its mean is trained on log(sigma / alpha) about here
SHARE = 0.3  # of the examples seen, for the mean
PICTURES = 40

Rows = dict[str, dict[str, float]]


def trained(source: str, options: DataOptions) -> tuple[Model, Dataset, float]:
    """A run of so many examples, what it left out, and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        model, seconds = fitted(source, options, SEEN[source], Path(folder) / "run")
    return model, held_of(source, options), seconds


def by_a_mean() -> tuple[Model, float]:
    """A run for the mean, and one that learns what it leaves: together as many examples seen."""
    first = int(SHARE * SEEN["digits"])
    with tempfile.TemporaryDirectory() as folder:
        mean, run = Path(folder) / "mean", Path(folder) / "run"
        _, begun = fitted("digits", DIGITS, first, mean, noisiest=NOISIEST)
        model, rest = fitted("digits", DIGITS, SEEN["digits"] - first, run, mean=str(mean))
    return model, begun + rest


def fitted(
    source: str,
    options: DataOptions,
    seen: int,
    out: Path,
    *,
    mean: str = "",
    noisiest: float | None = None,
) -> tuple[Model, float]:
    """The model of a run that has seen so many examples, and the seconds it took."""
    config = recipe(open_data(source, options), minutes=2)
    precision = "f32" if source == "digits" else "bf16"
    config = replace(config, train=replace(config.train, seen=seen, precision=precision), mean=mean)
    if noisiest is not None:
        config = replace(config, times=replace(config.times, mean=noisiest))
    begin = time.process_time()
    run = train(source, out=out, config=config)
    return replace(load(run.path), run=None), time.process_time() - begin


def held_of(source: str, options: DataOptions) -> Dataset:
    return open_data(source, options).split(options.validation, 0)[1]


# --- Enlarging digits ----------------------------------------------------------------------------


def digits() -> Rows:
    """Decibels and Fréchet distance of each way to enlarge."""
    model, held, seconds = trained("digits", DIGITS)
    both, both_seconds = by_a_mean()
    assert held.given is not None
    truth = held.stored.numpy().astype(float)
    context = held.given.context(torch.arange(len(held)), model.shape[1:])

    def drawn(model: Model, draws: int, **how: Any) -> np.ndarray:
        """Answers ``(draws, N, C, H, W)``, each in whole levels."""
        options = SampleOptions(count=draws * len(held), **how)
        parts = stream(model, options, context=lambda i: context[torch.tensor(i) % len(held)])
        x = torch.cat([part.x for part in parts])
        levels = model.codec.stored(x).astype(float).reshape(draws, *truth.shape)
        return np.clip(np.rint(levels), 0, 16)

    small = held.given.stored.numpy()[:, 0].astype(np.float32)
    large = [Image.fromarray(p).resize((8, 8), Image.Resampling.BICUBIC) for p in small]
    bicubic = np.clip(np.rint(np.stack([np.asarray(p) for p in large])), 0, 16)[:, None]
    many, left = drawn(model, DRAWS), drawn(both, DRAWS)
    ways = {
        "bicubic": bicubic,
        "one step": drawn(model, 1, steps=1, sampler="euler")[0],
        f"mean of {DRAWS} draws": many.mean(0),
        "one draw": many[0],
        f"a mean and what it leaves, mean of {DRAWS} draws": left.mean(0),
        "a mean and what it leaves, one draw": left[0],
    }
    rows = {name: enlarged(truth, found) for name, found in ways.items()}
    for name, found, took in (
        ("one draw", many, seconds),
        ("a mean and what it leaves, one draw", left, both_seconds),
    ):
        rows[name] |= {"crps": crps(truth, found), "seconds": took}
    train = open_data("digits", DIGITS).split(DIGITS.validation, 0)[0].stored.numpy()
    order = np.random.default_rng(0).permutation(len(train))[: len(truth)]
    rows["other real digits"] = {"frechet": distance(truth, train[order].astype(float))}
    return rows


def enlarged(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    error = float(np.square(found - truth).mean())
    return {"psnr": 10 * float(np.log10(16**2 / error)), "frechet": distance(truth, found)}


def crps(truth: np.ndarray, drawn: np.ndarray) -> float:
    """``E|X - x| - E|X - X'| / 2`` of each pixel, of draws ``(K, ...)``, in levels; the mean.

    Source: Gneiting & Raftery (2007), https://doi.org/10.1198/016214506000001437, equation 21.
    """
    K = len(drawn)
    pairs = sum(np.abs(drawn - one).mean() for one in drawn) / (K - 1)
    return float(np.abs(drawn - truth).mean() - pairs / 2)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of all pixels, over the largest value there is."""
    return frechet_distance(a.reshape(len(a), -1) / 16, b.reshape(len(b), -1) / 16)


# --- Finding cells -------------------------------------------------------------------------------


def cells() -> Rows:
    """Dice's coefficient of each way to find them."""
    model, held, seconds = trained("cells", CELLS)
    assert held.given is not None
    truth, pictures = held.stored.numpy()[:PICTURES], held.given.stored[:PICTURES]
    grey = pictures.numpy()
    smoothed = {s: dice(otsu(grey, s), truth > 0) for s in (0.5, 0.75, 1.0, 1.5, 2.0)}
    found = {n: segment(model, pictures, draws=n).overlap(truth) for n in (1, 8)}
    return {
        "Otsu's threshold": {"dice": dice(otsu(grey, 0), truth > 0)},
        f"the same, smoothed by {max(smoothed, key=smoothed.__getitem__)} pixels": {
            "dice": max(smoothed.values())
        },
        "one mask drawn": {"dice": fmean(found[1])},
        "vote of 8 masks": {"dice": fmean(found[8]), "seconds": seconds},
    }


def otsu(pictures: np.ndarray, sigma: float) -> np.ndarray:
    """What is brighter than Otsu's threshold in pictures ``(N, 1, H, W)``, smoothed before."""
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu

    smooth = gaussian_filter(pictures.astype(float), (0, 0, sigma, sigma))
    return np.stack([picture > threshold_otsu(picture) for picture in smooth])


def dice(masks: np.ndarray, truth: np.ndarray) -> float:
    """The mean over pictures of ``2 |A and B| / (|A| + |B|)``."""
    both, size = (masks & truth).sum((1, 2, 3)), masks.sum((1, 2, 3)) + truth.sum((1, 2, 3))
    return float((2 * both / size).mean())


def followed(told: torch.Tensor, untold: torch.Tensor, asked: torch.Tensor) -> dict[str, float]:
    """How pictures agree with those asked for, with another's, and if nothing was told."""
    return {
        "asked": agreement(told, asked),
        "another's": agreement(told, asked.roll(1, 0)),
        "not told": agreement(untold, asked),
    }


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    """The mean correlation of pictures with each other, pixel by pixel."""
    a, b = (part.flatten(1) - part.flatten(1).mean(1, keepdim=True) for part in (a, b))
    return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-9)).mean())


# --- Report --------------------------------------------------------------------------------------


def digits_table(rows: Rows) -> str:
    lines = ["| 4 x 4 to 8 x 8 | PSNR, dB | Fréchet distance | CRPS, levels |", "|---|---|---|---|"]
    for name, row in rows.items():
        psnr = f"{row['psnr']:.2f}" if "psnr" in row else ""
        score = f"{row['crps']:.3f}" if "crps" in row else ""
        lines.append(f"| {name} | {psnr} | {row['frechet']:.3f} | {score} |")
    return "\n".join(lines)


def cells_table(rows: Rows) -> str:
    lines = ["| cells | Dice |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {row['dice']:.3f} |" for name, row in rows.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs of pairs beside simple methods.")
    parser.add_argument("--digits", action="store_true", help="Enlarge digits.")
    parser.add_argument("--cells", action="store_true", help="Find cells.")
    parser.add_argument("--docs", type=Path, help="Put the tables into this page.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result |= {"machine": {"torch": torch.__version__, "cpu": platform.machine()}, "seen": SEEN}
    for name, measure in {"digits": digits, "cells": cells}.items():
        if getattr(arguments, name):
            result[name] = measure()
            print(json.dumps(result[name], indent=1), flush=True)
            RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if arguments.docs:
        for name, table in {"digits": digits_table, "cells": cells_table}.items():
            if name in result:
                put(arguments.docs, name, table(result[name]))


if __name__ == "__main__":
    main()
