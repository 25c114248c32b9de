"""Laws of predictions, weightings, losses and denoisers: one list per kind, one test per law."""

import inspect
import math
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ornstein.core import denoise, exact, noise, predict
from ornstein.core.denoise import NetDenoiser, align, noisy
from ornstein.core.exact import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from ornstein.core.predict import PREDICTIONS, WEIGHTINGS, Hearing, MinSNR, PredictMean
from ornstein.core.times import LogNormalTimes, UniformLogSNR, UniformTimes, low_discrepancy
from ornstein.nets import MonotoneCurve
from truths import F64, covariances, flow, gaussian, mixture, noised, normal

SCHEDULES = {
    "cosine": noise.CosineSchedule(),
    "ddpm": noise.DDPMSchedule(),
    "flow": noise.FlowSchedule(),
    "karras": noise.KarrasSchedule(),
    "sub-vp": noise.SubVPSchedule(),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())

# What each prediction says the network is to give, by its definition.
TARGETS = {
    "noise": lambda x, eps, alpha, sigma: eps,
    "score": lambda x, eps, alpha, sigma: -eps / sigma,
    "data": lambda x, eps, alpha, sigma: x,
    "velocity": lambda x, eps, alpha, sigma: (alpha * eps - sigma * x) / torch.hypot(alpha, sigma),
    "flow": lambda x, eps, alpha, sigma: eps - x,
    "balanced": lambda x, eps, alpha, sigma: (sigma * x - alpha * eps) / torch.hypot(alpha, sigma),
}
every_prediction = pytest.mark.parametrize("name", PREDICTIONS)


def inner_times(count=9):
    return torch.linspace(0.02, 0.98, count, dtype=F64)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64])
def test_noisy_data_are_data_and_noise_at_a_time_for_all_or_for_each(schedule, dtype):
    x, eps = normal(9, 2, 3).to(dtype), normal(9, 2, 3, seed=1).to(dtype)
    every = noisy(schedule, x, inner_times(), eps)
    for i, t in enumerate(inner_times()):
        alpha, sigma = (scale.to(dtype) for scale in schedule(t))
        assert torch.equal(every[i], alpha * x[i] + sigma * eps[i])
        assert torch.equal(every[i], noisy(schedule, x, t, eps)[i]) and every.dtype == dtype


# --- Predictions (G2, G3) ------------------------------------------------------------------------


def test_every_prediction_and_weighting_stands_in_a_list():
    functions = {f for n, f in vars(predict).items() if n.startswith("predict_")}
    assert set(PREDICTIONS.values()) == functions and set(TARGETS) == set(PREDICTIONS)
    functions = {f for n, f in vars(predict).items() if n.startswith("weigh_")}
    assert {f for f in WEIGHTINGS.values() if inspect.isfunction(f)} == functions


@every_prediction
@every_schedule
def test_a_perfect_network_gives_what_the_prediction_is_named_after(schedule, name):
    x, eps = normal(9), normal(9, seed=1)
    alpha, sigma = schedule(inner_times())
    c, x_t = PREDICTIONS[name](alpha, sigma), alpha * x + sigma * eps
    F = TARGETS[name](x, eps, alpha, sigma)
    assert_close(c.skip * x_t + c.out * F, x, rtol=1e-10, atol=1e-10)
    assert_close((x - c.skip * x_t) / c.out, F, rtol=1e-7, atol=1e-7)


@every_schedule
def test_every_prediction_translates_to_every_other_and_back(schedule):
    """D -> F of one -> D -> F of another -> D: the estimate is the same to 1e-10."""
    alpha, sigma = schedule(inner_times())
    x_hat, x_t = normal(9), torch.hypot(alpha, sigma) * normal(9, seed=1)
    for one, other in product(PREDICTIONS.values(), repeat=2):
        again = x_hat
        for prediction in (one, other):
            c = prediction(alpha, sigma)
            again = c.skip * x_t + c.out * ((again - c.skip * x_t) / c.out)
        assert_close(again, x_hat, rtol=1e-10, atol=1e-10)


@every_prediction
@every_schedule
def test_where_no_noise_is_left_the_estimate_is_what_is_seen(schedule, name):
    zero = torch.zeros((), dtype=F64)
    alpha, sigma = schedule(zero)
    c = PREDICTIONS[name](alpha, sigma)
    assert all(v.isfinite() for v in c)
    if name != "data":  # which stakes all on the network, at every noise level
        x_t, F = normal(5), normal(5, seed=1)
        size = sigma / alpha * (sigma / alpha if name == "score" else 1)
        assert_close(c.skip * x_t + c.out * F, x_t / alpha, rtol=0, atol=8 * size.item() + 1e-15)


@pytest.mark.parametrize("name", ["data", "velocity", "flow", "balanced"])
@every_schedule
def test_where_no_signal_is_left_a_prediction_that_is_not_blind_is_finite(schedule, name):
    one = torch.ones((), dtype=F64)
    c = PREDICTIONS[name](*schedule(one))
    assert all(v.isfinite() for v in c) and c.out.abs() > 0.5


@pytest.mark.parametrize("name", ["noise", "score"])
def test_a_prediction_that_is_blind_without_signal_is_refused(name):
    with pytest.raises(ValueError, match="blind at t = 1"):
        NetDenoiser(nn.Identity(), noise.FlowSchedule(), PREDICTIONS[name])
    NetDenoiser(nn.Identity(), noise.DDPMSchedule(), PREDICTIONS[name])


@every_prediction
@every_schedule
def test_the_input_of_every_network_has_variance_one(schedule, name):
    alpha, sigma = schedule(torch.linspace(0, 1, 21, dtype=F64))
    inp = PREDICTIONS[name](alpha, sigma).inp
    assert_close(inp**2 * (alpha**2 + sigma**2), torch.ones_like(inp), rtol=1e-12, atol=0)


@every_schedule
def test_balanced_prediction_has_a_target_of_variance_one_and_weight_one(schedule):
    """EDM: with F's target ``a x + b eps``, a^2 + b^2 = 1, and lambda(sigma) out^2 = 1."""
    alpha, sigma = schedule(inner_times())
    c = PREDICTIONS["balanced"](alpha, sigma)
    a, b = (1 - c.skip * alpha) / c.out, -c.skip * sigma / c.out
    assert_close(a**2 + b**2, torch.ones_like(a), rtol=1e-10, atol=0)
    of_x = 1 + (alpha / sigma) ** 2  # the weight of |x - x_hat|^2 in |v - v_hat|^2
    assert_close(of_x * c.out**2, torch.ones_like(a), rtol=1e-10, atol=0)


def test_balanced_prediction_is_edm_s_table():
    sigma = torch.tensor([0.01, 0.5, 1.0, 7.0, 80.0], dtype=F64)
    c = PREDICTIONS["balanced"](torch.ones_like(sigma), sigma)
    assert_close(c.skip, 1 / (sigma**2 + 1))
    assert_close(c.out, sigma / torch.sqrt(1 + sigma**2))
    assert_close(c.inp, 1 / torch.sqrt(sigma**2 + 1))


@pytest.mark.parametrize("name", ["ddpm", "cosine", "flow"])
def test_mean_prediction_is_the_mean_of_the_step_before(name):
    steps, schedule = 20, SCHEDULES[name]
    t = torch.arange(2, steps, dtype=F64) / steps
    x, eps = normal(steps - 2), normal(steps - 2, seed=1)
    (alpha, sigma), (alpha_s, sigma_s) = schedule(t), schedule(t - 1 / steps)
    x_t = alpha * x + sigma * eps
    # Gaussian conditioning of (x_s, x_t) given x
    cov = alpha / alpha_s * sigma_s**2
    mean = alpha_s * x + cov / sigma**2 * (x_t - alpha * x)
    c = PredictMean(schedule=schedule, steps=steps)(alpha, sigma)
    assert_close(c.skip * x_t + c.out * mean, x, rtol=1e-9, atol=1e-9)


@every_schedule
def test_mean_prediction_of_the_first_step_is_the_data(schedule):
    prediction = PredictMean(schedule=schedule, steps=1000)
    first = prediction(*schedule(torch.tensor([0.0, 1e-4, 1e-3], dtype=F64)))
    assert_close(first.skip, torch.zeros(3, dtype=F64))
    assert_close(first.out, torch.ones(3, dtype=F64))


# --- Losses (G4, G5, G6) -------------------------------------------------------------------------


class Exact(nn.Module):
    """The network that a prediction needs in order to give an exact denoiser, plus an error."""

    def __init__(self, denoiser, prediction, error=0.0):
        super().__init__()
        self.denoiser, self.prediction, self.error = denoiser, prediction, error

    def forward(self, x, log_snr, **cond):
        schedule = self.denoiser.schedule
        t = schedule.time(log_snr)
        c = (v[:, None] for v in self.prediction(*schedule(t)))
        inp, skip, out = c
        x_t = x / inp
        return (self.denoiser(x_t, t) - skip * x_t) / out + self.error * torch.cos(x)


VAR = 0.3


def one_gaussian(schedule, dims=4):
    eye = VAR * torch.eye(dims, dtype=F64)
    return GaussianDenoiser(torch.zeros(dims, dtype=F64), eye, schedule)


def mean_loss(denoiser, time, count=20_000):
    x, eps = VAR**0.5 * normal(count, 4), normal(count, 4, seed=1)
    loss = denoiser.loss(x, torch.full((count,), time, dtype=F64), eps)
    return loss.mean().item(), 4 * loss.std().item() / count**0.5


# The least expected loss on N(0, S): the posterior variance, in the units of each error.
LEAST = {
    "simple": lambda a, s: a**2 * VAR / (a**2 * VAR + s**2),
    "data": lambda a, s: VAR * s**2 / (a**2 * VAR + s**2),
    "balanced": lambda a, s: VAR * (a**2 + s**2) / (a**2 * VAR + s**2),
    "flow": lambda a, s: VAR * (a + s) ** 2 / (a**2 * VAR + s**2),
    "min-snr": lambda a, s: min(a**2 / s**2, 5.0) * VAR * s**2 / (a**2 * VAR + s**2),
    "sigmoid": lambda a, s: a**2 * VAR / (a**2 * VAR + s**2) / (1 + math.exp(-2.0) * a**2 / s**2),
}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", PREDICTIONS)
def test_the_loss_of_an_exact_network_is_the_posterior_variance(name, weighting):
    """G4, whatever the network predicts: the weighting alone says what is measured."""
    schedule = noise.GeometricSchedule(scaling="vp", log_snr_min=-8.0, log_snr_max=8.0)
    prediction, time = PREDICTIONS[name], 0.37
    net = Exact(one_gaussian(schedule), prediction)
    denoiser = NetDenoiser(net, schedule, prediction, WEIGHTINGS[weighting])
    found, error = mean_loss(denoiser, time, 5_000)
    a, s = (v.item() for v in schedule(torch.tensor(time, dtype=F64)))
    assert found == pytest.approx(LEAST[weighting](a, s), abs=error)


@pytest.mark.parametrize("time", [0.05, 0.4, 0.9])
@every_schedule
def test_the_loss_of_an_exact_network_is_known_on_every_path(schedule, time):
    for weighting in ("simple", "data", "balanced"):
        prediction = PREDICTIONS["balanced"]
        net = Exact(one_gaussian(schedule), prediction)
        denoiser = NetDenoiser(net, schedule, prediction, WEIGHTINGS[weighting])
        found, error = mean_loss(denoiser, time, 5_000)
        a, s = (v.item() for v in schedule(torch.tensor(time, dtype=F64)))
        assert found == pytest.approx(LEAST[weighting](a, s), abs=error)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_an_error_of_the_network_adds_its_square_and_nothing_linear(name):
    """G5: the exact denoiser is the minimiser, for every prediction."""
    schedule, delta, count = noise.CosineSchedule(), 0.3, 20_000
    x, eps = VAR**0.5 * normal(count, 4), normal(count, 4, seed=1)
    t = torch.full((count,), 0.4, dtype=F64)
    prediction, truth = PREDICTIONS[name], one_gaussian(schedule)
    losses = [
        NetDenoiser(Exact(truth, prediction, d), schedule, prediction).loss(x, t, eps)
        for d in (0.0, delta, -delta)
    ]
    alpha, sigma = schedule(t[0])
    _, _, out = prediction(alpha, sigma)
    x_t = alpha * x + sigma * eps
    square = delta**2 * torch.cos(x_t).square().mean(1) * out**2 * (1 + (alpha / sigma) ** 2)
    for loss in losses[1:]:
        rest = loss - losses[0] - square
        assert abs(rest.mean()) < 4 * rest.std() / count**0.5
        assert rest.std() > 0
    assert losses[1].mean() > losses[0].mean()


@pytest.mark.parametrize(
    "times",
    [
        UniformTimes(),
        LogNormalTimes(mean=-1.2, std=2.0),
        LogNormalTimes(std=2.0),
        UniformLogSNR(log_snr_min=-50.0, log_snr_max=50.0),
    ],
    ids=["uniform", "edm", "logit-normal", "log-snr"],
)
@pytest.mark.parametrize(
    "schedule",
    [
        noise.CosineSchedule(log_snr_min=-6.0, log_snr_max=6.0),
        noise.KarrasSchedule(sigma_min=0.05, sigma_max=20.0),
    ],
    ids=["cosine", "karras"],
)
def test_the_variational_weighting_gives_one_bound_whatever_times_are_trained_on(times, schedule):
    """G6: ``1/2 log[(1 + S SNR_max) / (1 + S SNR_min)]`` per dimension."""
    prediction, count = PREDICTIONS["balanced"], 20_000
    net = Exact(one_gaussian(schedule), prediction)
    weighting = predict.Variational(schedule=schedule, times=times)
    denoiser = NetDenoiser(net, schedule, prediction, weighting)
    t = times(low_discrepancy(0.31, count), schedule)
    x, eps = VAR**0.5 * normal(count, 4), normal(count, 4, seed=1)
    loss = denoiser.loss(x, t, eps)
    high, low = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=F64)).exp().tolist()
    expected = 0.5 * math.log((1 + VAR * high) / (1 + VAR * low))
    error = loss.std().item() / count**0.5
    assert error < 0.05
    assert loss.mean().item() == pytest.approx(expected, abs=4 * error)


@every_schedule
def test_weightings_are_the_errors_they_are_named_after(schedule):
    """``w(lambda) |v - v_hat|^2`` is the squared error in the units of the definition."""
    t = inner_times()
    (alpha, sigma), log_snr = schedule(t), schedule.log_snr(t)
    size = torch.hypot(alpha, sigma)
    alpha, sigma = alpha / size, sigma / size  # the units of x_t do not count
    x, x_hat, x_t = normal(9), normal(9, seed=1), normal(9, seed=2)
    eps, eps_hat = ((x_t - alpha * y) / sigma for y in (x, x_hat))
    velocity = (alpha * (eps - eps_hat) - sigma * (x - x_hat)).square()
    on_flow = (alpha + sigma) * (x_t / (alpha + sigma))  # x_t of the path alpha + sigma = 1
    snr = (alpha / sigma) ** 2
    u, u_hat = (((on_flow - alpha * y) / sigma - y) for y in (x, x_hat))
    expected = {
        "simple": (eps - eps_hat) ** 2,
        "data": (x - x_hat) ** 2,
        "balanced": (1 / snr + 1) * snr * (x - x_hat) ** 2,  # EDM's lambda(sigma), var of x 1
        "flow": (u - u_hat) ** 2,
        "min-snr": snr.clamp(max=5.0) * (x - x_hat) ** 2,
        "sigmoid": torch.sigmoid(2.0 - log_snr) * (eps - eps_hat) ** 2,
    }
    assert set(expected) == set(WEIGHTINGS)
    for name, error in expected.items():
        assert_close(WEIGHTINGS[name](log_snr) * velocity, error, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighting", WEIGHTINGS.values(), ids=WEIGHTINGS.keys())
def test_weightings_are_finite_and_positive_at_any_noise_level(weighting):
    log_snr = torch.tensor([-700.0, -90.0, -30.0, 0.0, 30.0, 90.0, 700.0], dtype=F64)
    weight = weighting(log_snr)
    assert weight.isfinite().all() and (weight >= 0).all() and weight[3] > 0
    assert weighting(log_snr.float()).isfinite().all()


def test_min_snr_with_an_endless_gamma_is_simple():
    log_snr = torch.linspace(-10, 10, 21, dtype=F64)
    assert_close(MinSNR(gamma=1e9)(log_snr), WEIGHTINGS["simple"](log_snr))


@every_schedule
def test_a_network_that_says_nothing_starts_at_loss_one_at_every_noise_level(schedule):
    denoiser = NetDenoiser(Silent(), schedule)
    x, eps = normal(2000, 16), normal(2000, 16, seed=1)
    for time in (1e-5, 0.05, 0.5, 0.95, 1 - 1e-5):
        loss = denoiser.loss(x, torch.full((2000,), time, dtype=F64), eps)
        assert loss.mean().item() == pytest.approx(1.0, abs=0.03)
        single = denoiser.loss(x.float(), torch.full((2000,), time), eps.float())
        assert_close(single.double(), loss, rtol=1e-3, atol=1e-3)


class Silent(nn.Module):
    def forward(self, x, log_snr, **cond):
        return torch.zeros_like(x)


def test_learned_uncertainty_is_least_at_the_logarithm_of_the_loss():
    schedule, x, eps = noise.CosineSchedule(), normal(64, 8), normal(64, 8, seed=1)
    t = torch.full((64,), 0.3, dtype=F64)
    plain = NetDenoiser(Silent(), schedule).loss(x, t, eps)

    class Constant(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = nn.Parameter(torch.tensor(value, dtype=F64))

        def forward(self, log_snr):
            return self.value.expand(len(log_snr))

    best = Constant(plain.mean().log().item())
    loss = NetDenoiser(Silent(), schedule, uncertainty=best).loss(x, t, eps)
    assert_close(loss, plain / plain.mean() + plain.mean().log())
    loss.mean().backward()
    assert best.value.grad.abs() < 1e-12
    for other in (-1.0, 1.0):
        worse = NetDenoiser(Silent(), schedule, uncertainty=Constant(best.value.item() + other))
        assert worse.loss(x, t, eps).mean() > loss.mean()


def test_the_loss_refuses_shapes_that_would_broadcast():
    denoiser = NetDenoiser(Silent(), noise.CosineSchedule())
    x, t = normal(4, 3), torch.full((4,), 0.5)
    for eps, times in ((normal(4, 1), t), (normal(1, 3), t), (x, t[:1]), (x, t[0])):
        with pytest.raises(ValueError, match="expected eps"):
            denoiser.loss(x, times, eps)


# --- The reverse step and its variance (G7) ------------------------------------------------------


@every_schedule
def test_the_reverse_step_is_gaussian_conditioning(schedule):
    t = torch.tensor([0.1, 0.4, 0.9, 1.0], dtype=F64)
    s = torch.tensor([0.05, 0.1, 0.89, 0.5], dtype=F64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    small, large, of_x = denoise.reverse_variances(schedule, t, s)
    ratio = alpha_t / alpha_s
    cov = ratio * sigma_s**2  # of x_s and x_t, given x
    assert_close(small, sigma_s**2 - cov**2 / sigma_t**2, rtol=1e-9, atol=1e-15)
    assert_close(of_x, alpha_s - cov / sigma_t**2 * alpha_t, rtol=1e-9, atol=1e-15)
    size_t, size_s = torch.hypot(alpha_t, sigma_t), torch.hypot(alpha_s, sigma_s)
    vp = (sigma_t / size_t) ** 2 - ((alpha_t / size_t) / (alpha_s / size_s)) ** 2 * (
        sigma_s / size_s
    ) ** 2  # of q(x_t | x_s), both of norm 1
    assert_close(large, vp * size_s**2, rtol=1e-9, atol=1e-15)
    assert (small <= large * (1 + 1e-12)).all()


@every_schedule
def test_a_thousand_steps_compose_to_one(schedule):
    """Chapman-Kolmogorov: of q(x_t | x_s) forward, and of q(x_s | x_t, x) back."""
    times = torch.linspace(0.001, 1.0, 1001, dtype=F64)
    small, large, of_x = denoise.reverse_variances(schedule, times[1:], times[:-1])
    alpha, sigma = schedule(times)
    size = torch.hypot(alpha, sigma)
    added = large / size[:-1] ** 2  # at norm 1
    kept = (alpha / size)[1:] / (alpha / size)[:-1]
    var = (sigma[0] / size[0]) ** 2
    for k, a in zip(kept, added, strict=True):
        var = k**2 * var + a
    assert_close(var, (sigma[-1] / size[-1]) ** 2, rtol=1e-10, atol=0)
    mean, var = alpha[-1], sigma[-1] ** 2  # of x_t given x = 1, now back again
    for i in range(999, -1, -1):
        of_x_t = (alpha[i] - of_x[i]) / alpha[i + 1] if alpha[i + 1] > 0 else 0.0
        mean, var = of_x[i] + of_x_t * mean, of_x_t**2 * var + small[i]
    assert_close(mean, alpha[0], rtol=1e-10, atol=0)
    assert_close(var, sigma[0] ** 2, rtol=1e-7, atol=0)


class TwoHeads(nn.Module):
    """F and the place of the variance, each with a weight of its own."""

    def __init__(self, head=0.0):
        super().__init__()
        self.F = nn.Parameter(torch.tensor(0.7, dtype=F64))
        self.head = nn.Parameter(torch.tensor(head, dtype=F64))

    def forward(self, x, log_snr):
        return torch.cat([self.F * x, self.head.expand_as(x)], 1)


def hybrid(head, schedule=noise.DDPMSchedule(steps=100, beta_last=0.1), steps=100):  # noqa: B008
    return NetDenoiser(TwoHeads(head), schedule, variance_steps=steps)


def test_one_step_has_no_reverse_variance_to_learn():
    with pytest.raises(ValueError, match="variance_steps must be at least 2, got 1"):
        hybrid(0.3, steps=1)


def test_the_bound_trains_the_variance_head_and_nothing_else():
    x, eps = normal(16, 2, 3), normal(16, 2, 3, seed=1)
    t = torch.linspace(0.05, 0.95, 16, dtype=F64)
    denoiser = hybrid(0.3)
    denoiser.loss(x, t, eps).mean().backward()
    net = denoiser.net
    assert net.head.grad.abs() > 0

    class OneHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.F = nn.Parameter(torch.tensor(0.7, dtype=F64))

        def forward(self, x, log_snr):
            return self.F * x

    plain = NetDenoiser(OneHead(), denoiser.schedule)
    plain.loss(x, t, eps).mean().backward()
    assert_close(net.F.grad, plain.net.F.grad, rtol=1e-12, atol=0)


def test_the_hybrid_loss_is_the_simple_one_and_a_thousandth_of_t_bounds():
    x, eps = normal(5, 2, 3), normal(5, 2, 3, seed=1)
    t, head = torch.tensor([0.1, 0.3, 0.5, 0.7, 1.0], dtype=F64), 0.3
    denoiser = hybrid(head)
    alpha, sigma = (c[:, None, None] for c in denoiser.schedule(t))
    x_hat, v = denoiser.moments(alpha * x + sigma * eps, t)
    simple = ((x - x_hat) * (1 + (alpha / sigma) ** 2).sqrt()).square().flatten(1).mean(1)
    bound = denoiser._variance_bound(x, x_hat, v, t)
    assert_close(denoiser.loss(x, t, eps), simple + 0.001 * 100 * bound)
    assert_close(v, torch.sigmoid(torch.tensor(2 * head, dtype=F64)).expand_as(x))


@every_schedule
def test_the_network_is_told_a_finite_log_snr_in_its_own_precision(schedule):
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x, log_snr):
            seen.extend([x.dtype, log_snr.dtype, *log_snr.tolist()])
            return self.layer(x)

    denoiser = NetDenoiser(Spy(), schedule)
    x_hat = denoiser(normal(2, 3), torch.tensor([0.0, 1.0], dtype=F64))
    assert seen[:2] == [torch.float32, torch.float32] and x_hat.dtype == F64
    high, low = seen[2:]
    assert -30 <= low < high <= 30


def test_the_network_is_told_no_noise_that_it_never_saw_and_the_rest_goes_by_the_true_one():
    seen = []

    class Spy(nn.Module):
        def forward(self, x, log_snr):
            seen.append(log_snr)
            return log_snr[:, None] * x

    schedule, t = noise.FlowSchedule(), torch.tensor([0.0, 0.01, 0.5, 0.99, 1.0], dtype=F64)
    x_t = normal(5, 3)
    hearing = Hearing(low=-8.0, high=7.0)
    x_hat = NetDenoiser(Spy(), schedule, PREDICTIONS["flow"], hearing=hearing)(x_t, t)
    told = torch.tensor([7.0, 7.0, 0.0, -8.0, -8.0], dtype=F64)
    torch.testing.assert_close(seen[0], told)
    inp, skip, out = (c[:, None] for c in PREDICTIONS["flow"](*schedule(t)))
    torch.testing.assert_close(x_hat, skip * x_t + out * told[:, None] * inp * x_t)


def test_a_denoiser_around_another_network_differs_in_nothing_else():
    one = NetDenoiser(
        nn.Identity(),
        noise.FlowSchedule(),
        PREDICTIONS["velocity"],
        WEIGHTINGS["simple"],
        nn.Flatten(0),
        variance_steps=7,
        ahead=True,
        hearing=Hearing(low=-3.0, bend=-2.0),
    )
    other = one.around(nn.Tanh())
    assert isinstance(other.net, nn.Tanh) and isinstance(one.net, nn.Identity)
    parts = ("schedule", "prediction", "weighting", "uncertainty", "variance_steps", "ahead")
    assert all(getattr(one, name) is getattr(other, name) for name in (*parts, "hearing"))


@pytest.mark.parametrize("head", [-30.0, -0.4, 0.0, 1.1, 30.0])
def test_the_bound_is_the_divergence_of_two_gaussians(head):
    denoiser, steps = hybrid(head), 100
    schedule = denoiser.schedule
    x, x_hat = normal(3, 2, 3), normal(3, 2, 3, seed=1)
    t = torch.tensor([0.03, 0.5, 1.0], dtype=F64)
    v = torch.sigmoid(torch.tensor(2 * head, dtype=F64)).expand_as(x)
    found = denoiser._variance_bound(x, x_hat, v, t)

    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        [c[:, None, None] for c in schedule(times)] for times in (t, t - 1 / steps)
    )
    ratio = alpha_t / alpha_s
    beta = sigma_t**2 - (ratio * sigma_s) ** 2
    small, of_x = beta * sigma_s**2 / sigma_t**2, alpha_s * beta / sigma_t**2
    var = torch.exp(torch.lerp(small.log(), beta.log(), v))
    q = torch.distributions.Normal(of_x * x, small.sqrt())
    p = torch.distributions.Normal(of_x * x_hat, var.sqrt())
    expected = torch.distributions.kl_divergence(q, p).flatten(1).mean(1)
    assert_close(found, expected, rtol=1e-8, atol=1e-14)


def test_the_bound_is_zero_where_the_step_is_exact():
    denoiser, x = hybrid(-40.0), normal(4, 2, 3)
    t = torch.tensor([0.02, 0.3, 0.6, 1.0], dtype=F64)
    bound = denoiser._variance_bound(x, x, torch.zeros_like(x), t)
    assert_close(bound, torch.zeros_like(bound), rtol=0, atol=1e-14)


@every_schedule
def test_the_hybrid_loss_is_finite_at_both_ends_and_off_the_grid(schedule):
    denoiser = hybrid(0.1, schedule, steps=10)
    t = torch.tensor([1e-6, 0.01, 0.1, 0.999, 1 - 1e-6], dtype=F64)
    loss = denoiser.loss(normal(5, 2, 3), t, normal(5, 2, 3, seed=1))
    assert loss.isfinite().all()


# --- Exact denoisers -----------------------------------------------------------------------------

EXACT = {
    "mixture": mixture,
    "gaussian": partial(gaussian, dims=2),
    "empirical": lambda schedule: EmpiricalDenoiser(normal(7, 2), schedule),
}
every_exact = pytest.mark.parametrize("make", EXACT.values(), ids=EXACT.keys())


def test_every_exact_denoiser_stands_in_the_list():
    own = {
        c for _, c in inspect.getmembers(exact, inspect.isclass) if c.__module__ == exact.__name__
    }
    assert {type(make(noise.CosineSchedule())) for make in EXACT.values()} == own


@every_schedule
@pytest.mark.parametrize("time", [1e-3, 0.1, 0.5, 0.9])
def test_the_mixture_is_what_integration_over_x_says(schedule, time):
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    means = torch.tensor([-1.5, 0.2, 1.0], dtype=F64)
    var = torch.tensor([0.1, 0.02, 0.5], dtype=F64)
    truth = MixtureDenoiser(weights, means[:, None], var[:, None, None], schedule)
    t = torch.tensor(time, dtype=F64)
    alpha, sigma = schedule(t)
    x_t = noised(truth, t)
    spread = (sigma / alpha).clamp(max=20.0)
    middle = (x_t / alpha).clamp(-4, 4) if spread < 1 else torch.zeros_like(x_t)
    x = middle + torch.linspace(-9, 9, 100_001, dtype=F64) * min(1.0, spread.item())
    log_p = torch.logsumexp(
        weights.log()[:, None, None]
        + torch.distributions.Normal(means[:, None, None], var[:, None, None].sqrt()).log_prob(x),
        0,
    )
    log_joint = log_p + torch.distributions.Normal(alpha * x, sigma).log_prob(x_t)
    share = torch.softmax(log_joint, 1)
    assert_close(truth(x_t, t)[:, 0], (share * x).sum(1), rtol=0, atol=1e-9)
    log_prob = torch.logsumexp(log_joint, 1) + (x[:, 1] - x[:, 0]).log()
    assert_close(truth.log_prob(x_t, t), log_prob, rtol=0, atol=1e-8)


@every_schedule
@pytest.mark.parametrize("label", [None, 1])
def test_tweedie_s_formula_links_the_density_and_the_denoiser(schedule, label):
    truth = mixture(schedule)
    cond = {} if label is None else {"label": torch.full((6,), label)}
    for time in (0.01, 0.3, 0.8):
        t = torch.tensor(time, dtype=F64)
        x_t = noised(truth, t).requires_grad_()
        (score,) = torch.autograd.grad(truth.log_prob(x_t, t, **cond).sum(), x_t)
        alpha, sigma = schedule(t)
        tweedie = (alpha * truth(x_t, t, **cond) - x_t) / sigma**2
        assert_close(tweedie, score, rtol=1e-8, atol=1e-8)


@every_schedule
def test_the_jacobian_of_the_mixture_is_the_covariance_of_its_posterior(schedule):
    """Second-order Tweedie, against the law of total covariance."""
    truth, t = mixture(schedule), torch.tensor(0.35, dtype=F64)
    x_t = noised(truth, t)
    alpha, sigma = schedule(t)
    eye = torch.eye(2, dtype=F64)
    inside = torch.linalg.inv(torch.linalg.inv(truth.covs) + (alpha / sigma) ** 2 * eye)
    pull = torch.einsum("kij,kj->ki", torch.linalg.inv(truth.covs), truth.means)
    means = torch.einsum("kij,bkj->bki", inside, pull + (alpha / sigma**2 * x_t)[:, None])
    r, gap = truth.responsibilities(x_t, t), means - truth(x_t, t)[:, None]
    expected = torch.einsum("bk,bkij->bij", r, inside + gap[..., None] * gap[..., None, :])
    x_hat, spread = denoise.covariance(truth, x_t, t)
    found = torch.stack([spread(e.expand_as(x_t)) for e in eye], -1)
    assert_close(x_hat, truth(x_t, t))
    assert_close(found, expected, rtol=1e-8, atol=1e-10)


@every_schedule
def test_the_mixture_of_points_is_the_empirical_denoiser(schedule):
    data = normal(7, 2)
    points = MixtureDenoiser(
        torch.full((7,), 1 / 7, dtype=F64), data, torch.zeros(7, 2, 2, dtype=F64), schedule
    )
    memory = EmpiricalDenoiser(data.view(7, 2, 1), schedule)
    for time in (0.05, 0.3, 0.7, 1.0):
        t = torch.tensor(time, dtype=F64)
        x_t = noised(points, t)
        assert_close(memory(x_t[..., None], t)[..., 0], points(x_t, t), rtol=1e-9, atol=1e-9)


@every_schedule
def test_a_covariance_without_full_rank_keeps_the_estimate_on_its_plane(schedule):
    direction = torch.tensor([0.6, 0.8], dtype=F64)
    cov, mean = 0.5 * torch.outer(direction, direction), torch.tensor([1.0, -1.0], dtype=F64)
    flat = GaussianDenoiser(mean, cov, schedule)
    nearly = GaussianDenoiser(mean, cov + 1e-13 * torch.eye(2, dtype=F64), schedule)
    normal_of_plane = torch.tensor([0.8, -0.6], dtype=F64)
    for time in (0.0, 1e-4, 0.2, 0.9, 1.0):
        t = torch.tensor(time, dtype=F64)
        x_t = noised(flat, t)
        x_hat = flat(x_t, t)
        assert ((x_hat - mean) @ normal_of_plane).abs().max() < 1e-12
        if schedule(t)[1] > 1e-4:
            assert_close(x_hat, nearly(x_t, t), rtol=0, atol=1e-6)


@every_exact
@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exact_denoiser_is_finite_at_both_ends_in_its_own_precision(make, schedule, dtype):
    denoiser = make(schedule)
    for time in (0.0, 1e-6, 0.5, 1 - 1e-6, 1.0):
        t = torch.tensor(time, dtype=F64)
        alpha, sigma = schedule(t)
        x_t = (alpha * normal(5, 2) + sigma * normal(5, 2, seed=1)).to(dtype)
        x_hat = denoiser(x_t, t)
        assert x_hat.dtype == dtype and x_hat.shape == x_t.shape
        assert x_hat.isfinite().all()


@every_exact
@every_schedule
def test_each_example_may_have_its_own_time(make, schedule):
    denoiser, x_t = make(schedule), normal(3, 2)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    alone = torch.cat([denoiser(x_t[i : i + 1], t[i]) for i in range(3)])
    assert_close(denoiser(x_t, t), alone)


@every_exact
@pytest.mark.parametrize("there", SCHEDULES)
@pytest.mark.parametrize("here", SCHEDULES)
def test_a_denoiser_seen_along_another_path_is_the_denoiser_of_that_path(make, here, there):
    """Path-free: (x_hat, log-SNR) is all that matters."""
    denoiser, other = make(SCHEDULES[here]), make(SCHEDULES[there])
    seen = denoiser.along(SCHEDULES[there])
    assert seen.schedule == SCHEDULES[there]
    for log_snr in (-6.0, -1.0, 2.0, 8.0):
        t = SCHEDULES[there].time(torch.tensor(log_snr, dtype=F64))
        x_t = torch.hypot(*SCHEDULES[there](t)) * normal(4, 2)
        assert_close(seen(x_t, t), other(x_t, t), rtol=1e-9, atol=1e-9)


def test_wrappers_of_one_denoiser_give_one_estimate_whatever_they_predict():
    schedule = noise.CosineSchedule()
    truth, t = mixture(schedule), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 0.99], dtype=F64)
    x_t = normal(6, 2)
    for prediction in PREDICTIONS.values():
        denoiser = NetDenoiser(Exact(truth, prediction), schedule, prediction)
        assert_close(denoiser(x_t, t), truth(x_t, t), rtol=0, atol=1e-9)


@every_schedule
def test_the_flow_of_a_gaussian_is_what_the_solver_finds(schedule):
    truth = gaussian(schedule)
    t, s = schedule.time(torch.tensor([-6.0, 4.0], dtype=F64))
    x_t = noised(truth, t)
    assert_close(truth.flow(x_t, t, s), flow(truth, x_t, t.item(), s.item()), rtol=1e-9, atol=1e-9)
    assert_close(truth.flow(truth.flow(x_t, t, s), s, t), x_t, rtol=1e-9, atol=1e-9)


@every_schedule
def test_the_posterior_of_a_gaussian_is_conditioning_of_all_three(schedule):
    """(x, x_t, y) are jointly Gaussian."""
    truth, A, t = gaussian(schedule), normal(2, 3, seed=8), torch.tensor(0.4, dtype=F64)
    (alpha, sigma), sigma_y = schedule(t), 0.3
    x_t, y = noised(truth, t), normal(6, 2)
    see = torch.cat([alpha * torch.eye(3, dtype=F64), A])
    noise_var = torch.cat([sigma.expand(3), torch.tensor([sigma_y, sigma_y], dtype=F64)]) ** 2
    gain = truth.covs[0] @ see.T @ torch.linalg.inv(see @ truth.covs[0] @ see.T + noise_var.diag())
    gap = torch.cat([x_t, y], 1) - truth.means[0] @ see.T
    expected = truth.means[0] + gap @ gain.T
    assert_close(truth.posterior(x_t, t, A, y, sigma_y), expected, rtol=1e-8, atol=1e-8)


def test_draws_of_the_mixture_have_its_moments():
    truth, count = mixture(), 200_000
    x = truth.draw(count, torch.Generator().manual_seed(0))
    mean = truth.weights @ truth.means
    outer = torch.einsum("ki,kj->kij", truth.means, truth.means)
    cov = torch.einsum("k,kij->ij", truth.weights, truth.covs + outer) - torch.outer(mean, mean)
    assert_close(x.mean(0), mean, rtol=0, atol=5e-3)
    assert_close(x.T.cov(), cov, rtol=0, atol=1e-2)


def test_a_label_picks_a_component_and_minus_one_means_any():
    truth, x_t, t = mixture(), normal(4, 2), torch.tensor(0.5, dtype=F64)
    found = truth(x_t, t, label=torch.tensor([0, 1, 2, -1]))
    for k in range(3):
        component = GaussianDenoiser(truth.means[k], truth.covs[k], truth.schedule)
        assert_close(found[k : k + 1], component(x_t[k : k + 1], t))
    assert_close(found[3], truth(x_t, t)[3])
    responsibilities = truth.responsibilities(x_t, t)
    assert_close(responsibilities.sum(1), torch.ones(4, dtype=F64))


def test_bound_conditions_give_way_to_those_of_the_call():
    truth, x_t, t = mixture(), normal(2, 2), torch.tensor(0.5, dtype=F64)
    zero, one = torch.tensor([0, 0]), torch.tensor([1, 1])
    bound = truth.given(label=zero)
    assert_close(bound(x_t, t), truth(x_t, t, label=zero))
    assert_close(bound(x_t, t, label=one), truth(x_t, t, label=one))
    assert truth.given() is truth and truth.along(truth.schedule) is truth


def test_shapes_that_do_not_fit_a_mixture_are_refused():
    with pytest.raises(ValueError, match="expected weights"):
        MixtureDenoiser(torch.ones(2), torch.zeros(3, 2), covariances(3, 2), noise.FlowSchedule())


class KnowsGaussian(torch.nn.Module):
    """The noise in x_t, of data N(0, S^2) on a ``vp`` schedule, of which one weight is learned."""

    def __init__(self, S):
        super().__init__()
        self.S = S
        self.gain = torch.nn.Parameter(torch.ones((), dtype=F64))

    def forward(self, x, log_snr):
        alpha, sigma = (align(c, x) for c in noise.scales(log_snr, "vp"))
        return self.gain * sigma / (alpha**2 * self.S**2 + sigma**2) * x


def test_a_learned_schedule_lowers_the_variance_of_the_bound_and_leaves_its_value():
    torch.manual_seed(0)
    curve, S = MonotoneCurve(16), 0.3
    schedule = noise.LearnedSchedule(net=curve, log_snr_min=-8.0, log_snr_max=12.0)
    denoiser = NetDenoiser(
        KnowsGaussian(S), schedule, predict.predict_noise, predict.Variational(schedule=schedule)
    )

    def losses(count):
        x = S * torch.randn(count, 32, dtype=F64)
        t = UniformTimes()(low_discrepancy(torch.rand(()).item(), count), schedule)
        return denoiser.loss(x, t, torch.randn_like(x))

    before = losses(20_000).detach()
    optimizer = torch.optim.Adam(curve.parameters(), 0.03)
    for _ in range(150):
        optimizer.zero_grad()
        losses(256).mean().backward()
        optimizer.step()
    after = losses(20_000).detach()
    assert after.var() < before.var() / 2
    assert_close(after.mean(), before.mean(), rtol=0.02, atol=0)


def test_a_learned_schedule_and_the_network_each_follow_their_own_aim():
    torch.manual_seed(0)
    curve = MonotoneCurve(4).double()
    schedule = noise.LearnedSchedule(net=curve, log_snr_min=-8.0, log_snr_max=8.0)
    weighting = predict.Variational(schedule=schedule)
    denoiser = NetDenoiser(KnowsGaussian(0.5), schedule, predict.predict_noise, weighting)
    x, eps, t = normal(6, 4), normal(6, 4), torch.rand(6, dtype=F64)
    gain, knobs = denoiser.net.gain, list(curve.parameters())

    def gradients(value):
        return torch.autograd.grad(value, [gain, *knobs], retain_graph=True)

    raw = denoiser._loss(x, t, eps, {})
    of_mean, of_square = gradients(raw.mean()), gradients(raw.square().mean())
    loss = denoiser.loss(x, t, eps)
    assert_close(loss, raw)
    found = gradients(loss.mean())
    assert_close(found[0], of_mean[0])
    for got, expected in zip(found[1:], of_square[1:], strict=True):
        assert_close(got, expected)
    assert all(p.requires_grad for p in denoiser.parameters())
