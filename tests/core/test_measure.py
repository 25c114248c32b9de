"""Masks copy bits; decompositions, pseudo-inverses and linear systems."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ornstein.core.measure import Mask, Matrix, Separable
from ornstein.core.solve import conjugate_gradient
from truths import F64, covariances, normal


def test_a_mask_never_looks_at_what_it_hides_and_copies_bits():
    keep = normal(2, 4, 5, seed=7) > 0
    x = normal(3, 2, 4, 5).float().masked_fill(~keep, math.nan)
    assert_close(Mask(keep)(x), x.nan_to_num(0.0), rtol=0, atol=0)
    guess = normal(3, 2, 4, 5, seed=1).float()
    filled = Mask(keep).consistent(guess, x)
    assert torch.equal(filled[:, keep], x[:, keep])
    assert torch.equal(filled[:, ~keep], guess[:, ~keep])


def test_a_mask_that_is_not_boolean_is_refused():
    with pytest.raises(ValueError, match=r"boolean, got torch\.float32"):
        Mask(torch.ones(3))


def test_what_is_left_out_of_a_mask_is_what_was_named():
    keep = Mask.without((2, 4, 6), np.s_[:, 1:3, 2:4], np.s_[1:]).keep
    expected = torch.ones(2, 4, 6, dtype=torch.bool)
    expected[:, 1:3, 2:4] = False
    expected[1] = False
    assert torch.equal(keep, expected)


def test_a_matrix_that_loses_rank_is_inverted_where_it_can_be():
    matrix = torch.outer(normal(4), normal(6, seed=1))
    x, y = normal(2, 6), normal(2, 4, seed=1)
    point = Matrix(matrix, (6,)).consistent(x, y)
    expected = x + (y - x @ matrix.T) @ torch.linalg.pinv(matrix).T
    assert_close(point, expected, rtol=1e-9, atol=1e-9)


def test_a_tensor_product_is_the_product_of_its_factors():
    a, b = normal(2, 3), normal(5, 4, seed=1)
    x = normal(1, 3, 4)
    whole = Matrix(torch.kron(a, b), (3, 4), (2, 5))
    assert_close(Separable((a, b))(x), whole(x))


def test_a_matrix_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"expected a matrix \(6, 4\), got \(5, 4\)"):
        Matrix(normal(5, 4), (4,), (2, 3))


# --- Conjugate gradients -------------------------------------------------------------------------


def test_conjugate_gradients_solve_each_example_of_the_batch():
    A, b = covariances(4, 6), normal(4, 6)
    x = conjugate_gradient(lambda u: torch.einsum("bij,bj->bi", A, u), b, iterations=12)
    assert_close(x, torch.linalg.solve(A, b), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_conjugate_gradients_need_one_iteration_for_each_distinct_eigenvalue(distinct):
    axes = torch.linalg.qr(normal(6, 6))[0]
    values = torch.tensor([1.0, 3.0, 9.0], dtype=F64)[:distinct].repeat(6)[:6]
    A, b = axes @ values.diag() @ axes.T, normal(2, 6)
    x = conjugate_gradient(lambda u: u @ A, b, iterations=distinct)
    assert_close(x, b @ torch.linalg.inv(A), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12])
def test_conjugate_gradients_in_single_precision_stay_finite_long_after_converging(scale):
    A = torch.diag(torch.tensor([1.0, 2.0, 4.0])) * 1e-6
    b = torch.stack([torch.zeros(3), torch.ones(3), torch.tensor([1.0, 0.0, 0.0])]) * scale
    x = conjugate_gradient(lambda u: u @ A, b, iterations=50)
    assert_close(x, b / A.diag(), rtol=1e-5, atol=0)
    assert (x[0] == 0).all()


def test_conjugate_gradients_stop_where_the_system_is_not_positive():
    A = torch.diag(torch.tensor([1.0, -5.0], dtype=F64))
    b = torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=F64)
    x = conjugate_gradient(lambda u: u @ A, b, iterations=5)
    assert x.isfinite().all()
    assert x[0, 0] > 0 and (x[1] == 0).all()
    for factor in (0.0, 1e-320, math.nan):
        assert (conjugate_gradient(lambda u, by=factor: u * by, b, iterations=5) == 0).all()
