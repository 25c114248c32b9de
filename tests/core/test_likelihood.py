"""Likelihoods against the closed form: log p by the flow, the variational bound, bits."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ornstein.core import noise
from ornstein.core.denoise import Denoiser, NetDenoiser
from ornstein.core.exact import GaussianDenoiser, MixtureDenoiser
from ornstein.core.likelihood import (
    Range,
    bits_per_dimension,
    dequantise,
    flow_bound,
    log_likelihood,
    noise_error,
    rademacher,
    standard_log_prob,
    variational_bound,
)
from ornstein.rng import Streams
from truths import F64, gaussian, mixture, normal

SCHEDULES = [
    noise.CosineSchedule(log_snr_min=-12, log_snr_max=9),
    noise.KarrasSchedule(),
    noise.FlowSchedule(),
    noise.LinearSchedule(),
    noise.SubVPSchedule(),
    noise.DDPMSchedule(),
]


def log_prob_at_the_data_end(truth, x):
    """``log p`` of ``x + (sigma / alpha) n`` at x, at the lowest noise level of `Range`."""
    t = truth.schedule.time(torch.tensor(Range()(truth.schedule)[1], dtype=F64))
    alpha = truth.schedule(t)[0]
    return truth.log_prob(alpha * x, t) + x.shape[1] * alpha.log()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_log_likelihood_is_that_of_the_mixture_in_every_scaling(schedule):
    truth = mixture(schedule)
    x = truth.draw(16, torch.Generator().manual_seed(0))
    found = log_likelihood(truth, x, prior=truth.log_prob, tolerance=1e-9)
    assert_close(found.nats, log_prob_at_the_data_end(truth, x), rtol=0, atol=1e-6)
    assert (found.standard_error == 0).all()
    assert found.calls < 1500


def test_log_likelihood_of_one_class_is_that_of_its_component():
    truth, label = mixture(), torch.tensor([0, 2, 1])
    x, start = normal(3, 2), torch.zeros((), dtype=F64)
    found = log_likelihood(
        truth,
        x,
        prior=lambda x_t, t: truth.log_prob(x_t, t, label=label),
        tolerance=1e-9,
        label=label,
    )
    assert_close(found.nats, truth.log_prob(x, start, label=label), rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", [noise.CosineSchedule(), noise.FlowSchedule()])
def test_the_density_of_an_untrained_network_integrates_to_one(schedule):
    """A change of variables does, whatever the network: divergence and flow belong together."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))

        def forward(self, x, log_snr):
            return self.layers(torch.cat([x, log_snr[:, None] / 10], 1))

    x = torch.linspace(-8, 8, 1601, dtype=F64)[:, None]
    within = Range(log_snr_min=-8.0, log_snr_max=5.0)
    found = log_likelihood(NetDenoiser(Net(), schedule), x, within=within)
    assert_close(torch.trapezoid(found.nats.exp(), x[:, 0]).item(), 1.0, rtol=0, atol=1e-3)


def test_hutchinson_agrees_with_the_exact_divergence_within_three_errors():
    truth = mixture(noise.CosineSchedule(), dims=4)
    x = truth.draw(32, torch.Generator().manual_seed(0))
    exact = log_likelihood(truth, x)
    probes = rademacher(Streams(0, range(32)), x, 24)
    found = log_likelihood(truth, x, probes=probes)
    assert ((found.nats - exact.nats).abs() < 3 * found.standard_error + 1e-4).float().mean() > 0.93
    assert 0.7 < ((found.nats - exact.nats) / found.standard_error).std() < 1.4


def test_probes_that_are_orthogonal_have_no_error():
    truth = mixture(noise.CosineSchedule())
    x = normal(4, 2)
    probes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)[:, None].expand(2, 4, 2)
    found, exact = log_likelihood(truth, x, probes=probes), log_likelihood(truth, x)
    assert_close(found.nats, exact.nats, rtol=0, atol=1e-4)


def test_the_bias_of_the_standard_prior_is_the_one_documented():
    var = torch.tensor([0.2, 1.0, 3.0], dtype=F64)
    schedule = noise.CosineSchedule(log_snr_min=-4.0, log_snr_max=9.0)
    truth = GaussianDenoiser(torch.zeros(3, dtype=F64), var.diag(), schedule)
    one, snr = torch.ones((), dtype=F64), math.exp(-4.0)
    alpha, sigma = schedule(one)
    x_t = (alpha**2 * var + sigma**2).sqrt() * normal(200_000, 3)
    bias = truth.log_prob(x_t, one) - standard_log_prob(x_t, one, schedule)
    documented = ((snr * (var - 1)) ** 2 / 4).sum()
    assert_close(bias.mean(), documented, rtol=0.05, atol=4 * bias.std().item() / 200_000**0.5)
    x = truth.draw(8, torch.Generator().manual_seed(0))
    exact, biased = (log_likelihood(truth, x, prior=p).nats for p in (truth.log_prob, None))
    assert 1e-4 < (exact - biased).abs().max() < 0.1


def test_log_likelihood_refuses_probes_of_another_shape():
    with pytest.raises(ValueError, match="expected probes"):
        log_likelihood(mixture(), normal(3, 2), probes=normal(1, 3, 2))


# --- The variational bound -----------------------------------------------------------------------


def gaussian_bound(var, steps, low, high):
    """Sum of 1/2 (SNR_s - SNR_t) mmse(t) of N(0, var), the log-SNR linear in t; T steps."""
    snr = torch.exp(torch.linspace(high, low, steps + 1, dtype=F64))
    return 0.5 * ((snr[:-1] - snr[1:]) * var / (1 + snr[1:] * var)).sum()


class Unit:
    """Noise of which every element squares to 1: sums of squares then have no variance."""

    def __call__(self, like):
        signs = torch.ones_like(like)
        signs[1::2] = -1
        return signs


def test_bound_of_a_gaussian_is_its_closed_form():
    """With |eps| = 1 and x = +-sqrt(var), the mean over the signs is the expectation."""
    var, low, high = 0.3, -9.0, 9.0
    schedule = noise.GeometricSchedule(log_snr_min=low, log_snr_max=high)
    one = torch.ones(1, dtype=F64)
    truth = GaussianDenoiser(0 * one, var * one[:, None], schedule)
    x = var**0.5 * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=F64)
    for steps in (10, 100):
        bound = variational_bound(truth, x, Unit(), steps=steps, calls=steps)
        expected = gaussian_bound(var, steps, low, high)
        assert_close(bound.diffusion.mean(), expected, rtol=1e-10, atol=0)


def test_bound_decreases_to_the_continuous_one_as_one_over_T():
    var, low, high = 0.3, -9.0, 9.0
    schedule = noise.GeometricSchedule(log_snr_min=low, log_snr_max=high)
    one = torch.ones(1, dtype=F64)
    truth = GaussianDenoiser(0 * one, var * one[:, None], schedule)
    x = var**0.5 * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=F64)
    limit = 0.5 * math.log((1 + var * math.exp(high)) / (1 + var * math.exp(low)))
    gaps = [
        variational_bound(truth, x, Unit(), steps=n, calls=n).diffusion.mean().item() - limit
        for n in (128, 256, 512)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert abs(math.log2(gaps[1] / gaps[2]) - 1) < 0.05
    continuous = variational_bound(truth, x, Unit(), calls=512).diffusion.mean()
    assert_close(continuous.item(), limit, rtol=0, atol=1e-2)


def test_continuous_bound_is_tight_at_every_point_of_the_mixture():
    """The I-MMSE identity: the bound with the exact denoiser is -log p(x), not above it."""
    truth = mixture(noise.CosineSchedule(log_snr_min=-12.0, log_snr_max=9.0))
    x = truth.draw(3, torch.Generator().manual_seed(0))
    many = x.repeat_interleave(4000, 0)
    bound = variational_bound(truth, many, Streams(0, range(len(many))), calls=128).total
    per_x = bound.view(3, 4000)
    error = per_x.std(1) / 4000**0.5
    expected = -log_prob_at_the_data_end(truth, x)
    assert error.max() < 0.02
    assert ((per_x.mean(1) - expected).abs() < 4 * error + 2e-3).all()


def test_bound_of_few_steps_and_of_a_worse_denoiser_lies_above_the_likelihood():
    schedule = noise.CosineSchedule(log_snr_min=-12.0, log_snr_max=9.0)
    truth, other = mixture(schedule, dims=3), gaussian(schedule)
    x = truth.draw(4000, torch.Generator().manual_seed(0))
    streams = Streams(0, range(4000))
    exact = -truth.log_prob(x, torch.zeros((), dtype=F64)).mean()
    for denoiser, steps in ((truth, 8), (other, None)):
        bound = variational_bound(denoiser, x, streams, steps=steps, calls=32).total
        assert bound.mean() > exact + 4 * bound.std() / 4000**0.5


class WithVariance(Denoiser):
    """Adds a variance head that always says v = 0.3."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def forward(self, x_t, t, **cond):
        return self.denoiser(x_t, t, **cond)

    def moments(self, x_t, t, **cond):
        return self(x_t, t), torch.full_like(x_t, 0.3)


def test_a_step_with_a_learned_variance_costs_the_divergence_of_two_gaussians():
    schedule = noise.CosineSchedule(log_snr_min=-9.0, log_snr_max=9.0)
    truth, x = gaussian(schedule), normal(5, 3)
    found = variational_bound(WithVariance(truth), x, torch.zeros_like, steps=1, calls=1)

    (alpha_s, alpha_t), (sigma_s, sigma_t) = schedule(torch.tensor([0.0, 1.0], dtype=F64))
    x_t, ratio = alpha_t * x, alpha_t / alpha_s
    var_ts = sigma_t**2 - (ratio * sigma_s) ** 2  # of q(x_t | x_s)
    small, large = var_ts * sigma_s**2 / sigma_t**2, var_ts

    def mean(x):  # of q(x_s | x_t, x), Ho et al., equation 7
        return (ratio * sigma_s**2 * x_t + alpha_s * var_ts * x) / sigma_t**2

    q = torch.distributions.Normal(mean(x), small.sqrt())
    x_hat = truth(x_t, torch.ones((), dtype=F64))
    p = torch.distributions.Normal(
        mean(x_hat), (0.7 * small.log() + 0.3 * large.log()).mul(0.5).exp()
    )
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    assert_close(found.diffusion, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("steps", [None, 40])
def test_bound_of_binary_data_is_above_its_entropy_and_near_it(steps):
    """Two values of equal probability carry exactly one bit a dimension."""
    one = torch.ones(1, dtype=F64)
    schedule = noise.CosineSchedule(log_snr_min=-12.0, log_snr_max=9.0)
    truth = MixtureDenoiser(
        torch.tensor([0.5, 0.5], dtype=F64),
        torch.tensor([[-1.0], [1.0]], dtype=F64),
        torch.zeros(2, 1, 1, dtype=F64),
        schedule,
    )
    x = torch.where(normal(2000, 1) > 0, 1.0, -1.0).double()
    levels = torch.tensor([-1.0, 1.0], dtype=F64)
    bound = variational_bound(
        truth, x, Streams(0, range(2000)), steps=steps, calls=40, levels=levels
    )
    bits = bits_per_dimension(-bound.total, x.shape[1:], one)
    error = bits.std() / 2000**0.5
    assert abs(bits.mean() - 1) < 4 * error if steps is None else bits.mean() > 1 + 4 * error
    assert bound.reconstruction.abs().max() < 1e-6  # at this noise the level is certain


def lattice():
    """Eight equally likely points of integers, known exactly: each carries three bits."""
    points = torch.tensor([[i // 4, i // 2 % 2, 2 * i % 5] for i in range(8)], dtype=F64)
    weights, point = torch.full((8,), 1 / 8, dtype=F64), torch.zeros(8, 3, 3, dtype=F64)
    return MixtureDenoiser(weights, points, point, noise.FlowSchedule()), points


@pytest.mark.parametrize("end", [8.0, 12.0])
def test_both_bounds_of_an_exact_denoiser_are_the_entropy_whatever_the_last_noise(end):
    truth, points = lattice()
    x = points.repeat(40, 1)
    levels, within = torch.arange(5, dtype=F64), Range(log_snr_max=end)
    bound = variational_bound(
        truth, x, Streams(0, range(len(x))), calls=100, levels=levels, within=within
    ).total
    assert abs(bound.mean() - math.log(8)) < 4 * bound.std() / len(x) ** 0.5
    flow = flow_bound(truth, points, Streams(0, range(8)), levels=levels, within=within)
    assert_close(flow, torch.full_like(flow, math.log(8)), atol=2e-2, rtol=0)


def test_a_bound_that_stops_at_much_noise_is_no_longer_tight_but_still_above():
    truth, points = lattice()
    x, levels, within = points.repeat(40, 1), torch.arange(5, dtype=F64), Range(log_snr_max=0.0)
    streams = Streams(0, range(len(x)))
    for found in (
        variational_bound(truth, x, streams, calls=20, levels=levels, within=within).total,
        flow_bound(truth, x, streams, levels=levels, within=within),
    ):
        assert found.mean() - 4 * found.std() / len(x) ** 0.5 > math.log(8)


def test_the_flow_bound_of_a_density_is_the_mean_of_that_of_what_is_drawn():
    truth, within = gaussian(noise.FlowSchedule()), Range(log_snr_max=3.0)
    x, eps = normal(16, truth.means.shape[1]), normal(16, truth.means.shape[1], seed=1)
    found = flow_bound(truth, x, lambda like: eps, within=within)
    blurred = truth.covs[0] + math.exp(-3.0) * torch.eye(x.shape[1], dtype=F64)
    law = torch.distributions.MultivariateNormal(truth.means[0], blurred)
    assert_close(found, -law.log_prob(x + math.exp(-1.5) * eps), rtol=1e-3, atol=5e-3)


def test_the_noise_error_of_one_gaussian_dimension_is_its_share_of_noise():
    """For data of variance S, E|eps - eps_hat|^2 = SNR S / (1 + SNR S)."""
    truth = GaussianDenoiser(
        torch.zeros(1, dtype=F64), torch.full((1, 1), 0.5, dtype=F64), noise.FlowSchedule()
    )
    x, eps = 0.5**0.5 * normal(20000, 1), normal(20000, 1, seed=1)
    for log_snr in (-2.0, 0.0, 3.0):
        t = truth.schedule.time(torch.tensor(log_snr, dtype=F64))
        found, snr = noise_error(truth, x, t, eps), math.exp(log_snr)
        assert abs(found.mean() - 0.5 * snr / (1 + 0.5 * snr)) < 4 * found.std() / 20000**0.5


def test_the_prior_term_is_the_divergence_of_two_gaussians():
    schedule = noise.CosineSchedule(scaling="flow", log_snr_min=-1.0, log_snr_max=9.0)
    x = normal(5, 3)
    found = variational_bound(mixture(schedule, dims=3), x, torch.zeros_like, calls=1).prior
    alpha, sigma = schedule(torch.ones((), dtype=F64))
    kept = torch.distributions.Normal(alpha * x, sigma.expand_as(x))
    prior = torch.distributions.Normal(0.0, torch.hypot(alpha, sigma).expand_as(x))
    assert_close(found, torch.distributions.kl_divergence(kept, prior).sum(1))


def test_steps_outside_the_range_cost_nothing():
    """The schedule is cut at log-SNR 2: of 50 steps the last ones are empty."""
    truth, x = mixture(noise.FlowSchedule()), normal(4, 2)
    cut = Range(log_snr_max=2.0)
    found = variational_bound(truth, x, torch.zeros_like, steps=50, calls=50, within=cut)
    assert found.total.isfinite().all() and (found.diffusion > 0).all()
    late = noise.FlowSchedule().time(torch.tensor(2.0, dtype=F64)).item()
    assert late > 10 / 50  # so that many steps were empty


def test_bound_does_not_depend_on_the_batch():
    truth = mixture()
    x = normal(5, 2)
    whole = variational_bound(truth, x, Streams(7, range(5)), calls=8).total
    part = variational_bound(truth, x[3:], Streams(7, [3, 4]), calls=8).total
    assert_close(whole[3:], part, rtol=1e-12, atol=0)


# --- Units ---------------------------------------------------------------------------------------


def test_bits_of_uniform_levels_are_log2_of_their_number():
    """16 levels, equally likely: a uniform density over the dequantised values is 4 bits."""
    unit = torch.tensor(0.21, dtype=F64)  # packed = 0.21 level - 1.4
    log_density = torch.full((3,), 12 * -math.log(16 * 0.21), dtype=F64)
    bits = bits_per_dimension(log_density, torch.Size([3, 2, 2]), unit)
    assert_close(bits, torch.full((3,), 4.0, dtype=F64))


def test_bits_state_the_density_in_the_units_of_the_data():
    std = torch.tensor([2.0, 5.0], dtype=F64)
    raw = torch.distributions.Normal(torch.tensor([1.0, -3.0], dtype=F64), std)
    x = raw.sample((4,))
    packed = torch.distributions.Normal(0.0, 1.0).log_prob((x - raw.loc) / std).sum(1)
    expected = -raw.log_prob(x).sum(1) / (2 * math.log(2))
    assert_close(bits_per_dimension(packed, torch.Size([2]), 1 / std), expected)


def test_dequantised_levels_fill_the_line_without_overlap():
    unit = torch.tensor(0.5, dtype=F64)
    x = torch.tensor([-0.5, 0.0, 0.5], dtype=F64)
    low, high = dequantise(x, unit, torch.zeros(3)), dequantise(x, unit, torch.ones(3))
    assert_close(high[:-1], low[1:])
    assert_close((low + high) / 2, x)
