"""Samplers against the algorithms of their papers, transcribed; their parts, one by one."""

import math
from collections import deque
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.testing import assert_close

from ornstein.core import noise
from ornstein.core.denoise import Denoiser, reverse_variances
from ornstein.core.exact import GaussianDenoiser
from ornstein.core.sample import (
    RK45,
    AdamsBashforth,
    Ancestral,
    Churn,
    DPMSolver,
    Euler,
    Heun,
    Multistep,
    PredictorCorrector,
    UniPC,
    encode,
    posterior_variance,
    start,
)
from ornstein.core.solve import (
    BY_ORDER,
    DORMAND_PRINCE,
    DORMAND_PRINCE_ERROR,
    exponential_moments,
    quadrature,
)
from ornstein.core.tally import Tally
from ornstein.core.times import StrideGrid, UniformGrid
from ornstein.core.trajectory import instants, mix
from ornstein.errors import UsageError
from truths import F64, VE, mixture, normal

KARRAS = noise.KarrasSchedule()
FLOW = noise.FlowSchedule()
SIGMAS = torch.tensor([60.0, 20.0, 7.0, 2.5, 0.8, 0.3, 0.1, 0.04], dtype=F64)


def karras_case(sampler, seed=3, **options):
    """The sampler along VE noise levels SIGMAS, and what the transcriptions need: D(x, sigma)."""
    truth, x = mixture(KARRAS), 60 * normal(4, 2)
    times = KARRAS.time(-2 * SIGMAS.log())
    got = sampler(truth, x, times, noise=draws(seed), **options)
    return got, x, lambda x, sigma: truth(x, KARRAS.time(-2 * sigma.log()))


def draws(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, dtype=F64, generator=generator)


# --- Papers, transcribed -------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_published_2m_is_the_algorithm_of_its_paper(eta):
    got, x, D = karras_case(DPMSolver(points=2, eta=eta))
    lam, old, noise_of = -SIGMAS.log(), None, draws(3)
    for i in range(len(SIGMAS) - 1):
        h, x_hat = lam[i + 1] - lam[i], D(x, SIGMAS[i])
        extrapolated = x_hat
        if old is not None:
            r = (lam[i] - lam[i - 1]) / h
            extrapolated = (1 + 1 / (2 * r)) * x_hat - 1 / (2 * r) * old
        if eta:
            kept = SIGMAS[i + 1] / SIGMAS[i] * torch.exp(-h)
            x = kept * x + (1 - torch.exp(-2 * h)) * extrapolated
            x = x + SIGMAS[i + 1] * torch.sqrt(1 - torch.exp(-2 * h)) * noise_of(x)
        else:
            x = SIGMAS[i + 1] / SIGMAS[i] * x - torch.expm1(-h) * extrapolated
        old = x_hat
    assert_close(got, x, rtol=1e-10, atol=1e-10)


def third_order(D, x, double, mean_place):
    """DPM-Solver++(3M): `double` corrects its second derivative, `mean_place` its 2M start."""
    lam, seen = -SIGMAS.log(), []
    for i in range(len(SIGMAS) - 1):
        h = lam[i + 1] - lam[i]
        seen.append(D(x, SIGMAS[i]))
        phi_1 = torch.expm1(-h)
        phi_2, phi_3 = phi_1 / h + 1, (phi_1 + h) / h**2 - 0.5
        first = second = torch.zeros_like(x)
        if i == 1:
            r = (lam[1] - lam[0]) / h
            first = (seen[-1] - seen[-2]) / r * (phi_2 if mean_place else -phi_1 / 2)
        elif i > 1:
            r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
            new, old = (seen[-1] - seen[-2]) / r0, (seen[-2] - seen[-3]) / r1
            bend = (new - old) / (r0 + r1)
            first, second = phi_2 * (new + r0 * bend), -phi_3 * bend * (2 if double else 1)
        x = SIGMAS[i + 1] / SIGMAS[i] * x - phi_1 * seen[-1] + first + second
    return x


def test_published_3m_is_the_algorithm_of_its_paper():
    got, x, D = karras_case(DPMSolver(points=3))
    assert_close(got, third_order(D, x, double=False, mean_place=False), rtol=1e-10, atol=1e-10)


def test_corrected_3m_is_the_published_one_with_the_second_derivative_doubled():
    got, x, D = karras_case(Multistep(order=3))
    assert_close(got, third_order(D, x, double=True, mean_place=True), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_heun_in_ve_is_the_algorithm_of_edm(rate):
    churn = Churn(rate=rate, sigma_min=0.2, sigma_max=30.0, inflation=1.003)
    got, x, D = karras_case(Heun(scaling="ve", churn=churn))
    noise_of = draws(3)
    for sigma, then in pairwise(SIGMAS):
        up = sigma * (1 + rate) if 0.2 <= sigma <= 30 else sigma
        if up > sigma:
            x = x + torch.sqrt(up**2 - sigma**2) * 1.003 * noise_of(x)
        d = (x - D(x, up)) / up
        ahead = x + (then - up) * d
        x = x + (then - up) * (d + (ahead - D(ahead, then)) / then) / 2
    assert_close(got, x, rtol=1e-9, atol=1e-9)


def test_heun_in_flow_is_the_trapezoidal_rule_of_rectified_flow():
    truth, x = mixture(FLOW), normal(4, 2)
    times = UniformGrid()(FLOW, 6)[:-1]
    expected = x
    for t, s in pairwise(times):
        u = (expected - truth(expected, t)) / t
        ahead = expected + (s - t) * u
        expected = expected + (s - t) * (u + (ahead - truth(ahead, s)) / s) / 2
    assert_close(Heun()(truth, x, times), expected, rtol=1e-10, atol=1e-10)


def test_adams_bashforth_has_the_weights_of_the_textbook_on_equal_steps():
    truth, x, h, u = mixture(FLOW), normal(4, 2), -0.1, []
    expected, weights = x, [(1,), (-1 / 2, 3 / 2), (5 / 12, -16 / 12, 23 / 12)]
    for i in range(10):
        t = torch.tensor(1 - i / 10, dtype=F64)
        u.append((expected - truth(expected, t)) / t)
        w = weights[min(i, 2)]
        expected = expected + h * sum(a * b for a, b in zip(w, u[-len(w) :], strict=True))
    got = AdamsBashforth(order=3)(truth, x, UniformGrid()(FLOW, 10))
    assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_at_every_time_is_ddpm_s_algorithm_2(variance):
    schedule = noise.DDPMSchedule(steps=50, beta_last=0.2)
    truth, x, noise_of = mixture(schedule), normal(4, 2), draws(5)
    got = Ancestral(variance=variance)(
        truth, x, StrideGrid(train_steps=50)(schedule, 50), noise=noise_of
    )
    betas, noise_of = torch.linspace(1e-4, 0.2, 50, dtype=F64), draws(5)
    bars = torch.cumprod(1 - betas, 0)
    for i in range(49, -1, -1):
        before = bars[i - 1] if i else torch.ones((), dtype=F64)
        x_hat = truth(x, torch.tensor((i + 1) / 50, dtype=F64))
        eps = (x - bars[i].sqrt() * x_hat) / (1 - bars[i]).sqrt()
        mean = (x - betas[i] / (1 - bars[i]).sqrt() * eps) / (1 - betas[i]).sqrt()
        small = (1 - before) / (1 - bars[i]) * betas[i]
        var = betas[i] if variance == "large" else small
        x = mean + var.sqrt() * noise_of(x) if i else mean
    assert_close(got, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_eta_is_ddim_s_equation_12(eta):
    schedule, x = noise.LinearSchedule(), normal(4, 2)
    truth, times = mixture(schedule), torch.tensor([0.8, 0.5], dtype=F64)
    (a, a_s), (s, s_s) = schedule(times)
    std = eta * s_s / s * torch.sqrt(1 - a**2 / a_s**2)
    x_hat = truth(x, times[0])
    eps = (x - a * x_hat) / s
    expected = a_s * x_hat + torch.sqrt(s_s**2 - std**2) * eps + std * draws(5)(x)
    got = Ancestral(eta=eta)(truth, x, times, noise=draws(5))
    assert_close(got, expected, rtol=1e-10, atol=1e-10)


# --- The variance of ancestral steps -------------------------------------------------------------


class WithHead(Denoiser):
    """Says x_hat = 0, and a place for the variance between small and large."""

    def __init__(self, schedule, place):
        super().__init__()
        self.schedule, self.place = schedule, place

    def forward(self, x_t, t, **cond):
        return torch.zeros_like(x_t)

    def moments(self, x_t, t, **cond):
        return self(x_t, t), self.place.expand_as(x_t)


@pytest.mark.parametrize("schedule", [KARRAS, FLOW, noise.CosineSchedule(), noise.SubVPSchedule()])
def test_a_learned_variance_lies_between_small_and_large_in_the_logarithm(schedule):
    times = torch.tensor([0.7, 0.4], dtype=F64)
    small, large, _ = reverse_variances(schedule, *times)
    for place in (0.0, 0.3, 1.0):
        denoiser = WithHead(schedule, torch.tensor(place, dtype=F64))
        x = torch.zeros(1, 2, dtype=F64)
        got = Ancestral(variance="learned")(denoiser, x, times, noise=torch.ones_like)
        expected = torch.exp(((1 - place) * small.log() + place * large.log()) / 2)
        assert_close(got, expected.expand(1, 2), rtol=1e-10, atol=0)


def test_a_learned_variance_of_a_model_without_one_is_refused_in_words():
    with pytest.raises(UsageError, match="no variance head"):
        Ancestral(variance="learned")(mixture(FLOW), normal(2, 2), UniformGrid()(FLOW, 3))


def test_a_tally_hands_on_the_learned_variance():
    denoiser = WithHead(FLOW, torch.tensor(0.3, dtype=F64))
    tally, times = Tally(denoiser), UniformGrid()(FLOW, 3)
    found, plain = (
        Ancestral(variance="learned")(d, normal(2, 2), times, noise=torch.ones_like)
        for d in (tally, denoiser)
    )
    assert torch.equal(found, plain) and tally.calls == 3


def test_the_measured_posterior_variance_is_the_true_one():
    cov = torch.diag(torch.tensor([0.04, 0.25], dtype=F64))
    truth = GaussianDenoiser(torch.zeros(2, dtype=F64), cov, noise.CosineSchedule())
    x = truth.draw(20_000, torch.Generator().manual_seed(1))
    variance = posterior_variance(truth, x, draws(2))
    for log_snr in (-40.0, -9.1, -2.0, 0.3, 3.3, 8.0, 20.0):
        expected = sum(v / (1 + v * math.exp(log_snr)) for v in (0.04, 0.25)) / 2
        assert variance(log_snr) == pytest.approx(expected, rel=0.03)


# --- Parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [-9.0, -1.6, -1.4, -0.2, -1e-3, 0.5, 3.0])
def test_moments_of_the_exponential_are_its_integrals(begin):
    for count in range(1, 6):
        for k, moment in enumerate(exponential_moments(begin, count)):
            exact = quad(lambda z, k=k: z**k * math.exp(z), begin, 0, epsabs=0, epsrel=1e-13)[0]
            assert moment == pytest.approx(exact, rel=1e-11)


def test_quadrature_weights_reproduce_the_moments():
    nodes, moments = [-0.9, -0.5, -0.45, -0.1], [1.0, -0.3, 0.2, 0.7]
    weights = quadrature(nodes, moments)
    assert np.allclose(np.vander(nodes, increasing=True).T @ weights, moments, rtol=1e-12)


def test_runge_kutta_rules_fulfil_their_order_conditions():
    for order, rule in {**BY_ORDER, 5: DORMAND_PRINCE}.items():
        b, c = np.array(rule.weights), np.array(rule.nodes)
        assert np.allclose([sum(row) for row in rule.rows], c)
        for k in range(order):
            assert b @ c**k == pytest.approx(1 / (k + 1), rel=1e-12)
    error, c = np.array(DORMAND_PRINCE_ERROR), np.array(DORMAND_PRINCE.nodes)
    assert np.allclose([error @ c**k for k in range(4)], 0, atol=1e-15)
    assert abs(error @ c**4) > 1e-4


@pytest.mark.parametrize(
    "kept, weights",
    [
        (0.7, [0.3]),
        (0.0, [1.0]),
        (0.0, [0.4]),
        (1.0, [2.0]),  # 1 is kept, as of noise that is added in `ve`
        (0.5, [1.0, -1.5, 1.0]),  # in this order the sum would pass through 0
        (0.8, [0.9, -0.9, 0.2, 0.5]),
        (30.0, [-40.0, 15.0, -4.0]),  # towards noise
    ],
)
def test_a_mix_is_the_sum_it_stands_for_and_changes_nothing(kept, weights):
    x, values = normal(3, 5), [normal(3, 5, seed=i) for i in range(1, 1 + len(weights))]
    before = [v.clone() for v in (x, *values)]
    expected = kept * x + sum(w * v for w, v in zip(weights, values, strict=True))
    assert_close(mix(kept, weights)(x, values), expected, rtol=1e-12, atol=1e-12)
    assert_close([x, *values], before, rtol=0, atol=0)


def test_in_float32_a_mix_is_what_lerp_makes_of_numbers_to_the_bit():
    x, *values = (normal(3, 5, seed=i).float() for i in range(4))
    found = mix(0.5, [0.0, 0.75, -0.25])(x, values)
    expected = torch.lerp(torch.lerp(x, values[1], 0.75 / 1.25), values[2], -0.25)
    assert torch.equal(found, expected)


def test_start_has_the_variance_of_x_t():
    for schedule in (KARRAS, FLOW, noise.SubVPSchedule()):
        t = torch.tensor(0.7, dtype=F64)
        alpha, sigma = schedule(t)
        expected = torch.sqrt(alpha**2 + sigma**2) * normal(3, 2)
        assert_close(start(schedule, t, normal(3, 2)), expected)
        assert start(schedule, t, normal(3, 2).float()).dtype == torch.float32


def test_churn_stays_within_its_bounds_and_the_schedule():
    x = torch.zeros(2, 2, dtype=F64)
    churn = Churn(rate=0.4, sigma_min=0.1, sigma_max=100.0)
    for sigma, after in {0.05: 0.05, 0.11: 0.154, 10.0: 14.0, 79.0: 80.0, 80.0: 80.0}.items():
        (now,) = instants(KARRAS, KARRAS.time(torch.tensor([-2 * math.log(sigma)], dtype=F64)))
        up = churn.raised(KARRAS, now)
        keep = churn.before(lambda denoiser, x_t, past, noise: x_t, now, up)
        moved = keep(mixture(KARRAS), x, deque(), torch.ones_like)
        assert up.sigma == pytest.approx(after, rel=1e-6)
        assert moved[0, 0] ** 2 == pytest.approx(after**2 - sigma**2, rel=1e-5, abs=1e-5)


def test_encoding_begins_with_the_inverse_of_the_last_step():
    truth = GaussianDenoiser(torch.zeros(1, dtype=F64), torch.full((1, 1), 0.25, dtype=F64), FLOW)
    times, x = torch.tensor([0.1, 0.0], dtype=F64), torch.ones(1, 1, dtype=F64)
    x_t = encode(Euler(), truth, x, times)
    left = 0.1**2 / (0.9**2 * 0.25 + 0.1**2)
    assert truth(x_t, times[0]).item() - 1 == pytest.approx(-(left**4), rel=1e-9)


def test_encoding_leaves_directions_without_data_empty():
    cov = torch.diag(torch.tensor([0.25, 0.0], dtype=F64))
    truth = GaussianDenoiser(torch.zeros(2, dtype=F64), cov, FLOW)
    x = torch.tensor([[0.5, 0.0]], dtype=F64)
    z = encode(Multistep(), truth, x, UniformGrid()(FLOW, 20))
    assert z.isfinite().all() and z[0, 1].abs() < 1e-12


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Ancestral(eta=1.5), "eta"),
        (lambda: Ancestral(variance="huge"), "variance must be one of"),
        (lambda: Multistep(order=5), "order"),
        (lambda: Multistep(eta=-1.0), "eta"),
        (lambda: Multistep(eta=1.0, start_up="runge-kutta"), "eta must be 0|eta = 0"),
        (lambda: DPMSolver(points=4), "points"),
        (lambda: DPMSolver(eta=math.inf), "eta"),
        (lambda: UniPC(order=1), "order"),
        (lambda: AdamsBashforth(order=0), "order"),
        (lambda: Churn(rate=0.5), "churn"),
        (lambda: PredictorCorrector(snr=0.9), "snr"),
        (lambda: PredictorCorrector(corrections=0), "corrections"),
        (lambda: RK45(rtol=0.0), "rtol"),
    ],
)
def test_a_parameter_out_of_range_is_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


# --- Adaptive steps ------------------------------------------------------------------------------


class Counting(Denoiser):
    def __init__(self, denoiser, value=None):
        super().__init__()
        self.denoiser, self.schedule, self.value, self.calls = denoiser, denoiser.schedule, value, 0

    def forward(self, x_t, t, **cond):
        self.calls += 1
        x_hat = self.denoiser(x_t, t, **cond)
        return x_hat if self.value is None else torch.full_like(x_hat, self.value)


def test_a_tighter_tolerance_costs_more_calls_and_a_denser_grid_few():
    calls = []
    for tolerance, steps in ((1e-3, 1), (1e-5, 1), (1e-7, 1), (1e-7, 10)):
        counting = Counting(mixture(FLOW))
        RK45(rtol=tolerance, atol=tolerance)(counting, normal(4, 2), UniformGrid()(FLOW, steps))
        calls.append(counting.calls)
    assert calls[0] < calls[1] < calls[2] and calls[3] < 1.6 * calls[2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_adaptive_sampler_ends_where_the_denoiser_fails(value):
    counting = Counting(mixture(FLOW), value)
    x = RK45()(counting, normal(4, 2), UniformGrid()(FLOW, 1))
    assert not x.isfinite().any() and counting.calls < 2000


def test_an_adaptive_sampler_ends_where_rounding_exceeds_its_tolerance():
    counting = Counting(mixture(VE))
    times = VE.time(torch.tensor([-0.2, 0.0], dtype=F64))
    x = RK45(rtol=1e-12, atol=1e-12)(counting, normal(2, 2).float(), times)
    assert x.isfinite().all()
