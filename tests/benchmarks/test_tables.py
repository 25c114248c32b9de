"""The tables of the pages are those that the committed results give."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_generated_tables_are_current(tmp_path):
    for part in ("benchmarks", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)
    pages = [tmp_path / "README.md", *(tmp_path / "docs").glob("*.md")]
    committed = {page: page.read_text() for page in pages}
    script = [sys.executable, str(tmp_path / "benchmarks" / "tables.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(script, check=True, env=environment, capture_output=True)
    old = [page.name for page, text in committed.items() if page.read_text() != text]
    assert not old, f"{', '.join(old)}: not what the results say; run make tables"
