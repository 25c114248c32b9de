"""Guidance against closed forms: the linear flow of guided Gaussians, Bayes' rule for the score."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from ornstein.core import guide, noise
from ornstein.core.denoise import Denoiser, NetDenoiser
from ornstein.core.exact import GaussianDenoiser
from truths import F64, flow, mixture, noised, normal

WIDE = noise.GeometricSchedule(log_snr_min=-2 * math.log(80.0), log_snr_max=30.0)
LABEL = torch.zeros(1, dtype=torch.long)
START = torch.full((1, 1), 80.0, dtype=F64)


class TwoGaussians(Denoiser):
    """N(0, conditional) with a label, N(0, marginal) without; counts its calls."""

    def __init__(self, conditional, marginal, schedule=WIDE):
        super().__init__()
        self.schedule, self.calls = schedule, 0
        self.conditional, self.marginal = conditional, marginal

    def forward(self, x_t, t, **cond):
        self.calls += 1
        alpha, sigma = self.schedule(t)
        var = self.conditional if "label" in cond else self.marginal
        return alpha * var / (alpha**2 * var + sigma**2) * x_t


def stretch(var, high, low):
    """How far the flow of N(0, var) takes x from noise level `high` to `low`, in ``ve``."""
    return math.sqrt((var + low**2) / (var + high**2))


def test_classifier_free_guidance_follows_the_linear_flow_of_two_gaussians():
    """G17, where 1 + w is our weight: not the tilted law's .2774 but .0894525."""
    both = TwoGaussians(0.2, 1.0)
    guided = guide.ClassifierFree(both, weight=3.0).given(label=LABEL)
    low = math.exp(-15.0)
    expected = 80 * stretch(0.2, 80, low) ** 3 * stretch(1.0, 80, low) ** -2
    x = flow(guided, START, 1.0, 0.0).item()
    assert x == pytest.approx(expected, abs=1e-9)
    assert x == pytest.approx(0.0894525, abs=1e-6)


def test_autoguidance_follows_the_same_flow_with_the_weak_variance_on_another_path():
    strong = TwoGaussians(0.2, 0.2)
    weak = GaussianDenoiser(
        torch.zeros(1, dtype=F64), torch.full((1, 1), 0.5, dtype=F64), noise.FlowSchedule()
    )
    guided = guide.Autoguidance(strong, weak, weight=2.0)
    low = math.exp(-15.0)
    expected = 80 * stretch(0.2, 80, low) ** 2 / stretch(0.5, 80, low)
    assert flow(guided, START, 1.0, 0.0).item() == pytest.approx(expected, abs=1e-8)


def test_guidance_and_autoguidance_together_follow_the_flow_of_three_gaussians():
    """``u + w (c - u) + (v - 1) (c - weak)``, at two calls of the one and one of the other."""
    both, weak, w, v = TwoGaussians(0.2, 1.0), TwoGaussians(0.5, 0.5), 3.0, 1.5
    strong = guide.Autoguidance(both, weak, 1 + (v - 1) / w)
    low, far = math.exp(-15.0), {0.2: w + v - 1, 1.0: 1 - w, 0.5: 1 - v}
    expected = 80 * math.prod(stretch(var, 80, low) ** power for var, power in far.items())
    for guided in (
        guide.ClassifierFree(strong, w, reference=both).given(label=LABEL),
        guide.Composed(strong, ["label"], w, reference=both).given(
            label=LABEL[:, None], shares=torch.ones(1, 1, dtype=F64)
        ),
    ):
        both.calls = weak.calls = 0
        guided(START, torch.tensor(0.5, dtype=F64))
        assert (both.calls, weak.calls) == (2, 1)
        assert flow(guided, START, 1.0, 0.0).item() == pytest.approx(expected, abs=1e-8)


def test_guidance_in_an_interval_is_a_product_of_pieces():
    levels = (80.0, 5.0, 0.3, math.exp(-15.0))
    interval = (-2 * math.log(5.0), -2 * math.log(0.3))
    guided = guide.ClassifierFree(TwoGaussians(0.2, 1.0), 2.5, interval).given(label=LABEL)
    x, expected = START, 80.0
    for (high, low), w in zip(pairwise(levels), (1.0, 2.5, 1.0), strict=True):
        nudged = torch.tensor([high * (1 - 1e-11), low * (1 + 1e-11)], dtype=F64)  # off the jumps
        t, s = WIDE.time(-2 * nudged.log()).tolist()
        x = flow(guided, x, t, s)
        expected *= stretch(0.2, high, low) ** w * stretch(1.0, high, low) ** (1 - w)
    assert x.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("weight", "calls_outside", "calls_inside"), [(1.0, 1, 1), (2.0, 1, 2), (0.0, 1, 2)]
)
def test_guidance_costs_a_second_call_only_where_it_acts(weight, calls_outside, calls_inside):
    both = TwoGaussians(0.2, 1.0)
    guided = guide.ClassifierFree(both, weight, (-1.0, 1.0)).given(label=LABEL)
    for log_snr, calls in ((-1.5, calls_outside), (0.0, calls_inside), (1.5, calls_outside)):
        both.calls = 0
        guided(normal(1, 1), WIDE.time(torch.tensor(log_snr, dtype=F64)))
        assert both.calls == calls


def test_guidance_without_a_condition_is_the_unconditional_denoiser_at_one_call():
    both = TwoGaussians(0.2, 1.0)
    x_t, t = normal(4, 1), torch.tensor(0.5, dtype=F64)
    assert_close(guide.ClassifierFree(both, 3.0)(x_t, t), both(x_t, t))
    assert both.calls == 2


def test_every_example_may_have_its_own_weight_and_time():
    truth = mixture()
    x_t, t = normal(3, 2), torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    label, weights = torch.tensor([0, 1, 2]), torch.tensor([0.0, 1.0, 4.0], dtype=F64)
    guided = guide.ClassifierFree(truth, weights)(x_t, t, label=label)
    for i in range(3):
        alone = guide.ClassifierFree(truth, weights[i].item())
        assert_close(guided[i : i + 1], alone(x_t[i : i + 1], t[i : i + 1], label=label[i : i + 1]))
    assert_close(guided[0], truth(x_t, t)[0])
    assert_close(guided[1], truth(x_t, t, label=label)[1])


def test_a_negative_condition_takes_the_place_of_none_and_leaves_the_others():
    truth = mixture()
    seen = []

    class Spy(Denoiser):
        schedule = truth.schedule

        def forward(self, x_t, t, **cond):
            seen.append(cond)
            return truth(x_t, t, label=cond["label"]) if "label" in cond else truth(x_t, t)

    x_t, t = normal(2, 2), torch.tensor(0.5, dtype=F64)
    cond = {"label": torch.tensor([0, 0]), "image": torch.zeros(2)}
    other = torch.tensor([1, 1])
    found = guide.ClassifierFree(Spy(), 3.0, negative={"label": other})(x_t, t, **cond)
    away = truth(x_t, t, label=other)
    assert_close(found, away + 3 * (truth(x_t, t, label=cond["label"]) - away))
    assert seen[1]["image"] is cond["image"]
    guide.ClassifierFree(Spy(), 3.0, negative={"label": None})(x_t, t, **cond)
    assert list(seen[-1]) == ["image"]
    guide.ClassifierFree(Spy(), 3.0)(x_t, t, **cond)
    assert seen[-1] == {}


def test_one_negative_condition_serves_a_whole_batch():
    truth = mixture()
    x_t, t, label = normal(2, 2), torch.tensor(0.5, dtype=F64), torch.tensor([0, 0])
    for_all, of_each = (
        guide.ClassifierFree(truth, 3.0, negative={"label": torch.tensor([1] * n)}) for n in (1, 2)
    )
    assert torch.equal(for_all(x_t, t, label=label), of_each(x_t, t, label=label))


def test_without_its_parallel_part_guidance_leaves_the_component_along_the_estimate():
    """APG: what is added is orthogonal to c, and the rest as without."""
    truth = mixture()
    x_t, t, label = normal(3, 2), torch.tensor(0.5, dtype=F64), torch.tensor([0, 1, 2])
    c = truth(x_t, t, label=label)
    whole = guide.ClassifierFree(truth, 4.0)(x_t, t, label=label) - c
    across = guide.ClassifierFree(truth, 4.0, parallel=0.0)(x_t, t, label=label) - c
    assert_close((across * c).sum(1), torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)
    along = whole - across
    assert_close(along * (c * c).sum(1, True), (along * c).sum(1, True) * c)
    half = guide.ClassifierFree(truth, 4.0, parallel=0.5)(x_t, t, label=label) - c
    assert_close(half, across + 0.5 * along)


def test_rescaled_guidance_has_the_spread_of_the_conditional_estimate():
    truth = mixture()
    x_t, t, label = 3 * normal(3, 2), torch.tensor(0.5, dtype=F64), torch.tensor([0, 1, 2])
    c = truth(x_t, t, label=label)
    full = guide.ClassifierFree(truth, 4.0, rescale=1.0)(x_t, t, label=label)
    assert_close(full.std(1), c.std(1))
    plain = guide.ClassifierFree(truth, 4.0)(x_t, t, label=label)
    half = guide.ClassifierFree(truth, 4.0, rescale=0.5)(x_t, t, label=label)
    assert_close(half, (plain + full) / 2)


def test_an_estimate_without_a_direction_or_a_spread_is_guided_all_the_same():
    truth, t = TwoGaussians(0.04, 1.0), torch.tensor(0.5, dtype=F64)
    plain = guide.ClassifierFree(truth, 2.0)
    nowhere = torch.zeros(1, 3, dtype=F64)  # where both estimates are 0
    of_it = guide.ClassifierFree(truth, 2.0, parallel=0.0)
    assert_close(of_it(nowhere, t, label=LABEL), plain(nowhere, t, label=LABEL))
    number = torch.ones(1, 1, dtype=F64)  # one number has no spread
    of_it = guide.ClassifierFree(truth, 2.0, rescale=0.7)
    assert_close(of_it(number, t, label=LABEL), plain(number, t, label=LABEL))


@pytest.mark.parametrize("options", [{"parallel": -0.1}, {"rescale": 1.1}])
def test_a_share_of_guidance_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match="shares"):
        guide.ClassifierFree(mixture(), 2.0, **options)


class OneOfTwo(Denoiser):
    """N(0, 1) without a text, N(text, 1/4) with one; in ``ve``."""

    schedule = WIDE

    def forward(self, x_t, t, *, text=None):
        sigma = self.schedule(t)[1]
        mean, var = (0.0, 1.0) if text is None else (text.to(x_t)[:, None], 0.25)
        return (var * x_t + sigma**2 * mean) / (var + sigma**2)


def test_composed_denoisers_add_up_to_the_product_of_what_they_condition_on():
    """Where noise is small, p(x) p(a | x) p(b | x): precisions and means add up."""
    a, b, x_t = 0.5, -1.0, normal(5, 1)
    t = torch.tensor(0.53, dtype=F64)
    sigma = WIDE(t)[1]
    both = guide.Composed(OneOfTwo(), ["text"])
    text, shares = torch.tensor([[a, b]]).expand(5, 2), torch.ones(5, 2)
    precision = 1 + (4 - 1) + (4 - 1)
    mean = (4 * a + 4 * b) / precision
    exact = (x_t / sigma**2 + precision * mean) / (1 / sigma**2 + precision)
    found = both(x_t, t, text=text, shares=shares)
    assert_close(found, exact, rtol=0, atol=300 * sigma.item() ** 4)
    assert (found - x_t).abs().max() > 30 * 300 * sigma.item() ** 4  # the bound says something


@pytest.mark.parametrize("shape", [{}, {"parallel": 0.3}, {"rescale": 0.4}], ids=str)
def test_one_term_composed_is_classifier_free_guidance_and_absent_terms_count_nothing(shape):
    x_t, t = normal(5, 3), torch.tensor(0.5, dtype=F64)
    text = torch.tensor([0.5]).expand(5)
    want = guide.ClassifierFree(OneOfTwo(), 3.0, **shape)(x_t, t, text=text)
    both = guide.Composed(OneOfTwo(), ["text"], weight=3.0, **shape)
    several, shares = torch.stack([text, text + 1], 1), torch.tensor([[1.0, 0.0]]).expand(5, 2)
    assert_close(both(x_t, t, text=several, shares=shares), want)


def test_a_negative_share_goes_as_far_the_other_way():
    x_t, t = normal(5, 1), torch.tensor(0.5, dtype=F64)
    text, plain = torch.full((5, 1), 0.5), OneOfTwo()(x_t, t)
    both = guide.Composed(OneOfTwo(), ["text"])
    there, away = (both(x_t, t, text=text, shares=torch.full((5, 1), s)) for s in (1.0, -1.0))
    assert_close(there - plain, plain - away)


SCALINGS = [noise.CosineSchedule(), noise.FlowSchedule(), noise.KarrasSchedule()]


def log_responsibility(truth, label):
    def log_prob(x_t, log_snr):
        t = truth.schedule.time(log_snr)
        return truth.responsibilities(x_t, t).log()[:, label]

    return log_prob


@pytest.mark.parametrize("schedule", SCALINGS, ids=lambda s: type(s).__name__)
def test_an_exact_classifier_turns_the_mixture_into_its_component(schedule):
    """G16: score + grad log p(c | x_t) is the conditional score, and so are their means."""
    truth = mixture(schedule)
    guided = guide.ClassifierGuidance(truth, log_responsibility(truth, 1))
    for time in (1e-3, 0.3, 0.7, 0.95):
        t = torch.tensor(time, dtype=F64)
        x_t = noised(truth, t)
        expected = truth(x_t, t, label=torch.ones(len(x_t), dtype=torch.long))
        with torch.no_grad():
            assert_close(guided(x_t, t), expected, rtol=0, atol=1e-10)


def test_classifier_guidance_is_finite_and_right_where_no_signal_is_left():
    truth = mixture(noise.FlowSchedule())
    guided = guide.ClassifierGuidance(truth, log_responsibility(truth, 1))
    x_t, t = normal(4, 2), torch.ones((), dtype=F64)
    expected = truth.means[1].expand(4, 2)  # nothing but the class is known there
    assert_close(guided(x_t, t), expected, rtol=0, atol=1e-3)
    single = guide.ClassifierGuidance(truth, log_responsibility(truth, 1))(x_t.float(), t.float())
    assert single.dtype == torch.float32 and single.isfinite().all()


def test_gradient_guidance_moves_by_the_posterior_covariance():
    """For N(m, S), C = (S^-1 + SNR I)^-1, and the gradient of b.x is b."""
    root, schedule = normal(3, 3), noise.CosineSchedule()
    cov = root @ root.T + 0.1 * torch.eye(3, dtype=F64)
    truth = GaussianDenoiser(normal(3), cov, schedule)
    b, t, x_t = normal(3, seed=9), torch.tensor(0.4, dtype=F64), normal(2, 3)
    guided = guide.GradientGuidance(truth, lambda x: x @ b, weight=0.7)
    C = torch.linalg.inv(
        torch.linalg.inv(cov) + schedule.log_snr(t).exp() * torch.eye(3, dtype=F64)
    )
    with torch.no_grad():
        assert_close(guided(x_t, t), truth(x_t, t) + 0.7 * C @ b, rtol=0, atol=1e-10)


RULES = {
    "classifier-free": lambda d, w: guide.ClassifierFree(d, w),
    "autoguidance": lambda d, w: guide.Autoguidance(d, mixture(noise.FlowSchedule()), w),
    "classifier": lambda d, w: guide.ClassifierGuidance(d, lambda x, _: -(x**2).sum(1), w),
    "gradient": lambda d, w: guide.GradientGuidance(d, lambda x: -(x**2).sum(1), w),
}


def test_every_rule_of_guidance_stands_in_the_list():
    rules = {
        v for v in vars(guide).values() if isinstance(v, type) and v.__module__ == guide.__name__
    }
    others = {guide.Thresholded, guide.LearnedGuidance, guide.Composed}
    assert rules == {type(make(mixture(), 1.0)) for make in RULES.values()} | others


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("weight", [math.nan, math.inf, torch.tensor([1.0, math.nan])])
def test_a_rule_refuses_a_weight_that_is_not_finite(name, weight):
    with pytest.raises(ValueError, match="must be finite"):
        RULES[name](mixture(), weight)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_changes_nothing_at_the_weight_that_means_none(name):
    none = 1.0 if name in ("classifier-free", "autoguidance") else 0.0
    truth, t = mixture(), torch.tensor(0.5, dtype=F64)
    x_t, label = noised(truth, t), torch.tensor([0, 1, 2, 0, 1, 2])
    guided = RULES[name](truth, none)
    assert_close(guided(x_t, t, label=label), truth(x_t, t, label=label), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_keeps_dtype_and_passes_on_the_variance_if_it_has_one(name):
    schedule = noise.CosineSchedule()
    net = torch.nn.Conv1d(2, 4, 1)  # a variance head doubles its channels

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, log_snr, **cond):
            return self.net(x[..., None])[..., 0]

    denoiser = NetDenoiser(Net(), schedule, variance_steps=100)
    x_t, t = normal(6, 2).float(), torch.tensor(0.5)
    guided = RULES[name](denoiser, 2.0)
    if name == "autoguidance":
        guided = guide.Autoguidance(denoiser, denoiser.along(noise.FlowSchedule()), 2.0)
    x_hat, v = guided.moments(x_t, t)
    assert x_hat.dtype == torch.float32
    if name != "gradient":
        assert_close(v, denoiser.moments(x_t, t)[1])


@pytest.mark.parametrize("interval", [(1.0, -1.0), (0.0, 0.0), (math.nan, 1.0)])
def test_an_empty_interval_is_refused(interval):
    with pytest.raises(ValueError, match="interval"):
        guide.ClassifierFree(mixture(), 2.0, interval)


class Constant(Denoiser):
    """The same estimate whatever it sees."""

    def __init__(self, x_hat):
        super().__init__()
        self.schedule, self.x_hat = WIDE, x_hat

    def forward(self, x_t, t, **cond):
        return self.x_hat


LOW, HIGH = torch.tensor([-1.0, 0.0], dtype=F64), torch.tensor([1.0, 4.0], dtype=F64)


def test_thresholding_leaves_what_is_in_range_and_each_example_to_itself():
    inside = torch.tensor([[[-1.0, 0.5], [0.0, 4.0]], [[-3.0, 0.5], [0.0, 4.0]]], dtype=F64)
    kept = guide.Thresholded(Constant(inside), LOW, HIGH, 1.0)(inside, torch.ones(2))
    assert_close(kept[0], inside[0])
    assert_close(kept[1], torch.tensor([[-1.0, 0.5 / 3], [2 - 2 / 3, 2 + 2 / 3]], dtype=F64))


def test_thresholding_clips_what_lies_beyond_the_quantile_and_scales_the_rest():
    x = torch.linspace(-2, 2, 101, dtype=F64)[None, None]
    found = guide.Thresholded(Constant(x), LOW[:1], HIGH[:1], 0.5)(x, torch.ones(1))
    assert_close(found, x.clamp(-1, 1))  # the median of |x| is 1
    found = guide.Thresholded(Constant(x), LOW[:1], HIGH[:1], 0.9)(x, torch.ones(1))
    s = x.abs().flatten().quantile(0.9)
    assert_close(found, x.clamp(-s, s) / s)
    assert found.abs().max() == 1


@pytest.mark.parametrize("quantile", [0.01, 0.5, 0.77, 0.995, 1.0])
def test_thresholding_takes_torch_s_quantile(quantile):
    x = 10 * normal(2, 1, 37)
    s = x.abs().flatten(1).quantile(quantile, 1).clamp_min(1)[:, None, None]
    assert_close(guide.limited(x, LOW[:1], HIGH[:1], quantile), x.clamp(-s, s) / s)
    half = guide.limited(x.bfloat16(), LOW[:1], HIGH[:1], quantile)
    assert half.dtype == torch.bfloat16


def test_thresholding_takes_more_numbers_than_torch_sorts_for_a_quantile():
    x = torch.zeros(1, 1, 2**24 + 2)
    x[..., : 2**23] = 4.0
    assert guide.limited(x, LOW[:1], HIGH[:1], 0.9).max() == 1


@pytest.mark.parametrize(("low", "high", "quantile"), [(LOW, HIGH, 0), (HIGH, LOW, 0.5)])
def test_thresholding_refuses_empty_ranges(low, high, quantile):
    with pytest.raises(ValueError, match=r"quantile|range"):
        guide.Thresholded(Constant(LOW), low, high, quantile)
