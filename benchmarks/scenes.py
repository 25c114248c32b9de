"""Whether a run of `scenes` draws what it is asked for in words.

On one core, an autoencoder learns `scenes`, and a small U-Net their latents, both as the recipes
say; then it is asked for scenes it has not seen, and for scenes with a kind and colour that it
never saw together. Each
picture is read back by `ornstein.evaluate.measures.scenes`, whose own errors on real scenes stand
beside, and on scenes that the autoencoder has encoded and decoded: no run on it can do better.

    [ORNSTEIN_RUNS=folder] python benchmarks/scenes.py [--seen N] [--captions N] [minutes | table]

With `minutes`, two commands are typed as a person would who has twenty minutes and this machine,
with as many threads as it has, and what they make is measured. With `table`, only docs/text.md is
written anew. A run that lies in the folder is measured as it is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
from measure import cores, processor
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
MINUTES_RESULTS = RESULTS.with_name("scenes_minutes.json")
PAGE = HERE.parent / "docs" / "text.md"
PICTURE = PAGE.parent / "pictures" / "scenes.png"
EACH, ROWS = 8, 8  # of the picture
PARTS = ("coder", "scenes")  # runs, in this order
CODED = 120_000  # examples the autoencoder sees
TYPED = {  # twenty minutes with what it takes to begin and to end
    "coder": "--recipe autoencoder --minutes 2.2",
    "scenes": "--latent coder --minutes 15.6",
}
AUTOGUIDANCE = (1.0, 3.0)
FRESH = 1  # seed of captions by which no recipe was chosen
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


def measure_minutes(folder: Path, captions: int) -> dict[str, Any]:
    """What the run draws rightly that two commands make in twenty minutes, by the clock."""
    seconds = {part: typed(folder / part, words) for part, words in TYPED.items()}
    model = ou.load(folder / "scenes")
    known, _ = training_data(model)
    found = {
        f"{w:g}": judge_run(model, known, captions, seed=FRESH, autoguidance=w)
        for w in AUTOGUIDANCE
    }
    return {
        "commands": [f"ornstein train scenes {words}" for words in TYPED.values()],
        "cores": cores(),
        "processor": processor(),
        "seconds": seconds,
        "config": settings(model.config),
        "seen": model.seen,
        "shares": {weight: judged.facts for weight, judged in found.items()},
    }


def typed(place: Path, words: str) -> float:
    """The seconds that a command takes, its start among them; kept beside the run it makes."""
    clock = place.with_suffix(".json")
    if not (place / "run.json").is_file():
        command = [sys.executable, "-m", "ornstein", "train", "scenes", *words.split()]
        own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        began = time.monotonic()
        subprocess.run([*command, "--out", place.name], cwd=place.parent, env=own, check=True)
        clock.write_text(json.dumps(round(time.monotonic() - began, 1)))
    return json.loads(clock.read_text())


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


def minutes_table() -> None:
    """Put what twenty minutes make between their marks of the page."""
    found = json.loads(MINUTES_RESULTS.read_text())
    rows = [f"| | autoguidance | {' | '.join(RESPECTS)} |", "|---|---|" + "---|" * len(RESPECTS)]
    for kind in ("unseen", "held_out"):
        for weight, shares in found["shares"].items():
            told = " | ".join(share_of(shares[kind][r]) for r in RESPECTS)
            rows.append(f"| {NAMES[kind]} | {'none' if weight == '1' else weight} | {told} |")
    net, train = found["config"]["net"], found["config"]["train"]
    minutes, seconds = divmod(round(sum(found["seconds"].values())), 60)
    rows += [
        "",
        f"{minutes} min {seconds:02d} s by the clock, on {found['cores']} cores of an "
        f"{found['processor']}: a U-Net of size {net['size']} on batches of {train['batch']}, "
        f"after {found['seen']:,} examples. Shares as above, of other captions: the recipe was "
        "chosen by those ([benchmarks/scenes.py](../benchmarks/scenes.py)).",
    ]
    put(PAGE, "scenes-minutes", "\n".join(rows))


def share_of(row: dict[str, Any]) -> str:
    """A share as plain values, with its interval, for a table."""
    return str(Share(hits=round(row["share"] * row["n"]), n=row["n"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", choices=["minutes", "table"])
    parser.add_argument("--seen", type=int, default=620_000)
    parser.add_argument("--captions", type=int, default=500)
    chosen = parser.parse_args()
    if chosen.only != "table":
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(os.environ.get("ORNSTEIN_RUNS", temporary))
            if chosen.only == "minutes":
                found, place = measure_minutes(folder, chosen.captions), MINUTES_RESULTS
            else:
                found, place = measure(folder, chosen.seen, chosen.captions), RESULTS
        place.write_text(json.dumps(found, indent=1) + "\n")
    table()
    minutes_table()


if __name__ == "__main__":
    main()
