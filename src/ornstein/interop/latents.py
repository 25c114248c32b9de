"""An autoencoder of another library, between its latents and pictures."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class ForeignAutoencoder(nn.Module):
    """Between pictures in [-1, 1] ``(B, 3, H, W)`` and latents ``(B, C, h, w)``, one at a time.

    It attends to the whole of a picture. One larger than it was trained on is taken in tiles that
    are blended where they overlap, as diffusers does: nearly the same, in bounded memory.

    Args:
        net: An AutoencoderKL or a VQModel of diffusers; of the latter there are no tiles.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        if hasattr(net, "use_tiling"):
            net.enable_tiling()

    @property
    def at_once(self) -> int:
        """Pictures that are decoded in one call."""
        return 1

    @property
    def factor(self) -> int:
        """Pixels along each axis that become one point."""
        return 2 ** (len(self.net.config.block_out_channels) - 1)

    @property
    def device(self) -> torch.device:
        return self.net.device

    def encode(self, x: Tensor) -> Tensor:
        """The mean of the latents."""
        return torch.cat([self._encode(picture) for picture in x.split(1)])

    def decode(self, z: Tensor) -> Tensor:
        """Pictures; its attention is written out, as the fused one has no forward derivatives."""
        with sdpa_kernel(SDPBackend.MATH):
            return torch.cat([self.net.decode(each).sample for each in z.split(1)])

    def decode_together(self, z: Tensor) -> Tensor:
        """As `decode`, all in one call: a graph cannot count them."""
        return self.net.decode(z).sample

    def _encode(self, picture: Tensor) -> Tensor:
        out = self.net.encode(picture)
        return out.latents if hasattr(out, "latents") else out.latent_dist.mode()
