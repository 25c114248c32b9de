"""Quadrature, Runge-Kutta rules, conjugate gradients: the numerical analysis beneath the rest."""

from collections.abc import Callable, Sequence
from math import exp, expm1
from typing import NamedTuple

import torch
from torch import Tensor

from .denoise import Denoiser, align
from .trajectory import Instant

# --- Quadrature, on Python floats ----------------------------------------------------------------


def quadrature(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights w with ``sum_i w_i nodes_i^k = moments_k``, k < n.

    So ``sum_i w_i p(nodes_i)`` is the integral of p, for polynomials p of degree below n, if the
    moments are those of the integral.

    Source: Björck & Pereyra (1970), https://doi.org/10.2307/2004623.
    """
    w, n = list(moments), len(nodes)
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, n - 1):
            w[i] -= w[i + 1]
    return w


def power_moments(end: float, count: int) -> list[float]:
    """``integral from 0 to end of z^k dz``, k < count."""
    return [end ** (k + 1) / (k + 1) for k in range(count)]


def exponential_moments(start: float, count: int) -> list[float]:
    """``m_k = integral from start to 0 of z^k e^z dz``, k < count.

    By parts, ``m_k = -start^k e^start - k m_(k-1)``. That recursion cancels if the interval is
    short: then the last moment comes from the power series of e^z, and the others downwards.
    """
    if abs(start) > 1.5:
        m = [-expm1(start)]
        for k in range(1, count):
            m.append(-(start**k) * exp(start) - k * m[-1])
        return m
    last = count - 1
    power, total = -(start**count), 0.0
    for j in range(24):
        total += power / (count + j)
        power *= start / (j + 1)
        if abs(power) < 1e-17 * abs(total):
            break
    m = [total]
    for k in range(last, 0, -1):
        m.append(-(start**k * exp(start) + m[-1]) / k)
    return m[::-1]


# --- Runge-Kutta, in flow coordinates ------------------------------------------------------------


class Tableau(NamedTuple):
    """An explicit Runge-Kutta rule: ``k_i = slope(y + h sum_j rows_ij k_j, nodes_i)``."""

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


EULER = Tableau((0.0,), ((),), (1.0,))
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2))
KUTTA = Tableau((0.0, 1 / 2, 1.0), ((), (1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6))
BY_ORDER = {1: EULER, 2: HEUN, 3: KUTTA}

DORMAND_PRINCE = Tableau(
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
)
"""Order 5, with its last slope that of the next step (Dormand & Prince, 1980)."""

DORMAND_PRINCE_ERROR = (
    71 / 57600,
    0.0,
    -71 / 16695,
    71 / 1920,
    -17253 / 339200,
    22 / 525,
    -1 / 40,
)
"""The weights of the order 5, less those of the embedded order 4."""


def mixed(coefficients: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """``sum_i coefficients_i slopes_i``."""
    total = slopes[0] * coefficients[0]
    for c, k in zip(coefficients[1:], slopes[1:], strict=True):
        total = torch.add(total, k, alpha=c)
    return total


def slopes(
    rule: Tableau,
    slope: Callable[[Tensor, float], Tensor],
    y: Tensor,
    first: Tensor,
    h: Tensor | float,
) -> list[Tensor]:
    """The slopes ``k_i`` of one step of `rule` from y, of which the first is known.

    Args:
        rule: The tableau.
        slope: The slope at (y, part), part in [0, 1] of the step.
        y: ``(B, *S)``.
        first: ``slope(y, 0)``.
        h: The step: a number, or ``(B, 1, ...)``, one for each example.
    """
    ks = [first]
    for node, row in zip(rule.nodes[1:], rule.rows[1:], strict=True):
        ks.append(slope(y + h * mixed(row, ks), node))
    return ks


def velocity(denoiser: Denoiser, y: Tensor, tau: Tensor) -> Tensor:
    """``dy / dtau = eps_hat - x_hat = (y - x_hat) / tau``, the probability flow's.

    In flow coordinates ``y = x_t / (alpha + sigma)`` and ``tau = sigma / (alpha + sigma)`` any
    path is the straight one, ``y = (1 - tau) x + tau eps``; the slope is finite at both ends.

    Args:
        denoiser: Of any schedule.
        y: ``(B, *S)``.
        tau: ``()`` or ``(B,)``, float64, in (0, 1].
    """
    tau = tau.clamp(max=1)
    t = denoiser.schedule.time(2 * (torch.log1p(-tau) - torch.log(tau)))
    alpha, sigma = denoiser.schedule(t)
    x_hat = denoiser(align(alpha + sigma, y).to(y) * y, t)
    return (y - x_hat) / align(tau, y).to(y)


def runge_kutta(
    order: int, denoiser: Denoiser, x_t: Tensor, x_hat: Tensor, now: Instant, then: Instant
) -> Tensor:
    """x_s after one step of `order` 1 to 3, and as many denoiser calls, `x_hat` the first."""
    y, h, rule = x_t / now.size, then.tau - now.tau, BY_ORDER[order]

    def slope(y: Tensor, part: float) -> Tensor:
        tau = torch.full((), now.tau + part * h, dtype=torch.float64, device=y.device)
        return velocity(denoiser, y, tau)

    ks = slopes(rule, slope, y, (y - x_hat) / now.tau, h)
    return then.size * (y + h * mixed(rule.weights, ks))


# --- Linear systems ------------------------------------------------------------------------------


WILD = 10.0


def conjugate_gradient(
    A: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float | None = None
) -> Tensor:
    """Solve ``A x = b``, A symmetric and positive, one system for each example of `b` ``(B, ...)``.

    An example stops where it has converged, or where A turns out not to be positive in the
    direction searched, as the Jacobian of a trained network may, or so nearly not that the step
    would leave a residual `WILD` times b; it then keeps what it has.

    Args:
        A: The system, applied to the batch.
        b: Right-hand sides ``(B, ...)``.
        iterations: At most this many; n of them solve a system with n distinct eigenvalues.
        tolerance: Stop where ``|b - A x| <= tolerance |b|``; by default the machine epsilon.

    Returns:
        The solutions ``(B, ...)``, without NaN whatever A is.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1)

    size = b.abs().flatten(1).amax(1)
    unit = align(torch.where(size > 0, size, 1.0), b)  # so that no square underflows
    number = torch.finfo(b.dtype)
    tolerance = number.eps if tolerance is None else tolerance
    x, r = torch.zeros_like(b), b / unit
    p, rr = r, dot(r, r)
    active, enough, most = size > 0, tolerance**2 * rr, WILD**2 * rr
    for _ in range(iterations):
        Ap = A(p)
        curvature = dot(p, Ap)
        active = active & (curvature > number.tiny) & (rr > enough)
        if not active.any():
            break
        length = torch.where(active, rr / curvature, 0.0)
        left = r - align(length, b) * Ap
        active = active & (dot(left, left) <= most)
        step = align(torch.where(active, length, 0.0), b)
        x, r = torch.where(step > 0, x + step * p, x), torch.where(step > 0, left, r)
        rr, before = dot(r, r), rr
        p = r + align(torch.where(active, rr / before, 0.0), b) * p
    return x * unit
