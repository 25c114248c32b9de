"""Laws of every method of posterior sampling, and the documented bias of each (G19 to G21)."""

import math
from collections.abc import Callable
from itertools import combinations
from statistics import fmean

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ornstein.core import measured, noise, operators
from ornstein.core.denoise import Denoiser
from ornstein.core.exact import GaussianDenoiser, MixtureDenoiser
from ornstein.core.guide import GradientGuidance
from ornstein.core.measure import Filter, Mask, Matrix
from ornstein.core.measured import BIASES, DPS, METHODS, MeasuredSampler, Seeing
from ornstein.core.particles import ByDirection, ByNumber, Particles, effective, systematic
from ornstein.core.posterior import EvidenceDenoiser, Measured, PosteriorDenoiser, evidence
from ornstein.core.sample import SAMPLERS, start
from ornstein.core.times import LogSNRGrid, UniformGrid
from ornstein.errors import UsageError
from ornstein.tasks.methods import method_of
from ornstein.tasks.options import RestoreOptions
from truths import F64, covariances, gaussian, mixture, noised, normal

SCHEDULE = noise.FlowSchedule()
TIMES = LogSNRGrid()(SCHEDULE, 50)
KEEP = torch.tensor([True, False, True])
EXACT = ("mmps", "evidence")  # for Gaussian data
every_method = pytest.mark.parametrize("name", METHODS)


def sampled(name, prior, seen, count, steps=50, seed=0):
    """Draws of p(x | y) ``(count, D)`` by a method; DPM-Solver++ where any rule will do."""
    torch.manual_seed(seed)
    times = LogSNRGrid()(prior.schedule, steps)
    method = METHODS[name]()
    x_t = start(prior.schedule, times[0], torch.randn(count, 3, dtype=F64))
    sampler = method.sampler or SAMPLERS["sde-dpm++2m"]
    return sampler(method.denoiser(prior, seen), x_t, times)


def conditional(truth, A, y, sigma_y):
    """The exact posterior of a mixture at one measurement ``(M,)``: a mixture again (G19)."""
    means, covs, log_weights = [], [], []
    for weight, mean, cov in zip(truth.weights, truth.means, truth.covs, strict=True):
        S = A @ cov @ A.T + sigma_y**2 * torch.eye(len(A), dtype=F64)
        gain = cov @ A.T @ torch.linalg.inv(S)
        means.append(mean + gain @ (y - A @ mean))
        covs.append((torch.eye(len(cov), dtype=F64) - gain @ A) @ cov)
        likely = torch.distributions.MultivariateNormal(A @ mean, S).log_prob(y)
        log_weights.append(weight.log() + likely)
    covs = torch.stack([(c + c.mT) / 2 for c in covs])
    return MixtureDenoiser(
        torch.softmax(torch.stack(log_weights), 0), torch.stack(means), covs, truth.schedule
    )


def sliced(a, b):
    """Sliced Wasserstein distance of order 2 between as many draws of each."""
    g = torch.Generator().manual_seed(9)
    axes = torch.randn(a.shape[1], 256, dtype=F64, generator=g)
    axes = axes / axes.norm(dim=0)
    return ((a @ axes).sort(0)[0] - (b @ axes).sort(0)[0]).square().mean().sqrt().item()


def test_every_rule_that_looks_at_a_measurement_has_a_name():
    rules = {
        v
        for v in vars(measured).values()
        if isinstance(v, type) and issubclass(v, MeasuredSampler) and v is not MeasuredSampler
    }
    named = {type(make().sampler) for make in METHODS.values()} - {type(None)}
    assert rules == named


# --- Laws of all ---------------------------------------------------------------------------------


@every_method
def test_no_example_depends_on_its_batch(name):
    """The fault of a norm over the whole batch."""
    prior, A = mixture(SCHEDULE, dims=3), Mask(KEEP)
    y = A(normal(4, 3, seed=6))
    x_t = start(SCHEDULE, TIMES[0], normal(4, 3))
    method = METHODS[name]()

    def walk(rows):
        denoiser = method.denoiser(prior, Measured(A, y[rows]))
        sampler = method.sampler or SAMPLERS["ddim"]
        still = lambda like: torch.full_like(like, 0.3)  # noqa: E731
        return sampler(denoiser, x_t[rows], LogSNRGrid()(SCHEDULE, 6), noise=still)

    assert_close(walk(slice(0, 4))[1:2], walk(slice(1, 2)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"dps"}))
def test_an_exact_measurement_is_kept(name):
    prior, A = mixture(SCHEDULE, dims=3), Mask(KEEP)
    y = A(prior.draw(16, torch.Generator().manual_seed(1)))
    x = sampled(name, prior, Measured(A, y), 16)
    assert (x - y)[:, KEEP].abs().max() < 0.02
    assert x.isfinite().all()


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_method_keeps_the_dtype_and_is_finite_in_few_steps(name, dtype):
    prior, A = gaussian(SCHEDULE), operators.identity((3,))
    y = normal(2, 3, seed=1).to(dtype)
    level = 0.0 if name == "ddnm" else 0.1
    method = METHODS[name]()
    denoiser = method.denoiser(prior, Measured(A, y, level))
    times = LogSNRGrid()(SCHEDULE, 5)
    x_t = start(SCHEDULE, times[0], normal(2, 3).to(dtype))
    x = (method.sampler or SAMPLERS["ddpm"])(denoiser, x_t, times)
    assert x.dtype == dtype and x.isfinite().all()


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"repaint", "ddrm", "ddnm"}))
def test_what_is_not_linear_is_taken_by_its_tangent(name):
    """Clipped at 0.5: draws of what was clipped lie above."""
    prior, A = gaussian(SCHEDULE), operators.Declip(-0.5, 0.5)
    y = torch.tensor([[0.5, 0.1, -0.2]], dtype=F64)
    x = sampled(name, prior, Measured(A, y, 0.05), 64)
    assert x.isfinite().all()
    if name not in ("dps",):
        assert (A(x) - y).abs().mean() < 0.2


@pytest.mark.parametrize(
    ("name", "A", "level", "message"),
    [
        ("repaint", operators.random_matrix((3,), 2), 0.1, "masks alone"),
        ("ddrm", operators.Declip(-1.0, 1.0), 0.1, "singular values"),
        ("ddnm", Mask(KEEP), 0.1, "to be exact"),
    ],
)
def test_a_method_that_cannot_take_an_operator_says_so(name, A, level, message):
    prior = gaussian(SCHEDULE)
    with pytest.raises(UsageError, match=message):
        sampled(name, prior, Measured(A, A(normal(1, 3)), level), 2, steps=4)


def test_a_measurement_of_too_many_numbers_for_the_evidence_is_refused():
    prior = GaussianDenoiser(torch.zeros(80).double(), torch.eye(80).double(), SCHEDULE)
    denoiser = EvidenceDenoiser(prior, operators.identity((80,)), torch.zeros(1, 80).double(), 0.1)
    with pytest.raises(UsageError, match="at most 64"):
        denoiser(torch.zeros(2, 80).double(), torch.tensor(0.5))


# --- G19: Gaussians and the mixture --------------------------------------------------------------


def test_draws_of_a_gaussian_posterior_reach_the_sampling_floor_as_they_are_asked_for():
    """Sliced Wasserstein distance at most 1.2 times that between two sets of exact draws.

    Eight numbers, three measured; sampler, steps and iterations are those of `restore`.
    """
    asked, grid = RestoreOptions(), UniformGrid()
    prior, A = gaussian(SCHEDULE, 8), normal(3, 8, seed=8) / 8**0.5
    y, count = normal(3, seed=6), 1000
    post, g = conditional(prior, A, y, 0.3), torch.Generator().manual_seed(2)
    exact = [post.draw(count, g) for _ in range(4)]
    floor = fmean(sliced(a, b) for a, b in combinations(exact, 2))
    seen = Measured(Matrix(A, (8,)), y[None], 0.3)
    denoiser, times = method_of(asked).denoiser(prior, seen), grid(SCHEDULE, asked.steps or 0)
    torch.manual_seed(3)
    found = []
    for _ in range(3):
        x_t = start(SCHEDULE, times[0], torch.randn(count, 8, dtype=F64))
        x = SAMPLERS[str(asked.sampler)](denoiser, x_t, times)
        found += [sliced(x, other) for other in exact]
    assert fmean(found) < 1.2 * floor


@pytest.mark.parametrize("time", [1e-3, 0.1, 0.4, 0.9])
def test_the_evidence_is_exact_for_a_gaussian(time):
    truth, A, t = gaussian(SCHEDULE), normal(2, 3, seed=8), torch.tensor(time, dtype=F64)
    x_t, y = noised(truth, t), normal(6, 2)
    found = EvidenceDenoiser(truth, Matrix(A, (3,)), y, 0.2)(x_t, t)
    expected = truth.posterior(x_t, t, A, y, 0.2)
    assert_close(found, expected, rtol=0, atol=1e-7)


def test_the_pull_of_the_evidence_is_its_gradient():
    truth, A = mixture(SCHEDULE, dims=3), Matrix(normal(2, 3, seed=8), (3,))
    seen, t = Measured(A, normal(4, 2, seed=3), 0.2), torch.tensor(0.5, dtype=F64)
    x_t = noised(truth, t, 4)
    alpha, sigma = SCHEDULE(t)
    found, step, slope = evidence(truth, seen, x_t, t), 1e-5, []
    for axis in torch.eye(3, dtype=F64):
        up, down = (evidence(truth, seen, x_t + s * axis, t).log_prob for s in (step, -step))
        slope.append((up - down) / (2 * step))
    expected = sigma**2 / alpha * torch.stack(slope, 1)
    assert_close(found.pull, expected, rtol=1e-6, atol=1e-6)


def test_the_bias_of_the_evidence_is_the_one_documented():
    """RMS error of E[x | x_t, y] on the mixture, in units of what the measurement changes."""
    truth = mixture(noise.CosineSchedule(), dims=3)
    A, y = KEEP.double().diag()[KEEP], torch.tensor([-0.3, 0.6], dtype=F64)
    post = conditional(truth, A, y, 0.2)
    bias = {}
    for log_snr in (-2.0, 0.0, 2.0, 8.0):
        t = truth.schedule.time(torch.tensor(log_snr, dtype=F64))
        x_t = noised(post, t, 1024)
        change = (truth(x_t, t) - post(x_t, t)).square().mean()
        off = EvidenceDenoiser(truth, Matrix(A, (3,)), y[None], 0.2)(x_t, t) - post(x_t, t)
        bias[log_snr] = (off.square().mean() / change).sqrt().item()
    assert bias == pytest.approx({-2.0: 0.39, 0.0: 0.31, 2.0: 0.14, 8.0: 0.0}, abs=0.02)


@pytest.mark.slow
def test_the_whole_gradient_of_the_evidence_finds_the_modes_more_often():
    """Four Gaussians in eight dimensions, three measurements: see benchmarks/posterior.py."""
    found = {}
    for seed in (0, 1):
        g = torch.Generator().manual_seed(seed)
        means = torch.randn(4, 8, dtype=F64, generator=g)
        truth = MixtureDenoiser(
            torch.full((4,), 0.25, dtype=F64), means, 0.4 * covariances(4, 8, seed), SCHEDULE
        )
        A = torch.randn(3, 8, dtype=F64, generator=g) / math.sqrt(8)
        y = (truth.draw(1, g) @ A.T + 0.3 * torch.randn(1, 3, dtype=F64, generator=g))[0]
        exact = conditional(truth, A, y, 0.3).draw(400, g)
        x_t = start(SCHEDULE, TIMES[0], torch.randn(400, 8, dtype=F64, generator=g))
        seen = Matrix(A, (8,)), y[None], 0.3
        for name, denoiser in (
            ("mean", PosteriorDenoiser(truth, *seen, iterations=3)),
            ("whole", EvidenceDenoiser(truth, *seen)),
        ):
            torch.manual_seed(seed)
            x = SAMPLERS["ddpm"](denoiser, x_t, TIMES)
            found[name] = found.get(name, 0.0) + sliced(x, exact)
    assert found["whole"] < 0.7 * found["mean"]


@pytest.mark.slow
def test_particles_converge_to_the_exact_posterior_of_the_mixture():
    truth = mixture(SCHEDULE, dims=3)
    A, y = normal(2, 3, seed=8), torch.tensor([0.1, -0.2], dtype=F64)
    post, seen = conditional(truth, A, y, 0.3), Measured(Matrix(A, (3,)), y[None], 0.3)
    g = torch.Generator().manual_seed(2)
    count = 1000
    exact = [post.draw(count, g) for _ in range(6)]
    floor = sum(sliced(a, exact[0]) for a in exact[1:]) / 5
    torch.manual_seed(0)
    found = []
    for _ in range(3):
        x_t = start(SCHEDULE, TIMES[0], torch.randn(count, 3, dtype=F64))
        found.append(sliced(Particles(seen)(truth, x_t, TIMES).x, exact[0]))
    assert sum(found) / 3 < 1.5 * floor


def test_a_steered_step_has_the_moments_of_bayes_and_weighs_what_it_says():
    """y = U x + n of x ~ N(0, I): its gap, posterior mean times its root, and two densities."""
    U, fresh, gap = normal(1, 2, 3, seed=5), normal(4000, 3, seed=6), normal(1, 2, seed=7)
    told = ByNumber(fresh, fresh[:, 0], gap.expand(4000, 2), U.expand(4000, 2, 3))
    eps, change = told.steered(fresh, 1.0)
    cov = torch.linalg.inv(torch.eye(3, dtype=F64) + U[0].T @ U[0])
    values, axes = torch.linalg.eigh(cov)
    mean = (axes * values.sqrt()) @ axes.T @ U[0].T @ gap[0]
    assert_close(eps, fresh @ (axes * values.sqrt()) @ axes.T + mean)
    of = torch.distributions.MultivariateNormal
    prior, moved = of(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64)), of(mean, cov)
    assert_close(change, prior.log_prob(eps) - moved.log_prob(eps))


@pytest.mark.parametrize(
    "A",
    [Matrix(normal(2, 3, seed=8), (3,)), Mask(KEEP), operators.low_pass((1, 6), 0.7)],
    ids=lambda A: type(A).__name__,
)
def test_in_singular_vectors_nothing_is_lost_where_the_data_are_white(A):
    """S, its pull, its evidence and the step that it steers are those of all its numbers."""
    shape = (1, 6) if isinstance(A, Filter) else (3,)
    prior, t = White(SCHEDULE), torch.tensor(0.6, dtype=F64)
    x_t, y = normal(5, *shape), A(normal(1, *shape, seed=6))
    seen, known = Measured(A, y, 0.2), A.spectrum(shape)
    whole, quick = (
        ByNumber.of(prior, seen, x_t, t),
        ByDirection.of(known, torch.randn_like, prior, seen, x_t, t),
    )
    assert_close(quick.pull, whole.pull)
    assert_close(quick.log_prob - quick.log_prob[0], whole.log_prob - whole.log_prob[0])
    fresh = normal(5, *shape, seed=9)
    for found, expected in zip(quick.steered(fresh, 0.7), whole.steered(fresh, 0.7), strict=True):
        assert_close(found, expected)


def test_a_measurement_that_sees_nothing_is_no_evidence():
    nothing = Measured(Mask(torch.zeros(3, dtype=torch.bool)), torch.zeros(1, 3, dtype=F64), 0.1)
    with pytest.raises(UsageError, match="sees nothing"):
        Particles(nothing)(gaussian(SCHEDULE), normal(4, 3), TIMES)


def test_particles_take_more_numbers_than_have_a_product_each():
    """Ninety of a hundred are known in noise; what is unknown is drawn as it depends on them."""
    dims, level = 100, 0.5
    near = torch.exp(-(torch.arange(dims).double()[:, None] - torch.arange(dims)).abs())
    prior = GaussianDenoiser(torch.zeros(dims, dtype=F64), near, SCHEDULE)
    keep = torch.arange(dims) % 10 != 5
    y = torch.where(keep, prior.draw(1, torch.Generator().manual_seed(3)), 0.0)
    torch.manual_seed(0)
    x_t = start(SCHEDULE, TIMES[0], torch.randn(256, dims, dtype=F64))
    x, worth = Particles(Measured(Mask(keep), y, level))(prior, x_t, TIMES)
    exact = conditional(prior, torch.eye(dims, dtype=F64)[keep], y[0, keep], level)
    std = exact.covs[0].diagonal().sqrt()
    off = (x.mean(0) - exact.means[0]) / std
    assert off.square().mean().sqrt() < 0.5
    assert 1 <= worth < 256


def test_particles_of_gaussian_data_hardly_compete():
    """Their weights stay equal to second order, so that few are drawn twice."""
    prior, A = gaussian(SCHEDULE), normal(2, 3, seed=8)
    seen = Measured(Matrix(A, (3,)), torch.tensor([[0.4, -0.2]], dtype=F64), 0.1)
    torch.manual_seed(0)
    x_t = start(SCHEDULE, TIMES[0], torch.randn(2000, 3, dtype=F64))
    x = Particles(seen)(prior, x_t, TIMES).x
    assert len(x.unique(dim=0)) > 0.9 * len(x)


def test_particles_end_in_no_leap_from_noise_to_what_a_schedule_leaves_of_it():
    schedule = noise.CosineSchedule()
    prior, A = gaussian(schedule), normal(1, 3, seed=8)
    seen = Measured(Matrix(A, (3,)), torch.tensor([[0.4]], dtype=F64), 0.2)
    times = UniformGrid()(schedule, 20)
    torch.manual_seed(0)
    x_t = start(schedule, times[0], torch.randn(1000, 3, dtype=F64))
    x, worth = Particles(seen)(prior, x_t, times)
    exact = conditional(prior, A, seen.y[0], 0.2)
    off = (x.mean(0) - exact.means[0]) / exact.covs[0].diagonal().sqrt()
    assert off.abs().max() < 0.12
    assert len(x.unique(dim=0)) > 0.6 * worth


@pytest.mark.parametrize(("steps", "off"), [(25, 0.06), (50, 0.05)])
def test_particles_that_learn_nothing_have_the_variance_of_the_prior_in_every_direction(steps, off):
    """Their chain alone; with one variance for all directions, 50 steps are off by a tenth."""
    variances = torch.tensor([3.0, 0.3, 0.01], dtype=F64)
    prior = GaussianDenoiser(torch.zeros(3, dtype=F64), variances.diag(), SCHEDULE)
    nothing = Measured(Matrix(torch.eye(3, dtype=F64)[:1], (3,)), torch.zeros(1, 1, dtype=F64), 1e6)
    torch.manual_seed(0)
    times = LogSNRGrid()(SCHEDULE, steps)
    x_t = start(SCHEDULE, times[0], torch.randn(20_000, 3, dtype=F64))
    found = Particles(nothing)(prior, x_t, times).x.var(0) / variances
    assert_close(found, torch.ones(3, dtype=F64), rtol=off, atol=0)


def test_systematic_resampling_keeps_the_weights_up_to_rounding():
    weights = torch.tensor([0.1, 0.0, 0.55, 0.35], dtype=F64)
    for offset in (0.0, 0.4, 0.999):
        counts = torch.bincount(systematic(weights.repeat(5) / 5, offset), minlength=20)
        assert (counts - 4 * weights.repeat(5)).abs().max() < 1
    assert effective(torch.zeros(8)) == pytest.approx(8)
    assert effective(torch.tensor([0.0, -1e9])) == pytest.approx(1)


class White(Denoiser):
    """Of data N(0, I), of any shape."""

    def __init__(self, schedule: noise.Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        alpha, sigma = self.schedule(t)
        return alpha / (alpha**2 + sigma**2) * x_t


# --- G20: what each approximation does to N(0, 1) ------------------------------------------------


def scalar_flow(denoiser: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Variance of the draws, and what y = 1 adds to their mean.

    The estimate is ``a(t) x_t + b(t) y``, so with ``u = x_t / alpha`` the flow is
    ``du / d lambda = ((a alpha - 1) u + b y) / 2``, solved by its integrating factor.
    """
    log_snr = torch.linspace(-15.9, 15.9, 100_001, dtype=F64)
    t = SCALAR.time(log_snr)
    alpha, sigma = SCALAR(t)
    zero, one = torch.zeros_like(t)[:, None], torch.ones_like(t)[:, None]
    a, b = denoiser(one, zero, t)[:, 0], denoiser(zero, one, t)[:, 0]
    growth = torch.cumulative_trapezoid((a * alpha - 1) / 2, log_snr)
    growth = torch.cat([torch.zeros(1, dtype=F64), growth])
    pulled = torch.trapezoid(torch.exp(growth[-1] - growth) * b / 2, log_snr)
    start = (sigma / alpha)[0]
    return ((torch.exp(growth[-1]) * start * alpha[-1]) ** 2).item(), pulled.item()


SCALAR = noise.CosineSchedule(log_snr_min=-16.0, log_snr_max=16.0)


@pytest.mark.parametrize(
    ("sigma_y", "variance", "mean"),
    [(0.05, 0.0, 1.0025), (0.3, 0.0, 1.136), (1.0, 0.736, 0.717)],
)
def test_a_likelihood_at_x_hat_is_too_sure_by_as_much_as_theory_says(sigma_y, variance, mean):
    """DPS as Bayes' rule with N(y; x_hat, sigma_y^2): variance ratio and mean coefficient."""

    def guided(x_t, y, t):
        def likelihood(x):
            return -(y - x).square().sum(1) / (2 * sigma_y**2)

        return GradientGuidance(standard(), likelihood)(x_t, t)

    found, pulled = scalar_flow(guided)
    exact = sigma_y**2 / (1 + sigma_y**2)
    assert found / exact == pytest.approx(variance, abs=2e-3)
    assert pulled == pytest.approx(mean, abs=0.01)


def standard():
    one = torch.ones(1, dtype=F64)
    return GaussianDenoiser(0 * one, one[:, None], SCALAR)


@pytest.mark.parametrize("sigma_y", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("name", ["mmps", "evidence", "pigdm"])
def test_moment_matching_is_exact_for_the_scalar(name, sigma_y):

    def posterior(x_t, y, t):
        seen = Measured(operators.identity((1,)), y, sigma_y)
        return METHODS[name]().denoiser(standard(), seen)(x_t, t)

    found, pulled = scalar_flow(posterior)
    assert found == pytest.approx(sigma_y**2 / (1 + sigma_y**2), rel=5e-3)
    assert pulled == pytest.approx(1 / (1 + sigma_y**2), rel=5e-3)


# --- G21: replacement on a Gaussian --------------------------------------------------------------


class Taps:
    """Noise that is 1 in one entry of one draw, another one in each example of the batch."""

    def __init__(self, draws: int, dims: int = 3) -> None:
        self.draws, self.dims, self.made = draws, dims, 0

    def __call__(self, like):
        out = torch.zeros(self.dims * self.draws + 1, self.dims, dtype=F64)
        rows = torch.arange(self.dims)
        if self.made < self.draws:
            out[self.dims * self.made + rows, rows] = 1  # the last example hears nothing
        self.made += 1
        return out[: len(like)] if like is not None else out


def law_of(method, prior, seen, steps):
    """Mean and covariance of its draws of a Gaussian, exactly: every step is affine."""
    sampler = method.sampler or SAMPLERS["sde-dpm++2m"]
    times, dims = LogSNRGrid()(prior.schedule, steps), prior.means.shape[1]
    denoiser, count = method.denoiser(prior, seen), Taps(0, dims)
    sampler(denoiser, torch.zeros(1, dims, dtype=F64), times, noise=count)
    noise = Taps(1 + count.made, dims)
    x_t = start(prior.schedule, times[0], noise(None))
    x = sampler(denoiser, x_t, times, noise=noise)
    columns = x[:-1] - x[-1]
    return x[-1], columns.T @ columns


AFFINE = sorted(set(METHODS) - {"dps"})


@pytest.mark.parametrize("name", AFFINE)
def test_the_bias_of_each_method_on_a_gaussian_is_the_one_documented(name):
    """One of two numbers is known: what the other one's mean and variance become, exactly."""
    cov = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=F64)
    prior, keep = GaussianDenoiser(torch.zeros(2).double(), cov, SCHEDULE), torch.tensor([1, 0])
    seen = Measured(Mask(keep.bool()), keep.double()[None])
    mean, found = law_of(METHODS[name](), prior, seen, 50)
    follows, variance = BIASES.get(name, (1.0, 1.0))
    assert mean[1].item() / 0.8 == pytest.approx(follows, abs=0.01)
    assert found[1, 1].item() / 0.36 == pytest.approx(variance, abs=0.04)


def test_every_method_that_is_not_exact_for_gaussians_has_its_bias_said():
    assert set(BIASES) == set(METHODS) - set(EXACT)


def test_the_bias_of_replacement_falls_with_the_number_of_resamples():
    prior = GaussianDenoiser(torch.zeros(3).double(), covariances(1, 3, seed=5)[0] * 4, SCHEDULE)
    y, A = torch.tensor([0.6, 0.0, -0.4], dtype=F64), torch.eye(3, dtype=F64)[KEEP]
    gain = prior.covs[0] @ A.T @ torch.linalg.inv(A @ prior.covs[0] @ A.T)
    exact = (gain @ y[KEEP])[1], ((torch.eye(3, dtype=F64) - gain @ A) @ prior.covs[0])[1, 1]
    off = []
    for resamples in (1, 4, 16):
        method = METHODS["repaint"](resamples)
        mean, cov = law_of(method, prior, Measured(Mask(KEEP), y[None]), 15)
        assert_close(mean[KEEP], y[KEEP], rtol=0, atol=1e-2)
        off.append(((mean[1] - exact[0]).abs() + (cov[1, 1] / exact[1] - 1).abs()).item())
    assert off[0] > off[1] > off[2]
    assert off[2] < 0.8 * off[0]


def test_dps_moves_by_a_length_that_each_example_has_alone():
    prior = gaussian(SCHEDULE)
    y = torch.tensor([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0]], dtype=F64)
    seen = Measured(operators.identity((3,)), y)
    times = torch.tensor([0.6, 0.5], dtype=F64)
    x_t = normal(1, 3).expand(2, 3)
    still = torch.zeros_like
    moved = DPS(zeta=1.0)(Seeing(prior, seen), x_t, times, noise=still)
    plain = DPS(zeta=0.0)(Seeing(prior, seen), x_t, times, noise=still)
    lengths = (moved - plain).norm(dim=1)
    assert 0.2 < (lengths[1] / lengths[0]).item() < 5 and math.isfinite(lengths.sum())
