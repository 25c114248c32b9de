"""From code lengths to probabilities that can be believed."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RIDGE = 0.1  # on the logarithms of the weights: with little data, all are alike


@dataclass(frozen=True, eq=False)
class LevelWeights:
    """How much each noise level counts: ``p(c | x) = softmax_c -sum_l w_l length[c, l]``.

    With all w = 1 this is the posterior of the variational bound, classes equally likely: exact
    if the denoiser is. That of a trained network is far too sure of itself.

    Args:
        weights: ``(L,)``, >= 0.
    """

    weights: Tensor

    @classmethod
    def bound(cls, levels: int) -> "LevelWeights":
        """As the variational bound has them."""
        return cls(torch.ones(levels, dtype=torch.float64))

    def __call__(self, lengths: Tensor) -> Tensor:
        """Probabilities ``(N, K)`` from code lengths ``(N, K, L)``, in nats."""
        return torch.softmax(-(lengths.double() @ self.weights), 1)


def fit_weights(lengths: Tensor, label: Tensor) -> LevelWeights:
    """The weights under which the classes of examples are least surprising.

    Minimises the mean of ``-log p(label | x)`` plus ``RIDGE / N`` times the squared deviation of
    log w from its mean: with few examples this is a temperature, with many a weight a level. One
    label in N + 2 counts as drawn at random: that of N examples none was wrong does not say that
    none ever is, and the weights stay finite.

    Args:
        lengths: ``(N, K, L)``, in nats, of examples the model was not trained on.
        label: Their classes ``(N,)``.

    Source: Guo et al. (2017), https://arxiv.org/abs/1706.04599 (temperature); Platt (1999), section
    2.2 (the labels of one in N + 2).
    """
    lengths, doubt = lengths.double(), 1 / (len(label) + 2)
    logs = torch.zeros(lengths.shape[2], dtype=torch.float64, requires_grad=True)
    scale = lengths.sum(2).std(1, correction=0).mean().clamp_min(1e-9)
    with torch.no_grad():
        logs -= scale.log().clamp_min(0)  # start where probabilities are neither 0 nor 1
    solver = torch.optim.LBFGS([logs], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        logits = -(lengths @ logs.exp())
        uneven = (logs - logs.mean()).square().sum()
        surprise = torch.nn.functional.cross_entropy(logits, label, label_smoothing=doubt)
        total = surprise + RIDGE / len(label) * uneven
        total.backward()
        return total

    with torch.enable_grad():
        solver.step(loss)  # pyright: ignore[reportArgumentType]
    return LevelWeights(logs.detach().exp())


def calibration_error(probabilities: np.ndarray, label: np.ndarray, bins: int = 10) -> float:
    """How far confidence is from accuracy: the expected calibration error, in bins of equal size.

    Args:
        probabilities: ``(N, K)``.
        label: ``(N,)``.
        bins: Of about N / bins examples each, by confidence.

    Source: Nguyen & O'Connor (2015), https://arxiv.org/abs/1508.05154 (bins of equal size).
    """
    order = np.argsort(probabilities.max(1), kind="stable")
    sure = probabilities.max(1)[order]
    right = (probabilities.argmax(1) == label)[order]
    parts = np.array_split(np.arange(len(label)), min(bins, len(label)))
    return float(sum(abs(sure[p].sum() - right[p].sum()) for p in parts) / len(label))
