"""Whether a run of `scenes` draws what it is asked for in words.

A small U-Net learns `scenes` on one core; then it is asked for scenes it has not seen, and for
scenes with a kind and colour that it never saw together. Each picture is read back by
`ornstein.evaluate.scenes`, whose own errors on real scenes stand beside.

    [ORNSTEIN_RUNS=folder] python benchmarks/scenes.py [--seen N] [--captions N] [table]

With `table`, only docs/text.md is written anew. A run that lies in the folder is measured as it is.
"""

import argparse
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ornstein as ou
from ornstein.core.shares import Share
from ornstein.evaluate.measures.scenes import RESPECTS, judge_run
from ornstein.runs.config import NetConfig, RunConfig, SampleConfig, TrainConfig
from ornstein.tasks.examples import training_data

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scenes.json"
PAGE = HERE.parent / "docs" / "text.md"
START, STOP = "<!-- scenes -->", "<!-- /scenes -->"
CONFIG = RunConfig(
    net=NetConfig(kind="unet", size=32, depth=1),
    train=TrainConfig(batch=32, optimizer="muon", learning_rate=4e-3),
    sample=SampleConfig(guidance=2.5),
)
NAMES = {
    "unseen": "captions not seen",
    "real": "real scenes, as the reader finds them",
    "held_out": "kinds and colours never seen together",
    "real_held_out": "real scenes of these",
}


def measure(folder: Path, seen: int, captions: int) -> dict[str, Any]:
    """What the run draws rightly, and the reader on real scenes."""
    place = folder / "scenes"
    if not (place / "run.json").is_file():
        train = replace(CONFIG.train, seen=seen)
        ou.train("scenes", config=replace(CONFIG, train=train), out=place, device="cpu")
    model = ou.load(place)
    known, _ = training_data(model)
    found = judge_run(model, known, captions)
    return {"seen": model.seen, "budget": model.config.train.seen, "shares": found.facts}


def table() -> None:
    """Put the table between the marks of the page."""
    found = json.loads(RESULTS.read_text())
    lines = [f"| | {' | '.join(RESPECTS)} |", "|---|" + "---|" * len(RESPECTS)]
    for kind, name in NAMES.items():
        row = found["shares"][kind]
        lines.append(f"| {name} | {' | '.join(_share(row[r]) for r in RESPECTS)} |")
    captions = found["shares"]["unseen"]["all"]["n"]
    lines += [
        "",
        f"Share of {captions:,} captions of two things, with its 95 % interval: both kinds are "
        "right and there is nothing else, both colours, the relation, all three. The run is a "
        f"U-Net of size {CONFIG.net.size} after {found['seen']:,} of {found['budget']:,} examples; "
        f"guidance {CONFIG.sample.guidance:g}, {CONFIG.sample.steps} steps "
        "([benchmarks/scenes.py](../benchmarks/scenes.py)).",
    ]
    before, rest = PAGE.read_text().split(START)
    body = "\n".join(lines)
    PAGE.write_text(f"{before}{START}\n\n{body}\n\n{STOP}{rest.split(STOP)[1]}")


def _share(row: dict[str, Any]) -> str:
    return str(Share(hits=round(row["share"] * row["n"]), n=row["n"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", choices=["table"])
    parser.add_argument("--seen", type=int, default=240_000)
    parser.add_argument("--captions", type=int, default=500)
    chosen = parser.parse_args()
    if chosen.only is None:
        kept = os.environ.get("ORNSTEIN_RUNS")
        with tempfile.TemporaryDirectory() as temporary:
            found = measure(Path(kept or temporary), chosen.seen, chosen.captions)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    table()


if __name__ == "__main__":
    main()
