"""A normalising flow: Glow's steps, for pictures that can be folded, and for points."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....data.dataset import Dataset
from ....nets.blocks import zero
from .rival import (
    Budget,
    Clock,
    Likelihood,
    Rival,
    descend,
    drawn,
    measured,
    seeded,
    size_of,
    width_for,
)

STEPS = {"points": 12, "pictures": 8}  # at each level
BATCH = {"points": 256, "pictures": 64}
RATE = 2e-3
STRETCH = 1.5  # a coupling scales by a factor between e^-1.5 and e^1.5
COARSEST = 2  # pictures are folded until a side is no longer than that, or odd
LOG_2PI = math.log(2 * math.pi)


class Coupling(nn.Module):
    """``y = P x``, then ``y_b <- e^s(y_a) (y_b + m(y_a))``; maps of ``(B, C)`` or ``(B, C, H, W)``.

    P, a matrix of the channels, starts as a random rotation; with it goes a scale for each
    channel. The second half is scaled and moved by what the first half says.

    Source: Kingma & Dhariwal (2018), https://arxiv.org/abs/1807.03039, section 3; Dinh et al.
    (2017), https://arxiv.org/abs/1605.08803, section 3.2.
    """

    def __init__(self, channels: int, width: int, pictures: bool) -> None:
        super().__init__()
        self.first, self.second = channels // 2, channels - channels // 2
        self.mix = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))
        self.scale, self.shift = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        ends = (self.first + 1, 2 * self.second)  # and a channel of ones: the first may be empty
        if pictures:
            self.net = nn.Sequential(
                nn.Conv2d(ends[0], width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, width, 1),
                nn.ReLU(),
                zero(nn.Conv2d(width, ends[1], 3, padding=1)),
            )
        else:
            self.net = nn.Sequential(
                nn.Linear(ends[0], width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.ReLU(),
                zero(nn.Linear(width, ends[1])),
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y, and ``log |det dy / dx|`` ``(B,)``."""
        points = x[0, 0].numel()
        matrix = self.scale.exp()[:, None] * self.mix
        y = self._mixed(x, matrix) + self._wide(self.shift, x)
        kept, moved = y.split([self.first, self.second], 1)
        log_scale, move = self._told(kept)
        log_det = points * (torch.linalg.slogdet(self.mix)[1] + self.scale.sum())
        y = torch.cat([kept, log_scale.exp() * (moved + move)], 1)
        return y, log_det + log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        kept, moved = y.split([self.first, self.second], 1)
        log_scale, move = self._told(kept)
        x = torch.cat([kept, (-log_scale).exp() * moved - move], 1) - self._wide(self.shift, y)
        return self._mixed(x, torch.linalg.inv(self.scale.exp()[:, None] * self.mix))

    def _told(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        ones = kept.new_ones(len(kept), 1, *kept.shape[2:])
        log_scale, move = self.net(torch.cat([kept, ones], 1)).chunk(2, 1)
        return STRETCH * torch.tanh(log_scale), move

    def _mixed(self, x: Tensor, matrix: Tensor) -> Tensor:
        return F.conv2d(x, matrix[:, :, None, None]) if x.ndim == 4 else x @ matrix.T

    def _wide(self, values: Tensor, like: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (like.ndim - 2))


class Flow(nn.Module):
    """A chain of couplings between x ``(B, C, *S)`` and standard Gaussian z ``(B, D)``.

    Pictures are folded, ``(C, H, W)`` to ``(4 C, H / 2, W / 2)``, before each level; data that
    cannot be are taken as points.
    """

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.shape, self.levels = shape, nn.ModuleList()
        self.folds = len(shape) == 3 and _folds(shape)
        channels = shape[0] if self.folds else math.prod(shape)
        steps = STEPS["pictures" if self.folds else "points"]
        for _ in range(int(self.folds) or 1):
            channels *= 4 if self.folds else 1
            couplings = (Coupling(channels, width, bool(self.folds)) for _ in range(steps))
            self.levels.append(nn.ModuleList(couplings))

    def log_prob(self, x: Tensor) -> Tensor:
        """``log N(z; 0, I) + log |det dz / dx|`` in nats ``(B,)``."""
        z, log_det = self.encode(x)
        return log_det - 0.5 * (z**2 + LOG_2PI).sum(1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z ``(B, D)``, and ``log |det dz / dx|`` ``(B,)``."""
        log_det, h = x.new_zeros(len(x)), x if self.folds else x.flatten(1)
        for level in self.levels:
            h = F.pixel_unshuffle(h, 2) if self.folds else h
            for step in level:  # pyright: ignore[reportGeneralTypeIssues]
                h, gained = step(h)
                log_det = log_det + gained
        return h.flatten(1), log_det

    def forward(self, z: Tensor) -> Tensor:
        """x from z: the inverse of `encode`."""
        h = z
        if self.folds:
            n, (c, height, width) = 2**self.folds, self.shape
            h = z.view(-1, c * n * n, height // n, width // n)
        for level in reversed(self.levels):
            for step in list(level)[::-1]:  # pyright: ignore[reportArgumentType, reportCallIssue]
                h = step.inverse(h)
            h = F.pixel_shuffle(h, 2) if self.folds else h
        return h.reshape(-1, *self.shape)


def _folds(shape: tuple[int, ...]) -> int:
    """How often a picture can be folded; not beyond what its channels become too many for."""
    (channels, height, width), count = shape, 0
    while height % 2 == width % 2 == 0 and min(height, width) > COARSEST and channels <= 64:
        channels, height, width, count = 4 * channels, height // 2, width // 2, count + 1
    return count


class NormalisingFlow(Rival):
    """Fitted by exact maximum likelihood, on integers spread evenly over their levels."""

    title: ClassVar[str] = "Flow"

    def fit(self, data: Dataset, budget: Budget, seed: int, device: torch.device) -> None:
        self._codec, clock = data.codec, Clock(budget, device)
        shape = self._codec.shape

        def make(width: int) -> Flow:
            return Flow(shape, width)

        with seeded(seed, device):
            net = make(width_for(make, self.weights)).to(device)
            self._average = descend(
                self,
                net,
                lambda x: -net.log_prob(x).mean(),
                data,
                clock,
                size=BATCH["pictures" if len(shape) == 3 else "points"],
                seed=seed,
                rate=RATE,
            )

    @property
    def _net(self) -> Flow:
        net = self._average.net
        assert isinstance(net, Flow)
        return net

    def sample(self, count: int, seed: int) -> Tensor:
        return drawn(self._net, count, (math.prod(self._codec.shape),), seed)

    @property
    def parameters(self) -> tuple[int, int]:
        return size_of(self._net), size_of(self._net)

    def likelihood(self, train: Dataset, held_out: Dataset) -> Likelihood | None:
        device = next(self._net.parameters()).device
        return measured(self._net.log_prob, self._codec, held_out, how="exact", device=device)
