"""What was tried once, in tables: docs/what-did-not-help.md from ``results/trials.json``.

    python benchmarks/trials.py

What is left again after it was tried leaves no script behind, or a line to `recipes.py`. Each
table says of what it is, when it was measured and by what, null for a script that is not kept; the
rows hold all that was written down. ``columns`` say how a row is shown, by `str.format`; what a row
lacks is left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measure import RESULTS, Result, grid
from pages import put

PAGE = Path(__file__).parents[1] / "docs/what-did-not-help.md"


def write_tables() -> None:
    for name, trial in json.loads((RESULTS / "trials.json").read_text()).items():
        put(PAGE, name, table(trial))


def table(trial: Result) -> str:
    """One trial: a line on what it is of, and its rows."""
    by = trial["by"] or "a script that is not kept"
    of = f"*{trial['of'][0].upper()}{trial['of'][1:]}. Measured {trial['date']}, by {by}.*"
    rows = [[cell(form, row) for form in trial["columns"].values()] for row in trial["rows"]]
    return f"{of}\n\n{grid(list(trial['columns']), rows)}"


def cell(form: str, row: Mapping[str, Any]) -> str:
    """A row by `form`; empty if it lacks what that asks for."""
    try:
        return form.format(**row)
    except (KeyError, IndexError):
        return ""


if __name__ == "__main__":
    write_tables()
