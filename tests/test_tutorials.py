"""The tutorials run as they stand, and make the pictures they promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ornstein.core.sample import SAMPLERS

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_and_makes_its_pictures(tutorial, tmp_path):
    # that the machine is slow is no fault of a tutorial
    strict = ["-W", "error::UserWarning", "-W", "default:Finding out how fast"]
    done = subprocess.run(
        [sys.executable, *strict, tutorial, tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "\n".join(done.stdout.splitlines()[-1:]).startswith("picture")
    assert all(path.stat().st_size > 500 for path in tmp_path.glob("*.png"))
    assert list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_has_a_row(name):
    page = (DOCS / "samplers.md").read_text()
    table = page.partition("## All of them")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert any(f"`{name}`" in row.split(" | ")[0] for row in rows)
