"""Whether a run of `scenes` draws what it is asked for in words.

On one core, an autoencoder learns `scenes`, and a small U-Net their latents, both as the recipes
say; then it is asked for scenes it has not seen, and for scenes with a kind and colour that it
never saw together. Each
picture is read back by `ornstein.evaluate.measures.scenes`, whose own errors on real scenes stand
beside, and on scenes that the autoencoder has encoded and decoded: no run on it can do better.

    [ORNSTEIN_RUNS=folder] python benchmarks/scenes.py [--seen N] [--captions N] [table]

With `table`, only docs/text.md is written anew. A run that lies in the folder is measured as it is.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
from pages import put

import ornstein as ou
from ornstein.core.shares import Share
from ornstein.evaluate.measures.scenes import (
    RESPECTS,
    Request,
    ceiling,
    judge_run,
    plain,
    requests,
)
from ornstein.runs.checkpoint import WEIGHTS
from ornstein.runs.config import RunConfig
from ornstein.runs.folder import RunFolder
from ornstein.runs.model import Model
from ornstein.tasks.examples import training_data
from ornstein.tasks.sample import sample
from ornstein.train import recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scenes.json"
PAGE = HERE.parent / "docs" / "text.md"
PICTURE = PAGE.parent / "pictures" / "scenes.png"
EACH, ROWS = 8, 8  # of the picture
PARTS = ("coder", "scenes")  # runs, in this order
CODED = 120_000  # examples the autoencoder sees
WHAT = ("net", "schedule", "denoiser", "times", "train", "sample")  # of a configuration
NAMES = {
    "unseen": "captions not seen",
    "real": "real scenes, as the reader finds them",
    "coded": "the same, encoded and decoded",
    "held_out": "kinds and colours never seen together",
    "real_held_out": "real scenes of these",
    "coded_held_out": "the same, encoded and decoded",
}


def measure(folder: Path, seen: int, captions: int) -> dict[str, Any]:
    """What the run draws rightly, and the reader on real scenes."""
    data = ou.open_data("scenes")
    coder = trained(with_seen(recipe(data, "autoencoder"), CODED), folder / "coder")
    config = with_seen(recipe(data, latent=coder), seen)
    model = ou.load(trained(config, folder / "scenes"))
    known, _ = training_data(model)
    show(model, requests(ROWS, 1, known, held_out=True))
    found = judge_run(model, known, captions).facts
    for kind, held_out in (("coded", False), ("coded_held_out", True)):
        shares = ceiling(captions, 0, held_out, model.codec)
        found[kind] = {name: plain(share) for name, share in shares.items()}
    seconds = {name: json.loads((folder / f"{name}.json").read_text()) for name in PARTS}
    return {
        "config": settings(config),
        "seen": model.seen,
        "budget": seen,
        "processor_seconds": seconds,
        "shares": found,
    }


def with_seen(config: RunConfig, seen: int) -> RunConfig:
    return replace(config, train=replace(config.train, seen=seen))


def settings(config: RunConfig) -> dict[str, Any]:
    """What of a configuration is a recipe's."""
    return {name: part for name, part in asdict(config).items() if name in WHAT}


def show(model: Model, asked: list[Request]) -> None:
    """A row of pictures for each caption, the caption before it."""
    texts = [request.caption for request in asked]
    drawn = sample(model, EACH * len(asked), text=tuple(texts), seed=1).arrays
    rows = drawn.reshape(EACH, len(asked), *drawn.shape[1:]).swapaxes(0, 1)
    figure = plt.figure(figsize=(8.4, 0.62 * len(asked)), layout="compressed")
    parts = figure.subplots(len(asked), 1 + EACH, width_ratios=[5, *[1] * EACH], squeeze=False)
    for (words, *places), text, row in zip(parts, texts, rows, strict=True):
        words.text(1, 0.5, text, ha="right", va="center", fontsize=9)
        for place, picture in zip(places, row, strict=True):
            place.imshow(picture, interpolation="nearest")
        for place in (words, *places):
            place.axis("off")
    figure.savefig(PICTURE, dpi=110, bbox_inches="tight")


def trained(config: RunConfig, place: Path) -> Path:
    """The run at `place`, trained to its end if it is not; beside it stand the seconds it took.

    A training that is stopped, by SIGINT or SIGTERM, ends the script, and the next one goes on.
    """
    clock, begun = place.with_suffix(".json"), (place / "run.json").is_file()
    if begun and _seen(place) >= config.train.seen:
        return place
    spent, begin = json.loads(clock.read_text()) if begun else 0, time.process_time()
    if begun:
        ou.train(out=place, resume=True, device="cpu")
    else:
        ou.train("scenes", config=config, out=place, device="cpu")
    clock.write_text(json.dumps(round(spent + time.process_time() - begin)))
    if _seen(place) < config.train.seen:
        raise SystemExit(f"{place} was stopped: the same command goes on.")
    return place


def _seen(place: Path) -> int:
    checkpoint = RunFolder.open(place).latest(WEIGHTS)
    return checkpoint.seen if checkpoint else 0


def table() -> None:
    """Put the table between the marks of the page."""
    found = json.loads(RESULTS.read_text())
    lines = [f"| | {' | '.join(RESPECTS)} |", "|---|" + "---|" * len(RESPECTS)]
    for kind, name in NAMES.items():
        row = found["shares"][kind]
        lines.append(f"| {name} | {' | '.join(share_of(row[r]) for r in RESPECTS)} |")
    captions = found["shares"]["unseen"]["all"]["n"]
    minutes = sum(found["processor_seconds"].values()) / 60
    net, asked = found["config"]["net"], found["config"]["sample"]
    lines += [
        "",
        f"Share of {captions:,} captions of two things, with its 95 % interval: both kinds are "
        "right and there is nothing else, both colours, the relation, all three. The run is a "
        f"U-Net of size {net['size']} on latents, after {found['seen']:,} examples and "
        f"{minutes:.0f} minutes of a core, those of the autoencoder among them; guidance "
        f"{asked['guidance']:g} but for its parallel part, {asked['steps']} steps "
        "([benchmarks/scenes.py](../benchmarks/scenes.py)).",
        "",
        "![Rows of small pictures of two things, each row with its caption](pictures/scenes.png)",
        "",
        "*Not picked: captions with a kind and colour that it never saw together, eight draws of "
        "each.*",
    ]
    put(PAGE, "scenes", "\n".join(lines))


def share_of(row: dict[str, Any]) -> str:
    """A share as plain values, with its interval, for a table."""
    return str(Share(hits=round(row["share"] * row["n"]), n=row["n"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", choices=["table"])
    parser.add_argument("--seen", type=int, default=620_000)
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
