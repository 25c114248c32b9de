r"""Averages of the weights with a power-function profile, whose length is chosen after training.

With theta(tau) the weights at time tau of the training clock, the average at time t is

    theta_g(t) = integral from 0 to t of p_{g,t}(tau) theta(tau) dtau,
    p_{g,t}(tau) = (g + 1) tau^g / t^{g + 1}.

The profile grows with t, so that its width *relative to t* is constant: no half-life has to suit
both the first minute and the last. A profile that was not tracked is rebuilt from stored ones:
averages are linear in their profiles, so whatever combines stored profiles to the wanted one
combines the stored averages to the wanted average.

Source: Karras et al. (2023), https://arxiv.org/abs/2312.02696, section 3 and appendix C.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def exponent(sigma_rel: float) -> float:
    """The exponent g whose profile has the standard deviation ``sigma_rel t``.

    ``sigma_rel^2 = (g + 1) / ((g + 2)^2 (g + 3))``: g is the largest root of a cubic.

    Raises:
        ValueError: If `sigma_rel` is outside (0, 12^-1/2), where g would not be positive.
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise ValueError(f"sigma_rel must lie in (0, 0.2887), got {sigma_rel}")
    s = sigma_rel**-2
    return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


def decay(g: float, before: float, after: float) -> float:
    """The factor beta of one update: ``theta_g <- beta theta_g + (1 - beta) theta``.

    For weights that were theta from time `before` to `after`, ``beta = (before / after)^(g + 1)``
    is exact, whatever the intervals. At ``before = 0`` the average is theta itself.
    """
    return (before / after) ** (g + 1)


@dataclass(frozen=True)
class Profile:
    """``p_{g,t}``.

    Args:
        sigma_rel: Width over t, in (0, 0.2887).
        time: t > 0, in any unit that is common to all profiles.
    """

    sigma_rel: float
    time: float

    def __matmul__(self, other: "Profile") -> float:
        """``integral of p_{g,t} p_{h,s} dtau = (g+1) (h+1) r^(late's) / ((g+h+1) later)``.

        ``r = earlier / later`` carries the exponent of the profile that ends later.
        """
        early, late = sorted((self, other), key=lambda p: p.time)
        g, h = exponent(early.sigma_rel), exponent(late.sigma_rel)
        overlap = (early.time / late.time) ** h / late.time
        return (g + 1) * (h + 1) / (g + h + 1) * overlap


def coefficients(stored: Sequence[Profile], target: Profile) -> np.ndarray:
    """The `c` that minimise ``|| sum_i c_i p_i - p ||^2`` with ``sum_i c_i = 1``.

    The constraint keeps weights that do not change as they are, to rounding. A target that is
    stored gets coefficient 1, the others 0.

    Args:
        stored: Profiles of the averages at hand, n >= 1.
        target: The profile wanted.

    Returns:
        ``(n,)``, float64.
    """
    if target in stored:
        return np.eye(len(stored))[stored.index(target)]
    n = len(stored)
    scale = np.array([(p @ p) ** -0.5 for p in stored])  # unit profiles: better conditioned
    gram = np.array([[p @ q for q in stored] for p in stored]) * np.outer(scale, scale)
    aim = np.array([p @ target for p in stored]) * scale
    system = np.block([[gram, scale[:, None]], [scale[None], np.zeros((1, 1))]])
    solution = np.linalg.lstsq(system, np.append(aim, 1.0), rcond=1e-13)[0]
    return solution[:n] * scale


def misfit(stored: Sequence[Profile], target: Profile, c: np.ndarray) -> float:
    """``|| sum_i c_i p_i - p || / || p ||``: how well `coefficients` has done, 0 if exactly."""
    both = [*stored, target]
    gram = np.array([[p @ q for q in both] for p in both])
    gap = np.append(c, -1.0)
    return float(max(0.0, gap @ gram @ gap) ** 0.5 / (target @ target) ** 0.5)
