"""Features learned from the data without labels, in seconds.

Pictures, series and volumes: two views of one example, moved, turned and of another contrast, are
to lie nearer to each other than to views of other examples. Vectors: a third of the numbers are
exchanged with those of other examples, and are to be put right.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...rng import generator
from .labelled import WIDTH, Encoder

SEEN = 32_768
"""Examples that an encoder learns from, counted as often as they are shown."""

BATCH = 256
LEARNING_RATE = 2e-3
TEMPERATURE = 0.2
SIDES = {4: 32, 5: 12}
"""Of the pictures and volumes that convolutions see: larger ones are averaged down."""

SMALLEST = 6  # sides below have no room for views
EXCHANGED = 0.3  # of the numbers of a vector


@dataclass(frozen=True, eq=False)
class SelfTaught(Encoder):
    """A frozen network that learned without labels.

    Args:
        net: From x ``(N, *S)`` to features ``(N, WIDTH)``.
    """

    net: nn.Module

    @torch.no_grad()
    def __call__(self, x: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).split(256)
        return torch.cat([self.net(part) for part in parts]).double().numpy()

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.net.state_dict().items()}


def train_self_taught(x: np.ndarray, seed: int = 0, seen: int = SEEN) -> SelfTaught:
    """Train an encoder on examples alone; the same examples and seed give the same encoder.

    Args:
        x: ``(N, *S)``, of mean 0 and variance 1.
        seed: Of the weights and the views.
        seen: How long, in examples.

    Source: Chen et al. (2020), https://arxiv.org/abs/2002.05709 (views); Vincent et al. (2008),
    https://doi.org/10.1145/1390156.1390294, with the corruption of Bahri et al. (2022),
    https://arxiv.org/abs/2106.15147 (vectors).
    """
    data, draw = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)), generator
    batch = min(BATCH, len(data))
    with _alone(seed):
        if data.ndim > 2 and min(data.shape[2:]) >= SMALLEST:
            data = _Shrink()(data)
            net, loss = _convolutions(tuple(data.shape[1:])), _agreement
            head: nn.Module = nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, WIDTH))
        else:
            dims = data[0].numel()
            net, loss = _dense(dims), _repair
            head = nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, dims))
        parameters = [*net.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=1e-3)
        steps = max(1, seen // batch)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * math.cos(math.pi / 2 * step / steps)
            rows = draw("batch", seed, step).permutation(len(data))[:batch].copy()
            found = loss(net, head, data[torch.from_numpy(rows)])
            optimizer.zero_grad()
            found.backward()
            optimizer.step()
    return SelfTaught(net.eval().requires_grad_(False))


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """With a random state of its own, on one thread: sums do not depend on how they are shared."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


# --- Networks ------------------------------------------------------------------------------------


class _Shrink(nn.Module):
    """Average down to about `SIDES`; a series becomes a picture of height 1."""

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, None] if x.ndim == 3 else x
        pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
        by = [max(1, side // SIDES[x.ndim]) for side in x.shape[2:]]
        return pool(x, by) if max(by) > 1 else x


def _convolutions(shape: tuple[int, ...]) -> nn.Sequential:
    """Stages that halve the sides, down to 4 or less, then one dense layer."""
    channels, *sides = shape
    flat = len(sides) == 2
    layers: list[nn.Module] = [_Shrink()]
    width = 16
    while max(sides) > 4 or len(layers) == 1:
        stride = [2 if side > 4 else 1 for side in sides]
        layers += [
            nn.Conv2d(channels, width, 3, (stride[0], stride[1]), padding=1)
            if flat
            else nn.Conv3d(channels, width, 3, (stride[0], stride[1], stride[2]), padding=1)
        ]
        layers += [nn.GroupNorm(4, width), nn.ReLU()]
        sides = [-(-side // by) for side, by in zip(sides, stride, strict=True)]
        channels, width = width, min(64, 2 * width)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * math.prod(sides), WIDTH))


def _dense(dims: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(dims, 128), nn.ReLU(), nn.Linear(128, WIDTH), nn.ReLU()
    )


# --- What they learn from ------------------------------------------------------------------------


def _agreement(net: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    """``-log softmax`` of the cosine between two views of one example, among all other views."""
    z = F.normalize(head(net(torch.cat([_view(x), _view(x)]))), dim=1)
    alike = z @ z.T / TEMPERATURE
    alike.fill_diagonal_(-math.inf)
    partner = torch.arange(len(z)).roll(len(x))
    return F.cross_entropy(alike, partner)


def _view(x: Tensor) -> Tensor:
    """Turned by up to 15 degrees, scaled by up to 1.25, moved by up to an eighth, in contrast and
    brightness changed by up to a fifth; beyond the edge lies what is at the edge."""
    axes, count = x.ndim - 2, len(x)

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(count, *shape) - 1

    matrix = torch.diag_embed(1.25 ** uniform(axes))
    if x.shape[2] > 1:  # a series has nowhere to turn
        angle = math.pi / 12 * uniform()
        cos, sin = angle.cos(), angle.sin()
        turn = torch.eye(axes).repeat(count, 1, 1)
        turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = cos, -sin, sin, cos
        matrix = turn @ matrix
    move = torch.cat([matrix, 0.25 * uniform(axes, 1)], 2)
    grid = F.affine_grid(move, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    wide = (1,) * (x.ndim - 1)
    return 1.2 ** uniform(*wide) * moved + 0.2 * uniform(*wide)


def _repair(net: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    """The error of what should be put right, of numbers exchanged with those of other examples."""
    flat = x.flatten(1)
    others = flat.gather(0, torch.rand(flat.shape).argsort(0))  # each number of another example
    wrong = torch.where(torch.rand(flat.shape) < EXCHANGED, others, flat)
    return F.mse_loss(head(net(wrong)), flat)
