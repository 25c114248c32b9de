"""How weights move: the learning rate, AdamW, Muon, and what of them a checkpoint holds.

The optimisers are written on PyTorch's functions, not on its classes, whose first use imports its
compiler: two seconds for nothing, at every start.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import cos, pi, prod

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ..nets.blocks import Modulation
from ..nets.conditions import Inputs
from ..nets.text import TextEncoder
from ..runs.config import TrainConfig


def learning_rate(seen: float, config: TrainConfig) -> float:
    """At `seen` of the budget: a straight line up, then a decay to 0 at its end."""
    part = min(1.0, seen / config.seen)
    if part < config.warmup:
        return config.learning_rate * part / config.warmup
    left = (1 - part) / (1 - config.warmup) if config.warmup < 1 else 1.0
    match config.decay:
        case "cosine":
            return config.learning_rate * (1 - cos(pi * left)) / 2
        case "linear":
            return config.learning_rate * left
        case "none":
            return config.learning_rate


def build_optimizers(module: nn.Module, config: TrainConfig) -> "list[Optimizer]":
    """AdamW for all weights; with ``muon``, Muon for the matrices and AdamW for the rest.

    The matrices that the embedding goes through are among the rest: half of Muon's time, for
    nothing that could be measured. Those that read a text are not: by AdamW at this learning rate
    they learn more slowly what it asks for.

    Weight decay is for matrices and convolutions: not for biases, gains and embeddings.
    """

    def those_of(*kinds: type[nn.Module]) -> set[int]:
        return {id(p) for m in module.modules() if isinstance(m, kinds) for p in m.parameters()}

    embeddings = those_of(nn.Embedding)
    told = those_of(Inputs, Modulation) - those_of(TextEncoder)
    groups: dict[str, dict[str, nn.Parameter]] = {"muon": {}, "decayed": {}, "plain": {}}
    for name, p in module.named_parameters():
        matrix = p.ndim >= 2 and id(p) not in embeddings
        fit = matrix and id(p) not in told and min(sides(p)) >= 8
        fit = fit and config.optimizer == "muon"
        groups["muon" if fit else "decayed" if matrix else "plain"][name] = p
    optimizers = [
        Muon(groups["muon"], config.weight_decay),
        AdamW(groups["decayed"], config.weight_decay),
        AdamW(groups["plain"], 0.0),
    ]
    return [optimizer for optimizer in optimizers if optimizer.weights]


class Optimizer(ABC):
    """Moves some weights by their gradients.

    Args:
        weights: By name.
        weight_decay: Decoupled: each step takes ``lr weight_decay W`` off W.

    Attributes:
        memory: Tensors that are updated in place, by the name of the weight and of the quantity.
    """

    memory: dict[str, Tensor]

    def __init__(self, weights: dict[str, nn.Parameter], weight_decay: float) -> None:
        self.weights, self.weight_decay = weights, weight_decay

    @abstractmethod
    def step(self, lr: float) -> None:
        """One step of all weights that have a gradient."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay, in one fused pass over the weights where there is one.

    Source: Loshchilov & Hutter (2017), https://arxiv.org/abs/1711.05101.
    """

    betas = (0.9, 0.99)
    eps = 1e-8

    def __init__(self, weights: dict[str, nn.Parameter], weight_decay: float) -> None:
        super().__init__(weights, weight_decay)
        self.memory = {}
        for name, p in weights.items():
            self.memory[f"{name}|mean"] = torch.zeros_like(p)
            self.memory[f"{name}|square"] = torch.zeros_like(p)
            self.memory[f"{name}|steps"] = torch.zeros((), device=p.device)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        moved = {name: p for name, p in self.weights.items() if p.grad is not None}
        mean, square, steps = (
            [self.memory[f"{name}|{key}"] for name in moved] for key in ("mean", "square", "steps")
        )
        weights: list[Tensor] = list(moved.values())
        fused = all(p.device.type in ("cpu", "cuda", "mps", "xpu") for p in weights)
        adamw(
            weights,
            [p.grad for p in weights if p.grad is not None],
            mean,
            square,
            [],
            steps,
            fused=fused,
            foreach=not fused,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=lr,
            weight_decay=self.weight_decay,
            eps=self.eps,
            maximize=False,
        )


class Muon(Optimizer):
    """Steepest descent in the spectral norm: ``W <- W - lr c U V^T``.

    ``U S V^T`` is the singular value decomposition of the momentum, in Nesterov's form;
    `levelling` stands for dropping S. A convolution is a matrix from all it reads at one point
    to its channels. With ``c = 0.2 sqrt(max(rows, columns))`` a step moves a weight by about as
    much as a step of AdamW, so that both share one learning rate.

    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; the factor: Liu et
    al. (2025), https://arxiv.org/abs/2502.16982.
    """

    momentum = 0.95

    def __init__(self, weights: dict[str, nn.Parameter], weight_decay: float) -> None:
        super().__init__(weights, weight_decay)
        self.memory = {f"{name}|momentum": torch.zeros_like(p) for name, p in weights.items()}
        found = {name: sides(p) for name, p in weights.items()}
        self.batches = batches(found)
        self.shapes = [(len(names), *found[names[0]]) for names in self.batches]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        # Once for all batches: memory is slower when it is new to a process than when it is not.
        room = next(iter(self.weights.values())).new_empty(max(map(prod, self.shapes)))
        moved, stacks = list[list[str]](), list[Tensor]()
        for names, shape in zip(self.batches, self.shapes, strict=True):
            wanted = [name for name in names if self.weights[name].grad is not None]
            if wanted:
                moved.append(wanted)
                stacks.append(self._directions(wanted, room[: prod(shape)].view(shape)))
        for names, moves in zip(moved, orthogonal(stacks), strict=True):
            self._move(names, moves, lr)

    def _directions(self, names: list[str], room: Tensor) -> Tensor:
        """Where the weights of a batch would go, no singular value dropped ``(N, R, C)``."""
        stack, weights = room[: len(names)], [self.weights[name] for name in names]
        if any(sides(p) != stack.shape[1:] for p in weights):
            stack.zero_()
        for name, p, place in zip(names, weights, stack, strict=True):
            average, grad = self.memory[f"{name}|momentum"].view(len(p), -1), p.grad
            assert grad is not None
            grad = grad.flatten(1)
            # Nesterov: the next average, should the same gradient come once more
            torch.lerp(average, grad, 1 - self.momentum**2, out=of(p, place))
            average.lerp_(grad, 1 - self.momentum)
        return stack.to(products_in(stack), copy=True)

    def _move(self, names: list[str], moves: Tensor, lr: float) -> None:
        for name, move in zip(names, moves, strict=True):
            p = self.weights[name]
            matrix = p.view(len(p), -1)
            if self.weight_decay:
                matrix.mul_(1 - lr * self.weight_decay)
            matrix.add_(of(p, move), alpha=-lr * 0.2 * max(matrix.shape) ** 0.5)


def sides(p: Tensor) -> tuple[int, int]:
    """Rows and columns of a matrix, or of a convolution ``(O, I, *K)`` as one, laid on its side.

    The order of the columns does not matter to `orthogonal`: so it is the one in memory.
    """
    rows = len(p)
    columns = p.numel() // rows
    return min(rows, columns), max(rows, columns)


def of(p: Tensor, place: Tensor) -> Tensor:
    """Where in its `place` in a batch, whose matrices lie on their sides, the matrix of `p` is."""
    rows, columns = sides(p)
    here = place[:rows, :columns]
    return here if len(p) == rows else here.mT


def batches(shapes: dict[str, tuple[int, int]]) -> list[list[str]]:
    """Which matrices are orthogonalised at once, the largest of each batch first.

    The others are filled up by zeros, which change nothing, and cost less than one batch more.
    """
    found = dict[str, list[str]]()
    for name in sorted(shapes, key=lambda name: products(shapes[name]), reverse=True):
        waste = {
            first: products(shapes[first]) - products(shapes[name])
            for first in found
            if shapes[first][0] >= shapes[name][0] and shapes[first][1] >= shapes[name][1]
        }
        first = min(waste, key=waste.__getitem__, default=name)
        found.setdefault(first if waste.get(first, SMALL) < SMALL else name, []).append(name)
    return list(found.values())


def products(sides: tuple[int, int]) -> int:
    """Multiplications of ``X X^T``."""
    return sides[0] ** 2 * sides[1]


SMALL = 2**20  # multiplications of a product below which a CPU is no faster in bfloat16


def products_in(X: Tensor) -> torch.dtype:
    """The dtype in which ``X X^T`` of a batch ``(N, R, C)`` is multiplied fastest."""
    few = len(X) * products((X.shape[1], X.shape[2])) < SMALL
    return torch.float32 if few and X.device.type == "cpu" else torch.bfloat16


LEAST = 1e-7  # size of X below which it counts as it is: squares of A are soon lost in float32


def orthogonal(stacks: Sequence[Tensor]) -> list[Tensor]:
    """About ``U V^T`` of each matrix ``U S V^T`` of batches ``(N, R, C)``, R <= C, in their dtypes.

    ``X X^T`` is small, whatever C is: those of as many rows are levelled together.
    """
    squares, found = [X @ X.mT for X in stacks], list(stacks)
    for rows in {X.shape[1] for X in stacks}:
        alike = [i for i, X in enumerate(stacks) if X.shape[1] == rows]
        factors = levelling(torch.cat([squares[i] for i in alike]))
        for i, factor in zip(alike, factors.split([len(stacks[i]) for i in alike]), strict=True):
            found[i] = factor.to(stacks[i].dtype) @ stacks[i]
    return found


def levelling(A: Tensor) -> Tensor:
    """F of each matrix X, given ``A = X X^T`` ``(N, R, R)``, for which F X is about ``U V^T``.

    Three rounds of ``X <- p(X X^T) X``, polynomials of the singular values that take those from
    0.01 to 1 into about [0.66, 1.14], and lesser ones to 66 times what they were. Before, X is
    divided by the root of ``|X X^T|``, which is the fourth root of the sum of ``S^4``: no singular
    value is larger, and most are nearer to it than to the norm of X.

    X itself, of more columns than rows, is multiplied twice: with ``A = X X^T``, what ``X X^T`` is
    after a round is ``p(A) A p(A)``, and the three p are multiplied before X is. Rounding of A to
    bfloat16, of which the rounds make more where a singular value is below 0.04, leaves the sign
    of no value in doubt, as each p is smooth and positive near 0.

    Source: Amsel et al. (2025), https://arxiv.org/abs/2505.16932, theorem 3.1: the polynomials
    that leave the least error, each with a margin of 2 % for rounding; the last is a tenth less,
    for the learning rates of the recipes were chosen on directions of that size.
    """
    if A.dtype == torch.bfloat16:
        A = A.to(products_in(A))
    size = A.norm(dim=(1, 2), keepdim=True).clamp_min(LEAST**2)
    A = A / size
    first = quadratic(A, 7.9347, -22.2581, 15.8015)
    A = first @ A @ first
    second = quadratic(A, 3.5653, -2.5649, 0.4860)
    A = second @ A @ second
    third = quadratic(A, 2.3482, -1.6768, 0.3689)
    return third @ (second @ first) * size.rsqrt()


def quadratic(A: Tensor, a: float, b: float, c: float) -> Tensor:
    """``a + b A + c A^2`` of each matrix of a batch."""
    found = torch.baddbmm(A, A, A, beta=b, alpha=c)
    found.diagonal(dim1=1, dim2=2).add_(a)
    return found


def tensors_of(optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """What the optimisers remember, by the name of the weight and of the quantity."""
    return {name: value for o in optimizers for name, value in o.memory.items()}


def restore(optimizers: list[Optimizer], tensors: dict[str, Tensor]) -> None:
    """The inverse of `tensors_of`."""
    for name, value in tensors_of(optimizers).items():
        value.copy_(tensors[name])
