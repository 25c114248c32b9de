"""The default of restoring, held to the exact posteriors of mixtures that its benchmark draws."""

import sys
from pathlib import Path
from statistics import fmean

import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import posterior  # pyright: ignore

from ornstein.core.sample import SAMPLERS, start
from ornstein.core.times import UniformGrid
from ornstein.tasks.methods import method_of
from ornstein.tasks.options import RestoreOptions


def test_the_default_is_near_the_posterior_of_a_mixture_as_typed_and_in_50_steps():
    """Sliced Wasserstein, in its standard deviations; exact draws, as many, have 0.09."""
    asked, found = RestoreOptions(), list[list[float]]()
    for seed in range(4):
        problem, every = posterior.Problem(seed), list[float]()
        denoiser = method_of(asked).denoiser(problem.prior, problem.measured)
        for steps in (asked.steps or 0, 50):
            times = UniformGrid()(posterior.SCHEDULE, steps)
            torch.manual_seed(seed)
            x_t = start(posterior.SCHEDULE, times[0], torch.randn(400, 8, dtype=torch.float64))
            every.append(problem.distance(SAMPLERS[str(asked.sampler)](denoiser, x_t, times)))
        found.append(every)
    assert max(map(fmean, zip(*found, strict=True))) < 0.2
