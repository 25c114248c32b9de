"""Can a classifier tell samples from data? An accuracy of one half says that it cannot."""

import warnings

import numpy as np

from ...core.shares import Share
from ...rng import generator

NEIGHBOURS = 5
COMPONENTS = 64
"""Of the data that a trained classifier sees: more inputs than examples teach it nothing."""


def neighbours_tell(a: np.ndarray, b: np.ndarray, k: int = NEIGHBOURS) -> Share:
    """How often the k nearest others of an example, by majority, say which set it is of.

    Below one half where samples lie between the data, as those of a smooth model do: read
    `advantage`, the distance from one half.

    Source: Lopez-Paz & Oquab (2017), https://arxiv.org/abs/1610.06545.
    """
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    both, side = _pooled(a, b)
    with threadpool_limits(1):
        places = NearestNeighbors(n_neighbors=k).fit(both).kneighbors(return_distance=False)
    said = side[places].mean(1) > 0.5
    return Share(hits=int(np.sum(said == side)), n=len(side))


def network_tells(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Share:
    """How often a small network says rightly which set an example is of, one it did not train on.

    Each half of the examples is judged by the network that was trained on the other half.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``; as many, or one half is no longer what guessing gives.
        seed: Of the halves.

    Source: Lopez-Paz & Oquab (2017), https://arxiv.org/abs/1610.06545.
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    both, side = _pooled(a, b)
    if both.shape[1] > COMPONENTS:
        both = PCA(min(COMPONENTS, len(both) // 2), random_state=0).fit_transform(both)
        both /= both[:, 0].std() or 1.0  # the small ones stay small: they are mostly noise
    else:
        both = StandardScaler().fit_transform(both)
    fold = np.empty(len(side), dtype=int)
    for of in (False, True):  # as many of each set in both halves
        members = np.flatnonzero(side == of)
        order = generator("halves", seed, int(of)).permutation(len(members))
        fold[members[order]] = np.arange(len(members)) % 2
    hits = 0
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        for half in (0, 1):
            net = MLPClassifier((64,), solver="lbfgs", alpha=1.0, max_iter=60, random_state=0)
            net.fit(both[fold == half], side[fold == half])
            hits += int(np.sum(net.predict(both[fold != half]) == side[fold != half]))
    return Share(hits=hits, n=len(side))


def advantage(told: Share) -> float:
    """``|accuracy - 1/2|``: 0 where guessing does as well, 1/2 where every example is told."""
    return abs(told.value - 0.5)


def _pooled(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([a, b]), np.arange(len(a) + len(b)) >= len(a)
