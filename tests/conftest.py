"""One thread for each worker: two threads that share a busy core are ten times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# The same cases at every run, and no clock: the machine may be shared.
settings.register_profile(
    "ornstein", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ornstein")
