"""What each figure sees, on real digits and seven ways to imitate them.

The table that this reproduces was measured with other random features, another split and other
draws, none of which is recorded: its order of magnitude is held to a factor, and what it teaches
is held exactly.
"""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ornstein.evaluate.measures.coverage import ceiling, compare
from ornstein.evaluate.measures.distances import (
    energy_distance,
    frechet_distance,
    kernel_distance,
    nearest,
    sliced_wasserstein,
)
from ornstein.evaluate.measures.twosample import advantage, neighbours_tell, network_tells
from ornstein.rng import generator

pytestmark = pytest.mark.slow

N = 897
PUBLISHED = {  # Frechet distance, KID in thousandths, sliced Wasserstein, energy distance
    "held out": (0.030, -0.01, 0.020, -0.001),
    "copies": (0.040, -0.06, 0.023, 0.000),
    "kde": (0.066, 0.92, 0.033, 0.013),
    "gaussians": (0.076, 0.33, 0.042, 0.016),
    "gaussian": (0.135, 1.21, 0.059, 0.043),
    "seven classes": (0.141, 2.38, 0.045, 0.030),
    "noise": (4.0, 187, 0.343, 1.88),
}


def imitations(train: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    draw = generator("imitations")
    picked = train[draw.integers(len(train), size=N)]
    by_class = [
        draw.multivariate_normal(part.mean(0), np.cov(part.T), size=90)
        for part in (train[label == c] for c in range(10))
    ]
    some = train[label < 7]
    return {
        "held out": train[:N],
        "copies": picked + 0.01 * draw.standard_normal((N, 64)),
        "kde": picked + 0.1 * draw.standard_normal((N, 64)),
        "gaussians": np.concatenate(by_class)[:N],
        "gaussian": draw.multivariate_normal(train.mean(0), np.cov(train.T), size=N),
        "seven classes": some[draw.integers(len(some), size=N)],
        "noise": draw.uniform(size=(N, 64)),
    }


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    x, label = load_digits(return_X_y=True)
    order = generator("split").permutation(len(x))
    x, label = x[order] / 16, label[order]
    train, held_out = x[:900], x[900:]
    weights = generator("random features").standard_normal((64, 64)) / 8

    def features(x: np.ndarray) -> np.ndarray:
        return np.maximum(0, x @ weights)

    def measured(samples: np.ndarray) -> dict[str, float]:
        seen, real = features(samples), features(held_out)
        cover = compare(held_out, samples)
        nearer = nearest(samples, train)[1] < nearest(samples, held_out)[1]
        return {
            "frechet": frechet_distance(seen, real),
            "kid": 1000 * kernel_distance(seen, real),
            "sliced": sliced_wasserstein(samples, held_out),
            "energy": energy_distance(samples, held_out),
            "precision": cover.precision,
            "recall": cover.recall,
            "density": cover.density,
            "coverage": cover.coverage,
            "neighbours": neighbours_tell(samples, held_out).value,
            "network": advantage(network_tells(samples, held_out)),
            "nearer": float(nearer.mean()),
        }

    return {name: measured(samples) for name, samples in imitations(train, label[:900]).items()}


def test_the_distances_are_of_the_published_size(found):
    for name, (frechet, _, sliced, energy) in PUBLISHED.items():
        assert found[name]["frechet"] == pytest.approx(frechet, rel=0.6)
        assert found[name]["sliced"] == pytest.approx(sliced, rel=0.5)
        assert found[name]["energy"] == pytest.approx(energy, rel=0.3, abs=0.04)
    for name in ("seven classes", "noise"):
        assert found[name]["kid"] == pytest.approx(PUBLISHED[name][1], rel=0.6)


def test_the_distances_rank_the_bad_imitations_as_published(found):
    for metric in ("frechet", "kid", "sliced", "energy"):
        values = {name: row[metric] for name, row in found.items()}
        assert values["noise"] > 3 * max(v for name, v in values.items() if name != "noise")
        assert values["held out"] < values["gaussian"] < values["noise"]
        assert values["copies"] < values["kde"] < values["seven classes"]


def test_copies_win_every_distance_and_only_the_neighbours_see_them(found):
    copies, honest = found["copies"], found["gaussians"]
    assert copies["frechet"] < 2 * found["held out"]["frechet"]
    assert copies["precision"] > 0.93 < copies["coverage"] + 0.05
    assert copies["precision"] > honest["precision"]
    assert copies["density"] > 0.9 > honest["density"]
    assert copies["nearer"] > 0.99
    assert honest["nearer"] == pytest.approx(0.58, abs=0.08)  # as published: covariances overfit
    assert found["gaussian"]["nearer"] == pytest.approx(0.5, abs=0.08)


def test_dropped_classes_show_in_recall_and_coverage_alone(found):
    seven, whole = found["seven classes"], found["held out"]
    assert seven["precision"] > 0.93 < whole["precision"]
    assert seven["density"] > 0.93
    assert seven["recall"] < 0.75 < 0.93 < whole["recall"]
    assert seven["coverage"] < 0.75 < 0.93 < whole["coverage"]


def test_real_digits_reach_the_ceiling_of_coverage_and_are_not_told_apart(found):
    real = found["held out"]
    assert real["coverage"] == pytest.approx(ceiling(), abs=0.02)
    assert real["density"] == pytest.approx(1, abs=0.1)
    assert abs(real["neighbours"] - 0.5) < 4 * 0.5 / (2 * N) ** 0.5
    assert real["network"] < 4 * 0.5 / (2 * N) ** 0.5


def test_a_trained_network_tells_what_the_distances_let_pass(found):
    # grey where real pixels are of seventeen levels: copies with 1 % of noise are told at once
    assert found["copies"]["network"] > 0.3
    for name in ("kde", "gaussians", "gaussian", "noise"):
        assert found[name]["network"] > 0.3
