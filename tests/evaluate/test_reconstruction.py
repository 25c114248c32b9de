"""How like originals and reconstructions are."""

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ornstein.evaluate.reconstruction import likeness, scaled
from ornstein.rng import normal


def test_likeness_is_that_of_skimage():
    x = normal((1, 1, 24, 20), "x")
    y = x + 0.3 * normal(x.shape, "y")
    found, span = likeness(x, y), (x.max() - x.min()).item()
    a, b = (v[0, 0].double().numpy() for v in (x, y))
    assert np.isclose(found.psnr, peak_signal_noise_ratio(a, b, data_range=span))
    middle = structural_similarity(
        a, b, data_range=span, win_size=7, full=True, use_sample_covariance=False
    )[1][3:-3, 3:-3].mean()
    assert np.isclose(found.ssim, middle, rtol=1e-6)


def test_what_is_smooth_survives_scaling():
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    assert likeness(ramp, scaled(ramp, 4)).psnr > 30
    assert likeness(normal(ramp.shape, "noise"), scaled(normal(ramp.shape, "noise"), 4)).psnr < 20
