"""Write every table of the README and the docs anew from what was measured: ``make tables``.

    python benchmarks/tables.py

Nothing is measured, and what has not been measured yet is left as it stands; a second time changes
nothing. tests/benchmarks/test_tables.py holds the pages to it.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks" / "papers"))

import adapters  # noqa: E402
import anomaly  # noqa: E402
import augment  # noqa: E402
import autoencoders  # noqa: E402
import classify  # noqa: E402
import comparison  # noqa: E402
import distillation  # noqa: E402
import few  # noqa: E402
import latent  # noqa: E402
import measurements  # noqa: E402
import networks  # noqa: E402
import orders  # noqa: E402
import pairs  # noqa: E402
import photographs  # noqa: E402
import posterior  # noqa: E402
import prior  # noqa: E402
import rows  # noqa: E402
import samplers  # noqa: E402
import scenes  # noqa: E402
import suite  # noqa: E402
import table as papers  # noqa: E402
import trials  # noqa: E402
import weak  # noqa: E402
from pages import put  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"


def of_papers() -> None:
    papers.PAGE.write_text(papers.filled(papers.PAGE.read_text()))


def of_pairs() -> None:
    result = json.loads((RESULTS / "pairs.json").read_text())
    put(DOCS / "pairs.md", "digits", pairs.digits_table(result["digits"]))
    put(DOCS / "pairs.md", "cells", pairs.cells_table(result["cells"]))


def of_posteriors() -> None:
    result = json.loads((RESULTS / "posterior.json").read_text())
    page = DOCS / "restoring.md"
    put(page, "points", posterior.points_table(result["points"]))
    put(page, "curve", posterior.curve_table(result["curve"]))
    put(page, "bias", posterior.bias_table(result["bias"]))
    put(page, "digits", posterior.digits_table(result["digits"]))


def of_photographs() -> None:
    result = json.loads((RESULTS / "photographs.json").read_text())
    put(DOCS / "restoring.md", "photographs", photographs.table(result["tasks"]))


def of_adapters() -> None:
    result = json.loads((RESULTS / "adapters.json").read_text())
    put(adapters.PAGE, "adapters", adapters.table(result))


def of_distillation() -> None:
    result = json.loads((RESULTS / "distillation.json").read_text())
    put(distillation.PAGE, "distillation", distillation.table(result))


WRITERS: dict[str, Callable[[], object]] = {
    "throughput*": suite.write_pages,
    "papers*": of_papers,
    "comparison*": comparison.write_tables,
    "pairs": of_pairs,
    "posterior": of_posteriors,
    "photographs": of_photographs,
    "measurements": measurements.write_tables,
    "anomaly": anomaly.write_table,
    "augment": augment.table,
    "classify": classify.table,
    "scenes": scenes.table,
    "scenes_minutes": scenes.minutes_table,
    "prior": prior.table,
    "adapters": of_adapters,
    "distillation": of_distillation,
    "few": few.write_table,
    "rows": rows.write_table,
    "latent": latent.write_table,
    "autoencoders": autoencoders.write_tables,
    "networks": networks.write_tables,
    "orders": orders.write_table,
    "samplers": samplers.write_tables,
    "trials": trials.write_tables,
    "weak": weak.write_tables,
}
"""By the name of the results that each tells."""


def main() -> None:
    os.chdir(ROOT)
    for name, write in WRITERS.items():
        if any(RESULTS.glob(f"{name}.json")):
            write()


if __name__ == "__main__":
    main()
