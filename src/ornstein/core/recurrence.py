"""A deterministic sampler as the recurrence that it is, for who needs its loop as numbers.

Every step is linear in where it begins, in what is remembered, and in what the denoiser says. With
x and all that is remembered in one state s, and x_hat_k the answer to call k,

    z_k = read_k . s_k                          the point of call k,
    s_(k+1) = keep_k s_k + add_k x_hat_k,

and x, where the sampler ends, is the first value of the last s.
"""

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from .denoise import Denoiser
from .noise import Schedule
from .trajectory import Plan, Step

MOST = 8  # calls in one step


class Recurrence(NamedTuple):
    """What a sampler carries from one denoiser call to the next: R values of the shape of x.

    At first the state is x and zeros.

    Attributes:
        times: Of the N calls, each ``()``.
        until: How far to look, for each call that is told; see `Denoiser.forward`.
        read: ``(N, R)``, float64, like all that follows.
        keep: ``(N, R, R)``.
        add: ``(N, R)``.
    """

    times: list[Tensor]
    until: list[Tensor | None]
    read: Tensor
    keep: Tensor
    add: Tensor


@torch.no_grad()
def recurrence(plan: Plan, schedule: Schedule) -> Recurrence:
    """The recurrence of a plan, on the device of its times.

    Raises:
        UsageError: If it adapts its steps to what it sees, or draws noise.
    """
    if plan.calls is None:
        raise UsageError("A sampler that adapts its steps has no fixed loop: take another.")
    held, known, taken = plan.memory - 1, 0, list[Taken]()  # the last value is its own
    for step in plan.transitions:
        taken.append(Taken(step, schedule, plan, held, known))
        known = taken[-1].known
    size = held + max(len(step.asked.points) for step in taken)  # x, the past, all calls but one
    rows = [row for step in taken for row in step.rows(1 + held, size)]
    return Recurrence(
        [t for step in taken for t in step.asked.times],
        [until for step in taken for until in step.asked.until],
        *(torch.stack(each) for each in zip(*rows, strict=True)),
    )


class Taken:
    """One step, taken with unit vectors: of x, of what is remembered, of what each call answers.

    Args:
        step: Of a plan.
        schedule: Of the denoisers it is for.
        plan: The plan.
        held: Values that are remembered from one step to the next.
        known: So many of them are there already.

    Attributes:
        asked: What it has asked.
        known: As for the next step.
    """

    def __init__(self, step: Step, schedule: Schedule, plan: Plan, held: int, known: int) -> None:
        self.units = torch.eye(1 + held + MOST, dtype=torch.float64, device=plan.times.device)
        x, *before = self.units[: 1 + known].split(1)
        self.asked = Asked(schedule, self.units[1 + held :])
        past = deque(before, maxlen=plan.memory)
        end = step(self.asked, x, past, refuse_noise)
        self.after = torch.cat([end, *list(past)[:held]])
        self.known = len(self.after) - 1

    def rows(self, first: int, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """read, keep and add of each call, for states of `size`; answers are from `first` on."""
        found, points = list[tuple[Tensor, Tensor, Tensor]](), self.asked.points
        for k, point in enumerate(points, first):
            state = self.units[:size].clone()
            if k == first + len(points) - 1:
                state.zero_()[: len(self.after)] = self.after
            add = state[:, k].clone()
            state[:, k] = 0
            found.append((point[0, :size], state[:, :size], add))
        return found


class Asked(Denoiser):
    """Answers each call with the next unit vector, and remembers what it was asked."""

    def __init__(self, schedule: Schedule, answers: Tensor) -> None:
        super().__init__()
        self.schedule, self.answers, self.points = schedule, answers, list[Tensor]()
        self.times, self.until = list[Tensor](), list[Tensor | None]()

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        self.points.append(x_t)
        self.times.append(t.reshape(-1)[0])
        self.until.append(cond.get("until"))
        return self.answers[len(self.points) - 1][None]


def refuse_noise(like: Tensor) -> Tensor:
    """The noise of a sampler that must draw none."""
    raise UsageError("The sampler draws noise, which a graph cannot: take ddim or dpm++2m.")
