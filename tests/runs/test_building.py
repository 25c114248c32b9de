"""What is built from a configuration, and what is refused."""

from dataclasses import replace

import pytest

from ornstein.core.noise import LearnedSchedule
from ornstein.errors import UsageError
from ornstein.runs.config import (
    DenoiserConfig,
    DistillConfig,
    NetConfig,
    RunConfig,
    ScheduleConfig,
    TimesConfig,
)
from ornstein.runs.model import Vocabulary, build_denoiser, build_net

LEARNED = RunConfig(
    net=NetConfig(kind="mlp", size=16),
    schedule=ScheduleConfig(name="learned"),
    denoiser=DenoiserConfig(prediction="noise", weighting="variational"),
    times=TimesConfig(name="uniform"),
)


def test_the_weights_of_a_learned_schedule_are_those_of_the_denoiser():
    denoiser = build_denoiser(LEARNED, (2,), Vocabulary())
    assert isinstance(denoiser.schedule, LearnedSchedule)
    assert denoiser.schedule.net is denoiser.curve
    assert any(name.startswith("curve.") for name in denoiser.state_dict())


@pytest.mark.parametrize(
    "changed",
    [
        {"denoiser": DenoiserConfig(prediction="noise", weighting="simple")},
        {"times": TimesConfig(name="log-normal")},
    ],
)
def test_a_learned_schedule_is_refused_where_it_would_have_another_aim(changed):
    with pytest.raises(UsageError, match="variational"):
        build_denoiser(replace(LEARNED, **changed), (2,), Vocabulary())


def test_a_network_is_told_what_its_times_reach_and_a_student_all():
    config = RunConfig(net=NetConfig(kind="mlp", size=16), times=TimesConfig(name="log-normal"))
    assert build_denoiser(config, (2,), Vocabulary()).reach == (-8.0, 8.0)
    lent = build_denoiser(config, (2,), Vocabulary(), build_net(config, (2,), Vocabulary()))
    taught = DistillConfig(method="progressive", teacher="run")
    student = build_denoiser(replace(config, distill=taught), (2,), Vocabulary())
    ahead = DistillConfig(method="flow-map")
    other = build_denoiser(replace(config, distill=ahead), (2,), Vocabulary())
    assert lent.reach == student.reach == other.reach == (-30.0, 30.0)


def test_a_blind_prediction_is_refused_with_the_remedy():
    config = RunConfig(denoiser=DenoiserConfig(prediction="noise", weighting="simple"))
    with pytest.raises(UsageError, match="blind at t = 1"):
        build_denoiser(config, (1, 8, 8), Vocabulary())
