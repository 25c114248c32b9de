"""A sampler fitted to one denoiser: where its few steps lie, and how it weighs what it has seen.

A time grid and the weights of a multistep rule are the same for every model, in every library. At
few calls that is a waste: how the velocity turns along its path is a property of the data. Here
both are chosen such that few steps end where many do, from the same noise. Nothing of the network
changes.

Source: Tong et al. (2024), https://arxiv.org/abs/2405.15506 (the grid, by what it ends in);
Frankel et al. (2025), https://arxiv.org/abs/2502.17423 (the weights).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

import torch
from torch import Tensor

from .multistep import straight_memory, straight_step, straight_weights, windows
from .noise import Schedule
from .trajectory import Plan, instants

Ends = Callable[[Plan], Tensor]
"""Where a plan takes a fixed set of noises ``(B, *S)``, from `start` at its first time."""

REACH = 3  # values of the past, the present one included, that a step weighs
SKIPPED = 0.03  # of the way in tau before the first time, to begin with


@dataclass(frozen=True, kw_only=True)
class FittedRule:
    """A multistep rule on the straight path, with a grid and weights of its own.

    As `AdamsBashforth`, but for ``y_s = y_t + (tau_s - tau_t) sum_i w_i u_i`` with any weights of
    sum 1: where the velocity u is constant, it is exact like every other.

    Args:
        times: Of the schedule it was fitted on, strictly decreasing.
        weights: For each step, of the velocities, the newest last.
    """

    times: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        t = self.times
        if not (len(t) > 1 and t[0] <= 1 and t[-1] >= 0 and all(a > b for a, b in pairwise(t))):
            raise ValueError(f"times must decrease strictly within [0, 1], got {t}")
        if len(self.weights) != len(t) - 1:
            raise ValueError(f"expected weights for {len(t) - 1} steps, got {len(self.weights)}")
        for i, row in enumerate(self.weights, 1):
            known = 1 <= len(row) <= i and all(map(isfinite, row))
            if not known or abs(sum(row) - 1) > 1e-6:
                raise ValueError(f"the weights of step {i} must be at most {i}, of sum 1: {row}")

    @property
    def steps(self) -> int:
        """Of the grid, and denoiser calls."""
        return len(self.weights)

    def plan(self, schedule: Schedule, device: torch.device | str = "cpu") -> Plan:
        """The rule for denoisers of the schedule it was fitted on."""
        times = torch.tensor(self.times, dtype=torch.float64, device=device)
        grid, reach = instants(schedule, times), max(map(len, self.weights))
        transitions = [
            straight_step(now, then, nodes[-len(row) :], row)
            for row, (now, then, nodes) in zip(self.weights, windows(grid, reach), strict=True)
        ]
        return Plan(times, transitions, straight_memory(reach), self.steps)


def unfitted(schedule: Schedule, times: Tensor) -> FittedRule:
    """The rule to begin with: Adams-Bashforth's weights on a given grid."""
    grid = instants(schedule, times)
    rows = tuple(
        tuple(straight_weights(now, then, nodes)) for now, then, nodes in windows(grid, REACH)
    )
    return FittedRule(times=tuple(times.tolist()), weights=rows)


def fit(
    ends: Ends, target: Tensor, schedule: Schedule, begin: FittedRule, rounds: int = 12
) -> FittedRule:
    """The rule that ends nearest to `target`, in the mean square, as far as `rounds` bring it.

    Nonlinear least squares. The unknowns are the logarithms of the steps in tau over that of the
    last, so that any values make a grid, and the weights of all velocities but the newest. One
    step more, before the first, is not taken: so the first time is fitted too. Where nearly all is
    noise, x_hat is the mean whatever x_t is, and a call there tells nothing; but what is skipped
    takes x_t for white, with whatever else is known of x by then. The last time stays.

    Args:
        ends: Where a plan takes the noises to fit on.
        target: Where they should go ``(B, *S)``: the ends of many steps.
        schedule: Of the denoiser.
        begin: Where to start from. No time will lie before its first.
        rounds: Jacobians to compute, each at as many runs as there are unknowns.
    """
    steps, reaches = begin.steps, [len(row) for row in begin.weights]

    def rule(p: Tensor) -> FittedRule:
        logits = torch.cat([p[:steps], p.new_zeros(1)])
        older = p[steps:].split([n - 1 for n in reaches])
        rows = tuple((*row.tolist(), 1 - row.sum().item()) for row in older)
        return FittedRule(times=_times(schedule, begin.times, logits), weights=rows)

    def residual(p: Tensor) -> Tensor:
        try:
            plan = rule(p).plan(schedule, target.device)
        except ValueError:  # two times have met
            return torch.full_like(target, torch.inf, dtype=torch.float64).flatten()
        return (ends(plan) - target).double().flatten()

    taus = torch.tensor([now.tau for now in instants(schedule, torch.tensor(begin.times))])
    lengths = (taus[:-1] - taus[1:]).double()
    lengths = torch.cat([SKIPPED * lengths.sum()[None], (1 - SKIPPED) * lengths])
    older = [w for row in begin.weights for w in row[:-1]]
    logits = (lengths[:-1] / lengths[-1]).log()
    first = torch.cat([logits, torch.tensor(older, dtype=torch.float64)])
    return rule(least_squares(residual, first, rounds))


def _times(schedule: Schedule, ends: Sequence[float], logits: Tensor) -> tuple[float, ...]:
    """Times between the ends whose steps in tau are as the exponentials of `logits`; the first of
    these steps leads to the first time, and the last time is the end."""
    first, last = instants(schedule, torch.tensor([ends[0], ends[-1]], dtype=torch.float64))
    parts = torch.softmax(logits, 0).cumsum(0)[:-1]
    tau = first.tau + (last.tau - first.tau) * parts
    times = schedule.time(2 * (torch.log1p(-tau) - torch.log(tau)))
    return (*times.tolist(), ends[-1])


def least_squares(
    residual: Callable[[Tensor], Tensor], p: Tensor, rounds: int, step: float = 1e-2
) -> Tensor:
    """A minimum of ``|residual(p)|^2`` near `p` ``(P,)``, by Levenberg and Marquardt.

    The Jacobian is of differences over `step`, which is coarse, so that the rounding of a network
    in single precision does not show.

    Source: Marquardt (1963), https://doi.org/10.1137/0111030.
    """
    damping, r = 1e-2, residual(p)
    for _ in range(rounds):
        moves = step * torch.eye(len(p), dtype=p.dtype)
        J = torch.stack([(residual(p + move) - r) / step for move in moves], 1)
        gram, slope, before = J.T @ J, J.T @ r, r.square().sum()
        for _ in range(8):
            damped = gram + damping * torch.diag(gram.diagonal() + 1e-9 * gram.diagonal().max())
            move = torch.linalg.solve(damped, -slope)
            gain = before - (r + J @ move).square().sum()  # if all were linear
            if not gain > 1e-3 * before:
                return p
            found = residual(p + move)
            if before - found.square().sum() > gain / 4:
                break
            damping *= 4
        else:
            return p
        p, r, damping = p + move, found, damping / 8
    return p
