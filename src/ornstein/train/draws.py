"""What an update is made of, as a function of (seed, seen): examples, noise levels, noise."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.noise import Schedule
from ..core.times import TimeDistribution, low_discrepancy
from ..data.dataset import Dataset, draws_at
from ..data.given import mixed
from ..rng import generator, normal


@dataclass(frozen=True)
class Batch:
    """The arguments of the loss.

    Args:
        x: Clean data ``(B, C, *S)``.
        t: Times ``(B,)``, float64.
        eps: Noise ``(B, C, *S)``.
        cond: Conditions, each ``(B, ...)``.
    """

    x: Tensor
    t: Tensor
    eps: Tensor
    cond: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.x)

    def parts(self, size: int) -> Iterator["Batch"]:
        """The batch in pieces of at most `size`."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def __getitem__(self, here: slice | Tensor) -> "Batch":
        cond = {name: value[here] for name, value in self.cond.items()}
        return Batch(self.x[here], self.t[here], self.eps[here], cond)


def draw(
    data: Dataset,
    indices: Tensor,
    schedule: Schedule,
    times: TimeDistribution,
    *,
    seed: int,
    seen: int,
    hide: float = 0.0,
    silent: float = 0.0,
    share: slice | None = None,
    shared: int = 1,
) -> Batch:
    """The batch of positions ``seen ... seen + B - 1`` of the training clock.

    Everything random is drawn for all of it, from keys that hold `seed` and `seen` alone, and
    then cut to `share`: neither the number of processes nor the size of their pieces changes what
    is drawn. The times cover their distribution evenly.

    Args:
        data: The training examples.
        indices: Which of them, ``(B,)``, over all processes.
        schedule: What `times` refer to.
        times: Which noise levels to train on.
        seed: Of the run.
        seen: Where training stands.
        hide: Share of examples whose conditions are hidden, for guidance.
        silent: Share of those whose text is hidden, if that is decided by itself; if it is 0, the
            text is hidden with all else.
        share: The examples wanted, of the B; all by default.
        shared: At how many noise levels each example is seen with the same noise; see `turns`.
    """
    count, share = len(indices), share or slice(None)
    turn = turns(count, shared)
    several = (data.patches, data.captions, data.embedded)
    moved = data.options.augmentations or any(one is not None for one in several)
    positions = torch.arange(seen, seen + count)[turn][share] if moved else None
    varied = None if positions is None else draws_at(seed, positions)
    x, cond = data.batch(indices[turn][share], varied)
    if most := data.options.given_noise:
        amount = generator(seed, "given-share", seen).random(count, dtype=np.float32) * most
        amount = torch.from_numpy(amount)[share].to(x.device)
        context = cond["context"]
        added = normal((count, *context.shape[1:]), seed, "given-noise", seen)[share].to(context)
        cond["context"], cond["augment"][:, -1] = mixed(context, added, amount), amount
    eps = normal((count, *x.shape[1:]), seed, "noise", seen)[turn][share].to(x)
    u = low_discrepancy(generator(seed, "times", seen).random(), count)[share].to(x.device)
    with torch.no_grad():
        t = times(u, schedule)
    text = {"text": cond.pop("text")} if silent and "text" in cond else {}
    for part, why, often in ((cond, "hidden", hide), (text, "silent", silent)):
        if part and often:
            hidden = generator(seed, why, seen).random(count) < often
            part |= without(part, torch.from_numpy(hidden)[turn][share].to(x.device))
    return Batch(x, t, eps, cond | text)


def turns(count: int, shared: int) -> Tensor | slice:
    """Which of ``ceil(count / shared)`` each of `count` positions is, dealt out in turn."""
    if shared == 1:
        return slice(None)
    return torch.arange(count) % -(-count // shared)


def without(cond: dict[str, Tensor], hidden: Tensor) -> dict[str, Tensor]:
    """`cond` with numbers -1, all else NaN where `hidden` ``(B,)``: not given."""
    told = ("label", "text", "attributes", "context", "embedding")
    return {
        name: value.masked_fill(
            hidden.view(-1, *(1,) * (value.ndim - 1)),
            torch.nan if value.is_floating_point() else -1,
        )
        if name in told
        else value
        for name, value in cond.items()
    }
