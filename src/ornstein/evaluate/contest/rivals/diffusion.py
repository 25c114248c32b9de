"""The diffusion model, as `ornstein train` makes it of the same data without labels."""

from dataclasses import replace
from statistics import median
from typing import ClassVar

import torch
from torch import Tensor

from ....core.denoise import NetDenoiser
from ....data.dataset import Dataset
from ....errors import DivergedError
from ....runs.building import build_denoiser
from ....runs.config import RunConfig
from ....runs.model import Model
from ....tasks.sample import sample
from ....train.budget import updates_within
from ....train.guard import Verdict
from ....train.recipes import recipe
from ....train.training import Training, vocabulary_of
from ...measures.bits import measure_bits
from .rival import Budget, Clock, Likelihood, Rival, now, size_of

TRIAL = 0.03  # share of the budget in which the length of an update is found
FEWEST = 4  # updates to find it by


def plan(data: Dataset, budget: Budget, size: int | None = None) -> RunConfig:
    """The recipe `auto` for so much time, in the float32 that the other models use.

    Args:
        data: What to train on.
        budget: The time; examples count as plenty of it.
        size: Width of the network, if not the recipe's.
    """
    minutes = None if budget.seconds is None else budget.seconds / 60
    config = recipe(data, minutes=minutes)
    net = config.net if size is None else replace(config.net, size=size)
    train = replace(config.train, precision="f32")
    if budget.seen is not None:
        train = replace(train, seen=budget.seen)
    return replace(config, net=net, train=train, source=data.source)


def _pace(config: RunConfig, data: Dataset, device: torch.device, limit: float) -> float:
    """Seconds of one update, the median over about `limit` seconds of a training thrown away."""
    training, times = Training(config, data, device=device), list[float]()
    start = now(device)
    while len(times) < FEWEST or now(device) - start < limit:
        before = now(device)
        training.update()
        times.append(now(device) - before)
    return median(times[1:])  # the first one is slow


class Diffusion(Rival):
    """A run in memory: the recipe, the loop's update, the average of the weights, its sampler.

    Args:
        config: What to train and how.
    """

    title: ClassVar[str] = "Diffusion"

    def __init__(self, config: RunConfig, data: Dataset) -> None:
        super().__init__(size_of(build_denoiser(config, data.codec.shape, vocabulary_of(data))))
        self.config = config

    def fit(self, data: Dataset, budget: Budget, seed: int, device: torch.device) -> None:
        clock, config = Clock(budget, device), replace(self.config, seed=seed)
        data, batch = replace(data.to(device), options=config.data), config.train.batch
        updates = max(1, config.train.seen // batch)
        if budget.seconds is not None:
            pace = _pace(config, data, device, TRIAL * budget.seconds)
            left = budget.seconds - clock.seconds
            updates = updates_within(left, pace, config.train, len(data))
        config = replace(config, train=replace(config.train, seen=updates * batch))
        training = Training(config, data, device=device)
        while training.seen < config.train.seen:
            if training.update() is Verdict.ROLL_BACK:
                raise DivergedError("The diffusion model diverged: its guard asked to go back.")
        self.seen = training.seen
        average = training.averages.learners[0]
        assert isinstance(average, NetDenoiser)
        self._model = Model(average, data.codec, vocabulary_of(data), config, self.seen)
        self.calls = config.sample.steps

    def sample(self, count: int, seed: int) -> Tensor:
        return sample(self._model, count, seed=seed).x

    @property
    def parameters(self) -> tuple[int, int]:
        return self.weights, self.weights

    def likelihood(self, train: Dataset, held_out: Dataset) -> Likelihood | None:
        found = measure_bits(self._model, train, held_out, len(held_out))
        if found is None:
            return None
        return Likelihood(
            bits=found.flow,
            error=found.flow_error,
            how="probability flow",
            bound=found.bound,
            n=found.n,
        )
