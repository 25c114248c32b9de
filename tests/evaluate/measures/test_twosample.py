"""What a classifier can tell: guessing on equal laws, Bayes's accuracy on known ones."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from ornstein.core.shares import Share
from ornstein.evaluate.measures.twosample import advantage, neighbours_tell, network_tells
from ornstein.rng import generator


def normal(n: int, dims: int, *key: int | str) -> np.ndarray:
    return generator("two samples", *key).standard_normal((n, dims))


@pytest.mark.parametrize("tells", [neighbours_tell, network_tells])
def test_equal_laws_are_told_apart_by_guessing_alone(tells):
    told = tells(normal(500, 4, "a"), normal(500, 4, "b"))
    assert told.n == 1000
    assert advantage(told) < 4 * 0.5 / told.n**0.5


@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_a_trained_network_comes_up_to_the_accuracy_of_bayes(delta):
    told = network_tells(normal(1500, 1, "a"), delta + normal(1500, 1, "b"))
    assert told.value == pytest.approx(norm.cdf(delta / 2), abs=4 * 0.5 / told.n**0.5)


def test_neighbours_are_those_of_scikit_learn_left_one_out():
    a, b = normal(60, 2, "a"), 1 + normal(60, 2, "b")
    both, side = np.concatenate([a, b]), np.repeat([0, 1], 60)
    said = cross_val_predict(KNeighborsClassifier(5), both, side, cv=LeaveOneOut())
    assert neighbours_tell(a, b) == Share(hits=int((said == side).sum()), n=120)


def test_samples_between_the_data_are_told_below_one_half():
    # each neighbour is of the other set: the accuracy is 0, and the advantage one half
    line = np.arange(100.0)[:, None]
    told = neighbours_tell(line, line + 0.5, k=1)
    assert told.value < 0.1
    assert advantage(told) > 0.4


def test_more_inputs_than_examples_are_reduced_first():
    a, b = normal(60, 300, "a"), normal(60, 300, "b")
    b[:, 0] += 40
    assert network_tells(a, b).value > 0.95
