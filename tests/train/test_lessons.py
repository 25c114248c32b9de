"""Students: what their batches become, where they begin, and that they resume like any run."""

from dataclasses import replace

import pytest
import torch
from tiny import labelled_points, points, tiny_config

from ornstein.core.distill import aimed, followed
from ornstein.errors import UsageError
from ornstein.evaluate.distillation import distill, lesson_plan
from ornstein.runs.config import DenoiserConfig, DistillConfig, ScheduleConfig
from ornstein.runs.model import load
from ornstein.train import train
from ornstein.train.lessons import Lessons
from ornstein.train.training import Training


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
        assert torch.equal(training.averages.denoisers[0].state_dict()[name], value)
    u = torch.linspace(0, 0.999, 100)
    times = training.times(u, training.denoiser.schedule).unique()
    torch.testing.assert_close(times, torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64))


def test_a_lesson_keeps_x_t_and_asks_for_three_steps_in_one(plan):
    training = Training(plan, points())
    lessons, schedule = training.lessons, training.denoiser.schedule
    seen = {}

    def look(batch):
        seen["before"] = batch
        seen["after"] = Lessons.__call__(lessons, batch)
        return seen["after"]

    training.lessons = look
    training.update()
    before, after = seen["before"], seen["after"]

    def x_t(batch):
        alpha, sigma = (c[:, None].float() for c in schedule(batch.t))
        return alpha * batch.x + sigma * batch.eps

    torch.testing.assert_close(x_t(after), x_t(before), rtol=1e-5, atol=1e-5)
    for i in range(4):
        t = before.t[i : i + 1]
        path = [t - k / 12 for k in range(4)]
        x_s = followed(lessons.teacher, x_t(before)[i : i + 1], path)
        x_hat = aimed(schedule, x_t(before)[i : i + 1], x_s, path[0], path[-1])
        torch.testing.assert_close(after.x[i : i + 1], x_hat, rtol=1e-4, atol=1e-4)


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
    from ornstein.data import open_data

    data = open_data("swiss-roll", plan.data)
    return data.split(plan.data.validation, plan.seed)[0]


@pytest.mark.slow
def test_students_that_are_worth_it_are_kept_and_take_their_steps(teacher, tmp_path):
    grades = distill(teacher, (4, 2), seen=960, count=100, out=tmp_path / "students")
    assert grades[0].steps == 4
    for grade in grades:
        assert (tmp_path / "students" / f"steps-{grade.steps}").exists() == bool(grade.folder)
        assert (grade.folder is not None) == (grade.gain > -2)
        assert grade.teacher.value == grades[0].teacher.value
        if grade.folder:
            assert load(grade.folder.path).config.sample.steps == grade.steps


@pytest.mark.parametrize(("steps", "words"), [((4, 3), "divisor"), ((2, 4), "fall")])
def test_steps_that_do_not_divide_are_refused(teacher, steps, words):
    with pytest.raises(UsageError, match=words):
        distill(teacher, steps)


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
