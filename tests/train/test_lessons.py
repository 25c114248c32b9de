"""Students: what their batches become, where they begin, and that they resume like any run."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ornstein.core.denoise import Denoiser, NetDenoiser
from ornstein.core.distill import Leap, aimed, carried, followed
from ornstein.core.guide import ClassifierFree
from ornstein.core.noise import FlowSchedule
from ornstein.core.predict import Hearing, predict_data, predict_flow, weigh_flow
from ornstein.core.sample import SAMPLERS, AdamsBashforth, Sampler, encode
from ornstein.core.times import low_discrepancy
from ornstein.data import DataOptions, open_data
from ornstein.errors import UsageError
from ornstein.evaluate.distillation import distill, lesson_plan
from ornstein.nets import MLP, Conditions
from ornstein.rng import generator
from ornstein.runs.building import BEND
from ornstein.runs.config import (
    DenoiserConfig,
    DistillConfig,
    NetConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from ornstein.runs.model import load
from ornstein.runs.quick import quick
from ornstein.tasks.sample import sample
from ornstein.train import train
from ornstein.train.device import World
from ornstein.train.draws import Batch, draw
from ornstein.train.lessons import DRAWS, Anywhere, Departures, Halves, Shown, Slopes, Teacher
from ornstein.train.memory import examples_at_once
from ornstein.train.optimise import build_optimizers
from ornstein.train.recipes import ahead
from ornstein.train.training import Training
from train.tiny import Looks, labelled_points, points, tiny_config
from truths import F64, exact_map, gaussian, mixture, normal
from untrained import tiny_model, tiny_student


def flow_config(**changes):
    return replace(
        tiny_config(size=16, depth=1, seen=3200),
        schedule=ScheduleConfig(name="flow"),
        denoiser=DenoiserConfig(prediction="flow", weighting="flow"),
        **changes,
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "run"
    return train("swiss-roll", config=flow_config(), out=out)


@pytest.fixture(scope="module")
def plan(teacher):
    c = DistillConfig(teacher=str(teacher.path), jump=3)
    return lesson_plan(flow_config(), c, steps=4, seen=320)


def test_a_student_begins_as_its_teacher_and_on_its_own_grid(teacher, plan):
    training = Training(plan, points())
    for name, value in load(teacher.path).denoiser.state_dict().items():
        assert torch.equal(training.denoiser.state_dict()[name], value)
        assert torch.equal(training.averages.learners[0].state_dict()[name], value)
    u = torch.linspace(0, 0.999, 100)
    times = training.times(u, training.denoiser.schedule).unique()
    torch.testing.assert_close(times, torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64))


def drawn(training, count=32):
    """A batch of a training, and what is random in its lesson."""
    indices = training.data.order(0, range(count))
    batch = draw(training.data, indices, training.denoiser.schedule, training.times, seed=0, seen=0)
    return batch, torch.from_numpy(generator("draws").random((count, DRAWS)))


def x_t(batch, schedule):
    alpha, sigma = (c[:, None].to(batch.x) for c in schedule(batch.t))
    return alpha * batch.x + sigma * batch.eps


def test_a_lesson_keeps_x_t_and_asks_for_three_steps_in_one(plan):
    training = Training(plan, points())
    lessons, schedule = training.lessons, training.denoiser.schedule
    before, draws = drawn(training)
    after, seen = lessons(before, draws, training.denoiser), x_t(before, schedule)
    assert_close(x_t(after, schedule), seen, rtol=1e-5, atol=1e-5)
    for i in range(4):
        t = before.t[i : i + 1]
        path = [t - k / 12 for k in range(4)]
        x_s = followed(lessons.teacher.denoiser, seen[i : i + 1], path)
        x_hat = aimed(schedule, seen[i : i + 1], x_s, path[0], path[-1])
        assert_close(after.x[i : i + 1], x_hat, rtol=1e-4, atol=1e-4)


def test_the_next_student_is_taught_the_steps_of_the_one_before(plan, tmp_path):
    first = train("swiss-roll", config=plan, seen=64, out=tmp_path / "first")
    c = DistillConfig(teacher=str(first.path), jump=2)
    training = Training(lesson_plan(plan, c, steps=2, seen=64), points())
    before, draws = drawn(training, 8)
    after, schedule = training.lessons(before, draws, training.denoiser), training.denoiser.schedule
    seen, path = x_t(before, schedule), [before.t - k / 4 for k in range(3)]
    x_s = followed(load(first.path).denoiser, seen, path)
    assert_close(after.x, aimed(schedule, seen, x_s, path[0], path[-1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["flow-map", "mean-flow"])
def test_a_flow_map_begins_as_its_teacher_however_far_it_looks(teacher, method):
    c = DistillConfig(method=method, teacher=str(teacher.path))
    student = Training(lesson_plan(flow_config(), c, steps=4, seen=320), points()).denoiser
    x, t = torch.randn(5, 2), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    expected = load(teacher.path).denoiser(x, t)
    for until in (t, t / 2, torch.zeros(5, dtype=torch.float64)):
        assert_close(student(x, t, until=until), expected)


def test_a_leap_that_leads_nowhere_is_what_a_denoiser_learns(teacher):
    c = DistillConfig(method="flow-map", teacher=str(teacher.path))
    by_teacher = Training(lesson_plan(flow_config(), c, steps=4, seen=320), points())
    from_data = Training(ahead(flow_config(), "flow-map"), points())
    for training in (by_teacher, from_data):
        before, draws = drawn(training)
        after = training.lessons(before, draws, training.denoiser)
        schedule, until = training.denoiser.schedule, after.cond["until"]
        near, all_the_way = until == before.t, until == 0
        kept = near if training is by_teacher else near | True
        seen = [x_t(batch, schedule)[kept] for batch in (after, before)]
        assert_close(*seen, rtol=1e-4, atol=1e-4)
        assert near.any() and all_the_way.any() and (~near & ~all_the_way).any()
        said = (
            before.x
            if training is from_data
            else load(teacher.path).denoiser(x_t(before, schedule), before.t)
        )
        assert_close(after.x[near], said[near], rtol=1e-4, atol=1e-4)
        for i in range(8):  # whatever kinds there are, and are not
            alone = training.lessons(before[i : i + 1], draws[i : i + 1], training.denoiser)
            assert_close(alone.x, after.x[i : i + 1], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(after.x[~near], said[~near], atol=1e-2)


def test_what_a_teacher_shows_are_the_steps_of_its_own_path(teacher):
    """From the noise of the example, by its own sampler; four lessons on each path."""
    c = DistillConfig(method="flow-map", teacher=str(teacher.path))
    training = Training(lesson_plan(flow_config(), c, steps=4, seen=320), points())
    schedule, order = training.denoiser.schedule, training.data.order(0, range(16))
    eps = draw(training.data, order, schedule, training.times, seed=0, seen=0, shared=4).eps
    where, times = {1.0: eps}, torch.linspace(1, 0, 9, dtype=F64)
    SAMPLERS["adams-bashforth"](
        load(teacher.path).denoiser, eps, times, on_step=lambda x, s: where.update({s.item(): x})
    )
    lesson = training.aim.draw(training.data, order, 0, slice(0, 16))
    seen, until = x_t(lesson, schedule), lesson.cond["until"]
    led = carried(schedule, seen, lesson.x, lesson.t, until)
    own = [i for i in range(16) if until[i] < lesson.t[i] and lesson.t[i].item() in where]
    assert len(eps.unique(dim=0)) == 4 and len(own) > 8
    for i in own:
        assert_close(seen[i], where[lesson.t[i].item()][i], rtol=1e-4, atol=1e-4)
        assert_close(led[i], where[until[i].item()][i], rtol=1e-4, atol=1e-4)
    parts = [training.aim.draw(training.data, order, 0, part) for part in (slice(6), slice(6, 16))]
    assert_close(torch.cat([part.x for part in parts]), lesson.x, rtol=1e-4, atol=1e-4)


class Known(nn.Module):
    """A network whose weight is 1 where it is the flow map of a Gaussian, in closed form."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, log_snr, span=None):
        tau = torch.sigmoid(-log_snr / 2)
        y = x * torch.hypot(tau, 1 - tau)[:, None]
        return self.weight * exact_map(y, tau, tau if span is None else tau - span)


def test_most_leaps_are_the_steps_that_the_student_will_take():
    """Those of four steps in all twice as often as the one alone; some anywhere, or nowhere."""
    times, u = Departures(4), low_discrepancy(0.0, 60_000)
    draws = torch.from_numpy(generator("leaps").random((len(u), DRAWS)))
    t = times(u, FlowSchedule())
    until = times.until(t, draws, near=0.1)
    own = {(i / n, (i - 1) / n): n for n in (1, 2, 4) for i in range(1, n + 1)}
    for (begin, end), n in own.items():
        share = ((t == begin) & (until == end)).double().mean().item() / (0.9 * 0.9)
        assert share == pytest.approx(n**-0.5 / (1 + 2**0.5 + 4**0.5), rel=0.05)
    assert (until == t).double().mean().item() == pytest.approx(0.1, rel=0.05)
    assert (until >= 0).all() and (until <= t).all() and t.min() > 0 and t.max() == 1


def test_leaps_learned_from_slopes_begin_anywhere_and_often_in_noise():
    times, u = Anywhere(), low_discrepancy(0.0, 60_000)
    draws = torch.from_numpy(generator("leaps").random((len(u), DRAWS)))
    t = times(u, FlowSchedule())
    until = times.until(t, draws, near=0.1)
    for low, high, share in ((0, 0.5, 0.375), (0.5, 0.97, 0.3525), (0.97, 1, 0.25 + 0.0225)):
        assert ((t > low) & (t <= high)).double().mean().item() == pytest.approx(share, rel=0.01)
    assert (until >= 0).all() and (until <= t).all() and t.min() > 0 and t.max() == 1
    assert 0.1 <= (until == t).double().mean().item() < 0.11
    assert (until == 0).double().mean().item() == pytest.approx(0.25, rel=0.05)


def test_slopes_teach_a_small_network_to_leap():
    """A Gaussian, whose flow is known: in few steps nearer than its own denoiser."""
    exact, count, updates = gaussian(FlowSchedule(), 1), 64, 300
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP((1,), size=16, conditions=Conditions(span=1))
    student = NetDenoiser(
        net, exact.schedule, predict_flow, weigh_flow, ahead=True, hearing=Hearing(bend=BEND)
    )
    lessons = Slopes(Teacher(exact, 1.0, 1.0, False), {})
    optimizers = build_optimizers(student, TrainConfig())

    def ends(denoiser: Denoiser, sampler: Sampler, y: torch.Tensor, steps: int) -> torch.Tensor:
        return sampler(denoiser, y, torch.linspace(1, 0, steps + 1, dtype=F64))

    x = ends(exact, AdamsBashforth(), normal(2000, 1, seed=9), 100).float()
    for i in range(updates):
        draw = generator("slopes", i)
        t = lessons.times(low_discrepancy(draw.random(), count), student.schedule)
        rows = torch.from_numpy(draw.integers(0, len(x), count))
        batch = Batch(x[rows], t, normal(count, 1, seed=i).float(), {})
        batch = lessons(batch, torch.from_numpy(draw.random((count, DRAWS))), student)
        loss = student.loss(batch.x, batch.t, batch.eps, **batch.cond)
        lessons.weigh(loss).mean().backward()
        for optimizer in optimizers:
            optimizer.step(1e-2 * (1 - i / updates))
        student.zero_grad()
    y = normal(256, 1, seed=3)
    target = ends(exact, AdamsBashforth(), y, 100)
    for steps in (4, 2):
        near, far = (ends(d, Leap(), y.float(), steps) - target for d in (student, exact))
        assert near.square().mean().sqrt() < 0.5 * far.square().mean().sqrt()


@pytest.mark.parametrize("bend", [None, BEND])
def test_who_learns_from_slopes_hears_time_pass_in_pure_noise(bend):
    told = []

    class Net(nn.Module):
        def forward(self, x, log_snr, span=None):
            told.append(log_snr)
            return x

    tau = torch.tensor([1 - 1e-6, 0.95, 0.5, 0.1], dtype=F64, requires_grad=True)
    student = NetDenoiser(
        Net(), FlowSchedule(), predict_flow, ahead=True, hearing=Hearing(bend=bend)
    )
    student(torch.zeros(4, 1), tau)
    (slope,) = torch.autograd.grad(told[0].sum(), tau)
    usual = -2 / (tau * (1 - tau)).detach()
    if bend is None:
        assert_close(slope, usual.float().to(slope), rtol=1e-4, atol=0)
    else:
        assert_close(slope[2:], usual[2:].to(slope), rtol=1e-4, atol=0)
        assert_close(slope[:2], slope[0].expand(2), rtol=1e-4, atol=0)
        assert -24 < slope[0] < -23 and told[0].min() > -7


@pytest.mark.parametrize("kind", ["shown", "by halves", "by slope"])
@pytest.mark.parametrize("weight", [1.0, 1.2])
def test_loss_and_gradient_vanish_at_the_flow_map_of_a_gaussian(kind, weight):
    """G22: also at rho = 0, the consistency map; and nowhere else. Its steps are exact too.

    Without a teacher, leaps that lead nowhere are taught by the noisy data: so there are none.
    """
    schedule = FlowSchedule()
    student = NetDenoiser(Known(), schedule, predict_data, weigh_flow, ahead=True)
    exact = NetDenoiser(Known(), schedule, predict_data, weigh_flow, ahead=True)
    teacher = None if kind == "by halves" else Teacher(exact, 1.0, 1.0, False, sampler=Leap())
    lessons = Halves(4)
    if teacher is not None:
        lessons = Slopes(teacher, {}) if kind == "by slope" else Shown(teacher, {}, 4)
    student.net.weight.data.fill_(weight)
    t = torch.tensor([1.0, 1.0, 0.9, 0.6, 0.6, 0.3], dtype=F64)
    draws = torch.tensor([[0, w, u] for w, u in [(0.9, 0), (0.5, 0.4), (0.9, 0), (0.5, 0.7)]])
    near = 0.6 if kind == "by halves" else 0.1
    draws = torch.cat([draws, torch.tensor([[0, near, 0.5], [0, 0.6, 0.02]])]).double()
    batch = lessons(Batch(normal(6, 2), t, normal(6, 2, seed=1), {}), draws, student)
    loss = student.loss(batch.x, batch.t, batch.eps, **batch.cond)
    loss.sum().backward()
    gradient = student.net.weight.grad
    assert gradient is not None and batch.cond["until"][0] == 0
    small = 1e-4 if kind == "by slope" else 1e-6  # no log-SNR below -30, no tau above 1 - 1e-6
    assert (loss.max() < small**2) == (abs(gradient) < small) == (weight == 1)


@pytest.mark.parametrize("kind", [lambda t: Shown(t, {}, 4), lambda t: Slopes(t, {})])
def test_long_leaps_do_not_drown_short_ones(kind):
    """The gradient of each error is as large as that of its logarithm, until it is small."""
    teacher = Teacher(mixture(FlowSchedule()), 1.0, 1.0, False)
    errors = torch.tensor([1e-3, 0.3, 3.0, 30.0], dtype=F64, requires_grad=True)
    kind(teacher).weigh(errors.square()).sum().backward()
    assert errors.grad is not None
    pull = errors.grad * errors.detach()
    assert_close(pull[1:], torch.full_like(pull[1:], 2.0), rtol=0.05, atol=0)
    assert pull[0] < 1e-3


@pytest.mark.parametrize("told", [False, True])
def test_a_teacher_is_guided_by_the_weight_that_the_student_is_told(told):
    """Where classes are Gaussians: ``u + w (c - u)``, each in closed form."""
    exact, t = mixture(FlowSchedule()), torch.linspace(0.2, 1, 6, dtype=F64)
    label = torch.tensor([0, 1, 2, 0, 1, -1])
    batch = Batch(normal(6, 2), t, normal(6, 2, seed=1), {"label": label})
    draws = torch.linspace(0, 1, 6, dtype=F64)[:, None].expand(6, DRAWS)
    teacher = Guided(exact) if told else exact
    guided, heard = Teacher(teacher, 1.0, 4.0, told).on(batch, draws)
    weight = heard.cond["guidance"]
    assert_close(weight, torch.linspace(1, 4, 6, dtype=F64))
    x = x_t(batch, exact.schedule)
    free, conditional = exact(x, t), exact(x, t, label=label)
    assert_close(guided(x, t), free + weight[:, None] * (conditional - free))
    assert_close(guided(x, t)[0], conditional[0])
    assert not torch.allclose(guided(x, t)[4], conditional[4], atol=1e-2)


def test_a_teacher_is_guided_and_draws_as_its_run_says(teacher):
    run, exact = load(teacher.path), mixture(FlowSchedule())
    sample = replace(run.config.sample, guidance_parallel=0.3, steps=24, sampler="ddim")
    strong = replace(run, config=replace(run.config, sample=sample))
    found = Teacher.of(strong, 2.0, 2.0)
    assert (found.sampler, found.steps) == (SAMPLERS["ddim"], 12)
    batch = Batch(normal(3, 2), torch.ones(3, dtype=F64), normal(3, 2), {"label": torch.arange(3)})
    guided = replace(found, denoiser=exact).on(batch, torch.zeros(3, DRAWS))[0]
    x, t = normal(3, 2, seed=2), torch.tensor(0.5, dtype=F64)
    expected = ClassifierFree(exact, 2.0, parallel=0.3)(x, t, **batch.cond)
    assert_close(guided(x, t), expected)
    assert not torch.allclose(guided(x, t), ClassifierFree(exact, 2.0)(x, t, **batch.cond))
    noisy = replace(run.config, sample=replace(sample, sampler="ddpm", steps=1000))
    found = Teacher.of(replace(run, config=noisy), 1.0, 1.0)
    assert found.sampler.deterministic and found.steps == 16


class Guided(Denoiser):
    """Has learned guidance perfectly."""

    def __init__(self, exact):
        super().__init__()
        self.exact, self.schedule = exact, exact.schedule

    def forward(self, x_t, t, **cond):
        return ClassifierFree(self.exact, cond.pop("guidance"))(x_t, t, **cond)


def test_a_student_in_bfloat16_still_looks_ahead():
    student, calls = quick(tiny_student("mlp"), "bf16"), []
    student.denoiser.net.register_forward_hook(
        lambda net, args, kwargs, out: calls.append(kwargs), with_kwargs=True
    )
    sample(student, 4)
    assert [call["span"].unique().tolist() for call in calls] == [[0.5]] * 2


def test_a_student_draws_guided_at_one_call_a_step():
    student, calls = tiny_student("mlp"), []
    student.denoiser.net.register_forward_hook(
        lambda net, args, kwargs, out: calls.append(kwargs), with_kwargs=True
    )
    drawn = {w: sample(student, 4, "bee", guidance=w).x for w in (1.0, 2.0, 3.0)}
    assert [call["guidance"].unique().tolist() for call in calls[2:]] == [[2.0]] * 2 + [[3.0]] * 2
    assert [call["span"].unique().tolist() for call in calls] == [[0.5]] * 6
    assert not torch.allclose(drawn[1.0], drawn[3.0], atol=1e-3)
    with pytest.raises(UsageError, match="learned weights from"):
        sample(student, 4, "bee", guidance=5.0)
    for name in ("leap", "consistency"):
        with pytest.raises(UsageError, match="learned to look ahead"):
            sample(tiny_model("mlp"), 4, sampler=name)


@pytest.mark.parametrize("method", ["flow-map", "mean-flow", "shown"])
def test_gradients_of_two_processes_add_up_to_those_of_one(method, teacher):
    """Products with a Jacobian go past what watches gradients: the sum over processes must not."""
    plan = DistillConfig(method="flow-map", teacher=str(teacher.path))
    config = tiny_config(size=16, clip=1e9)
    config = lesson_plan(flow_config(), plan, 4) if method == "shown" else ahead(config, method)
    config = replace(config, train=replace(config.train, clip=1e9))
    found = []
    for world in (World(), Alone(0, 2), Alone(1, 2)):
        training = Training(config, points(), world=world)
        nn.init.normal_(training.denoiser.net.last.weight, std=0.3, generator=seeded())
        training.update()
        found.append([p.grad.clone() for p in training.weights])
    for whole, first, second in zip(*found, strict=True):
        assert_close(whole, first + second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["flow-map", "mean-flow"])
def test_a_student_in_little_memory_learns_the_same(method, monkeypatch, tmp_path):
    """One example at a time, its blocks and those of its teacher computed anew."""
    data, gradients = open_data("digits", DataOptions(limit=40)), []
    for memory in ("plenty", "low"):
        train_ = TrainConfig(seen=16, batch=16, precision="f32", memory=memory, clip=1e9)
        net = NetConfig(size=8, depth=1)
        config = RunConfig(source="digits", data=data.options, net=net, train=train_)
        run = train("digits", config=config, out=tmp_path / memory)
        monkeypatch.setattr(examples_at_once, "__defaults__", (1,))
        plan = DistillConfig(method=method, teacher=str(run.path))
        training = Training(lesson_plan(config, plan, 4, seen=16), data)
        assert training.denoiser.net.recompute == (memory == "low")
        assert training.micro == (1 if memory == "low" else 8)
        training.update()
        gradients.append([p.grad for p in training.weights])
    for whole, pieces in zip(*gradients, strict=True):
        assert_close(whole, pieces, rtol=1e-3, atol=1e-5)


class Alone(World):
    """One of two processes, its messages never sent."""

    def sum(self, tensors):
        pass


def seeded():
    return torch.Generator().manual_seed(3)


def test_a_student_resumes_bit_for_bit(plan, tmp_path):
    straight = train("swiss-roll", config=plan, out=tmp_path / "a").latest()
    data = Training(plan, _data(plan))
    for _ in range(4):
        data.update()
    halfway = {name: {k: v.clone() for k, v in part.items()} for name, part in data.parts().items()}
    again = Training(plan, _data(plan))

    class Saved:
        seen, state = data.seen, data.state()
        load = staticmethod(halfway.__getitem__)

    again.restore(Saved())
    while again.seen < plan.train.seen:
        again.update()
    for name, value in straight.load("model").items():
        assert torch.equal(again.denoiser.state_dict()[name], value)


def _data(plan):
    data = open_data("swiss-roll", plan.data)
    return data.split(plan.data.validation, plan.seed)[0]


@pytest.mark.slow
def test_students_that_are_worth_it_are_kept_and_take_their_steps(teacher, tmp_path):
    options = {"method": "progressive", "seen": 960, "count": 100}
    grades = distill(teacher, (4, 2), out=tmp_path / "students", **options)
    assert grades[0].steps == 4
    for grade in grades:
        assert (tmp_path / "students" / f"steps-{grade.steps}").exists() == bool(grade.folder)
        assert (grade.folder is not None) == grade.better
        assert grade.teacher.value == grades[0].teacher.value
        if grade.folder:
            assert load(grade.folder.path).config.sample.steps == grade.steps


@pytest.mark.slow
@pytest.mark.parametrize("method", ["flow-map", "progressive"])
def test_students_of_a_range_of_guidance_are_told_its_weight(method, tmp_path):
    """A flow map in any number of steps; progressive ones from student to student."""
    data = labelled_points(400)
    assert data.label is not None
    np.savez(tmp_path / "points.npz", images=data.stored.numpy(), labels=data.label.numpy())
    config = replace(flow_config(), data=DataOptions())
    run = train(tmp_path / "points.npz", config=config, out=tmp_path / "run")
    said = list[str]()
    grades = distill(
        run, (3, 1), method=method, guidance=(1, 3), seen=3200, count=100, say=said.append
    )
    assert [grade.steps for grade in grades] == [3, 1]
    passed = [grade for grade in grades if grade.folder]
    assert passed and passed[-1].steps == 1  # one Euler step from noise is a single point
    first, last = (load(grade.folder.path) for grade in (passed[0], passed[-1]))
    assert first.config.sample.steps == passed[0].steps
    assert last.config.distill.guidance == (1, 3) and last.config.sample.guidance == 1
    one, two = (sample(last, 8, "1", guidance=w, steps=1).x for w in (1, 3))
    assert not torch.allclose(one, two, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guidance": (1, 3)}, "no condition to go to"),
        ({"method": "flow-map", "steps": (2, 4)}, "must fall, as"),
        ({"method": "no-such"}, "method"),
        ({"guidance": (1, 2, 3)}, "guidance"),
    ],
)
def test_lessons_that_cannot_be_are_refused(teacher, options, words):
    with pytest.raises(UsageError, match=words):
        distill(teacher, **options)


def test_a_flow_map_is_a_denoiser_too():
    """It encodes, and its steps are DDIM's where nobody looks ahead."""
    student = tiny_student("mlp")
    denoiser, x = student.denoiser, torch.randn(4, 2, generator=seeded())
    times = torch.tensor([0.9, 0.5, 0.1], dtype=F64)
    back = encode(SAMPLERS["leap"], denoiser, x, times)
    assert_close(back, encode(SAMPLERS["ddim"], denoiser, x, times))
    away = SAMPLERS["leap"](denoiser, back, times)
    assert not torch.allclose(away, SAMPLERS["ddim"](denoiser, back, times), atol=1e-3)


def test_a_student_goes_on_with_the_teacher_that_it_began_with(tmp_path):
    first = train("swiss-roll", config=flow_config(), out=tmp_path / "first", stop=Looks(1))
    then = first.latest().seen
    distill = DistillConfig(method="flow-map", teacher=str(first.path))
    plan = lesson_plan(flow_config(), distill, steps=4, seen=320)
    whole = train("swiss-roll", config=plan, out=tmp_path / "whole").latest().load("model")
    half = train("swiss-roll", config=plan, out=tmp_path / "half", stop=Looks(1))
    lost = train("swiss-roll", config=plan, out=tmp_path / "lost", stop=Looks(1))
    assert half.latest().seen < 320
    assert train(out=first.path, resume=True).latest().seen > then
    resumed = train(out=half.path, resume=True).latest().load("model")
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    shutil.rmtree(first.path / "checkpoints" / f"{then:012d}")
    with pytest.raises(UsageError, match=f"put back its checkpoint at {then}"):
        train(out=lost.path, resume=True)


@pytest.mark.parametrize("method", ["progressive", "flow-map", "mean-flow"])
@pytest.mark.parametrize("guidance", [(1.0, 4.0), (2.0, 2.0)])
def test_guidance_without_a_teacher_is_refused(method, guidance):
    plan = replace(flow_config(), distill=DistillConfig(method=method, guidance=guidance))
    with pytest.raises(UsageError, match="that of a teacher, and there is none"):
        Training(plan, labelled_points())


@pytest.mark.parametrize(("steps", "words"), [((4, 3), "divisor"), ((2, 4), "fall")])
def test_steps_that_do_not_divide_are_refused(teacher, steps, words):
    with pytest.raises(UsageError, match=words):
        distill(teacher, steps, method="progressive")


def test_a_teacher_that_is_blind_in_noise_or_of_another_kind_is_refused(teacher, plan, tmp_path):
    blind = replace(flow_config(), denoiser=DenoiserConfig(prediction="noise", weighting="simple"))
    blind = replace(blind, schedule=ScheduleConfig(name="cosine"))
    with pytest.raises(UsageError, match="says nothing of x"):
        distill(train("swiss-roll", config=blind, seen=64, out=tmp_path / "blind"), (4, 2))
    other = replace(plan, net=replace(plan.net, size=24))
    with pytest.raises(UsageError, match="another network"):
        Training(other, points())
    with pytest.raises(UsageError, match="other data"):
        Training(plan, labelled_points())
