"""The one loop: data, noise, loss, gradient, guard, step, average, log, checkpoint."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from typing import Any

from ..core.denoise import NetDenoiser
from ..data.dataset import Dataset
from ..errors import DivergedError
from ..runs.checkpoint import Checkpoint
from ..runs.folder import RunFolder
from .doctor import LEVELS, Diagnosis, Doctor
from .guard import Guard, Verdict
from .memory import peak
from .preview import preview
from .progress import Progress, Report
from .signals import Stop
from .training import Training
from .validation import Validation

ROWS = 200  # of the log, over the budget
VALIDATIONS = 20
EXAMINATIONS = 8  # at most
PREVIEWS = 8
FEW, ENOUGH = 16, 64  # examples of a noise level that the doctor looks at


def looks(seen: int) -> tuple[int, int]:
    """How often the doctor looks, and at how many examples of each side and noise level.

    A forward pass is a third of an update, so that all of it costs a hundredth of the training.
    The shorter this is, the less often he looks; then at fewer, too, which makes him less sure.

    Args:
        seen: The budget.
    """
    affordable = 0.01 * 3 * seen / (2 * LEVELS)
    times = min(max(int(affordable / FEW), 1), EXAMINATIONS)
    each = int(affordable / times)
    return times, max(each, 2) if each < FEW else min(each // FEW * FEW, ENOUGH)


def milestones(config: Any, count: int) -> frozenset[int]:
    """`count` positions of the clock, evenly spread over the budget, its end the last.

    A function of the configuration alone, like all that decides what is logged.
    """
    updates = config.seen // config.batch
    return frozenset(config.batch * -(-updates * i // count) for i in range(1, count + 1))


@dataclass
class Review:
    """What is looked at on the way, at fixed positions of the clock.

    The sizes are such that all of it costs about five hundredths of the training.

    Args:
        validation: The loss on held-out examples, if there are any.
        doctor: Says in words how it goes, if there is somebody.
        diagnosis: The last one.
        since: Where the run began to memorise, if it does.
        val: The last validation loss.
    """

    validation: Validation | None
    doctor: Doctor | None
    diagnosis: Diagnosis | None = None
    since: int | None = None
    val: float = nan

    @classmethod
    def of(cls, training: Training, held: Dataset) -> "Review":
        c, aim, validation = training.config.train, training.aim, None
        if len(held):  # a forward pass is a third of an update
            validation = aim.validation(held, min(max(c.seen // 400, 16), 512))
        doctor = aim.doctor(training.data, held, looks(c.seen)[1])
        return cls(validation, doctor)

    def recall(self, rows: Sequence[dict[str, Any]]) -> None:
        """Read `since` off the log: the first row of the last run of diagnoses that say so."""
        self.since = None
        for row in rows:
            if "doctor/kind" in row:
                memorises = row["doctor/kind"] == "memorising"
                self.since = (self.since or row["seen"]) if memorises else None

    @property
    def verdict(self) -> str:
        """The last diagnosis in a line; empty if there is none yet."""
        if self.diagnosis is None:
            return ""
        line = self.diagnosis.verdict
        if self.since is None:
            return line
        return line.replace("memorising", f"memorising since {self.since:,} examples", 1)


class Loop:
    """A training, its folder, and what is done now and then.

    Args:
        training: Where it stands.
        held: The held-out examples; may be empty.
        folder: Of the run, locked by this process if it writes.
        stop: Set to stop at the next checkpoint, which is made at once.
        report: Called a few times in a second.
        save_every: Seconds between checkpoints, more if saving takes long; 0 for every update. A
            training that goes wrong goes back to one of them.
        saved_seen: Where the training was restored from; -1 if it is new.
        track: Called with each row of the log, for other loggers.
    """

    def __init__(
        self,
        training: Training,
        held: Dataset,
        folder: RunFolder,
        *,
        stop: Stop,
        report: Report = lambda progress: None,
        save_every: float = 60.0,
        saved_seen: int = -1,
        track: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        self.training, self.folder, self.stop = training, folder, stop
        self.report, self.save_every, self.track = report, save_every, track
        self.review = Review.of(training, held)
        c = training.config.train
        self.rows = milestones(c, ROWS)
        self.validations = milestones(c, VALIDATIONS)
        self.examinations = milestones(c, looks(c.seen)[0])
        self.previews = milestones(c, PREVIEWS)
        self.snapshots = milestones(c, c.ema_snapshots)
        self.began = self.saved_at = self.reported_at = time.monotonic()
        self.saving, self.loss = 0.0, nan
        self.saved_seen = saved_seen
        self.pace: deque[tuple[float, int]] = deque(maxlen=64)

    def run(self) -> None:
        """Train to the end of the budget, or until stopped.

        Raises:
            DivergedError: If it goes wrong again after a roll-back.
        """
        training, budget = self.training, self.training.config.train.seen
        while True:
            # --- Stop, if any process was asked to
            stopped = training.world.count(bool(self.stop)) > 0

            # --- Checkpoint
            if stopped or training.seen >= budget or self.is_due():
                self.save()
            if stopped:
                return self.tell("stopped")

            # --- Log, validate, examine, keep: after the checkpoint, so that a resumed run does so
            if not self.look():
                continue
            if training.seen >= budget:
                if training.world.writes:
                    self.folder.write_card()  # that of the checkpoint knows no last losses
                return self.tell("finished")

            # --- Train
            verdict = training.update()
            if verdict is Verdict.SKIP:
                self.write({"event": "skipped", "ids": self.ids()})
            elif verdict is Verdict.ROLL_BACK:
                self.roll_back()
            self.tell()

    # --- Checkpoints

    def is_due(self) -> bool:
        """Whether to save now; never what one would not roll back to."""
        if self.saved_seen < 0:
            return True
        wait = max(self.save_every, 20 * self.saving) if self.save_every else 0.0
        return self.training.guard.calm and time.monotonic() - self.saved_at >= wait

    def save(self) -> None:
        """Write a checkpoint, unless the last one is of this moment."""
        training = self.training
        if not training.world.writes or self.saved_seen == training.seen:
            return
        start = time.monotonic()
        spare = None if training.guard.calm else self.last_calm()
        self.folder.save(training.seen, training.parts(), training.state(), spare=spare)
        self.saved_at, self.saved_seen = time.monotonic(), training.seen
        self.saving = self.saved_at - start
        self.tell("checkpoint")

    def last_calm(self) -> Checkpoint | None:
        """The newest checkpoint that was not made, by a stop, while things went wrong."""
        return self.folder.latest(fit=lambda found: Guard.from_dict(found.state["guard"]).calm)

    def roll_back(self) -> None:
        """Go back to the last calm checkpoint with half the learning rate; but once only."""
        training, guard = self.training, self.training.guard
        checkpoint = self.last_calm()
        what = "three updates in a row were not finite"
        if not guard.streak:
            what = "the loss has been over five times its smallest median for 200 updates"
        ids = ", ".join(self.ids(8))
        if training.halvings or checkpoint is None:
            self.write({"event": "diverged", "ids": self.ids()})
            raise DivergedError(
                f"Training diverged at {training.seen:,} examples: {what}, also with half the "
                f"learning rate; the last batch held {ids}. Look at these examples, or lower "
                f"[train] learning_rate = {training.config.train.learning_rate:g}."
            )
        skipped, seen = guard.skipped, training.seen
        if training.world.writes:
            self.folder.remove_after(checkpoint)
            self.folder.rewind(checkpoint)
        training.restore(checkpoint)
        training.halvings, training.guard.skipped = 1, skipped
        self.write({"event": "rolled back", "from": seen, "ids": self.ids()})

    # --- What is looked at

    def look(self) -> bool:
        """Do what is due at this position of the clock; false if stopped meanwhile."""
        world, seen = self.training.world, self.training.seen
        looked_at = self.validations | self.examinations | self.previews
        if seen not in self.rows | looked_at | self.snapshots:
            return True
        done = self.log() if world.writes else True
        return world.count(done) == world.size

    def log(self) -> bool:
        """Write a row of the log, with all that is due; false, and nothing, if stopped."""
        training, review = self.training, self.review
        seen, tally, row = training.seen, training.tally, dict[str, Any]()
        average = training.averages.learners[0]
        if seen in self.validations and review.validation is not None:
            val = review.validation(average, self.stop)
            if val is None:
                return False
            review.val = row["val/loss"] = val
        if seen in self.examinations and not self.examine(row):
            return False
        if seen in self.previews and not preview(self.folder.path, training, self.stop):
            return False
        if seen in self.snapshots:
            for i, learner in enumerate(training.averages.learners):
                self.folder.keep(f"ema-{i}-{seen}", learner.state_dict())
        self.loss = tally.mean
        order = {"train/order": f"{tally.order:08x}"}
        self.write({"train/loss": tally.mean, "train/lr": training.learning_rate, **order, **row})
        if seen in self.examinations:
            review.recall(self.folder.logged())
        self.folder.log_time({"seen": seen, "seconds": time.monotonic() - self.began})
        tally.loss, tally.updates = 0.0, 0
        return True

    def examine(self, row: dict[str, Any]) -> bool:
        """Ask the doctor, if there is one, and add what he says to a row; false if stopped."""
        training, doctor, c = self.training, self.review.doctor, self.training.config.train
        if doctor is None:
            return True
        average, part = training.averages.learners[0], training.seen / c.seen
        assert isinstance(average, NetDenoiser)
        found = doctor(
            training.denoiser,
            average,
            part=part,
            updates=training.seen // c.batch,
            rate=c.learning_rate,
            stop=self.stop,
        )
        if found is None:
            return False
        self.review.diagnosis = found
        row |= {"doctor/kind": found.kind, "doctor/memorised": found.memorised}
        row |= {"doctor/train": found.train, "doctor/held": found.held}
        return True

    def write(self, row: dict[str, Any]) -> None:
        """A row of the log, at this position of the clock, but for what is not finite."""
        if not self.training.world.writes:
            return
        row = {"seen": self.training.seen} | {k: v for k, v in row.items() if is_finite(v)}
        self.folder.log(row)
        self.track(row)

    def ids(self, limit: int = 64) -> list[str]:
        """Names of the examples of the last batch."""
        return [self.training.data.ids[i] for i in self.training.indices[:limit].tolist()]

    def tell(self, event: str = "") -> None:
        """Report, but not more often than anybody can read."""
        now, training, review = time.monotonic(), self.training, self.review
        if not event and now - self.reported_at < 0.2:
            return
        self.reported_at = now
        self.pace.append((now, training.seen))
        (then, before), budget = self.pace[0], training.config.train.seen
        rate = (training.seen - before) / (now - then) if now > then else 0.0
        self.report(
            Progress(
                seen=training.seen,
                budget=budget,
                loss=training.tally.mean if isnan(self.loss) else self.loss,
                val=review.val,
                learning_rate=training.learning_rate,
                examples_per_s=rate,
                seconds=now - self.began,
                seconds_left=(budget - training.seen) / rate if rate > 0 else nan,
                verdict=review.verdict,
                skipped=training.guard.skipped,
                event=event,
                peak=peak(training.device),
            )
        )


def is_finite(value: Any) -> bool:
    """Whether JSON can hold a value of the log; it has no NaN and no infinity."""
    return all(
        not isinstance(v, float) or isfinite(v)
        for v in (value if isinstance(value, tuple) else (value,))
    )
