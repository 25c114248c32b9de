"""Write the tables of docs/papers.md, between its markers, from the JSON of the other scripts.

python benchmarks/papers/table.py [--check]
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
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
Facts = dict[str, Any]


def read() -> dict[str, Facts]:
    """What was measured, by script; only full measurements of the usual data."""
    places = {name: RESULTS / f"papers_{name}.json" for name in ORDER}
    return {name: json.loads(p.read_text()) for name, p in places.items() if p.exists()}


def rows(cells: Sequence[Sequence[object]]) -> str:
    """A table; the first row is its head."""
    head, *body = ["| " + " | ".join(map(str, row)) + " |" for row in cells]
    return "\n".join([head, "|---" * len(cells[0]) + "|", *body])


def claims(found: dict[str, Facts]) -> str:
    """One row for each line, and why where a line does not hold."""
    cells = [["claim", "published", "here", "line", "ours", ""]]
    reasons = []
    for facts in found.values():
        about = [
            f"[{facts['paper']}]({facts['url']}): {facts['says']}",
            facts["published"],
            f"{facts['setting']}. Floor: {facts['floor']}",
        ]
        for line in facts["lines"]:
            held = sum(line["each"])
            verdict = "holds" if line["holds"] else "*does not hold*"
            if not line["holds"] and len(line["each"]) > 1:
                verdict += f" ({held} of {len(line['each'])} seeds)"
            cells.append([*about, line["text"], line["ours"], verdict])
            about = ["", "", ""]
            if not line["holds"] and line["because"]:
                reasons.append(f"- *{facts['paper']}*, “{line['text']}”: {line['because']}")
    text = rows(cells)
    return text + ("\n\nWhy lines do not hold:\n\n" + "\n".join(reasons) if reasons else "")


def ddim(facts: Facts) -> str:
    """The table of the paper beside ours."""
    table, published = facts["values"]["table"], facts["values"]["published"]
    steps = facts["values"]["steps"]
    cells = [["", *(f"{s} steps" for s in steps), *(f"CIFAR-10, {s}" for s in steps)]]
    for name, row in table.items():
        ours = [spread(row[str(s)]["learned"]) if str(s) in row else "" for s in steps]
        cells.append([name, *ours, *map(str, published[name])])
    return rows(cells)


def low_calls(facts: Facts) -> str:
    """Distance from the solution, on the best grid, and the Fréchet distance at most calls."""
    seeds, floor = facts["values"]["seeds"], facts["values"]["floor"]["learned"]
    calls = [n for n in seeds[0]["Euler"]["best"] if int(n) > 3]
    last = f"Fréchet distance at {calls[-1]} (Heun: 9; floor {spread(floor)})"
    cells = [["", *(f"{n} calls" for n in calls), last]]
    for name, row in seeds[0].items():
        found = [[s[name]["best"][n] for s in seeds] if n in row["best"] else [] for n in calls]
        most = max(row["learned"], key=int)
        frechet = spread([s[name]["learned"][most] for s in seeds])
        cells.append([name, *(spread(v, 2) if v else "" for v in found), frechet])
    return rows(cells)


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
    "ddim": ("ddim_table", ddim),
    "low-calls": ("low_calls", low_calls),
    "widths": ("posthoc_ema", widths),
    "tree": ("autoguidance", tree),
    "gaussian": ("repaint", gaussian),
}


def tables() -> Iterator[tuple[str, str]]:
    """Marker and text."""
    found = read()
    yield "claims", claims(found)
    for marker, (name, make) in DETAILS.items():
        if name in found:
            yield marker, make(found[name])


def filled(page: str) -> str:
    """The page with its tables made anew."""
    for marker, text in tables():
        pattern = rf"(<!-- {marker} -->\n).*?(\n<!-- end -->)"
        page, count = re.subn(pattern, lambda m, text=text: f"{m[1]}{text}{m[2]}", page, flags=re.S)
        if count != 1:
            raise ValueError(f"expected the marker {marker!r} once in {PAGE.name}, found {count}")
    return page


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
