"""What adapters are worth: a run goes on with few examples, by each way there is, for equal time.

A base is trained on scanned digits without the nines. It goes on with a hundred *italic* digits,
slanted by half a pixel each row, and with twenty *nines*, as a new class: by all weights, by
additions of low rank, by the new word alone; and a run is trained on them from scratch. All see as
many examples. Frechet distance of the pixels to examples that none has seen, above its floor:
between as many others and these. A *control branch* learns to follow edges, and what it draws is
held to edges that it has not seen: their correlation with those drawn, beside that with the edges
of other digits. Another learns to follow masks of *cells*: masks that it has not seen are held to
those that a threshold finds in what is drawn, Dice's coefficient, beside the masks of other
pictures, and beside real pictures, which say what the threshold can find.

    python benchmarks/adapters.py [--seeds 1] [--seen 12000]
    python benchmarks/adapters.py masks         the control by masks alone
    python benchmarks/adapters.py pictures      into docs/pictures
    python benchmarks/adapters.py table         into docs/adapters.md
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from measure import environment, grid
from pages import put
from pairs import dice, followed, otsu
from PIL import Image
from sklearn.datasets import load_digits

import ornstein as ou
import tasks
from ornstein.data import DataOptions, open_data
from ornstein.data.given import edges
from ornstein.evaluate.measures.distances import frechet_distance
from ornstein.runs.config import RunConfig
from ornstein.runs.model import Model
from ornstein.train import recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "adapters.json"
PAGE = HERE.parent / "docs" / "adapters.md"
PICTURES = HERE.parent / "docs" / "pictures"
BASE = 100_000  # examples seen
FEW = {"italic": 100, "nines": 20}
SMOOTHED = 0.75  # pixels, before the threshold that finds cells
WAYS: dict[str, dict[str, Any]] = {
    "all weights": {"learn": "all"},
    "low rank, 2": {"rank": 2},
    "low rank, 8": {"rank": 8},
    "low rank, 32": {"rank": 32},
    "the word alone": {"learn": "words"},
    "from scratch": {},
}
SAID = """## What it is worth

`benchmarks/adapters.py`: a base that has seen {base:,} scanned digits, nines left out, goes on with
few examples, each way with {seen:,} looks at them. Fréchet distance of pixels to examples that none
has seen, above the floor, which is that of as many others; less is better. How the edges that are
drawn agree with those asked for; and how the cells do, of a base of drawn cells that has seen
{seen:,}, and a branch as many."""
Labelled = tuple[np.ndarray, np.ndarray]


# --- Data ----------------------------------------------------------------------------------------


@cache
def digits() -> Labelled:
    """All of them ``(N, 8, 8)``, in an order that mixes who wrote them, and what they are."""
    x, y = load_digits(return_X_y=True)
    mixed = np.random.default_rng(0).permutation(len(y))
    return np.asarray(x).reshape(-1, 8, 8).astype(np.uint8)[mixed], np.asarray(y)[mixed]


def italic(x: np.ndarray) -> np.ndarray:
    """Slanted to the right, half a pixel each row."""
    slant, place = np.zeros_like(x), np.arange(8)
    for row in range(8):
        at = place - (3.5 - row) / 2
        for i, line in enumerate(x[:, row].astype(float)):
            slant[i, row] = np.clip(np.rint(np.interp(at, place, line, left=0, right=0)), 0, 16)
    return slant


def split(name: str) -> tuple[Labelled, np.ndarray, np.ndarray]:
    """A few examples to learn from, and two sets of others: to judge by, and for the floor."""
    x, y = digits()
    if name == "nines":
        x, y = x[y == 9], y[y == 9]
    else:
        x, y = italic(x[y != 9]), y[y != 9]
    few, half = FEW[name], (len(x) + FEW[name]) // 2
    return (x[:few], y[:few]), x[few:half], x[half:]


# --- Runs ----------------------------------------------------------------------------------------


def trained(what: str, source: Labelled | str, config: RunConfig) -> Model:
    """A run of this benchmark, which is not trained twice."""
    place = tasks.CACHE / "adapters" / what
    if not (place / "run.json").exists():
        ou.train(source, config=config, out=place, device="cpu")
    return ou.load(place)


def base_of(seed: int) -> Model:
    """Of all digits but nines."""
    x, y = digits()
    source, options = (x[y != 9], y[y != 9]), DataOptions(validation=0.0)
    config = recipe(open_data(source, options))
    train = replace(config.train, seen=BASE, precision="bf16")
    config = replace(config, seed=seed, data=options, train=train)
    return trained(f"base-{seed}", source, config)


def gone_on(name: str, way: str, seed: int, seen: int) -> Model:
    """The base after it has gone on with a few examples, by a way; or what knows these alone."""
    base, (source, _, _) = base_of(seed), split(name)
    config = base.config
    if way != "from scratch":
        options: dict[str, Any] = WAYS[way] | ({"like": "4"} if name == "nines" else {})
        config = ou.adaptation(base, **options)
    config = replace(config, seed=seed, train=replace(config.train, seen=seen))
    return trained(
        f"{name}-{way.replace(', ', '-').replace(' ', '-')}-{seed}-{seen}", source, config
    )


def ways_of(name: str) -> list[str]:
    return [way for way in WAYS if name == "nines" or way != "the word alone"]


def controlled(seed: int, seen: int) -> Model:
    """The base with a branch that follows edges."""
    base, (x, y) = base_of(seed), digits()
    config = ou.adaptation(base, "control")
    config = replace(config, seed=seed, data=replace(config.data, given="edges"))
    config = replace(config, train=replace(config.train, seen=seen))
    known = y != 9
    return trained(f"edges-{seed}-{seen}", (x[known][:-200], y[known][:-200]), config)


# --- Figures -------------------------------------------------------------------------------------


def distance(drawn: np.ndarray, real: np.ndarray) -> float:
    """In the units of grey levels over 16; the fewer decide for both."""
    count = min(len(drawn), len(real))
    a, b = (part[:count].reshape(count, -1).astype(float) / 16 for part in (drawn, real))
    return frechet_distance(a, b)


def drawn_by(model: Model, name: str, count: int) -> np.ndarray:
    """Of each class of the data as often; of a class that the run does not know, the nearest."""
    known = model.vocabulary.classes
    labels = (["9"] if "9" in known else ["4"]) if name == "nines" else [str(i) for i in range(9)]
    return ou.sample(model, count, labels).arrays


def quality(name: str, seed: int, seen: int) -> dict[str, Any]:
    """The distance above the floor of each way, and what it adds to the disk."""
    _, judge, other = split(name)
    floor = distance(other, judge)
    base = base_of(seed)
    found = {"before": {"above": distance(drawn_by(base, name, len(judge)), judge) - floor}}
    for way in ways_of(name):
        model = gone_on(name, way, seed, seen)
        above = distance(drawn_by(model, name, len(judge)), judge) - floor
        assert model.run is not None
        checkpoint = model.run.latest()
        assert checkpoint is not None
        found[way] = {"above": above, "bytes": checkpoint.size("ema-0")}
        print(name, seed, way, f"{above:.3f}", f"{checkpoint.size('ema-0'):,} bytes", flush=True)
    return found | {"floor": {"above": floor}}


def masks(seed: int, seen: int) -> dict[str, Any]:
    """How the cells that are drawn lie in the masks asked for, and in those of others."""
    options = DataOptions(given="mask", make="image")
    config = recipe(open_data("cells"))
    train = replace(config.train, seen=seen, precision="bf16")
    base = trained(f"cells-{seed}-{seen}", "cells", replace(config, seed=seed, train=train))
    config = ou.adaptation(base, "control")
    config = replace(config, seed=seed, data=options, train=replace(config.train, seen=seen))
    model = trained(f"masks-{seed}-{seen}", "cells", config)
    held = open_data("cells", options).split(options.validation, 0)[1]
    assert held.given is not None and model.given is not None
    asked = held.given.stored[:200]
    real, context = held.stored[:200].numpy(), model.given.pack(asked)
    found = {"real": real, "asked": drawn(model, context), "not told": drawn(base)}
    truth = asked.numpy() > 0
    seen_in = {name: otsu(p.reshape(real.shape), SMOOTHED) for name, p in found.items()}
    others = {"another's": dice(seen_in["asked"], np.roll(truth, 1, 0))}
    return {name: dice(cells, truth) for name, cells in seen_in.items()} | others


def lines_of(model: Model, arrays: np.ndarray) -> torch.Tensor:
    stored = torch.from_numpy(arrays.reshape(-1, 1, 8, 8))
    return edges(model.codec.pack(stored))


def following(seed: int, seen: int) -> dict[str, Any]:
    """How the edges that are drawn agree with those asked for, and with those of others."""
    model, (x, y) = controlled(seed, seen), digits()
    held = x[y != 9][-200:]
    asked = lines_of(model, held)
    assert model.given is not None
    context = model.given.pack((255 * asked).round().to(torch.uint8))
    plain, told = (lines_of(model, a) for a in (drawn(base_of(seed)), drawn(model, context)))
    return followed(told, plain, asked)


def drawn(model: Model, context: torch.Tensor | None = None) -> np.ndarray:
    """200 examples, each of what is given to it."""
    from ornstein.tasks.options import SampleOptions
    from ornstein.tasks.sample import stream

    given = None if context is None else (lambda indices: context[torch.tensor(indices)])
    parts = stream(model, SampleOptions(count=200), context=given)
    return np.concatenate([part.arrays for part in parts])


# --- The page ------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    rows = list[tuple[str, ...]]()
    for way in ("before", *WAYS):
        cells = [way if way != "before" else "the base as it was"]
        for name in FEW:
            seeds = [f[name] for f in result["seeds"].values() if way in f[name]]
            cells.append(told([seed[way]["above"] for seed in seeds]) if seeds else "")
        sizes = [f["nines"][way].get("bytes", 0) for f in result["seeds"].values()]
        rows.append((*cells, f"{sizes[0] / 1000:,.0f} kB" if sizes[0] else ""))
    quality = grid(("", "100 italic digits", "20 nines, a new class", "weights of the run"), rows)
    found = [seed["control"] for seed in result["seeds"].values()]
    lines = [
        (f"with {what}", told([f[key] for f in found]))
        for what, key in (
            ("the edges asked for", "asked"),
            ("the edges of another digit", "another's"),
            ("them, when the base draws and is told nothing", "not told"),
        )
    ]
    said = SAID.format(seen=result["seen"], base=BASE)
    found = [seed["masks"] for seed in result["seeds"].values() if "masks" in seed]
    cells = [
        (what, told([f[key] for f in found]))
        for what, key in (
            ("with the mask asked for", "asked"),
            ("with the mask of another picture", "another's"),
            ("with it, when the base draws and is told nothing", "not told"),
            ("*real pictures, with their own masks*", "real"),
        )
    ]
    tables = (
        quality,
        grid(("edges drawn", "correlation"), lines),
        grid(("cells drawn, as a threshold finds them", "Dice"), cells),
    )
    return "\n\n".join((said, *tables))


def told(values: Sequence[float]) -> str:
    """The mean over seeds, and each one's."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ({', '.join(f'{v:.2f}' for v in values)})"


def pictures(seen: int) -> None:
    """Rows of digits: what each adapter draws, at rising strength, and edges that are followed."""
    base, rows = base_of(0), list[np.ndarray]()
    style = gone_on("italic", "low rank, 8", 0, seen)
    assert base.run is not None and style.run is not None
    labels = [str(i) for i in range(9)]
    for strength in (0.0, 0.5, 1.0, 1.5):
        model = ou.load(base.run.path, adapters=[(style.run.path, strength)])
        rows.append(ou.sample(model, 18, labels).arrays)
    save(rows, "adapter-strength")
    few = split("nines")[0][0][:18]
    learned = [gone_on("nines", way, 0, seen) for way in ("the word alone", "low rank, 8")]
    save([few, *(ou.sample(model, 18, "9").arrays for model in learned)], "adapter-word")
    model, (x, y) = controlled(0, seen), digits()
    asked = lines_of(model, x[y != 9][-200:])
    assert model.given is not None
    context = model.given.pack((255 * asked).round().to(torch.uint8))
    lines = (16 * asked[:18, 0]).numpy().astype(np.uint8)
    save([x[y != 9][-200:][:18], lines, drawn(model, context)[:18]], "adapter-edges")


def save(rows: Sequence[np.ndarray], name: str, scale: int = 5) -> None:
    """Rows of digits as one picture."""
    lines = [np.concatenate([np.pad(d, 1) for d in row.reshape(-1, 8, 8)], 1) for row in rows]
    sheet = (np.concatenate(lines).astype(float) / 16 * 255).astype(np.uint8)
    Image.fromarray(sheet.repeat(scale, 0).repeat(scale, 1)).save(PICTURES / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("measure", "masks", "pictures", "table"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seen", type=int, default=12_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "pictures":
        pictures(arguments.seen)
        return
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"seeds": {}}
    if arguments.what != "table":
        for seed in range(arguments.seeds):
            found = result["seeds"].setdefault(str(seed), dict[str, Any]())
            if arguments.what != "masks":
                found |= {name: quality(name, seed, arguments.seen) for name in FEW}
                found["control"] = following(seed, arguments.seen)
            found["masks"] = masks(seed, arguments.seen)
            print(found.get("control"), found["masks"], flush=True)
        result |= {"seen": arguments.seen, "place": environment(1)}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    put(PAGE, "adapters", table(result))


if __name__ == "__main__":
    main()
