"""The smallest training that is one: an MLP on points in the plane."""

import hashlib
from dataclasses import replace
from typing import Any

import torch

from ornstein.data import DataOptions, open_data
from ornstein.data.dataset import Dataset
from ornstein.runs.config import (
    DenoiserConfig,
    NetConfig,
    RunConfig,
    ScheduleConfig,
    TimesConfig,
    TrainConfig,
)
from ornstein.train.signals import Stop
from ornstein.train.training import Training


def tiny_config(size: int = 16, depth: int = 1, seed: int = 0, **train: Any) -> RunConfig:
    """EDM on an MLP; `train` overrides a short f32 AdamW training."""
    common: dict[str, Any] = {"seen": 640, "batch": 32, "precision": "f32", "learning_rate": 3e-3}
    return RunConfig(
        source="swiss-roll",
        seed=seed,
        data=DataOptions(limit=200),
        net=NetConfig(kind="mlp", size=size, depth=depth),
        schedule=ScheduleConfig(name="karras"),
        denoiser=DenoiserConfig(prediction="balanced", weighting="balanced"),
        times=TimesConfig(mean=-1.2, std=1.2),
        train=TrainConfig(**{**common, **train}),
    )


def points(count: int = 200) -> Dataset:
    return open_data("swiss-roll", DataOptions(limit=count))


def labelled_points(count: int = 200) -> Dataset:
    """The same, labelled by the sign of the first coordinate."""
    data = points(count)
    return replace(data, label=(data.stored[:, 0] > 0).long(), classes=["left", "right"])


def trained(config: RunConfig, data: Dataset, updates: int | None = None) -> Training:
    training = Training(config, data)
    for _ in range(updates or config.train.seen // config.train.batch):
        training.update()
    return training


def digest(training: Training) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of everything a checkpoint would hold."""
    sha = hashlib.sha256(repr(training.state()).encode())
    for part, tensors in sorted(training.parts().items()):
        for name, value in sorted(tensors.items()):
            sha.update(f"{part}/{name} {value.dtype} {tuple(value.shape)}".encode())
            sha.update(value.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()


def weights(training: Training) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in training.denoiser.parameters()])


def resumed_and_whole(config: RunConfig, data: Dataset, half: int) -> tuple[str, str]:
    """Digests of a training that stopped after `half` of its updates, and of one that did not."""
    whole, first, second = (Training(config, data) for _ in range(3))
    for _ in range(2 * half):
        whole.update()
    for _ in range(half):
        first.update()
    parts, state = first.parts(), first.state()

    class Kept:
        seen = first.seen

        def load(self, part):
            return parts[part]

    Kept.state = state
    second.restore(Kept())
    for _ in range(half):
        second.update()
    return digest(second), digest(whole)


class Looks(Stop):
    """Set once it was looked at `n` times."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0
