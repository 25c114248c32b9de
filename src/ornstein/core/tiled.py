"""Examples larger than those a denoiser was made for: windows, and estimates blended."""

from collections.abc import Sequence
from math import floor, pi, prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from .denoise import Denoiser

# Multiples of t, whose fractional parts are spread evenly, and differently along each axis.
_ROOTS = tuple(1000 * sqrt(n) for n in (2, 3, 5))


class _Axis(NamedTuple):
    """The windows along one axis of length n.

    Args:
        place: Of each point of each window ``(K, w)``.
        share: What it counts for in the blend ``(K, w)``; 1 in all at each of the n points.
        length: n.
    """

    place: Tensor
    share: Tensor
    length: int


class Tiled(Denoiser):
    """A denoiser for examples larger than its own: windows side by side, blended.

    Each estimate is the mean of those of the windows that see the point, where a window counts
    the less the nearer the point is to its edge:

        x_hat = sum_w share_w x_hat_w,  sum_w share_w = 1.

    Exact if the inside of a window does not depend on what lies outside; otherwise what lies
    further away than a window is not heard. The windows move with t, so that along a trajectory
    no seam stays in its place. A blend is linear in the estimates: derivatives pass through it.

    Args:
        denoiser: Of examples ``(B, C, *window)``; its conditions pass through, those of the shape
            of x in windows.
        window: What it was made for, along each axis.
        overlap: Points that neighbouring windows share, at least; less than half a window.
        at_once: Windows in one call of `denoiser`, at most.

    Raises:
        ValueError: If the overlap does not fit the window.

    Source: Bar-Tal et al. (2023), https://arxiv.org/abs/2302.08113, equation 5.
    """

    def __init__(
        self, denoiser: Denoiser, window: Sequence[int], overlap: int, at_once: int = 64
    ) -> None:
        super().__init__()
        if not 0 <= 2 * overlap < min(window) or at_once < 1:
            raise ValueError(
                f"expected an overlap from 0 to half of {tuple(window)} and at_once >= 1, got "
                f"{overlap} and {at_once}"
            )
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.window, self.overlap, self.at_once = tuple(window), overlap, at_once

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.moments(x_t, t, **cond)[0]

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor | None]:
        space = x_t.shape[2:]
        if len(space) != len(self.window) or any(
            n < w for n, w in zip(space, self.window, strict=True)
        ):
            raise ValueError(f"expected x (B, C, *S) with S >= {self.window}, got {tuple(space)}")
        cond = {name: c if c.ndim else c.expand(len(x_t)) for name, c in cond.items()}
        if t.ndim and (t != t[0]).any():  # each example has windows of its own
            rows = [
                self.moments(x_t[i : i + 1], t[i], **{k: c[i : i + 1] for k, c in cond.items()})
                for i in range(len(x_t))
            ]
            means, places = zip(*rows, strict=True)
            return torch.cat(means), None if places[0] is None else torch.cat(places)
        axes = self._axes(x_t, float(t.flatten()[0]))
        count = prod(len(axis.place) for axis in axes)
        x, t = _windows(x_t, axes), t.expand(len(x_t)).repeat_interleave(count)
        told = {
            name: _windows(c, axes) if c.shape[2:] == space else c.repeat_interleave(count, 0)
            for name, c in cond.items()
        }
        means, places = [], []
        for i in range(0, len(x), self.at_once):
            here = slice(i, i + self.at_once)
            part = {name: c[here] for name, c in told.items()}
            x_hat, v = self.denoiser.moments(x[here], t[here], **part)
            means.append(x_hat)
            places.append(v)
        v = None if places[0] is None else _blended(torch.cat(places), axes)
        return _blended(torch.cat(means), axes), v

    def _axes(self, x: Tensor, t: float) -> list[_Axis]:
        axes = []
        for n, w, root in zip(x.shape[2:], self.window, _ROOTS, strict=False):
            stride = w - self.overlap
            moved = floor(root * t % 1 * stride)
            begin = sorted({min(max(i, 0), n - w) for i in range(-moved, n - w + stride, stride)})
            ahead = torch.arange(w, device=x.device)
            place = torch.tensor(begin, device=x.device)[:, None] + ahead
            inside = (torch.minimum(ahead, w - 1 - ahead) + 1.0) / (self.overlap + 1)
            weight = torch.sin(pi / 2 * inside.clamp(max=1).double()) ** 2
            weight = weight.expand(place.shape)
            total = weight.new_zeros(n).index_add(0, place.flatten(), weight.flatten())
            axes.append(_Axis(place, (weight / total[place]).to(x.dtype), n))
        return axes


def _windows(x: Tensor, axes: Sequence[_Axis]) -> Tensor:
    """``(B, C, *S)`` -> ``(B K, C, *window)``, K windows of the first example, then the next."""
    for i, axis in enumerate(axes):
        x = x.index_select(2 * i + 2, axis.place.flatten())
        x = x.unflatten(2 * i + 2, tuple(axis.place.shape))
    count = len(axes)
    order = [0, *range(2, 2 * count + 2, 2), 1, *range(3, 2 * count + 3, 2)]
    return x.permute(order).flatten(0, count)


def _blended(x: Tensor, axes: Sequence[_Axis]) -> Tensor:
    """``(B K, C, *window)`` -> ``(B, C, *S)``, each point by its shares."""
    counts = [len(axis.place) for axis in axes]
    x = x.unflatten(0, (-1, *counts))
    order = [0, len(axes) + 1]
    for i in range(len(axes)):
        order += [1 + i, len(axes) + 2 + i]
    x = x.permute(order)
    for i, axis in enumerate(axes):
        rest = (1,) * (x.ndim - 4 - i)
        x = (x * axis.share.reshape(*axis.share.shape, *rest)).flatten(2 + i, 3 + i)
        shape = [*x.shape[: 2 + i], axis.length, *x.shape[3 + i :]]
        x = x.new_zeros(shape).index_add(2 + i, axis.place.flatten(), x)
    return x
