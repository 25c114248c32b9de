"""What a student is taught, against the flow of a Gaussian in closed form."""

import math

import pytest
import torch
from torch.testing import assert_close

from ornstein.core import noise
from ornstein.core.denoise import Denoiser, NetDenoiser
from ornstein.core.distill import aimed, carried, followed, mean_flow, relearned, two_in_one
from ornstein.core.exact import GaussianDenoiser
from ornstein.core.predict import predict_data
from ornstein.core.sample import SAMPLERS
from truths import F64, MEAN, STD, exact_map, gaussian, normal

SCHEDULES = [
    noise.FlowSchedule(),
    noise.CosineSchedule(),
    noise.LinearSchedule(),
    noise.KarrasSchedule(),
]


class Ahead(Denoiser):
    """Looks as far as it is told, and knows what is there."""

    def __init__(self):
        super().__init__()
        self.schedule = noise.FlowSchedule()

    def forward(self, x_t, t, *, until, **cond):
        return exact_map(x_t, t.expand(len(x_t)), until.expand(len(x_t)))


class Student(Denoiser):
    """Has learned perfectly what does in one step of its grid what the teacher does in two."""

    def __init__(self, teacher, times):
        super().__init__()
        self.schedule, self.teacher, self.times = teacher.schedule, teacher, times

    def forward(self, x_t, t, **cond):
        i = int((self.times - t).abs().argmin())
        return two_in_one(self.teacher, x_t, *self.times[i : i + 3])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_students_of_students_take_the_teachers_steps(schedule):
    """G22: eight steps become four, two, one; each is the product of the teacher's factors."""
    student, times = gaussian(schedule), torch.linspace(0.98, 0, 9, dtype=F64)
    x_t = math.hypot(*(c.item() for c in schedule(times[0]))) * normal(5, 3, seed=7)
    expected = SAMPLERS["ddim"](student, x_t, times)
    while len(times) > 2:
        student, times = Student(student, times), times[::2]
        assert_close(SAMPLERS["ddim"](student, x_t, times), expected, rtol=1e-9, atol=1e-9)


def test_one_step_from_pure_noise_to_data_can_be_taught():
    teacher, times = gaussian(noise.FlowSchedule()), torch.linspace(1, 0, 3, dtype=F64)
    eps = normal(4, 3)
    x_hat = two_in_one(teacher, eps, *times)
    assert_close(x_hat, followed(teacher, eps, list(times)))
    assert x_hat.isfinite().all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_what_is_aimed_at_is_where_it_leads(schedule):
    t, s = torch.tensor([0.9, 0.6, 0.3], dtype=F64), torch.tensor([0.5, 0.0, 0.29], dtype=F64)
    x_t, x_s = normal(3, 2, 2), normal(3, 2, 2, seed=1)
    x_hat = aimed(schedule, x_t, x_s, t, s)
    assert_close(carried(schedule, x_t, x_hat, t, s), x_s, rtol=1e-9, atol=1e-9)


def test_the_usual_loss_is_least_where_the_lesson_is_said():
    """Loss and gradient vanish at the x_hat to be learned, and grow with the square elsewhere."""
    schedule, t = noise.CosineSchedule(), torch.tensor([0.2, 0.7], dtype=F64)
    lesson, x_t = normal(2, 3, seed=1), normal(2, 3)
    x, eps = relearned(schedule, x_t, lesson, t)

    class Says(torch.nn.Module):
        def __init__(self, gap):
            super().__init__()
            self.answer = torch.nn.Parameter(lesson + gap)

        def forward(self, x, log_snr, **cond):
            return self.answer

    sizes = []
    for gap in (0.0, 0.1, 0.2):
        net = Says(gap)
        loss = NetDenoiser(net, schedule, predict_data).double().loss(x, t, eps).sum()
        loss.backward()
        sizes.append(loss.item())
        assert (net.answer.grad.abs().max() < 1e-10) == (gap == 0)
    assert sizes[0] < 1e-20 and sizes[2] == pytest.approx(4 * sizes[1])


TAU = torch.tensor([1.0, 0.9, 0.6, 0.6, 0.3, 0.1], dtype=F64)
RHO = torch.tensor([0.0, 0.4, 0.0, 0.5, 0.3, 0.02], dtype=F64)


def test_the_true_flow_map_has_nothing_to_learn():
    y = normal(6, 2)
    v = (y - exact_map(y, TAU, TAU)) / TAU[:, None]
    assert_close(mean_flow(exact_map, y, TAU, RHO, v), exact_map(y, TAU, RHO), rtol=0, atol=1e-9)


def test_a_wrong_flow_map_is_told_what_it_lacks():
    """An error of x_hat that is constant along the flow is answered by one ``rho / tau`` as large.

    ``u`` then errs by ``-e / tau``, whose slope is ``e / tau^2``: the lesson errs by
    ``(1 - rho / tau) e``, which shrinks as rho nears tau, where the data speak.
    """
    y, e = normal(6, 2), 0.3
    v = (y - exact_map(y, TAU, TAU)) / TAU[:, None]
    lesson = mean_flow(lambda y, t, r: exact_map(y, t, r) + e, y, TAU, RHO, v)
    expected = exact_map(y, TAU, RHO) + e * (1 - RHO / TAU)[:, None]
    assert_close(lesson, expected, rtol=0, atol=1e-9)


# --- Consistency ---------------------------------------------------------------------------------


def spread(denoiser, steps):
    """Mean and variance of x_s after each step, read off what the start and each noise add."""
    draws, seen = [], []

    def tap(like):
        draws.append(torch.zeros_like(like))
        draws[-1][len(draws)] = 1
        return draws[-1]

    x = torch.zeros(steps + 2, 1, dtype=F64)
    x[0] = 1  # the last example is where neither is
    times = torch.linspace(1, 0, steps + 1, dtype=F64)
    SAMPLERS["consistency"](denoiser, x, times, noise=tap, on_step=lambda x, s: seen.append(x))
    states = torch.stack(seen)[..., 0]
    return states[:, -1], (states[:, :-1] - states[:, -1:]).square().sum(1), times[1:]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_of_a_consistency_map_every_state_is_distributed_as_it_should_be(steps):
    mean, variance, s = spread(Ahead(), steps)
    assert_close(mean, (1 - s) * MEAN, rtol=1e-12, atol=1e-12)
    assert_close(variance, (1 - s) ** 2 * STD**2 + s**2, rtol=1e-12, atol=1e-12)
    one, var = torch.ones(1, dtype=F64), torch.full((1, 1), STD**2, dtype=F64)
    _, too_little, _ = spread(GaussianDenoiser(MEAN * one, var, noise.FlowSchedule()), steps)
    assert too_little[-1] < 0.99 * STD**2  # of a denoiser
