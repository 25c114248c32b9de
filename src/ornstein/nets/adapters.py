"""Additions to a network whose own weights stay as they are: of low rank, or new words.

While they are learned they are modules beside frozen weights; to be used they become weights
again, with `grown`: an adapted network is a plain one, and as fast.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


def freeze(module: nn.Module) -> None:
    """Make every weight of `module` a constant, which neither moves nor is saved."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, weight.detach(), persistent=False)


# --- Low rank ------------------------------------------------------------------------------------


class LowRank(nn.Module):
    """A layer with frozen weights W ``(O, I, *K)``, and an addition to them: ``W + up down``.

    Of a convolution, `down` is one to `rank` channels with the same kernel, `up` one of 1 x 1.
    One after the other they are a convolution again, whose kernel is the product: adding the
    kernels gives the same as adding the outputs, in less time wherever there are many points.

    Args:
        layer: Linear, or a convolution.
        rank: Of the addition, if W has room for as much.

    Attributes:
        down: ``(rank, I, *K)``, random at first.
        up: ``(O, rank)``, zero at first.

    Source: Hu et al. (2021), https://arxiv.org/abs/2106.09685, section 4.1.
    """

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        weight = layer.weight
        assert isinstance(weight, Tensor)
        rank = min(rank, weight.shape[0], weight[0].numel())
        self.layer = layer
        self.down = nn.Parameter(weight.new_empty(rank, *weight.shape[1:]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        assert isinstance(self.layer.weight, Tensor)
        return self.layer.weight + product(self.up, self.down)

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.layer, {"weight": self.weight}, (x,))


def product(up: Tensor, down: Tensor) -> Tensor:
    """``up down``, of the shape of the weights that it is added to; in full precision."""
    with torch.autocast(up.device.type, enabled=False):
        return (up @ down.flatten(1)).view(len(up), *down.shape[1:])


def add_low_rank(net: nn.Module, rank: int, targets: Sequence[str] = ()) -> None:
    """Give layers of a frozen network additions of low rank.

    Args:
        net: The network.
        rank: Of each addition.
        targets: Of layers, parts of their path: ``qkv``, ``middle``, ``up.0``; all by default.

    Raises:
        ValueError: If no layer is named so.
    """
    layers = {
        name: part
        for name, part in net.named_modules()
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    }
    for target in targets:
        if not any(_is_within(target, name) for name in layers):
            words = {word for name in layers for word in name.split(".") if not word.isdecimal()}
            raise ValueError(f"expected targets among {', '.join(sorted(words))}, got {target!r}")
    for name, layer in layers.items():
        if not targets or any(_is_within(target, name) for target in targets):
            place, _, last = name.rpartition(".")
            setattr(net.get_submodule(place), last, LowRank(layer, rank))


def _is_within(target: str, name: str) -> bool:
    return f".{target}." in f".{name}."


# --- Words ---------------------------------------------------------------------------------------


class NewWords(nn.Module):
    """A table of words ``(N, width)`` that is frozen, and some below it that are learned.

    Args:
        known: The table.
        new: Their first values ``(M, width)``.

    Source: Gal et al. (2022), https://arxiv.org/abs/2208.01618, section 3.
    """

    known: Tensor

    def __init__(self, known: Tensor, new: Tensor) -> None:
        super().__init__()
        self.register_buffer("known", known, persistent=False)
        self.new = nn.Parameter(new.clone())

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, torch.cat([self.known, self.new]))


# --- As weights ----------------------------------------------------------------------------------


def grown(
    weights: Mapping[str, Tensor], additions: Mapping[str, Tensor], strength: float = 1.0
) -> dict[str, Tensor]:
    """The weights of a network with what was learned beside them.

    Args:
        weights: By name.
        additions: The state of the network that `add_low_rank` and `NewWords` have changed.
        strength: That additions of low rank are multiplied by. New words are there or not.

    Raises:
        ValueError: If they do not belong together.
    """
    result = dict(weights)
    for name, value in additions.items():
        layer, _, kind = name.rpartition(".")
        weight, down = result.get(f"{layer}.weight"), additions.get(f"{layer}.down")
        if kind == "new" and weight is not None and weight.shape[1:] == value.shape[1:]:
            result[f"{layer}.weight"] = torch.cat([weight, value.to(weight)])
        elif kind == "up" and weight is not None and down is not None:
            shapes = value.shape[:1], value.shape[1:], down.shape[1:]
            if shapes != (weight.shape[:1], down.shape[:1], weight.shape[1:]):
                raise ValueError(f"{name} has another shape than the weights it is added to")
            if strength:
                result[f"{layer}.weight"] = weight + strength * product(value, down).to(weight)
        elif kind != "down" or f"{layer}.up" not in additions:
            raise ValueError(f"{name} belongs to nothing in the network")
    return result
