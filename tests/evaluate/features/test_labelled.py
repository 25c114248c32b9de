"""Features and the classifier they come from."""

import numpy as np
import pytest

from ornstein.evaluate.features.labelled import (
    WIDTH,
    Convolutions,
    agreement,
    fixed_features,
    random_features,
    train_labeller,
)
from ornstein.rng import generator


def blobs(count: int, dimensions: int, classes: int, part: str) -> tuple[np.ndarray, np.ndarray]:
    draw = generator("blobs", part)
    centres = 3 * generator("centres", dimensions).standard_normal((classes, dimensions))
    label = draw.integers(classes, size=count)
    return centres[label] + draw.standard_normal((count, dimensions)), label


def test_random_features_are_a_function_of_their_seed():
    x = generator("x").standard_normal((10, 2, 3))
    features = random_features(6)
    assert features(x).shape == (10, WIDTH)
    assert np.array_equal(features(x), random_features(6)(x))
    assert not np.array_equal(features(x), random_features(6, seed=1)(x))
    assert (features(x) >= 0).all()


@pytest.mark.parametrize(("dimensions", "classes"), [(4, 3), (4, 2), (300, 3)])
def test_a_labeller_learns_what_can_be_learned(dimensions, classes):
    train, held = blobs(400, dimensions, classes, "train"), blobs(200, dimensions, classes, "held")
    labeller = train_labeller(*train, *held)
    assert labeller.accuracy.value > 0.9
    assert labeller.accuracy.n == 200
    assert labeller.features(held[0]).shape == (200, WIDTH)
    assert labeller.agreement(*held) == labeller.accuracy
    shuffled = (held[1] + 1) % classes
    assert labeller.agreement(held[0], shuffled).value < 0.1


def test_labels_may_have_gaps_and_may_be_missing():
    x, label = blobs(300, 4, 3, "train")
    label = np.array([-1, 4, 7])[label]
    labeller = train_labeller(x, label, x, label)
    assert set(labeller(x)) <= {4, 7}
    assert labeller.accuracy.n == (label >= 0).sum()


def test_agreement_counts():
    share = agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4]))
    assert (share.hits, share.n) == (3, 4)


@pytest.mark.parametrize("shape", [(3, 20), (1, 8, 8), (3, 7, 12), (1, 4, 6, 5)])
def test_convolutions_see_texture_and_roughly_where_it_is(shape):
    features = fixed_features(shape)
    assert isinstance(features, Convolutions)
    x = generator("textures").standard_normal((300, *shape))
    assert features(x).shape == (300, WIDTH)
    assert np.allclose(features(x)[280:], features(x[280:]), atol=1e-6)  # piece by piece
    upside_down = features(x[:, :, ::-1])
    assert not np.allclose(features(x), upside_down, atol=1e-3)
    assert not np.allclose(features(x), features(np.sort(x, -1)), atol=1e-3)


@pytest.mark.parametrize("shape", [(2,), (3, 3), (1, 2, 9)])
def test_what_is_too_small_for_convolutions_gets_one_dense_layer(shape):
    x = generator("points").standard_normal((5, *shape))
    assert np.array_equal(fixed_features(shape)(x), random_features(int(np.prod(shape)))(x))


def test_equal_encoders_have_equal_hashes_and_others_do_not():
    x, label = blobs(200, 4, 3, "train")
    learned = train_labeller(x, label, x, label).features
    encoders = [learned, *(fixed_features((1, 8, 8), seed) for seed in (0, 1)), random_features(4)]
    hashes = [encoder.sha256 for encoder in encoders]
    assert len(set(hashes)) == 4
    assert hashes[1] == fixed_features((1, 8, 8)).sha256
    assert hashes[0] == train_labeller(x, label, x, label).features.sha256
    assert learned.tensors.keys() == {"0.weight", "0.bias", "1.weight", "1.bias"}
