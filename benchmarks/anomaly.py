"""How well does a run find what is unlike its data? Beside methods that need no run.

Two questions. *Digits*: leave one class of ten out of training, and find it; AUROC of the fused
score, and how often normal digits raise a false alarm at ``alpha = 0.05``. *Textures*: woven
cloth, drawn, and photographs of brick, grass and gravel; some pieces have a blob or a scratch.
AUROC of pieces, and AUPRC of pixels beside the share of pixels that are faulty, which is what
guessing gives.

    python benchmarks/anomaly.py [digits] [textures] [surfaces]    about ten minutes of one core
    python benchmarks/anomaly.py table                   into docs/detecting.md
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import skimage.data
import torch
from pages import put
from scipy.stats import betabinom
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

import ornstein as ou
from ornstein.data import DataOptions, open_data
from ornstein.rng import generator
from ornstein.runs.model import Model
from ornstein.tasks.anomaly import smoothed
from ornstein.tasks.examples import training_data
from ornstein.train import recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "anomaly.json"
PAGE = HERE.parent / "docs" / "detecting.md"
METHODS = ("ornstein", "neighbours", "components", "forest")
MAPS = METHODS[:3]  # that say where

HELD_OUT = 0.2  # of the normal digits: their larger part sets the p-values
DIGITS_SEEN, TEXTURES_SEEN = 40_000, 12_000
SIDE, CLOTHS, FAULTY = 24, 2000, 100
ALPHA = 0.05


def trained(place: Path, pictures: np.ndarray, labels: np.ndarray | None, seen: int) -> Model:
    """A run that has seen so many examples; kept at `place`, and not trained twice."""
    source = place.with_suffix(".npz")
    if not (place / "run.json").is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        if labels is None:
            np.savez(source, images=pictures)
        else:
            np.savez(source, images=pictures, labels=labels)
        data = open_data(source, DataOptions(validation=HELD_OUT))
        ou.train(source, config=recipe(data, minutes=1), seen=seen, out=place, device="cpu")
    return ou.load(place)


# --- Digits --------------------------------------------------------------------------------------


def digits(folder: Path) -> dict[str, Any]:
    """Each class in turn is what the run never saw.

    Half of the held-out normals set the scale and the p-values, half are fresh.
    """
    pictures, labels = load_digits(return_X_y=True)
    pictures = pictures.reshape(-1, 8, 8).astype(np.uint8)
    rows, alarms, fresh_count = [], 0, 0
    for left_out in range(10):
        normal = labels != left_out
        place = folder / f"but-{left_out}"
        model = trained(place, pictures[normal], labels[normal], DIGITS_SEEN)
        _, held_out = training_data(model)
        order = torch.from_numpy(generator("fresh", left_out).permutation(len(held_out)))
        known, fresh = order[: len(order) // 2], order[len(order) // 2 :]
        strange = torch.from_numpy(pictures[~normal])[:, None]
        given = torch.cat([held_out.stored[fresh], strange])
        began = time.process_time()
        found = ou.detect(model, given, normal=held_out.subset(known), alpha=ALPHA, device="cpu")
        detected_in = time.process_time() - began
        truth = np.arange(len(given)) >= len(fresh)
        scores = {"ornstein": found.score} | {n: b.score for n, b in found.baselines.items()}
        row = {name: float(roc_auc_score(truth, score)) for name, score in scores.items()}
        row |= {f"{n}_parts": float(roc_auc_score(truth, z)) for n, z in found.parts.items()}
        row |= {
            "class": left_out,
            "found": float(found.flagged[truth].mean()),
            "alarms": int(found.flagged[~truth].sum()),
            "fresh": len(fresh),
            "normals": found.normals,
            "rate": found.alarms.rate,
            "calls": found.calls,
            "seconds_detect": detected_in,
        }
        alarms, fresh_count = alarms + row["alarms"], fresh_count + row["fresh"]
        print(json.dumps(row), flush=True)
        rows.append(row)
    return {
        "rows": rows,
        "mean": {name: float(np.mean([row[name] for row in rows])) for name in METHODS},
        "alarms": alarms,
        "fresh": fresh_count,
    }


# --- Textures ------------------------------------------------------------------------------------


def cloth(draw: np.random.Generator, count: int) -> np.ndarray:
    """Woven pieces ``(count, SIDE, SIDE)`` of uint8: warp and weft of random phase, with noise."""
    y, x = np.mgrid[:SIDE, :SIDE][:, None]
    phase = draw.uniform(0, 2 * np.pi, (3, count, 1, 1))
    period = draw.uniform(5.5, 6.5, (count, 1, 1))
    turn = draw.normal(0, 0.08, (count, 1, 1))
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    u, v = (2 * np.pi * c / period + p for c, p in zip((u, v), phase, strict=False))
    weave = np.sin(u) * np.sin(v) + 0.5 * np.sin(u + v)
    shade = 0.3 * np.sin(2 * np.pi * x / 60 + phase[2])
    grey = 128 + 45 * weave + 20 * shade + 8 * draw.standard_normal(weave.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


BANDS = {"known": (0, 0.75), "normal": (0.75, 0.875), "fresh": (0.875, 1)}
"""Of the width of a photograph: for training, for the p-values, and for what is judged."""


def surface(name: str, draw: np.random.Generator, count: int, band: str) -> np.ndarray:
    """Pieces of a photograph ``(count, SIDE, SIDE)``, from one of its `BANDS`."""
    whole = getattr(skimage.data, name)()
    first, last = (int(share * whole.shape[1]) for share in BANDS[band])
    views = np.lib.stride_tricks.sliding_window_view(whole[:, first:last], (SIDE, SIDE))
    rows, columns = (draw.integers(n, size=count) for n in views.shape[:2])
    return views[rows, columns]


def faulty(
    draw: np.random.Generator, faultless: np.ndarray, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The pieces with a blob or a scratch, in turn, and where it is ``(count, SIDE, SIDE)``.

    It is lighter or darker by 12 to 40 times `scale`.
    """
    pieces = faultless.astype(float)
    y, x = np.mgrid[:SIDE, :SIDE]
    where = np.zeros(pieces.shape, bool)
    for i in range(len(pieces)):
        top, left = draw.uniform(4, SIDE - 4, 2)
        if i % 2 == 0:
            where[i] = (y - top) ** 2 + (x - left) ** 2 < draw.uniform(1.5, 3) ** 2
        else:
            angle, length = draw.uniform(0, np.pi), draw.uniform(4, 9)
            along = (x - left) * np.cos(angle) + (y - top) * np.sin(angle)
            across = (y - top) * np.cos(angle) - (x - left) * np.sin(angle)
            where[i] = (np.abs(along) < length) & (np.abs(across) < 0.7)
        pieces[i][where[i]] += draw.choice([-1, 1]) * draw.uniform(12, 40) * scale
    return np.clip(np.rint(pieces), 0, 255).astype(np.uint8), where


def textures(folder: Path) -> dict[str, Any]:
    """A run of faultless cloth, on pieces of which half are faulty."""
    model = trained(folder / "cloth", cloth(generator("cloth"), CLOTHS), None, TEXTURES_SEEN)
    fresh, draw = cloth(generator("more cloth"), FAULTY), generator("bad")
    bad, where = faulty(draw, cloth(draw, FAULTY))
    given = torch.from_numpy(np.concatenate([fresh, bad]))[:, None]
    found = {}
    for name, options in TEXTURE_OPTIONS.items():
        found[name] = _of_textures(model, given, where, options)
        print(name, json.dumps(found[name]), flush=True)
    return found


def surfaces(folder: Path) -> dict[str, Any]:
    """A run for each photograph; faults as strong, beside its contrast, as those of cloth.

    The p-values are by pieces of a band that training never saw, as what is judged is.
    """
    found = {}
    for name in ("brick", "grass", "gravel"):
        known = surface(name, generator(name), CLOTHS, "known")
        model = trained(folder / name, known, None, TEXTURES_SEEN)
        draw = generator("new", name)
        fresh = surface(name, draw, FAULTY, "fresh")
        scale = known.std() / cloth(generator("cloth"), FAULTY).std()
        bad, where = faulty(draw, surface(name, draw, FAULTY, "fresh"), scale)
        given = torch.from_numpy(np.concatenate([fresh, bad]))[:, None]
        left_out = training_data(model)[1]
        beside = torch.from_numpy(surface(name, draw, len(left_out), "normal"))[:, None]
        found[name] = _of_textures(
            model, given, where, {"normal": replace(left_out, stored=beside)}
        )
        print(name, json.dumps(found[name]), flush=True)
    return found


TEXTURE_OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "with refills": {"refills": 2, "refill_steps": 8},
}


def _of_textures(
    model: Model, given: Tensor, where: np.ndarray, options: dict[str, Any]
) -> dict[str, Any]:
    began = time.process_time()
    found = ou.detect(model, given, alpha=ALPHA, device="cpu", **options)
    seconds = time.process_time() - began
    truth = np.arange(len(given)) >= FAULTY
    scores = {"ornstein": found.score} | {n: b.score for n, b in found.baselines.items()}
    row: dict[str, Any] = {n: float(roc_auc_score(truth, s)) for n, s in scores.items()}
    row |= {f"{n}_parts": float(roc_auc_score(truth, z)) for n, z in found.parts.items()}
    heat = found.heat
    assert heat is not None
    train = model.codec.pack(training_data(model)[0].stored)
    x = model.codec.pack(given)
    plain, near = _off_the_plane(train, x), _off_the_nearest(train, x)
    for name, maps in (("ornstein", heat), ("components", plain), ("neighbours", near)):
        row[f"{name}_pixels"] = float(average_precision_score(where.ravel(), maps[truth].ravel()))
    return row | {
        "prevalence": float(where.mean()),
        "found": float(found.flagged[truth].mean()),
        "alarms": int(found.flagged[~truth].sum()),
        "fresh": FAULTY,
        "normals": found.normals,
        "calls": found.calls,
        "seconds_detect": seconds,
    }


def _off_the_plane(train: Tensor, x: Tensor) -> np.ndarray:
    """The same map of the principal components: squared error of each pixel, smoothed alike."""
    from sklearn.decomposition import PCA

    axes = PCA(0.95, svd_solver="full").fit(train.flatten(1).numpy())
    rows = x.flatten(1).numpy()
    error = (rows - axes.inverse_transform(axes.transform(rows))) ** 2
    return smoothed(error.reshape(1, len(x), *x.shape[2:]))[0]


def _off_the_nearest(train: Tensor, x: Tensor) -> np.ndarray:
    """Likewise of the mean of the five nearest pieces."""
    from sklearn.neighbors import NearestNeighbors

    rows, known = x.flatten(1).numpy(), train.flatten(1).numpy()
    near = NearestNeighbors(n_neighbors=5).fit(known).kneighbors(rows, return_distance=False)
    error = (rows - known[near].mean(1)) ** 2
    return smoothed(error.reshape(1, len(x), *x.shape[2:]))[0]


# --- The table -----------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> Iterator[str]:
    """Markdown."""
    part = found["digits"]
    yield "| left out | " + " | ".join(METHODS) + " | found at 5 % |"
    yield "|---" * (len(METHODS) + 2) + "|"
    for row in part["rows"]:
        best = max(row[name] for name in METHODS)
        cells = [f"**{row[n]:.3f}**" if row[n] == best else f"{row[n]:.3f}" for n in METHODS]
        yield f"| {row['class']} | " + " | ".join(cells) + f" | {row['found']:.0%} |"
    means = " | ".join(f"{part['mean'][name]:.3f}" for name in METHODS)
    yield f"| mean | {means} | {np.mean([r['found'] for r in part['rows']]):.0%} |"
    rate = part["alarms"] / part["fresh"]
    calls, (mean, low, high) = part["rows"][0]["calls"], promised(part)
    yield ""
    yield (
        f"Of {part['fresh']:,} fresh normal digits, {part['alarms']} were flagged at alpha = 0.05: "
        f"{rate:.1%}. By the rate that is promised, that of a finite set of normals, "
        f"{mean:.0f} were to be expected, in 95 % of such trials {low:.0f} to {high:.0f}. "
        f"{calls} denoiser calls for each digit."
    )
    yield ""
    yield "| cloth | pieces, AUROC | pixels, AUPRC | found at 5 % | false alarms | calls |"
    yield "|---|---|---|---|---|---|"
    rows = {f"ornstein, {name}": row for name, row in found["textures"].items()}
    yield from map(_with_alarms, rows, rows.values())
    row = found["textures"]["default"]
    yield f"| components | {row['components']:.3f} | {row['components_pixels']:.3f} | | | |"
    near = row.get("neighbours_pixels")
    yield f"| neighbours | {row['neighbours']:.3f} | {f'{near:.3f}' if near else ''} | | | |"
    yield f"| forest | {row['forest']:.3f} | | | | |"
    yield f"| guessing | 0.500 | {row['prevalence']:.3f} | | | |"
    yield ""
    yield "| photographs | " + " | ".join(METHODS) + " | found at 5 % | false alarms |"
    yield "|---" * (len(METHODS) + 3) + "|"
    for name, row in found["surfaces"].items():
        pieces = " | ".join(f"{row[method]:.3f}" for method in METHODS)
        alarms = f"{row['alarms']} of {row['fresh']}"
        yield f"| {name}, pieces, AUROC | {pieces} | {row['found']:.0%} | {alarms} |"
        pixels = " | ".join(f"{row[f'{method}_pixels']:.3f}" for method in MAPS)
        yield f"| {name}, pixels, AUPRC (guessing {row['prevalence']:.3f}) | {pixels} | | | |"


def _with_alarms(name: str, row: dict[str, Any]) -> str:
    alarms = f"{row['alarms']} of {row['fresh']}"
    return (
        f"| {name} | {row['ornstein']:.3f} | {row['ornstein_pixels']:.3f} | "
        f"{row['found']:.0%} | {alarms} | {row['calls']} |"
    )


def promised(part: dict[str, Any]) -> tuple[float, float, float]:
    """How many alarms of all fresh digits conformal p-values promise: the mean, and 95 %.

    Of n normals, k = rate (n + 1) are as strange as what is flagged; so the rate of those who are
    judged by them is Beta(k, n + 1 - k) over all sets of normals.
    """
    total = np.ones(1)
    for row in part["rows"]:
        count, more = row["fresh"], row["normals"] + 1
        strange = round(row["rate"] * more)
        each = betabinom(count, strange, more - strange).pmf(np.arange(count + 1))
        total = np.convolve(total, each)
    low, high = np.searchsorted(total.cumsum(), (0.025, 0.975))
    return float(total @ np.arange(len(total))), float(low), float(high)


def write_table() -> None:
    """Put the table between the markers of the page."""
    put(PAGE, "anomaly", "\n".join(table(json.loads(RESULTS.read_text()))))


PARTS = {"digits": digits, "textures": textures, "surfaces": surfaces}


def main() -> None:
    wanted = sys.argv[1:] or [*PARTS, "table"]
    kept = os.environ.get("ORNSTEIN_RUNS")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(kept or temporary)
        for name in wanted:
            if name in PARTS:
                found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
                found[name] = PARTS[name](folder)
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    if "table" in wanted:
        write_table()


if __name__ == "__main__":
    main()
