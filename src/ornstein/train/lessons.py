"""A student's lessons: its batches, as its teacher would have them."""

from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor

from ..core.denoise import Denoiser, NetDenoiser, align, noisy
from ..core.distill import aimed, followed, mean_flow, relearned, two_in_one
from ..core.guide import ClassifierFree
from ..core.noise import Schedule
from ..core.sample import SAMPLERS, AdamsBashforth, Sampler, start
from ..core.times import TimeDistribution
from ..data.names import shown
from ..errors import StorageError, UsageError
from ..runs.adapters import base_facts
from ..runs.building import GRIDS
from ..runs.config import RunConfig, ScheduleConfig
from ..runs.folder import RunFolder
from ..runs.model import Model, load
from ..runs.vocabulary import Vocabulary
from .draws import Batch

OWN = 0.9  # share of the leaps that are those of the student's own numbers of steps
NEAR = 0.15  # that lead nowhere: what a denoiser learns, and a student need only keep
ALONE = 0.5  # likewise without a teacher
FAR = 0.25  # of those in between, the share that lead all the way to the data
SHOWN = (8, 16)  # steps of a teacher from noise to data: half of its own, within these
SHARED = 4  # lessons on each path that a teacher shows
DEEP = 0.25  # of leaps learned from slopes, the share that begins in all but pure noise,
NOISE = 0.03  # as near to tau = 1 as this
DRAWS = 3  # random numbers that a lesson takes for each example
EARLIEST = 1e-3  # flow time at which one begins
SHORTEST = 1e-3  # in flow time; below it the answer is a quotient of roundings
SMALL = 3e-3  # losses below it count as they are


class Lessons(ABC):
    """What turns a batch of data into one of steps to learn.

    Attributes:
        weights: That the student begins with, as far as it has them.
    """

    weights: dict[str, Tensor]

    @property
    def shared(self) -> int:
        """How many lessons there are on each example and its noise."""
        return 1

    @property
    @abstractmethod
    def times(self) -> TimeDistribution:
        """Where the student's steps begin."""

    @abstractmethod
    def __call__(self, batch: Batch, draws: Tensor, student: NetDenoiser) -> Batch:
        """The batch whose x_t is what the student is to see, and whose x what it is to answer.

        Args:
            batch: Of data.
            draws: What is random in the lesson: ``(B, DRAWS)``, uniform in [0, 1). Zeros give
                lessons that can be compared over the training.
            student: As it is now.
        """

    def weigh(self, losses: Tensor) -> Tensor:
        """The losses of a batch, as they count."""
        return losses


def lessons_of(config: RunConfig, vocabulary: Vocabulary, device: torch.device) -> Lessons | None:
    """The lessons that the configuration asks for; None if the run is a denoiser and no more.

    Raises:
        UsageError: If the teacher is not there or of another kind, or the schedule does not suit.
    """
    c = config.distill
    if c.looks_ahead and config.schedule != ScheduleConfig(name="flow"):
        raise UsageError(
            f"[distill] method = '{c.method}' learns in flow time: set [schedule] name = 'flow'."
        )
    by_slope = c.method == "mean-flow"
    if not c.teacher:
        if c.guidance != (1.0, 1.0):
            raise UsageError(
                "[distill] guidance is that of a teacher, and there is none: leave it out, or "
                "distil a run that is there, by `ornstein distill RUN --guidance 1 4`."
            )
        if not c.looks_ahead:
            return None
        return Slopes(None, {}) if by_slope else Halves(config.sample.steps)
    model = teacher_of(config, device)
    model.denoiser.requires_grad_(True)  # autocast then casts its weights once for all calls
    kinds = (model.config.net, model.config.denoiser.prediction)
    same = kinds == (config.net, config.denoiser.prediction)
    if not same or (not c.looks_ahead and model.config.schedule != config.schedule):
        raise UsageError(
            f"{c.teacher} has another network, prediction or schedule than its student: [net] and "
            "[schedule] must be equal."
        )
    if model.vocabulary != vocabulary:
        raise UsageError(f"{c.teacher} was trained on other data: a student learns from them.")
    low, high = c.guidance
    if not low <= high:
        raise UsageError(f"[distill] guidance = [{low}, {high}] must go from low to high.")
    teacher = Teacher.of(model, low, high)
    weights = model.denoiser.state_dict()
    if c.looks_ahead:
        return (
            Slopes(teacher, weights) if by_slope else Shown(teacher, weights, config.sample.steps)
        )
    times = GRIDS[config.sample.grid](model.denoiser.schedule, config.sample.steps * c.jump)
    return Steps(teacher, weights, times.to(device), c.jump)


def teacher_of(config: RunConfig, device: str | torch.device = "cpu") -> Model:
    """The run that a student learns from."""
    return load(config.distill.teacher, seen=config.distill.seen or None, device=device)


def taught_as_begun(config: RunConfig, folder: RunFolder) -> RunConfig:
    """The configuration of a run that goes on, with its teacher as it was when the run began.

    Raises:
        UsageError: If the teacher is no longer that.
    """
    known = folder.identity.get("teacher")
    seen = known.get("seen") if isinstance(known, dict) else None
    if not isinstance(seen, int):  # it has none, or began before teachers were remembered
        return config
    config = replace(config, distill=replace(config.distill, seen=seen))
    facts = dict[str, Any]()
    with suppress(StorageError):
        facts = base_facts(teacher_of(config))
    if facts != known:
        raise UsageError(
            f"{shown(config.distill.teacher)} is no longer what {shown(folder.path)} learns from: "
            f"put back its checkpoint at {seen}, or begin a new student."
        )
    return config


@dataclass(frozen=True, eq=False)
class Teacher:
    """Who is followed, guided.

    Args:
        denoiser: Of the teacher.
        low: The least weight of guidance.
        high: The largest; where they differ, the student is told which.
        told: Whether the teacher, a student itself, is told the weight, too.
        parallel: Share that is kept of the part of guidance along its answer.
        sampler: By which it shows a path.
        steps: Of that path, at least.
    """

    denoiser: Denoiser
    low: float
    high: float
    told: bool
    parallel: float = 1.0
    sampler: Sampler = AdamsBashforth()  # noqa: RUF009 (frozen)
    steps: int = SHOWN[0]

    @classmethod
    def of(cls, model: Model, low: float, high: float) -> "Teacher":
        """As a run draws by itself, in half as many steps and without fresh noise."""
        own, sampler = model.config.sample, SAMPLERS[model.config.sample.sampler]
        return cls(
            model.denoiser,
            low,
            high,
            model.config.distill.told_guidance,
            own.guidance_parallel,
            sampler if sampler.deterministic else AdamsBashforth(),
            min(max(SHOWN[0], own.steps // 2), SHOWN[1]),
        )

    def on(self, batch: Batch, draws: Tensor) -> tuple[Denoiser, Batch]:
        """The teacher as these examples have it, and the batch as the student hears it."""
        denoiser, fixed = self.denoiser, self.low == self.high
        if fixed:
            guided = denoiser if self.low == 1 else self._guided(self.low)
            return guided.given(**batch.cond), batch
        weight = (self.low + (self.high - self.low) * draws[:, 0]).to(batch.x)
        heard = replace(batch, cond=batch.cond | {"guidance": weight})
        if self.told:
            return denoiser.given(**heard.cond), heard
        return self._guided(weight).given(**batch.cond), heard

    def _guided(self, weight: float | Tensor) -> Denoiser:
        return ClassifierFree(self.denoiser, weight, parallel=self.parallel)


# --- Progressive distillation --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Steps(Lessons):
    """Several steps of the teacher in one.

    Args:
        teacher: Of the student's schedule.
        weights: Of the teacher.
        grid: The teacher's times ``(N jump + 1,)``, of which the student's are every `jump`-th.
        jump: Steps of the teacher that the student is to do in one.
    """

    teacher: Teacher
    weights: dict[str, Tensor]
    grid: Tensor
    jump: int

    @property
    def times(self) -> "Starts":
        return Starts(self.grid[:: self.jump][:-1])

    @torch.no_grad()
    def __call__(self, batch: Batch, draws: Tensor, student: NetDenoiser) -> Batch:
        teacher, batch = self.teacher.on(batch, draws)
        begin = (self.times.grid == batch.t[:, None]).int().argmax(1) * self.jump
        path = [self.grid[begin + i] for i in range(self.jump + 1)]
        x_t = noised(batch, teacher.schedule)
        x_s = followed(teacher, x_t, path)
        x_hat = aimed(teacher.schedule, x_t, x_s, path[0], path[-1])
        return taught(batch, teacher.schedule, x_t, x_hat)


@dataclass(frozen=True, eq=False)
class Starts(TimeDistribution):
    """The times ``(N,)`` of `grid`, each equally often."""

    grid: Tensor

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.grid.to(u.device)[(u * len(self.grid)).long()]

    def log_snr_density(self, log_snr: Tensor, schedule: Schedule) -> Tensor:
        raise ValueError("the times of a grid have no density")


# --- Flow maps -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shown(Lessons):
    """A flow map that a teacher shows where the steps of the student lead.

    They lie on the path that the teacher takes from noise to data by its own sampler: so no error
    of the student's own is handed down to it. Where a leap leads nowhere, it is to say what the
    teacher says; the few that begin elsewhere it learns from two of its own half as long.

    Args:
        teacher: Who shows them.
        weights: Of the teacher.
        steps: That the student takes; it learns those of all numbers that divide it best.

    Source: Luhman & Luhman (2021), https://arxiv.org/abs/2101.02388, there for one step.
    """

    teacher: Teacher
    weights: dict[str, Tensor]
    steps: int

    @property
    def times(self) -> "Departures":
        return Departures(self.steps)

    @property
    def shared(self) -> int:
        return SHARED

    @torch.no_grad()
    def __call__(self, batch: Batch, draws: Tensor, student: NetDenoiser) -> Batch:
        schedule, until = student.schedule, self.times.until(batch.t, draws, NEAR)
        heard, y, x_hat = self.teacher.on(batch, draws)[1], noised(batch, schedule), batch.x.clone()
        near, own = until == batch.t, self._own(batch.t, until)
        if near.any():
            there = self.teacher.on(batch[near], draws[near])[0].along(schedule)
            x_hat[near] = there(y[near], batch.t[near])
        if own.any():
            path, which = self._path(batch, draws, schedule), _turns(batch.eps)[own]
            begin, end = (((1 - t[own]) * self._count).round().long() for t in (batch.t, until))
            y[own], x_s = path[begin, which], path[end, which]
            x_hat[own] = aimed(schedule, y[own], x_s, batch.t[own], until[own])
        left = ~near & ~own
        if left.any():
            ahead = student.given(**heard[left].cond)
            x_hat[left] = halved(ahead, y[left], batch.t[left], until[left])
        return leap(heard, schedule, y, x_hat, until)

    def weigh(self, losses: Tensor) -> Tensor:
        return over_their_size(losses)

    @property
    def _count(self) -> int:
        """Of the teacher's steps."""
        return self.steps * max(2, ceil(self.teacher.steps / self.steps))

    def _own(self, t: Tensor, until: Tensor) -> Tensor:
        """Which leaps begin and end where the teacher's steps do."""
        places = torch.stack([t, until]) * self._count
        return (until < t) & ((places - places.round()).abs() < 1e-9).all(0)

    def _path(self, batch: Batch, draws: Tensor, schedule: Schedule) -> Tensor:
        """All that lies on the paths from the P noises of a batch: ``(count + 1, P, C, *S)``."""
        first = slice(int(_turns(batch.eps).max()) + 1)
        teacher = self.teacher.on(batch[first], draws[first])[0].along(schedule)
        times = torch.linspace(1, 0, self._count + 1, dtype=torch.float64, device=batch.x.device)
        states = [start(schedule, times[0], batch.eps[first])]
        plan = self.teacher.sampler.plan(schedule, times)
        plan(teacher, states[0], on_step=lambda x, s: states.append(x))
        return torch.stack(states)


@dataclass(frozen=True, eq=False)
class Halves(Lessons):
    """A flow map that learns from data alone: from two leaps of its own half as long.

    Args:
        steps: That the student takes; it learns those of all numbers that divide it best.

    Source: Frans et al. (2024), https://arxiv.org/abs/2410.12557, section 3.
    """

    steps: int
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def times(self) -> "Departures":
        return Departures(self.steps)

    @torch.no_grad()
    def __call__(self, batch: Batch, draws: Tensor, student: NetDenoiser) -> Batch:
        schedule, until = student.schedule, self.times.until(batch.t, draws, ALONE)
        y, x_hat, far = noised(batch, schedule), batch.x.clone(), until < batch.t
        if far.any():
            ahead = student.given(**batch[far].cond)
            x_hat[far] = halved(ahead, y[far], batch.t[far], until[far])
        return leap(batch, schedule, y, x_hat, until)


@dataclass(frozen=True, eq=False)
class Slopes(Lessons):
    """A flow map that learns from how its own answer changes along the flow: see `mean_flow`.

    Args:
        teacher: Whose flow it is; None to learn from data alone.
        weights: Of the teacher.
    """

    teacher: Teacher | None
    weights: dict[str, Tensor]

    @property
    def times(self) -> "Anywhere":
        return Anywhere()

    @torch.no_grad()
    def __call__(self, batch: Batch, draws: Tensor, student: NetDenoiser) -> Batch:
        schedule, near = student.schedule, NEAR if self.teacher else ALONE
        y, until, x_hat = noised(batch, schedule), self.times.until(batch.t, draws, near), batch.x
        if self.teacher is not None:
            teacher, batch = self.teacher.on(batch, draws)
            x_hat = teacher.along(schedule)(y, batch.t)
        v = (y - x_hat) / align(batch.t, y).to(y)
        look = partial(_look, student.given(**batch.cond))
        return leap(batch, schedule, y, mean_flow(look, y, batch.t, until, v), until)

    def weigh(self, losses: Tensor) -> Tensor:
        return over_their_size(losses)


def over_their_size(losses: Tensor) -> Tensor:
    """Losses of leaps, each divided by what it is.

    Long leaps err most, and would be nearly all that is learned, at the cost of the short ones;
    and a slope is now and then far off.

    Source: Geng et al. (2025), https://arxiv.org/abs/2505.13447, section 4.3, p = 1.
    """
    return losses / (losses.detach() + SMALL)


def halved(ahead: Denoiser, y: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The x_hat of a leap from t to s, by two half as long."""
    return two_in_one(ahead, y, t, (t + s) / 2, s)


def leap(batch: Batch, schedule: Schedule, y: Tensor, x_hat: Tensor, until: Tensor) -> Batch:
    """The batch in which `x_hat` is the answer of one who looks from y as far as `until`."""
    lesson = taught(batch, schedule, y, x_hat)
    return replace(lesson, cond=lesson.cond | {"until": until})


def _turns(eps: Tensor) -> Tensor:
    """Which of the different noises of a batch each is, if they are dealt out in turn."""
    again = (eps[1:] == eps[:1]).flatten(1).all(1)
    count = 1 + int(again.int().argmax()) if again.any() else len(eps)
    return torch.arange(len(eps), device=eps.device) % count


def _look(ahead: Denoiser, y: Tensor, tau: Tensor, rho: Tensor) -> Tensor:
    """A flow map, kept off tau = 1, where the log-SNR has no derivative."""
    return ahead(y, tau * (1 - 1e-6), until=rho)


@dataclass(frozen=True)
class Departures(TimeDistribution):
    """Where leaps begin: most where one of the student's own steps does, the rest anywhere.

    Args:
        steps: The largest number of steps; with it go all that divide it, n steps sqrt(n) times as
            often as one: what they learn is what fewer steps are taught by.
    """

    steps: int

    @property
    def own(self) -> tuple[Tensor, Tensor, Tensor]:
        """The student's own steps: where each begins, where it leads, how often it is wanted."""
        counts = [n for n in range(1, self.steps + 1) if self.steps % n == 0]
        rows = [(i / n, (i - 1) / n, n**-0.5) for n in counts for i in range(n, 0, -1)]
        begin, end, often = torch.tensor(sorted(rows), dtype=torch.float64).unbind(1)
        return begin, end, often / often.sum()

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        begin, _, often = (part.to(u.device) for part in self.own)
        place = torch.searchsorted(often.cumsum(0), (u.double() / OWN).contiguous())
        elsewhere = ((u.double() - OWN) / (1 - OWN)).clamp(EARLIEST, 1.0)
        return torch.where(u < OWN, begin[place.clamp_max(len(begin) - 1)], elsewhere)

    def until(self, t: Tensor, draws: Tensor, near: float) -> Tensor:
        """Where leaps from `t` ``(B,)`` lead: as an own step would, anywhere, or nowhere."""
        begin, end, often = (part.to(t.device) for part in self.own)
        fit = often * (begin == t[:, None])
        total = fit.cumsum(1)
        place = (total <= (draws[:, 2] * total[:, -1])[:, None]).sum(1).clamp_max(len(end) - 1)
        until = torch.where(fit.any(1), end[place], anywhere(t, draws))
        return nowhere(t, until, draws, near)

    def log_snr_density(self, log_snr: Tensor, schedule: Schedule) -> Tensor:
        raise ValueError("times that most leaps share have no density")


@dataclass(frozen=True)
class Anywhere(TimeDistribution):
    """Where leaps begin that are learned from slopes: anywhere, many in all but pure noise.

    The identity of mean flows binds an answer to its slope in the time that the leap begins at: at
    few times it binds nothing, as the answers in between can have any slope.
    """

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        rest = (u.double() - DEEP) / (1 - DEEP)
        noise = 1 - NOISE * (u.double() / DEEP).square()
        return torch.where(rest < 0, noise, rest.clamp_min(EARLIEST))

    def until(self, t: Tensor, draws: Tensor, near: float) -> Tensor:
        """Where leaps from `t` ``(B,)`` lead: anywhere, or nowhere."""
        return nowhere(t, anywhere(t, draws), draws, near)

    def log_snr_density(self, log_snr: Tensor, schedule: Schedule) -> Tensor:
        raise ValueError("times that crowd at the end of pure noise have no density there")


def anywhere(t: Tensor, draws: Tensor) -> Tensor:
    """A time below `t` ``(B,)``, or 0."""
    return torch.where(draws[:, 1] > 1 - FAR, 0.0, t * draws[:, 2])


def nowhere(t: Tensor, until: Tensor, draws: Tensor, near: float) -> Tensor:
    """`until`, but `t` itself for a share `near`, and where the leap would be a rounding."""
    return torch.where((draws[:, 1] < near) | (t - until < SHORTEST), t, until)


# --- Both ----------------------------------------------------------------------------------------


def noised(batch: Batch, schedule: Schedule) -> Tensor:
    """x_t of a batch."""
    return noisy(schedule, batch.x, batch.t, batch.eps)


def taught(batch: Batch, schedule: Schedule, x_t: Tensor, x_hat: Tensor) -> Batch:
    """The batch in which the answer to `x_t` is `x_hat`."""
    x, eps = relearned(schedule, x_t, x_hat, batch.t)
    return replace(batch, x=x, eps=eps)
