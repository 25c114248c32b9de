"""The doctor's references are what they claim, and its verdicts are right on faults put there."""

from dataclasses import replace

import pytest
import torch

from ornstein.core.denoise import noisy
from ornstein.core.exact import EmpiricalDenoiser, GaussianDenoiser
from ornstein.core.noise import CosineSchedule, FlowSchedule
from ornstein.data.dataset import Dataset
from ornstein.train.doctor import (
    BEGINS,
    FEWEST,
    LEVELS,
    Diagnosis,
    Doctor,
    StationaryDenoiser,
    _geometric,
    _spread,
    linear_denoiser,
    objection,
)
from ornstein.train.loop import Review, looks
from ornstein.train.signals import Stop
from ornstein.train.training import Training
from train.tiny import points, tiny_config


def examine(training: Training, held: Dataset, part: float = 1.0, count: int = 64) -> Diagnosis:
    doctor = Doctor(training.data, held, training.denoiser, training.times, count=count, seed=0)
    found = doctor(
        training.denoiser,
        training.averages.learners[0],
        part=part,
        updates=training.seen // training.config.train.batch,
        rate=training.config.train.learning_rate,
        stop=Stop(),
    )
    assert found is not None
    return found


def diagnose(
    count: int = 2000, updates: int = 300, size: int = 64, rate: float = 5e-3, batch: int = 128
) -> Diagnosis:
    train, held = points(count + 64).split(64 / (count + 64), 0)
    config = tiny_config(size, 3, batch=batch, seen=batch * updates, learning_rate=rate)
    training = Training(config, train)
    for _ in range(updates):
        training.update()
    return examine(training, held)


def test_a_training_that_goes_well_is_learning():
    found = diagnose()
    assert found.kind == "learning", found
    assert "below that of the best linear denoiser" in found.verdict
    assert found.memorised < 0.25


@pytest.mark.parametrize(
    ("rate", "reason"),
    [(1e-12, "the weights do not move: the learning rate 1e-12"), (2.0, "is too high; try 0.2")],
)
def test_a_wrong_learning_rate_is_named(rate, reason):
    found = diagnose(updates=60, rate=rate)
    assert found.kind == "not learning" and reason in found.verdict, found


def shuffled(updates: int) -> tuple[Training, Dataset]:
    """One whose answers are those to other examples, at its end; and held-out examples."""
    train, held = points(600).split(0.1, 0)
    config = tiny_config(32, seen=128 * updates, batch=128, learning_rate=5e-3)
    training = Training(config, train)
    training.denoiser.net.register_forward_hook(lambda module, given, out: out.roll(1, 0))
    for _ in range(updates):
        training.update()
    return training, held


def test_shuffled_targets_are_noticed():
    found = examine(*shuffled(200))
    assert found.kind == "not learning" and "does not tell what it is asked" in found.verdict, found


def test_data_that_are_not_standardised_are_noticed():
    data = points(600)
    codec = replace(data.codec, mean=(-100.0, 0.0), std=(0.01, 0.01))
    train, held = replace(data, codec=codec).split(0.1, 0)
    training = Training(tiny_config(), train)
    training.update()
    found = examine(training, held, part=0.02)  # at once
    assert found.kind == "not learning" and "not standardised" in found.verdict, found


def test_sixteen_examples_are_learned_by_heart_and_four_thousand_are_not():
    few = diagnose(count=16, updates=1000, size=64, batch=64)
    many = diagnose(count=4096, updates=300)
    assert few.kind == "memorising" and few.memorised > 0.5, few
    assert many.kind == "learning" and many.memorised < 0.25, many


def test_what_begins_to_be_learned_by_heart_is_told_while_it_still_learns():
    found = diagnose(count=64)
    assert found.kind == "learning" and BEGINS < found.memorised < 0.5, found
    assert f"{found.memorised:.0%} of the way to learning its examples by heart" in found.verdict
    assert "by heart" not in diagnose(count=200).verdict


def test_early_on_nothing_is_said():
    train, held = points(600).split(0.1, 0)
    training = Training(tiny_config(), train)
    training.update()
    assert examine(training, held, part=0.05).kind == "early"


@pytest.mark.parametrize("updates", [1, 10, FEWEST - 1])
def test_of_a_training_of_few_updates_nothing_is_said_at_its_end_either(updates):
    train, held = points(600).split(0.1, 0)
    training = Training(tiny_config(seen=64 * updates, batch=64, learning_rate=1e-12), train)
    for _ in range(updates):
        training.update()
    found = examine(training, held)
    assert found.kind == "early" and "the best linear denoiser" in found.verdict


def test_few_examples_do_not_tell_that_the_error_stands():
    training, held = shuffled(60)
    few, many = (examine(training, held, count=count) for count in (2, 64))
    assert few.kind == "early", few
    assert many.kind == "not learning" and "does not tell what it is asked" in many.verdict, many


@pytest.mark.parametrize("seen", [1_100, 5_000, 20_000, 64_000, 300_000, 10**7])
def test_to_look_costs_a_hundredth_of_the_training_and_no_more(seen):
    times, count = looks(seen)
    assert times * 2 * LEVELS * count / 3 <= 0.01 * seen  # a forward pass is a third of an update
    assert times == 1 or count >= 16
    more = looks(10 * seen)
    assert more[0] >= times and more[1] >= count


def test_each_noise_level_has_examples_of_its_own():
    train, held = points(2000).split(0.1, 0)
    training = Training(tiny_config(), train)
    doctor = Doctor(train, held, training.denoiser, training.times, count=16, seed=0)
    assert len(doctor._train.indices.unique()) == 16 * LEVELS


def test_the_spread_is_that_of_other_examples():
    """Of pairs of errors that go together, as those of two denoisers of the same x_t do."""
    draw = torch.Generator().manual_seed(0)
    hard = torch.rand(400, LEVELS, 64, generator=draw).double() ** 3
    ours = hard * (0.9 + 0.2 * torch.rand(hard.shape, generator=draw))
    found = [_geometric(a.mean(1) / b.mean(1)) for a, b in zip(ours, hard, strict=True)]
    told = [_spread(a, b) for a, b in zip(ours, hard, strict=True)]
    assert torch.tensor(told).mean().item() == pytest.approx(
        torch.tensor(found).log().std().item(), rel=0.1
    )


def test_without_held_out_examples_there_is_a_verdict_still():
    training = Training(tiny_config(), points(50))
    training.update()
    found = examine(training, points(50).subset(torch.arange(0)), part=0.05)
    assert found.held == () and found.memorised == 0


def test_an_output_that_is_not_finite_is_named():
    train, held = points(100).split(0.1, 0)
    training = Training(tiny_config(), train)
    with torch.no_grad():
        for p in training.averages.learners[0].parameters():
            p.fill_(torch.nan)
    assert "not finite" in examine(training, held).verdict


def test_stop_ends_the_examination():
    train, held = points(100).split(0.1, 0)
    training, stop = Training(tiny_config(), train), Stop()
    stop.set()
    doctor = Doctor(train, held, training.denoiser, training.times, count=8, seed=0)
    average = training.averages.learners[0]
    assert doctor(training.denoiser, average, part=1, updates=99, rate=1, stop=stop) is None


def test_a_network_that_is_the_memorising_denoiser_is_all_the_way_there():
    train, held = points(80).split(0.2, 0)
    training = Training(tiny_config(), train)
    doctor = Doctor(train, held, training.denoiser, training.times, count=32, seed=0)
    average = training.averages.learners[0]
    by_heart = EmpiricalDenoiser(train.batch(torch.arange(len(train)))[0], average.schedule)
    average.forward = by_heart.forward
    found = doctor(training.denoiser, average, part=1.0, updates=99, rate=1.0, stop=Stop())
    assert found is not None
    assert found.memorised == pytest.approx(1.0, abs=1e-4)


def test_the_linear_denoiser_of_many_points_is_that_of_a_gaussian():
    data = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 3)
    schedule, t = CosineSchedule(log_snr_min=-10, log_snr_max=10), torch.tensor(0.4).double()
    x = data[:5]
    exact = GaussianDenoiser(data.double().mean(0), data.double().T.cov(correction=0), schedule)
    got = linear_denoiser(data, schedule)(x, t)
    torch.testing.assert_close(got.double(), exact(x.double(), t), rtol=1e-5, atol=1e-5)


def test_the_stationary_denoiser_is_linear_and_optimal_on_stationary_data():
    # periodic noise with a known spectrum: the full covariance gives the same denoiser
    generator = torch.Generator().manual_seed(0)
    power = 1 / (1 + torch.fft.fftfreq(8).abs() * 16) ** 2
    white = torch.randn(40_000, 1, 8, generator=generator, dtype=torch.float64)
    data = torch.fft.ifft(torch.fft.fft(white) * power.sqrt()).real
    schedule, t = FlowSchedule(), torch.tensor(0.5).double()
    x_t = noisy(schedule, data, t, torch.randn(data.shape, generator=generator).double())
    ours = StationaryDenoiser(data, schedule)(x_t, t)
    full = linear_denoiser(data, schedule)(x_t, t)
    errors = [(data - x_hat).square().mean().item() for x_hat in (ours, full)]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)
    assert errors[1] <= errors[0]


def test_few_examples_of_many_dimensions_get_the_stationary_reference():
    schedule = FlowSchedule()
    assert isinstance(linear_denoiser(torch.randn(60, 1, 4, 4), schedule), StationaryDenoiser)
    assert not isinstance(linear_denoiser(torch.randn(64, 1, 4, 4), schedule), StationaryDenoiser)


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (torch.randn(1000, 2), False),
        (torch.randn(1000, 2) * 70 + 128, True),
        (torch.randn(1000, 2) / 255, True),
        (torch.zeros(1, 2), False),
    ],
)
def test_objection_is_to_what_is_not_standard(data, wrong):
    assert bool(objection(data)) == wrong


def test_the_line_says_since_when_a_run_memorises():
    review = Review.of(Training(tiny_config(), points(50)), points(20))
    assert review.verdict == ""
    review.diagnosis = Diagnosis(
        kind="memorising",
        verdict="memorising (60% of the way)",
        log_snr=(),
        train=(),
        held=(),
        memorised=0.6,
    )

    def rows(*kinds):
        return [{"seen": 100 * i, "doctor/kind": kind} for i, kind in enumerate(kinds, 1)]

    review.recall([*rows("early", "memorising", "learning"), {"seen": 350}])
    assert review.verdict == "memorising (60% of the way)"
    review.recall(rows("memorising", "learning", "memorising", "memorising"))
    assert review.verdict == "memorising since 300 examples (60% of the way)"
