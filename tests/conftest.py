"""One thread for each worker: two threads that share a busy core are ten times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# The same cases at every run, and no clock: the machine may be shared.
settings.register_profile(
    "ornstein", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ornstein")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory) -> None:
    """What a slow machine keeps because it took long is nothing to who runs the tests."""
    os.environ["ORNSTEIN_CACHE"] = str(tmp_path_factory.mktemp("cache"))
