"""Randomness is a function of its key: of nothing else, and of all of it."""

import numpy as np
import pytest
import torch
from scipy import stats

from ornstein import rng


def test_a_stream_is_a_function_of_its_key():
    assert (rng.generator("a", 1).random(9) == rng.generator("a", 1).random(9)).all()
    a, b = rng.normal((3, 4), "x", 7), rng.normal((3, 4), "x", 7)
    assert torch.equal(a, b) and a.dtype == torch.float32 and a.shape == (3, 4)


def test_keys_that_look_alike_have_streams_of_their_own():
    keys = [
        (1, 23),
        (12, 3),
        (123,),
        ("1", 23),
        (1, "23"),
        ("1, 23",),
        (),
        ("",),
        (23, 1),
        (-1, 23),
    ]
    firsts = [rng.generator(*key).integers(2**63) for key in keys]
    assert len(set(firsts)) == len(keys)


def test_streams_are_the_same_on_every_machine_and_version():
    """Golden: a change here would change every sample that anyone has ever been shown."""
    assert rng.generator("example", 0, 0).integers(2**63) == GOLDEN_INTEGER
    draw = rng.Streams(0, [3])(torch.zeros(1, 3))
    assert draw[0].tolist() == pytest.approx(GOLDEN_DRAW, abs=1e-7)


GOLDEN_INTEGER = 8715006650619246150
GOLDEN_DRAW = [-0.73936802, 1.45482159, -1.29627633]


@pytest.mark.parametrize("examples", [[5], [5, 9], [0, 1, 2, 5], list(range(64))])
def test_an_example_draws_the_same_in_any_company(examples):
    alone, together = rng.Streams(3, [5]), rng.Streams(3, examples)
    for _ in range(3):  # successive draws too
        x, xs = torch.zeros(1, 2, 5), torch.zeros(len(examples), 2, 5)
        assert torch.equal(alone(x)[0], together(xs)[examples.index(5)])


def test_successive_draws_examples_and_seeds_differ():
    streams = rng.Streams(0, [0, 1])
    first, second = streams(torch.zeros(2, 8)), streams(torch.zeros(2, 8))
    other = rng.Streams(1, [0, 1])(torch.zeros(2, 8))
    draws = torch.cat([first, second, other])
    assert len({tuple(row.tolist()) for row in draws}) == 6


def test_draws_follow_their_model_in_dtype_and_shape_and_agree_across_dtypes():
    single = rng.Streams(0, [4])(torch.zeros(1, 3, 2))
    double = rng.Streams(0, [4])(torch.zeros(1, 3, 2, dtype=torch.float64))
    assert single.shape == (1, 3, 2)
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert torch.equal(single.double(), double)
    assert rng.Streams(0, [])(torch.zeros(0, 3)).shape == (0, 3)


def test_draws_of_one_and_of_many_streams_are_standard_gaussian_and_independent():
    of_one = rng.Streams(0, [0])(torch.zeros(1, 40_000))[0].double().numpy()
    of_many = rng.Streams(0, range(4000))(torch.zeros(4000, 2)).double().numpy()
    for draws in (of_one, of_many[:, 0], of_many[:, 1]):
        assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(of_many.T)[0, 1]) < 4 / 4000**0.5
    assert abs(np.corrcoef(of_many[:-1, 0], of_many[1:, 0])[0, 1]) < 4 / 4000**0.5
    seeds = [rng.Streams(seed, [0])(torch.zeros(1, 1)).item() for seed in range(2000)]
    assert stats.kstest(seeds, "norm").pvalue > 1e-3


@pytest.mark.parametrize("seed", [0, -1, 2**80, -(2**80)])
def test_any_whole_number_is_a_seed(seed):
    assert rng.Streams(seed, [2**70])(torch.zeros(1, 4)).isfinite().all()


def test_nothing_global_is_drawn_from_or_set():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    rng.Streams(0, range(3))(torch.zeros(3, 5))
    rng.normal((2,), "key")
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_a_batch_of_another_length_is_refused():
    with pytest.raises(ValueError, match="expected a batch of 2, got 3"):
        rng.Streams(0, [0, 1])(torch.zeros(3, 4))
