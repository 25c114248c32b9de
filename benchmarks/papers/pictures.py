"""Pictures to hold papers to: trainings that the scripts share, and a distance with its floor."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from claims import Scale
from torch import Tensor

from ornstein.core.denoise import Denoiser
from ornstein.core.sample import Sampler, start
from ornstein.data import DataOptions, Dataset, open_data
from ornstein.data.codec import Codec
from ornstein.evaluate.features.labelled import fixed_features, train_labeller
from ornstein.evaluate.measures.distances import frechet_distance
from ornstein.rng import generator, normal
from ornstein.runs.config import NetConfig, RunConfig
from ornstein.runs.folder import RunFolder
from ornstein.runs.model import Model, load
from ornstein.train import train
from ornstein.train.recipes import ddpm

NUMBERS = 2**15  # drawn at once

Columns = dict[str, list[float]]
"""Values by name, one for each seed."""


def add(columns: Columns, row: Mapping[str, float]) -> None:
    """Append what one more seed gave."""
    for name, value in row.items():
        columns.setdefault(name, []).append(value)


# --- Trainings -----------------------------------------------------------------------------------


def settings(scale: Scale, seed: int, seen: int = 192_000) -> RunConfig:
    """DDPM as in the paper, T = 1000 and L_simple, on a small U-Net that is told no class.

    The learning rate is constant, so that the run at any `seen` is that of a smaller budget, and
    a width of the averages has a best value. Half of the digits are held out.
    """
    config, digits = ddpm(1000, size=16, rate=1e-3), scale.data == "digits"
    train = replace(
        config.train,
        seen=scale(seen, 128),
        batch=scale(64, 32),
        precision="f32",
        condition_dropout=1.0,
        ema=(0.1, 0.05, 0.2),
        ema_snapshots=scale(24, 2),
    )
    return replace(
        config,
        source=scale.source,
        seed=seed,
        data=DataOptions(
            validation=0.5 if digits else 0.1,
            size=None if digits else 16,
            limit=scale(None if digits else 20_000, 256),
        ),
        net=NetConfig(kind="unet", size=scale(16 if digits else 32, 8), depth=scale(0, 1)),
        train=train,
    )


def trained(scale: Scale, config: RunConfig) -> RunFolder:
    """The run of that configuration: made now, gone on with, or made before."""
    name = hashlib.sha256(config.to_toml().encode()).hexdigest()[:16]
    place = scale.cache / f"{config.net.kind}-{config.seed}-{name}"
    if not (place / "run.json").exists():
        return train(config.source, out=place, config=config)
    latest = RunFolder.open(place).latest("ema-0")
    if latest is None or latest.seen < config.train.seen:
        return train(out=place, resume=True)
    return RunFolder.open(place)


def model_of(scale: Scale, config: RunConfig, seen: int | None = None) -> Model:
    """The model, or what it was at `seen`; with the first of the averages."""
    width = None if seen is None else config.train.ema[0]
    return load(trained(scale, config).path, seen=seen, sigma_rel=width)


# --- Samples -------------------------------------------------------------------------------------


def noise_of(seed: int) -> Callable[[Tensor], Tensor]:
    """Fresh noise for stochastic samplers, the same for all that are compared."""
    draw = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=draw).to(like)


def draw(
    model: Model,
    sampler: Sampler,
    times: Tensor,
    count: int,
    *,
    seed: int = 0,
    denoiser: Denoiser | None = None,
) -> Tensor:
    """Examples ``(count, C, *S)`` from the same starting noise, whatever the sampler."""
    denoiser, found = denoiser or model.denoiser, []
    eps = normal((count, *model.shape), "papers", "start", seed)
    for i, part in enumerate(eps.split(NUMBERS // eps[0].numel())):
        x = start(denoiser.schedule, times[0], part)
        found.append(sampler(denoiser, x, times, noise=noise_of(1000 * seed + i)))
    return torch.cat(found)


def as_files(codec: Codec, x: Tensor) -> Tensor:
    """x as it is after it was written and read: clipped, and rounded to the levels of the data."""
    return codec.pack(torch.from_numpy(codec.stored(x)))


# --- The distance --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Yardstick:
    """The Frechet distance to held-out pictures, on learned and on fixed features.

    Args:
        train: The examples of the run.
        held_out: Those it never saw.
        seed: Of the split.
    """

    train: Dataset
    held_out: Dataset
    seed: int

    @classmethod
    def of(cls, config: RunConfig) -> "Yardstick":
        data = open_data(config.source, config.data)
        return cls(*data.split(config.data.validation, config.seed), config.seed)

    @property
    def size(self) -> int:
        """The most examples that both sides have; the bias of the distance falls with it."""
        return min(len(self.train), len(self.held_out))

    def __call__(self, samples: Tensor) -> dict[str, float]:
        """Of samples as files hold them, from as many held-out examples, in each space."""
        return self._distances(as_files(self.train.codec, samples))

    def floor(self, count: int) -> dict[str, float]:
        """The same of `count` training examples: what real pictures reach."""
        rows = generator("papers", "floor", self.seed).permutation(len(self.train))[:count]
        return self._distances(self.packed(self.train, rows))

    def _distances(self, x: Tensor) -> dict[str, float]:
        rows = generator("papers", "held", self.seed).permutation(len(self.held_out))[: len(x)]
        if len(rows) < len(x):
            raise ValueError(f"expected at most {len(rows)} samples, got {len(x)}")
        real = self.packed(self.held_out, rows)
        return {
            space: frechet_distance(encode(x.numpy()), encode(real.numpy()))
            for space, encode in self.encoders.items()
        }

    @property
    def encoders(self) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        return _encoders(self)

    def packed(self, data: Dataset, rows: np.ndarray | None = None) -> Tensor:
        stored = data.stored if rows is None else data.stored[torch.from_numpy(rows.copy())]
        return data.codec.pack(stored)


@cache
def _encoders(yardstick: Yardstick) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    train, held = yardstick.train, yardstick.held_out
    assert train.label is not None and held.label is not None
    learned = train_labeller(
        yardstick.packed(train).numpy(),
        train.label.numpy(),
        yardstick.packed(held).numpy(),
        held.label.numpy(),
    )
    return {"learned": learned.features, "fixed": fixed_features(train.codec.shape)}
