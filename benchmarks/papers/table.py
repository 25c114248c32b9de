"""Write the tables of docs/papers.md, between its markers, from the JSON of the other scripts.

python benchmarks/papers/table.py [--list]
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from claims import RESULTS, spread

from ornstein.data.codec import write_bytes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "papers.md"
ORDER = (
    "swiss_roll",
    "ddim_table",
    "low_calls",
    "learned_variance",
    "sub_vp_bits",
    "learned_schedule",
    "edm_ablation",
    "posthoc_ema",
    "autoguidance",
    "repaint",
)
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"

Facts = dict[str, Any]


def read() -> dict[str, Facts]:
    """What was measured, by script; only full measurements of the usual data."""
    places = {name: RESULTS / f"papers_{name}.json" for name in ORDER}
    return {name: json.loads(p.read_text()) for name, p in places.items() if p.exists()}


def filled(page: str) -> str:
    """The page with what is between its markers made anew."""
    found = read()
    lines = [line for facts in found.values() for line in facts["lines"]]
    held = sum(line["holds"] for line in lines)
    parts = [f"{held} of {len(lines)} lines hold."]
    parts += [section(name, facts) for name, facts in found.items()]
    before, rest = page.split(BEGIN)
    return "\n\n".join([before + BEGIN, *parts, END]) + rest.split(END)[1]


def section(name: str, facts: Facts) -> str:
    """A claim, its lines, why some do not hold, and the table of what was measured."""
    cells, reasons = [["line", "ours", ""]], []
    for line in facts["lines"]:
        cells.append([line["text"], line["ours"], verdict(line)])
        if not line["holds"] and line["because"]:
            reasons.append(line["because"])
    parts = [
        f"### {facts['paper']}",
        f"{facts['says']} ([Paper]({facts['url']}))",
        f"*Published*: {facts['published']}.<br>\n*Here*: {facts['setting']}.<br>\n"
        f"*Floor*: {facts['floor']}.",
        rows(cells),
        *dict.fromkeys(reasons),
    ]
    if name in DETAILS:
        caption, make = DETAILS[name]
        parts += [caption, make(facts)]
    return "\n\n".join(parts)


def verdict(line: Facts) -> str:
    if line["holds"]:
        return "holds"
    held, seeds = sum(line["each"]), len(line["each"])
    return "*does not hold*" + (f" ({held} of {seeds} seeds)" if seeds > 1 else "")


def rows(cells: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([head, "|---" * len(cells[0]) + "|", *body])


# --- What was measured ---------------------------------------------------------------------------


def ddim(facts: Facts) -> str:
    """Ours beside the paper's."""
    table, published = facts["values"]["table"], facts["values"]["published"]
    steps = facts["values"]["steps"]
    cells = [["", *(f"{s} steps" for s in steps), *(f"CIFAR-10, {s}" for s in steps)]]
    for name, row in table.items():
        ours = [spread(row[str(s)]["learned"]) if str(s) in row else "" for s in steps]
        cells.append([name, *ours, *map(str, published[name])])
    return rows(cells)


def low_calls(facts: Facts) -> str:
    """Distance from the solution, on the best grid, and the Fréchet distance at most calls."""
    values, tables = facts["values"], []
    calls = [n for n in values["edm"][0]["Euler"]["best"] if int(n) > 3]
    for seeds in (values["edm"], values["ddpm"]):
        last = f"Fréchet distance at {calls[-1]}; floor {spread(values['floor']['learned'])}"
        cells = [["", *(f"{n} calls" for n in calls), last]]
        for name, row in seeds[0].items():
            found = [[s[name]["best"][n] for s in seeds] if n in row["best"] else [] for n in calls]
            frechet = [s[name]["learned"].get(calls[-1]) for s in seeds]
            shown = "" if None in frechet else spread(frechet)
            cells.append([name, *(spread(v, 2) if v else "" for v in found), shown])
        tables.append(rows(cells))
    between = "The same for DDPM's network, which predicts noise:"
    return "\n\n".join([tables[0], between, tables[1]])


def widths(facts: Facts) -> str:
    """By the length of the average."""
    values = facts["values"]
    columns = {
        "Fréchet distance, learned features": "learned",
        "fixed features": "fixed",
        "held-out loss": "loss",
    }
    cells = [["width", *columns]]
    for i, width in enumerate(values["widths"]):
        means = [spread([seed[i] for seed in values[key]]) for key in columns.values()]
        cells.append([str(width), *means])
    return rows(cells)


def tree(facts: Facts) -> str:
    """Outliers and coverage by weight."""
    seeds, kinds = facts["values"]["seeds"], ("autoguidance", "classifier-free")
    keys = ("outliers", "coverage")
    names = [f"{kind}: {key}" for kind in kinds for key in keys]
    cells = [["weight", *names]]
    for i, row in enumerate(seeds[0][kinds[0]]):
        values = [[s[kind][i][key] for s in seeds] for kind in kinds for key in keys]
        cells.append([str(row["weight"]), *map(spread, values)])
    return rows(cells)


def gaussian(facts: Facts) -> str:
    """What RePaint makes of a Gaussian."""
    cells = [["walks", "slope of the mean (true: 0.9)", "variance over the true one"]]
    for repeats, row in facts["values"]["gaussian"].items():
        cells.append([repeats, f"{row['slope']:.3f}", f"{row['variance']:.3f}"])
    return rows(cells)


DETAILS: dict[str, tuple[str, Callable[[Facts], str]]] = {
    "ddim_table": ("Fréchet distance on learned features, beside the published FID:", ddim),
    "low_calls": (
        "Root mean square distance from the solution, each solver on the best of three grids "
        "(Karras's, equal steps of log-SNR, equal steps of t):",
        low_calls,
    ),
    "posthoc_ema": ("By the length of the average:", widths),
    "autoguidance": (
        "Outliers are less likely than all but a thousandth of real points; coverage is the "
        "overlap of the samples' shares of the branches with the true ones:",
        tree,
    ),
    "repaint": (
        "Two numbers of correlation 0.9, the first one known; 250 steps, jumps of 10; worked "
        "out exactly from the answer to each unit of noise:",
        gaussian,
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Fill the tables of docs/papers.md.")
    parser.add_argument("--list", action="store_true", help="name the scripts, in order, instead")
    if parser.parse_args().list:
        print(*ORDER)
    else:
        write_bytes(PAGE, filled(PAGE.read_text()).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
