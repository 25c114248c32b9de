"""Networks ``net(x, log_snr, **cond)``: x ``(B, C, *S)`` to ``(B, out_channels, *S)``.

They know no diffusion: the log-SNR and the conditions are what they are told, and that is all.
"""

from torch import nn

from .conditions import Conditions
from .control import Controlled
from .curves import MonotoneCurve, Uncertainty
from .dit import DiT
from .mlp import MLP
from .unet import UNet
from .unet2d import UNet2D

NETS: dict[str, type[nn.Module]] = {"mlp": MLP, "unet": UNet, "dit": DiT, "unet2d": UNet2D}

__all__ = [
    "MLP",
    "NETS",
    "Conditions",
    "Controlled",
    "DiT",
    "MonotoneCurve",
    "UNet",
    "UNet2D",
    "Uncertainty",
]
