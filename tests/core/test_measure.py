"""Laws of every measurement operator: one list, one test per law."""

import math

import pytest
import torch
from torch.testing import assert_close

from ornstein.core import measure
from ornstein.core.measure import LinearOperator, Mask, conjugate_gradient
from truths import F64, covariances, normal

B, C, H, W = 3, 2, 4, 5


def random_mask(*shape):
    return normal(*shape, seed=7) > 0


OPERATORS = {
    "mask of a picture": Mask(random_mask(H, W)),
    "mask of channels": Mask(random_mask(C, H, W)),
    "mask of each example": Mask(random_mask(B, C, H, W)),
    "mask that keeps all": Mask(torch.ones(H, W, dtype=torch.bool)),
    "mask that keeps nothing": Mask(torch.zeros(H, W, dtype=torch.bool)),
}
everyone = pytest.mark.parametrize("A", OPERATORS.values(), ids=OPERATORS.keys())


def dot(u, v):
    return (u * v).flatten(1).sum(1)


def test_every_operator_stands_in_the_list():
    own = {v for v in vars(measure).values() if getattr(v, "__module__", "") == measure.__name__}
    operators = {v for v in own if isinstance(v, type) and issubclass(v, LinearOperator)}
    assert operators - {LinearOperator} == {type(A) for A in OPERATORS.values()}


@everyone
def test_the_adjoint_is_the_adjoint(A):
    x = normal(B, C, H, W)
    y = normal(*A(x).shape, seed=1)
    assert_close(dot(A(x), y), dot(x, A.adjoint(y)), rtol=1e-12, atol=1e-12)


@everyone
def test_an_operator_is_linear(A):
    x, z = normal(B, C, H, W), normal(B, C, H, W, seed=1)
    assert_close(A(2.0 * x - 3.0 * z), 2.0 * A(x) - 3.0 * A(z), rtol=1e-12, atol=1e-12)


@everyone
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_operator_keeps_dtype_and_batch(A, dtype):
    x = normal(B, C, H, W).to(dtype)
    assert A(x).dtype == A.adjoint(A(x)).dtype == dtype
    assert len(A(x)) == B and A.adjoint(A(x)).shape == x.shape


@everyone
def test_the_consistent_point_explains_the_measurement_and_is_the_nearest(A):
    x, truth = normal(B, C, H, W), normal(B, C, H, W, seed=1)
    y = A(truth)
    point = A.consistent(x, y)
    assert_close(A(point), y, rtol=1e-9, atol=1e-9)
    assert_close(dot(point - x, truth - point), torch.zeros(B, dtype=F64), rtol=0, atol=1e-9)
    assert_close(A.consistent(point, y), point, rtol=1e-9, atol=1e-9)
    assert_close(LinearOperator.consistent(A, x, y), point, rtol=1e-9, atol=1e-9)


def test_a_mask_never_looks_at_what_it_hides_and_copies_bits():
    keep = random_mask(C, H, W)
    x = normal(B, C, H, W).float().masked_fill(~keep, math.nan)
    assert_close(Mask(keep)(x), x.nan_to_num(0.0), rtol=0, atol=0)
    guess = normal(B, C, H, W, seed=1).float()
    filled = Mask(keep).consistent(guess, x)
    assert torch.equal(filled[:, keep], x[:, keep])
    assert torch.equal(filled[:, ~keep], guess[:, ~keep])


def test_a_mask_that_is_not_boolean_is_refused():
    with pytest.raises(ValueError, match=r"boolean, got torch\.float32"):
        Mask(torch.ones(3))


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
