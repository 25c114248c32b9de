"""A diffusion model beside a GAN, a VAE, a flow, a Gaussian and a kernel density.

Each network is trained as many seconds, with about as many weights, from several seeds; on a
processor, with one thread, and the seconds are its own. What is compared, and how each model is
made as strong as we know, is in docs/comparison.md, whose tables this script writes.

    python benchmarks/comparison.py 25-gaussians      # measures, and writes results and table
    python benchmarks/comparison.py --tables          # writes the tables from the results
"""

import argparse
import json
import os
import platform
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from pages import put

from ornstein.evaluate.comparison import compare, write
from ornstein.evaluate.contest.verdict import phrase

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "comparison.md"
TASKS = {
    "digits": {"minutes": 0.15, "seeds": 5, "count": 1000, "likely": 16},
    "25-gaussians": {"minutes": 0.1, "seeds": 5, "count": 2500, "likely": 16},
    "stacked-digits": {"minutes": 0.15, "seeds": 5, "count": 2000, "likely": 0},
}


def measure(task: str, pages: Path | None) -> dict:
    """Compare on one task."""
    found = compare(task, device="cpu", say=partial(print, flush=True), **TASKS[task])
    if pages is not None:
        print(write(found, pages / task))
    machine = {"torch": torch.__version__, "cpu": platform.processor() or platform.machine()}
    return {"machine": machine, **found.facts}


def table(result: dict) -> str:
    """A row for each model, a column for each contest; and the verdict."""
    contests: dict[str, dict[str, str]] = result["contests"]
    models = list(next(iter(contests.values())))
    options = result["options"]
    lines = [
        f"{result['train']:,} training and {result['held_out']:,} held-out examples, "
        f"{60 * options['minutes']:g} seconds of one processor for each network, "
        f"{options['seeds']} seeds, {options['count']:,} samples.",
        "",
        "| | " + " | ".join(map(phrase, contests)) + " |",
        "|---" * (len(contests) + 1) + "|",
    ]
    for model in models:
        lines.append(f"| {model} | " + " | ".join(row[model] for row in contests.values()) + " |")
    return "\n".join([*lines, "", *(f"> {sentence}" for sentence in result["verdict"])])


def write_tables() -> None:
    """Put the table of each result between its marks."""
    for task in TASKS:
        path = RESULTS / f"comparison_{task}.json"
        if path.exists():
            put(PAGE, task, table(json.loads(path.read_text())))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare models on built-in data.")
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []])
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    parser.add_argument("--pages", type=Path, help="folder for the pages of the comparisons")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.tables:
        for task in arguments.tasks or TASKS:
            result = measure(task, arguments.pages)
            path = RESULTS / f"comparison_{task}.json"
            path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
            print(table(result))
    write_tables()


if __name__ == "__main__":
    main()
