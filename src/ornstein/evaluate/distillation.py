"""`ornstein distill`: students of few steps, each let through a gate or not."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import hypot
from pathlib import Path
from shutil import rmtree
from typing import Any

from ..core.sample import SAMPLERS
from ..data import Dataset
from ..errors import UsageError
from ..runs.config import DistillConfig, RunConfig, SampleConfig
from ..runs.folder import RunFolder
from ..runs.model import Model, load
from ..tasks.examples import training_data
from ..tasks.options import DistillOptions, checked
from ..tasks.sample import Run, opened, sample
from ..train import train
from ..train.progress import Report
from ..train.recipes import ahead
from .evaluation import rounded
from .features.encoders import encoders_of
from .features.labelled import Encoder
from .measures.distances import frechet_distance
from .measures.metrics import Score, score

FINE = 4  # steps of the first teacher for each of its student's
PART = 0.3  # of the teacher's budget, for each progressive student
WHOLE = 1.5  # likewise, for a flow map, which is one for all steps
RATE = 0.5  # of the teacher's learning rate: students begin where they shall nearly stay
BATCH = 0.5  # likewise: what is to be answered has no noise of its own to be averaged
CHANCE = 2.0  # standard deviations by which a student may seem worse
BLIND = ("noise", "score", "mean")  # predictions that say nothing of x in pure noise


@dataclass(frozen=True, kw_only=True)
class Grade:
    """How one student did.

    Args:
        steps: It takes.
        student: Its distance to held-out data.
        untaught: That of its teacher at as many calls, by its own sampler.
        teacher: That of the teacher at its own number of calls.
        folder: Of the student; None if it was not let through.
    """

    steps: int
    student: Score
    untaught: Score
    teacher: Score
    folder: RunFolder | None

    @property
    def gain(self) -> float:
        """By how many standard deviations the student beats its teacher untaught."""
        both = hypot(self.student.spread, self.untaught.spread)
        return (self.untaught.value - self.student.value) / both if both else 0.0

    @property
    def ratio(self) -> float:
        """The student's distance over the teacher's."""
        return self.student.value / self.teacher.value

    @property
    def line(self) -> str:
        """In words."""
        one = f"{self.steps} step{'s' * (self.steps > 1)}"
        found = (
            f"{one}: Frechet distance {_shown(self.student)}; its teacher at as many calls "
            f"{_shown(self.untaught)}, at its own {_shown(self.teacher)}; real data "
            f"{self.student.floor:.3g}"
        )
        kept = f"kept in {self.folder.path}" if self.folder else "worse than untaught: not kept"
        return f"{found}; {kept}"

    @property
    def facts(self) -> dict[str, Any]:
        """For programs."""
        scores = {name: asdict(getattr(self, name)) for name in ("student", "untaught", "teacher")}
        return {"steps": self.steps, "ratio": self.ratio, "kept": self.folder is not None} | scores


def distill(
    run: Run,
    steps: Sequence[int] = (8, 4, 2, 1),
    *,
    out: str | Path | None = None,
    device: str = "auto",
    report: Report | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> list[Grade]:
    """Teach students to do in few steps what a run does in many.

    Progressively, each is the next one's teacher: the first learns to do in one step what the run
    does in four steps of DDIM, guidance included, the next to do in one what the first does in
    two, and so on; they are the runs ``OUT/steps-N``. By a flow map, ``OUT/flow-map`` or
    ``OUT/mean-flow``, one student learns steps of any length, and takes as many as it is asked.

    No student is kept that is worse, beyond chance, than what the run draws in as many denoiser
    calls by the sampler it has; a flow map that is so in all its numbers of steps.

    Args:
        run: The run, or its folder.
        steps: Of the students, falling; of progressive ones each a divisor of the one before.
        out: Folder for them; ``RUN/students`` if not given.
        device: Where to compute.
        report: Called with a `Progress` a few times in a second.
        say: Called with a line now and then.
        **options: Those of `DistillOptions`.

    Returns:
        A grade for each number of steps.

    Raises:
        UsageError: If the steps do not suit, or the run cannot teach.

    Source: Salimans & Ho (2022), https://arxiv.org/abs/2202.00512; guidance: Meng et al. (2022),
    https://arxiv.org/abs/2210.03142, its first stage.
    """
    chosen = checked(DistillOptions, {"steps": tuple(steps), **options})
    model = opened(run, device)
    refuse(model, chosen)
    assert model.run is not None
    out = Path(out) if out is not None else model.run.path / "students"
    gate = Gate(model, *training_data(model), count=chosen.count, seed=chosen.seed)

    def study(config: RunConfig, name: str) -> RunFolder:
        source = model.config.source
        return train(source, config=config, out=out / name, device=device, report=report)

    teach = progressively if chosen.method == "progressive" else by_a_map
    return teach(model, chosen, gate, study, say)


Study = Callable[[RunConfig, str], RunFolder]
"""Trains a student of that configuration, in a folder of that name."""


def progressively(
    model: Model, chosen: DistillOptions, gate: "Gate", study: Study, say: Callable[[str], None]
) -> list["Grade"]:
    """A student for each number of steps, each the next one's teacher."""
    assert model.run is not None
    teacher, before, grades = model.run, chosen.steps[0] * FINE, list[Grade]()
    students, weights = list[RunFolder](), guidance_of(model, chosen)
    for number in chosen.steps:
        say(f"Teaching a student of {number} step{'s' * (number > 1)}")
        taught = weights if teacher is model.run or weights[0] != weights[1] else (1.0, 1.0)
        plan = DistillConfig(teacher=str(teacher.path), jump=before // number, guidance=taught)
        seen = chosen.seen or max(1, round(PART * model.config.train.seen))
        teacher = study(lesson_plan(model.config, plan, number, seen), f"steps-{number}")
        students.append(teacher)
        grades.append(gate(teacher, number, weights))
        say(grades[-1].line)
        before = number
    for student, grade in zip(students, grades, strict=True):
        if grade.folder is None:
            rmtree(student.path)
    return grades


def by_a_map(
    model: Model, chosen: DistillOptions, gate: "Gate", study: Study, say: Callable[[str], None]
) -> list["Grade"]:
    """One student for all numbers of steps, whose own is the largest that passes."""
    assert model.run is not None and chosen.method != "progressive"
    say(f"Teaching a student of {', '.join(map(str, chosen.steps))} steps")
    weights = guidance_of(model, chosen)
    plan = DistillConfig(method=chosen.method, teacher=str(model.run.path), guidance=weights)
    seen = chosen.seen or max(1, round(WHOLE * model.config.train.seen))
    config = lesson_plan(model.config, plan, chosen.steps[0], seen)
    student = study(config, chosen.method)
    grades = [gate(student, number, weights) for number in chosen.steps]
    for grade in grades:
        say(grade.line)
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


def lesson_plan(config: RunConfig, plan: DistillConfig, steps: int, seen: int) -> RunConfig:
    """The configuration of a student of a run."""
    low, high = plan.guidance
    weight = min(max(config.sample.guidance, low), high) if plan.told_guidance else 1.0
    sampler, rate = "ddim", RATE * config.train.learning_rate
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

    Args:
        model: The first teacher.
        train: What it was trained on.
        held_out: What that training left out.
        count: Examples to draw from each.
        seed: Of them.
    """

    def __init__(
        self, model: Model, train: Dataset, held_out: Dataset, *, count: int, seed: int
    ) -> None:
        self.model, self.count, self.seed = model, count, seed
        encoders, _ = encoders_of(model.codec.data, train, held_out)
        self.encoder: Encoder = next(iter(encoders.values()))
        self.real = [
            self.encoder(model.codec.data.pack(d.stored).numpy()) for d in (train, held_out)
        ]
        self.labels = None
        if held_out.label is not None and model.vocabulary.classes:
            names = [held_out.classes[c] if c >= 0 else "any" for c in held_out.label.tolist()]
            self.labels = tuple(names)
        self.teacher: Score | None = None

    def __call__(self, student: RunFolder, steps: int, weights: tuple[float, float]) -> Grade:
        """The grade of a student in so many steps, at the middle of its weights of guidance.

        With its folder, unless it is worse than its teacher untaught.
        """
        own = self.model.config.sample.sampler
        calls = SAMPLERS[own].calls(1) or 1
        taught = load(student.path, device=self.model.device)
        many: dict[str, Any] = {"guidance": sum(weights) / 2} if self.labels else {}
        few = many if taught.config.distill.told_guidance else {}
        if self.teacher is None:
            self.teacher = self.measure(self.model, **many)
        untaught = self.measure(self.model, steps=max(1, steps // calls), **many)
        found = self.measure(taught, steps=steps, **few)
        grade = Grade(
            steps=steps, student=found, untaught=untaught, teacher=self.teacher, folder=student
        )
        return grade if grade.gain > -CHANCE else replace(grade, folder=None)

    def measure(self, model: Model, **options: Any) -> Score:
        """The Frechet distance of what a model draws to held-out data."""
        drawn = sample(model, self.count, self.labels, seed=self.seed, **options).x
        features = self.encoder(rounded(model.codec.data, drawn).numpy())
        return score(frechet_distance, features, *self.real)


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
    by_number = model.config.net.kind == "unet2d"  # of a step: it hears of no span
    if not progressive and (by_number or model.config.denoiser.variance_steps):
        raise UsageError(
            "A run that learns its variance, or hears the number of a step, teaches by --method "
            "progressive alone."
        )
    low, high = guidance_of(model, chosen)
    known = model.vocabulary
    told = (known.classes, known.attributes, known.words, known.context, known.embedding)
    if (low, high) != (1, 1) and not any(told):
        raise UsageError(f"guidance = {chosen.guidance}: this run has no condition to go to.")
    if not low <= high:
        raise UsageError(f"guidance = {chosen.guidance} must go from low to high.")


def _shown(value: Score) -> str:
    return f"{value.value:.3g} ± {value.spread:.2g}"
