"""A student's lessons: its batches, as its teacher would have them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.denoise import Denoiser, align
from ..core.distill import aimed, followed, relearned
from ..core.guide import ClassifierFree
from ..core.noise import Schedule
from ..core.times import TimeDistribution
from ..errors import UsageError
from ..runs.config import RunConfig
from ..runs.model import GRIDS, Vocabulary, load
from .draws import Batch


@dataclass(frozen=True, eq=False)
class Lessons:
    """What turns a batch of data into one of steps to learn.

    Args:
        teacher: Of the student's schedule, its guidance included.
        weights: That the student begins with.
        times: The teacher's grid ``(N jump + 1,)``, of which the student's is every `jump`-th.
        jump: Steps of the teacher that the student is to do in one.
    """

    teacher: Denoiser
    weights: dict[str, Tensor]
    times: Tensor
    jump: int

    @classmethod
    def of(
        cls, config: RunConfig, vocabulary: Vocabulary, device: torch.device
    ) -> "Lessons | None":
        """The lessons that the configuration asks for; None if the run has no teacher.

        Raises:
            UsageError: If the teacher is not there, or of another kind.
        """
        c = config.distill
        if not c.teacher:
            return None
        model = load(c.teacher, device=device)
        if (model.config.net, model.config.schedule) != (config.net, config.schedule):
            raise UsageError(
                f"{c.teacher} has another network or schedule than its student: [net] and "
                "[schedule] must be equal."
            )
        if model.vocabulary != vocabulary:
            raise UsageError(f"{c.teacher} was trained on other data: a student learns from them.")
        guided = ClassifierFree(model.denoiser, c.guidance)
        times = GRIDS[config.sample.grid](model.denoiser.schedule, config.sample.steps * c.jump)
        weights = model.denoiser.state_dict()
        teacher = model.denoiser if c.guidance == 1 else guided
        return cls(teacher, weights, times.to(device), c.jump)

    @property
    def grid(self) -> Tensor:
        """The student's grid ``(N + 1,)``."""
        return self.times[:: self.jump]

    @property
    def starts(self) -> "Starts":
        """Where the student's steps begin, as training times."""
        return Starts(self.grid[:-1])

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """The batch with the same x_t, whose x is what the student is to answer."""
        schedule = self.teacher.schedule
        begin = (self.grid[:-1] == batch.t[:, None]).int().argmax(1) * self.jump
        path = [self.times[begin + i] for i in range(self.jump + 1)]
        alpha, sigma = (align(c, batch.x).to(batch.x) for c in schedule(batch.t))
        x_t = alpha * batch.x + sigma * batch.eps
        x_s = followed(self.teacher, x_t, path, **batch.cond)
        x_hat = aimed(schedule, x_t, x_s, path[0], path[-1])
        x, eps = relearned(schedule, x_t, x_hat, batch.t)
        return replace(batch, x=x, eps=eps)


@dataclass(frozen=True, eq=False)
class Starts(TimeDistribution):
    """The times ``(N,)`` of `grid`, each equally often."""

    grid: Tensor

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.grid.to(u.device)[(u * len(self.grid)).long()]

    def log_snr_density(self, log_snr: Tensor, schedule: Schedule) -> Tensor:
        raise ValueError("the times of a grid have no density")
