"""Calibration: ranks of the truth among exact and among overconfident draws."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ornstein.core.conformal import Widening
from ornstein.data import DataOptions, open_data
from ornstein.data.image import ImageCodec
from ornstein.errors import UsageError
from ornstein.evaluate.measures.calibration import Calibration, calibrate, compared, in_words
from ornstein.rng import generator
from ornstein.runs.config import RunConfig
from ornstein.runs.folder import RunFolder
from ornstein.tasks.holes import windows_of
from ornstein.tasks.restore import restore
from ornstein.tasks.restored import Restored
from ornstein.tasks.sample import Samples
from untrained import tiny_model

CODEC = ImageCodec(
    shape=(1, 4, 4), dtype="float32", mean=(5.0,), std=(2.0,), format="npy", layout="CHW"
)


def judged(scale: float, count: int = 200, draws: int = 19) -> Calibration:
    """Truth and draws of one Gaussian each, the draws `scale` times as wide."""
    g = torch.Generator().manual_seed(0)
    centre = torch.randn(count, 1, 4, 4, generator=g)
    truth = centre + torch.randn(centre.shape, generator=g)
    drawn = centre[:, None] + scale * torch.randn(count, draws, 1, 4, 4, generator=g)
    keep = torch.zeros_like(truth, dtype=torch.bool)
    keep[:, :, :2] = True
    restored = Restored(centre, keep, Samples(drawn.flatten(0, 1), CODEC))
    stored = torch.from_numpy(CODEC.stored(truth))
    return compared(SimpleNamespace(codec=CODEC), stored, restored)  # pyright: ignore


def test_exact_draws_are_calibrated():
    found = judged(1.0)
    low, high = found.interval(0.9)
    assert low <= found.coverage(0.9) <= high and low < 0.9 < high
    assert found.everywhere == pytest.approx(0.9, abs=0.02)
    assert found.calibrated and found.p_value > 0.01
    assert "hold what they say" in found.verdict


def test_a_right_posterior_is_seldom_called_wrong():
    draw = generator("right")
    some = [draw.integers(0, 20, 100) for _ in range(500)]
    found = [Calibration(ranks=r, draws=19, everywhere=0.9, psnr=20.0) for r in some]
    assert sum(not one.calibrated for one in found) <= 15


@pytest.mark.parametrize(("scale", "words"), [(0.5, "too sure"), (2.0, "too wide")])
def test_draws_too_narrow_or_too_wide_are_told(scale, words):
    found = judged(scale)
    assert not found.calibrated and found.p_value < 1e-3
    assert words in found.verdict
    assert (found.coverage(0.9) < 0.9) == (scale < 1)


def test_the_ranks_are_those_of_hidden_places_and_the_facts_name_all():
    found = judged(1.0, count=40)
    assert found.ranks.shape == (40,) and set(found.ranks) <= set(range(20))
    facts = found.facts
    assert facts["examples"] == 40 and facts["draws"] == 19
    assert 0 < facts["coverage_50%"] < 1 and np.isfinite(facts["psnr"])


def test_the_histogram_holds_all_ranks_in_even_bins():
    names, shares = judged(1.0).histogram
    assert names == ["0 to 3", "4 to 7", "8 to 11", "12 to 15", "16 to 19"]
    assert sum(shares) == pytest.approx(1) and max(shares) < 0.3
    _, narrow = judged(0.5).histogram
    assert narrow[0] + narrow[-1] > 0.55 > 2 * 0.2


@pytest.mark.parametrize("draws", [4, 10, 19])
def test_ranks_are_even_however_many_a_bin_holds(draws):
    rng = np.random.default_rng(0)
    found = [
        Calibration(ranks=rng.integers(draws + 1, size=100), draws=draws, everywhere=1.0, psnr=0.0)
        for _ in range(400)
    ]
    assert 0.02 < np.mean([one.p_value < 0.05 for one in found]) < 0.08
    assert np.mean([one.histogram[1] for one in found], 0) == pytest.approx(found[0].even, abs=0.01)


def test_words_say_what_was_measured_as_the_command_that_restores_would():
    words = ("operator=radon", "operator.angles=30", "operator.window=hann", "noise=0.5", "simple")
    with pytest.raises(UsageError, match="'simple' names no option"):
        in_words(words)
    assert in_words(words[:-1]) == {
        "operator": "radon",
        "noise": "0.5",
        "parameters": {"angles": 30.0, "window": "hann"},
    }
    assert in_words(["colourise"]) == {"colourise": "true"}
    with pytest.raises(UsageError, match="names no option"):
        in_words(["simulate"])  # it goes without saying


def test_bands_too_narrow_by_a_factor_are_widened_by_it():
    """Draws of half the width: the held-out examples ask for twice; as many again are then held."""
    found = judged(0.5, count=400).widening
    assert found is not None and found.examples == 400
    assert found.factor == pytest.approx(2.0, rel=0.06)
    assert judged(0.5, count=2000).held(found.factor) == pytest.approx(0.9, abs=0.02)
    assert judged(0.5).held(1.0) == judged(0.5).everywhere < 0.7
    assert judged(1.0, count=8).widening is None


def test_uncertainty_is_widened_and_says_by_what():
    g = torch.Generator().manual_seed(3)
    drawn = torch.randn(2 * 19, 1, 4, 4, generator=g)
    given = torch.zeros(2, 1, 4, 4)
    plain = Restored(given, torch.zeros_like(given, dtype=torch.bool), Samples(drawn, CODEC))
    wide = replace(plain, widening=Widening(1.5, 40))
    torch.testing.assert_close(wide.sd, 1.5 * plain.sd)
    low, high = plain.band
    ends = CODEC.stored(drawn).reshape(2, 19, 1, 4, 4)
    np.testing.assert_allclose(low, ends.min(1), rtol=1e-6)
    np.testing.assert_allclose(wide.band[1] - wide.band[0], 1.5 * (high - low), rtol=1e-5)
    assert "1.50 times" in wide.trust and "40 held-out" in wide.trust
    assert "not calibrated" in plain.trust
    few = replace(plain, samples=Samples(drawn[:36], CODEC))
    with pytest.raises(UsageError, match="19 draws or more, got 18; draw more, with -n 19"):
        _ = few.band


def test_a_run_keeps_the_calibration_of_each_measurement(tmp_path):
    """And `restore` takes it for that measurement, whatever the seed, and for no other."""
    run = RunFolder.create(tmp_path / "run", config_toml=RunConfig().to_toml(), identity={})
    model = replace(tiny_model(), run=run, seen=7)
    options = {"steps": 2, "iterations": 1}
    held = open_data("digits", DataOptions(limit=40))
    found = calibrate(model, 12, data=held, upscale=2, keep=True, **options)
    y = torch.full((1, 1, 4, 4), 8.0)
    same = restore(model, y, upscale=2, seed=5, **options)
    assert found.widening is not None and same.widening == found.widening
    assert restore(model, y, upscale=2, noise=1.0, **options).widening is None
    assert restore(model, y, draws=20, upscale=2, **options).widening is None
    hole = torch.zeros(1, 8, 8, dtype=torch.bool)
    hole[:, 4:] = True
    one = calibrate(model, 12, hole, data=held, keep=True, **options)
    x = torch.full((1, 1, 8, 8), 8.0)
    assert restore(model, x, hole, **options).widening == one.widening
    assert restore(model, x, hole.flip(1), **options).widening is None
    assert restore(replace(model, seen=8), x, hole, **options).widening is None


def test_windows_of_a_large_mask_hide_something_and_keep_something():
    hole = torch.zeros(1, 40, 40, dtype=torch.bool)
    hole[:, 10:14, 3:30] = True
    parts = windows_of(hole, (8, 8), 20, seed=0)
    assert parts.shape == (20, 1, 8, 8)
    assert parts.flatten(1).any(1).all() and not parts.flatten(1).all(1).any()
    assert torch.equal(windows_of(hole, (40, 40), 20, seed=0), hole)
    with pytest.raises(UsageError, match=r"6 x 40 is smaller than .*, 8 x 8"):
        windows_of(hole[:, :6], (8, 8), 20, seed=0)
    with pytest.raises(UsageError, match="hides nothing"):
        windows_of(torch.zeros(1, 40, 40, dtype=torch.bool), (8, 8), 3, seed=0)
