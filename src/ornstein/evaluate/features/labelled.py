"""Features to measure distances on: learned from the user's own labels, or fixed at random."""

import hashlib
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.shares import Share
from ...rng import generator

WIDTH = 64
"""Of the features: a Frechet distance needs some ``WIDTH^2`` examples, and people have few."""

LEARNERS = 10_000
"""Training examples that an encoder, or principal components, are fitted to, at most."""

LARGEST_INPUT = 256
"""More numbers than this in an example are first reduced to their principal components."""


class Encoder(ABC):
    """A frozen map from examples ``(N, *S)`` to features ``(N, WIDTH)``, float64."""

    @abstractmethod
    def __call__(self, x: np.ndarray) -> np.ndarray: ...

    @property
    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that decides what it computes, by name: to be kept beside what was measured."""

    @property
    def sha256(self) -> str:
        """Of `tensors`: figures are comparable only between equal encoders."""
        digest = hashlib.sha256()
        for name, value in sorted(self.tensors.items()):
            digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
            digest.update(np.ascontiguousarray(value.numpy()).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Features(Encoder):
    """A fixed map from examples ``(N, *S)`` to features ``(N, WIDTH)``, float64.

    One affine map for each layer, with a ReLU after each: ``h <- max(0, h W + b)``.

    Args:
        layers: The pairs W ``(I, O)``, b ``(O,)``.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        h = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        for weight, bias in self.layers:
            h = np.maximum(0, h @ weight + bias)
        return h

    @property
    def tensors(self) -> dict[str, Tensor]:
        named = [(("weight", w), ("bias", b)) for w, b in self.layers]
        return {
            f"{i}.{name}": torch.from_numpy(np.ascontiguousarray(value))
            for i, pair in enumerate(named)
            for name, value in pair
        }


@dataclass(frozen=True, eq=False)
class Convolutions(Encoder):
    """Random filters of width 3 over pictures, series or volumes, in two layers.

    ``h1 = relu(W1 * x)``, ``h2 = relu(W2 * pooled h1)``; the features are the mean of h1 and of
    h2 over each half of the first axis: they see texture, and roughly where it is.

    Args:
        first: W1 ``(WIDTH / 4, C, 3, ...)``, float32.
        second: W2 ``(WIDTH / 4, WIDTH / 4, 3, ...)``.
    """

    first: Tensor
    second: Tensor

    def __call__(self, x: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).split(256)
        return torch.cat([self._encode(part) for part in parts]).double().numpy()

    def _encode(self, x: Tensor) -> Tensor:
        axes = x.ndim - 2
        convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
        h1 = F.relu(convolve(x, self.first, padding=1))
        h2 = F.relu(convolve(pool(h1, 2), self.second, padding=1))
        halves = [half for h in (h1, h2) for half in h.tensor_split(2, dim=2)]
        return torch.cat([half.flatten(2).mean(2) for half in halves], 1)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"first": self.first, "second": self.second}


def fixed_features(shape: tuple[int, ...], seed: int = 0) -> Encoder:
    """Random features of examples ``(C, *S)``: convolutions where there is room for them."""
    if not 2 <= len(shape) <= 4 or min(shape[1:]) < 4:
        return random_features(int(np.prod(shape)), seed)
    draw, width, window = generator("convolutions", seed), WIDTH // 4, (3,) * (len(shape) - 1)

    def filters(channels: int) -> Tensor:
        inputs = channels * 3 ** len(window)
        drawn = draw.standard_normal((width, channels, *window)) * (2 / inputs) ** 0.5
        return torch.from_numpy(drawn.astype(np.float32))

    return Convolutions(filters(shape[0]), filters(width))


def random_features(dimensions: int, seed: int = 0) -> Features:
    """One layer of random weights: blind to meaning, but unbiased, and the same for everybody.

    Args:
        dimensions: Numbers in an example, of mean 0 and variance 1.
        seed: Of the weights.
    """
    draw = generator("features", seed)
    weight = draw.standard_normal((dimensions, WIDTH)) * (2 / dimensions) ** 0.5
    return Features(((weight, draw.standard_normal(WIDTH) * 0.5),))


@dataclass(frozen=True, eq=False)
class Labeller:
    """A classifier trained on real data, and its last hidden layer as features.

    Args:
        features: All but its last layer.
        last: W ``(WIDTH, K)`` and b ``(K,)`` of the last.
        classes: The labels it knows ``(K,)``.
        accuracy: On real data it never saw: what it says of samples is to be read beside this.
    """

    features: Features
    last: tuple[np.ndarray, np.ndarray]
    classes: np.ndarray
    accuracy: Share

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The label of each example ``(N,)``."""
        return self.classes[(self.features(x) @ self.last[0] + self.last[1]).argmax(1)]

    def agreement(self, x: np.ndarray, label: np.ndarray) -> Share:
        """How often it gives the examples the `label` that they were asked, or known, to have."""
        return agreement(self(x), label)


def train_labeller(
    x: np.ndarray, label: np.ndarray, held_out: np.ndarray, held_out_label: np.ndarray
) -> Labeller:
    """Train a small network on labelled examples, in seconds.

    Principal components if there are many inputs, then two hidden layers of 128 and `WIDTH`.

    Args:
        x: ``(N, *S)``, of mean 0 and variance 1.
        label: ``(N,)``, at least two different ones; negative ones are left out.
        held_out: ``(M, *S)``, to know its accuracy.
        held_out_label: ``(M,)``.
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    flat, label = _labelled(x, label)
    first: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    if flat.shape[1] > LARGEST_INPUT:
        pca = PCA(min(LARGEST_INPUT, len(flat)), random_state=0).fit(flat)
        # h = (x - mean) P, and its negative, so that a ReLU loses nothing of it; the first
        # component gets variance 1, the others keep theirs: small ones are mostly noise
        axes = np.asarray(pca.components_).T / np.sqrt(pca.explained_variance_[0])
        both = np.concatenate([axes, -axes], 1)
        first = ((both, -pca.mean_ @ both),)
    flat = Features(first)(flat)
    net = MLPClassifier((128, WIDTH), alpha=1e-3, max_iter=120, random_state=0)
    with warnings.catch_warnings(), threadpool_limits(1):  # the matrices are too small to share
        warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy says what epochs gave
        net.fit(flat, label)
    layers = list(zip(net.coefs_, net.intercepts_, strict=True))
    features, last = Features((*first, *layers[:-1])), layers[-1]
    if last[0].shape[1] == 1:  # two classes share one logit
        last = np.concatenate([-last[0], last[0]], 1), np.concatenate([-last[1], last[1]])
    labeller = Labeller(features, last, net.classes_, Share(hits=0, n=1))
    return replace(labeller, accuracy=labeller.agreement(*_labelled(held_out, held_out_label)))


def agreement(said: np.ndarray, label: np.ndarray) -> Share:
    """How often two labellings agree."""
    return Share(hits=int((said == label).sum()), n=len(label))


def _labelled(x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    there = label >= 0
    return np.asarray(x, dtype=np.float64).reshape(len(x), -1)[there], label[there]
