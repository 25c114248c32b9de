"""Laws of a mean and a residual: exact for linear Gaussian pairs, on any path, with any mean."""

import pytest
import torch
from torch.testing import assert_close

from ornstein.core import noise
from ornstein.core.denoise import Denoiser
from ornstein.core.distill import Leap
from ornstein.core.residual import Residual, regression
from ornstein.errors import UsageError
from truths import F64, normal

SCHEDULES = {
    "cosine": noise.CosineSchedule(),
    "flow": noise.FlowSchedule(),
    "karras": noise.KarrasSchedule(),
    "sub-vp": noise.SubVPSchedule(),
}
VAR = 0.09
FLOW = SCHEDULES["flow"]  # on which no signal at all is left at t = 1
TIMES = torch.tensor([1e-4, 0.05, 0.3, 0.6, 0.7], dtype=F64)


class Pair(Denoiser):
    """Exact for x = slope c + e, e ~ N(0, var) at each point."""

    def __init__(self, schedule, slope, var):
        super().__init__()
        self.schedule, self.slope, self.var = schedule, slope, var

    def forward(self, x_t, t, **cond):
        assert set(cond) == {"context"}
        alpha, sigma = (c.reshape(-1, *(1,) * (x_t.ndim - 1)) for c in self.schedule(t))
        middle = self.slope * cond["context"]
        gain = alpha * self.var / (alpha**2 * self.var + sigma**2)
        return middle + gain * (x_t - alpha * middle)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_a_linear_gaussian_pair_is_denoised_exactly(schedule):
    """x = 2 c + e: what the regression leaves has variance VAR, and is N(0, 1) over its root."""
    context = normal(5, 1, 3, 4)
    alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in schedule(TIMES))
    x = 2 * context + VAR**0.5 * normal(5, 1, 3, 4, seed=1)
    x_t = alpha * x + sigma * normal(5, 1, 3, 4, seed=2)
    whole = Pair(schedule, 2.0, VAR)
    parts = Residual(Pair(FLOW, 2.0, VAR), Pair(schedule, 0.0, 1.0), VAR**0.5)
    assert_close(parts(x_t, TIMES, context=context), whole(x_t, TIMES, context=context))
    for i, t in enumerate(TIMES):
        one, told = x_t[i : i + 1], context[i : i + 1]
        assert_close(parts(one, t, context=told), whole(one, t, context=told))


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_a_bad_mean_and_another_scale_change_nothing_but_the_residual(scale):
    """With m = 1.5 c, r = (0.5 c + e) / s, itself a linear Gaussian pair."""
    context = normal(4, 1, 6)
    mean, whole = Pair(FLOW, 1.5, VAR), Pair(FLOW, 2.0, VAR)
    parts = Residual(mean, Pair(FLOW, 0.5 / scale, VAR / scale**2), scale)
    for t in (*TIMES, torch.ones((), dtype=F64)):
        x_t = normal(4, 1, 6, seed=3)
        assert_close(parts(x_t, t, context=context), whole(x_t, t, context=context))


class Flow(Denoiser):
    """Of N(0, 1): what leads from t to `until` in one step; the flow changes the scale alone."""

    schedule = FLOW

    def forward(self, x_t, t, **cond):
        now, then = self.schedule(t), self.schedule(cond["until"])
        kept = then[1] / now[1]
        size = torch.hypot(*then) / torch.hypot(*now)
        return (size - kept) / (then[0] - now[0] * kept) * x_t


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_who_draws_a_residual_in_leaps_lands_where_the_flow_does(steps):
    """x = 2 c + s r of r ~ N(0, 1): x_t - 2 alpha c keeps its place, in its own scale."""
    s, context = 0.2, normal(4, 1, 6)
    parts = Residual(Pair(FLOW, 2.0, 0.0), Flow(), s).given(context=context)
    times = torch.linspace(1, 0.1, steps + 1, dtype=F64)
    x_t = normal(4, 1, 6, seed=1)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (FLOW(t) for t in times[[0, -1]])
    shrunk = torch.hypot(s * alpha_s, sigma_s) / torch.hypot(s * alpha_t, sigma_t)
    expected = 2 * alpha_s * context + shrunk * (x_t - 2 * alpha_t * context)
    assert_close(Leap()(parts, x_t, times), expected)


def test_the_regression_is_the_estimate_that_hears_the_condition_alone():
    context = normal(4, 1, 6)
    found = regression(
        Pair(SCHEDULES["flow"], 2.0, VAR), torch.zeros_like(context), {"context": context}
    )
    assert_close(found, 2 * context)


def test_without_a_condition_there_is_no_mean():
    pair = Pair(FLOW, 2.0, VAR)
    with pytest.raises(UsageError, match="say what is given"):
        Residual(pair, pair, 1.0)(normal(1, 1, 6), TIMES[1])


def test_a_scale_that_is_none_is_refused():
    pair = Pair(FLOW, 2.0, VAR)
    with pytest.raises(ValueError, match="scale must be positive"):
        Residual(pair, pair, 0.0)
