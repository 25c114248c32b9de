"""Laws of samplers: one list with every one of them, one test per law."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from oracle import sampled
from ornstein.core import noise
from ornstein.core.denoise import Denoiser, NetDenoiser, reverse_variances
from ornstein.core.exact import GaussianDenoiser
from ornstein.core.measured import MeasuredSampler
from ornstein.core.predict import PREDICTIONS
from ornstein.core.recurrence import recurrence
from ornstein.core.sample import (
    RK45,
    SAMPLERS,
    AdamsBashforth,
    Ancestral,
    Churn,
    Consistency,
    DPMSolver,
    Euler,
    Heun,
    Leap,
    Multistep,
    PredictorCorrector,
    Sampler,
    UniPC,
    encode,
    langevin,
    start,
)
from ornstein.core.times import KarrasGrid, LogSNRGrid, UniformGrid
from ornstein.core.trajectory import instants
from ornstein.rng import Streams
from truths import F64, VE, flow, gaussian, mixture, noised, normal

# --- The list ------------------------------------------------------------------------------------

VARIANCE = 0.25  # of the Gaussian that stochastic samplers are held to


def of_the_gaussian(log_snr: float) -> float:
    """``Var[x | x_t]`` of N(0, 1/4)."""
    return VARIANCE / (1 + VARIANCE * math.exp(log_snr))


class Flow(NamedTuple):
    """A deterministic sampler, and a bound on its RMS error at 64 steps from sigma 10 to 0.05."""

    sampler: Sampler
    bound: float


class Chance(NamedTuple):
    """A stochastic sampler, and a bound on the relative error of its variance at 64 steps."""

    sampler: Sampler
    bound: float


DETERMINISTIC = {
    "ddim": Flow(Ancestral(eta=0.0), 1.2e-2),
    "euler": Flow(Euler(), 1.2e-2),
    "leap": Flow(Leap(), 1.2e-2),
    "heun": Flow(Heun(), 1.1e-4),
    "edm": Flow(Heun(scaling="ve"), 4.5e-4),
    "multistep-1": Flow(Multistep(order=1), 1.2e-2),
    "multistep-2": Flow(Multistep(order=2), 6.2e-4),
    "multistep-3": Flow(Multistep(order=3, start_up="runge-kutta"), 2.6e-5),
    "multistep-4": Flow(Multistep(order=4, start_up="runge-kutta"), 2.1e-6),
    "dpm++2m-published": Flow(DPMSolver(points=2), 4.4e-4),
    "dpm++3m-published": Flow(DPMSolver(points=3), 1.05e-4),
    "unipc-2": Flow(UniPC(order=2), 7.7e-4),
    "unipc-3": Flow(UniPC(order=3), 6.6e-5),
    "unipc-4": Flow(UniPC(order=4), 5.3e-6),
    "unipc-4-runge-kutta": Flow(UniPC(order=4, start_up="runge-kutta"), 5.4e-6),
    "adams-bashforth-1": Flow(AdamsBashforth(order=1), 1.2e-2),
    "adams-bashforth-2": Flow(AdamsBashforth(order=2), 2.7e-4),
    "adams-bashforth-3": Flow(AdamsBashforth(order=3, start_up="runge-kutta"), 3.4e-5),
    "adams-bashforth-4": Flow(AdamsBashforth(order=4, start_up="runge-kutta"), 4.9e-6),
}
# Of these the order is not what limits them: it rises at first, and then falls to 2.
RAMPED = {
    "dpm++3m": Flow(Multistep(order=3), 3.1e-5),
    "multistep-4-ramp": Flow(Multistep(order=4), 6.1e-6),
    "adams-bashforth": Flow(AdamsBashforth(order=3), 3.1e-5),
    "adams-bashforth-4-ramp": Flow(AdamsBashforth(order=4), 5.7e-6),
}
ADAPTIVE = {"rk45": RK45(), "rk45-tight": RK45(rtol=1e-9, atol=1e-9)}
STOCHASTIC = {
    "ddpm": Chance(Ancestral(), 9.6e-2),
    "ddpm-large": Chance(Ancestral(variance="large"), 4.7e-2),
    "half": Chance(Ancestral(eta=0.5), 6.1e-2),
    "euler-churn": Chance(Euler(churn=Churn(rate=0.1)), 0.1),
    "edm-churn": Chance(SAMPLERS["edm-churn"], 1.2e-2),
    "heun-churn": Chance(Heun(churn=Churn(rate=0.1)), 1.5e-3),
    "sde-dpm++1": Chance(Multistep(order=1, eta=1.0), 9.6e-2),
    "sde-dpm++2m": Chance(Multistep(order=2, eta=1.0), 6.3e-3),
    "sde-dpm++2m-published": Chance(DPMSolver(points=2, eta=1.0), 2.9e-3),
    "sde-dpm++3m-published": Chance(DPMSolver(points=3, eta=0.5), 7.3e-4),
}
CORRECTED = {
    "predictor-corrector": PredictorCorrector(),
    "corrected-ddim": PredictorCorrector(predictor=Euler(), corrections=2, snr=0.1),
}
OPTIMAL = {
    "optimal": Ancestral(variance=of_the_gaussian),
    "optimal-ddim": Ancestral(eta=0.0, variance=of_the_gaussian),
}
CONSISTENT = {"consistency": Consistency()}  # of a denoiser, of no order; see core/test_distill.py
LEARNED = {"ddpm-learned": Ancestral(variance="learned")}  # of a denoiser with a variance head

FLOWS: dict[str, Sampler] = {k: v.sampler for k, v in (DETERMINISTIC | RAMPED).items()}
CHANCES: dict[str, Sampler] = {k: v.sampler for k, v in STOCHASTIC.items()} | CORRECTED | OPTIMAL
CHANCES |= CONSISTENT
EVERY: dict[str, Sampler] = FLOWS | ADAPTIVE | CHANCES | LEARNED


def each(samplers):
    return pytest.mark.parametrize("sampler", samplers.values(), ids=samplers.keys())


def test_every_sampler_stands_in_the_list():
    def leaves(cls):
        return set().union(*map(leaves, cls.__subclasses__())) or {cls}

    alone = leaves(Sampler) - leaves(MeasuredSampler)  # those of a measurement: test_posteriors.py
    public = {c for c in alone if c.__module__.startswith("ornstein.")}
    assert {type(s) for s in EVERY.values()} == public
    missing = [name for name, s in SAMPLERS.items() if s not in EVERY.values()]
    assert not missing


# --- Convergence (G8) ----------------------------------------------------------------------------

PATHS = {
    "ve": VE,
    "karras": noise.KarrasSchedule(),
    "cosine": noise.CosineSchedule(),
    "flow": noise.FlowSchedule(),
    "vp": noise.LinearSchedule(),
    "sub-vp": noise.SubVPSchedule(),
    "ddpm-ve": noise.DDPMSchedule(scaling="ve"),
}


def karras_times(schedule, steps, high=10.0, low=0.05, rho=7.0):
    """Times from sigma / alpha = 10 to 0.05, as in the published comparisons."""
    part = torch.linspace(0, 1, steps + 1, dtype=F64)
    root = high ** (1 / rho) * (1 - part) + low ** (1 / rho) * part
    return schedule.time(-2 * rho * root.log())


@cache
def reference(path):
    """Of one path: the denoiser, x_t at sigma 10 and at 0.05 by scipy's DOP853."""
    denoiser = mixture(PATHS[path])
    first, last = karras_times(denoiser.schedule, 1)
    x = noised(denoiser, first, 32)
    return denoiser, x, flow(denoiser, x, first.item(), last.item())


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def error(sampler, path, steps):
    denoiser, x, expected = reference(path)
    return rms(sampler(denoiser, x, karras_times(denoiser.schedule, steps)) - expected)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_sampler_has_the_order_it_states_and_a_small_constant(name):
    sampler, bound = DETERMINISTIC[name]
    errors = [error(sampler, "ve", steps) for steps in (64, 128, 256)]
    assert abs(math.log2(errors[1] / errors[2]) - sampler.order) < 0.15
    assert errors[0] < bound


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["heun", "multistep-3", "dpm++2m-published", "unipc-3"])
def test_the_order_is_the_same_on_every_schedule_and_scaling(name, path):
    sampler, _ = DETERMINISTIC[name]
    errors = [error(sampler, path, steps) for steps in (64, 128)]
    assert abs(math.log2(errors[0] / errors[1]) - sampler.order) < 0.15


@pytest.mark.parametrize("name", RAMPED)
def test_a_ramp_costs_no_accuracy_at_the_steps_one_takes(name):
    sampler, bound = RAMPED[name]
    errors = [error(sampler, "ve", steps) for steps in (32, 64, 512, 1024)]
    assert errors[1] < bound and math.log2(errors[0] / errors[1]) > 2.8
    assert math.log2(errors[2] / errors[3]) < sampler.order - 0.2


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 8, 15])
def test_in_few_long_steps_adams_bashforth_is_of_a_lower_order(steps):
    denoiser, x, _ = reference("ve")
    times = karras_times(denoiser.schedule, steps)
    ends = [AdamsBashforth(order=k)(denoiser, x, times) for k in (1, 2, 3, 4)]
    highest = max(k for k in (1, 2, 3, 4) if steps >= 2**k - 1)
    for order, end in enumerate(ends, 1):
        assert torch.equal(end, ends[min(order, highest) - 1])
    assert all(not torch.equal(a, b) for a, b in pairwise(ends[:highest]))


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_an_adaptive_sampler_keeps_to_its_tolerance(tolerance):
    denoiser, x, expected = reference("flow")
    sampler = RK45(rtol=tolerance, atol=tolerance)
    times = karras_times(denoiser.schedule, 1)
    assert rms(sampler(denoiser, x, times) - expected) < 10 * tolerance


@pytest.mark.parametrize("path", ["flow", "cosine", "karras"])
def test_every_deterministic_sampler_finds_the_data_that_belong_to_the_noise(path):
    denoiser = mixture(PATHS[path])
    times = LogSNRGrid(log_snr_min=-9.0, log_snr_max=11.0)(denoiser.schedule, 96)
    x = start(denoiser.schedule, times[0], normal(16, 2, seed=7))
    expected = sampled(denoiser, x, times[0])
    for name, sampler in (FLOWS | ADAPTIVE).items():
        bound = 0.035 if sampler.order == 1 else 2e-3
        assert rms(sampler(denoiser, x, times) - expected) < bound, name


def test_an_adaptive_sampler_needs_no_grid():
    denoiser, x = mixture(noise.FlowSchedule()), normal(16, 2, seed=7)
    ends = torch.tensor([1.0, 0.0], dtype=F64)
    expected = sampled(denoiser, x, ends[0])
    assert rms(RK45()(denoiser, x, ends) - expected) < 1e-3
    assert rms(RK45(rtol=1e-9, atol=1e-9)(denoiser, x, ends) - expected) < 1e-5


@each({k: s for k, s in FLOWS.items() if k != "edm"})
def test_a_grid_of_very_unequal_steps_of_log_snr_is_survived(sampler):
    """Equal steps of the cosine schedule: the log-SNR moves by 11 in the last, after 1 or 2.

    EDM's rule is left out: from sigma / alpha = 1800 to 4 its slopes know no bound.
    """
    denoiser = mixture(noise.CosineSchedule())
    times = UniformGrid()(denoiser.schedule, 6)
    x = start(denoiser.schedule, times[0], normal(16, 2, seed=7))
    assert rms(sampler(denoiser, x, times) - sampled(denoiser, x, times[0])) < 0.25


# --- Path-free -----------------------------------------------------------------------------------

ENDLESS = {
    "flow": noise.FlowSchedule(),
    "vp": noise.FlowSchedule(scaling="vp"),
    "sub-vp": noise.FlowSchedule(scaling="sub-vp"),
}


def states(sampler, denoiser, times, eps):
    """All x_t of a trajectory, each over ``sqrt(alpha^2 + sigma^2)``; the same noise each time."""
    generator, seen = torch.Generator().manual_seed(11), []

    def draw(like):
        return torch.randn(like.shape, dtype=F64, generator=generator).to(like)

    def look(x, s):
        seen.append(x / torch.hypot(*denoiser.schedule(s)))

    sampler(denoiser, start(denoiser.schedule, times[0], eps), times, noise=draw, on_step=look)
    return torch.stack(seen)


@each(FLOWS | ADAPTIVE | CHANCES)
def test_a_denoiser_sampled_along_another_path_takes_the_same_trajectory(sampler):
    levels, eps, truth = torch.linspace(-8, 8, 13, dtype=F64), normal(4, 2, seed=6), mixture(VE)
    expected = states(sampler, truth, VE.time(levels), eps)
    for path in ("karras", "cosine", "flow", "sub-vp", "vp"):
        moved = truth.along(PATHS[path])
        got = states(sampler, moved, PATHS[path].time(levels), eps)
        assert_close(got, expected, rtol=1e-9, atol=1e-9, msg=path)


@each(FLOWS | ADAPTIVE | CHANCES)
def test_paths_without_signal_at_one_end_and_without_noise_at_the_other_agree(sampler):
    levels = torch.tensor([-math.inf, -6.0, -3.0, -1.0, 1.0, 3.0, 6.0, math.inf], dtype=F64)
    eps, truth = normal(4, 2, seed=6), mixture(ENDLESS["flow"])
    expected = states(sampler, truth, ENDLESS["flow"].time(levels), eps)
    assert expected.isfinite().all() and expected[-1].abs().max() < 6
    for path in ("vp", "sub-vp"):
        moved = truth.along(ENDLESS[path])
        got = states(sampler, moved, ENDLESS[path].time(levels), eps)
        assert_close(got, expected, rtol=1e-9, atol=1e-9, msg=path)


@each(FLOWS | ADAPTIVE | CHANCES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_from_pure_noise_to_data_are_finite(sampler, steps):
    truth = mixture(noise.FlowSchedule())
    x = sampler(truth, normal(4, 2), UniformGrid()(truth.schedule, steps))
    assert x.isfinite().all() and x.abs().max() < 10


class ExactNet(nn.Module):
    """The raw network that a prediction turns into a given denoiser."""

    def __init__(self, denoiser, prediction):
        super().__init__()
        self.denoiser, self.prediction = denoiser, prediction

    def forward(self, x, log_snr):
        t = self.denoiser.schedule.time(log_snr)
        c = (c[:, None] for c in self.prediction(*self.denoiser.schedule(t)))
        inp, skip, out = c
        return (self.denoiser(x / inp, t) - skip * x / inp) / out


@each(FLOWS | ADAPTIVE | CHANCES)
def test_whatever_the_network_predicts_the_trajectory_is_the_same(sampler):
    truth = mixture(noise.CosineSchedule(log_snr_min=-9, log_snr_max=12))
    times, eps = UniformGrid()(truth.schedule, 12), normal(4, 2, seed=6)
    expected = states(sampler, truth, times, eps)
    for name, prediction in PREDICTIONS.items():
        wrapped = NetDenoiser(ExactNet(truth, prediction), truth.schedule, prediction)
        assert_close(states(sampler, wrapped, times, eps), expected, rtol=1e-9, atol=1e-9, msg=name)


# --- Calls, steps, ends --------------------------------------------------------------------------


class Counted(Denoiser):
    """Counts its calls, and keeps what it last said."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.schedule, self.calls, self.said = denoiser, denoiser.schedule, 0, None

    def forward(self, x_t, t, **cond):
        self.calls += 1
        self.said = self.denoiser(x_t, t, **cond)
        return self.said

    def moments(self, x_t, t, **cond):
        return self(x_t, t, **cond), torch.full_like(x_t, 0.5)


@each(EVERY)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("path", ["flow", "karras-flow"])
def test_denoiser_calls_and_steps_are_those_that_were_asked_for(sampler, steps, path):
    schedule = noise.FlowSchedule()
    grid = UniformGrid() if path == "flow" else KarrasGrid()
    counted, times, seen = Counted(mixture(schedule)), grid(schedule, steps), []
    x = start(schedule, times[0], normal(2, 2))
    sampler(counted, x, times, on_step=lambda x, s: seen.append(s.item()))
    assert seen == times[1:].tolist() and len(seen) == steps
    assert sampler.calls(steps) in (counted.calls, None)
    assert (sampler.calls(steps) is None) == (sampler in ADAPTIVE.values())


@each(EVERY)
def test_a_deterministic_sampler_draws_no_noise_and_any_other_does(sampler):
    counted, draws = Counted(mixture(noise.FlowSchedule())), []

    def draw(like):
        draws.append(like)
        return torch.randn_like(like)

    sampler(counted, normal(2, 2), KarrasGrid()(counted.schedule, 6), noise=draw)
    assert sampler.deterministic == (not draws)


@each(EVERY)
def test_a_plan_serves_any_number_of_batches(sampler):
    """It remembers nothing: the second batch is what a new sampler makes of it."""
    counted = Counted(mixture(noise.FlowSchedule()))
    times = UniformGrid()(counted.schedule, 6)
    plan = sampler.plan(counted.schedule, times)
    for seed in (6, 7):
        x = normal(4, 2, seed=seed)
        again = sampler(counted, x, times, noise=Streams(seed, range(4)))
        assert torch.equal(plan(counted, x, noise=Streams(seed, range(4))), again)


@each({k: s for k, s in EVERY.items() if not k.startswith(("adams", "optimal", "rk45"))})  # own end
def test_the_step_to_no_noise_returns_the_posterior_mean(sampler):
    counted = Counted(mixture(noise.FlowSchedule()))
    times = UniformGrid()(counted.schedule, 6)
    x = sampler(counted, normal(3, 2), times)
    assert_close(x, counted.said, rtol=1e-12, atol=1e-12)


@each(EVERY)
def test_states_keep_their_dtype_and_the_argument_its_values(sampler):
    denoiser, x = Counted(mixture(noise.FlowSchedule())), normal(2, 2).float()
    kept = x.clone()
    assert sampler(denoiser, x, UniformGrid()(denoiser.schedule, 4)).dtype == torch.float32
    assert_close(x, kept, rtol=0, atol=0)


@each(EVERY)
def test_times_that_do_not_decrease_are_refused(sampler):
    for times in ([0.5, 0.5, 0.0], [0.2, 0.6], [1.5, 0.0], [0.5, -0.1], [0.5]):
        with pytest.raises(ValueError, match="decrease strictly"):
            sampler(mixture(), normal(2, 2), torch.tensor(times, dtype=F64))


@each(FLOWS | ADAPTIVE)
def test_conditions_that_are_bound_beforehand_are_obeyed(sampler):
    truth = mixture(noise.FlowSchedule())
    alone = GaussianDenoiser(truth.means[1], truth.covs[1], truth.schedule)
    times, x = UniformGrid()(truth.schedule, 8), normal(3, 2)
    label = torch.ones(3, dtype=torch.long)
    given = sampler(truth.given(label=label), x, times)
    assert_close(given, sampler(alone, x, times), rtol=1e-10, atol=1e-10)


# --- Stochastic samplers, exactly: their distribution is read off their code (G10, G11) ----------


class Taps:
    """Noise that is 1 in one example of the batch, the next one at each draw, and 0 elsewhere."""

    def __init__(self) -> None:
        self.draws = 0

    def __call__(self, like: Tensor) -> Tensor:
        self.draws += 1
        out = torch.zeros_like(like)
        out[self.draws] = 1
        return out


def variances(
    sampler: Sampler, denoiser: Denoiser, times: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """The variance of x_s at each time but the first, and the truth, for data N(0, VARIANCE).

    All steps are linear, so x_s is the sum of what the start and each draw of noise contribute:
    one example of the batch each.
    """
    taps, seen = Taps(), []
    x = torch.zeros(4 * len(times), 1, dtype=F64)
    x[0] = variance.sqrt()
    sampler(denoiser, x, times, noise=taps, on_step=lambda x, s: seen.append(x.square().sum()))
    alpha, sigma = denoiser.schedule(times[1:])
    return torch.stack(seen), alpha**2 * VARIANCE + sigma**2


def one_gaussian(schedule, variance=VARIANCE):
    return GaussianDenoiser(
        torch.zeros(1, dtype=F64), torch.full((1, 1), variance, dtype=F64), schedule
    )


def true_variance(schedule, t):
    alpha, sigma = schedule(t)
    return alpha**2 * VARIANCE + sigma**2


GOLDEN = {
    "optimal": (Ancestral(variance=of_the_gaussian), (1.0, 1.0, 1.0, 1.0, 1.0)),
    "beta tilde": (Ancestral(), (0.1759, 0.4169, 0.7857, 0.9317, 0.9845)),
    "beta": (Ancestral(variance="large"), (2.2341, 1.4345, 1.0719, 1.0173, 1.0034)),
    "ddim": (Ancestral(eta=0.0), (0.2026, 0.5230, 0.8908, 0.9716, 0.9940)),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_final_variance_is_that_of_the_theory(name):
    """Final over true variance, data N(0, 1/4), DDPM's betas, T = 1000, N steps from T to 0."""
    sampler, expected = GOLDEN[name]
    schedule = noise.DDPMSchedule()
    for steps, ratio in zip((5, 10, 50, 200, 1000), expected, strict=True):
        indices = torch.linspace(0, 999, steps, dtype=F64).round() + 1
        times = torch.cat([indices.flip(0), torch.zeros(1, dtype=F64)]) / 1000
        first = true_variance(schedule, times[0])
        got = variances(sampler, one_gaussian(schedule), times, first)[0][-1]
        if name == "beta":  # the table keeps the noise of the last step, which samplers leave out
            got = got + reverse_variances(schedule, times[-2], times[-1])[1]
        assert got.item() / VARIANCE == pytest.approx(ratio, abs=6e-5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("path", ["ve", "cosine", "flow", "sub-vp"])
def test_the_optimal_variance_makes_every_step_exact_on_a_gaussian(path, eta):
    schedule, sampler = PATHS[path], Ancestral(eta=eta, variance=of_the_gaussian)
    times = UniformGrid()(schedule, 7)
    got, truth = variances(
        sampler, one_gaussian(schedule), times, true_variance(schedule, times[0])
    )
    assert_close(got, truth, rtol=1e-12, atol=0)


def relative_error(sampler, steps, levels=6.0):
    denoiser, times = one_gaussian(VE), VE.time(torch.linspace(-levels, levels, steps + 1))
    got, truth = variances(sampler, denoiser, times, true_variance(VE, times[0]))
    return abs(got[-1].item() / truth[-1].item() - 1)


def at(steps, sampler):
    """The sampler, its churn a given amount in all rather than in each step; as it is at 64."""
    if isinstance(sampler, Euler | Heun):
        churn = replace(sampler.churn, rate=sampler.churn.rate * 64 / steps)
        return replace(sampler, churn=churn)
    return sampler


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_distribution_of_a_stochastic_sampler_converges_at_its_order(name):
    sampler, bound = STOCHASTIC[name]
    errors = [relative_error(at(n, sampler), n) for n in (64, 256, 512)]
    assert abs(math.log2(errors[1] / errors[2]) - sampler.order) < 0.15
    assert errors[0] < bound


@pytest.mark.parametrize("name", CORRECTED)
def test_langevin_steps_mend_what_the_predictor_got_wrong(name):
    sampler = CORRECTED[name]
    assert relative_error(sampler, 64) < 0.8 * relative_error(sampler.predictor, 64)
    assert relative_error(sampler, 512) < sampler.snr**2


POINT_EXACT = {
    k: s
    for k, s in CHANCES.items()
    if not k.startswith(("ddpm-large", "optimal", "predictor", "corrected"))
}


@each(POINT_EXACT | FLOWS)
@pytest.mark.parametrize("path", ["karras", "cosine", "flow"])
def test_noise_about_a_single_point_has_the_right_variance_after_any_step(sampler, path):
    schedule = PATHS[path]
    times = schedule.time(torch.tensor([-5.0, -1.0, 0.5, 4.0, 5.0], dtype=F64))
    first = schedule(times[0])[1] ** 2
    got, _ = variances(sampler, one_gaussian(schedule, 0.0), times, first)
    assert_close(got, schedule(times[1:])[1] ** 2, rtol=1e-10, atol=0)


@pytest.mark.parametrize("path", ["ve", "cosine", "flow"])
def test_langevin_steps_leave_the_distribution_alone_up_to_their_size(path):
    """Stationary variance ``v / (1 - e / 2v)``: a bias of slope 1 in the step e."""
    schedule = PATHS[path]
    denoiser = one_gaussian(schedule)
    time = schedule.time(torch.zeros(1, dtype=F64))
    (now,) = instants(schedule, time)
    v, biases = now.alpha**2 * VARIANCE + now.sigma**2, []
    for snr in (0.02, 0.04, 0.08, 0.16):
        kept = langevin(denoiser, torch.ones(1, 1, dtype=F64), now, snr, torch.zeros_like)
        added = langevin(denoiser, torch.zeros(1, 1, dtype=F64), now, snr, torch.ones_like)
        biases.append((added**2 / (1 - kept**2) / v - 1).item())
        e = 2 * (snr * now.sigma) ** 2
        assert biases[-1] == pytest.approx(1 / (1 - e / (2 * v)) - 1, rel=1e-10)
    slopes = [math.log(b / a) / math.log(4) for a, b in pairwise(biases)]
    assert all(abs(s - 1) < 0.05 for s in slopes)


# --- Precision and batches (G29) -----------------------------------------------------------------


@each(FLOWS | CHANCES | ADAPTIVE)
@pytest.mark.parametrize("path", ["flow", "karras"])
def test_single_precision_drifts_by_less_than_1e_4(sampler, path):
    truth = mixture(PATHS[path])
    times = LogSNRGrid()(truth.schedule, 40)
    eps = normal(8, 2, seed=6).float()
    x = start(truth.schedule, times[0], eps)
    single = sampler(truth, x, times, noise=Streams(0, range(8)))
    double = sampler(truth, x.double(), times, noise=Streams(0, range(8)))
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 1e-4


@each(FLOWS | CHANCES | ADAPTIVE)
def test_an_example_does_not_depend_on_its_batch(sampler):
    truth, drawn = mixture(noise.CosineSchedule()), {}
    times = UniformGrid()(truth.schedule, 9)
    for size in (1, 7, 64):
        streams, found = [range(i, min(i + size, 64)) for i in range(0, 64, size)], []
        for examples in streams[:3]:
            noise_of = Streams(3, examples)
            x = noise_of(torch.empty(len(examples), 2, dtype=F64))
            found.append(sampler(truth, x, times, noise=noise_of))
        drawn[size] = torch.cat(found)[:3]
    assert_close(drawn[1], drawn[64], rtol=1e-11, atol=1e-11)
    assert_close(drawn[7], drawn[64], rtol=1e-11, atol=1e-11)


# --- Encoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_encoding_is_undone_by_sampling_with_an_error_of_the_order(name):
    sampler, truth = FLOWS[name], mixture(VE)
    x, errors = truth.draw(16, torch.Generator().manual_seed(8)), []
    for steps in (64, 128):
        times = VE.time(torch.linspace(-5, 6, steps + 1, dtype=F64))
        again = sampler(truth, encode(sampler, truth, x, times), times)
        errors.append(rms(again - x))
    assert math.log2(errors[0] / errors[1]) > min(sampler.order, 3) - 0.3


@pytest.mark.parametrize("path", ["flow", "cosine", "sub-vp"])
def test_encoding_follows_the_flow_of_a_gaussian_from_no_noise_to_no_signal(path):
    truth = gaussian(ENDLESS.get(path, noise.CosineSchedule()))
    times = LogSNRGrid(log_snr_min=-9, log_snr_max=12)(truth.schedule, 64)
    zero, x = times[-1], truth.draw(9, torch.Generator().manual_seed(8))
    for name, sampler in (FLOWS | ADAPTIVE).items():
        bound = 0.1 if sampler.order == 1 else 1e-2
        z = encode(sampler, truth, x, times)
        assert rms(z - truth.flow(x, zero, times[0])) < bound * rms(z), name
        assert rms(sampler(truth, z, times) - x) < bound, name


@each(FLOWS | ADAPTIVE)
def test_encoding_all_the_way_to_pure_noise_is_finite(sampler):
    truth = mixture(noise.FlowSchedule())
    x, times = truth.draw(9, torch.Generator().manual_seed(8)), UniformGrid()(truth.schedule, 24)
    z = encode(sampler, truth, x, times)
    assert z.isfinite().all() and 0.3 < z.std() < 2
    assert rms(sampler(truth, z, times) - x) < 0.2


@each(CHANCES)
def test_a_sampler_that_draws_noise_cannot_encode(sampler):
    truth = mixture()
    with pytest.raises(ValueError, match="only a deterministic sampler can encode"):
        encode(sampler, truth, normal(2, 2), UniformGrid()(VE, 4))


# --- As a recurrence -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["ve", "cosine", "flow"])
@each(FLOWS)
def test_every_deterministic_sampler_is_a_recurrence(sampler, path):
    denoiser = mixture(PATHS[path])
    times = LogSNRGrid(log_snr_min=-9.0, log_snr_max=9.0)(denoiser.schedule, 9)
    x = start(denoiser.schedule, times[0], normal(16, 2, seed=7))
    loop = recurrence(sampler.plan(denoiser.schedule, times), denoiser.schedule)
    state = torch.stack([x, *[torch.zeros_like(x)] * (loop.read.shape[1] - 1)])
    for t, read, keep, add in zip(loop.times, loop.read, loop.keep, loop.add, strict=True):
        x_hat = denoiser(torch.tensordot(read, state, 1), t)
        state = torch.tensordot(keep, state, 1) + torch.tensordot(add[:, None], x_hat[None], 1)
    expected = sampler(denoiser, x, times)
    assert_close(state[0], expected, rtol=1e-9, atol=1e-9)


def test_a_recurrence_carries_no_more_than_the_rule_remembers():
    """But for x_hat, which Heun's rule looks at twice."""
    schedule = noise.CosineSchedule()
    for name, (sampler, _) in DETERMINISTIC.items():
        if getattr(sampler, "start_up", "ramp") == "ramp":
            loop = recurrence(sampler.plan(schedule, UniformGrid()(schedule, 40)), schedule)
            held = 2 if isinstance(sampler, Heun) else sampler.memory
            assert loop.add.shape[1] == held, name
