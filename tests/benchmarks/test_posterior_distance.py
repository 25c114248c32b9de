"""The default of restoring, held to the exact posteriors of mixtures that its benchmark draws."""

import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import posterior  # pyright: ignore
from ornstein.core.sample import SAMPLERS, start
from ornstein.core.times import UniformGrid
from ornstein.tasks.methods import method_of
from ornstein.tasks.options import RestoreOptions


@pytest.mark.parametrize("steps", [RestoreOptions().steps, 50])
def test_the_default_is_near_the_posterior_of_a_mixture(steps):
    """Sliced Wasserstein, in its standard deviations; exact draws, as many, have 0.09."""
    asked, every = RestoreOptions(), []
    times = UniformGrid()(posterior.SCHEDULE, steps)
    for seed in range(posterior.PROBLEMS):
        problem, g = posterior.Problem(seed), torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        eps = torch.randn(400, 8, dtype=torch.float64, generator=g)
        x_t = start(posterior.SCHEDULE, times[0], eps)
        denoiser = method_of(asked).denoiser(problem.prior, problem.measured)
        every.append(problem.distance(SAMPLERS[str(asked.sampler)](denoiser, x_t, times)))
    assert fmean(every) < 0.2
