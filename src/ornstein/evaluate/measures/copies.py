"""Does it copy its training data? Nearest neighbours, beside what real data would show.

Distances between sets of samples reward copies. What sees them is the neighbours of each sample:
in the training data, which the model saw, and in held-out data, which it did not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import hypergeom, norm, rankdata

from ...core.neighbours import ROWS, two_nearest
from ...rng import generator
from .figures import Side
from .twosample import COMPONENTS

RATIOS = (1 / 3, 0.1, 0.03, 0.01)
"""Of the first to the second neighbour, below which a sample is suspected. The first is
customary; where dimensions are few real data fall below it too, but seldom below the last."""

ALARM = 1e-3
"""How seldom one test may accuse an honest model: a p-value below it is a verdict."""

CONTROLS = 4000
CELLS = 10
FEWEST = 20
"""Examples of each kind that a figure here needs."""
COARSE = 0.05
"""Of the different training examples, as many occur more than once where copying goes unseen."""


# --- Nearer to one training example than to any other --------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """Samples much nearer to one training example than to any other.

    Args:
        count: Samples whose first neighbour is nearer than `ratio` times the second.
        n: Samples.
        control: Real examples of which as much is true.
        controls: Real examples looked at.
        ratio: The one of `RATIOS` by which samples differ most from real data.
        p: Chance of as many, were the samples as the real data; for having tried them all.
        repeated: Share of the different training examples that occur more than once.
    """

    count: int
    n: int
    control: int
    controls: int
    ratio: float
    p: float
    repeated: float = 0.0

    @property
    def found(self) -> bool:
        return self.p < ALARM


def suspects(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> Suspects:
    """Count samples that lie unlike real data near to one training example.

    The controls are held-out examples, and training examples beside the rest of the training
    data: an honest sample is to the training data what they are. Equal training examples count
    once, or a copy of one of them would have two neighbours alike.

    Where training examples repeat, honest samples equal some of them, and held-out examples none,
    as a split puts equal ones on one side. Then samples that equal a training example are held
    against how often a training example equals just one other; those that equal a repeated one
    copy no single example, and are no suspects.

    Args:
        samples: ``(N, D)``, in a space that was not fitted to the training data.
        train: All training data ``(M, D)``.
        held_out: ``(L, D)``.

    Source: Yoon et al. (2023), https://openreview.net/forum?id=shciCbSk9h (the ratio, 1/3); Good
    (1953), https://doi.org/10.1093/biomet/40.3-4.237 (how often a draw equals one drawn before).
    """
    train, times = np.unique(train, axis=0, return_counts=True)
    own = train[generator("controls").permutation(len(train))[:CONTROLS]]
    places, to_train = two_nearest(samples, train)
    _, of_held_out = two_nearest(held_out, train)
    apart = np.concatenate([_ratio(of_held_out), _ratio(_nearest_others(own, train))])
    ratio, tried = _ratio(to_train), []
    if times.max() > 1:
        equal = to_train[:, 0] == 0
        ratio[equal] = np.inf
        single = int((equal & (times[places[:, 0]] == 1)).sum())
        # one of each pair, and half of the others: both of a pair would say the same
        tried.append(_fisher(single, len(ratio), int((times == 2).sum()), int(times.sum()) // 2))
    for below in RATIOS:
        count, control = int((ratio < below).sum()), int((apart < below).sum())
        tried.append(_fisher(count, len(ratio), control, len(apart), below))
    found = min(tried, key=lambda found: found.p)
    return replace(found, p=min(1.0, found.p * len(tried)), repeated=float((times > 1).mean()))


def _fisher(count: int, n: int, control: int, controls: int, ratio: float = RATIOS[-1]) -> Suspects:
    """With p of Fisher's exact test, one-sided."""
    p = float(hypergeom.sf(count - 1, n + controls, count + control, n))
    return Suspects(count=count, n=n, control=control, controls=controls, ratio=ratio, p=p)


def _ratio(apart: np.ndarray) -> np.ndarray:
    """First over second distance; equal neighbours are no sign of copying one of them."""
    return apart[:, 0] / np.where(apart[:, 1] > 0, apart[:, 1], np.inf)


def _nearest_others(some: np.ndarray, all_of_them: np.ndarray) -> np.ndarray:
    """Distances to the first and second neighbour other than itself ``(N, 2)``."""
    squares = np.einsum("ij,ij->i", all_of_them, all_of_them)
    apart = np.empty((len(some), 2))
    for i in range(0, len(some), ROWS):
        part = some[i : i + ROWS]
        scores = squares - 2 * (part @ all_of_them.T)
        places = np.argpartition(scores, min(2, len(squares) - 1), axis=1)[:, :3]
        gaps = part[:, None].astype(np.float64) - all_of_them[places]
        apart[i : i + ROWS] = np.sort(np.sqrt((gaps**2).sum(2)), axis=1)[:, 1:3]
    return apart


# --- Nearer to a training example than other training examples are -------------------------------


@dataclass(frozen=True, kw_only=True)
class Authentic:
    """Samples that are no nearer to their training example than the next training example is.

    Args:
        share: Of the samples, that is not near enough to be an imitation.
        real: Likewise, of held-out data.
        p: Chance of so few, were the samples as held-out data.
    """

    share: float
    real: float
    p: float


def authentic(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> Authentic:
    """The authenticity of samples, and of held-out data.

    With t the training example nearest to x, x is authentic if ``|x - t| > |t - t'|``, t' being
    the training example nearest to t. Equal training examples count once.

    Source: Alaa et al. (2022), https://arxiv.org/abs/2102.08921, section 4.3.
    """
    train = np.unique(train, axis=0)
    hits = []
    for x in (samples, held_out):
        places, apart = two_nearest(x, train)
        near, which = np.unique(places[:, 0], return_inverse=True)
        hits.append(apart[:, 0] > _nearest_others(train[near], train)[which, 0])
    ours, real = hits
    n, m = len(ours), len(real)
    both = int(ours.sum() + real.sum())
    p = float(hypergeom.cdf(int(ours.sum()), n + m, both, n))
    return Authentic(share=float(ours.mean()), real=float(real.mean()), p=p)


# --- Nearer to training than to held-out data ----------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Nearer:
    """How many samples are nearer to a training example than to any held-out one.

    Args:
        share: Of the samples; a tie counts one half.
        expected: ``M / (M + L)``, of an honest model: to it, M training and L held-out examples
            are alike.
        z: Their difference, in standard deviations under exchange of training and held-out.
    """

    share: float
    expected: float
    z: float

    @property
    def found(self) -> bool:
        return float(norm.sf(self.z)) < ALARM


def nearer(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> Nearer:
    """Share of the `samples` ``(N, D)`` that are nearer to `train` than to `held_out`.

    All training data are used: a copy of an example that was left out would not be seen. That a
    few examples are near to many samples is in z: the examples change sides, not the samples.

    Source: van den Burg & Williams (2021), https://arxiv.org/abs/2106.03216; the exchange is a
    permutation test in closed form.
    """
    (place, to_train), (other, to_held_out) = (two_nearest(samples, x) for x in (train, held_out))
    first, second = to_train[:, 0], to_held_out[:, 0]
    share = float(((first < second) + 0.5 * (first == second)).mean())
    pool = len(train) + len(held_out)
    closest = np.where(first < second, place[:, 0], len(train) + other[:, 0])[first != second]
    counts = np.bincount(closest, minlength=pool).astype(float)
    expected = len(train) / pool
    scatter = (counts**2).sum() - counts.sum() ** 2 / pool
    error = (expected * (1 - expected) * scatter * pool / (pool - 1)) ** 0.5 / len(samples)
    decided = len(closest) / len(samples)
    gap = share - (decided * expected + (1 - decided) / 2)
    return Nearer(share=share, expected=expected, z=float(gap / error) if error > 0 else 0.0)


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """C_T: how much nearer to the training data the samples are than held-out data are.

    Args:
        c_t: Mean over cells of the z of Mann & Whitney. Far below 0, samples are nearer than
            real data: copies, or too little variety. Far above 0, they are further: underfitted.
        error: Standard deviation of it, of an honest model.
        cells: How many there were to compare in.
    """

    c_t: float
    error: float
    cells: int


def closeness(
    samples: np.ndarray, train: np.ndarray, held_out: np.ndarray, cells: int = CELLS
) -> Closeness | None:
    """The C_T test of data copying; None if no cell holds `FEWEST` samples and held-out examples.

    Source: Meehan et al. (2020), https://arxiv.org/abs/2004.05675, section 3.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        cluster = KMeans(min(cells, len(train)), n_init="auto", random_state=0).fit(train)
        cell, held_cell = cluster.predict(samples), cluster.predict(held_out)
    apart, held_apart = (two_nearest(x, train)[1][:, 0] for x in (samples, held_out))
    found, weights = [], []
    for c in range(cluster.n_clusters):
        ours, real = apart[cell == c], held_apart[held_cell == c]
        if min(len(ours), len(real)) < FEWEST:
            continue
        found.append(_rank_z(ours, real))
        weights.append(len(real))
    if not found:
        return None
    share = np.array(weights) / sum(weights)
    error = float((share**2).sum() ** 0.5)
    return Closeness(c_t=float(share @ found), error=error, cells=len(found))


def _rank_z(a: np.ndarray, b: np.ndarray) -> float:
    """z of Mann & Whitney's U: positive if `a` are the larger."""
    n, m = len(a), len(b)
    u = rankdata(np.concatenate([a, b]))[:n].sum() - n * (n + 1) / 2
    return float((u - n * m / 2) / (n * m * (n + m + 1) / 12) ** 0.5)


# --- Membership ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Membership:
    """How well the loss of an example says whether the model was trained on it.

    Args:
        auc: Chance that a training example has the smaller loss of two: 1/2 says nothing.
        error: Standard deviation of it where the loss says nothing.
        n: Training examples asked.
        m: Held-out examples asked.
    """

    auc: float
    error: float
    n: int
    m: int

    @property
    def found(self) -> bool:
        return float(norm.sf((self.auc - 0.5) / self.error)) < ALARM


def membership(train_losses: np.ndarray, held_out_losses: np.ndarray) -> Membership:
    """The area under the curve of an attacker who calls the smaller losses those of members.

    Source: Yeom et al. (2018), https://arxiv.org/abs/1709.01604; for diffusion models, Carlini
    et al. (2023), https://arxiv.org/abs/2301.13188, section 5.
    """
    n, m = len(train_losses), len(held_out_losses)
    ranks = rankdata(np.concatenate([held_out_losses, train_losses]))[:m]
    auc = (ranks.sum() - m * (m + 1) / 2) / (n * m)
    return Membership(auc=float(auc), error=((n + m + 1) / (12 * n * m)) ** 0.5, n=n, m=m)


# --- Verdict -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Copies:
    """All that was found about copying.

    Args:
        suspects: By the name of the space: ``data``, ``features``.
        nearer: Likewise.
        authentic: Likewise.
        closeness: In the features; None where examples are too few.
        membership: None if it was not asked.
    """

    suspects: dict[str, Suspects]
    nearer: dict[str, Nearer]
    authentic: dict[str, Authentic]
    closeness: Closeness | None = None
    membership: Membership | None = None

    @property
    def found(self) -> bool:
        """Are there samples that real data would not be: copies of single examples?"""
        return any(s.found for s in self.suspects.values())

    @property
    def worst(self) -> Suspects:
        """In the space where samples differ most from real data."""
        return min(self.suspects.values(), key=lambda s: s.p)

    @property
    def leaning(self) -> bool:
        """Are samples nearer to the training data than chance allows?"""
        return any(n.found for n in self.nearer.values())

    @property
    def verdict(self) -> str:
        """What to make of it, in words."""
        sentences = [self._of_samples()]
        told = self.membership
        if told is not None and told.found:
            sentences.append(
                f"From its loss alone, the model tells a training example from one it never saw "
                f"{told.auc:.0%} of the time: do not publish the weights if that must be secret."
            )
        return " ".join(sentences).replace("%", " %")

    def _of_samples(self) -> str:
        worst = self.worst
        lean = max(self.nearer.values(), key=lambda n: n.z)
        if worst.found:
            real = worst.control / worst.controls
            return (
                f"It copies: {worst.count:,} of {worst.n:,} samples ({worst.count / worst.n:.1%}) "
                f"are more than {1 / worst.ratio:.0f} times nearer to one training example than "
                f"to any other; of real data, {real:.1%} are."
            )
        if lean.found:
            return (
                f"No single copies, but it leans on its training data: {lean.share:.1%} of the "
                f"samples are nearer to them than to held-out data, where {lean.expected:.1%} "
                "would be by chance. Train it for less long, or on more data."
            )
        repeated = max(s.repeated for s in self.suspects.values())
        if repeated > COARSE:
            return (
                f"Copying cannot be told here: {repeated:.1%} of the different training examples "
                "occur more than once, so honest samples equal training examples, too."
            )
        sentence = (
            "No sign of copying: samples are no nearer to training data than chance allows. "
            f"{noticed(worst):,} copies among {worst.n:,} samples would have been noticed"
        )
        if repeated > 0:
            return f"{sentence}; exact copies of examples that occur more than once would not."
        return f"{sentence}."


def noticed(found: Suspects) -> int:
    """How many exact copies, beside as many suspects as there are controls, raise the alarm."""
    for count in range(1, found.n + 1):
        p = hypergeom.sf(count - 1, found.n + found.controls, count + found.control, found.n)
        if float(p) * len(RATIOS) < ALARM:
            return count
    return found.n


def look_for_copies(
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
    features: tuple[np.ndarray, np.ndarray, np.ndarray],
    losses: tuple[np.ndarray, np.ndarray] | None = None,
    every: tuple[np.ndarray, np.ndarray] | None = None,
) -> Copies:
    """Look in the space of the data, and in that of features that were not fitted to them.

    Args:
        data: Samples, training data of the law of the held-out data, and held-out data, flat.
        features: Features of the same.
        losses: Of training and of held-out examples, if they are known.
        every: All training data, flat, and their features, if there are others too: a sample may
            copy any of them, but only those of one law may change sides with held-out data.
    """
    spaces = {"data": data, "features": features}
    whole = spaces
    if every is not None:
        both = zip(spaces.items(), every, strict=True)
        whole = {name: (space[0], x, space[2]) for (name, space), x in both}
    return Copies(
        suspects={name: suspects(*space) for name, space in whole.items()},
        nearer={name: nearer(*space) for name, space in spaces.items()},
        authentic={name: authentic(*space) for name, space in whole.items()},
        closeness=closeness(*features),
        membership=None if losses is None else membership(*losses),
    )


def copies_among(
    samples: Side,
    train: Side,
    held_out: Side,
    losses: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
    every: Side | None = None,
) -> Copies | None:
    """As `look_for_copies`, in the spaces ``flat`` and ``fixed``; None where examples are too few.

    Args:
        samples: What was drawn.
        train: Training data of the law of the held-out data.
        held_out: Held-out data.
        losses: Of training and of held-out examples, computed if there are enough.
        every: All training data, if there are others too.
    """
    sides = samples, train, held_out
    if min(len(side["flat"]) for side in sides) < FEWEST:
        return None
    few = samples["flat"].shape[1] <= COMPONENTS  # float32 is for many: points may lie close
    sides = *sides, every or train
    a, b, c, d = (side["flat"].astype(np.float64) if few else side["flat"] for side in sides)
    features = samples["fixed"], train["fixed"], held_out["fixed"]
    others = None if every is None else (d, every["fixed"])
    return look_for_copies((a, b, c), features, losses and losses(), others)


def most_alike(
    samples: np.ndarray, train: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The samples most like one training example: which, which example, and the ratio."""
    places, apart = two_nearest(samples, train)
    ratio = _ratio(apart)
    order = np.lexsort((apart[:, 0], ratio))[:count]
    return order, places[order, 0], ratio[order]
