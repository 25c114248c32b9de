"""What every model that is compared can do, and the time and the data it is given."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import ClassVar

import torch
from torch import Tensor, nn

from ....core.ema import decay, exponent
from ....core.likelihood import bits_per_dimension, dequantise
from ....data.codec import Codec
from ....data.dataset import Dataset
from ....errors import DivergedError
from ....rng import normal
from ...measures.bits import unit

BLOCK = 512  # examples drawn or judged at once
AVERAGE = 0.05  # relative width of the average of the weights, that of a run
WARMUP = 0.02  # share of the budget over which the learning rate rises


# --- Budgets -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a model may train: seconds, or examples seen. One of the two.

    Seconds are those of `now`.
    """

    seconds: float | None = None
    seen: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.seen is None):
            raise ValueError("expected seconds or seen, one of the two")


def now(device: torch.device) -> float:
    """Seconds since some moment.

    Of the processor, where one thread of it does all the work: so other programs do not decide
    who wins. Else of the clock on the wall.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


class Clock:
    """How much of a budget is spent. It begins to run when it is made."""

    def __init__(self, budget: Budget, device: torch.device) -> None:
        self.budget, self.device, self.seen, self.began = budget, device, 0, now(device)

    @property
    def seconds(self) -> float:
        return now(self.device) - self.began

    @property
    def part(self) -> float:
        """From 0 to 1, and beyond."""
        if self.budget.seconds is not None:
            return self.seconds / self.budget.seconds
        assert self.budget.seen is not None
        return self.seen / self.budget.seen


def learning_rate(part: float) -> float:
    """Over its peak: a short rise, then a cosine to 0 at the end of the budget."""
    return min(part / WARMUP, 0.5 + 0.5 * cos(pi * min(part, 1.0)))


# --- Likelihoods ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Bits per dimension of held-out examples, in the units of the data.

    Args:
        bits: Of integers those of a probability, which spreading them evenly bounds from above.
        error: Standard error, over the examples.
        how: What kind of figure it is.
        bound: The variational bound, for models that have one.
        n: Examples.
    """

    bits: float
    error: float
    how: str
    bound: float | None = None
    n: int


def measured(
    log_prob: Callable[[Tensor], Tensor],
    codec: Codec,
    data: Dataset,
    *,
    how: str,
    device: str | torch.device = "cpu",
    bound: Callable[[Tensor], Tensor] | None = None,
) -> Likelihood | None:
    """The likelihood of `data` by a density of x, spread evenly if they are integers.

    None if a channel is constant: it has no density.

    Args:
        log_prob: ``log p(x)`` in nats ``(B,)`` of ``(B, C, *S)``.
        codec: Of the data.
        data: Held out.
        how: What kind of figure that is.
        device: Of the model.
        bound: A lower bound of it.
    """
    if min(codec.std) == 0:
        return None
    x = codec.pack(data.stored)
    uniform = torch.special.ndtr(normal(x.shape, "spread"))
    x = dequantise(x, unit(codec), uniform).to(device)
    each = 1 / torch.tensor(codec.std, dtype=torch.float64)
    each = each.view(-1, *(1,) * (len(codec.shape) - 1))

    def bits(density: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.no_grad():
            nats = torch.cat([density(part) for part in x.split(BLOCK)]).double().cpu()
        return bits_per_dimension(nats, torch.Size(codec.shape), each)

    found = bits(log_prob)
    return Likelihood(
        bits=float(found.mean()),
        error=float(found.std() / len(found) ** 0.5),
        how=how,
        bound=None if bound is None else float(bits(bound).mean()),
        n=len(found),
    )


# --- Models --------------------------------------------------------------------------------------


class Rival(ABC):
    """A model to compare: made for a number of weights, fitted once, drawn from and judged.

    Args:
        weights: How many it should have, about; those without a dial take what they need.
    """

    title: ClassVar[str]
    calls: int = 1
    """Evaluations of its network for one sample."""

    seen: int = 0
    """Examples it was trained on, repeats counted."""

    def __init__(self, weights: int) -> None:
        self.weights = weights

    @abstractmethod
    def fit(self, data: Dataset, budget: Budget, seed: int, device: torch.device) -> None:
        """Train on `data`.

        Raises:
            DivergedError: If the loss is no longer finite.
        """

    @abstractmethod
    def sample(self, count: int, seed: int) -> Tensor:
        """x ``(count, C, *S)`` on the CPU, a function of the fitted model and the seed."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[int, int]:
        """Numbers that were fitted, and those of them that are needed to draw."""

    def likelihood(self, train: Dataset, held_out: Dataset) -> Likelihood | None:
        """Of all of `held_out`; None for models that have none."""
        return None


class Average:
    """The average of the weights of a network, with the profile that runs have.

    Source: Karras et al. (2023), https://arxiv.org/abs/2312.02696, section 3.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = deepcopy(net).eval().requires_grad_(False)
        self._theirs: list[Tensor] = list(net.parameters())
        self._own: list[Tensor] = list(self.net.parameters())

    @torch.no_grad()
    def update(self, before: int, after: int) -> None:
        share = 1 - decay(exponent(AVERAGE), before, after)
        torch._foreach_lerp_(self._own, self._theirs, share)  # pyright: ignore[reportPrivateImportUsage]


def batches(data: Dataset, clock: Clock, size: int, seed: int) -> Iterator[Tensor]:
    """x ``(B, C, *S)`` in a new order each time round, until the budget is spent."""
    x, size = data.codec.pack(data.stored).to(clock.device), min(size, len(data))
    while clock.part < 1:
        places = data.order(seed, range(clock.seen, clock.seen + size))
        clock.seen += size
        yield x[places.to(clock.device)]


def descend(
    rival: Rival,
    net: nn.Module,
    loss: Callable[[Tensor], Tensor],
    data: Dataset,
    clock: Clock,
    *,
    size: int,
    seed: int,
    rate: float,
) -> Average:
    """Train `net` by Adam until the budget is spent, and return the average of its weights.

    Args:
        rival: Whose network it is; told what it has seen.
        net: On the device of `clock`.
        loss: In nats an example, of x ``(B, C, *S)``: integers are spread evenly over their levels.
        data: To train on.
        clock: Of the budget.
        size: Of the batches.
        seed: Of their order.
        rate: Of learning, at its peak.
    """
    average, optimizer = Average(net), torch.optim.Adam(net.parameters(), lr=rate)
    step = unit(data.codec).to(clock.device)
    for x in batches(data, clock, size, seed):
        x = dequantise(x, step, torch.rand_like(x))
        optimizer.param_groups[0]["lr"] = rate * learning_rate(clock.part)
        optimizer.zero_grad()
        finite(loss(x) / x[0].numel(), rival.title).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update(rival.seen, clock.seen)
        rival.seen = clock.seen
    return average


@torch.no_grad()
def drawn(net: nn.Module, count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """What `net` makes of standard noise ``(B, *shape)``, block by block, on the CPU."""
    device, parts = next(net.parameters()).device, list[Tensor]()
    for first in range(0, count, BLOCK):
        noise = normal((min(BLOCK, count - first), *shape), "rival", seed, first)
        parts.append(net(noise.to(device)).float().cpu())
    return torch.cat(parts)


def finite(loss: Tensor, title: str) -> Tensor:
    """`loss`, if it is a number."""
    if not isfinite(loss.item()):
        raise DivergedError(f"The {title} diverged: its loss is no longer finite.")
    return loss


def size_of(*nets: nn.Module) -> int:
    return sum(p.numel() for net in nets for p in net.parameters())


def width_for(make: Callable[[int], nn.Module], weights: int) -> int:
    """The width, an even number, with which `make` comes closest to so many weights."""

    def gap(width: int) -> int:
        with torch.device("meta"):
            return size_of(make(width)) - weights

    width = 2
    while gap(width) < 0:
        width += 2
    return min((width, max(2, width - 2)), key=lambda w: abs(gap(w)))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's own randomness from `seed`, and afterwards as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
