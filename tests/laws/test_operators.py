"""Laws of every measurement operator: one list, one test per law."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage, signal
from torch.testing import assert_close

from ornstein.core import combine, measure, operators, rounding
from ornstein.core.combine import Compose, Slice, Stack, Through
from ornstein.core.measure import (
    Diagonal,
    Filter,
    FourierMask,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    Tangent,
)
from ornstein.core.operators import OPERATORS, PhaseRetrieval, Units
from ornstein.core.rounding import BlockCosine, Quantise
from truths import F64, normal

B = 3
PICTURE, COLOUR, SIGNAL, VOLUME, ROW = (2, 8, 12), (3, 8, 8), (2, 16), (1, 4, 4, 8), (6,)


def kept(*shape: int) -> torch.Tensor:
    return normal(*shape, seed=7) > 0


def odd_kernel(*shape: int) -> torch.Tensor:
    return normal(*shape, seed=8)


def nearly_one(*shape: int) -> torch.Tensor:
    """A kernel that leaves no frequency out."""
    kernel = 0.1 * odd_kernel(*shape)
    kernel[tuple(n // 2 for n in shape)] = 1.0
    return kernel


AREA = operators.downsample(PICTURE, 4)
CASES: dict[str, tuple[Operator, tuple[int, ...]]] = {
    "mask of places": (Mask(kept(8, 12)), PICTURE),
    "mask of channels": (Mask.without(PICTURE, (slice(0, 1),)), PICTURE),
    "mask of boxes": (Mask.without(PICTURE, np.s_[:, 2:5, 1:4], np.s_[:, :1]), PICTURE),
    "mask of an interval": (Mask.without(SIGNAL, np.s_[:, 3:9]), SIGNAL),
    "mask of cells": (Mask.without(ROW, np.s_[2:3]), ROW),
    "mask of each example": (Mask(kept(B, *PICTURE)), PICTURE),
    "mask that keeps all": (operators.identity(VOLUME), VOLUME),
    "mask that keeps nothing": (Mask(torch.zeros(8, 12, dtype=torch.bool)), PICTURE),
    "diagonal": (Diagonal(normal(2, 1, 1, seed=7).abs() * kept(8, 12)), PICTURE),
    "diagonal of each example": (Diagonal(normal(B, *PICTURE, seed=7).clamp_min(0)), PICTURE),
    "box": (operators.box(PICTURE), PICTURE),
    "box of a row": (operators.box(ROW), ROW),
    "random places": (operators.random_mask(VOLUME), VOLUME),
    "area": (AREA, PICTURE),
    "area of a signal": (operators.downsample(SIGNAL, 2), SIGNAL),
    "area of a volume": (operators.downsample(VOLUME, 2), VOLUME),
    "bicubic": (operators.downsample(PICTURE, 4, kernel="bicubic"), PICTURE),
    "blur": (operators.blur(PICTURE, 1.3), PICTURE),
    "blur of a volume": (operators.blur(VOLUME, 0.7), VOLUME),
    "motion": (operators.motion_blur(PICTURE, 1.5, 30.0), PICTURE),
    "motion of a signal": (operators.motion_blur(SIGNAL, 1.5), SIGNAL),
    "motion on a torus": (operators.motion_blur(PICTURE, 4.0, 30.0, edges="torus"), PICTURE),
    "any kernel": (operators.convolution(PICTURE, nearly_one(3, 4)), PICTURE),
    "kernel on a torus": (operators.convolution(PICTURE, odd_kernel(3, 4), edges="torus"), PICTURE),
    "filter of each channel": (
        Filter(torch.fft.fftn(normal(*PICTURE, seed=9), dim=(1, 2)), 2),
        PICTURE,
    ),
    "low-pass": (operators.low_pass(SIGNAL), SIGNAL),
    "low-pass of a picture": (operators.low_pass(PICTURE, 0.5), PICTURE),
    "grey": (operators.greyscale(COLOUR), COLOUR),
    "more channels": (operators.channels(SIGNAL, normal(5, 2)), SIGNAL),
    "complex MRI": (FourierMask(kept(8, 12)), PICTURE),
    "MRI": (operators.mri(COLOUR), COLOUR),
    "radial MRI": (operators.mri(PICTURE, "radial"), PICTURE),
    "random MRI": (operators.mri(SIGNAL, "random"), SIGNAL),
    "CT": (operators.radon(PICTURE, 24), PICTURE),
    "CT of scikit-image": (operators.radon_of_scikit(PICTURE, 24, 16), PICTURE),
    "random matrix": (operators.random_matrix(SIGNAL, 5), SIGNAL),
    "tall matrix": (Matrix(normal(20, 12), (12,), (4, 5)), PICTURE),
    "blocks of cosines": (
        BlockCosine(torch.tensor(rounding.LUMINANCE).double()),
        (1, 16, 8),
    ),
    "composed": (Compose(Mask(kept(2, 3)), AREA), PICTURE),
    "stacked": (Stack((AREA, Mask(kept(8, 12))), ((2, 2, 3), PICTURE)), PICTURE),
    "slice": (Slice(PICTURE, np.s_[1:, 2:6, ::3]), PICTURE),
    "slice of a measurement": (Compose(Slice((2, 2, 3), np.s_[:, :1]), AREA), PICTURE),
    "tangent": (
        PhaseRetrieval(2).tangent(normal(B, *PICTURE, seed=3))[1],
        PICTURE,
    ),
    "declip": (operators.declip(SIGNAL, -0.6, 0.4), SIGNAL),
    "quantise": (operators.quantise(SIGNAL, 0.3), SIGNAL),
    "jpeg": (operators.jpeg((1, 8, 16), 30, unit=60.0), (1, 8, 16)),
    "jpeg in colour": (operators.jpeg((3, 17, 10), 30, unit=60.0), (3, 17, 10)),
    "in units of the data": (
        Units(
            operators.Declip(-0.6, 0.4), torch.tensor([[0.1], [-0.2]]), torch.tensor([[2.0], [0.5]])
        ),
        SIGNAL,
    ),
    "through a map": (Through(operators.Declip(-0.6, 0.4), torch.tanh), SIGNAL),
    "phases lost": (operators.phase_retrieval(PICTURE), PICTURE),
}
LINEAR = {name: case for name, case in CASES.items() if isinstance(case[0], LinearOperator)}
everyone = pytest.mark.parametrize(("A", "shape"), CASES.values(), ids=CASES.keys())
linear = pytest.mark.parametrize(("A", "shape"), LINEAR.values(), ids=LINEAR.keys())


def dot(u, v):
    return (u * v).flatten(1).sum(1)


def test_every_operator_stands_in_the_list():
    own = {
        v
        for module in (combine, measure, operators, rounding)
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, Operator)
    }
    assert own - {Operator, LinearOperator} == {type(A) for A, _ in CASES.values()}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_name_makes_an_operator_that_runs(name):
    shape = (3, 8, 8)
    A = OPERATORS[name](shape)
    assert A(normal(2, *shape)).isfinite().all()


@linear
def test_the_adjoint_is_the_adjoint(A, shape):
    x = normal(B, *shape)
    y = normal(*A(x).shape, seed=1)
    assert_close(dot(A(x), y), dot(x, A.adjoint(y)), rtol=1e-11, atol=1e-11)


@linear
def test_a_linear_operator_is_linear(A, shape):
    x, z = normal(B, *shape), normal(B, *shape, seed=1)
    assert_close(A(2.0 * x - 3.0 * z), 2.0 * A(x) - 3.0 * A(z), rtol=1e-11, atol=1e-11)


@everyone
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_operator_keeps_dtype_and_batch(A, shape, dtype):
    if isinstance(A, Tangent):
        pytest.skip("its dtype is that of its point")
    x = normal(B, *shape).to(dtype)
    y = A(x)
    assert y.dtype == dtype and len(y) == B
    seen, tangent = A.tangent(x)
    assert seen.dtype == dtype and seen.shape == y.shape
    assert tangent.adjoint(y).dtype == dtype and tangent.adjoint(y).shape == x.shape


@everyone
def test_an_operator_computes_where_x_lies(A, shape):
    """On a device that holds no numbers, any that were left behind would be an error."""
    if isinstance(A, Tangent):
        pytest.skip("its device is that of its point")
    if isinstance(A, Matrix) and A.matrix.is_sparse:
        pytest.skip("no sparse products without numbers")
    x = torch.empty(B, *shape, device="meta")
    y = A(x)
    assert y.device == x.device and y.shape == A(normal(B, *shape)).shape
    if isinstance(A, LinearOperator):
        assert A.adjoint(y).device == x.device and A.adjoint(y).shape == x.shape
        if (known := A.spectrum(shape)) is not None:
            assert known.solve(y, torch.zeros((), device="meta")).device == x.device


@everyone
def test_each_example_is_measured_alone(A, shape):
    if bound_to_a_batch(A):
        pytest.skip("made for the examples of one batch")
    x = normal(B, *shape)
    assert_close(A(x)[1:2], A(x[1:2]), rtol=1e-12, atol=1e-12)


def bound_to_a_batch(A):
    entries = getattr(A, "keep", getattr(A, "factors", torch.empty(0)))
    return isinstance(A, Tangent) or entries.ndim == 4


@everyone
def test_the_tangent_is_the_derivative(A, shape):
    """Central differences; what is rounded is compared before rounding."""
    x, v = normal(B, *shape), normal(B, *shape, seed=2)
    smooth = A.exact if isinstance(A, Quantise) else A
    seen, tangent = A.tangent(x)
    assert_close(seen, smooth(x))
    step = 1e-5
    slope = (smooth(x + step * v) - smooth(x - step * v)) / (2 * step)
    assert_close(tangent(v), slope, rtol=1e-5, atol=1e-5)


@everyone
def test_autograd_goes_through_and_agrees_with_the_adjoint(A, shape):
    x = normal(B, *shape).requires_grad_()
    smooth = A.exact if isinstance(A, Quantise) else A
    y = smooth(x)
    u = normal(*y.shape, seed=1)
    (gradient,) = torch.autograd.grad((y * u).sum(), x)
    assert_close(gradient, A.tangent(x.detach())[1].adjoint(u), rtol=1e-10, atol=1e-10)


@linear
def test_the_spectrum_is_the_decomposition_and_bounds_the_norm(A, shape):
    known = A.spectrum(shape)
    if known is None:
        assert isinstance(A, (Compose, Stack, Slice, Tangent)) or A.matrix.is_sparse
        return
    x = normal(B, *shape)
    y = A(x)
    c = known.analyse(x)
    assert_close(known.synthesise(c), x, rtol=1e-10, atol=1e-10)
    assert_close(c.abs().square().flatten(1).sum(1), dot(x, x))
    values = known.values.to(x)
    assert_close(known.measured(y), values * c, rtol=1e-10, atol=1e-10)
    assert_close(A.adjoint(y), known.synthesise(values**2 * c), rtol=1e-9, atol=1e-9)
    assert (dot(y, y).sqrt() <= values.max() * dot(x, x).sqrt() * (1 + 1e-12)).all()


@linear
def test_the_consistent_point_explains_the_measurement_and_is_the_nearest(A, shape):
    x, truth = normal(B, *shape), normal(B, *shape, seed=1)
    y = A(truth)
    point = A.consistent(x, y)
    near = 1e-7 if A.spectrum(shape) is not None else 1e-4  # that of conjugate gradients
    assert_close(A(point), y, rtol=near, atol=near)
    assert_close(dot(point - x, truth - point), torch.zeros(B, dtype=F64), rtol=0, atol=100 * near)
    assert_close(A.consistent(point, y), point, rtol=near, atol=near)


@linear
@pytest.mark.parametrize("ratio", [0.3, torch.tensor([0.01, 1.0, 100.0], dtype=F64)])
def test_the_compromise_minimises_what_it_says(A, shape, ratio):
    x, y = normal(B, *shape), normal(*A(normal(B, *shape)).shape, seed=1)
    point = A.consistent(x, y, ratio)
    weight = torch.as_tensor(ratio, dtype=F64).reshape(-1, *[1] * len(shape))
    gradient = weight * (point - x) - A.adjoint(y - A(point))
    assert_close(gradient, torch.zeros_like(x), rtol=0, atol=1e-8)


# --- Against what others compute -----------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.6, 1.5])
def test_the_blur_is_scipys(sigma):
    x = normal(*PICTURE)
    found = operators.blur(PICTURE, sigma)(x[None])[0]
    expected = [ndimage.gaussian_filter(plane.numpy(), sigma, mode="reflect") for plane in x]
    assert_close(found, torch.from_numpy(np.stack(expected)), rtol=1e-12, atol=1e-12)


def test_a_kernel_of_one_point_moves_nothing():
    x = normal(1, *PICTURE)
    point = torch.zeros(3, 3)
    point[1, 1] = 1
    assert_close(operators.convolution(PICTURE, point)(x), x)


def test_what_lies_beyond_the_edges_of_a_photograph_changes_nothing_that_is_looked_at():
    scene, kernel = normal(2, 20, 24), odd_kernel(4, 3)
    blurred = np.stack([signal.convolve(plane, kernel)[2:22, 1:25] for plane in scene])
    cut = np.s_[:, 5:13, 6:18]
    A = operators.convolution(PICTURE, kernel)
    found, expected = A(scene[cut][None])[0], torch.from_numpy(blurred)[cut]
    keep = A.outer.keep.expand_as(found)
    assert keep.sum() == 2 * (8 - 3) * (12 - 2) and not found[~keep].any()
    assert_close(found[keep], expected[keep])


def test_a_motion_keeps_the_sum_along_its_path():
    x = normal(1, *PICTURE)
    along_rows = operators.motion_blur(PICTURE, 4.0, 0.0, edges="torus")(x)
    assert_close(along_rows.sum(-1), x.sum(-1))
    along_columns = operators.motion_blur(PICTURE, 4.0, 90.0, edges="torus")(x)
    assert_close(along_columns.sum(-2), x.sum(-2))


def test_bicubic_is_pillows_within_its_edges_and_keeps_a_constant():
    shape = (1, 32, 40)
    x = normal(*shape).float()
    found = operators.downsample(shape, 4, kernel="bicubic")(x[None])[0, 0]
    small = Image.fromarray(x[0].numpy()).resize((10, 8), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(small).copy())
    assert_close(found[2:-2, 2:-2], expected[2:-2, 2:-2], rtol=1e-4, atol=1e-4)
    flat = operators.downsample(shape, 4, kernel="bicubic")(torch.ones(1, *shape))
    assert_close(flat, torch.ones_like(flat))


def test_all_of_k_space_is_the_fourier_transform_and_gives_the_picture_back():
    x = normal(2, *PICTURE)
    A = FourierMask(torch.ones(8, 12, dtype=torch.bool))
    z = np.fft.fft2(np.fft.ifftshift((x[:, 0] + 1j * x[:, 1]).numpy(), axes=(1, 2)), norm="ortho")
    z = torch.from_numpy(np.fft.fftshift(z, axes=(1, 2)))
    assert_close(A(x), torch.stack([z.real, z.imag], 1))
    assert_close(A.adjoint(A(x)), x)


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_ct_along_an_axis_sums_rows_or_columns_and_keeps_the_mass(angle):
    shape = (1, 9, 9)
    x = normal(1, *shape)
    shadow = operators.radon(shape, torch.tensor([angle]))(x)[0, 0, 0]
    sums = x[0, 0].sum(0 if angle == 0 else 1)
    assert_close(shadow[shadow.abs() > 1e-12], sums[sums.abs() > 1e-12])
    turned = operators.radon(shape, 12)(x)
    assert_close(turned.sum(-1), x.sum((-1, -2))[..., None].expand(1, 1, 12))


def test_ct_of_a_disc_is_its_chord():
    y, x = torch.meshgrid(*[torch.arange(65).double() - 32] * 2, indexing="ij")
    disc = (x**2 + y**2 <= 20**2).double()[None, None]
    shadow = operators.radon((1, 65, 65), 8)(disc)[0, 0]
    r = torch.arange(shadow.shape[1]) - (shadow.shape[1] - 1) / 2
    chord = 2 * (20**2 - r**2).clamp_min(0).sqrt()
    inside = r.abs() < 18
    assert (shadow - chord)[:, inside].abs().mean() < 1


def test_the_blocks_of_cosines_are_scipys():
    x = normal(1, 1, 8, 16)
    found = BlockCosine(torch.ones(8, 8))(x)[0, 0, :, 8:]
    assert_close(found, torch.from_numpy(fft.dctn(x[0, 0, :, 8:].numpy(), norm="ortho")))


def test_sampling_patterns_hold_the_middle_and_as_much_as_was_asked_for():
    lines = operators.cartesian((64, 64), acceleration=4.0)
    assert lines[:, 30:34].all() and lines.float().mean() == pytest.approx(0.25)
    spokes = operators.radial((33, 33), 8)
    assert spokes[16, 16] and 0.15 < spokes.float().mean() < 0.3
    assert operators.random_mask((1, 10, 10), 0.3).keep.sum() == 30


def test_what_is_quantised_lies_within_half_a_level():
    A, x = operators.quantise(SIGNAL, 0.25), normal(4, *SIGNAL)
    assert (A(x) - A.inner(x)).abs().max() <= 0.5
    assert (A(x) - A.inner(x)).std().item() == pytest.approx(A.rounding, rel=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: operators.downsample((1, 9, 8), 4), "divide"),
        (lambda: operators.downsample((1, 8, 8), 4, kernel="sinc"), "area or bicubic"),
        (lambda: operators.blur((1, 8), 0.0), "positive"),
        (lambda: operators.greyscale((1, 8, 8)), "3 channels"),
        (lambda: operators.mri((1, 8, 8), "spiral"), "cartesian"),
        (lambda: operators.mri((2, 64), "radial"), "of pictures"),
        (lambda: operators.mri((5,)), "rows"),
        (lambda: operators.radon((1, 8)), "pictures"),
        (lambda: operators.random_mask((1, 8), 0.0), "share"),
        (lambda: operators.declip((1, 8), 1.0, 0.0), "low < high"),
        (lambda: operators.jpeg((1, 8)), "pictures"),
        (lambda: operators.jpeg((1, 8, 8), 0), "quality"),
        (lambda: operators.jpeg((1, 8, 8), chroma="4:1:1"), "4:2:0"),
        (lambda: operators.convolution((1, 8, 8), torch.ones(9, 9)), "reaches beyond"),
        (lambda: operators.convolution((1, 8, 8), torch.ones(3, 3), "mirror"), "torus"),
        (lambda: operators.channels((2, 8), torch.ones(1, 3)), "expected a matrix"),
        (lambda: FourierMask(torch.ones(8, dtype=torch.bool))(torch.ones(1, 3, 8)), "imaginary"),
    ],
)
def test_an_operator_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
