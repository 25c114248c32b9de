"""Posterior sampling: from the denoiser of ``p(x)`` to that of ``p(x | y)``, y measured."""

from math import inf

from torch import Tensor

from .denoise import Denoiser, covariance
from .measure import LinearOperator, conjugate_gradient


class PosteriorDenoiser(Denoiser):
    """The denoiser of ``p(x | y)``, given that of ``p(x)`` and ``y = A x + sigma_y n``.

    With C the covariance of ``p(x | x_t)``, which is a derivative of the denoiser (see
    `core.denoise.covariance`), and matching the first two moments of ``p(x | x_t)``,

        E[x | x_t, y] = x_hat + C A* (A C A* + sigma_y^2 I)^-1 (y - A x_hat).

    Exact for Gaussian data, at every noise level and in every scaling. For other data a Gaussian
    stands in for ``p(x | x_t)``: exact as the noise vanishes, biased where ``p(x | x_t)`` has
    several modes that the measurement tells apart. On the tests' mixture of three Gaussians the
    estimate is off by 62, 52, 27, 6 and 0 % (RMS) of what the measurement changes, at log-SNR
    -8, -2, 0, 2 and 8. Nothing is trained, and nothing is there to tune.

    With ``sigma_y = 0`` the measurement is exact, and so is agreement with it: each
    estimate is brought to the nearest point with ``A x = y``. Under a `Mask`, the known entries
    of the samples are then those of `y`, up to the noise that the schedule leaves at t = 0;
    ``operator.consistent(x, y)`` copies the bits.

    Args:
        denoiser: The prior; its conditions pass through.
        operator: The measurement operator A.
        y: The measurement ``(B, *M)``, or ``(1, *M)`` for all.
        sigma_y: The standard deviation of its noise, >= 0, in the units of `y`.
        iterations: Of conjugate gradients at each call, at most; one Jacobian product each, and
            one more. As many as `y` has entries make the equation above exact, for a denoiser
            that is. The Jacobian of a trained network is neither symmetric nor positive: there
            the first iteration helps at every noise level, and from the fourth on the small
            eigenvalues, which are errors, take over.

    Raises:
        ValueError: If `sigma_y` is not a noise level, or `y` is not finite.

    Source: Rozet et al. (2024), https://arxiv.org/abs/2405.13712.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        operator: LinearOperator,
        y: Tensor,
        sigma_y: float,
        iterations: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= sigma_y < inf:
            raise ValueError(f"sigma_y must be a finite number >= 0, got {sigma_y}")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        if not y.isfinite().all():
            raise ValueError("y must be finite: give what the operator returns, A x + noise")
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.operator, self.y, self.sigma_y, self.iterations = operator, y, sigma_y, iterations

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        x_hat, spread = covariance(self.denoiser, x_t, t, **cond)
        y, seen = self.y.to(x_t), self.operator(x_hat)
        if y.shape[1:] != seen.shape[1:] or len(y) not in (1, len(seen)):
            raise ValueError(f"expected y {tuple(seen.shape)} like A x, got {tuple(y.shape)}")

        def system(u: Tensor) -> Tensor:
            return self.operator(spread(self.operator.adjoint(u))) + self.sigma_y**2 * u

        u = conjugate_gradient(system, y - seen, self.iterations)
        x_hat = x_hat + spread(self.operator.adjoint(u))
        return self.operator.consistent(x_hat, y) if self.sigma_y == 0 else x_hat
