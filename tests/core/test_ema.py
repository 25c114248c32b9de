"""Power-function averages: closed forms, and the rebuilding of profiles that were not tracked."""

import numpy as np
import pytest

from ornstein.core.ema import Profile, coefficients, decay, exponent

STEPS = 1000


def track(theta: np.ndarray, sigma_rel: float) -> np.ndarray:
    """The average after each update, one column of `theta` for each weight."""
    g, average, history = exponent(sigma_rel), np.zeros(theta.shape[1]), []
    for n, weights in enumerate(theta, start=1):
        beta = decay(g, n - 1, n)
        average = beta * average + (1 - beta) * weights
        history.append(average)
    return np.array(history)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.25])
def test_exponent_gives_the_width_it_is_asked_for(sigma_rel):
    g = exponent(sigma_rel)
    assert np.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3))) == pytest.approx(sigma_rel, rel=1e-12)
    tau = (np.arange(200_000) + 0.5) / 200_000
    p = (g + 1) * tau**g / len(tau)
    mean = (p * tau).sum()
    assert p.sum() == pytest.approx(1, abs=1e-6)
    assert np.sqrt((p * (tau - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-5)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.29, float("nan")])
def test_exponent_refuses_a_width_without_a_positive_exponent(sigma_rel):
    with pytest.raises(ValueError, match="sigma_rel must lie in"):
        exponent(sigma_rel)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_average_of_a_linear_ramp_is_the_closed_form(sigma_rel):
    # theta = n during (n - 1, n]: weights n^(g+1) - (n-1)^(g+1) over N^(g+1)
    g, n = exponent(sigma_rel), np.arange(1, STEPS + 1.0)
    weights = (n / STEPS) ** (g + 1) - ((n - 1) / STEPS) ** (g + 1)
    ramp = track(n[:, None], sigma_rel)[-1, 0]
    assert ramp == pytest.approx((weights * n).sum(), rel=1e-12)
    # and of the continuous ramp theta(tau) = tau: (g + 1) / (g + 2) t, half a step later
    assert ramp == pytest.approx((g + 1) / (g + 2) * STEPS + 0.5, rel=1e-4)


def test_inner_products_are_integrals():
    pairs = [(Profile(0.05, 0.3), Profile(0.1, 0.9)), (Profile(0.2, 1.0), Profile(0.07, 0.6))]
    tau = (np.arange(2_000_000) + 0.5) / 2_000_000
    for a, b in pairs:
        product = np.ones_like(tau)
        for p in (a, b):
            g = exponent(p.sigma_rel)
            product *= np.where(tau < p.time, (g + 1) * tau**g / p.time ** (g + 1), 0)
        assert a @ b == b @ a
        assert a @ b == pytest.approx(product.mean(), rel=1e-5)


def stored_profiles() -> list[Profile]:
    return [Profile(s, t) for s in (0.05, 0.1) for t in np.linspace(STEPS / 8, STEPS, 8)]


@pytest.mark.parametrize("profile", stored_profiles())
def test_a_stored_profile_is_itself(profile):
    stored = stored_profiles()
    c = coefficients(stored, profile)
    assert (c == (np.array([p == profile for p in stored]))).all()


@pytest.mark.parametrize(
    ("sigma_rel", "error"), [(0.055, 1e-3), (0.075, 1e-3), (0.12, 1e-3), (0.15, 1e-3), (0.2, 1e-2)]
)
def test_a_profile_that_was_not_tracked_is_rebuilt(sigma_rel, error):
    rng = np.random.default_rng(0)
    walk = rng.standard_normal((STEPS, 50)).cumsum(0)
    ramp = np.arange(1, STEPS + 1.0)[:, None]
    theta = np.hstack([walk, ramp, np.ones((STEPS, 1))])
    stored = stored_profiles()
    averages = {s: track(theta, s) for s in (0.05, 0.1)}
    kept = np.array([averages[p.sigma_rel][round(p.time) - 1] for p in stored])
    rebuilt = coefficients(stored, Profile(sigma_rel, STEPS)) @ kept
    tracked = track(theta, sigma_rel)[-1]
    assert np.linalg.norm(rebuilt - tracked) < 1e-2 * np.linalg.norm(tracked)
    assert rebuilt[50] == pytest.approx(tracked[50], rel=error)  # the ramp
    assert rebuilt[51] == pytest.approx(1, abs=1e-9)  # what does not change


def test_updates_of_any_size_add_up():
    # one update from 0 to 3 with weights that do not change is three updates
    g = exponent(0.1)
    assert decay(g, 1, 4) == pytest.approx(decay(g, 1, 2) * decay(g, 2, 4), rel=1e-14)
    assert decay(g, 0, 5) == 0
