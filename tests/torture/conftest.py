"""Children that are killed: forked from a server that has imported everything already."""

import multiprocessing
from multiprocessing.context import ForkServerContext

import pytest


@pytest.fixture(scope="session")
def children() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "ornstein.train.start", "scipy.special"])
    return context
