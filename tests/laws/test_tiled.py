"""Laws of denoisers of windows: exact where nothing outside matters, linear, each on its own."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ornstein.core.denoise import Denoiser, covariance
from ornstein.core.exact import GaussianDenoiser
from ornstein.core.measure import Mask
from ornstein.core.noise import CosineSchedule
from ornstein.core.posterior import PosteriorDenoiser
from ornstein.core.tiled import Tiled
from truths import F64, normal

SCHEDULE = CosineSchedule()
TIMES = torch.tensor([0.03, 0.31, 0.5, 0.87, 1.0], dtype=F64)
SPACES = [((4,), (11,)), ((4, 6), (4, 9)), ((4, 4), (13, 10)), ((3, 4, 5), (5, 4, 8))]
every_space = pytest.mark.parametrize(("window", "space"), SPACES, ids=str)


class Pixels(Denoiser):
    """The exact denoiser of pixels that are Gaussian, alike and independent, of mean 0.7."""

    def __init__(self, var: float = 0.4):
        super().__init__()
        self.schedule, self.var, self.seen = SCHEDULE, var, []

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        self.seen.append((tuple(x_t.shape), {k: v.clone() for k, v in cond.items()}))
        alpha, sigma = (c.reshape(-1, *(1,) * (x_t.ndim - 1)) for c in self.schedule(t))
        gain = alpha * self.var / (alpha**2 * self.var + sigma**2)
        return 0.7 + gain * (x_t - alpha * 0.7)

    def moments(self, x_t, t, **cond):
        return self(x_t, t, **cond), torch.sigmoid(x_t)


class Places(Denoiser):
    """Says where in its window each point lies."""

    schedule = SCHEDULE

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return torch.arange(x_t.shape[2], dtype=x_t.dtype).expand_as(x_t)


@every_space
@pytest.mark.parametrize("overlap", [0, 1])
def test_windows_are_exact_where_pixels_are_independent(window, space, overlap):
    x_t = normal(2, 3, *space)
    whole, tiled = Pixels(), Tiled(Pixels(), window, overlap)
    for t in TIMES:
        for found, expected in zip(tiled.moments(x_t, t), whole.moments(x_t, t), strict=True):
            assert_close(found, expected, rtol=0, atol=1e-12)
    assert_close(tiled(x_t, TIMES[:2]), whole(x_t, TIMES[:2]), rtol=0, atol=1e-12)


def test_windows_are_nearly_exact_where_pixels_forget_each_other():
    """A stationary process, of correlation 0.5 between neighbours: wider windows err less."""
    n = 40
    place = torch.arange(n, dtype=F64)
    cov = 0.5 ** (place[:, None] - place).abs()

    class Stretch(Denoiser):  # (B, 1, L) as points
        schedule = SCHEDULE

        def forward(self, x_t, t, **cond):
            length = x_t.shape[2]
            flat = GaussianDenoiser(torch.zeros(length, dtype=F64), cov[:length, :length], SCHEDULE)
            return flat(x_t[:, 0], t)[:, None]

    x_t, t = normal(64, 1, n), torch.tensor(0.3, dtype=F64)
    exact = Stretch()(x_t, t)
    errors = [(Tiled(Stretch(), (w,), w // 3)(x_t, t) - exact).std().item() for w in (6, 12, 24)]
    assert errors[0] < 0.1 * exact.std() and errors[1] < 0.6 * errors[0] < errors[0]
    assert errors[2] < 0.8 * errors[1]


def test_an_example_as_large_as_a_window_is_passed_on_as_it_is():
    x_t, t = normal(2, 3, 4, 6), torch.tensor(0.3, dtype=F64)
    assert torch.equal(Tiled(Pixels(), (4, 6), 1)(x_t, t), Pixels()(x_t, t))


def test_the_shares_are_smooth_and_sum_to_one():
    tiled = Tiled(Pixels(), (8,), 3)
    for t in TIMES.tolist():
        (axis,) = tiled._axes(torch.zeros(1, 1, 31, dtype=F64), t)
        total = torch.zeros(31, dtype=F64).index_add(0, axis.place.flatten(), axis.share.flatten())
        assert_close(total, torch.ones(31, dtype=F64), rtol=0, atol=1e-12)
        assert (axis.share > 0).all()
        inner = axis.share[1:-1]
        assert (inner[:, 0] < 0.5).all() and (inner[:, -1] < 0.5).all()


def test_the_windows_move_with_time_but_cover_all():
    tiled, seams = Tiled(Places(), (6,), 2), set()
    for t in torch.linspace(0.1, 0.9, 9, dtype=F64):
        (axis,) = tiled._axes(torch.zeros(1, 1, 29), t.item())
        assert sorted(set(axis.place.flatten().tolist())) == list(range(29))
        begin = axis.place[:, 0]
        assert (begin.diff() <= 4).all()  # so neighbours share at least 2
        seams.add(tuple(begin.tolist()))
    assert len(seams) > 3


def test_the_blend_is_linear_in_the_estimates_and_so_are_its_derivatives():
    x_t, t = normal(2, 1, 11, 9), torch.tensor(0.4, dtype=F64)
    whole, tiled = Pixels(), Tiled(Pixels(), (4, 4), 1)
    u = normal(2, 1, 11, 9, seed=1)
    assert_close(covariance(tiled, x_t, t)[1](u), covariance(whole, x_t, t)[1](u))
    shifted = tiled(x_t + u, t) - tiled(x_t, t)
    assert_close(tiled(x_t + 2 * u, t) - tiled(x_t, t), 2 * shifted)


def test_a_measurement_of_all_meets_windows_as_it_meets_the_whole():
    x, t = normal(2, 1, 10, 7), torch.tensor(0.6, dtype=F64)
    keep = normal(10, 7, seed=4) > 0
    found, expected = (
        PosteriorDenoiser(d, Mask(keep), torch.where(keep, x, 0.0), 0.1)(x, t)
        for d in (Tiled(Pixels(), (4, 4), 1), Pixels())
    )
    assert_close(found, expected)


def test_examples_do_not_hear_each_other_nor_how_many_windows_are_looked_at():
    x_t, tiled = normal(5, 1, 13), Tiled(Places(), (6,), 2)
    together = tiled(x_t, TIMES)
    for i, t in enumerate(TIMES):
        assert_close(together[i : i + 1], tiled(x_t[i : i + 1], t))
    few = Tiled(Places(), (6,), 2, at_once=3)
    assert_close(few(x_t, TIMES[1]), tiled(x_t, TIMES[1]))


def test_conditions_go_to_every_window_and_pictures_in_pieces():
    inner = Pixels()
    tiled = Tiled(inner, (4, 4), 1)
    context = torch.arange(2 * 7 * 4.0).reshape(2, 1, 7, 4)
    label, t = torch.tensor([3, 5]), torch.tensor(0.0, dtype=F64)
    tiled(normal(2, 1, 7, 4), t, label=label, context=context)
    ((shape, cond),) = inner.seen
    count = shape[0] // 2
    assert shape[1:] == (1, 4, 4) and count >= 2
    assert cond["label"].tolist() == [3] * count + [5] * count
    assert torch.equal(cond["context"][0], context[0, :, :4])
    assert torch.equal(cond["context"][-1], context[1, :, 3:])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"overlap from 0 to half of \(4, 6\)"):
        Tiled(Pixels(), (4, 6), 2)
    with pytest.raises(ValueError, match=r"S >= \(4, 6\), got \(9, 5\)"):
        Tiled(Pixels(), (4, 6), 1)(normal(1, 1, 9, 5), TIMES[0])
    with pytest.raises(ValueError, match=r"S >= \(4,\), got \(9, 5\)"):
        Tiled(Pixels(), (4,), 1)(normal(1, 1, 9, 5), TIMES[0])


@pytest.mark.parametrize("t", [TIMES[1], TIMES[:2]], ids=["one time", "a time each"])
def test_one_condition_for_all_goes_to_every_window(t):
    inner = Pixels()
    until = torch.tensor(0.2, dtype=F64)
    found = Tiled(inner, (4,), 1)(normal(2, 1, 9), t, until=until)
    assert_close(found, Tiled(Pixels(), (4,), 1)(normal(2, 1, 9), t))
    for shape, cond in inner.seen:
        assert cond["until"].tolist() == [0.2] * shape[0]
