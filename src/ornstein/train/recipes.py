"""Configurations that are known to work: one for any data, and those of papers."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Literal, get_args

from ..data.dataset import Dataset
from ..data.options import DataOptions
from ..errors import Notice, UsageError
from ..runs.config import (
    DenoiserConfig,
    EmbeddingConfig,
    NetConfig,
    RunConfig,
    SampleConfig,
    ScheduleConfig,
    TimesConfig,
    TrainConfig,
)
from ..runs.embedding import embedded, encoder_of
from ..runs.latents import LatentCodec, encoded, latents_of
from .device import choose_device

Kind = Literal["mlp", "unet", "unet2d"]
Ahead = Literal["flow-map", "mean-flow"]
NO_EMBEDDING = EmbeddingConfig()

SHORT = 15.0  # minutes, below which a small network learns more
ASKED = 30.0  # minutes, likewise for latents of what is asked for in words
MOMENT = 5.0  # minutes, likewise for points
FEW = 300  # pictures, which are soon known by heart
GPU = 30.0  # minutes of two cores, about, to which one of a GPU comes
AHEAD: tuple[Ahead, ...] = get_args(Ahead)


def auto(data: Dataset, minutes: float | None, gpu: bool) -> RunConfig:
    """What to do if nobody says: flow matching for pictures, EDM for points.

    In the first minutes of training the learning rate matters most, then the batch, then the
    optimiser and the prediction; later, optimisers differ little. Points have structure at small
    noise, which the times of EDM reach and those of flow matching do not. What pictures are like at
    large is settled where nearly all is noise, and there the steps of a draw are short.

    Args:
        data: Examples of what to train on, or none of them: what they are like.
        minutes: The time there is; None for plenty.
        gpu: Whether a GPU will train it.
    """
    if gpu:
        return on_gpu(auto(data, minutes and minutes * GPU, gpu=False))
    if len(data.codec.shape) == 1 and data.embedded is not None:
        return embeddings()
    if len(data.codec.shape) == 1:
        config = points() if minutes is None or minutes >= MOMENT else few_points()
        epochs = epochs_of(data.codec.shape[0]) * (config.train.batch // points().train.batch)
        return replace(config, train=replace(config.train, epochs=epochs))
    pixels = prod(data.codec.shape[1:])
    short = minutes is not None and minutes < SHORT
    if isinstance(data.codec, LatentCodec) and pixels <= 256:
        if data.embedded is not None:
            return asked_for("embeddings", 64 if short else 80)
        if data.captions is not None:
            brief = minutes is not None and minutes < ASKED
            return asked_for("words", 64, 128) if brief else asked_for("words", 80)
    small = short or pixels <= 256
    return RunConfig(
        net=NetConfig(kind="unet", size=32 if small else 64),
        train=TrainConfig(
            batch=64 if pixels <= 256 else 32,
            optimizer="muon",
            learning_rate=4e-3 if short else 2e-3,
        ),
        sample=SampleConfig(grid="early"),
    )


def asked_for(by: Literal["words", "embeddings"], size: int, batch: int = 64) -> RunConfig:
    """Latents of pictures that are asked for.

    Where things stand is settled while there is much noise, of which it sees more. One block at
    each level leaves time for more examples, as large batches do in little of it. Of words,
    guidance is strong, without the part along the estimate, which would glare.
    """
    strong = SampleConfig(steps=32, guidance=7.0, guidance_parallel=0.0)
    return RunConfig(
        net=NetConfig(kind="unet", size=size, depth=1),
        train=TrainConfig(batch=batch, optimizer="muon", learning_rate=4e-3),
        times=TimesConfig(name="log-normal", mean=0.2, std=1.2),
        sample=strong if by == "words" else SampleConfig(),
    )


def epochs_of(numbers: int) -> int:
    """After how many epochs rows of so many numbers begin to be learned by heart.

    By `points`; on batches twice as large it is twice as many. Rows of two or three numbers lie
    near others wherever they lie; those of more do not, be there a hundred of them or thousands.
    """
    return round(200 * max(1.0, (6 / numbers) ** 2))


def varied(data: Dataset) -> DataOptions:
    """How the data are read: as they say; but few pictures are moved, if they do not say.

    By up to an eighth of their side each way, of which the network is told, so that what it draws
    is not. A network that sees each of a hundred digits fifty times begins to learn them by heart;
    moved, it does not. Three hundred that it sees a hundred times are the same to it either way.

    Source: the eighth: Karras et al. (2020), https://arxiv.org/abs/2006.06676, appendix B.
    """
    options, side = data.options, min(data.codec.shape[1:], default=0)
    undecided = options.shift is None and data.given is None and data.patches is None
    if len(data) >= FEW or side < 8 or not (undecided and len(data.codec.shape) == 3):
        return options
    most = min(64, side // 8)
    warnings.warn(
        f"{len(data):,} pictures are few, and soon known by heart: they are moved by up to {most} "
        f"pixel{'s' * (most > 1)} in training; --data.shift 0 leaves them where they are.",
        Notice,
        stacklevel=3,
    )
    return replace(options, shift=most)


def on_gpu(config: RunConfig) -> RunConfig:
    """What suits a processor, for a GPU, which small batches and networks leave idle.

    Batches four times as large ask for twice the learning rate, a network twice as wide for half
    of it; so it stays. What this is worth has not been measured.
    """
    net, train = replace(config.net, size=2 * config.net.size), config.train
    return replace(
        config, net=net, train=replace(train, batch=4 * train.batch, epochs=4 * train.epochs)
    )


def points() -> RunConfig:
    """An MLP with EDM's preconditioning and noise levels."""
    return RunConfig(
        net=NetConfig(kind="mlp", size=128),
        schedule=ScheduleConfig(name="karras"),
        denoiser=DenoiserConfig(prediction="balanced", weighting="balanced"),
        times=TimesConfig(name="log-normal", mean=-1.2, std=1.2),
        train=TrainConfig(batch=256, learning_rate=3e-3),
        sample=SampleConfig(sampler="adams-bashforth", steps=20, grid="straight"),
    )


def embeddings() -> RunConfig:
    """Embeddings of pictures, told a text: what `points` are, but for what it takes to read.

    What a text decides of them is decided while there is much noise, of which it sees more; and
    texts are learned to be read in many updates.
    """
    config = points()
    return replace(
        config,
        times=TimesConfig(name="log-normal", mean=0.5, std=1.5),
        train=replace(config.train, batch=64),
        sample=replace(config.sample, guidance=2.0),
    )


def autoencoder() -> RunConfig:
    """Pictures four times smaller each way, in four channels, nearly normal by themselves.

    Its weights are averaged over the end of the training alone.
    """
    return RunConfig(
        net=NetConfig(kind="autoencoder", size=32),
        train=TrainConfig(batch=32, optimizer="muon", learning_rate=4e-3, ema=(0.02,)),
    )


def contrastive() -> RunConfig:
    """An encoder of pictures and texts: large batches, in which many are to be told apart."""
    return RunConfig(
        net=NetConfig(kind="contrastive", size=32),
        train=TrainConfig(batch=128, optimizer="muon", learning_rate=1e-2, ema=(0.05,)),
    )


def few_points() -> RunConfig:
    """The same with a network of a ninth of the weights, on larger batches."""
    config = points()
    train = replace(config.train, batch=512, learning_rate=6e-3)
    return replace(config, net=NetConfig(kind="mlp", size=48, depth=3), train=train)


def ddpm(steps: int, *, kind: Kind = "unet", size: int = 64, rate: float = 2e-4) -> RunConfig:
    """The noise prediction, schedule and ancestral sampler of the paper, with T = `steps`.

    The betas, 0.1 / T to 20 / T, are the paper's at T = 1000; at any T they end in noise.

    Source: Ho et al. (2020), https://arxiv.org/abs/2006.11239.
    """
    mlp, betas = kind == "mlp", {"steps": steps, "beta_first": 0.1 / steps, "beta_last": 20 / steps}
    return RunConfig(
        net=NetConfig(kind=kind, size=size),
        schedule=ScheduleConfig(name="ddpm", options=betas),
        denoiser=DenoiserConfig(prediction="noise", weighting="simple"),
        times=TimesConfig(name="uniform"),
        train=TrainConfig(batch=512 if mlp else 64, learning_rate=rate, decay="none"),
        sample=SampleConfig(sampler="ddpm", steps=steps, grid="stride"),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "points": points,
    "autoencoder": autoencoder,
    "contrastive": contrastive,
    "ddpm-swiss-roll": lambda: ddpm(40, kind="mlp", size=128, rate=1e-3),
    "ddpm-digits": lambda: ddpm(500, size=32, rate=1e-3),
    "ddpm": lambda: ddpm(1000),
    "diffusers": lambda: ddpm(1000, kind="unet2d"),
}


def ahead(config: RunConfig, method: Ahead, steps: int = 4) -> RunConfig:
    """A run of the same network that learns to take few steps, on the path of rectified flow.

    The network predicts the same, so that it can begin as one that was trained before.
    """
    return replace(
        config,
        schedule=ScheduleConfig(name="flow"),
        denoiser=replace(config.denoiser, weighting="flow", uncertainty=False),
        sample=SampleConfig(sampler="leap", steps=steps, grid="uniform"),
        distill=replace(config.distill, method=method),
    )


def sized(config: RunConfig, size: int) -> RunConfig:
    """`config` with a network of another width, and a learning rate that suits it.

    The best rate of Muon was found to be as 0.15 over the width, between widths of 16 and 64. So a
    network that is wider than the recipe's learns at a rate that is lower by as much; a narrower
    one keeps the recipe's, as does what AdamW trains.
    """
    rate, wider = config.train.learning_rate, max(1.0, size / config.net.size)
    train = config.train
    if train.optimizer == "muon":
        train = replace(train, learning_rate=rate / wider)
    return replace(config, net=replace(config.net, size=size), train=train)


def recipe(
    data: Dataset,
    name: str = "auto",
    minutes: float | None = None,
    *,
    latent: str | Path = "",
    embedding: EmbeddingConfig = NO_EMBEDDING,
    size: int | None = None,
    device: str = "auto",
) -> RunConfig:
    """The recipe of that name, for these data.

    Args:
        data: What to train on.
        name: `auto`, `flow-map`, `mean-flow`, or a key of `RECIPES`.
        minutes: The time there is; None for plenty.
        latent: The run of an autoencoder, in whose latents to learn; empty for none.
        embedding: Whether to learn, or be told, the embeddings of an encoder.
        size: Width of the network, in place of the recipe's; see `sized`.
        device: Where it will be trained: ``auto``, ``cpu``, ``cuda``, ...

    Raises:
        UsageError: If there is no such recipe.
    """
    learned = data
    if embedding.encoder or latent:
        learned = data.subset(data.stored.new_empty(0).long())
    if embedding.encoder:
        learned = embedded(learned, encoder_of(embedding.encoder), embedding.role)
    if latent:
        learned = encoded(learned, latents_of(latent))
    config, options = auto(learned, minutes, choose_device(device).type == "cuda"), data.options
    if name in ("auto", *AHEAD) and learned is data:
        options = varied(data)
    if name in AHEAD:
        config = ahead(config, name)
    elif name in RECIPES:
        config = RECIPES[name]()
    elif name != "auto":
        known = ", ".join(["auto", *AHEAD, *RECIPES])
        raise UsageError(f"There is no recipe {name!r}; there are: {known}.")
    config = config if size is None else sized(config, size)
    place = str(Path(latent).resolve()) if latent else ""
    return replace(config, data=options, latent=place, embedding=embedding)
