"""Calibration: ranks of the truth among exact and among overconfident draws."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ornstein.data.image import ImageCodec
from ornstein.errors import UsageError
from ornstein.evaluate.measures.calibration import Calibration, compared, in_words
from ornstein.tasks.restore import Restored
from ornstein.tasks.sample import Samples

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
