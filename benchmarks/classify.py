"""How well does a run tell digits apart, and can its probabilities be believed?

A run that was trained to draw digits, on four fifths of them, reads the other fifth. The levels
and their weights are those of the command; calibration and accuracy are of five folds.

    python benchmarks/classify.py           about three minutes of one core
    python benchmarks/classify.py table     into docs/classifying.md
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pages import put

import ornstein as ou
from ornstein.core.shares import Share
from ornstein.data import DataOptions, open_data
from ornstein.tasks.examples import training_data
from ornstein.train import recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "classify.json"
PAGE = HERE.parent / "docs" / "classifying.md"
SEEN, GIVEN = 60_000, 20


def measure(folder: Path) -> dict[str, Any]:
    """What the command says of itself, on the held-out digits."""
    place = folder / "full"
    if not (place / "run.json").is_file():
        config = recipe(open_data("digits", DataOptions(validation=0.2)), minutes=1)
        ou.train("digits", config=config, seen=SEEN, out=place, device="cpu")
    model = ou.load(place)
    _, held_out = training_data(model)
    began = time.process_time()
    found = ou.classify(model, held_out.stored[:GIVEN], device="cpu")
    seconds = time.process_time() - began
    trust = found.trust
    read = trust.right.n + GIVEN
    return {"trust": asdict(trust), "calls": found.calls, "seconds": seconds / read, "seen": SEEN}


def table() -> None:
    """Put the table between the markers of the page."""
    found = json.loads(RESULTS.read_text())
    trust = found["trust"]
    lines = ["| | right, of held-out digits (95 %) |", "|---|---|"]
    shares = {"ornstein": trust["right"], **trust["others"]}
    lines += [f"| {name} | {Share(**share)} |" for name, share in shares.items()]
    lines += [
        "",
        f"Expected calibration error: {trust['error_before']:.1%} of the bound itself, "
        f"{trust['error_after']:.1%} after calibration; mean surprise of the true "
        f"class {trust['surprise_before']:.3f} and {trust['surprise_after']:.3f} nats. "
        f"{found['calls']:.0f} denoiser calls and {1000 * found['seconds']:.0f} milliseconds "
        f"of one core for each digit. The run has seen {found['seen']:,} examples.",
    ]
    put(PAGE, "classify", "\n".join(lines))


def main() -> None:
    if sys.argv[1:] != ["table"]:
        kept = os.environ.get("ORNSTEIN_RUNS")
        with tempfile.TemporaryDirectory() as temporary:
            RESULTS.write_text(json.dumps(measure(Path(kept or temporary)), indent=1) + "\n")
    table()


if __name__ == "__main__":
    main()
