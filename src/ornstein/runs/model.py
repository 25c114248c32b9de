"""A trained run, ready to use: its denoiser, its codec, and the words for its conditions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..core.denoise import NetDenoiser
from ..data.captions import Learns
from ..data.codec import Codec
from ..data.given import heard
from ..data.names import shown
from ..errors import ModelFileError, Notice, StorageError, UsageError
from ..nets.blocks import answering
from .building import build_denoiser, build_net
from .checkpoint import WEIGHTS, Checkpoint
from .config import RunConfig
from .embedding import Encoder, read_encoder
from .folder import RunFolder
from .latents import LatentCodec, read_latents
from .lent import apart, lent
from .posthoc import posthoc
from .prompt import Reads
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from .adapters import Adapter


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
        sigma_rel: Relative width of the average that the weights are, if `load` was asked for one.
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
    sigma_rel: float | None = None

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
    def is_plain(self) -> bool:
        """Whether the weights are those of its checkpoint, which `seen` alone then names."""
        return not self.adapters and self.sigma_rel is None

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
    if not checkpoint.seen and seen is None:
        go_on = f"ornstein train --resume {shown(run)}"
        warnings.warn(f"{shown(run)} has learned nothing yet: {go_on}", Notice, stacklevel=2)
    if config.net.pipeline:
        lender = lent(config.net).to(device)
        codec, given, vocabulary, reader = lender.codec, None, lender.vocabulary, lender.reader
        denoiser = build_denoiser(config, codec.shape, vocabulary, apart(lender.denoiser.net))
    else:
        codec, given, vocabulary = read_known(folder, device)
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
        sigma_rel=sigma_rel,
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


class Known(NamedTuple):
    """What a run knows of its data.

    Attributes:
        codec: Between the user's files and x.
        given: Of the pictures that the network is given beside the noise, if it is.
        vocabulary: Of the conditions.
    """

    codec: Codec
    given: Codec | None
    vocabulary: Vocabulary


def read_known(folder: RunFolder, device: str | torch.device = "cpu") -> Known:
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
            return Known(lent(net).to(device).codec, given, vocabulary)
        return Known(read_latents(folder, codec, device), given, vocabulary)
    return Known(Codec.from_dict(codec), given, vocabulary)


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
