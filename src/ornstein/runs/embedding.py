"""Encoders of pictures and texts, and runs that go by them: priors and decoders.

An encoder places pictures and texts on one sphere. A decoder draws pictures, told where on it; a
prior draws such places, told a text. Both keep the encoder that they were trained with.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.captions import Words
from ..data.codec import Codec, measure
from ..data.dataset import Dataset
from ..data.embedded import Embedded
from ..data.names import shown
from ..data.points import PointsCodec
from ..data.reader import Reader
from ..errors import DataError, ModelFileError, UsageError
from ..nets.contrastive import Contrastive
from .checkpoint import WEIGHTS
from .config import NetConfig, Role, RunConfig
from .folder import RunFolder

if TYPE_CHECKING:
    from pydantic import TypeAdapter

AT_ONCE = 2**20  # numbers of the data that are encoded in one call, about
TEXTS = 512  # at once
TOWERS = "towers."  # so begin the names of its weights in its own run
KEPT = "encoder"  # under this name a prior or a decoder has the weights, and what was measured
MEASURED = "embeddings"  # under this name the run of an encoder has what was measured of it
ENOUGH = 16_384  # examples to measure by


@dataclass(frozen=True, eq=False)
class Scale:
    """Between embeddings and what networks see of them: mean 0 and variance 1 in each number.

    Args:
        mean: ``(E,)``, on the CPU.
        std: Likewise, > 0.
    """

    mean: Tensor
    std: Tensor

    def standard(self, embedding: Tensor) -> Tensor:
        """Of mean 0 and variance 1 ``(B, E)``."""
        return (embedding - self.mean.to(embedding)) / self.std.to(embedding)


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """A trained encoder of pictures and texts.

    Args:
        net: Its towers.
        codec: Of the pictures that it was trained on.
        words: In which it reads texts, or by whom.
        pictures: What embeddings of pictures are like.
        texts: What those of texts are like; they lie elsewhere on the sphere.
        run: The id of the run that it was trained as.
        seen: By then.
        place: Where that run lay, for messages.
    """

    net: Contrastive
    codec: Codec
    words: Words | Reader
    pictures: Scale
    texts: Scale
    run: str
    seen: int
    place: str

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @torch.no_grad()
    def of_pictures(self, stored: Tensor) -> Tensor:
        """Embeddings of length 1 ``(N, E)`` of stored pictures, on the CPU."""
        parts = stored.split(max(1, AT_ONCE // prod(self.codec.shape)))
        found = [self.net.of_pictures(self.codec.pack(p).to(self.device)).cpu() for p in parts]
        return torch.cat([torch.empty(0, self.net.numbers), *found])

    @torch.no_grad()
    def of_texts(self, texts: Iterable[str]) -> Tensor:
        """Likewise of texts; NaN if nothing is said."""
        parts = self.words.tensor(texts).split(TEXTS)
        found = [self.net.of_texts(part.to(self.device)).cpu() for part in parts]
        said = torch.cat([torch.empty(0, self.net.numbers), *found])
        return torch.where(said.any(1, keepdim=True), said, torch.nan)

    def of_x(self, x: Tensor) -> Tensor:
        """Embeddings of length 1 from what a prior draws ``(N, E)``."""
        scale = self.pictures
        return F.normalize(scale.mean.to(x) + scale.std.to(x) * x, dim=1)

    # --- In the run of a prior or a decoder

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by which and `tensors` it can be made again."""
        sizes = {"size": self.net.size, "depth": self.net.depth, "numbers": self.net.numbers}
        codec = self.codec.to_dict()
        mark = {"run": self.run, "seen": self.seen, "place": self.place}
        return {**mark, **sizes, "codec": codec, "words": asdict(self.words)}

    def tensors(self) -> dict[str, Tensor]:
        """The weights, and what was measured."""
        weights = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        return weights | _measured(self.pictures, self.texts)


# --- Opening -------------------------------------------------------------------------------------


def build_encoder(
    net: NetConfig, numbers: int, seed: int, shape: tuple[int, ...], words: Words | Reader
) -> Contrastive:
    """The untrained encoder of pictures of `shape` ``(C, *S)``, a function of the seed.

    Raises:
        UsageError: If it does not suit them.
    """
    reads = {"words": len(words)} if isinstance(words, Words) else {"read": words.width}
    sizes = {"size": net.size, "depth": net.depth or 1, "numbers": numbers}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return Contrastive(shape, **sizes, **reads, length=words.length)
        except ValueError as error:
            raise UsageError(f"[net] or [embedding] of the configuration: {error}.") from None


def encoder_of(place: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """The encoder that a run is, or that a prior or a decoder keeps.

    Raises:
        UsageError: If the run is none of these, or not there.
        StorageError: If it has no checkpoint that verifies, or was not trained to any end.
        ModelFileError: If its weights do not fit its configuration.
    """
    folder = RunFolder.open(place)
    config = RunConfig.from_toml(folder.config_toml, str(folder.path / "config.toml"))
    if config.embedding.encoder:
        return read_encoder(folder, device)
    if config.net.kind != "contrastive":
        raise UsageError(
            f"{shown(place)} is no encoder of pictures and texts: make one by `ornstein train DATA "
            "--recipe contrastive`."
        )
    checkpoint, measured = folder.ended(MEASURED)
    vocabulary, codec = folder.identity.get("vocabulary"), folder.identity.get("codec")
    told = vocabulary.get("words") if isinstance(vocabulary, dict) else None
    weights = checkpoint.load(WEIGHTS).items()
    towers = {name.removeprefix(TOWERS): w for name, w in weights if name.startswith(TOWERS)}
    tensors = {f"net.{name}": weight for name, weight in towers.items()}
    return _made(
        folder,
        {
            "run": folder.identity["id"],
            "seen": checkpoint.seen,
            "place": str(folder.path),
            "size": config.net.size,
            "depth": config.net.depth or 1,
            "numbers": config.embedding.numbers,
            "codec": codec,
            "words": told,
        },
        tensors | measured,
        device,
    )


def named_encoder(config: RunConfig, device: str | torch.device = "cpu") -> Encoder:
    """The encoder that a configuration names; a student's teacher and a base keep one.

    Raises:
        As `encoder_of`.
    """
    before = config.distill.teacher or config.adapt.base
    return encoder_of(before or config.embedding.encoder, device)


def read_encoder(folder: RunFolder, device: str | torch.device = "cpu") -> Encoder:
    """The encoder that lies in the run of a prior or a decoder.

    Raises:
        ModelFileError: If what ``run.json`` says of it is not valid, or the weights do not fit it.
        StorageError: If the weights are not there, or not whole.
    """
    facts = folder.identity.get("encoder")
    if not isinstance(facts, dict):
        raise ModelFileError(f"{folder.path / 'run.json'} describes no encoder.")
    return _made(folder, facts, folder.kept(KEPT), device)


def _made(
    folder: RunFolder,
    facts: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    device: str | torch.device,
) -> Encoder:
    place = folder.path / "run.json"
    try:
        found = _adapter().validate_python(dict(facts))
        codec = Codec.from_dict(found.codec)
        sizes = NetConfig(kind="contrastive", size=found.size, depth=found.depth)
        with torch.device("meta"):  # so that no more memory is taken than there are weights
            net = build_encoder(sizes, found.numbers, 0, codec.shape, found.words)
        own = {k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}
        net.load_state_dict(own, assign=True)
        pictures, texts = (_scale(tensors, name, found.numbers) for name in ("pictures", "texts"))
    except (ValueError, UsageError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"The encoder in {place} is wrong: {shown(reason, 300)}.") from None
    return Encoder(
        net=net.to(device).eval().requires_grad_(False),
        codec=codec,
        words=found.words,
        pictures=pictures,
        texts=texts,
        run=found.run,
        seen=found.seen,
        place=found.place,
    )


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What ``run.json`` says of an encoder."""

    run: str
    seen: int
    place: str
    size: int
    depth: int
    numbers: int
    codec: dict[str, Any]
    words: Words | Reader


@cache
def _adapter() -> "TypeAdapter[_Facts]":
    from pydantic import TypeAdapter

    return TypeAdapter(_Facts)


def _scale(tensors: Mapping[str, Tensor], name: str, numbers: int) -> Scale:
    mean, std = (tensors[f"{name}.{part}"].float() for part in ("mean", "std"))
    if not mean.shape == std.shape == (numbers,) or not (std > 0).all():
        raise ValueError(f"mean and std of {name} are no {numbers} numbers, or not positive")
    return Scale(mean, std)


def keep_encoder(config: RunConfig, folder: RunFolder) -> None:
    """Keep the encoder in the run that goes by it, if there is one."""
    if config.embedding.encoder and KEPT not in folder.kept_names():
        encoder = named_encoder(config)
        check_same(encoder, folder)
        folder.keep(KEPT, encoder.tensors())


def check_same(encoder: Encoder, folder: RunFolder) -> None:
    """Refuse an encoder that is not the one that the run began with."""
    facts = folder.identity.get("encoder")
    known = facts if isinstance(facts, dict) else {}
    if (encoder.run, encoder.seen) != (known.get("run"), known.get("seen")):
        raise UsageError(
            f"{shown(encoder.place)} is not the encoder that {shown(folder.path)} began with: put "
            "that one back."
        )


# --- Data ----------------------------------------------------------------------------------------


def captioned(data: Dataset) -> Dataset:
    """The examples of which something is said.

    Raises:
        UsageError: If nothing is said of any.
    """
    if data.captions is None:
        raise UsageError(
            f"{shown(data.source)} has no captions, by which an encoder learns: write them into "
            "metadata.csv, or beside each picture."
        )
    return data.subset(torch.tensor([i for i, row in enumerate(data.captions.texts) if row]).long())


def embedded(data: Dataset, encoder: Encoder, role: Role) -> Dataset:
    """`data` as a decoder or a prior sees them, encoded once and kept in memory.

    To a decoder, pictures, the embedding of each, and their captions, if there are any. To a
    prior, the embeddings of the pictures that have captions, the captions and their embeddings.
    Nothing else is told.

    Raises:
        DataError: If the data are of another kind than the encoder was trained on.
        UsageError: If they were to be varied on the way, or a prior has no captions to learn from.
    """
    options, own = data.options, encoder.codec
    varied = options.flip or options.shift or options.balance or data.patches is not None
    if varied or data.given is not None:
        raise UsageError(
            "Embeddings are of pictures as they are, and all that a network is told: leave flip, "
            "shift, balance, patch and given out."
        )
    kinds = [(c.kind, c.shape, c.dtype, c.levels) for c in (own, data.codec)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"{shown(data.source)} holds {data.codec.shape} of {data.codec.dtype}, but the encoder "
            f"{shown(encoder.place)} was trained on {own.shape} of {own.dtype}: bring the data to "
            "that, or train an encoder of them."
        )
    data = captioned(data) if role == "prior" else data
    told, device = data.captions, data.stored.device
    told = None if told is None else replace(told, words=encoder.words)
    alone = replace(data, label=None, classes=[], attributes=None, captions=told)
    pictures = encoder.of_pictures(data.stored)
    if role == "decoder":
        values = encoder.pictures.standard(pictures)
        known = Embedded(values=values, count=torch.ones(len(data), dtype=torch.int64))
        return replace(alone, embedded=known.to(device))
    assert told is not None
    texts = [text for row in told.texts for text in row]
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    values = encoder.texts.standard(encoder.of_texts(place))
    rows = torch.tensor([place[text] for text in texts], dtype=torch.int64)
    count = torch.tensor([len(row) for row in told.texts], dtype=torch.int64)
    return replace(
        alone,
        codec=points_of(encoder),
        stored=pictures.to(device),
        embedded=Embedded(values=values[rows], count=count).to(device),
    )


def points_of(encoder: Encoder) -> PointsCodec:
    """The codec of embeddings of pictures, as a prior draws them."""
    return PointsCodec(
        shape=(encoder.net.numbers,),
        dtype="float32",
        mean=tuple(encoder.pictures.mean.tolist()),
        std=tuple(encoder.pictures.std.tolist()),
        format="npy",
    )


# --- What is measured when an encoder has been trained -------------------------------------------


def keep_measured(folder: RunFolder, data: Dataset, net: Contrastive) -> None:
    """Keep what the embeddings of the training data are like."""
    some = data.subset(torch.arange(min(ENOUGH, len(data))))
    assert some.captions is not None and some.captions.kept is not None
    nothing = Scale(torch.zeros(net.numbers), torch.ones(net.numbers))
    encoder = Encoder(
        net=net,
        codec=data.codec,
        words=some.captions.kept,
        pictures=nothing,
        texts=nothing,
        run="",
        seen=0,
        place="",
    )
    texts = [text for row in some.captions.texts for text in row]
    both = encoder.of_pictures(some.stored), encoder.of_texts(texts)
    folder.keep(MEASURED, _measured(*(_scale_of(found) for found in both)))


def _scale_of(found: Tensor) -> Scale:
    mean, std = measure(found)
    # a number that is constant tells nothing: it stays so
    return Scale(torch.tensor(mean), torch.tensor([s if s > 0 else 1.0 for s in std]))


def _measured(pictures: Scale, texts: Scale) -> dict[str, Tensor]:
    both = {"pictures": pictures, "texts": texts}
    every = [(name, scale, part) for name, scale in both.items() for part in ("mean", "std")]
    return {f"{name}.{part}": getattr(scale, part) for name, scale, part in every}
