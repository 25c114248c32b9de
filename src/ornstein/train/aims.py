"""What a training makes better: a denoiser, an autoencoder, or an encoder."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.denoise import NetDenoiser
from ..core.sample import SAMPLERS, Ancestral, OnStep, start
from ..core.times import LogSNRGrid
from ..data.dataset import Dataset, draws_at
from ..errors import UsageError
from ..nets.contrastive import Contrast
from ..nets.reconstruction import Reconstruction
from ..rng import generator, normal
from ..runs.building import GRIDS, build_denoiser, build_times
from ..runs.config import RunConfig
from ..runs.embedding import build_encoder
from ..runs.embedding import keep_measured as keep_embeddings
from ..runs.folder import RunFolder
from ..runs.latents import build_autoencoder, keep_measured
from ..runs.vocabulary import Vocabulary
from .adapt import base_of, go_on_from
from .device import autocast
from .doctor import Doctor
from .draws import Batch, draw, turns
from .lessons import DRAWS, lessons_of
from .validation import PIECE, Validation, held_batch

Learner = NetDenoiser | Reconstruction | Contrast
"""A module with the loss of each example of a batch: ``learner.loss(x, t, eps, **cond)``."""

STEPS = 12  # of a preview


class Aim(ABC):
    """What is trained, on what, and what is looked at on the way.

    Attributes:
        learner: With the weights that are trained.
        config: Of the run.
        together: Whether the loss of an example depends on the others of its batch.
    """

    together: ClassVar[bool] = False
    learner: Learner
    config: RunConfig

    @property
    def precision(self) -> Any:
        """Of the network's products, settled."""
        return self.config.train.precision

    @abstractmethod
    def draw(self, data: Dataset, indices: Tensor, seen: int, share: slice) -> Batch:
        """The batch at `seen`, a function of the seed and `seen`.

        Args:
            data: The training examples.
            indices: Which of them, over all processes.
            seen: Where training stands.
            share: Of this process.
        """

    def weigh(self, losses: Tensor) -> Tensor:
        """The losses of a batch, as they count."""
        return losses

    @abstractmethod
    def validation(self, held: Dataset, count: int) -> Validation:
        """The loss on held-out examples, `count` terms of it, always with the same noise."""

    def doctor(self, data: Dataset, held: Dataset, count: int) -> Doctor | None:
        """Who says in words how it goes, if there is somebody."""
        return None

    @abstractmethod
    def shown(self, learner: Learner, data: Dataset, count: int, on_step: OnStep) -> Tensor:
        """About `count` examples to look at ``(B, C, *S)``, from what is trained or its average."""

    def finish(self, folder: RunFolder, learner: Learner, data: Dataset) -> None:
        """Keep what can be known only now that training is over."""
        return


class Denoising(Aim):
    """To denoise; or, as a student, what its lessons say.

    Attributes:
        denoiser: That is trained.
        lessons: Of its teacher, if it is a student.
        times: Which noise levels to train on.
    """

    def __init__(self, config: RunConfig, data: Dataset, words: Vocabulary, device: torch.device):
        denoiser = build_denoiser(config, data.codec.shape, words)
        self.lessons = lessons_of(config, words, device)
        if config.adapt.base and self.lessons is None:  # a student begins as its teacher
            go_on_from(base_of(config), denoiser, config)
        self.config, self.denoiser, self.learner = config, denoiser, denoiser.to(device)
        if self.lessons is not None:
            own = denoiser.state_dict()
            known = {k: v for k, v in self.lessons.weights.items() if k in own}
            denoiser.load_state_dict(own | known)
        self.times = self.lessons.times if self.lessons else build_times(config.times)

    def draw(self, data: Dataset, indices: Tensor, seen: int, share: slice) -> Batch:
        seed, by = self.config.seed, self.config.embedding
        decodes = bool(by.encoder) and by.role == "decoder"
        schedule = self.denoiser.schedule
        shared = self.lessons.shared if self.lessons else 1
        batch = draw(
            data,
            indices,
            schedule,
            self.times,
            seed=seed,
            seen=seen,
            hide=self.config.train.condition_dropout,
            silent=by.silent if decodes else 0.0,
            share=share,
            shared=shared,
        )
        if self.lessons is None:
            return batch
        draws = torch.from_numpy(generator(seed, "lesson", seen).random((len(indices), DRAWS)))
        draws[:, 0] = draws[turns(len(indices), shared), 0]  # one weight of guidance for each noise
        return self._taught(batch, draws[share])

    def weigh(self, losses: Tensor) -> Tensor:
        return losses if self.lessons is None else self.lessons.weigh(losses)

    def validation(self, held: Dataset, count: int) -> Validation:
        schedule = self.denoiser.schedule
        batch = held_batch(held, schedule, self.times, count=count, seed=self.config.seed)
        if self.lessons is not None:
            batch = self._taught(batch, torch.zeros(len(batch), DRAWS))
        return Validation(batch, self.precision)

    def _taught(self, batch: Batch, draws: Tensor) -> Batch:
        assert self.lessons is not None
        with autocast(batch.x.device, self.precision):
            return self.lessons(batch, draws.to(batch.x.device), self.denoiser)

    def doctor(self, data: Dataset, held: Dataset, count: int) -> Doctor | None:
        if self.lessons is not None:  # the loss of a student means little
            return None
        return Doctor(
            data,
            held,
            self.denoiser,
            self.times,
            count=count,
            seed=self.config.seed,
            precision=self.precision,
            own_units=not (
                self.config.adapt.base or self.config.latent or self.config.net.kind == "unet2d"
            ),
        )

    def shown(self, learner: Learner, data: Dataset, count: int, on_step: OnStep) -> Tensor:
        assert isinstance(learner, NetDenoiser)
        shape, device = data.codec.shape, next(learner.parameters()).device
        eps = normal((count, *shape), self.config.seed, "preview").to(device)
        turns, cond = torch.arange(count, device=device), dict[str, Tensor]()
        if data.classes:
            cond["label"] = turns % len(data.classes)
        if data.given is not None:
            cond["context"] = data.given.context(turns % len(data), shape[1:])
        if data.embedded is not None:
            cond["embedding"] = data.embedded.tensor(turns % len(data))
        sampler, times = Ancestral(eta=0), LogSNRGrid()(learner.schedule, STEPS)
        if self.lessons is not None:  # a student is good at its own steps alone
            plan = self.config.sample
            sampler, times = SAMPLERS[plan.sampler], GRIDS[plan.grid](learner.schedule, plan.steps)
        x = start(learner.schedule, times[0], eps)
        return sampler(learner.given(**cond), x, times, on_step=on_step)


class Reconstructing(Aim):
    """To bring examples back from few numbers."""

    def __init__(self, config: RunConfig, data: Dataset, device: torch.device) -> None:
        c, shape = config.autoencoder, data.codec.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = build_autoencoder(config, shape)
            learner = Reconstruction(net, shape[0], kl=c.kl, features=c.features, critic=c.critic)
        self.config, self.learner = config, learner.to(device)
        self.latents = (c.channels, *(-(-n // c.factor) for n in shape[1:]))

    def draw(self, data: Dataset, indices: Tensor, seen: int, share: slice) -> Batch:
        count, seed = len(indices), self.config.seed
        varied = None
        if data.options.augmentations or data.patches is not None:
            varied = draws_at(seed, torch.arange(seen, seen + count))[share]
        x, _ = data.batch(indices[share], varied)
        return self._batch(x, normal((count, *self.latents), seed, "noise", seen)[share])

    def validation(self, held: Dataset, count: int) -> Validation:
        x, _ = held.batch(torch.arange(count) % len(held))
        eps = normal((count, *self.latents), self.config.seed, "validation")
        return Validation(self._batch(x, eps), self.precision)

    def shown(self, learner: Learner, data: Dataset, count: int, on_step: OnStep) -> Tensor:
        """Originals, each beside its reconstruction."""
        assert isinstance(learner, Reconstruction)
        net, x = learner.autoencoder, data.batch(torch.arange(min(count // 2, len(data))))[0]
        with torch.no_grad():
            back = net.decode(net.encode(x))[(..., *(slice(n) for n in x.shape[2:]))]
        return torch.stack([x, back.to(x)], 1).flatten(0, 1)

    def finish(self, folder: RunFolder, learner: Learner, data: Dataset) -> None:
        assert isinstance(learner, Reconstruction)
        keep_measured(folder, data, learner.autoencoder)

    def _batch(self, x: Tensor, eps: Tensor) -> Batch:
        never = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Batch(x, never, eps.to(x), {})


class Contrasting(Aim):
    """To tell which caption belongs to which picture."""

    together = True

    def __init__(
        self, config: RunConfig, data: Dataset, words: Vocabulary, device: torch.device
    ) -> None:
        train, numbers = config.train, config.embedding.numbers
        if 0 < train.micro_batch < train.batch or train.memory == "low":
            raise UsageError(
                "An encoder tells each pair from all others of its batch: leave [train] "
                "micro_batch and memory out, and lower batch."
            )
        assert words.words is not None  # of what has captions, which is all that was read
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = build_encoder(config.net, numbers, config.seed, data.codec.shape, words.words)
            learner = Contrast(net, config.embedding.coarse)
        self.config, self.learner = config, learner.to(device)

    def draw(self, data: Dataset, indices: Tensor, seen: int, share: slice) -> Batch:
        varied = draws_at(self.config.seed, torch.arange(seen, seen + len(indices)))
        return self._batch(*data.batch(indices[share], varied[share]))

    def validation(self, held: Dataset, count: int) -> Validation:
        some = torch.arange(min(PIECE, self.config.train.batch)) % len(held)
        return Validation(self._batch(*held.batch(some)), self.precision)

    def shown(self, learner: Learner, data: Dataset, count: int, on_step: OnStep) -> Tensor:
        """Pictures, each beside the one of all these that its caption is nearest to."""
        assert isinstance(learner, Contrast)
        x, cond = data.batch(torch.arange(min(count // 2, len(data))))
        with torch.no_grad():
            texts, pictures = learner.towers.of_texts(cond["text"]), learner.towers.of_pictures(x)
        return torch.stack([x, x[(texts @ pictures.T).argmax(1)]], 1).flatten(0, 1)

    def finish(self, folder: RunFolder, learner: Learner, data: Dataset) -> None:
        assert isinstance(learner, Contrast)
        keep_embeddings(folder, data, learner.towers)

    def _batch(self, x: Tensor, cond: dict[str, Tensor]) -> Batch:
        never = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Batch(x, never, x.new_zeros(len(x), 0), {"text": cond["text"]})


def aim_of(config: RunConfig, data: Dataset, words: Vocabulary, device: torch.device) -> Aim:
    """What the configuration is for."""
    if config.net.kind == "autoencoder":
        return Reconstructing(config, data, device)
    if config.net.kind == "contrastive":
        return Contrasting(config, data, words, device)
    return Denoising(config, data, words, device)
