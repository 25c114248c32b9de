"""From minutes to examples, before the first update: a run that is resumed must not ask the clock.

Everything here happens on throw-away copies of what will be trained.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from ..data.dataset import Dataset
from ..errors import Notice
from ..runs.config import RunConfig, TrainConfig
from .device import Precision, World, has_bf16, using_threads
from .training import Training

Clock = Callable[[], float]

OVERHEAD = 0.06  # of the time goes to validation, the doctor, previews and checkpoints
TRIAL = 0.02  # of the time goes to each trial
FEWEST = 100  # updates, to which no number of epochs bounds a training
PATIENCE = 5  # times as long a trial of few and long updates may take


def settle(
    config: RunConfig,
    data: Dataset,
    *,
    device: torch.device,
    world: World,
    seconds: float | None,
    clock: Clock = time.monotonic,
) -> tuple[RunConfig, int]:
    """`config` with the precision and the budget decided, and the number of threads.

    Args:
        config: With ``precision`` perhaps ``auto``.
        data: The training examples.
        device: Of the network.
        world: The processes.
        seconds: The time left for all of the training; None to keep ``train.seen``.
        clock: What counts them.

    Returns:
        The configuration: ``train.precision`` is the faster of those the hardware has, if not
        given; ``train.seen``, a multiple of the batch, is what fits into `seconds`, or the given
        one rounded up. And the threads: all that PyTorch was given, or one where that is faster,
        as it is, ten times, on cores that are busy with something else.
    """
    start, batch = clock(), config.train.batch
    given, pace = config.train.precision, dict[Precision, float]()
    # bfloat16 rounds to one part in 256, which points notice; pictures and embeddings do not
    points = len(data.codec.shape) == 1 and data.embedded is None
    rounds = has_bf16(device) and not points
    every: list[Precision] = ["f32", "bf16"] if rounds else ["f32"]
    candidates: list[Precision] = every if given == "auto" else [given]
    limit = 1.0 if seconds is None else min(2.0, TRIAL * seconds)
    if seconds is not None or len(candidates) > 1:
        for precision in candidates:
            pace[precision] = time_of_update(config, precision, data, device, world, limit, clock)
    best = min(pace, key=lambda p: pace[p]) if pace else candidates[0]
    threads, fastest = torch.get_num_threads(), pace.get(best, 0.0)
    if pace and threads > 1 and device.type == "cpu" and world.size == 1:
        with using_threads(1):
            alone = time_of_update(config, best, data, device, world, limit, clock)
        if alone < fastest:
            threads, fastest = 1, alone
    if seconds is None:
        updates = -(-config.train.seen // batch)
    else:
        left = (seconds - (clock() - start)) * (1 - OVERHEAD)
        updates = updates_within(left, fastest, config.train, len(data))
        if left < fastest:
            _say_what_took_all_of(seconds)
        elif updates < int(left / fastest):
            times = updates * batch // len(data)
            warnings.warn(
                f"{len(data):,} examples are few for so much time: training ends when each was "
                f"seen {times:,} times, before they are learned by heart; --seen goes on.",
                Notice,
                stacklevel=2,
            )
    train = replace(config.train, precision=best, seen=updates * batch)
    return replace(config, train=train), threads


def updates_within(seconds: float, pace: float, train: TrainConfig, examples: int) -> int:
    """How many updates of `pace` seconds fit, one at least: no more than `train.epochs` take.

    But for `FEWEST`, by which a network has hardly begun.
    """
    updates, most = max(1, int(seconds / pace)), train.epochs * examples // train.batch
    return min(updates, max(FEWEST, most)) if train.epochs else updates


def _say_what_took_all_of(seconds: float) -> None:
    took = (
        f"Finding out how fast this machine trains took all of the {seconds:.0f} seconds"
        if seconds > 0
        else "Reading the data took all of the time"
    )
    warnings.warn(
        f"{took}: one batch is trained. Give more --minutes, or --seen.", Notice, stacklevel=3
    )


def time_of_update(
    config: RunConfig,
    precision: Precision,
    data: Dataset,
    device: torch.device,
    world: World,
    limit: float,
    clock: Clock = time.monotonic,
) -> float:
    """Seconds of one update, the median over about `limit` seconds of a training thrown away.

    Of four updates at least, of which the first two are warming up; of two at least, the first of
    them warming up, once they take `PATIENCE` limits.
    """
    trial = replace(config, train=replace(config.train, precision=precision))
    training = Training(trial, data, device=device, world=world)
    times: list[float] = []
    start = clock()
    while True:
        before = clock()
        training.update()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = clock()
        times.append(now - before)
        least = 2 if now - start >= PATIENCE * limit else 4
        if world.count(len(times) >= least and now - start >= limit):
            break
    return median(times[min(2, len(times) - 1) :])
