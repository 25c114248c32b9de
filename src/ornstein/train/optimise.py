"""How weights move: the learning rate, AdamW, Muon, and what of them a checkpoint holds.

The optimisers are written on PyTorch's functions, not on its classes, whose first use imports its
compiler: two seconds for nothing, at every start.
"""

from abc import ABC, abstractmethod
from math import cos, pi

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
        fit = matrix and id(p) not in told and min(as_matrix(p).shape) >= 8
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
    `orthogonalise` stands for dropping S. A convolution is a matrix from all it reads at one point
    to its channels. With ``c = 0.2 sqrt(max(rows, columns))`` a step moves a weight by about as
    much as a step of AdamW, so that both share one learning rate.

    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; the factor: Liu et
    al. (2025), https://arxiv.org/abs/2502.16982.
    """

    momentum = 0.95

    def __init__(self, weights: dict[str, nn.Parameter], weight_decay: float) -> None:
        super().__init__(weights, weight_decay)
        self.memory = {f"{name}|momentum": torch.zeros_like(p) for name, p in weights.items()}
        self.names: dict[torch.Size, list[str]] = {}
        for name, p in weights.items():
            self.names.setdefault(as_matrix(p).shape, []).append(name)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for names in self.names.values():
            moved = [name for name in names if self.weights[name].grad is not None]
            if moved:
                self._step(moved, lr)

    def _step(self, names: list[str], lr: float) -> None:
        """One step of weights that are matrices of equal shape, in one batch."""
        weights: list[Tensor] = [self.weights[name] for name in names]
        grads = [p.grad for p in weights if p.grad is not None]
        averages = [self.memory[f"{name}|momentum"] for name in names]
        torch._foreach_lerp_(averages, grads, 1 - self.momentum)  # pyright: ignore[reportPrivateImportUsage]
        ahead = torch._foreach_lerp(grads, averages, self.momentum)  # pyright: ignore[reportPrivateImportUsage]
        moves = orthogonalise(torch.stack([as_matrix(g) for g in ahead]))
        moves *= -lr * 0.2 * max(moves.shape[1:]) ** 0.5
        if self.weight_decay:
            torch._foreach_mul_(weights, 1 - lr * self.weight_decay)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(  # pyright: ignore[reportPrivateImportUsage]
            weights, [move.view(p.shape) for p, move in zip(weights, moves, strict=True)]
        )


def as_matrix(p: Tensor) -> Tensor:
    """A matrix ``(channels, all the rest)`` of a matrix or a convolution ``(O, I, *K)``.

    The order of its columns does not matter to `orthogonalise`: so it is the one in memory.
    """
    return p.flatten(1)


def orthogonalise(matrices: Tensor) -> Tensor:
    """About ``U V^T`` of each matrix ``U S V^T`` of a batch ``(N, R, C)``, in its dtype.

    Four rounds of ``X <- a X + (b X X^T + c (X X^T)^2) X`` in bfloat16, a polynomial of the
    singular values that takes those from 0.005 to 1 into about [0.66, 1.2].
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[1] <= matrices.shape[2]
    X = matrices if wide else matrices.mT
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    X = X.to(torch.bfloat16)
    for _ in range(4):
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)
        X = torch.baddbmm(X, B, X, beta=a)
    return (X if wide else X.mT).to(matrices.dtype, memory_format=torch.contiguous_format)


def tensors_of(optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """What the optimisers remember, by the name of the weight and of the quantity."""
    return {name: value for o in optimizers for name, value in o.memory.items()}


def restore(optimizers: list[Optimizer], tensors: dict[str, Tensor]) -> None:
    """The inverse of `tensors_of`."""
    for name, value in tensors_of(optimizers).items():
        value.copy_(tensors[name])
