"""Laws of every noise schedule, time grid and time distribution: one list, one test per law."""

import inspect
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ornstein.core import noise
from ornstein.core.times import (
    ExplicitGrid,
    KarrasGrid,
    LogNormalTimes,
    LogSNRGrid,
    StraightGrid,
    StrideGrid,
    TimeDistribution,
    TimeGrid,
    UniformGrid,
    UniformLogSNR,
    UniformTimes,
    low_discrepancy,
)

F64 = torch.float64
INF = math.inf
T = torch.linspace(0, 1, 101, dtype=F64)


class Monotone(nn.Module):
    """An increasing polynomial of [0, 1] onto [0, 1], with weights to learn."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.0, 1.0, -1.0], dtype=F64))

    def forward(self, u):
        powers = torch.stack([u, u**2, 1 - (1 - u) ** 3], -1)
        return (powers * self.logits.softmax(0)).sum(-1)


SCHEDULES = {
    "ddpm": noise.DDPMSchedule(),
    "ddpm, 40 steps": noise.DDPMSchedule(steps=40, beta_last=0.3),
    "ddpm, 1 step": noise.DDPMSchedule(steps=1, beta_first=0.9, beta_last=0.9),
    "ddpm, falling": noise.DDPMSchedule(steps=500, beta_first=0.02, beta_last=1e-4),
    "ddpm, roots": noise.DDPMSchedule(beta_first=0.00085, beta_last=0.012, power=2),
    "cosine table": noise.CosineTableSchedule(),
    "cosine table, 7 steps": noise.CosineTableSchedule(steps=7),
    "table": noise.TableSchedule(alpha_bar=(0.999, 0.9, 0.6, 0.2, 1e-3)),
    "table, no signal at its end": noise.TableSchedule(alpha_bar=(0.98, 0.3, 1e-20)),
    "linear": noise.LinearSchedule(),
    "linear, constant rate": noise.LinearSchedule(beta_min=5.0, beta_max=5.0),
    "sub-vp": noise.SubVPSchedule(),
    "cosine": noise.CosineSchedule(),
    "cosine, shifted": noise.CosineSchedule(shift=2 * math.log(64 / 256)),
    "cosine, cut": noise.CosineSchedule(log_snr_min=-5.0, log_snr_max=7.0, shift=1.5),
    "sigmoid": noise.SigmoidSchedule(),
    "sigmoid, sharp": noise.SigmoidSchedule(start=0.0, tau=0.3),
    "sigmoid, a step": noise.SigmoidSchedule(tau=0.05),
    "flow": noise.FlowSchedule(),
    "flow, shifted": noise.FlowSchedule(shift=-2.0),
    "karras": noise.KarrasSchedule(),
    "karras, cut": noise.KarrasSchedule(log_snr_min=-6.0, log_snr_max=6.0),
    "geometric": noise.GeometricSchedule(),
    "learned": noise.LearnedSchedule(net=Monotone()),
}
SCALINGS = ("vp", "ve", "flow", "sub-vp")
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def members(abstract):
    """The public subclasses that the module defines."""
    module = inspect.getmodule(abstract)
    return {c for _, c in inspect.getmembers(module, inspect.isclass) if abstract in c.__mro__[1:]}


def test_every_schedule_stands_in_the_list():
    assert {type(s) for s in SCHEDULES.values()} == members(noise.Schedule)


# --- Schedules, against their papers (G1) --------------------------------------------------------
#
# Each is written afresh in numpy's extended precision, as (alpha, sigma) of the time.

LONG = np.longdouble


def ddpm_table(t, steps, first, last, power=1):
    ends = (LONG(beta) ** (1 / LONG(power)) for beta in (first, last))
    return of_betas(t, np.linspace(*ends, steps) ** power)


def cosine_table(t, steps):
    f = nichol_dhariwal(np.arange(steps + 1, dtype=LONG) / steps, LONG("0.008"))[0] ** 2
    return of_betas(t, np.minimum(1 - f[1:] / f[:-1], LONG("0.999")))


TABLES = noise.DDPMSchedule | noise.CosineTableSchedule


def of_betas(t, betas):
    alpha_bar, steps = np.cumprod(1 - betas), len(betas)
    alpha_bar = np.concatenate([np.ones(1, LONG), alpha_bar])[np.rint(t * steps).astype(int)]
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def nichol_dhariwal(t, offset):
    angle = (t + offset) / (1 + offset) * np.arccos(LONG(0))
    return np.cos(angle), np.sin(angle)


def jabri(t, start, end, tau):
    def sigmoid(z):
        return 1 / (1 + np.exp(-LONG(z) / LONG(tau)))

    alpha_bar = (sigmoid(end) - sigmoid(t * (end - start) + start)) / (
        sigmoid(end) - sigmoid(start)
    )
    lost = (sigmoid(t * (end - start) + start) - sigmoid(start)) / (sigmoid(end) - sigmoid(start))
    return np.sqrt(np.maximum(alpha_bar, 0)), np.sqrt(lost)


def integral(t, beta_min, beta_max):
    return LONG(beta_min) * t + (LONG(beta_max) - LONG(beta_min)) * t**2 / 2


def vp_sde(t, beta_min, beta_max):
    decay = integral(t, beta_min, beta_max)
    return np.exp(-decay / 2), np.sqrt(-np.expm1(-decay))


def sub_vp_sde(t, beta_min, beta_max):
    decay = integral(t, beta_min, beta_max)
    return np.exp(-decay / 2), -np.expm1(-decay)


def ve_sde(t, sigma_min, sigma_max):
    return np.ones_like(t), LONG(sigma_min) * (LONG(sigma_max) / LONG(sigma_min)) ** t


def edm(t, sigma_min, sigma_max, rho):
    low, high = LONG(sigma_min) ** (1 / LONG(rho)), LONG(sigma_max) ** (1 / LONG(rho))
    return np.ones_like(t), (low + t * (high - low)) ** LONG(rho)


def rectified(t):
    return 1 - t, t


def vdm(t, low, high):
    log_snr = LONG(high) + (LONG(low) - LONG(high)) * t
    return np.sqrt(1 / (1 + np.exp(-log_snr))), np.sqrt(1 / (1 + np.exp(log_snr)))


OFFSET = -2 * math.log(math.tan(math.pi / 2 * 0.008 / 1.008))  # as a log-SNR

PAPERS = [
    (noise.DDPMSchedule(), 1000, partial(ddpm_table, steps=1000, first=1e-4, last=0.02)),
    (
        noise.DDPMSchedule(steps=500, beta_last=0.04),
        500,
        partial(ddpm_table, steps=500, first=1e-4, last=0.04),
    ),
    (
        noise.DDPMSchedule(steps=40, beta_first=1e-3, beta_last=0.3),
        40,
        partial(ddpm_table, steps=40, first=1e-3, last=0.3),
    ),
    (
        noise.DDPMSchedule(beta_first=0.00085, beta_last=0.012, power=2),
        1000,
        partial(ddpm_table, steps=1000, first=0.00085, last=0.012, power=2),
    ),
    (noise.CosineTableSchedule(), 1000, partial(cosine_table, steps=1000)),
    (noise.CosineTableSchedule(steps=50), 50, partial(cosine_table, steps=50)),
    (
        noise.CosineSchedule(log_snr_min=-INF, log_snr_max=OFFSET),
        64,
        partial(nichol_dhariwal, offset=LONG("0.008")),
    ),
    (
        noise.SigmoidSchedule(log_snr_min=-INF, log_snr_max=INF),
        64,
        partial(jabri, start=-3, end=3, tau=1),
    ),
    (
        noise.SigmoidSchedule(log_snr_min=-INF, log_snr_max=INF, start=0, end=3, tau=0.7),
        64,
        partial(jabri, start=0, end=3, tau=0.7),
    ),
    (noise.LinearSchedule(), 64, partial(vp_sde, beta_min=0.1, beta_max=20.0)),
    (noise.SubVPSchedule(), 64, partial(sub_vp_sde, beta_min=0.1, beta_max=20.0)),
    (noise.GeometricSchedule(), 64, partial(ve_sde, sigma_min=0.01, sigma_max=50.0)),
    (noise.KarrasSchedule(), 64, partial(edm, sigma_min=0.002, sigma_max=80.0, rho=7.0)),
    (
        noise.KarrasSchedule(sigma_min=0.1, sigma_max=3.0, rho=1.0),
        64,
        partial(edm, sigma_min=0.1, sigma_max=3.0, rho=1.0),
    ),
    (noise.FlowSchedule(), 64, rectified),
    (
        noise.GeometricSchedule(scaling="vp", log_snr_min=-13.3, log_snr_max=5.0),
        64,
        partial(vdm, low=-13.3, high=5.0),
    ),
]


@pytest.mark.parametrize(
    ("schedule", "steps", "paper"), PAPERS, ids=lambda p: type(p).__name__ if p is not int else ""
)
def test_a_schedule_is_that_of_its_paper(schedule, steps, paper):
    t = np.arange(steps + 1, dtype=LONG) / steps
    if not isinstance(schedule, TABLES):  # whose papers are silent between their steps
        t = np.concatenate([t, 10.0 ** -np.arange(3, 6)]).astype(np.float64).astype(LONG)
    alpha, sigma = schedule(torch.from_numpy(t.astype(np.float64)))
    expected = [torch.from_numpy(v.astype(np.float64)) for v in paper(t)]
    assert_close(alpha, expected[0], rtol=1e-12, atol=1e-16)
    assert_close(sigma, expected[1], rtol=1e-12, atol=1e-25)


@pytest.mark.parametrize(
    ("schedule", "alpha_0", "sigma_0", "alpha_1", "sigma_1"),
    [
        (noise.DDPMSchedule(), 1, 0, 4.035829765375694e-05**0.5, 0.9999798206),
        (noise.LinearSchedule(), 1, 0, math.exp(-5.025), math.sqrt(-math.expm1(-10.05))),
        (noise.SubVPSchedule(), 1, 0, math.exp(-5.025), -math.expm1(-10.05)),
        (noise.FlowSchedule(), 1, 0, 0, 1),
        (noise.KarrasSchedule(), 1, 0.002, 1, 80),
        (noise.GeometricSchedule(), 1, 0.01, 1, 50),
        (noise.CosineSchedule(log_snr_min=-INF, log_snr_max=INF), 1, 0, 0, 1),
        (noise.SigmoidSchedule(log_snr_min=-INF, log_snr_max=INF), 1, 0, 0, 1),
    ],
    ids=lambda p: type(p).__name__ if isinstance(p, noise.Schedule) else "",
)
def test_a_schedule_ends_where_its_paper_says(schedule, alpha_0, sigma_0, alpha_1, sigma_1):
    alpha, sigma = schedule(torch.tensor([0.0, 1.0], dtype=F64))
    assert alpha.tolist() == pytest.approx([alpha_0, alpha_1], rel=1e-9, abs=1e-16)
    assert sigma.tolist() == pytest.approx([sigma_0, sigma_1], rel=1e-9, abs=1e-16)


# --- Laws of schedules ---------------------------------------------------------------------------


@every_schedule
def test_log_snr_decreases_strictly(schedule):
    log_snr = schedule.log_snr(torch.linspace(0, 1, 2001, dtype=F64))
    assert (log_snr[1:] < log_snr[:-1]).all()


@every_schedule
def test_time_is_the_inverse_of_log_snr(schedule):
    log_snr = schedule.log_snr(T)
    assert_close(schedule.time(log_snr), T, rtol=0, atol=1e-12)
    inside = log_snr[log_snr.isfinite()]
    assert_close(schedule.log_snr(schedule.time(inside)), inside, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["ddpm", "linear", "sub-vp", "flow"])
def test_the_inverse_keeps_its_digits_where_the_noise_vanishes(name):
    t = 10.0 ** -torch.arange(4, 13, dtype=F64)
    assert_close(SCHEDULES[name].time(SCHEDULES[name].log_snr(t)), t, rtol=1e-10, atol=0)


@every_schedule
def test_a_log_snr_out_of_reach_is_at_an_end(schedule):
    out = torch.tensor([INF, 1e3, -1e3, -INF], dtype=F64)
    assert schedule.time(out).tolist() == pytest.approx([0, 0, 1, 1], abs=1e-12)


@every_schedule
def test_a_cut_or_shifted_curve_begins_and_ends_where_it_says(schedule):
    low, high = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=F64)).tolist()
    assert low >= schedule.log_snr_min + schedule.shift - 1e-9
    assert high <= schedule.log_snr_max + schedule.shift + 1e-9
    own = torch.tensor([schedule.log_snr_min, schedule.log_snr_max], dtype=F64)
    for end, cut in zip((low, high), own.tolist(), strict=True):
        if 1e-9 < schedule.clock(torch.tensor(cut, dtype=F64)) < 1 - 1e-9:  # what ends it
            assert end == pytest.approx(cut + schedule.shift, abs=1e-9)


@pytest.mark.parametrize("shift", [-3.0, 2.0])
def test_a_shift_moves_the_whole_curve_and_keeps_its_clock(shift):
    plain, moved = noise.CosineSchedule(), noise.CosineSchedule(shift=shift)
    assert_close(moved.log_snr(T), plain.log_snr(T) + shift)


@every_schedule
@pytest.mark.parametrize("scaling", SCALINGS)
def test_scales_have_the_ratio_and_the_norm_of_their_scaling(schedule, scaling):
    log_snr = schedule.log_snr(T)
    alpha, sigma = noise.scales(log_snr, scaling)
    assert (alpha >= 0).all() and (sigma >= 0).all()
    inner = (alpha > 0) & (sigma > 0)
    ratio = 2 * (alpha.log() - sigma.log())
    assert_close(ratio[inner], log_snr[inner], rtol=1e-12, atol=1e-11)
    norm = {
        "vp": alpha**2 + sigma**2,
        "ve": alpha,
        "flow": alpha + sigma,
        "sub-vp": alpha**2 + sigma,
    }[scaling]
    finite = sigma.isfinite()  # not so in `ve` where no signal is left
    assert_close(norm[finite], torch.ones_like(norm[finite]), rtol=1e-14, atol=0)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scales_are_never_nan(scaling):
    log_snr = torch.tensor([-INF, -2000, -700, -30, 0, 30, 700, 2000, INF], dtype=F64)
    alpha, sigma = noise.scales(log_snr, scaling)
    assert not alpha.isnan().any() and not sigma.isnan().any()
    assert (alpha >= 0).all() and (sigma >= 0).all()


@every_schedule
def test_the_slope_of_log_snr_is_its_derivative(schedule):
    t = torch.tensor([0.01314, 0.20122, 0.55513, 0.90037], dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.log_snr(t).sum(), t)
    with torch.no_grad():
        step = 1e-6
        rise = (schedule.log_snr(t + step) - schedule.log_snr(t - step)) / (2 * step)
    assert_close(slope, rise, rtol=1e-6, atol=0)
    assert (slope < 0).all()


@every_schedule
def test_a_schedule_keeps_the_shape_of_the_times_and_answers_in_double_precision(schedule):
    for t in (torch.tensor(0.5), torch.rand(3), torch.rand(2, 3)):
        alpha, sigma = schedule(t)
        assert alpha.shape == sigma.shape == schedule.log_snr(t).shape == t.shape
        assert alpha.dtype == sigma.dtype == schedule.time(schedule.log_snr(t)).dtype == F64


@every_schedule
def test_a_schedule_equals_its_copy_and_only_its_copy(schedule):
    copy = type(schedule)(**{k: getattr(schedule, k) for k in schedule.__dataclass_fields__})
    assert copy == schedule and hash(copy) == hash(schedule)
    assert [s for s in SCHEDULES.values() if s == schedule] == [schedule]


def test_a_learned_schedule_passes_gradients_to_its_network():
    net = Monotone()
    alpha, sigma = noise.LearnedSchedule(net=net)(T[1:-1])
    (alpha + sigma).sum().backward()
    assert net.logits.grad.abs().max() > 0


HOSTILE = [
    (noise.DDPMSchedule, {"steps": 0}),
    (noise.DDPMSchedule, {"steps": -1}),
    (noise.DDPMSchedule, {"steps": 10**9}),
    (noise.DDPMSchedule, {"beta_first": 0.0}),
    (noise.DDPMSchedule, {"beta_first": math.nan}),
    (noise.DDPMSchedule, {"beta_last": 1.0}),
    (noise.DDPMSchedule, {"beta_last": -0.1}),
    (noise.DDPMSchedule, {"power": 0}),
    (noise.DDPMSchedule, {"power": 3}),
    (noise.CosineTableSchedule, {"steps": 0}),
    (noise.LinearSchedule, {"beta_min": 0.0}),
    (noise.LinearSchedule, {"beta_min": 30.0}),
    (noise.LinearSchedule, {"beta_max": INF}),
    (noise.LinearSchedule, {"beta_max": math.nan}),
    (noise.SubVPSchedule, {"beta_min": -1.0}),
    (noise.SubVPSchedule, {"beta_max": math.nan}),
    (noise.CosineSchedule, {"log_snr_min": 1.0, "log_snr_max": 1.0}),
    (noise.CosineSchedule, {"log_snr_min": 5.0, "log_snr_max": -5.0}),
    (noise.CosineSchedule, {"log_snr_min": math.nan}),
    (noise.CosineSchedule, {"shift": INF}),
    (noise.CosineSchedule, {"shift": math.nan}),
    (noise.CosineSchedule, {"scaling": "variance-preserving"}),
    (noise.SigmoidSchedule, {"start": 3.0, "end": -3.0}),
    (noise.SigmoidSchedule, {"tau": 0.0}),
    (noise.SigmoidSchedule, {"end": math.nan}),
    (noise.KarrasSchedule, {"sigma_min": 0.0}),
    (noise.KarrasSchedule, {"sigma_min": 80.0}),
    (noise.KarrasSchedule, {"sigma_max": INF}),
    (noise.KarrasSchedule, {"rho": -7.0}),
    (noise.KarrasSchedule, {"rho": math.nan}),
    (noise.GeometricSchedule, {"log_snr_min": -INF}),
    (noise.GeometricSchedule, {"log_snr_max": INF}),
    (LogSNRGrid, {"log_snr_min": 9.0}),
    (LogSNRGrid, {"log_snr_max": INF}),
    (KarrasGrid, {"rho": 0.0}),
    (KarrasGrid, {"sigma_min": 90.0}),
    (UniformGrid, {"power": 0.0}),
    (UniformGrid, {"power": math.nan}),
    (StrideGrid, {"train_steps": 0}),
    (StrideGrid, {"train_steps": 10**9}),
    (StrideGrid, {"spacing": "cubic"}),
    (ExplicitGrid, {"times": ()}),
    (ExplicitGrid, {"times": (1.0,)}),
    (ExplicitGrid, {"times": (1.0, 0.5)}),
    (ExplicitGrid, {"times": (1.0, 1.0, 0.0)}),
    (ExplicitGrid, {"times": (1.1, 0.0)}),
    (ExplicitGrid, {"times": (math.nan, 0.0)}),
    (LogNormalTimes, {"std": 0.0}),
    (LogNormalTimes, {"mean": INF}),
    (UniformLogSNR, {"log_snr_min": 10.0}),
    (UniformLogSNR, {"log_snr_max": math.nan}),
]


@pytest.mark.parametrize(("member", "parameters"), HOSTILE)
def test_a_parameter_out_of_its_range_is_refused(member, parameters):
    with pytest.raises(ValueError, match=r"must|need"):
        member(**parameters)


def test_a_cut_that_leaves_nothing_of_the_curve_is_refused():
    for cut in ({"log_snr_min": -40.0, "log_snr_max": -20.0}, {"log_snr_min": 20.0}):
        with pytest.raises(ValueError, match="leave nothing"):
            noise.KarrasSchedule(**cut).log_snr(T)


# --- Time grids ----------------------------------------------------------------------------------

GRIDS = {
    "uniform": UniformGrid(),
    "uniform, squared": UniformGrid(power=2.0),
    "log-snr": LogSNRGrid(),
    "log-snr, narrow": LogSNRGrid(log_snr_min=-2.0, log_snr_max=3.0),
    "karras": KarrasGrid(),
    "karras, rho 1": KarrasGrid(rho=1.0),
    "straight": StraightGrid(),
    "straight, early": StraightGrid(power=0.7),
    "stride": StrideGrid(train_steps=50),
    "stride, quadratic": StrideGrid(train_steps=1000, spacing="quadratic"),
    "explicit": ExplicitGrid(times=(1.0, 0.5, 0.1, 0.0)),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


def steps_of(grid, start=1.0):
    match grid:
        case ExplicitGrid():
            return [len(grid.times) - 1]
        case StrideGrid():
            return range(1, min(50, int(grid.train_steps * start + 1e-9)) + 1)
    return range(1, 51)


def test_every_grid_stands_in_the_list():
    assert {type(g) for g in GRIDS.values()} == members(TimeGrid)


@every_grid
@every_schedule
@pytest.mark.parametrize("start", [1.0, 0.6, 0.02])
def test_a_grid_has_the_steps_it_is_asked_for_and_descends_to_zero(grid, schedule, start):
    for steps in steps_of(grid, start):
        times = grid(schedule, steps, start)
        assert times.shape == (steps + 1,) and times.dtype == F64
        assert (times[1:] < times[:-1]).all()
        assert times[0] <= start and times[-1] == 0


@every_grid
@pytest.mark.parametrize(
    ("steps", "start"), [(0, 1.0), (-3, 1.0), (3, 0.0), (3, 1.5), (3, math.nan)]
)
def test_a_grid_refuses_what_it_cannot_do(grid, steps, start):
    with pytest.raises(ValueError, match="need steps"):
        grid(noise.CosineSchedule(), steps, start)


@pytest.mark.parametrize("grid", [LogSNRGrid(), KarrasGrid()], ids=["log-snr", "karras"])
@pytest.mark.parametrize(("low", "high"), [(-30.0, -20.0), (20.0, 30.0)])
def test_a_grid_descends_on_a_schedule_that_lies_outside_its_bounds(grid, low, high):
    schedule = noise.GeometricSchedule(log_snr_min=low, log_snr_max=high)
    for steps in range(1, 51):
        times = grid(schedule, steps)
        assert times.shape == (steps + 1,) and times[-1] == 0
        assert (times[1:] < times[:-1]).all()


@pytest.mark.parametrize(
    ("grid", "schedule"),
    [
        *((KarrasGrid(), noise.KarrasSchedule(rho=rho)) for rho in (5.0, 8.0, 13.0, 20.0)),
        (KarrasGrid(sigma_min=0.05), noise.KarrasSchedule(sigma_min=0.05)),
        (LogSNRGrid(log_snr_max=6.0), noise.DDPMSchedule(log_snr_max=6.0)),
    ],
)
def test_a_grid_that_ends_where_its_schedule_does_takes_no_step_of_rounding(grid, schedule):
    for steps in (2, 10, 37):
        times = grid(schedule, steps)
        assert (times[:-1] - times[1:]).min() > 1e-6


def test_grids_of_fixed_steps_refuse_others():
    with pytest.raises(ValueError, match=r"must lie in \[1, 50\]"):
        GRIDS["stride"](noise.DDPMSchedule(), 51)
    with pytest.raises(ValueError, match="3 steps, asked for 4"):
        GRIDS["explicit"](noise.DDPMSchedule(), 4)


@pytest.mark.parametrize("start", [1.0, 0.5])
def test_the_straight_grid_is_uniform_on_the_straight_path_whatever_the_schedule(start):
    flow = noise.FlowSchedule()
    assert_close(StraightGrid()(flow, 9, start), UniformGrid()(flow, 9, start))
    for schedule in (noise.KarrasSchedule(), noise.CosineSchedule()):
        alpha, sigma = schedule(StraightGrid()(schedule, 9, start))
        tau = sigma / (alpha + sigma)
        assert_close(tau.diff(), (tau[-1] - tau[0]).expand(9) / 9)
        alpha, sigma = schedule(StraightGrid(power=0.7)(schedule, 9, start))
        early = sigma / (alpha + sigma)
        assert_close(
            (early - tau[-1]) ** (1 / 0.7), (tau - tau[-1]) * (tau[0] - tau[-1]) ** (3 / 7)
        )


def test_the_karras_grid_is_that_of_the_paper_whatever_the_schedule():
    i, rho = torch.arange(18, dtype=F64), 7
    root = 80 ** (1 / rho) + i / 17 * (0.002 ** (1 / rho) - 80 ** (1 / rho))
    expected = root**rho
    for schedule in (noise.KarrasSchedule(sigma_min=1e-4, sigma_max=100), noise.FlowSchedule()):
        times = KarrasGrid()(schedule, 18)
        assert_close(torch.exp(-schedule.log_snr(times[:-1]) / 2), expected, rtol=1e-9, atol=0)
    own = KarrasGrid()(noise.KarrasSchedule(), 17)  # whose t = 0 is its sigma_min
    assert_close(noise.KarrasSchedule()(own)[1], expected, rtol=1e-9, atol=0)


def test_the_log_snr_grid_takes_equal_steps_between_its_bounds():
    schedule = noise.FlowSchedule()
    times = LogSNRGrid()(schedule, 19)
    expected = torch.linspace(-9, 9, 19, dtype=F64)
    assert_close(schedule.log_snr(times[:-1]), expected, rtol=0, atol=1e-9)
    cosine = noise.CosineSchedule(log_snr_min=-6.0, log_snr_max=6.0)
    expected = torch.linspace(-6, 6, 20, dtype=F64)
    assert_close(cosine.log_snr(LogSNRGrid()(cosine, 19)), expected, rtol=0, atol=1e-9)


def test_strides_are_ddim_s_subsets_of_the_times_of_training():
    times = StrideGrid(train_steps=1000)(noise.DDPMSchedule(), 10)
    assert_close(times * 1000, torch.arange(1000, -1, -100, dtype=F64))
    quadratic = StrideGrid(train_steps=1000, spacing="quadratic")
    times = quadratic(noise.DDPMSchedule(), 5) * 1000
    assert times.round().tolist() == [1000, 640, 360, 160, 40, 0]
    assert_close(times, times.round(), rtol=0, atol=1e-9)


# --- Time distributions --------------------------------------------------------------------------

DISTRIBUTIONS = {
    "uniform": UniformTimes(),
    "edm": LogNormalTimes(mean=-1.2, std=1.2),
    "logit-normal": LogNormalTimes(),
    "log-snr": UniformLogSNR(),
    "log-snr, wider than most": UniformLogSNR(log_snr_min=-100.0, log_snr_max=100.0),
}
every_distribution = pytest.mark.parametrize(
    "times", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys()
)


def test_four_deviations_are_the_reach_of_a_normal_distribution():
    u = (torch.arange(10**6, dtype=F64) + 0.5) / 10**6
    schedule, times = noise.FlowSchedule(), LogNormalTimes(mean=0.3, std=1.4)
    found, (low, high) = schedule.log_snr(times(u, schedule)), times.reach
    for beyond in (found < low, found > high):
        assert_close(beyond.double().mean(), torch.tensor(3.167e-5, dtype=F64), rtol=0.05, atol=0)


def test_every_time_distribution_stands_in_the_list():
    assert {type(d) for d in DISTRIBUTIONS.values()} == members(TimeDistribution)


@every_distribution
@every_schedule
def test_hardly_a_time_is_drawn_beyond_the_reach(times, schedule):
    u = (torch.arange(100_000, dtype=F64) + 0.5) / 100_000
    with torch.no_grad():
        found = schedule.log_snr(times(u, schedule))
    low, high = times.reach
    beyond = ((found < low - 1e-9) | (found > high + 1e-9)).double().mean()
    assert beyond <= 1e-4


@every_distribution
@every_schedule
def test_the_density_is_that_of_the_quantiles(times, schedule):
    """``d lambda / du = 1 / density``, wherever the quantile is not cut."""
    u = torch.tensor([0.20122, 0.3511, 0.5033, 0.6517, 0.8114], dtype=F64)
    step = 1e-6
    with torch.no_grad():
        ends = [schedule.log_snr(times(v, schedule)) for v in (u - step, u + step)]
    slope = (ends[1] - ends[0]).abs() / (2 * step)
    log_snr = schedule.log_snr(times(u, schedule)).detach()
    inner = slope > 0
    assert inner.all()
    found = times.log_snr_density(log_snr, schedule)
    assert_close(found[inner], 1 / slope[inner], rtol=1e-4, atol=0)


@every_distribution
@every_schedule
def test_times_lie_inside_zero_and_one_and_in_order(times, schedule):
    u = torch.tensor([0.0, 1e-9, 0.1, 0.5, 0.9, 1 - 1e-9], dtype=F64)
    t = times(u, schedule)
    assert t.dtype == F64 and (t > 0).all() and (t < 1).all()
    assert (t.diff() >= 0).all() and t[3] > t[2]
    assert schedule.log_snr(t).isfinite().all()


@pytest.mark.parametrize(
    "times",
    [LogNormalTimes(mean=-60.0), UniformLogSNR(log_snr_min=50.0, log_snr_max=60.0)],
)
def test_a_distribution_out_of_the_reach_of_the_schedule_is_refused(times):
    with pytest.raises(ValueError, match="reach"):
        times(torch.rand(3), noise.CosineSchedule())


def test_log_normal_times_are_edm_s_sigma_and_rectified_flow_s_logit():
    u = torch.linspace(0.01, 0.99, 99, dtype=F64)
    z = torch.special.ndtri(u)
    karras = noise.KarrasSchedule(sigma_min=1e-9, sigma_max=1e9)
    sigma = karras(LogNormalTimes(mean=-1.2, std=1.2)(u, karras))[1]
    assert_close(sigma, torch.exp(-1.2 + 1.2 * z), rtol=1e-6, atol=0)
    t = LogNormalTimes()(u, noise.FlowSchedule())
    assert_close(t, torch.sigmoid(z), rtol=1e-6, atol=0)


def test_low_discrepancy_times_have_one_in_each_cell_and_are_uniform_each():
    for offset in (0.0, 0.123, 0.9999):
        u = low_discrepancy(offset, 16)
        assert ((u >= 0) & (u < 1)).all()
        assert sorted((u * 16).floor().int().tolist()) == list(range(16))
    alone = torch.stack([low_discrepancy(k / 1000, 7) for k in range(1000)])
    assert_close(alone.mean(0), torch.full((7,), 0.5, dtype=F64), rtol=0, atol=1e-3)


@every_distribution
@every_schedule
def test_schedules_and_times_live_on_the_device_of_what_they_are_given(times, schedule):
    if isinstance(schedule, noise.LearnedSchedule):
        pytest.skip("its network has a device of its own")
    u = torch.empty(5, device="meta")
    t = times(u, schedule)
    alpha, sigma = schedule(t)
    log_snr = schedule.log_snr(t)
    density = times.log_snr_density(log_snr, schedule)
    for found in (t, alpha, sigma, log_snr, schedule.time(log_snr), density):
        assert found.device == u.device and found.shape == u.shape
