"""Posterior denoisers against the closed-form posterior of Gaussians and of the mixture."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ornstein.core import noise
from ornstein.core.denoise import NetDenoiser, with_signal
from ornstein.core.exact import GaussianDenoiser, MixtureDenoiser
from ornstein.core.measure import LinearOperator, Mask
from ornstein.core.posterior import PosteriorDenoiser
from truths import F64, flow, gaussian, mixture, noised, normal

SCHEDULES = [
    noise.CosineSchedule(),
    noise.FlowSchedule(),
    noise.KarrasSchedule(),
    noise.DDPMSchedule(),
    noise.SubVPSchedule(),
]
KEEP = torch.tensor([True, False, True])


class Matrix(LinearOperator):
    """Any matrix ``(M, D)``."""

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, x):
        return x @ self.matrix.T.to(x)

    def adjoint(self, y):
        return y @ self.matrix.to(y)


def exact_mixture_posterior(truth, A, y, sigma_y):
    """``p(x | y)`` of a mixture, a mixture again, at one measurement ``(M,)`` (G19)."""
    means, covs, log_weights = [], [], []
    for weight, mean, cov in zip(truth.weights, truth.means, truth.covs, strict=True):
        spread = A @ cov @ A.T + sigma_y**2 * torch.eye(len(A), dtype=F64)
        gain = cov @ A.T @ torch.linalg.inv(spread)
        means.append(mean + gain @ (y - A @ mean))
        covs.append((torch.eye(len(cov), dtype=F64) - gain @ A) @ cov)
        seen = torch.distributions.MultivariateNormal(A @ mean, spread)
        log_weights.append(weight.log() + seen.log_prob(y))
    weights = torch.softmax(torch.stack(log_weights), 0)
    return MixtureDenoiser(weights, torch.stack(means), torch.stack(covs), truth.schedule)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("time", [1e-6, 1e-3, 0.1, 0.4, 0.9, 0.999, 1 - 1e-6])
def test_posterior_is_exact_for_a_gaussian_at_every_noise_level(schedule, time):
    truth, t = gaussian(schedule), torch.tensor(time, dtype=F64)
    x_t, y = noised(truth, t), Mask(KEEP)(normal(6, 3))
    posterior = PosteriorDenoiser(truth, Mask(KEEP), y, sigma_y=0.2, iterations=3)
    expected = truth.posterior(x_t, t, KEEP.double().diag(), y, 0.2)
    assert_close(posterior(x_t, t), expected, rtol=0, atol=1e-8 if time < 0.9999 else 1e-7)


def test_posterior_is_exact_for_any_matrix_and_each_example_may_have_its_own_time():
    truth, A = gaussian(noise.CosineSchedule()), normal(2, 3, seed=8)
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 1.0], dtype=F64)
    x_t, y = normal(6, 3), normal(6, 2)
    found = PosteriorDenoiser(truth, Matrix(A), y, 0.1, iterations=4)(x_t, t)
    for i in range(6):
        row = slice(i, i + 1)
        expected = truth.posterior(x_t[row], t[i], A, y[row], 0.1)
        assert_close(found[row], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_where_no_signal_is_left_the_posterior_is_that_of_the_measurement_alone(schedule):
    truth, one = gaussian(schedule), torch.ones((), dtype=F64)
    x_t, y = noised(truth, one), Mask(KEEP)(normal(6, 3))
    A, cov, mean = KEEP.double().diag()[KEEP], truth.covs[0], truth.means[0]
    gain = cov @ A.T @ torch.linalg.inv(A @ cov @ A.T + 0.04 * torch.eye(2, dtype=F64))
    expected = mean + (y @ A.T - A @ mean) @ gain.T
    found = PosteriorDenoiser(truth, Mask(KEEP), y, 0.2, iterations=4)(x_t, one)
    log_snr = schedule.log_snr(one).item()
    assert_close(found, expected, rtol=0, atol=20 * math.exp(log_snr / 2) + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "schedule", [noise.FlowSchedule(), noise.KarrasSchedule(sigma_max=1e9)], ids=["flow", "karras"]
)
def test_an_example_without_signal_is_moved_along_its_path_and_others_stay(schedule, dtype):
    t = torch.tensor([0.0, 0.05, 1.0], dtype=F64)
    x_t = normal(3, 4).to(dtype)
    near_x, near_t = with_signal(schedule, x_t, t)
    assert torch.equal(near_x[:2], x_t[:2]) and torch.equal(near_t[:2], t[:2])
    floor = math.log(torch.finfo(dtype).eps) / 2
    assert schedule.log_snr(near_t[2]).item() == pytest.approx(floor, abs=1e-6)
    before, after = (torch.hypot(*schedule(time[2])) for time in (t, near_t))
    assert_close(near_x[2] / after, (x_t[2] / before), check_dtype=False)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("sigma_y", [0.0, 1e-6, 0.1])
def test_posterior_in_single_precision_is_near_and_finite_at_every_time(schedule, sigma_y):
    truth = gaussian(schedule)
    for time in (0.0, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0):
        t = torch.tensor(time, dtype=F64)
        x_t, y = noised(truth, t), Mask(KEEP)(normal(6, 3))
        double = PosteriorDenoiser(truth, Mask(KEEP), y, sigma_y, iterations=4)(x_t, t)
        single = PosteriorDenoiser(truth, Mask(KEEP), y.float(), sigma_y, iterations=4)(
            x_t.float(), t.float()
        )
        assert single.dtype == torch.float32
        assert_close(single.double(), double, rtol=0, atol=2e-3)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_an_exact_measurement_keeps_the_known_entries_at_every_time(schedule):
    truth = mixture(schedule, dims=3)
    for time in (0.0, 1e-6, 0.3, 0.8, 1.0):
        t = torch.tensor(time, dtype=F64)
        x_t, y = noised(truth, t), Mask(KEEP)(normal(6, 3))
        x_hat = PosteriorDenoiser(truth, Mask(KEEP), y, sigma_y=0.0, iterations=4)(x_t, t)
        assert torch.equal(x_hat[:, KEEP], y[:, KEEP])
        assert x_hat.isfinite().all()


def test_an_exact_measurement_is_the_limit_of_a_good_one():
    truth, t = gaussian(noise.CosineSchedule()), torch.tensor(0.6, dtype=F64)
    x_t, y = noised(truth, t), Mask(KEEP)(normal(6, 3))
    exact, good = (PosteriorDenoiser(truth, Mask(KEEP), y, s, 6)(x_t, t) for s in (0.0, 1e-5))
    assert_close(exact, good, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma_y", [0.05, 0.3, 1.0])
def test_posterior_samples_of_the_scalar_gaussian_have_its_mean_and_variance(sigma_y):
    """G20: variance ratio 1.000 and mean coefficient 1 / (1 + sigma_y^2): the flow is affine."""
    schedule = noise.CosineSchedule(log_snr_min=-16.0, log_snr_max=16.0)
    one = torch.ones(1, dtype=F64)
    truth = GaussianDenoiser(0 * one, one[:, None], schedule)
    y = torch.tensor([[0.0], [0.0], [1.0]], dtype=F64)
    posterior = PosteriorDenoiser(truth, Mask(torch.ones(1, dtype=torch.bool)), y, sigma_y)
    x = flow(posterior, torch.tensor([[0.0], [1.0], [0.0]], dtype=F64), 1.0, 0.0)
    offset, slope, pulled = x.flatten().tolist()
    assert slope**2 == pytest.approx(sigma_y**2 / (1 + sigma_y**2), rel=2e-3)
    assert pulled - offset == pytest.approx(1 / (1 + sigma_y**2), rel=2e-3)


def test_the_bias_on_the_mixture_is_the_one_documented():
    """RMS error of E[x | x_t, y], in units of what the measurement changes."""
    schedule = noise.CosineSchedule()
    truth = mixture(schedule, dims=3)
    A, y = KEEP.double().diag()[KEEP], torch.tensor([-0.3, 0.6], dtype=F64)
    exact = exact_mixture_posterior(truth, A, y, 0.2)
    padded = torch.zeros(1, 3, dtype=F64).masked_scatter(KEEP[None], y)
    found = PosteriorDenoiser(truth, Mask(KEEP), padded, 0.2, iterations=4)
    bias = {}
    for log_snr in (-8.0, -2.0, 0.0, 2.0, 8.0):
        t = schedule.time(torch.tensor(log_snr, dtype=F64))
        x_t = noised(exact, t, 2048)
        off = (found(x_t, t) - exact(x_t, t)).square().mean()
        bias[log_snr] = (off / (truth(x_t, t) - exact(x_t, t)).square().mean()).sqrt().item()
    documented = {-8.0: 0.62, -2.0: 0.52, 0.0: 0.27, 2.0: 0.06, 8.0: 0.0}
    assert bias == pytest.approx(documented, abs=0.02)


class Net(nn.Module):
    """A small smooth network, in single precision."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 3))

    def forward(self, x, log_snr, shift=None):
        x = torch.cat([x, log_snr[:, None] / 10], 1)
        return self.layers(x) + (0 if shift is None else shift[:, None])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_network_is_differentiated_in_whatever_mode_the_sampler_runs(mode):
    denoiser = NetDenoiser(Net(), noise.FlowSchedule())
    y, x_t = Mask(KEEP)(normal(6, 3)).float(), normal(6, 3).float()
    posterior = PosteriorDenoiser(denoiser, Mask(KEEP), y, 0.1)
    t = torch.tensor(0.3)
    outside = PosteriorDenoiser(denoiser, Mask(KEEP), y, 0.1)(x_t, t).detach()
    with mode():
        found = posterior(x_t, t)
    assert_close(found, outside)
    assert not torch.allclose(found, denoiser(x_t, t).detach(), atol=1e-2)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("sigma_y", [0.0, 1e-3, 0.1])
def test_an_untrained_network_gives_no_nan_at_any_time(schedule, sigma_y):
    """Its Jacobian is neither symmetric nor positive."""
    denoiser = NetDenoiser(Net(), schedule)
    y = Mask(KEEP)(normal(6, 3)).float()
    posterior = PosteriorDenoiser(denoiser, Mask(KEEP), y, sigma_y)
    for time in (0.0, 1e-9, 1e-6, 1e-3, 0.5, 0.999, 1.0):
        x_t = normal(6, 3).float() * torch.hypot(*schedule(torch.tensor(time))).float()
        with torch.no_grad():
            assert posterior(x_t, torch.tensor(time)).isfinite().all()


def test_conditions_pass_through():
    truth, t = mixture(noise.CosineSchedule(), dims=3), torch.tensor(0.5, dtype=F64)
    x_t, y, label = noised(truth, t), Mask(KEEP)(normal(6, 3)), torch.full((6,), 1)
    component = GaussianDenoiser(truth.means[1], truth.covs[1], truth.schedule)
    found = PosteriorDenoiser(truth, Mask(KEEP), y, 0.2, iterations=4).given(label=label)(x_t, t)
    expected = PosteriorDenoiser(component, Mask(KEEP), y, 0.2, iterations=4)(x_t, t)
    assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("y", "sigma_y", "message"),
    [
        (torch.zeros(6, 3), -0.1, "sigma_y must be"),
        (torch.zeros(6, 3), math.nan, "sigma_y must be"),
        (torch.full((6, 3), math.nan), 0.1, "y must be finite"),
        (torch.zeros(6, 2), 0.1, "expected y"),
        (torch.zeros(4, 3), 0.1, "expected y"),
    ],
)
def test_a_measurement_that_cannot_be_is_refused(y, sigma_y, message):
    truth, t = gaussian(), torch.tensor(0.5, dtype=F64)
    with pytest.raises(ValueError, match=message):
        PosteriorDenoiser(truth, Mask(KEEP), y, sigma_y, iterations=4)(noised(truth, t), t)
