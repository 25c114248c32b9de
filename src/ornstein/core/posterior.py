"""Posterior sampling: from the denoiser of ``p(x)`` to that of ``p(x | y)``, y measured.

Each class here is a map denoiser -> denoiser, to be sampled with any rule. The methods that need
a rule of their own lie in `core.measured`, which also lists all by name; the one that needs many
examples at once, in `core.particles`.
"""

from dataclasses import dataclass
from functools import cached_property
from math import hypot, inf
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from .denoise import Denoiser, align, covariance, with_signal
from .measure import LinearOperator, Operator
from .solve import conjugate_gradient


@dataclass(frozen=True, eq=False)
class Measured:
    """What is known of x: ``y = A(x) + sigma_y n``.

    Args:
        operator: The measurement operator A, linear or not.
        y: The measurement ``(B, *M)``, or ``(1, *M)`` for all.
        sigma_y: The standard deviation of its noise, >= 0, in the units of `y`.

    Raises:
        ValueError: If `sigma_y` is not a noise level, or `y` is not finite.
    """

    operator: Operator
    y: Tensor
    sigma_y: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_y < inf:
            raise ValueError(f"sigma_y must be a finite number >= 0, got {self.sigma_y}")
        if not self.y.isfinite().all():
            raise ValueError("y must be finite: give what the operator returns, A x + noise")

    @property
    def noise(self) -> float:
        """The standard deviation of all that is not A(x): sigma_y, and what A rounds off."""
        return hypot(self.sigma_y, self.operator.rounding)

    def gap(self, x: Tensor) -> tuple[Tensor, LinearOperator]:
        """``y - A(x)``, and the derivative of A there."""
        seen, tangent = self.operator.tangent(x)
        y = self.y.to(x)
        if y.shape[1:] != seen.shape[1:] or len(y) not in (1, len(seen)):
            raise ValueError(f"expected y {tuple(seen.shape)} like A x, got {tuple(y.shape)}")
        return y - seen, tangent

    def reduced(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gap in the M entries that A sees at all ``(B, M)``, and ``A* e_j`` of each.

        Raises:
            UsageError: If there are more than `MOST`.
        """
        gap, tangent = self.gap(x)
        if tangent is self.operator:
            places, rows = self._rows
        else:
            places, rows = _rows(tangent, gap)
        rows = rows.to(x)
        return gap.flatten(1)[:, places], rows.expand(len(x), *rows.shape[1:])

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        assert isinstance(self.operator, LinearOperator)
        return _rows(self.operator, self.y)

    def explained(self, x: Tensor, ratio: Tensor | float = 0.0) -> Tensor:
        """x drawn to what explains `y`: `LinearOperator.consistent`, of A linearised at `x`."""
        gap, tangent = self.gap(x)
        if tangent is self.operator:
            return tangent.consistent(x, self.y.to(x), ratio)
        return tangent.consistent(x, tangent(x) + gap, ratio)

    def settled(self, x_hat: Tensor) -> Tensor:
        """`x_hat`, and where the measurement is linear and exact, the nearest point with it."""
        exact = self.noise == 0 and isinstance(self.operator, LinearOperator)
        return self.explained(x_hat) if exact else x_hat


def _rows(A: LinearOperator, y: Tensor) -> tuple[Tensor, Tensor]:
    """The places of y that A sees ``(M,)``, and ``A* e_j`` for each ``(B, M, C, *S)``."""
    size, found, places = y[0].numel(), [], []
    for j in range(size):
        unit = torch.zeros(size, dtype=y.dtype, device=y.device)
        unit[j] = 1
        row = A.adjoint(unit.reshape(1, *y.shape[1:]).expand_as(y))
        if row.any():
            places.append(j)
            found.append(row)
        if len(found) > MOST:
            raise UsageError(
                f"This method takes measurements of at most {MOST} numbers, and there are more: "
                "choose another, such as mmps."
            )
    if not found:
        raise UsageError("This measurement sees nothing of the examples: sample without it.")
    return torch.tensor(places, device=y.device), torch.stack(found, 1)


ITERATIONS = 3
"""Of the solver inside `PosteriorDenoiser`, by default."""


# --- Moment matching -----------------------------------------------------------------------------


class PosteriorDenoiser(Denoiser):
    """The denoiser of ``p(x | y)`` by moment matching (MMPS).

    With C the covariance of ``p(x | x_t)``, which is a derivative of the denoiser (see
    `core.denoise.covariance`), and matching the first two moments of ``p(x | x_t)``,

        E[x | x_t, y] = x_hat + C A* (A C A* + sigma_y^2 I)^-1 (y - A x_hat).

    Exact for Gaussian data, at every noise level and in every scaling. For other data a Gaussian
    stands in for ``p(x | x_t)``: exact as the noise vanishes, biased where ``p(x | x_t)`` has
    several modes that the measurement tells apart. On the tests' mixture of three Gaussians the
    estimate is off by 62, 52, 27, 6 and 0 % (RMS) of what the measurement changes, at log-SNR
    -8, -2, 0, 2 and 8; see `EvidenceDenoiser`. Nothing is trained, and nothing is there to tune.

    With ``sigma_y = 0`` the measurement is exact, and so is agreement with it: each
    estimate is brought to the nearest point with ``A x = y``. Under a `Mask`, the known entries
    of the samples are then those of `y`, up to the noise that the schedule leaves at t = 0;
    ``operator.consistent(x, y)`` copies the bits. An operator that is not linear is replaced by
    its tangent at x_hat.

    Args:
        denoiser: The prior; its conditions pass through.
        operator: The measurement operator A.
        y: The measurement ``(B, *M)``, or ``(1, *M)`` for all.
        sigma_y: The standard deviation of its noise, >= 0, in the units of `y`.
        iterations: Of conjugate gradients at each call, at most; one Jacobian product each, and
            one more. As many as `y` has entries make the equation above exact, for a denoiser
            that is. The Jacobian of a trained network is neither symmetric nor positive: an
            example then stops early, see `core.solve.conjugate_gradient`.

    Raises:
        ValueError: If `sigma_y` is not a noise level, or `y` is not finite.

    Source: Rozet et al. (2024), https://arxiv.org/abs/2405.13712.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        y: Tensor,
        sigma_y: float,
        iterations: int = ITERATIONS,
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.measured, self.iterations = Measured(operator, y, sigma_y), iterations

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        x_hat, spread = covariance(self.denoiser, x_t, t, **cond)
        gap, A = self.measured.gap(x_hat)

        def system(u: Tensor) -> Tensor:
            return A(spread(A.adjoint(u))) + self.measured.noise**2 * u

        u = conjugate_gradient(system, gap, self.iterations)
        return self.measured.settled(x_hat + spread(A.adjoint(u)))


MOST = 64
"""Numbers in a measurement that `evidence` takes: each costs a Jacobian product, twice."""


class Evidence(NamedTuple):
    """What the moment-matched ``p(y | x_t)`` says.

    Attributes:
        x_hat: ``E[x | x_t]``.
        pull: ``(sigma^2 / alpha) grad log p(y | x_t)``, what the measurement adds to x_hat.
        log_prob: ``log p(y | x_t)`` ``(B,)``, but for a constant.
    """

    x_hat: Tensor
    pull: Tensor
    log_prob: Tensor


def evidence(
    denoiser: Denoiser, measured: Measured, x_t: Tensor, t: Tensor, **cond: Tensor
) -> Evidence:
    """``log p(y | x_t)`` with a Gaussian in place of ``p(x | x_t)``, and its whole gradient.

        log p(y | x_t) = log N(y; A x_hat, S),  S = A C A* + sigma_y^2 I

    The gradient has a part from x_hat, which alone is `PosteriorDenoiser`, and a part from C:
    with ``u = S^-1 (y - A x_hat)``,

        grad = (d x_hat / d x_t)^T A* u + 1/2 grad tr((u u^T - S^-1) A C A*).

    The second says where in x_t the measurement would be less of a surprise because more is
    possible there; at high noise, among several modes, it is as large as the first. It takes
    second derivatives, of which a network's may be anything, and is cut to the spread of
    ``N(0, I)`` given x_t.

    Args:
        denoiser: The prior.
        measured: The measurement; of an operator that is not linear, its tangent at x_hat.
        x_t: ``(B, C, *S)``.
        t: Times ``()`` or ``(B,)``.
        **cond: Conditions, each ``(B, ...)``.
    """
    x_t, t = with_signal(denoiser.schedule, x_t, t)
    alpha, sigma = (align(c, x_t).to(x_t) for c in denoiser.schedule(t))
    scale = sigma**2 / alpha

    def parts(x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        x_hat, back = torch.func.vjp(lambda x: denoiser(x, t, **cond), x)[:2]
        gap, rows = measured.reduced(x_hat.detach())
        spread = torch.stack([(scale * back(row)[0]).flatten(1) for row in rows.unbind(1)], 1)
        rows = rows.flatten(2)
        S = spread @ rows.mT
        values, axes = spectrum(S.detach(), measured.noise)
        z = (gap.double()[:, None] @ axes)[:, 0]
        u = (axes @ (z / values)[..., None])[..., 0].to(x)
        inverse = ((axes / values[:, None]) @ axes.mT).to(x)
        of_mean = ((u[:, None] @ rows)[:, 0] * x_hat.flatten(1)).sum()
        of_spread = ((u[:, :, None] * u[:, None] - inverse) * S).sum() / 2
        found = -(z**2 / values + values.log()).sum(1) / 2
        return (of_mean, of_spread), (x_hat.detach(), found)

    (one, _), back, (x_hat, found) = torch.func.vjp(parts, x_t, has_aux=True)  # pyright: ignore
    of_mean, of_spread = (
        scale * back(pair)[0]
        for pair in ((torch.ones_like(one), 0 * one), (0 * one, torch.ones_like(one)))
    )
    # A mean does not leave what is possible: the spread of N(0, I) given x_t. Networks think so.
    size = of_spread.square().flatten(1).mean(1).sqrt().clamp_min(TINY)
    most = isotropic(denoiser, t, x_t).sqrt()
    return Evidence(x_hat, of_mean + of_spread * align((most / size).clamp(max=1), x_t), found)


TINY = 1e-30


def spectrum(S: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(B, M)``, > 0, and vectors ``(B, M, M)`` of ``S + noise^2 I``, in float64.

    S, ``A C A*`` of a network, is made symmetric and not negative first.
    """
    values, axes = torch.linalg.eigh((S + S.mT).double() / 2)
    rounding = torch.finfo(S.dtype).eps ** 0.5 * values.abs().amax(1, keepdim=True)
    return values.clamp_min(0) + noise**2 + rounding.clamp_min(TINY), axes


class EvidenceDenoiser(Denoiser):
    """The denoiser of ``p(x | y)`` by moment matching, and how the moments change with x_t.

    ``x_hat + (sigma^2 / alpha) grad log p(y | x_t)``, see `evidence`: `PosteriorDenoiser` with
    all its iterations, and the part of the gradient that it leaves out. Exact for Gaussian data.
    On the tests' mixture the estimate is off by 39, 31, 14 and 0 % at log-SNR -2, 0, 2 and 8: no
    nearer, at each, than `PosteriorDenoiser`. Its draws end in the right modes more often where
    the measurement rules out most of them, and no less often elsewhere (docs/restoring.md).
    Second derivatives of a trained network are not good enough for it.

    Args:
        denoiser: The prior; its conditions pass through.
        operator: The measurement operator A.
        y: The measurement ``(B, *M)``, or ``(1, *M)`` for all, of at most `MOST` numbers.
        sigma_y: The standard deviation of its noise, >= 0, in the units of `y`.

    Raises:
        ValueError: If `sigma_y` is not a noise level, or `y` is not finite.
        UsageError: If the measurement has more than `MOST` numbers.
    """

    def __init__(self, denoiser: Denoiser, operator: Operator, y: Tensor, sigma_y: float) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.measured = Measured(operator, y, sigma_y)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        found = evidence(self.denoiser, self.measured, x_t, t, **cond)
        return self.measured.settled(found.x_hat + found.pull)


# --- Less than the covariance --------------------------------------------------------------------


def isotropic(denoiser: Denoiser, t: Tensor, x: Tensor) -> Tensor:
    """``sigma^2 / (alpha^2 + sigma^2)``: Var[x | x_t] of data N(0, I), ``()`` or ``(B,)``."""
    alpha, sigma = denoiser.schedule(t)
    return (sigma**2 / (alpha**2 + sigma**2)).to(x)


class PseudoinverseDenoiser(Denoiser):
    """PiGDM: `PosteriorDenoiser` with ``A C A*`` taken to be that of data N(0, I).

        x_hat + C A* (r^2 A A* + sigma_y^2 I)^-1 (y - A x_hat),  r^2 = sigma^2 / (alpha^2 + sigma^2)

    One Jacobian product. Exact for data N(0, I); elsewhere the strength of the pull is wrong.

    Args:
        denoiser: The prior; its conditions pass through.
        measured: The measurement.

    Source: Song et al. (2023), https://openreview.net/forum?id=9_gsMA8MRKQ.
    """

    def __init__(self, denoiser: Denoiser, measured: Measured) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.measured = denoiser, denoiser.schedule, measured

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        x_hat, spread = covariance(self.denoiser, x_t, t, **cond)
        r2 = isotropic(self.denoiser, t, x_t)
        # A* (A A* + ratio I)^-1 gap is how far the compromise lies from x_hat
        way = self.measured.explained(x_hat, self.measured.noise**2 / r2) - x_hat
        return self.measured.settled(x_hat + spread(way) / align(r2, x_hat))


class ProximalDenoiser(Denoiser):
    """DDNM and DiffPIR: x_hat drawn to what explains y, without derivatives of the denoiser.

        argmin_x |y - A(x)|^2 / sigma_y^2 + |x - x_hat|^2 / r^2,  r^2 = (sigma / alpha)^2 / weight

    With an exact measurement it is DDNM, the nearest point with ``A x = y``, whatever r is.

    Args:
        denoiser: The prior; its conditions pass through.
        measured: The measurement.
        weight: DiffPIR's lambda, > 0: how much x_hat counts.

    Source: Wang et al. (2022), https://arxiv.org/abs/2212.00490 (DDNM); Zhu et al. (2023),
    https://arxiv.org/abs/2305.08995 (DiffPIR).
    """

    def __init__(self, denoiser: Denoiser, measured: Measured, weight: float = 1.0) -> None:
        super().__init__()
        if not weight > 0:
            raise ValueError(f"weight must be positive, got {weight}")
        self.denoiser, self.schedule, self.measured = denoiser, denoiser.schedule, measured
        self.weight = weight

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        x_hat = self.denoiser(x_t, t, **cond)
        snr = torch.exp(self.schedule.log_snr(t).clamp(-30, 30)).to(x_hat)
        return self.measured.explained(x_hat, self.weight * self.measured.noise**2 * snr)
