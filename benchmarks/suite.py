"""All claims of speed, measured side by side with the peers, and the pages they are told on.

    python benchmarks/suite.py [CLAIM ...] [--threads 1] [--quick] [--peers ...]
    python benchmarks/suite.py --tables

The first writes ``benchmarks/results/NAME_hardware_date.json`` for each claim; the second writes
the tables of ``docs/performance.md`` and ``docs/samplers.md`` and the lines of figures from the
newest of them. What measures Ornstein alone, and is no matter of half an hour, runs if it is named.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median

import calls
import networks
import orders
import recipes
import samplers
from coldstart import COLDSTART
from drawing import DRAWING
from errors import ERRORS
from limits import LIMITS
from measure import RESULTS, Claim, Result, grid, is_quiet, newest, options_of, parser, write
from memory import MEMORY
from overhead import OVERHEAD
from pages import put
from peers.pipe import OURS
from precision import PRECISION
from quality import QUALITY
from scaling import SCALING
from throughput import LARGER, THROUGHPUT, ratios

CLAIMS = {
    claim.name: claim
    for claim in (
        LIMITS,
        THROUGHPUT,
        DRAWING,
        QUALITY,
        ERRORS,
        OVERHEAD,
        PRECISION,
        COLDSTART,
        MEMORY,
        SCALING,
    )
}
ALONE: dict[str, Callable[[list[str]], None]] = {
    "recipes": recipes.main,
    "calls": calls.main,
    "samplers": samplers.main,
    "orders": orders.main,
    "networks": networks.main,
}
"""Scripts by the name of their results; each has options of its own where it is run by itself."""
ROOT = Path(__file__).parents[1]


# --- Pages ---------------------------------------------------------------------------------------


def section(claim: Claim, folder: Path = RESULTS) -> str:
    """The tables of a claim, one for each kind of machine it was measured on."""
    found = newest(claim.name, folder)
    parts = [f"{place(result)}\n\n{claim.table(result)}" for result in found]
    return "\n\n".join(parts) or "Not measured yet."


def place(result: Result) -> str:
    """On what, when, and how far to trust it."""
    at = result["place"]
    threads = f"{at['threads']} thread" + "s" * (at["threads"] > 1)
    clock = "time of the processor" if at["clock"] == "processor" else "time of the clock"
    words = f"*{at['processor']}, {threads}, PyTorch {at['torch']}, {at['date'][:10]}; {clock}"
    if not is_quiet(at):
        words += f"; the machine was busy ({business(at)})"
    return words + ".*"


def business(place: Result) -> str:
    """With what else."""
    if "load" in place:
        return f"load {place['load']:g} before, {place['cores']} cores"
    if place["others"] is None:
        return "with what, is not known"
    return f"others kept {place['others']:.1f} of {place['cores']} cores at work"


def recipes_table(folder: Path = RESULTS) -> str:
    """What `recipes.py` has measured: ours alone, in budgets that the peers were not given."""
    path = folder / "recipes.json"
    if not path.exists():
        return "Not measured yet."
    found, shown = json.loads(path.read_text()), list[list[str]]()
    for name, seconds in dict.fromkeys((r["task"], r["seconds"]) for r in found["rows"]):
        runs = [r for r in found["rows"] if (r["task"], r["seconds"]) == (name, seconds)]
        what, unit = ("energy", 1e3) if runs[0]["net"].startswith("mlp") else ("above_floor", 1)
        each = [f"{run[what] * unit:.2f}" for run in runs]
        blind = found["a Gaussian fitted to the numbers"][name][what] * unit
        nearer = fmean(run["nearer_train"] for run in runs)
        updates = f"{median(run['updates'] for run in runs):,.0f}"
        of = "energy, thousandths" if unit > 1 else "Fréchet above floor"
        row = [f"{name}, {seconds:g} s", of, ", ".join(each), f"{blind:.1f}", f"{nearer:.2f}"]
        shown.append([*row, runs[0]["net"], updates])
    head = ("task", "figure", "each seed", "a Gaussian", "nearer to training data", "network")
    return grid((*head, "updates"), shown)


def calls_table(folder: Path = RESULTS) -> str:
    """What `calls.py` has measured: how far few calls are from many, and from real data."""
    path = folder / "calls.json"
    if not path.exists():
        return "Not measured yet."
    rows = json.loads(path.read_text())["calls"]
    shown = list[list[str]]()
    for name, row in rows.items():
        for how, found in row.items():
            error, frechet = found["error"]["value"], found["frechet"]
            away = f"{error:.3f}" if error else ""
            shown.append([name, how, away, f"{frechet['value']:.2f} ± {frechet['spread']:.2f}"])
    return grid(("calls", "grid", "from where 1000 end", "Fréchet"), shown)


def speed_line(folder: Path = RESULTS) -> str:
    """The lines of the README."""
    found = [r for r in newest(THROUGHPUT.name, folder) if OURS in r["rows"]]
    if not found:
        return "Not measured yet."
    rows, at = found[0]["rows"], found[0]["place"]
    threads = f"{at['threads']} thread" + "s" * (at["threads"] > 1)
    parts = [faster(rows, name) for name in (OURS, LARGER) if name in rows]
    return (
        f"Pictures a second in training, 32 x 32 in colour, batch 32, {threads} of an "
        f"{at['processor']}, each with its own defaults: {'; '.join(parts)}. "
        "[All figures, and how they came about](docs/performance.md)."
    )


def overhead_line(folder: Path = RESULTS) -> str:
    """What a step of our samplers takes, of one picture."""
    found = [r for r in newest(OVERHEAD.name, folder) if f"{OURS}, DDIM" in r["rows"]]
    if not found:
        return "Not measured yet."
    rows = [row for row in found[0]["rows"].values() if row["peer"] == OURS]
    times = ", ".join(f"{row['batch 1']['median']:.1f} of {row['rule']}" for row in rows)
    return (
        "Microseconds a step, of a 3 x 32 x 32 picture, beside the denoiser (a step of Heun's rule "
        f"is two calls of it): {times}."
    )


def faster(rows: Result, ours: str) -> str:
    """Than the peers, with how many weights."""
    parts = [f"{times:.1f} times {name}" for name, times in ratios(rows, ours).items()]
    weights = [row["parameters"] / 1e6 for name, row in rows.items() if not name.startswith(OURS)]
    theirs = f" (theirs {min(weights):.1f} to {max(weights):.1f})" if ours == OURS else ""
    return f"with {rows[ours]['parameters'] / 1e6:.1f} million weights{theirs} {', '.join(parts)}"


def write_pages(root: Path = ROOT, folder: Path = RESULTS) -> None:
    page = root / "docs/performance.md"
    for claim in CLAIMS.values():
        put(page, claim.name, section(claim, folder))
    put(page, "recipes", recipes_table(folder))
    put(page, "calls", calls_table(folder))
    put(root / "README.md", "speed", speed_line(folder))
    put(root / "docs/samplers.md", "overhead", overhead_line(folder))


# --- Command -------------------------------------------------------------------------------------


def main() -> None:
    arguments = parser(__doc__)
    known = [*CLAIMS, *ALONE]
    arguments.add_argument("claims", nargs="*", metavar="CLAIM", help=", ".join(known))
    arguments.add_argument("--tables", action="store_true", help="write the pages, measure nothing")
    given = arguments.parse_args()
    unknown = set(given.claims) - set(known)
    if unknown:
        arguments.error(f"no claim {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if given.tables:
        write_pages()
        return
    for name in given.claims or CLAIMS:
        if name in ALONE:
            ALONE[name]([])
            continue
        began = time.monotonic()
        path = write(CLAIMS[name], options_of(given), given.out)
        print(f"{CLAIMS[name].table(json.loads(path.read_text()))}\n")
        print(f"{path}, {time.monotonic() - began:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
