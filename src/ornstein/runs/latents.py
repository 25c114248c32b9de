"""Latents: data that a network sees through an autoencoder, of a run of ours or of others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..data.codec import Codec, measure
from ..data.dataset import Dataset
from ..data.names import shown
from ..data.room import parts, room
from ..errors import DataError, ModelFileError, UsageError
from ..nets.autoencoder import Autoencoder
from ..nets.blocks import answering
from .checkpoint import WEIGHTS
from .config import AutoencoderConfig, NetConfig, RunConfig
from .folder import RunFolder

if TYPE_CHECKING:
    from PIL import Image

AT_ONCE = 2**20  # numbers of the data that are encoded or decoded in one call, about
KEPT = "autoencoder"  # under this name a run on latents has the weights
MEASURED = "latents"  # under this name the run of an autoencoder has what was measured of it
ENOUGH = 4096  # examples to measure by


class Coder(Protocol):
    """What makes latents of data as they are packed, and data of latents, on its device."""

    @property
    def device(self) -> torch.device: ...

    @property
    def factor(self) -> int: ...

    @property
    def at_once(self) -> int: ...

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class LatentCodec(Codec):
    """Data that become x in an autoencoder: ``x = (encode(data) - mean_c) / std_c``.

    `shape`, `mean` and `std` are those of the latents, measured; what is stored, and files, are
    those of `data`. Where a dataset was encoded once, its latents are what is stored: their shape
    tells them from the data. An example comes back as well as the autoencoder knows it.

    Args:
        inner: Of the data themselves.
        coder: Whose latents x is.
        error: The root mean square of what reconstructions differ by, in units of `inner`.
    """

    kind: ClassVar[str] = "latents"

    inner: Codec
    coder: Coder
    error: float = 0.0

    @property
    def data(self) -> Codec:
        return self.inner

    def to(self, device: str | torch.device) -> "LatentCodec":
        """The same, with its autoencoder there."""
        assert isinstance(self.coder, nn.Module)
        return replace(self, coder=self.coder.to(device))

    def of_size(self, space: tuple[int, ...]) -> "LatentCodec":
        """The same for data of another size ``(*S)``."""
        points = tuple(-(-n // self.coder.factor) for n in space)
        inner = replace(self.inner, shape=(self.inner.shape[0], *space))
        return replace(self, shape=(self.shape[0], *points), inner=inner)

    def encode(self, stored: Tensor) -> Tensor:
        """The latents ``(B, c, *s)`` of stored data, as they come, in few calls."""
        with torch.no_grad():
            parts = (self.inner.pack(part) for part in stored.split(self._at_once))
            z = [self.coder.encode(x.to(self.coder.device)).to(x.device) for x in parts]
            return torch.cat(z)

    def decode(self, x: Tensor) -> Tensor:
        """The data as `inner` packs them, from x, on its device and with its slope."""
        mean, std, _ = self._of_channels(x)
        whole = self.coder.decode(mean + std * x)
        return whole[(..., *(slice(n) for n in self.inner.shape[1:]))]

    def decoded(self, x: Tensor) -> Tensor:
        """The same, always as many at once: sums are rounded by the size of the batch."""
        size, count = min(self._at_once, self.coder.at_once), len(x)
        filled = torch.cat([x, x[-1:].expand(-count % size, *x.shape[1:])]).float()
        with torch.no_grad():
            parts = (self.decode(part.to(self.coder.device)) for part in filled.split(size))
            return torch.cat([part.to(x.device) for part in parts])[:count]

    def pack(self, stored: Tensor) -> Tensor:
        known = tuple(stored.shape[1:]) == self.shape
        z = stored.float() if known else self.encode(stored)
        mean, std, _ = self._of_channels(z)
        return (z - mean) / std

    def unpack(self, x: Tensor) -> np.ndarray:
        return self.inner.unpack(self.decoded(x))

    def stored(self, x: Tensor) -> np.ndarray:
        return self.inner.stored(self.decoded(x))

    def save(
        self, x: Tensor, folder: Path, start: int = 0, labels: Sequence[str] | None = None
    ) -> Iterator[Path]:
        return self.inner.save(self.decoded(x), folder, start, labels)

    def preview(
        self, x: Tensor, columns: int | None = None, scale: int | None = None
    ) -> "Image.Image":
        return self.inner.preview(self.decoded(x), columns, scale)

    def read(self, path: Path) -> Tensor:
        return self.inner.read(path)

    @property
    def _at_once(self) -> int:
        return max(1, AT_ONCE // prod(self.inner.shape))

    # --- JSON

    def to_dict(self) -> dict[str, Any]:
        net, described = self.coder, None  # another library's lies in the folder it is lent from
        if isinstance(net, Autoencoder):
            described = {
                "size": net.size,
                "depth": net.depth,
                "factor": net.factor,
                "channels": net.channels,
                "levels": net.levels,
            }
        return {
            "kind": self.kind,
            "mean": self.mean,
            "std": self.std,
            "error": self.error,
            "data": self.inner.to_dict(),
            "autoencoder": described,
        }


del Codec.kinds[LatentCodec.kind]  # it holds a network: only a run folder, with weights, has it


# --- Of our runs ---------------------------------------------------------------------------------


def build_autoencoder(config: RunConfig, shape: tuple[int, ...]) -> Autoencoder:
    """The untrained autoencoder that `config` describes, for examples of `shape` ``(C, *S)``.

    Raises:
        UsageError: If it does not suit them.
    """
    c, net = config.autoencoder, config.net
    options = {"factor": c.factor, "channels": c.channels, "levels": c.levels}
    if max(shape[1:], default=0) < c.factor:
        raise UsageError(
            f"Examples of shape {shape} cannot be made {c.factor} times smaller: an autoencoder is "
            "for signals, pictures and volumes; lower [autoencoder] factor."
        )
    try:
        return Autoencoder(shape, size=net.size, depth=net.depth or 1, **options)
    except ValueError as error:
        raise UsageError(f"[net] or [autoencoder] of the configuration: {error}.") from None


def latents_of(place: str | Path, device: str | torch.device = "cpu") -> LatentCodec:
    """The codec of a run of an autoencoder, or that of a run on latents.

    Raises:
        UsageError: If the run is neither, or not there.
        StorageError: If it has no checkpoint that verifies, or was not trained to any end.
        ModelFileError: If its weights do not fit its configuration.
    """
    folder = RunFolder.open(place)
    config = RunConfig.from_toml(folder.config_toml, str(folder.path / "config.toml"))
    values = folder.identity.get("codec")
    if config.net.kind != "autoencoder":
        if not (isinstance(values, dict) and values.get("kind") == LatentCodec.kind):
            raise UsageError(
                f"{shown(place)} is no autoencoder: make one by `ornstein train DATA --recipe "
                "autoencoder`."
            )
        return read_latents(folder, values, device)
    checkpoint, measured = folder.ended(MEASURED)
    inner = Codec.from_dict(values if isinstance(values, dict) else {})
    net = build_autoencoder(config, inner.shape)
    prefix = "autoencoder."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint.load(WEIGHTS).items()}
    return _codec(
        inner,
        _filled(net, {k: weights[k] for k in net.state_dict() if k in weights}, folder, device),
        tuple(measured["mean"].tolist()),
        tuple(measured["std"].tolist()),
        measured["error"].item(),
    )


def read_latents(
    folder: RunFolder, values: Mapping[str, Any], device: str | torch.device = "cpu"
) -> LatentCodec:
    """The codec that ``run.json`` describes, with the weights that lie beside it.

    Raises:
        ModelFileError: If the description is not valid, or the weights do not fit it.
        StorageError: If the weights are not there, or not whole.
    """
    from pydantic import TypeAdapter

    place = folder.path / "run.json"
    inner, net = values.get("data"), values.get("autoencoder")
    if not isinstance(inner, dict) or not isinstance(net, dict):
        raise ModelFileError(f"{place} describes no autoencoder.")
    codec = Codec.from_dict(inner)
    sizes = {k: v for k, v in net.items() if k in ("size", "depth")}
    others = {k: v for k, v in net.items() if k not in sizes}
    try:
        config = replace(
            RunConfig(),
            net=TypeAdapter(NetConfig).validate_python({"kind": "autoencoder"} | sizes),
            autoencoder=TypeAdapter(AutoencoderConfig).validate_python(others),
        )
        mean = TypeAdapter(tuple[float, ...]).validate_python(values.get("mean"))
        std = TypeAdapter(tuple[float, ...]).validate_python(values.get("std"))
        error = TypeAdapter(float).validate_python(values.get("error"))
        weights = folder.kept(KEPT)
        made = build_autoencoder(config, codec.shape)
        return _codec(codec, _filled(made, weights, folder, device), mean, std, error)
    except (ValueError, UsageError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"The latents in {place} are wrong: {shown(reason, 300)}.") from None


def keep_autoencoder(folder: RunFolder, codec: Codec) -> None:
    """Keep the weights of `codec` in the run whose data it encodes, if it is one of latents."""
    coder = codec.coder if isinstance(codec, LatentCodec) else None
    if isinstance(coder, Autoencoder) and KEPT not in folder.kept_names():
        folder.keep(KEPT, coder.state_dict())


def _filled(
    net: Autoencoder, weights: Mapping[str, Tensor], folder: RunFolder, device: str | torch.device
) -> Autoencoder:
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelFileError(f"{folder.path}: the autoencoder's weights: {reason}") from None
    return answering(net, device)


def _codec(
    inner: Codec, net: Autoencoder, mean: tuple[float, ...], std: tuple[float, ...], error: float
) -> LatentCodec:
    space = (-(-n // net.factor) for n in inner.shape[1:])
    return LatentCodec(
        shape=(net.channels, *space),
        dtype="float32",
        mean=mean,
        std=std,
        inner=inner,
        coder=net,
        error=error,
    )


def keep_measured(folder: RunFolder, data: Dataset, net: Autoencoder) -> None:
    """Keep what was measured of an autoencoder on its training data."""
    folder.keep(MEASURED, measured(data, net))


# --- Data as latents -----------------------------------------------------------------------------


def measured(data: Dataset, net: Autoencoder) -> dict[str, Tensor]:
    """Mean and standard deviation of each channel of the latents, and the error of what comes back.

    Over the first `ENOUGH` examples of `data`, in double precision.
    """
    codec = _codec(data.codec, net, (0.0,) * net.channels, (1.0,) * net.channels, 0.0)
    stored = data.stored[:ENOUGH]
    z, square = [], 0.0
    for part in stored.split(codec._at_once):
        z.append(codec.encode(part))
        gap = codec.decoded(z[-1]) - data.codec.pack(part)
        square += gap.double().square().sum().item()
    mean, std = measure(torch.cat(z).cpu())
    error = sqrt(square / stored.numel())
    # a channel that is constant tells nothing: it stays so
    std = tuple(s if s > 0 else 1.0 for s in std)
    return {
        "mean": torch.tensor(mean, dtype=torch.float64),
        "std": torch.tensor(std, dtype=torch.float64),
        "error": torch.tensor(error, dtype=torch.float64),
    }


def encoded(data: Dataset, codec: LatentCodec) -> Dataset:
    """`data`, whose examples are latents from now on.

    They are encoded once and kept, in memory or mapped: latents of one example take
    ``4 c / (factor^d C)`` times the room of bytes, less than the data but for a factor of 2. Data
    that are mirrored, moved or cut anew each time they are shown are encoded each time. What is
    given beside them stays as it is, and is heard in blocks of pixels, one for each latent point.

    Raises:
        DataError: If the data are of another kind than the autoencoder was trained on.
    """
    options, own, given = data.options, codec.inner, data.given
    kinds = [(c.kind, c.shape[0], len(c.shape), c.dtype, c.levels) for c in (own, data.codec)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"{shown(data.source)} holds {data.codec.shape} of {data.codec.dtype}, but the "
            f"autoencoder was trained on {own.shape} of {own.dtype}: bring the data to that."
        )
    codec = codec.of_size(data.codec.shape[1:])
    codec = replace(codec, inner=replace(data.codec, mean=own.mean, std=own.std))
    moves = bool(options.flip or options.shift)
    if given is not None:
        block = codec.coder.factor if moves else _block(given.codec.shape[1:], codec)
        given = replace(given, block=block)
    if moves or data.patches is not None:
        return replace(data, codec=codec, given=given)
    z = room((len(data), *codec.shape), np.dtype(np.float32))
    for some in parts(data.stored):
        z[some] = codec.encode(data.stored[some]).cpu().numpy()
    stored = torch.from_numpy(z).to(data.stored.device)
    return replace(data, codec=codec, stored=stored, given=given)


def _block(space: tuple[int, ...], codec: LatentCodec) -> int:
    """How many pixels of what is given each latent point stands for, along an axis.

    As many as there are, up to as many as those of the example itself.
    """
    most = max(ceil(n / points) for n, points in zip(space, codec.shape[1:], strict=True))
    return min(most, codec.coder.factor)
