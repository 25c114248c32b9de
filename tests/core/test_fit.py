"""Fitted rules: few steps that end where many do, on noise they never saw."""

import pytest
import torch
from torch.testing import assert_close

from ornstein.core import noise
from ornstein.core.exact import MixtureDenoiser
from ornstein.core.fit import FittedRule, fit, least_squares, unfitted
from ornstein.core.sample import RK45, SAMPLERS, AdamsBashforth, start
from ornstein.core.times import KarrasGrid, LogSNRGrid, UniformGrid
from truths import F64, gaussian, mixture, normal

FLOW = noise.FlowSchedule()
GRIDS = {
    "uniform": UniformGrid(),
    "log-snr": LogSNRGrid(),
    "log-snr-5": LogSNRGrid(log_snr_min=-5.0, log_snr_max=5.0),
    "karras": KarrasGrid(),
}


def standardised() -> MixtureDenoiser:
    """Three Gaussians, of mean 0 and variance 1 together, as the codec makes data."""
    raw = mixture(FLOW)
    mean = raw.weights @ raw.means
    centred = raw.means - mean
    total = raw.covs + centred[:, :, None] * centred[:, None]
    std = (torch.einsum("k,kii->", raw.weights, total) / 2).sqrt()
    return MixtureDenoiser(raw.weights, centred / std, raw.covs / std**2, FLOW)


def rms(x):
    return x.square().mean().sqrt().item()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [4, 6])
def test_a_fitted_rule_halves_the_error_of_the_best_grid_on_unseen_noise(steps):
    truth = standardised()
    times = torch.tensor([1.0, 0.0], dtype=F64)
    known, unseen = normal(1024, 2, seed=1), normal(1024, 2, seed=2)
    solver = RK45(rtol=1e-9, atol=1e-9, tau_min=1e-5)
    target, there = solver(truth, known, times), solver(truth, unseen, times)

    best, errors = AdamsBashforth(), {}
    for name, grid in GRIDS.items():
        along = grid(FLOW, steps)
        errors[name] = rms(best(truth, start(FLOW, along[0], unseen), along) - there)
    begin = unfitted(
        FLOW, GRIDS["log-snr-5"](FLOW, steps).clone().index_fill_(0, torch.tensor(0), 1.0)
    )
    found = fit(lambda plan: plan(truth, known), target, FLOW, begin)
    error = rms(found.plan(FLOW)(truth, unseen) - there)
    print(error, errors)
    assert error <= min(errors.values()) / 2
