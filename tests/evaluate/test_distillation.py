"""The gate that students pass: what they are told, and what is made of what they draw."""

import re
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch

from captioned import captioned_folder
from ornstein.data import DataOptions
from ornstein.errors import UsageError
from ornstein.evaluate import distillation
from ornstein.evaluate.distillation import Distances, Grade, distill, lesson_plan, ratio
from ornstein.rng import generator
from ornstein.runs.config import DistillConfig, NetConfig, RunConfig, TrainConfig
from ornstein.runs.folder import RunFolder
from ornstein.runs.model import load
from ornstein.tasks.examples import training_data
from ornstein.tasks.sample import sample
from ornstein.train import train
from ornstein.train.device import World
from ornstein.train.signals import Stop
from train.tiny import Looks, tiny_config

# --- Ratios --------------------------------------------------------------------------------------


def test_what_both_draw_alike_leaves_the_ratio_as_it_is():
    found = ratio([3.0, 4.0, 5.0], [1.5, 2.0, 2.5])
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


def test_the_true_ratio_lies_in_the_interval_as_often_as_it_says():
    """Of sets whose luck is shared: nearly all of the scatter cancels."""
    draw, hits, widths = generator("ratios"), 0, []
    for _ in range(500):
        other = 2 + 0.3 * draw.standard_normal(5)
        found = ratio(1.5 * other + 0.1 * draw.standard_normal(5), other)
        assert found is not None
        hits += found.low <= 1.5 <= found.high
        widths.append(found.high - found.low)
    assert hits / 500 == pytest.approx(0.95, abs=4 * sqrt(0.95 * 0.05 / 500))
    assert np.mean(widths) < 0.2


def test_a_teacher_that_is_as_good_as_real_data_has_no_multiples():
    assert ratio([1.0, 2.0, 3.0], [-0.1, 0.2, 0.0]) is None
    with pytest.raises(ValueError, match="as many sets"):
        ratio([1.0, 2.0], [1.0, 2.0, 3.0])


def test_a_grade_says_its_ratio_and_whether_the_student_is_worth_it(tmp_path):
    sets = [Distances(sets=(a, a + 1), floor=2.0) for a in (6.0, 7.0, 4.0)]
    grade = Grade(steps=2, student=sets[0], untaught=sets[1], teacher=sets[2], folder=None)
    assert grade.better and not replace(grade, student=sets[1], untaught=sets[0]).better
    assert grade.ratio is None  # two sets say little
    close = replace(grade, teacher=Distances(sets=(4.0, 4.1), floor=2.0))
    assert close.ratio is not None
    assert close.ratio.value == pytest.approx(4.5 / 2.05)
    assert f"{close.ratio} times as far from these as its teacher" in close.line
    assert close.facts["ratio"]["value"] == close.ratio.value
    assert close.facts["student"]["sets"] == (6.0, 7.0)


# --- What the gate tells -------------------------------------------------------------------------


def learn(source, out, data, size=8, **changes):
    config = RunConfig(
        source=str(source),
        data=data,
        net=NetConfig(size=size, depth=1, **changes.pop("net", {})),
        train=TrainConfig(seen=128, batch=32, precision="f32", ema=(0.05,)),
        **changes,
    )
    return train(str(source), config=config, out=out)


def texts(folder):
    pictures = captioned_folder(folder / "pictures", 40)
    return learn(pictures, folder / "run", DataOptions(validation=0.2))


def pairs(folder):
    return learn("digits", folder / "run", DataOptions(given="small-4", limit=60, validation=0.2))


def latents(folder):
    few, coder = DataOptions(size=16, limit=60, validation=0.2), {"net": {"kind": "autoencoder"}}
    learn("digits", folder / "coder", few, **coder)
    return learn("digits", folder / "run", few, latent=str(folder / "coder"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "name"), [(texts, "text"), (pairs, "context"), (latents, "label")]
)
def test_all_are_told_what_held_out_examples_are_told(make, name, tmp_path):
    """And runs of words, of pairs, and on latents are taught from end to end."""
    run = load(make(tmp_path).path)
    held = training_data(run)[1]
    told = held.batch(torch.arange(len(held)))[1][name]
    heard = list[torch.Tensor]()
    run.denoiser.net.register_forward_hook(
        lambda net, args, kwargs, out: heard.append(kwargs[name]), with_kwargs=True
    )
    grades = distill(run, (2, 1), seen=64, count=100, method="flow-map")
    assert torch.equal(torch.cat(heard).unique(dim=0), told.to(heard[0].dtype).unique(dim=0))
    assert [grade.steps for grade in grades] == [2, 1]
    for grade in grades:
        assert len(grade.student.sets) == 100 // len(held)
        assert np.isfinite(grade.student.sets).all()
        assert grade.better == (grade.folder is not None)
        if grade.folder is not None:
            assert sample(grade.folder, 2).arrays.dtype == "uint8"


def test_a_student_of_texts_draws_by_words(tmp_path):
    config = load(texts(tmp_path).path).config
    plan = DistillConfig(method="flow-map", teacher=str(tmp_path / "run"))
    student = load(
        train(config.source, config=lesson_plan(config, plan, 2, 64), out=tmp_path / "student").path
    )
    one, other, again = (
        sample(student, 2, text=said).x for said in ("red left", "blue right", "red left")
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_too_few_held_out_examples_to_grade_by_are_refused(tmp_path):
    run = load(learn("digits", tmp_path, DataOptions(limit=60, validation=0.0)).path)
    with pytest.raises(UsageError, match=r"left out 0 examples.*validation"):
        distill(run, (2, 1))


def test_what_a_mean_leaves_is_no_teacher(tmp_path):
    run = load(learn("digits", tmp_path, DataOptions(limit=60)).path)
    with pytest.raises(UsageError, match="what a mean leaves"):
        distill(replace(run, config=replace(run.config, mean="elsewhere")), (2, 1))


# --- Who is graded, and by whom ------------------------------------------------------------------


@pytest.fixture
def teacher(tmp_path) -> RunFolder:
    return train("swiss-roll", config=tiny_config(seen=64), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "trained", "names"),
    [("flow-map", 0, ["flow-map"]), ("progressive", 1, ["steps-1", "steps-2"])],
)
def test_a_student_that_was_stopped_is_neither_graded_nor_removed(
    teacher, method, trained, names, monkeypatch
):
    """Nor what it learns from, or taught any further."""
    said, stops = list[str](), iter([Stop()] * trained + [Looks(5)])
    monkeypatch.setattr(distillation, "train", lambda *a, **b: train(*a, **b, stop=next(stops)))
    monkeypatch.setattr(Grade, "better", False)
    options = {"seen": 64, "count": 100, "method": method}
    grades = distill(teacher, (2, 1), say=said.append, **options)
    assert [grade.steps for grade in grades] == [2, 1][:trained]
    place = teacher.path / "students"
    assert sorted(p.name for p in place.iterdir()) == names
    assert re.search(rf"Stopped at \d+ of 64 examples; .* --resume {place / names[0]}$", said[-1])
    assert train(out=place / names[0], resume=True).latest().seen == 64


@pytest.mark.parametrize("method", ["flow-map", "progressive"])
@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_of_several_grades_and_removes(teacher, method, rank, monkeypatch):
    class Ranked(World):
        @classmethod
        def join(cls, device: torch.device) -> World:
            return World(rank=rank)

    monkeypatch.setattr(distillation, "World", Ranked)
    monkeypatch.setattr(Grade, "better", False)
    grades = distill(teacher, (2, 1), seen=64, count=100, method=method)
    left = [p.name for p in (teacher.path / "students").iterdir()]
    assert (grades == []) == bool(left) == (rank == 1)
