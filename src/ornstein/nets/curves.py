"""Learned functions of one number: a noise schedule's curve, the uncertainty of a loss."""

import torch
from torch import Tensor, nn

from .blocks import FourierFeatures
from .conditions import check_range


class MonotoneCurve(nn.Module):
    """An increasing map of [0, 1] onto [0, 1], applied elementwise, differentiable.

    A convex mixture of u itself and of K sigmoids, each rescaled so that it runs from 0 to 1:

        f(u) = p_0 u + sum_k p_k (S_k(u) - S_k(0)) / (S_k(1) - S_k(0)),
        S_k(u) = sigmoid(a_k (u - c_k)),    a_k > 1, 0 < c_k < 1.

    It starts near the identity, with p_0 = 1/2 and the centres c_k evenly spread. It computes in
    the dtype of u and where u lies, and in no product that autocast would round.

    Args:
        count: K.

    Source: after Kingma et al. (2021), https://arxiv.org/abs/2107.00630, appendix H, where the
    map is a network of sigmoids with positive weights.
    """

    def __init__(self, count: int = 32) -> None:
        super().__init__()
        check_range("count", count, 1, 4096)
        first = torch.tensor([float(count)]).log()  # p_0 : p_k = K : 1
        self.logits = nn.Parameter(torch.cat([first, torch.zeros(count)]))
        self.rates = nn.Parameter(torch.full((count,), 2.0 * count).log())  # log(a_k - 1)
        self.centres = nn.Parameter(torch.logit((torch.arange(count) + 0.5) / count))

    def forward(self, u: Tensor) -> Tensor:
        parts = torch.softmax(self.logits.to(u), 0)
        rates = 1 + torch.exp(self.rates.to(u))
        centres = torch.sigmoid(self.centres.to(u))
        low, high = torch.sigmoid(-rates * centres), torch.sigmoid(rates * (1 - centres))
        steps = (torch.sigmoid(rates * (u[..., None] - centres)) - low) / (high - low)
        return parts[0] * u + (parts[1:] * steps).sum(-1)


class Uncertainty(nn.Module):
    """The log-variance u of a loss at each log-SNR, ``(B,)`` -> ``(B,)``, zero at the start.

    A linear map of Fourier features. It computes in the dtype of the log-SNR, and in no product
    that autocast would round.

    Args:
        count: Number of frequencies.

    Source: Karras et al. (2023), https://arxiv.org/abs/2312.02696, appendix B.
    """

    def __init__(self, count: int = 64) -> None:
        super().__init__()
        check_range("count", count, 1, 4096)
        self.features = FourierFeatures(count)
        self.weight = nn.Parameter(torch.zeros(2 * count))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, log_snr: Tensor) -> Tensor:
        weight, bias = self.weight.to(log_snr.dtype), self.bias.to(log_snr.dtype)
        return (self.features(log_snr).to(log_snr.dtype) * weight).sum(1) + bias
