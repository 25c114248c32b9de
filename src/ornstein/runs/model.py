"""A trained run, ready to use: its denoiser, its codec, and the words for its conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from math import isnan, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core import noise, times
from ..core.denoise import (
    LOG_SNR_LIMIT,
    PREDICTIONS,
    WEIGHTINGS,
    NetDenoiser,
    PredictMean,
    Variational,
)
from ..data.captions import Learns, Words
from ..data.codec import Codec
from ..data.given import heard
from ..data.names import shown
from ..data.reader import Reader
from ..errors import ModelFileError, StorageError, UsageError
from ..nets import NETS, Conditions, Controlled, MonotoneCurve, Uncertainty
from ..nets.blocks import answering
from ..nets.unet2d import Layout
from .checkpoint import WEIGHTS, Checkpoint
from .config import RunConfig, ScheduleConfig, TimesConfig
from .embedding import Encoder, read_encoder
from .folder import RunFolder
from .latents import LatentCodec, read_latents
from .lent import apart, lent
from .posthoc import posthoc
from .prompt import Reads

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from .adapters import Adapter

SCHEDULES: dict[str, type[noise.Schedule]] = {
    "ddpm": noise.DDPMSchedule,
    "ddpm-cosine": noise.CosineTableSchedule,
    "linear": noise.LinearSchedule,
    "sub-vp": noise.SubVPSchedule,
    "cosine": noise.CosineSchedule,
    "sigmoid": noise.SigmoidSchedule,
    "flow": noise.FlowSchedule,
    "karras": noise.KarrasSchedule,
    "geometric": noise.GeometricSchedule,
    "learned": noise.LearnedSchedule,
}

GRIDS: dict[str, times.TimeGrid] = {
    "uniform": times.UniformGrid(),
    "straight": times.StraightGrid(),
    "log-snr": times.LogSNRGrid(),
    "karras": times.KarrasGrid(),
    "stride": times.StrideGrid(),
}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The conditions of a run in the user's words.

    Args:
        classes: Names of the labels, in order; empty if the data have none.
        attributes: Names of the numeric attributes.
        means: Of each attribute in the training data, in its own unit.
        stds: Likewise, > 0.
        context: Channels of what is given beside the noise.
        block: Pixels of it along each axis that one point of x hears.
        words: In which texts are read, or by whom; None if the run knows no captions.
        embedding: Numbers of the embedding that the network hears.
    """

    classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    means: tuple[float, ...] = ()
    stds: tuple[float, ...] = ()
    context: int = 0
    block: int = 1
    words: Words | Reader | None = None
    embedding: int = 0

    def label(self, name: str | int) -> int:
        """The number of a class given by its name or its number; -1 for ``any``."""
        if not self.classes:
            raise UsageError("This run was trained without labels: leave --label out.")
        if str(name) in self.classes:
            return self.classes.index(str(name))
        if str(name) in ("any", "-1"):
            return -1
        if str(name).isdecimal() and int(name) < len(self.classes):
            return int(name)
        raise UsageError(f"There is no class {name!r} in this run; there are: {self._known()}.")

    def tensors(
        self,
        count: int,
        label: str | int | Sequence[str | int] | None = None,
        attributes: dict[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Conditions for `count` examples: labels are dealt out in turn, NaN is 'not given'."""
        cond: dict[str, Tensor] = {}
        if label is not None:
            names = [label] if isinstance(label, (str, int)) else list(label)
            if not names:
                raise UsageError("An empty list of labels: give at least one.")
            numbers = torch.tensor([self.label(name) for name in names])
            cond["label"] = numbers.repeat(count // len(numbers) + 1)[:count]
        if attributes:
            row = torch.full((len(self.attributes),), torch.nan)
            for name, value in attributes.items():
                if name not in self.attributes:
                    known = ", ".join(self.attributes) or "none"
                    raise UsageError(f"There is no attribute {name!r} in this run; known: {known}.")
                i = self.attributes.index(name)
                row[i] = torch.nan if isnan(value) else (value - self.means[i]) / self.stds[i]
            cond["attributes"] = row.expand(count, -1)
        return cond

    def _known(self) -> str:
        shown = ", ".join(self.classes[:20])
        return shown + (", ..." if len(self.classes) > 20 else "")


@dataclass(frozen=True)
class Model:
    """A trained run, ready to use. Made by `load`.

    Args:
        denoiser: With averaged weights, in evaluation mode.
        codec: Between the user's files and x.
        vocabulary: Of the conditions.
        config: Of the run.
        seen: Examples the weights have seen.
        run: The folder, if it has one.
        given: Of the pictures that the network is given beside the noise, if it is.
        adapters: The runs that were put on, by their ids, each with its strength.
        encoder: Whose embeddings the network hears, if it does: the run is a prior or a decoder.
        reader: Of texts, if the network is another library's and hears them by its own.
        pipeline: The folder of another library that the weights come from, if no run has begun.
    """

    denoiser: NetDenoiser
    codec: Codec
    vocabulary: Vocabulary
    config: RunConfig
    seen: int = 0
    run: RunFolder | None = None
    given: Codec | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    encoder: Encoder | None = None
    reader: Learns | None = None
    pipeline: Path | None = None

    @property
    def words(self) -> Reads | None:
        """By what texts are read, if they are."""
        return self.encoder.words if self.encoder else self.reader or self.vocabulary.words

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, *S)`` of one example."""
        return self.codec.shape

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def place(self) -> str:
        """Where it lies, in words."""
        lies = self.run.path if self.run else self.pipeline
        return "The model" if lies is None else str(lies)

    @property
    def samples(self) -> Path:
        """The folder for what is drawn from it; of what is no run, one where we are."""
        return Path("samples") if self.run is None else self.run.samples

    def to(self, device: str | torch.device) -> Model:
        """The same, with its network and its autoencoder there."""
        codec = self.codec.to(device) if isinstance(self.codec, LatentCodec) else self.codec
        return replace(self, denoiser=self.denoiser.to(device), codec=codec)

    @property
    def folder(self) -> RunFolder:
        """The run. Raises `UsageError` if the model is another library's."""
        if self.run is None:
            raise UsageError("This needs a run of ours, with its data: a pipeline has none.")
        return self.run


def load(
    run: str | Path,
    *,
    seen: int | None = None,
    sigma_rel: float | None = None,
    device: str | torch.device = "cpu",
    adapters: Sequence[Adapter] = (),
) -> Model:
    """Open a trained run.

    Args:
        run: The run folder; an adapter's opens its base too.
        seen: Which checkpoint, by examples seen; the newest that verifies by default. With
            `sigma_rel`, the position of a kept average: an early one makes a weak model, as
            `core.guide.Autoguidance` wants it.
        sigma_rel: Relative width of the average of the weights, rebuilt from those kept; the
            first of ``[train] ema`` by default.
        device: Where to put the network.
        adapters: What to put on, one after the other: folders, each perhaps with its strength.

    Raises:
        UsageError: If `run` is no run folder, or has no such average; or if an adapter was
            learned on another run.
        StorageError: If it has no checkpoint that verifies.
        ModelFileError: If its weights do not fit its configuration.
    """
    folder = RunFolder.open(run)
    config = RunConfig.from_toml(folder.config_toml, str(folder.path / "config.toml"))
    if config.net.kind == "autoencoder":
        raise UsageError(
            f"{shown(run)} is an autoencoder, which draws nothing: train on its latents by "
            f"`ornstein train {shown(config.source)} --latent {shown(run)}`."
        )
    if config.net.kind == "contrastive":
        raise UsageError(
            f"{shown(run)} is an encoder, which draws nothing: train what goes by it, `ornstein "
            f"train {shown(config.source)} --prior {shown(run)}` and `--embedding {shown(run)}`."
        )
    if adapters or config.adapt.is_adapter:
        from .adapters import load_adapted

        choice: dict[str, Any] = {"seen": seen, "sigma_rel": sigma_rel, "device": device}
        return load_adapted(folder, config, adapters, **choice)
    checkpoint, weights = chosen_weights(folder, seen, sigma_rel)
    if config.net.pipeline:
        lender = lent(config.net).to(device)
        codec, given, vocabulary, reader = lender.codec, None, lender.vocabulary, lender.reader
        denoiser = build_denoiser(config, codec.shape, vocabulary, apart(lender.denoiser.net))
    else:
        codec, given, vocabulary = read_words(folder, device)
        _refuse_to_build(config, codec.shape, vocabulary, checkpoint)
        denoiser, reader = build_denoiser(config, codec.shape, vocabulary), None
    try:
        denoiser.load_state_dict(weights or checkpoint.load(WEIGHTS))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelFileError(f"{folder.path}: weights and config.toml disagree: {reason}") from None
    answering(denoiser, device)
    seen = checkpoint.seen if seen is None else seen
    encoder = read_encoder(folder, device) if config.embedding.encoder else None
    model = Model(
        denoiser,
        codec,
        vocabulary,
        config,
        seen,
        folder,
        given,
        encoder=encoder,
        reader=reader,
    )
    if config.mean:
        from .residual import around

        return around(load(config.mean, device=device), model)
    return model


def chosen_weights(
    folder: RunFolder, seen: int | None, sigma_rel: float | None
) -> tuple[Checkpoint, dict[str, Tensor] | None]:
    """The checkpoint that `load` wants and, if they are not in it, the weights."""
    weights = None if sigma_rel is None else posthoc(folder, sigma_rel, seen)
    if seen is None or weights is not None:  # kept averages outlive their checkpoints
        checkpoint = folder.latest(WEIGHTS)
    else:
        checkpoint = folder.checkpoint(seen)
    if checkpoint is None:
        raise StorageError(
            f"{folder.path} has no checkpoint that verifies. Train it with `ornstein train`."
        )
    return checkpoint, weights


def read_words(
    folder: RunFolder, device: str | torch.device = "cpu"
) -> tuple[Codec, Codec | None, Vocabulary]:
    """What ``run.json`` says of the data; it may come from a stranger.

    Args:
        folder: Of the run.
        device: Where to put the autoencoder, if the run knows the data through one.
    """
    codec, words = folder.identity.get("codec"), folder.identity.get("vocabulary")
    beside = folder.identity.get("given")
    if not isinstance(codec, dict) or not isinstance(words, dict):
        raise ModelFileError(f"{folder.path / 'run.json'} names no codec or no vocabulary.")
    try:
        vocabulary = _adapter().validate_python(words)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"The vocabulary in {folder.path / 'run.json'}: {reason}.") from None
    if not len(vocabulary.attributes) == len(vocabulary.means) == len(vocabulary.stds):
        raise ModelFileError(f"{folder.path / 'run.json'} lacks the mean or std of an attribute.")
    given = Codec.from_dict(beside) if isinstance(beside, dict) else None
    channels = 0 if given is None else heard(given.shape, vocabulary.block)
    if vocabulary.context != channels or vocabulary.block < 1:
        raise ModelFileError(f"{folder.path / 'run.json'} disagrees with itself on what is given.")
    if codec.get("kind") == LatentCodec.kind:
        net = RunConfig.from_toml(folder.config_toml).net
        if net.pipeline:
            return lent(net).to(device).codec, given, vocabulary
        return read_latents(folder, codec, device), given, vocabulary
    return Codec.from_dict(codec), given, vocabulary


def _refuse_to_build(
    config: RunConfig, shape: tuple[int, ...], vocabulary: Vocabulary, checkpoint: Checkpoint
) -> None:
    """Refuse a configuration of a larger network than there are weights for.

    Small networks are built at once, as they are judged when the weights are put in; counting the
    weights of a network without making it takes a second.
    """
    c = config.net
    area = c.size**2 * sum(m**2 * max(c.depth, blocks) for m, blocks in c.levels)
    if area <= 2**22 and prod(shape) <= 2**18 and len(vocabulary.classes) <= 2**12:
        return
    with torch.device("meta"):
        net = build_net(config, shape, vocabulary)
    needed, there = sum(p.nbytes for p in net.parameters()), checkpoint.size(WEIGHTS)
    if needed > there:
        raise ModelFileError(
            f"{checkpoint.path}: weights and config.toml disagree: its network takes "
            f"{needed:,} bytes, the weights have {there:,}."
        )


@cache
def _adapter() -> TypeAdapter[Vocabulary]:
    from pydantic import TypeAdapter

    return TypeAdapter(Vocabulary)


def build_denoiser(
    config: RunConfig,
    shape: tuple[int, ...],
    vocabulary: Vocabulary,
    net: nn.Module | None = None,
) -> NetDenoiser:
    """The untrained denoiser that `config` describes, for examples of `shape` ``(C, *S)``.

    The initial weights are a function of ``config.seed`` alone; the global random state is kept. A
    network that is there already may be given.
    """
    c, steps = config.denoiser, config.denoiser.variance_steps
    bound = c.weighting == "variational" and config.times.name == "uniform"
    if config.schedule.name == "learned" and not bound:
        raise UsageError(
            "A learned schedule lowers the variance of the variational bound, and knows no other "
            "aim: set [denoiser] weighting = 'variational' and [times] name = 'uniform'."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        schedule = build_schedule(config.schedule)
        net = build_net(config, shape, vocabulary) if net is None else net
        uncertainty = Uncertainty() if c.uncertainty else None
    if c.prediction == "mean":
        prediction = PredictMean(schedule=schedule, steps=getattr(schedule, "steps", 1000))
    else:
        prediction = PREDICTIONS[c.prediction]
    if c.weighting == "variational":
        weighting = Variational(schedule=schedule, times=build_times(config.times))
    else:
        weighting = WEIGHTINGS[c.weighting]
    try:
        return NetDenoiser(
            net,
            schedule,
            prediction,
            weighting,
            uncertainty,
            steps or None,
            config.distill.looks_ahead,
            told_between(config),
        )
    except ValueError as error:
        raise UsageError(f"[denoiser] and [schedule] disagree: {error}.") from None


def told_between(config: RunConfig) -> tuple[float, float]:
    """The log-SNRs that the network is told: those it is trained on, by its own times.

    Students are taught at the very ends, too; of a network that is lent nobody knows.
    """
    if config.net.pipeline or config.distill.teacher or config.distill.looks_ahead:
        return -LOG_SNR_LIMIT, LOG_SNR_LIMIT
    low, high = build_times(config.times).reach
    return max(low, -LOG_SNR_LIMIT), min(high, LOG_SNR_LIMIT)


def build_net(config: RunConfig, shape: tuple[int, ...], vocabulary: Vocabulary) -> nn.Module:
    """The network alone."""
    if config.net.pipeline:
        return _lent_net(config)
    options: dict[str, Any] = {"depth": config.net.depth} if config.net.depth else {}
    if config.net.kind == "unet":
        options["levels"] = config.net.levels
    if config.net.kind != "mlp":
        options["recompute"] = config.train.memory == "low"
    if config.net.kind == "unet2d":
        options |= {"clock": _clock(config.schedule), "layout": _layout(config.net.options)}
    elif config.net.options:
        raise UsageError(f"[net] options are of the kind unet2d, not {config.net.kind}.")
    channels = shape[0] * (2 if config.denoiser.variance_steps else 1)
    net, words = NETS[config.net.kind], vocabulary.words
    try:
        conditions = Conditions(
            classes=len(vocabulary.classes),
            attributes=len(vocabulary.attributes),
            context=vocabulary.context,
            augment=config.data.augmentations,
            words=len(words) if isinstance(words, Words) else 0,
            read=words.width if isinstance(words, Reader) else 0,
            length=words.length if words else 0,
            span=int(config.distill.looks_ahead),
            guidance=int(config.distill.told_guidance),
            embedding=vocabulary.embedding,
        )
        build = partial(net, shape, size=config.net.size, out_channels=channels, **options)
        if config.adapt.learn == "control":
            alone = replace(conditions, context=0)
            return Controlled(build(conditions=alone), build(conditions=conditions))
        return build(conditions=conditions)
    except ValueError as error:
        raise UsageError(f"[net] of the configuration does not fit the data: {error}.") from None


def _lent_net(config: RunConfig) -> nn.Module:
    """The network of another library, with the weights that it has there."""
    net: Any = apart(lent(config.net).denoiser.net)
    if config.train.memory == "low":
        net.net.enable_gradient_checkpointing()
    return net.requires_grad_(True).train()


def _clock(config: ScheduleConfig) -> Callable[[Tensor], Tensor]:
    """By which a network of another library hears the noise: the number of a step."""
    schedule = build_schedule(config)
    if not isinstance(schedule, noise.DDPMSchedule | noise.CosineTableSchedule):
        raise UsageError(
            "[net] kind = 'unet2d' hears the steps of a table: set [schedule] name = 'ddpm', as "
            "--recipe diffusers does."
        )
    return partial(noise.number_of, schedule, schedule.steps)


def _layout(options: dict[str, Any]) -> Layout:
    """The options of a network of another library's kind, checked."""
    from pydantic import TypeAdapter, ValidationError

    known = [f.name for f in fields(Layout)]
    for name in options:
        if name not in known:
            raise UsageError(f"[net] options has no {name!r}; it has: {', '.join(known)}.")
    try:
        return TypeAdapter(Layout).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"[net] options: {first['loc'][0]}: {first['msg']}.") from None


def build_schedule(config: ScheduleConfig) -> noise.Schedule:
    """The schedule of that name with those options; anything else is a `UsageError`."""
    if config.name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise UsageError(f"There is no schedule {config.name!r}; there are: {known}.")
    kind = SCHEDULES[config.name]
    types = {f.name: f.type for f in fields(kind) if f.name != "net"}
    for name, value in config.options.items():
        if name not in types:
            raise UsageError(
                f"The schedule {config.name!r} has no option {name!r}; it has: {', '.join(types)}."
            )
        wanted = {float: (int, float), int: int}.get(types[name], str)
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise UsageError(f"[schedule] {name} = {value!r} is not of the right type.")
    options: dict[str, Any] = dict(config.options)
    if kind is noise.LearnedSchedule:
        options["net"] = MonotoneCurve()
    try:
        return kind(**options)
    except ValueError as error:
        raise UsageError(f"[schedule] of the configuration: {error}.") from None


def build_times(config: TimesConfig) -> times.TimeDistribution:
    """The distribution of training times."""
    match config.name:
        case "uniform":
            return times.UniformTimes()
        case "log-normal":
            return times.LogNormalTimes(mean=config.mean, std=config.std)
        case "uniform-log-snr":
            return times.UniformLogSNR()
