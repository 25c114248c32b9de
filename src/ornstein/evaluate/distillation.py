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
from .distances import frechet_distance
from .evaluation import encoders_of, rounded
from .features import Encoder
from .metrics import Score, score

FINE = 4  # steps of the first teacher for each of its student's
PART = 0.3  # of the teacher's budget, for each student
RATE = 0.5  # of the teacher's learning rate: students begin where they shall nearly stay
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
    """Teach students to do in few steps what a run does in many, each the next one's teacher.

    The first learns to do in one step what the run does in four steps of DDIM, guidance included,
    the next to do in one what the first does in two, and so on. A student is a run like any
    other, in ``OUT/steps-N``. One that is worse, beyond chance, than what the first teacher draws
    in as many denoiser calls by the sampler it has, is not kept, though it teaches the next.

    Args:
        run: The run, or its folder.
        steps: Of the students, falling; each a divisor of the one before.
        out: Folder for them; ``RUN/students`` if not given.
        device: Where to compute.
        report: Called with a `Progress` a few times in a second.
        say: Called with a line now and then.
        **options: Those of `DistillOptions`.

    Returns:
        A grade for each student that was taught.

    Raises:
        UsageError: If the steps do not divide, or the run's prediction is blind in pure noise.

    Source: Salimans & Ho (2022), https://arxiv.org/abs/2202.00512; guidance: Meng et al. (2022),
    https://arxiv.org/abs/2210.03142, its first stage, at one weight.
    """
    chosen = checked(DistillOptions, {"steps": tuple(steps), **options})
    model = opened(run, device)
    _refuse(model, chosen.steps)
    assert model.run is not None
    folder = Path(out) if out is not None else model.run.path / "students"
    gate = Gate(model, *training_data(model), count=chosen.count, seed=chosen.seed)
    weight = model.config.sample.guidance if chosen.guidance is None else chosen.guidance
    teacher, grades, before = model.run.path, list[Grade](), chosen.steps[0] * FINE
    for number in chosen.steps:
        say(f"Teaching a student of {number} step{'s' * (number > 1)}")
        first = not grades
        config = lesson_plan(
            model.config,
            DistillConfig(
                teacher=str(teacher), jump=before // number, guidance=weight if first else 1.0
            ),
            number,
            chosen.seen or max(1, round(PART * model.config.train.seen)),
        )
        student = train(
            model.config.source,
            config=config,
            out=folder / f"steps-{number}",
            device=device,
            report=report,
        )
        grade = gate(student, number, weight)
        say(grade.line)
        grades.append(grade)
        teacher, before = student.path, number
    for grade in grades:
        if grade.folder is None:
            rmtree(folder / f"steps-{grade.steps}")
    return grades


def lesson_plan(config: RunConfig, plan: DistillConfig, steps: int, seen: int) -> RunConfig:
    """The configuration of a student of a run."""
    return replace(
        config,
        distill=plan,
        train=replace(config.train, seen=seen, learning_rate=RATE * config.train.learning_rate),
        sample=SampleConfig(sampler="ddim", steps=steps, grid="uniform"),
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
        encoders, _ = encoders_of(model, train, held_out, None)
        self.encoder: Encoder = next(iter(encoders.values()))
        self.real = [self.encoder(model.codec.pack(d.stored).numpy()) for d in (train, held_out)]
        self.labels = None
        if held_out.label is not None and model.vocabulary.classes:
            names = [held_out.classes[c] if c >= 0 else "any" for c in held_out.label.tolist()]
            self.labels = tuple(names)
        self.teacher: Score | None = None

    def __call__(self, student: RunFolder, steps: int, guidance: float) -> Grade:
        """The grade of a student; its folder unless it is worse than its teacher untaught."""
        own = self.model.config.sample.sampler
        calls = SAMPLERS[own].calls(1) or 1
        many: dict[str, Any] = {"guidance": guidance} if self.labels else {}
        if self.teacher is None:
            self.teacher = self.measure(self.model, **many)
        untaught = self.measure(self.model, steps=max(1, steps // calls), **many)
        taught = self.measure(load(student.path, device=self.model.device))
        grade = Grade(
            steps=steps, student=taught, untaught=untaught, teacher=self.teacher, folder=student
        )
        return grade if grade.gain > -CHANCE else replace(grade, folder=None)

    def measure(self, model: Model, **options: Any) -> Score:
        """The Frechet distance of what a model draws to held-out data."""
        drawn = sample(model, self.count, self.labels, seed=self.seed, **options).x
        features = self.encoder(rounded(model.codec, drawn).numpy())
        return score(frechet_distance, features, *self.real)


def _refuse(model: Model, steps: Sequence[int]) -> None:
    if model.run is None:
        raise UsageError("Only a run that lies in a folder can teach: give the folder.")
    for before, after in pairwise(steps):
        if after >= before or before % after:
            raise UsageError(
                f"steps = {tuple(steps)} must fall, each a divisor of the one before, as 8 4 2 1."
            )
    if (kind := model.config.denoiser.prediction) in BLIND:
        raise UsageError(
            f"A run that predicts {kind} says nothing of x in pure noise, where a student of few "
            "steps has to: train one with [denoiser] prediction = 'flow' or 'velocity'."
        )


def _shown(value: Score) -> str:
    return f"{value.value:.3g} ± {value.spread:.2g}"
