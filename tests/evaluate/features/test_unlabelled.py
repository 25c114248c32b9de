"""Features learned without labels: they see what labels would have said, and they stay the same."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from ornstein.evaluate.features.labelled import WIDTH, Encoder, fixed_features
from ornstein.evaluate.features.unlabelled import SelfTaught, train_self_taught
from ornstein.evaluate.measures.distances import frechet_distance
from ornstein.rng import generator


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, label = load_digits(return_X_y=True)
    order = generator("split").permutation(len(x))
    return ((x[order] - 5) / 6).reshape(-1, 1, 8, 8).astype(np.float32), label[order]


@pytest.fixture(scope="module")
def taught(digits) -> SelfTaught:
    return train_self_taught(digits[0][:1200], seen=16_384)


def read_rightly(encoder: Encoder, x: np.ndarray, label: np.ndarray) -> float:
    """How often the nearest training example has the label of one held out."""
    features = encoder(x)
    reader = KNeighborsClassifier(1).fit(features[:1200], label[:1200])
    return float(reader.score(features[1200:], label[1200:]))


def test_neighbours_in_taught_features_are_of_one_class_more_often_than_in_fixed_ones(
    taught, digits
):
    ours, fixed = (read_rightly(e, *digits) for e in (taught, fixed_features((1, 8, 8))))
    assert ours > 0.97
    assert 1 - ours < (1 - fixed) / 2


def test_the_more_samples_are_spoiled_the_further_they_are(taught, digits):
    x = digits[0]
    samples, held_out = x[:500].copy(), taught(x[1200:])
    spoiled = generator("spoiled").standard_normal(samples.shape).astype(np.float32)
    found = []
    for share in (0, 0.05, 0.1, 0.2, 0.4):
        count = int(share * len(samples))
        mixed = np.concatenate([spoiled[:count], samples[count:]])
        found.append(frechet_distance(taught(mixed), held_out))
    assert np.all(np.diff(found) > 0)
    assert found[-1] > 3 * found[0]


@pytest.mark.slow
def test_the_same_examples_and_seed_give_the_same_encoder_in_any_process(digits):
    x = digits[0][:300]
    mine = train_self_taught(x, seen=1024).sha256
    code = (
        "import numpy as np; from sklearn.datasets import load_digits;"
        "from ornstein.rng import generator;"
        "from ornstein.evaluate.features.unlabelled import train_self_taught;"
        "x = load_digits().data; x = x[generator('split').permutation(len(x))];"
        "x = ((x - 5) / 6).reshape(-1, 1, 8, 8).astype(np.float32)[:300];"
        "print(train_self_taught(x, seen=1024).sha256)"
    )
    threads = {**os.environ, "OMP_NUM_THREADS": "2"}
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=threads
    )
    assert other.stdout.strip() == mine
    assert train_self_taught(x, seed=1, seen=1024).sha256 != mine


def test_training_an_encoder_leaves_the_random_state_and_the_threads_as_they_were(digits):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train_self_taught(digits[0][:64], seen=64)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(2,), (30,), (3, 40), (1, 6, 7), (3, 50, 70), (1, 8, 9, 7)])
def test_every_shape_has_features(shape):
    x = generator("shapes").standard_normal((40, *shape))
    encoder = train_self_taught(x, seen=80)
    features = encoder(x)
    assert features.shape == (40, WIDTH)
    assert features.dtype == np.float64
    assert np.isfinite(features).all()
    assert np.allclose(encoder(x[30:]), features[30:], atol=1e-5)
    assert not any(value.requires_grad for value in encoder.tensors.values())


def test_a_vector_is_put_right_by_what_its_numbers_have_to_do_with_each_other():
    """Of eight numbers that are all one number, seven tell the eighth."""
    draw = generator("copies of one number")
    alike = np.repeat(draw.standard_normal((2000, 1)), 8, 1)
    alone = draw.standard_normal((2000, 8))
    encoder = train_self_taught(alike)
    broken = alike.copy()
    broken[:, 3] = draw.standard_normal(2000)

    def moved(x: np.ndarray) -> float:
        """How far features are from those of the true examples, beside how far these are apart."""
        return float(
            ((encoder(x) - encoder(alike)) ** 2).sum(1).mean() / encoder(alike).var(0).sum()
        )

    assert moved(broken) < moved(alone) / 3
