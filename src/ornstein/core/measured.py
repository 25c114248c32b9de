"""Samplers that look at a measurement; and every method of posterior sampling by name.

A method turns the denoiser of ``p(x)`` and a sampler into those of ``p(x | y)``. Most change the
denoiser alone and lie in `core.posterior`; those here bring a rule of their own. All but moment
matching are approximations whose bias does not vanish: docs/restoring.md says how large it is.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import expm1, hypot, inf, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from .denoise import Denoiser, align, covariance
from .measure import LinearOperator, Mask, Spectrum
from .noise import Schedule
from .posterior import (
    ITERATIONS,
    EvidenceDenoiser,
    Measured,
    PosteriorDenoiser,
    ProximalDenoiser,
    PseudoinverseDenoiser,
)
from .sample import Ancestral
from .trajectory import Draw, Instant, Past, Sampler, Step, instants


class Seeing(Denoiser):
    """The prior as it is, and beside it what was measured: for the rules that look at it.

    Args:
        denoiser: The prior; its conditions pass through.
        measured: The measurement.
    """

    def __init__(self, denoiser: Denoiser, measured: Measured) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.measured = denoiser, denoiser.schedule, measured

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.denoiser(x_t, t, **cond)


class MeasuredSampler(Sampler):
    """A rule whose transitions look at a measurement: the denoiser it walks with is `Seeing`."""

    order = 1

    @abstractmethod
    def move(
        self, now: Instant, then: Instant, seeing: Seeing, x_t: Tensor, past: Past, noise: Draw
    ) -> Tensor:
        """One transition."""

    def steps(self, schedule: Schedule, grid: Sequence[Instant]) -> list[Step]:
        return [partial(self.move, now, then) for now, then in pairwise(grid)]  # pyright: ignore


def ancestral(x_t: Tensor, x_hat: Tensor, now: Instant, then: Instant, noise: Draw) -> Tensor:
    """DDPM's step: a draw of ``q(x_s | x_t, x = x_hat)``."""
    share = -expm1(2 * (now.half - then.half))  # 1 - SNR_t / SNR_s
    ratio = sqrt(1 - share) * then.sigma / now.sigma
    mean = ratio * x_t + (then.alpha - now.alpha * ratio) * x_hat
    return mean if then.sigma == 0 else mean + then.sigma * sqrt(share) * noise(x_t)


@dataclass(frozen=True, kw_only=True)
class DPS(MeasuredSampler):
    """DDPM's step, then one down the gradient of the misfit, of a length that has to be tuned.

        x_s <- x_s - zeta grad |y - A(x_hat)|, of x_t in the scaling ``vp``

    The norm is that of each example, so that no example depends on its batch. The best zeta
    changes with the data, the measurement and the number of steps.

    Args:
        zeta: The length.

    Source: Chung et al. (2023), https://arxiv.org/abs/2209.14687, algorithm 1.
    """

    zeta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.zeta < inf:
            raise ValueError(f"zeta must be a finite number >= 0, got {self.zeta}")

    def move(
        self, now: Instant, then: Instant, seeing: Seeing, x_t: Tensor, past: Past, noise: Draw
    ) -> Tensor:
        x_hat, spread = covariance(seeing, x_t, now.t)
        gap, A = seeing.measured.gap(x_hat)
        size = gap.flatten(1).norm(dim=1).clamp_min(torch.finfo(gap.dtype).tiny)
        pull = spread(A.adjoint(gap)) / align(size, x_hat)  # sigma^2 / alpha times -grad |gap|
        sizes = hypot(now.alpha, now.sigma) * hypot(then.alpha, then.sigma)
        x_s = ancestral(x_t, x_hat, now, then, noise)
        return x_s + self.zeta * sizes * now.alpha / now.sigma**2 * pull


@dataclass(frozen=True, kw_only=True)
class DDRM(MeasuredSampler):
    """DDIM in the singular vectors of A: each coefficient is known, is noise, or is neither.

    In the scaling ``ve``, with s a singular value, ``c = V* x`` and ``b = U* y / s``, a step to
    the noise level sigma draws c around

        c_hat                               where s = 0,
        c_hat + kept sigma (b - c_hat) / (sigma_y / s)   where sigma < sigma_y / s,
        (1 - eta_b) c_hat + eta_b b         where sigma >= sigma_y / s.

    Args:
        eta: How much of the noise is fresh, in [0, 1].
        eta_b: How much of b to take, in [0, 1].

    Raises:
        UsageError: If the operator has no cheap decomposition.

    Source: Kawar et al. (2022), https://arxiv.org/abs/2201.11793, equations 7-8.
    """

    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.eta <= 1 and 0 <= self.eta_b <= 1):
            raise ValueError(f"eta and eta_b must lie in [0, 1], got {self.eta} and {self.eta_b}")

    def move(
        self, now: Instant, then: Instant, seeing: Seeing, x_t: Tensor, past: Past, noise: Draw
    ) -> Tensor:
        x_hat, measured = seeing(x_t, now.t), seeing.measured
        known = _spectrum(measured, x_t)
        b, seen = known.invert(measured.y.to(x_t))
        values = known.values.to(x_t)
        if then.sigma == 0:
            level, at = 0.0, 1.0
        else:
            level, at = then.sigma / then.alpha if then.alpha > 0 else 1e6, then.alpha
        last = now.sigma / now.alpha if now.alpha > 0 else 1e6
        blur = torch.where(seen, measured.noise / torch.where(seen, values, 1.0), 0.0)
        c_t, c_hat = known.analyse(x_t / max(now.alpha, 1e-6)), known.analyse(x_hat)
        fresh, kept = known.analyse(noise(x_t)), sqrt(1 - self.eta**2)
        unseen = c_hat + level * (kept * (c_t - c_hat) / last + self.eta * fresh)
        towards = (b - c_hat) / torch.where(blur > 0, blur, 1.0)
        vague = c_hat + level * (kept * towards + self.eta * fresh)
        spread = (level**2 - (self.eta_b * blur) ** 2).clamp_min(0).sqrt()
        clear = torch.lerp(c_hat, b, self.eta_b) + spread * fresh
        c = torch.where(seen, torch.where(level < blur, vague, clear), unseen)
        return at * known.synthesise(c)


def _spectrum(measured: Measured, x: Tensor) -> Spectrum:
    operator, shape = measured.operator, tuple(x.shape[1:])
    known = operator.spectrum(shape) if isinstance(operator, LinearOperator) else None
    if known is None:
        raise UsageError(
            "ddrm needs an operator whose singular values are known, and those of this one are "
            "not: choose another method, such as mmps."
        )
    return known


@dataclass(frozen=True, kw_only=True)
class RePaint(MeasuredSampler):
    """Replaces what is known by its noisy self after each step; goes back and forth in each.

    At `resamples` = 1 the rest hardly hears of what is known; the more, the better, at a denoiser
    call each.

    Args:
        resamples: How often each step is taken.

    Raises:
        UsageError: If the measurement is not under a mask.

    Source: Lugmayr et al. (2022), https://arxiv.org/abs/2201.09865, algorithm 1.
    """

    resamples: int = 10

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {self.resamples}")

    def calls(self, steps: int) -> int:
        return steps * self.resamples

    def move(
        self, now: Instant, then: Instant, seeing: Seeing, x_t: Tensor, past: Past, noise: Draw
    ) -> Tensor:
        operator, y = seeing.measured.operator, seeing.measured.y.to(x_t)
        if not isinstance(operator, Mask):
            raise UsageError(
                f"repaint knows masks alone, and this measurement is by {type(operator).__name__}: "
                "choose another method, such as mmps."
            )
        spare = sqrt(max(then.sigma**2 - (then.alpha * seeing.measured.noise) ** 2, 0.0))

        def once(x_t: Tensor) -> Tensor:
            x_s = ancestral(x_t, seeing(x_t, now.t), now, then, noise)
            known = then.alpha * y
            return operator.consistent(x_s, known + spare * noise(x_t) if spare > 0 else known)

        back = now.alpha / then.alpha
        for _ in range(self.resamples - 1):
            fresh = sqrt(now.sigma**2 - (back * then.sigma) ** 2)
            x_t = back * once(x_t) + fresh * noise(x_t)
        return once(x_t)


@dataclass(frozen=True, kw_only=True)
class DAPS(MeasuredSampler):
    """Down to the data and up again at each level: no error of an early step is for ever.

    From x_t a few steps of the probability flow lead to a guess x'; x is drawn from

        exp(-|x - x'|^2 / (2 r^2) - |y - A(x)|^2 / (2 sigma_y^2)),

    ``r^2 = sigma^2 / (alpha^2 + sigma^2)``, and noised to the next level. The draw is that of
    perturb and optimise: exact for a linear A; for others, Gauss-Newton in place of the Langevin
    steps of the paper, which need a length.

    Args:
        inner: Steps of the flow at each level.
        rounds: Of Gauss-Newton, for an operator that is not linear.

    Source: Zhang et al. (2024), https://arxiv.org/abs/2407.01521; Orieux et al. (2012),
    https://arxiv.org/abs/1104.5527 (perturb and optimise).
    """

    inner: int = 4
    rounds: int = 5

    def __post_init__(self) -> None:
        if min(self.inner, self.rounds) < 1:
            raise ValueError(
                f"inner and rounds must be at least 1, got {self.inner} and {self.rounds}"
            )

    def calls(self, steps: int) -> int:
        return steps * self.inner

    def move(
        self, now: Instant, then: Instant, seeing: Seeing, x_t: Tensor, past: Past, noise: Draw
    ) -> Tensor:
        x = self.drawn(seeing.measured, self._guess(seeing, x_t, now), now, noise)
        return x if then.sigma == 0 else then.alpha * x + then.sigma * noise(x_t)

    def _guess(self, denoiser: Denoiser, x_t: Tensor, now: Instant) -> Tensor:
        times = torch.linspace(1, 0, self.inner + 1, dtype=torch.float64, device=x_t.device) * now.t
        flow = Ancestral(eta=0.0).steps(denoiser.schedule, instants(denoiser.schedule, times))
        past: Past = Past(maxlen=1)
        for step in flow:
            x_t = step(denoiser, x_t, past, torch.zeros_like)
        return x_t

    def drawn(self, measured: Measured, guess: Tensor, now: Instant, noise: Draw) -> Tensor:
        """A draw of the Gaussian around `guess`, given the measurement."""
        r, level = now.sigma / hypot(now.alpha, now.sigma), measured.noise
        centre = guess + r * noise(guess)
        seen = measured.y.to(guess)
        if level > 0:
            seen = seen + level * noise(measured.gap(guess)[0])
        x, ratio = centre, (level / r) ** 2
        linear = isinstance(measured.operator, LinearOperator)
        for _ in range(1 if linear else self.rounds):
            value, A = measured.operator.tangent(x)
            x = A.consistent(centre, seen - value + A(x), ratio)
        return x


# --- By name -------------------------------------------------------------------------------------


class Method(NamedTuple):
    """One way from p(x) to p(x | y).

    Attributes:
        denoiser: From the denoiser of the prior and the measurement to what is to be walked with.
        sampler: The rule that the method brings; None if any will do.
    """

    denoiser: Callable[[Denoiser, Measured], Denoiser]
    sampler: Sampler | None = None


def mmps(iterations: int = ITERATIONS) -> Method:
    """See `PosteriorDenoiser`."""

    def matched(prior: Denoiser, seen: Measured) -> Denoiser:
        return PosteriorDenoiser(prior, seen.operator, seen.y, seen.sigma_y, iterations)

    return Method(matched)


def by_evidence() -> Method:
    """See `EvidenceDenoiser`."""

    def whole(prior: Denoiser, seen: Measured) -> Denoiser:
        return EvidenceDenoiser(prior, seen.operator, seen.y, seen.sigma_y)

    return Method(whole)


def pigdm() -> Method:
    """See `PseudoinverseDenoiser`."""
    return Method(PseudoinverseDenoiser)


def ddnm() -> Method:
    """See `ProximalDenoiser`, for exact measurements alone."""

    def exact(prior: Denoiser, seen: Measured) -> Denoiser:
        if seen.noise > 0:
            raise UsageError(
                f"ddnm takes the measurement to be exact, and its noise is {seen.noise:.3g}: give "
                "noise = 0, or choose diffpir or mmps."
            )
        return ProximalDenoiser(prior, seen)

    return Method(exact)


def diffpir(weight: float = 1.0) -> Method:
    """See `ProximalDenoiser`."""
    return Method(partial(ProximalDenoiser, weight=weight))


def ddrm(eta: float = DDRM.eta, eta_b: float = DDRM.eta_b) -> Method:
    """See `DDRM`."""
    return Method(Seeing, DDRM(eta=eta, eta_b=eta_b))


def dps(zeta: float = DPS.zeta) -> Method:
    """See `DPS`."""
    return Method(Seeing, DPS(zeta=zeta))


def daps(inner: int = DAPS.inner, rounds: int = DAPS.rounds) -> Method:
    """See `DAPS`."""
    return Method(Seeing, DAPS(inner=inner, rounds=rounds))


def repaint(resamples: int = RePaint.resamples) -> Method:
    """See `RePaint`."""
    return Method(Seeing, RePaint(resamples=resamples))


METHODS: dict[str, Callable[..., Method]] = {
    "mmps": mmps,
    "evidence": by_evidence,
    "pigdm": pigdm,
    "ddnm": ddnm,
    "diffpir": diffpir,
    "ddrm": ddrm,
    "dps": dps,
    "daps": daps,
    "repaint": repaint,
}
"""Each is made from numbers, for commands. `core.particles.Particles` is one more, of many examples
at once."""

BIASES = {
    "pigdm": (0.96, 1.06),
    "ddnm": (0.63, 1.51),
    "diffpir": (0.63, 1.51),
    "ddrm": (0.75, 0.87),
    "dps": (1.20, 0.72),
    "daps": (0.83, 1.99),
    "repaint": (0.95, 0.88),
}
"""What is wrong with the draws of one Gaussian, of those methods that are not exact for it: of the
second of two numbers, correlated by .8, the first known, how much the mean follows the first and
how large the variance is, over what they should be."""
