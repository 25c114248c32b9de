"""Children that are killed: forked from a server that has imported everything already."""

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def children() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["ornstein.train.start", "pydantic.type_adapter", "scipy.special"]
    )
    return context


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where a thousand checkpoints do not wait for the disk a thousand times.

    To SIGKILL it is all the same: what was written stays written.
    """
    shared = Path("/dev/shm")
    if not shared.is_dir():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="ornstein-", dir=shared))
    yield folder
    shutil.rmtree(folder)
