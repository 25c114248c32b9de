"""What an autoencoder may be held to, and what a control branch on its latents follows.

Patches of photographs, 64 x 64 in colour: the same autoencoder, trained for as many examples by
its squared error alone, with its latents on a grid, by its own features, by a critic of patches.
What comes back of held-out patches: PSNR, SSIM, and Frechet distances with their floors.

Then digits of 16 x 16, in latents of 8 x 8: a run, and a branch beside it that is given their
edges, pixel by pixel. What it draws is held to edges that it has not seen, by their correlation.

    python benchmarks/autoencoders.py [coders | branch] [--seen 6400]
    python benchmarks/autoencoders.py table     into docs/latent.md
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measure import environment, grid
from pages import put
from pairs import followed

import ornstein as ou
from ornstein.data import DataOptions, Dataset, open_data
from ornstein.data.given import edges
from ornstein.evaluate.reconstruction import measure_reconstructions
from ornstein.runs.config import AutoencoderConfig, NetConfig, RunConfig
from ornstein.runs.model import Model
from ornstein.tasks.asking import context_from
from ornstein.tasks.options import SampleOptions
from ornstein.tasks.sample import stream
from ornstein.train import recipe, train

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "autoencoders.json"
PAGE = HERE.parent / "docs" / "latent.md"
PATCHES = DataOptions(size=64, limit=3000)
DIGITS = DataOptions(size=16)
WAYS: dict[str, AutoencoderConfig] = {
    "as by default": AutoencoderConfig(),
    "on a grid: `levels 8`": AutoencoderConfig(levels=8),
    "`features 0.1`": AutoencoderConfig(features=0.1),
    "`critic 0.05`": AutoencoderConfig(critic=0.05),
    "`features 0.1`, `critic 0.05`": AutoencoderConfig(features=0.1, critic=0.05),
}
SEEN = {"coder": 6_400, "run": 24_000, "branch": 12_000}


# --- Autoencoders --------------------------------------------------------------------------------


def coders(keep: Path, seen: int) -> dict[str, Any]:
    """What comes back, each way, and the processor seconds of the training."""
    base, found = recipe(open_data("flower", PATCHES), "autoencoder"), dict[str, Any]()
    for number, (way, options) in enumerate(WAYS.items()):
        changed = replace(base.train, seen=seen, precision="f32")
        config = replace(base, data=PATCHES, autoencoder=options, train=changed)
        before, out = time.process_time(), keep / f"coder-{number}"
        train("flower", out=out, config=replace(config, source="flower"))
        spent = time.process_time() - before
        found[way] = measure_reconstructions(out).facts | {"seconds": spent}
        print(way, json.dumps(found[way]), flush=True)
    return found


# --- A branch on latents -------------------------------------------------------------------------


def branch(keep: Path) -> dict[str, float]:
    """How the edges that are drawn agree with those asked for, and with those of others."""
    data = open_data("digits", DIGITS)
    coder = recipe(data, "autoencoder")
    coder = replace(coder, autoencoder=AutoencoderConfig(factor=2, channels=2))
    coder = replace(coder, net=NetConfig(kind="autoencoder", size=16))
    trained(coder, keep / "coder", SEEN["coder"])
    trained(recipe(data, latent=keep / "coder"), keep / "run", SEEN["run"])
    config = ou.adaptation(keep / "run", "control")
    config = replace(config, data=replace(config.data, given="edges"))
    trained(config, keep / "branch", SEEN["branch"])
    _, held = open_data("digits", config.data).split(DIGITS.validation, 0)
    asked = edges(held.codec.pack(held.stored))
    told, plain = drawn(ou.load(keep / "branch"), held), drawn(ou.load(keep / "run"), held)
    return followed(told, plain, asked)


def trained(config: RunConfig, out: Path, seen: int) -> None:
    """A run at `out`, which is not trained twice."""
    if (out / "run.json").exists():
        return
    changed = replace(config.train, seen=seen, precision="f32")
    train("digits", out=out, config=replace(config, source="digits", train=changed))


def drawn(model: Model, held: Dataset) -> torch.Tensor:
    """The edges of one example for each of those held out, given what belongs to it."""
    given = None
    if model.given is not None and held.given is not None:
        context = context_from(model, held.given.stored.numpy())
        given = lambda indices: context[torch.tensor(indices)]  # noqa: E731
    parts = list(stream(model, SampleOptions(count=len(held)), context=given))
    codec = parts[0].codec
    return edges(codec.pack(torch.from_numpy(codec.stored(torch.cat([p.x for p in parts])))))


# --- The page ------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    rows = list[Sequence[str]]()
    first = next(iter(result["coders"].values()))
    for way, found in result["coders"].items():
        likeness, distance = told(found["back"]), found["frechet"]["fixed"]
        both = f"{distance['value']:.2f} ± {distance['spread']:.2f}"
        rows.append((way, *likeness, both, f"{found['seconds']:.0f}"))
    rows.append(("scaled down and up", *told(first["scaled"]), "", ""))
    rows.append(("*real pictures*", "", "", f"*{first['frechet']['fixed']['floor']:.2f}*", ""))
    return grid(("", "PSNR, dB", "SSIM", "Fréchet distance, fixed features", "seconds"), rows)


def told(found: dict[str, float]) -> tuple[str, str]:
    return f"{found['psnr']:.2f}", f"{found['ssim']:.3f}"


def branch_table(found: dict[str, float]) -> str:
    rows = [
        (f"with {what}", f"{found[key]:.2f}")
        for what, key in (
            ("the edges asked for", "asked"),
            ("the edges of another digit", "another's"),
            ("them, when the run draws and is told nothing", "not told"),
        )
    ]
    return grid(("edges drawn", "correlation"), rows)


def write_tables() -> None:
    result = json.loads(RESULTS.read_text())
    if "coders" in result:
        put(PAGE, "autoencoders", table(result))
    if "branch" in result:
        put(PAGE, "branch", branch_table(result["branch"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("coders", "branch", "table"))
    parser.add_argument("--seen", type=int, default=6400, help="Examples, of each autoencoder.")
    parser.add_argument("--keep", type=Path, help="Where to leave the runs.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep = arguments.keep or Path(tempfile.mkdtemp())
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments.what in (None, "coders"):
        result["coders"] = coders(keep, arguments.seen)
        result |= {"seen": arguments.seen, "ways": {w: asdict(o) for w, o in WAYS.items()}}
    if arguments.what in (None, "branch"):
        result["branch"] = branch(keep)
        print(result["branch"], flush=True)
    if arguments.what != "table":
        RESULTS.write_text(json.dumps(result | {"place": environment(1)}, indent=1) + "\n")
    write_tables()


if __name__ == "__main__":
    main()
