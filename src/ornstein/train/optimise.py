"""How weights move: the learning rate, AdamW, Muon, and what of them a checkpoint holds."""

from math import cos, pi

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ..runs.config import TrainConfig

BETAS = (0.9, 0.99)


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


def build_optimizers(module: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """AdamW, fused into one pass over the weights; with ``muon``, Muon for the matrices."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    weights = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in weights if p.ndim >= 2 and id(p) not in embeddings]
    optimizers: list[Optimizer] = []
    if config.optimizer == "muon":
        hidden = [p for p in matrices if min(as_matrix(p).shape) >= 8]
        optimizers.append(Muon(hidden, weight_decay=config.weight_decay))
        taken = {id(p) for p in hidden}
        weights = [p for p in weights if id(p) not in taken]
        matrices = [p for p in matrices if id(p) not in taken]
    decayed = {id(p) for p in matrices}
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": [p for p in weights if id(p) not in decayed], "weight_decay": 0.0},
    ]
    fused = weights[0].device.type in ("cpu", "cuda", "xpu", "mps")
    optimizers.append(AdamW(groups, lr=0.0, betas=BETAS, fused=fused, foreach=not fused))
    return optimizers


class Muon(Optimizer):
    """Steepest descent in the spectral norm: ``W <- W - lr c U V^T``.

    ``U S V^T`` is the singular value decomposition of the momentum; `orthogonalise` stands for
    dropping S. A convolution is a matrix from all it reads at one point to its channels. With
    ``c = 0.2 sqrt(max(rows, columns))`` a step moves a weight by about as much as a step of AdamW,
    so that both share one learning rate.

    Args:
        params: Matrices and convolutions.
        momentum: Of the gradient; Nesterov's form is used.
        weight_decay: Decoupled: each step takes ``lr weight_decay W`` off W.

    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; the factor: Liu et
    al. (2025), https://arxiv.org/abs/2502.16982.
    """

    def __init__(
        self, params: list[nn.Parameter], momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for params in shapes.values():
                self._step(params, group["lr"], group["momentum"], group["weight_decay"])

    def _step(
        self, params: list[nn.Parameter], lr: float, momentum: float, weight_decay: float
    ) -> None:
        """One step of tensors of equal shape, in one batch of matrices."""
        grads = [p.grad for p in params if p.grad is not None]
        weights: list[Tensor] = list(params)
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        averages = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(averages, grads, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]
        ahead = torch._foreach_lerp(grads, averages, momentum)  # pyright: ignore[reportPrivateImportUsage]
        moves = orthogonalise(torch.stack([as_matrix(g) for g in ahead]))
        rows, columns = moves.shape[1:]
        if weight_decay:
            torch._foreach_mul_(weights, 1 - lr * weight_decay)  # pyright: ignore[reportPrivateImportUsage]
        for p, move in zip(params, moves, strict=True):
            p.add_(as_weight(move, p), alpha=-lr * 0.2 * max(rows, columns) ** 0.5)


def as_matrix(p: Tensor) -> Tensor:
    """A matrix ``(channels, all the rest)`` of a matrix or a convolution ``(O, I, *K)``."""
    return p if p.ndim == 2 else p.movedim(1, -1).flatten(1)


def as_weight(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_matrix`."""
    if like.ndim == 2:
        return matrix
    return matrix.unflatten(1, (*like.shape[2:], like.shape[1])).movedim(-1, 1)


def orthogonalise(matrices: Tensor) -> Tensor:
    """About ``U V^T`` of each matrix ``U S V^T`` of a batch ``(N, R, C)``, in its dtype.

    Five rounds of ``X <- a X + (b X X^T + c (X X^T)^2) X`` in bfloat16, a polynomial of the
    singular values that takes those from 0.005 to 1 into about [0.7, 1.2].
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[1] <= matrices.shape[2]
    X = matrices if wide else matrices.mT
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    X = X.to(torch.bfloat16)
    for _ in range(5):
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)
        X = torch.baddbmm(X, B, X, beta=a)
    return (X if wide else X.mT).to(matrices.dtype)


def tensors_of(optimizers: list[Optimizer], module: nn.Module) -> dict[str, Tensor]:
    """What the optimisers remember, by the name of the weight and of the quantity."""
    names = {id(p): name for name, p in module.named_parameters()}
    return {
        f"{names[id(p)]}|{key}": value
        for optimizer in optimizers
        for p, memory in optimizer.state.items()
        for key, value in memory.items()
    }


def restore(optimizers: list[Optimizer], module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of `tensors_of`: what is not in `tensors` is forgotten."""
    params = dict(module.named_parameters())
    owner = {id(p): o for o in optimizers for g in o.param_groups for p in g["params"]}
    for optimizer in optimizers:
        optimizer.state.clear()
    for name, value in tensors.items():
        weight, key = name.split("|")
        p = params[weight]
        like = p if value.shape == p.shape else value  # moments lie in memory as their weight does
        owner[id(p)].state[p][key] = torch.empty_like(like, device=p.device).copy_(value)
