"""Errors of exact denoisers: what they are of a Gaussian, and the posterior they add up to."""

from math import pi

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata

from ornstein.core.evidence import code_lengths, reconstructions
from ornstein.core.exact import GaussianDenoiser
from ornstein.core.noise import CosineSchedule
from truths import F64, gaussian, mixture, normal

LEVELS = torch.tensor([-4.0, -1.0, 0.0, 2.0], dtype=F64)


def test_a_gaussian_comes_back_by_a_known_share_along_each_axis():
    """``(sigma^2 / M)(x - mu)`` is what does not: no chance is left in it, at any noise."""
    denoiser = gaussian()
    x, axes, var = normal(50, 3, seed=8), denoiser.axes[0], denoiser.var[0]
    for seed in (1, 2):
        found = reconstructions(
            denoiser, x, LEVELS, lambda like, seed=seed: normal(50, 3, seed=seed)
        )
        for level, back in zip(LEVELS, found, strict=True):
            alpha, sigma = denoiser.schedule(denoiser.schedule.time(level))
            lost = sigma**2 / (alpha**2 * var + sigma**2) * ((x - denoiser.means[0]) @ axes)
            assert torch.allclose((x - back) @ axes, lost, rtol=1e-9, atol=1e-12)


def test_more_pairs_leave_less_chance():
    """Of a mixture, which is not linear, the scatter of the mean falls as 1 / sqrt(pairs)."""
    denoiser, x = mixture(), torch.zeros(4000, 2, dtype=F64)
    spread = {}
    for pairs in (1, 16):
        draws = normal(pairs, 4000, 2, seed=pairs)
        taken = iter(draws)
        (back,) = reconstructions(denoiser, x, LEVELS[2:3], lambda like, t=taken: next(t), pairs)
        spread[pairs] = back.std(0)
    assert torch.allclose(spread[1] / spread[16], torch.tensor(4.0, dtype=F64), rtol=0.1)


def auroc(normal_scores: np.ndarray, strange: np.ndarray) -> float:
    ranks = rankdata(np.concatenate([strange, normal_scores]))[: len(strange)]
    n, m = len(strange), len(normal_scores)
    return (ranks.sum() - n * (n + 1) / 2) / (n * m)


@pytest.mark.parametrize("log_snr", [-3.0, 0.0, 3.0])
def test_the_auroc_of_one_dimension_has_a_closed_form(log_snr):
    """Normals N(0, 1). Shifted by d: ``Phi(a)^2 + Phi(-a)^2``, a = d / sqrt(2). Of variance v:
    ``(2 / pi) arctan(sqrt(v))``. At every noise level, as the score is monotone in |x|."""
    one, level = torch.eye(1, dtype=F64), torch.tensor([log_snr], dtype=F64)
    denoiser = GaussianDenoiser(torch.zeros(1, dtype=F64), one, CosineSchedule())
    count = 40_000

    def scores(x):
        (back,) = reconstructions(denoiser, x, level, lambda like: normal(count, 1, seed=6))
        return (x - back).square()[:, 0].numpy()

    normals = scores(normal(count, 1, seed=3))
    a = 1.5 / 2**0.5
    for strange, exact in (
        (normal(count, 1, seed=4) + 1.5, norm.cdf(a) ** 2 + norm.cdf(-a) ** 2),
        (normal(count, 1, seed=5) * 2, 2 / pi * np.arctan(2)),
    ):
        error = (exact * (1 - exact) / count * 2) ** 0.5  # at least that of Hanley & McNeil
        assert abs(auroc(normals, scores(strange)) - exact) < 4 * error


def test_exact_denoisers_add_up_to_the_posterior_of_bayes():
    """``softmax_c -sum_lambda`` of three Gaussians, told apart by label, is ``p(c | x)``."""
    denoiser, count = mixture(CosineSchedule()), 2000
    levels = torch.linspace(-12, 12, 81, dtype=F64)
    weights, means, covs = denoiser.weights, denoiser.means, denoiser.covs
    for seed in (1, 2):
        x = denoiser.draw(1, torch.Generator().manual_seed(seed))
        gap = x - means
        log_p = -0.5 * (torch.einsum("ki,kij,kj->k", gap, covs.inverse(), gap) + covs.logdet())
        eps = normal(count, 2, seed=seed)
        lengths = []
        for c in range(3):
            label = torch.full((count,), c)
            both = [
                code_lengths(denoiser, x.expand(count, 2), levels, e, label=label).sum(0)
                for e in (eps, -eps)
            ]
            lengths.append(sum(both) / 2)
        apart = torch.stack([lengths[0] - lengths[c] for c in (1, 2)])
        error = apart.std(1) / count**0.5
        exact = torch.stack([log_p[c] - log_p[0] for c in (1, 2)])
        assert ((apart.mean(1) - exact).abs() < 4 * error + 5e-3).all()
        found = torch.softmax(weights.log() - torch.stack(lengths).mean(1), 0)
        bayes = torch.softmax(weights.log() + log_p, 0)
        assert (found - bayes).abs().max() < 0.02


def test_the_lengths_of_levels_are_a_rule_of_trapezoids():
    """For ``x_hat = 0`` each level adds ``width SNR |x|^2 / 2``: no noise in it."""
    denoiser = GaussianDenoiser(
        torch.zeros(2, dtype=F64), torch.zeros(2, 2, dtype=F64), CosineSchedule()
    )
    levels = torch.tensor([-1.0, 0.0, 3.0], dtype=F64)
    found = code_lengths(denoiser, torch.ones(1, 2, dtype=F64), levels, normal(1, 2))
    widths = torch.tensor([0.5, 2.0, 1.5], dtype=F64)
    assert torch.allclose(found[:, 0], widths * levels.exp())


def test_levels_that_the_schedule_does_not_reach_add_nothing():
    schedule = CosineSchedule(log_snr_min=-3.0, log_snr_max=2.0)
    low, high = schedule.reach
    denoiser = GaussianDenoiser(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64), schedule)
    x, eps = normal(3, 2, seed=1), normal(3, 2)
    levels = torch.tensor([-9.0, -5.0, -1.0, 0.0, 3.0, 14.0], dtype=F64)
    found = code_lengths(denoiser, x, levels, eps)
    inside = code_lengths(denoiser, x, levels.clamp(low, high)[1:5], eps)
    assert torch.equal(found[[0, 5]], torch.zeros(2, 3, dtype=F64))
    assert torch.allclose(found[1:5], inside)
