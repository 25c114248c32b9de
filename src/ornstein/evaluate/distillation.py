"""`ornstein distill`: students of few steps, each let through a gate or not."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from scipy.stats import sem, t
from torch import Tensor

from ..core.sample import SAMPLERS
from ..data import Dataset
from ..errors import UsageError
from ..rng import generator
from ..runs.config import DistillConfig, RunConfig, SampleConfig
from ..runs.facts import describe
from ..runs.folder import RunFolder
from ..runs.model import Model, load
from ..tasks.examples import training_data
from ..tasks.options import DistillOptions, DrawOptions, checked
from ..tasks.sample import Run, draw, opened, plan
from ..train import train
from ..train.device import World
from ..train.progress import Report
from ..train.recipes import ahead
from .evaluation import rounded
from .features.encoders import encoders_of, packed
from .features.labelled import Encoder
from .measures.distances import frechet_distance
from .measures.paired import context_of_pairs

FINE = 4  # steps of the first teacher for each of its student's
PARTS = {"progressive": 0.3, "flow-map": 1.5, "mean-flow": 3.0}
"""Of the teacher's budget, for each student: one for all steps needs more, and more from slopes."""
RATE = 0.5  # of the teacher's learning rate: students begin where they shall nearly stay
SLOW = 0.2  # likewise, where it shows all leaps: faster, the short ones forget what they have of it
BATCH = 0.5  # likewise: what is to be answered has no noise of its own to be averaged
SETS = 5  # that are drawn for a grade, at least: their scatter gives its interval
BLIND = ("noise", "score", "mean")  # predictions that say nothing of x in pure noise


# --- Grades --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as far above the floor of real data one lies as another, at 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(found: Sequence[float], other: Sequence[float]) -> Ratio | None:
    """The mean of `found` over that of `other`; None where `other` is not told from 0.

    Of the excess of set i over the floor each has one, drawn from the same noise: so what one set
    happens to be like cancels in ``found_i - r other_i``, whose mean is 0 at the true r.

    Source: Fieller (1954), https://doi.org/10.1111/j.2517-6161.1954.tb00159.x; the interval to
    first order.
    """
    if len(found) != len(other) or len(other) < 2:
        raise ValueError(f"expected as many sets, two or more, got {len(found)} and {len(other)}")
    quantile = t.ppf(0.975, len(other) - 1)
    if np.mean(other) <= quantile * sem(other):
        return None
    r = np.mean(found) / np.mean(other)
    width = quantile * sem(np.asarray(found) - r * np.asarray(other)) / np.mean(other)
    return Ratio(value=float(r), low=float(r - width), high=float(r + width))


@dataclass(frozen=True, kw_only=True)
class Distances:
    """The Frechet distances of sets to held-out data, from the same noise whoever draws them.

    Args:
        sets: Of each set.
        floor: Of as many real data.
    """

    sets: tuple[float, ...]
    floor: float

    @property
    def value(self) -> float:
        """Their mean."""
        return float(np.mean(self.sets))

    @property
    def above(self) -> list[float]:
        """Of each set, what is above the floor."""
        return [distance - self.floor for distance in self.sets]

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {sem(self.sets):.2g}"


@dataclass(frozen=True, kw_only=True)
class Grade:
    """How one student did.

    Args:
        steps: It takes.
        student: Of what it draws.
        untaught: Of what its teacher draws in as many calls, by its own sampler.
        teacher: Of what the teacher draws in its own number of calls.
        folder: Of the student; None if it was not let through.
    """

    steps: int
    student: Distances
    untaught: Distances
    teacher: Distances
    folder: RunFolder | None

    @property
    def better(self) -> bool:
        """Whether the student is nearer to held-out data than its teacher untaught."""
        return self.student.value < self.untaught.value

    @property
    def ratio(self) -> Ratio | None:
        """Of the student to its teacher; None where the teacher is not told from real data."""
        return ratio(self.student.above, self.teacher.above)

    @property
    def line(self) -> str:
        """In words."""
        one = f"{self.steps} step{'s' * (self.steps > 1)}"
        found = (
            f"{one}: Frechet distance {self.student}; its teacher at as many calls "
            f"{self.untaught}, at its own {self.teacher}; real data {self.student.floor:.3g}"
        )
        times = f"; {self.ratio} times as far from these as its teacher" if self.ratio else ""
        kept = f"kept in {self.folder.path}" if self.folder else "no better than untaught: not kept"
        return f"{found}{times}; {kept}"

    @property
    def facts(self) -> dict[str, Any]:
        """For programs."""
        drawn = {name: getattr(self, name) for name in ("student", "untaught", "teacher")}
        found = {"steps": self.steps, "kept": self.folder is not None}
        found |= {"ratio": self.ratio and asdict(self.ratio), "floor": self.student.floor}
        return found | {name: {"value": d.value, "sets": d.sets} for name, d in drawn.items()}


# --- Teaching ------------------------------------------------------------------------------------


def distill(
    run: Run,
    steps: Sequence[int] = (4, 2, 1),
    *,
    out: str | Path | None = None,
    device: str = "auto",
    report: Report | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> list[Grade]:
    """Teach students to do in few steps what a run does in many.

    By a flow map, ``OUT/flow-map`` or ``OUT/mean-flow``, one student learns steps of any length,
    guidance included, and takes as many as it is asked. Progressively, each is the next one's
    teacher: the first learns to do in one step what the run does in four of DDIM, the next
    to do in one what the first does in two, and so on; they are the runs ``OUT/steps-N``.

    No student is kept that is no better than what the run draws in as many denoiser calls by the
    sampler it has; a flow map that is so in all its numbers of steps. One whose training was
    stopped is not graded: it stays, with all it learns from, and is named with how to go on.

    Args:
        run: The run, or its folder.
        steps: Of the students, falling; of progressive ones each a divisor of the one before.
        out: Folder for them; ``RUN/students`` if not given.
        device: Where to compute.
        report: Called with a `Progress` a few times in a second.
        say: Called with a line now and then.
        **options: Those of `DistillOptions`.

    Returns:
        A grade for each number of steps, as far as students were trained to their end; of several
        processes the first alone grades.

    Raises:
        UsageError: If the steps do not suit, or the run cannot teach.

    Source: Salimans & Ho (2022), https://arxiv.org/abs/2202.00512; guidance: Meng et al. (2022),
    https://arxiv.org/abs/2210.03142, its first stage.
    """
    chosen = checked(DistillOptions, {"steps": tuple(steps), **options})
    model = opened(run, device)
    if chosen.method is None:
        chosen = replace(chosen, method="flow-map" if can_look_ahead(model) else "progressive")
    refuse(model, chosen)
    assert model.run is not None
    out = Path(out) if out is not None else model.run.path / "students"
    gate = Gate(model, *training_data(model), count=chosen.count, seed=chosen.seed)

    world = World.join(model.device)

    def study(config: RunConfig, name: str) -> RunFolder | None:
        source = model.config.source
        student = train(source, config=config, out=out / name, device=device, report=report)
        facts = describe(student.path)
        stopped = (
            f"Stopped at {facts['seen']:,} of {facts['budget']:,} examples; go on with: "
            f"ornstein train --resume {student.path}"
        )
        if line := world.tell(stopped if facts["seen"] < facts["budget"] else ""):
            say(line)
            return None
        return student

    teach = progressively if chosen.method == "progressive" else by_a_map
    return teach(model, chosen, gate if world.writes else None, study, say)


Study = Callable[[RunConfig, str], RunFolder | None]
"""Trains a student of that configuration, in a folder of that name; None if it was stopped."""


def progressively(
    model: Model,
    chosen: DistillOptions,
    gate: "Gate | None",
    study: Study,
    say: Callable[[str], None],
) -> list["Grade"]:
    """A student for each number of steps, each the next one's teacher.

    Without a gate, another process grades and removes.
    """
    assert model.run is not None
    teacher, before, grades = model.run, chosen.steps[0] * FINE, list[Grade]()
    failed, weights = list[RunFolder](), guidance_of(model, chosen)
    for number in chosen.steps:
        say(f"Teaching a student of {number} step{'s' * (number > 1)}")
        taught = weights if teacher is model.run or weights[0] != weights[1] else (1.0, 1.0)
        plan = DistillConfig(teacher=str(teacher.path), jump=before // number, guidance=taught)
        student = study(lesson_plan(model.config, plan, number, chosen.seen), f"steps-{number}")
        if student is None:
            return grades  # and nothing is removed: it may still learn from it
        if gate is not None:
            grades.append(gate(student, number, weights))
            failed += [student] if grades[-1].folder is None else []
            say(grades[-1].line)
        teacher, before = student, number
    for student in failed:
        rmtree(student.path)
    return grades


def by_a_map(
    model: Model,
    chosen: DistillOptions,
    gate: "Gate | None",
    study: Study,
    say: Callable[[str], None],
) -> list["Grade"]:
    """One student for all numbers of steps, whose own is the largest that passes.

    Without a gate, another process grades and removes.
    """
    assert model.run is not None and chosen.method is not None
    weights = guidance_of(model, chosen)
    plan = DistillConfig(method=chosen.method, teacher=str(model.run.path), guidance=weights)
    config = lesson_plan(model.config, plan, chosen.steps[0], chosen.seen)
    student = study(config, chosen.method)
    if student is None or gate is None:
        return []
    say("Grading what it draws")
    grades = [gate(student, number, weights) for number in chosen.steps]
    passed = [grade.steps for grade in grades if grade.folder]
    if not passed:
        rmtree(student.path)
    elif passed[0] != chosen.steps[0]:
        sample = replace(config.sample, steps=passed[0])
        student.revise(replace(config, sample=sample).to_toml())
    return grades


def guidance_of(model: Model, chosen: DistillOptions) -> tuple[float, float]:
    """The least and the largest weight of guidance that the students are to learn."""
    given = chosen.guidance or (model.config.sample.guidance,)
    return given[0], given[-1]


def lesson_plan(
    config: RunConfig, plan: DistillConfig, steps: int, seen: int | None = None
) -> RunConfig:
    """The configuration of a student of a run; it sees `seen` examples, or as many as it needs."""
    low, high = plan.guidance
    pace = SLOW if plan.method == "flow-map" else RATE
    seen = seen or max(1, round(PARTS[plan.method] * config.train.seen))
    weight = min(max(config.sample.guidance, low), high) if plan.told_guidance else 1.0
    sampler, rate = "ddim", pace * config.train.learning_rate
    if plan.method != "progressive":
        config, sampler = ahead(config, plan.method), "leap"
    batch = max(1, round(BATCH * config.train.batch))
    return replace(
        config,
        train=replace(config.train, seen=seen, batch=batch, learning_rate=rate),
        sample=SampleConfig(sampler=sampler, steps=steps, grid="uniform", guidance=weight),
        distill=plan,
        adapt=replace(config.adapt, learn="all"),
    )


class Gate:
    """Holds students against what their teacher does in as many calls.

    All are told what held-out examples are told: their classes, texts, numbers, what is given.

    Args:
        model: The first teacher.
        train: What it was trained on.
        held_out: What that training left out.
        count: Examples to draw from each.
        seed: Of them.

    Raises:
        UsageError: If too little was left out.
    """

    def __init__(
        self, model: Model, train: Dataset, held_out: Dataset, *, count: int, seed: int
    ) -> None:
        self.model, self.seed = model, seed
        self.size = min(count // SETS, len(train), len(held_out))
        if self.size < 2:
            raise UsageError(
                f"Its training left out {len(held_out):,} examples, too few to grade students by: "
                "train it with a larger --data.validation."
            )
        codec = model.codec.data
        self.sets = count // self.size
        encoders, _ = encoders_of(codec, train, held_out)
        self.encoder: Encoder = next(iter(encoders.values()))
        order = generator("gate", seed).permutation(len(held_out))
        self.told = held_out.subset(torch.from_numpy(order))
        self.given = None
        if model.given is not None:
            self.given = context_of_pairs(model, self.told, range(len(self.told)))
        known, real = (self.encoder(packed(codec, data).numpy()) for data in (train, self.told))
        self.real, shuffled = real[: self.size], generator("floor", seed).permutation(len(known))
        self.floor = float(np.mean(self._distances(known[shuffled[: self.sets * self.size]])))
        self.teacher: Distances | None = None

    def __call__(self, student: RunFolder, steps: int, weights: tuple[float, float]) -> Grade:
        """The grade of a student in so many steps, at the middle of its weights of guidance.

        With its folder, unless it is no better than its teacher untaught.
        """
        own = self.model.config.sample.sampler
        calls = SAMPLERS[own].calls(1) or 1
        taught = load(student.path, device=self.model.device)
        many: dict[str, Any] = {"guidance": sum(weights) / 2}
        few = many if taught.config.distill.told_guidance else {}
        if self.teacher is None:
            self.teacher = self.measure(self.model, **many)
        untaught = self.measure(self.model, steps=max(1, steps // calls), **many)
        found = self.measure(taught, steps=steps, **few)
        grade = Grade(
            steps=steps, student=found, untaught=untaught, teacher=self.teacher, folder=student
        )
        return grade if grade.better else replace(grade, folder=None)

    def measure(self, model: Model, **options: Any) -> Distances:
        """How far what a model draws lies from held-out data."""
        told = bool(self._conditions([0]))
        denoiser, steps = plan(model, DrawOptions(**options), heard=told)
        drawn = draw(
            model,
            lambda examples: denoiser.given(**self._conditions(examples)),
            steps,
            self.seed,
            range(self.sets * self.size),
        )
        x = rounded(model.codec.data, model.codec.decoded(drawn))
        return Distances(sets=self._distances(self.encoder(x.numpy())), floor=self.floor)

    def _conditions(self, examples: Sequence[int]) -> dict[str, Tensor]:
        """What the held-out examples are told, dealt out in turn."""
        cond = self.told.batch(torch.tensor(examples) % len(self.told))[1]
        if self.given is not None:
            cond["context"] = self.given(examples)
        return {name: value.to(self.model.device) for name, value in cond.items()}

    def _distances(self, features: np.ndarray) -> tuple[float, ...]:
        parts = (features[i : i + self.size] for i in range(0, len(features), self.size))
        return tuple(frechet_distance(part, self.real) for part in parts if len(part) == self.size)


def can_look_ahead(model: Model) -> bool:
    """Whether a network like its own can be told how far to look.

    Those of other libraries, and the kind unet2d, hear the number of a step alone.
    """
    kind, learned = model.config.net.kind, model.config.denoiser.variance_steps
    return kind not in ("unet2d", "diffusers") and not learned


def refuse(model: Model, chosen: DistillOptions) -> None:
    """Refuse a run that cannot teach, and steps that cannot be taught.

    Raises:
        UsageError: Saying which, and what can be done.
    """
    steps, progressive = chosen.steps, chosen.method == "progressive"
    if model.run is None:
        raise UsageError("Only a run that lies in a folder can teach: give the folder.")
    for before, after in pairwise(steps):
        if after >= before or (progressive and before % after):
            rule = "fall, each a divisor of the one before" if progressive else "fall"
            raise UsageError(f"steps = {tuple(steps)} must {rule}, as 8 4 2 1.")
    if (kind := model.config.denoiser.prediction) in BLIND:
        raise UsageError(
            f"A run that predicts {kind} says nothing of x in pure noise, where a student of few "
            "steps has to: train one with [denoiser] prediction = 'flow' or 'velocity'."
        )
    if model.config.mean:
        raise UsageError(
            "A run that adds to a mean cannot teach: a student would learn what a mean leaves, and "
            "its teacher knows the whole. Train one without --mean."
        )
    if model.reader is not None and model.reader.words:
        raise UsageError(
            "A word for the encoders of a pipeline is not handed on to students: teach without the "
            "adapter that brings it, and put that on the student's pipeline."
        )
    if not progressive and not can_look_ahead(model):
        raise UsageError(
            "A run that learns its variance, or hears the number of a step, teaches by --method "
            "progressive alone."
        )
    low, high = guidance_of(model, chosen)
    known = model.vocabulary
    told = (known.classes, known.attributes, model.words, known.context, known.embedding)
    if (low, high) != (1, 1) and not any(told):
        raise UsageError(f"guidance = {chosen.guidance}: this run has no condition to go to.")
    if not low <= high:
        raise UsageError(f"guidance = {chosen.guidance} must go from low to high.")
