"""Fitted rules: few steps that end where many do, on noise they never saw."""

import pytest
import torch
from torch.testing import assert_close

from ornstein.core import noise
from ornstein.core.exact import GaussianDenoiser, MixtureDenoiser
from ornstein.core.fit import FittedRule, fit, least_squares, unfitted
from ornstein.core.sample import RK45, AdamsBashforth, UniPC, start
from ornstein.core.times import KarrasGrid, LogSNRGrid, UniformGrid
from truths import F64, mixture, normal

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


def begun(plan, denoiser, eps):
    """Where a plan takes unit noise."""
    return plan(denoiser, start(denoiser.schedule, plan.times[0], eps))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [4, 6])
def test_a_fitted_rule_halves_the_error_of_the_best_grid_on_unseen_noise(steps):
    truth = standardised()
    times = torch.tensor([1.0, 0.0], dtype=F64)
    known, unseen = normal(1024, 2, seed=1), normal(1024, 2, seed=2)
    solver = RK45(rtol=1e-9, atol=1e-9, tau_min=1e-5)
    target, there = solver(truth, known, times), solver(truth, unseen, times)

    errors = []
    for grid in GRIDS.values():
        along = grid(FLOW, steps)
        ends = AdamsBashforth()(truth, start(FLOW, along[0], unseen), along)
        errors.append(rms(ends - there))
    begin = unfitted(
        FLOW, GRIDS["log-snr-5"](FLOW, steps).clone().index_fill_(0, torch.tensor(0), 1.0)
    )
    found = fit(lambda plan: begun(plan, truth, known), target, FLOW, begin)
    error = rms(begun(found.plan(FLOW), truth, unseen) - there)
    assert error <= min(errors) / 2


def test_before_it_is_fitted_a_rule_is_adams_bashforth():
    truth, times = mixture(FLOW), UniformGrid(power=1.5)(FLOW, 7)
    x = normal(4, 2)
    got = unfitted(FLOW, times).plan(FLOW)(truth, x)
    assert_close(got, AdamsBashforth(order=3)(truth, x, times), rtol=1e-12, atol=1e-12)


def test_whatever_its_weights_a_rule_is_exact_where_the_velocity_is_constant():
    """Data that are one point: the flow is a straight line."""
    point = GaussianDenoiser(normal(2, seed=4), torch.zeros(2, 2, dtype=F64), FLOW)
    rule = FittedRule(times=(1.0, 0.5, 0.1, 0.0), weights=((1.0,), (-2.0, 3.0), (0.7, 0.9, -0.6)))
    got = rule.plan(FLOW)(point, normal(4, 2))
    assert_close(got, normal(2, seed=4).expand(4, 2), rtol=1e-10, atol=1e-10)


def test_fitting_does_not_come_out_worse_and_ends_where_it_should():
    truth, schedule = mixture(noise.CosineSchedule()), noise.CosineSchedule()
    x = normal(64, 2)
    target = UniPC()(truth, x, UniformGrid()(schedule, 64))
    begin = unfitted(schedule, UniformGrid()(schedule, 4))
    found = fit(lambda plan: begun(plan, truth, x), target, schedule, begin, rounds=3)
    assert found.times[0] <= begin.times[0] and found.times[-1] == begin.times[-1]
    before, after = (begun(rule.plan(schedule), truth, x) for rule in (begin, found))
    assert rms(after - target) < 0.8 * rms(before - target)


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_a_rule_begins_below_pure_noise_as_far_as_what_it_knows_of_the_data_there_is_true(mean):
    """Data of one variance, 1/4: of mean 0 they are nearly white beside the noise; of mean 3, a
    start that leaves the mean out is wrong from the first."""
    data = GaussianDenoiser(torch.full((2,), mean, dtype=F64), torch.eye(2, dtype=F64) / 4, FLOW)
    x = normal(64, 2)
    target = mean + x / 2
    begin = unfitted(FLOW, UniformGrid()(FLOW, 3))
    found = fit(lambda plan: begun(plan, data, x), target, FLOW, begin)
    assert (found.times[0] < 0.97) == (mean == 0)
    assert rms(begun(found.plan(FLOW), data, x) - target) < 0.01


def test_least_squares_finds_the_minimum_of_a_curved_valley():
    """Rosenbrock's: at (1, 1), from the point where most methods start."""

    def residual(p):
        return torch.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])

    found = least_squares(residual, torch.tensor([-1.2, 1.0], dtype=F64), rounds=40, step=1e-5)
    assert_close(found, torch.ones(2, dtype=F64), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("times", "weights"),
    [
        ((1.0, 0.5), ((1.0,), (1.0,))),
        ((1.0, 0.5, 0.6), ((1.0,), (1.0,))),
        ((1.5, 0.0), ((1.0,),)),
        ((1.0, 0.0), ((0.5,),)),
        ((1.0, 0.0), ((0.5, 0.5),)),
        ((1.0, 0.5, 0.0), ((1.0,), (float("nan"), 1.0))),
    ],
)
def test_what_is_no_rule_is_refused(times, weights):
    with pytest.raises(ValueError, match=r"times must|expected weights|the weights of step"):
        FittedRule(times=times, weights=weights)
