"""What is built from a configuration, and what is refused."""

from dataclasses import replace

import pytest

from ornstein.core.noise import LearnedSchedule
from ornstein.core.predict import Hearing
from ornstein.errors import UsageError
from ornstein.runs.building import build_denoiser, hearing
from ornstein.runs.config import (
    DenoiserConfig,
    DistillConfig,
    NetConfig,
    RunConfig,
    ScheduleConfig,
    TimesConfig,
    TrainConfig,
)
from ornstein.runs.vocabulary import Vocabulary

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


def test_a_learned_schedule_is_refused_where_blocks_would_be_computed_anew():
    low = replace(LEARNED, train=TrainConfig(memory="low"))
    build_denoiser(low, (2,), Vocabulary())  # points have none
    with pytest.raises(UsageError, match="leave --memory low out"):
        build_denoiser(replace(low, net=NetConfig(kind="dit", size=16)), (1, 8, 8), Vocabulary())


def test_a_network_is_told_what_its_times_reach_and_students_and_lent_ones_all():
    config = RunConfig(net=NetConfig(kind="mlp", size=16), times=TimesConfig(name="log-normal"))
    assert build_denoiser(config, (2,), Vocabulary()).hearing == Hearing(low=-8.0, high=8.0)
    others = (
        replace(config, distill=DistillConfig(method="progressive", teacher="run")),
        replace(config, net=NetConfig(kind="diffusers", pipeline="folder")),
    )
    assert {hearing(other) for other in others} == {Hearing(low=-30.0, high=30.0)}
    assert hearing(replace(config, distill=DistillConfig(method="flow-map"))) == Hearing(low=-9.0)
    assert hearing(replace(config, distill=DistillConfig(method="mean-flow"))) == Hearing(bend=-4.5)


def test_a_blind_prediction_is_refused_with_the_remedy():
    config = RunConfig(denoiser=DenoiserConfig(prediction="noise", weighting="simple"))
    with pytest.raises(UsageError, match="blind at t = 1"):
        build_denoiser(config, (1, 8, 8), Vocabulary())
