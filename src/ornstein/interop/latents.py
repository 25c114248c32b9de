"""Pictures that a network sees through an autoencoder of another library."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..data.codec import Codec
from ..data.image import ImageCodec

if TYPE_CHECKING:
    from PIL import Image


class Autoencoder(nn.Module):
    """Between pictures in [-1, 1] ``(B, 3, H, W)`` and latents ``(B, C, h, w)``.

    Args:
        net: An AutoencoderKL or a VQModel of diffusers.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """The mean of the latents, on the CPU, one picture at a time."""
        return torch.cat([self._encode(p.to(self.net.device)).cpu() for p in pictures.split(1)])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures, on the CPU, one at a time."""
        each = latents.float().split(1)
        return torch.cat([self.net.decode(z.to(self.net.device)).sample.cpu() for z in each])

    def _encode(self, picture: Tensor) -> Tensor:
        out = self.net.encode(picture)
        return out.latents if hasattr(out, "latents") else out.latent_dist.mode()


@dataclass(frozen=True, kw_only=True)
class LatentCodec(Codec):
    """Pictures that become x in an autoencoder: ``x = (encode(picture) - mean_c) / std_c``.

    `shape`, `mean` and `std` are those of the latents; what is stored, and files, are `pictures`.
    A picture comes back as well as the autoencoder knows it.

    Args:
        pictures: Of the files.
        autoencoder: Whose latents x is.
    """

    kind: ClassVar[str] = "foreign-latents"

    pictures: ImageCodec
    autoencoder: Autoencoder

    def pack(self, stored: Tensor) -> Tensor:
        z = self.autoencoder.encode(self.pictures.pack(stored))
        mean, std = self._of_channels(z)
        return (z - mean) / std

    def decoded(self, x: Tensor) -> Tensor:
        """The pictures ``(B, 3, H, W)`` as `pictures` packs them, from x."""
        mean, std = self._of_channels(x)
        return self.autoencoder.decode(mean + std * x.cpu())

    def unpack(self, x: Tensor) -> np.ndarray:
        return self.pictures.unpack(self.decoded(x))

    def stored(self, x: Tensor) -> np.ndarray:
        return self.pictures.stored(self.decoded(x))

    def save(
        self, x: Tensor, folder: Path, start: int = 0, labels: Sequence[str] | None = None
    ) -> Iterator[Path]:
        return self.pictures.save(self.decoded(x), folder, start, labels)

    def preview(
        self, x: Tensor, columns: int | None = None, scale: int | None = None
    ) -> "Image.Image":
        return self.pictures.preview(self.decoded(x), columns, scale)

    def read(self, path: Path) -> Tensor:
        return self.pictures.read(path)


del Codec.kinds[LatentCodec.kind]  # it holds a network: no file may ask for one
