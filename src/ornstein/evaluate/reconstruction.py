"""How well an autoencoder brings data back, before anything is trained on its latents."""

import json
from dataclasses import asdict, dataclass
from math import log10, prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import open_data
from ..data.codec import write_bytes
from ..errors import UsageError
from ..rng import generator
from ..runs.config import RunConfig
from ..runs.folder import RunFolder
from ..runs.latents import LatentCodec, latents_of
from .features.encoders import encoders_of
from .measures.distances import frechet_distance
from .measures.metrics import Score, score

MOST = 1000  # examples of each side
SHOWN = 16
WINDOW = 7  # of the structural similarity


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How like two sets of examples are, each to its own.

    Args:
        psnr: In decibels, of the mean squared error over all, the span of the data its peak.
        ssim: The mean structural similarity.
    """

    psnr: float
    ssim: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstructions:
    """What was measured of an autoencoder.

    Args:
        codec: Its latents.
        back: Held-out examples and what comes back of them.
        scaled: The same, scaled down by the factor and up again: what as few points alone keep.
        frechet: In each space of features, of reconstructed training examples to held-out ones;
            the floor is that of the training examples themselves.
        count: Held-out examples.
        shown: Originals and reconstructions in turn, as the data's codec packs them.
    """

    codec: LatentCodec
    back: Likeness
    scaled: Likeness
    frechet: dict[str, Score]
    count: int
    shown: Tensor

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values, for programs."""
        return {
            "latents": self.codec.shape,
            "numbers_fewer": prod(self.codec.data.shape) / prod(self.codec.shape),
            "held_out": self.count,
            "back": asdict(self.back),
            "scaled": asdict(self.scaled),
            "frechet": {name: asdict(found) for name, found in self.frechet.items()},
            "error": self.codec.error,
        }

    def lines(self) -> list[str]:
        """What the command prints."""
        whole, few = prod(self.codec.data.shape), prod(self.codec.shape)
        size = " x ".join(map(str, self.codec.shape))
        lines = [f"Latents of {size}: {whole / few:.3g} times fewer numbers."]
        for name in ("psnr", "ssim"):
            ours, theirs = getattr(self.back, name), getattr(self.scaled, name)
            lines.append(f"{name:<24} {ours:.3g}, scaled down and up {theirs:.3g}")
        for name, found in self.frechet.items():
            both = f"{found.value:.3g} ± {found.spread:.2g}, real {found.floor:.3g}"
            lines.append(f"{f'frechet ({name})':<24} {both}")
        return lines

    def save(self, run: RunFolder) -> Path:
        """Write ``reconstruction.json``, a picture, and lines of the model card, into the run."""
        place, first = run.evaluation, next(iter(self.frechet))
        found = self.frechet[first]
        metrics = {"PSNR, held out": self.back.psnr, "SSIM, held out": self.back.ssim}
        metrics |= {f"frechet ({first})": found.value, f"frechet ({first}), floor": found.floor}
        with run.lock():
            text = json.dumps(self.facts, indent=1)
            write_bytes(place / "reconstruction.json", text.encode())
            self.codec.data.preview(self.shown, 8).save(place / "reconstruction.png", "PNG")
            run.write_card(metrics=metrics)
        return place / "reconstruction.png"


def is_autoencoder(run: str | Path) -> bool:
    """Whether the run is an autoencoder; what is no run is none."""
    if not (Path(run) / "run.json").is_file():
        return False
    return RunConfig.from_toml(RunFolder.open(run).config_toml).net.kind == "autoencoder"


def measure_reconstructions(run: str | Path, device: str | torch.device = "cpu") -> Reconstructions:
    """Measure what comes back of the data that the autoencoder's training left out.

    Raises:
        UsageError: If nothing was left out, or the run is no autoencoder, or of an array.
        StorageError: If its training has not come to an end.
    """
    folder = RunFolder.open(run)
    config = RunConfig.from_toml(folder.config_toml)
    codec = latents_of(run, device)
    if config.source == "array":
        raise UsageError(f"{run} was trained on an array, which is not there to compare with.")
    train, held = open_data(config.source, config.data).split(config.data.validation, config.seed)
    if len(held) < 2:
        raise UsageError(f"{run} left out fewer than two examples: train with --data.validation.")
    picked = generator("reconstruction").permutation(len(train))[:MOST].copy()
    train, held = (
        train.subset(torch.from_numpy(picked)),
        held.subset(torch.arange(len(held))[:MOST]),
    )
    data = codec.data
    x, real = data.pack(held.stored), data.pack(train.stored)
    back, again = (_back(codec, d.stored) for d in (held, train))
    encoders, _ = encoders_of(data, train, held)
    sides = (again, real, x)
    return Reconstructions(
        codec=codec,
        back=likeness(x, back),
        scaled=likeness(x, scaled(x, -(-x.shape[-1] // codec.shape[-1]))),
        frechet={
            name: score(frechet_distance, *(encoder(side.numpy()) for side in sides))
            for name, encoder in encoders.items()
        },
        count=len(held),
        shown=torch.stack([x[:SHOWN], back[:SHOWN]], 1).flatten(0, 1),
    )


def _back(codec: LatentCodec, stored: Tensor) -> Tensor:
    """What comes back ``(N, C, *S)``, as files would hold it."""
    found = codec.stored(codec.pack(stored))
    return codec.data.pack(torch.from_numpy(found.astype(stored.numpy().dtype)))


def scaled(x: Tensor, factor: int) -> Tensor:
    """x ``(N, C, *S)``, each axis down by means and up again between the nearest points."""
    ndim = x.ndim - 2
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[ndim]
    small = F.interpolate(x, [max(1, n // factor) for n in x.shape[2:]], mode="area")
    return F.interpolate(small, x.shape[2:], mode=mode)


def likeness(x: Tensor, y: Tensor) -> Likeness:
    """Of examples ``(N, C, *S)`` and others, one by one."""
    x, y = x.double(), y.double()
    span = (x.max() - x.min()).item()
    error = (x - y).square().mean().item()
    return Likeness(psnr=10 * log10(span**2 / max(error, 1e-300)), ssim=similarity(x, y, span))


def similarity(x: Tensor, y: Tensor, span: float) -> float:
    """The structural similarity, over windows of 7 points along each axis, or fewer.

    Source: Wang et al. (2004), https://doi.org/10.1109/TIP.2003.819861, equation 13.
    """
    ndim = x.ndim - 2
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[ndim]
    window = [min(WINDOW, n) for n in x.shape[2:]]

    def mean(v: Tensor) -> Tensor:
        return pool(v, window, 1)

    mx, my = mean(x), mean(y)
    vx, vy = mean(x * x) - mx**2, mean(y * y) - my**2
    both = mean(x * y) - mx * my
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    ratio = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return ratio.mean().item()
