"""What it is worth to be guided away from what the run itself was early in its training.

*Digits*: the teachers of `distillation.py`, three seeds: the Frechet distance above the floor of
real data, without and with `--autoguidance`, at as many calls of networks and at half as many.
*Scenes*: the run of `scenes.py`, or another in such a folder beside those measured before: of how
many captions not seen before the picture is right.

    python benchmarks/weak.py digits
    ORNSTEIN_RUNS=folder python benchmarks/weak.py scenes [--captions N]
    python benchmarks/weak.py table                         into docs/samplers.md and docs/text.md
"""

import argparse
import json
import os
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import distillation
from measure import RESULTS, grid
from pages import put
from scenes import share_of

import ornstein as ou
from ornstein.evaluate.measures.scenes import RESPECTS, ask, plain
from ornstein.tasks.examples import training_data

RESULT = RESULTS / "weak.json"
DOCS = Path(__file__).parents[1] / "docs"
SEEDS, SETS = (0, 1, 2), 3
WEIGHTS = (1.0, 1.5, 2.0, 3.0)
CALLS = ((16, 1.0), *((8, weight) for weight in WEIGHTS))  # steps and weights


def digits() -> dict[str, Any]:
    """By steps and weight, the distances of each seed's sets."""
    rows = {f"{steps} {weight:g}": list[list[float]]() for steps, weight in CALLS}
    for seed in SEEDS:
        model, _ = distillation.teacher_of("digits", seed)
        for steps, weight in CALLS:
            found = distillation.above_floor("digits", model, steps, SETS, autoguidance=weight)
            rows[f"{steps} {weight:g}"].append([round(value, 3) for value in found])
            print(seed, steps, weight, rows[f"{steps} {weight:g}"][-1], flush=True)
    return rows


def scenes(captions: int) -> dict[str, Any]:
    model = ou.load(Path(os.environ["ORNSTEIN_RUNS"]) / "scenes")
    known, _ = training_data(model)
    rows = dict[str, Any]()
    for weight in WEIGHTS:
        shares = ask(model, known, captions, autoguidance=weight)
        rows[f"{weight:g}"] = {name: plain(share) for name, share in shares.items()}
        print(weight, {name: round(share.value, 3) for name, share in shares.items()}, flush=True)
    return {str(model.seen): rows}


def write_tables() -> None:
    found = json.loads(RESULT.read_text())
    rows = list[list[str]]()
    for steps, weight in CALLS:
        values = found["digits"][f"{steps} {weight:g}"]
        guided = f"`--autoguidance {weight:g}`" if weight > 1 else "none"
        calls = steps * (1 + (weight > 1))
        rows.append([guided, str(steps), str(calls), *map(with_error, values)])
    heads = ("autoguidance", "steps", "calls", *(f"seed {seed}" for seed in SEEDS))
    put(DOCS / "samplers.md", "weak", grid(heads, rows))
    rows = []
    for seen, by_weight in sorted(found["scenes"].items(), key=lambda run: int(run[0])):
        for weight, row in by_weight.items():
            rows.append(
                [f"{int(seen):,}", weight, *(share_of(row[respect]) for respect in RESPECTS)]
            )
    put(DOCS / "text.md", "weak", grid(("examples seen", "autoguidance", *RESPECTS), rows))


def with_error(values: list[float]) -> str:
    """The mean of the sets, and its standard error."""
    return f"{fmean(values):.2f} ± {stdev(values) / len(values) ** 0.5:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["digits", "scenes", "table"])
    parser.add_argument("--captions", type=int, default=500)
    chosen = parser.parse_args()
    if chosen.part != "table":
        found = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
        if chosen.part == "digits":
            found["digits"] = digits()
        else:
            found["scenes"] = found.get("scenes", {}) | scenes(chosen.captions)
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    if {"digits", "scenes"} <= json.loads(RESULT.read_text()).keys():
        write_tables()


if __name__ == "__main__":
    main()
