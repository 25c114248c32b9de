"""A training in memory: the weights, all that changes with them, and one update of it."""

import zlib
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..core.denoise import NetDenoiser
from ..core.times import TimeDistribution
from ..data.dataset import Dataset
from ..errors import UsageError
from ..runs.config import RunConfig
from ..runs.vocabulary import Vocabulary
from .aims import Denoising, aim_of
from .device import World, autocast
from .draws import Batch
from .ema import Averages
from .guard import Guard, Verdict
from .lessons import Lessons
from .memory import examples_at_once
from .optimise import build_optimizers, learning_rate, restore, tensors_of


class Saved(Protocol):
    """What `Training.restore` reads."""

    @property
    def seen(self) -> int: ...

    @property
    def state(self) -> dict[str, Any]: ...

    def load(self, part: str) -> dict[str, Tensor]: ...


@dataclass
class Tally:
    """What has happened since the last row of the log.

    Args:
        loss: Sum of the mean losses of the updates taken.
        updates: How many.
        order: A checksum of the examples seen since the start, in order.
    """

    loss: float = 0.0
    updates: int = 0
    order: int = 0

    @property
    def mean(self) -> float:
        return self.loss / self.updates if self.updates else torch.nan


class Training:
    """A run in training. Its whole future is a function of its state: there is no other memory.

    Args:
        config: Of the run; ``precision`` settled.
        data: The training examples, on the device.
        device: Of the network.
        world: The processes that share each batch.

    Attributes:
        aim: What is trained.
        weights: Of that, in order.
        averages: Of the weights.
        optimizers: Which together move all weights.
        guard: What it remembers of recent losses.
        tally: What the next row of the log will say.
        seen: Examples seen: the clock.
        micro: Examples at once.
        halvings: How often the learning rate was halved after a roll-back.
        indices: Of the examples of the last batch.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Dataset,
        *,
        device: torch.device | None = None,
        world: World | None = None,
    ) -> None:
        self.config, self.data = config, data
        self.device, self.world = device or torch.device("cpu"), world or World()
        if config.train.batch < self.world.size:
            raise UsageError(
                f"A batch of {config.train.batch} cannot be shared by {self.world.size} "
                "processes: start fewer, or raise [train] batch."
            )
        self.aim = aim_of(config, data, vocabulary_of(data), self.device)
        if self.aim.together and self.world.size > 1:
            raise UsageError(
                "An encoder tells each pair from all others of its batch, in one process: start it "
                "without torchrun."
            )
        learner = self.aim.learner.train()
        self.weights = list(learner.parameters())
        self.averages = Averages(learner, config.train.ema)
        self.optimizers = build_optimizers(learner, config.train)
        self.guard, self.tally = Guard(), Tally()
        self.seen, self.halvings = 0, 0
        self.micro = config.train.micro_batch or config.train.batch
        if config.train.memory == "low":
            largest = torch.tensor([data.captions.longest if data.captions else 0])
            one = self.aim.draw(data, largest, 0, slice(1))
            self.micro = min(self.micro, examples_at_once(self.aim.learner, one))
        self.indices = torch.empty(0, dtype=torch.int64)

    @property
    def denoiser(self) -> NetDenoiser:
        """What is trained, if it is a denoiser."""
        return self._denoising.denoiser

    @property
    def lessons(self) -> Lessons | None:
        """Of its teacher, if it is a student."""
        return self._denoising.lessons

    @property
    def times(self) -> TimeDistribution:
        """Which noise levels it is trained on, if it is a denoiser."""
        return self._denoising.times

    @property
    def _denoising(self) -> Denoising:
        assert isinstance(self.aim, Denoising)
        return self.aim

    def update(self) -> Verdict:
        """Train on the next batch: one step of the weights, one of the clock."""
        config, seed, count = self.config.train, self.config.seed, self.config.train.batch

        # --- Data and noise: functions of (seed, seen)
        self.indices = self.data.order(seed, range(self.seen, self.seen + count))
        batch = self.aim.draw(self.data, self.indices, self.seen, self.world.share(count))

        # --- Loss and gradient, over all processes
        total = self.gradient(batch)
        gradients = [p.grad for p in self.weights if p.grad is not None]
        self.world.sum([*gradients, total])

        # --- Guard
        norm = get_total_norm(gradients)
        loss, size = torch.stack([total, norm]).tolist()  # the one wait for the device
        verdict = self.guard.judge(loss, size)

        # --- Clip and step
        if verdict is Verdict.TAKE:
            clip_grads_with_norm_(self.weights, config.clip, norm)
            for optimizer in self.optimizers:
                optimizer.step(self.learning_rate)
            self.tally.loss += loss
            self.tally.updates += 1

        # --- Average the weights, and move the clock
        self.averages.update(self.seen, self.seen + count)
        self.tally.order = zlib.crc32(self.indices.numpy().tobytes(), self.tally.order)
        self.seen += count
        return verdict

    def gradient(self, batch: Batch) -> Tensor:
        """Set the gradient of the mean loss over the global batch; give this process's share.

        What does not fit into memory is taken in pieces half as large, from then on: the same
        examples, the same noise, the same sum.
        """
        while True:
            try:
                return self._accumulate(batch)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            size = min(self.micro, len(batch))
            if self.aim.together:
                raise UsageError(
                    f"A batch of {size} does not fit into memory, and is told apart as a whole: "
                    "lower [train] batch."
                )
            if size == 1:
                raise UsageError(
                    "A single example does not fit into memory: choose a smaller [net] size."
                )
            self.micro = ceil(size / 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _accumulate(self, batch: Batch) -> Tensor:
        for p in self.weights:
            p.grad = None
        total = torch.zeros((), device=self.device)
        for part in batch.parts(self.micro):
            with autocast(self.device, self.precision):
                losses = self.aim.learner.loss(part.x, part.t, part.eps, **part.cond)
            loss = self.aim.weigh(losses).sum() / self.config.train.batch
            loss.backward()
            total += loss.detach()
        return total

    @property
    def learning_rate(self) -> float:
        """Of the update that begins at `seen`: the schedule at its middle."""
        middle = self.seen + self.config.train.batch / 2
        return learning_rate(middle, self.config.train) / 2**self.halvings

    @property
    def precision(self) -> Any:
        return self.config.train.precision

    # --- Checkpoints

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """All tensors of a checkpoint, by file."""
        averages = {f"ema-{i}": d.state_dict() for i, d in enumerate(self.averages.learners)}
        optimizer = tensors_of(self.optimizers)
        return {"model": self.aim.learner.state_dict(), **averages, "optimizer": optimizer}

    def state(self) -> dict[str, Any]:
        """All else of a checkpoint, as plain values."""
        return {
            "guard": self.guard.to_dict(),
            "tally": asdict(self.tally),
            "micro": self.micro,
            "halvings": self.halvings,
        }

    def restore(self, checkpoint: Saved) -> None:
        """Go back to where `parts` and `state` were taken."""
        self.aim.learner.load_state_dict(checkpoint.load("model"))
        for i, learner in enumerate(self.averages.learners):
            learner.load_state_dict(checkpoint.load(f"ema-{i}"))
        restore(self.optimizers, checkpoint.load("optimizer"))
        state = checkpoint.state
        self.guard = Guard.from_dict(state["guard"])
        self.tally = Tally(**state["tally"])
        self.micro, self.halvings = state["micro"], state["halvings"]
        self.seen = checkpoint.seen


def vocabulary_of(data: Dataset) -> Vocabulary:
    """The words for the conditions of a dataset."""
    known = data.attributes
    return Vocabulary(
        classes=tuple(data.classes),
        attributes=known.names if known else (),
        means=known.mean if known else (),
        stds=known.std if known else (),
        context=data.given.channels if data.given else 0,
        block=data.given.block if data.given else 1,
        words=data.captions.kept if data.captions else None,
        embedding=data.embedded.values.shape[1] if data.embedded else 0,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch's allocator on the CPU says so in words only."""
    named = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return named or "can't allocate memory" in str(error)
