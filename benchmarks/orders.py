"""Of which order Adams-Bashforth should be on a trained network, by how many steps there are.

Root mean square distance from where 100 steps end, from the same noise, on the uniform grid. A run
on the built-in digits is trained by the recipe of `ornstein demo`, unless some are given.

    python benchmarks/orders.py [--runs RUN ...] [--count 100]
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from calls import trained
from measure import RESULTS, Result, grid
from pages import put

from ornstein.core.multistep import AdamsBashforth
from ornstein.core.sample import start
from ornstein.core.times import UniformGrid
from ornstein.rng import normal
from ornstein.runs.model import Model
from ornstein.tasks.sample import opened

STEPS, ORDERS, MANY = (2, 4, 6, 8, 10, 12, 16, 20), (1, 2, 3, 4), 100
PAGE = Path(__file__).parents[1] / "docs/samplers.md"


@torch.no_grad()
def distances(model: Model, count: int) -> dict[int, dict[int, float]]:
    """By steps, by order."""
    denoiser, eps = model.denoiser, normal((count, *model.codec.shape), "orders")

    def ends(order: int, steps: int) -> torch.Tensor:
        times = UniformGrid()(denoiser.schedule, steps)
        return AdamsBashforth(order=order)(denoiser, start(denoiser.schedule, times[0], eps), times)

    target, found = ends(2, MANY), dict[int, dict[int, float]]()
    for steps in STEPS:
        apart = {order: ends(order, steps) - target for order in ORDERS if steps >= 2**order - 1}
        found[steps] = {k: round(x.square().mean().sqrt().item(), 4) for k, x in apart.items()}
        print(steps, found[steps], flush=True)
    return found


def write_table() -> None:
    """Into docs/samplers.md."""
    put(PAGE, "orders", table(json.loads((RESULTS / "orders.json").read_text())))


def table(result: Result) -> str:
    """A row for each number of steps, a column for each order on each run."""
    runs = result["runs"]
    head = [f"{run['shape']}, order {order}" for run in runs for order in ORDERS]
    rows = list[list[str]]()
    for steps in STEPS:
        found = [run["rms"][str(steps)].get(str(order)) for run in runs for order in ORDERS]
        rows.append([str(steps), *("" if value is None else f"{value:.3f}" for value in found)])
    return grid(("steps", *head), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The order of a multistep rule, by its steps.")
    parser.add_argument("--runs", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "orders.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = list[dict[str, object]]()
    with tempfile.TemporaryDirectory() as folder:
        for run in args.runs or [trained(Path(folder))]:
            model = opened(run, "cpu")
            shape = "x".join(map(str, model.codec.shape))
            print(shape, f"{model.seen:,} examples seen", flush=True)
            rows.append({"shape": shape, "seen": model.seen, "rms": distances(model, args.count)})
    args.out.write_text(json.dumps({"count": args.count, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
