"""Averages of any width, rebuilt from what a run has kept."""

import pytest
import torch
from torch import Tensor

from ornstein.errors import UsageError
from ornstein.runs.folder import RunFolder
from ornstein.runs.model import load
from ornstein.runs.posthoc import posthoc
from ornstein.train.start import train
from train.tiny import tiny_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[RunFolder, RunFolder]:
    """The same training twice, with different averages tracked: they do not influence it."""
    out, common = tmp_path_factory.mktemp("posthoc"), {"seen": 32 * 160, "decay": "none"}
    first = train("swiss-roll", out=out / "a", config=tiny_config(ema=(0.05, 0.1), **common))
    other = train("swiss-roll", out=out / "b", config=tiny_config(ema=(0.07, 0.15), **common))
    return first, other


def flat(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


def end(folder: RunFolder, part: str) -> Tensor:
    latest = folder.latest()
    assert latest is not None
    return flat(latest.load(part))


def test_averages_do_not_influence_what_is_averaged(runs):
    assert torch.equal(end(runs[0], "model"), end(runs[1], "model"))


@pytest.mark.parametrize(("part", "sigma_rel"), [("ema-0", 0.05), ("ema-1", 0.1)])
def test_a_width_that_was_tracked_is_what_was_tracked(runs, part, sigma_rel):
    assert torch.equal(flat(posthoc(runs[0], sigma_rel)), end(runs[0], part))


@pytest.mark.parametrize(("part", "sigma_rel"), [("ema-0", 0.07), ("ema-1", 0.15)])
def test_a_width_that_was_not_tracked_is_what_tracking_would_have_given(runs, part, sigma_rel):
    rebuilt, tracked = flat(posthoc(runs[0], sigma_rel)), end(runs[1], part)
    raw = end(runs[0], "model")
    assert (rebuilt - tracked).norm() < 0.03 * (raw - tracked).norm()
    assert (rebuilt - tracked).norm() < 1e-2 * tracked.norm()


def test_an_earlier_average_is_the_one_that_was_kept(runs):
    place = 32 * 80
    assert torch.equal(flat(posthoc(runs[0], 0.1, place)), flat(runs[0].kept(f"ema-1-{place}")))


@pytest.mark.parametrize(
    ("sigma_rel", "seen", "message"),
    [
        (0.01, None, "cannot be rebuilt"),
        (0.05, 33, "choose one of: 640, 1280"),
        (0.3, None, "sigma_rel must lie in"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(runs, sigma_rel, seen, message):
    with pytest.raises(UsageError, match=message):
        posthoc(runs[0], sigma_rel, seen)


def test_a_run_is_opened_with_an_average_of_any_width_and_time(runs):
    usual, long = load(runs[0].path), load(runs[0].path, sigma_rel=0.15)
    assert torch.equal(flat(long.denoiser.state_dict()), flat(posthoc(runs[0], 0.15)))
    assert not torch.equal(flat(long.denoiser.state_dict()), flat(usual.denoiser.state_dict()))
    assert usual.is_plain and not long.is_plain  # a rule fitted to the one is not for the other
    early = load(runs[0].path, sigma_rel=0.05, seen=32 * 80)
    assert early.seen == 32 * 80 and long.seen == usual.seen == 32 * 160
    with pytest.raises(UsageError, match="No averages were kept at 7"):
        load(runs[0].path, sigma_rel=0.05, seen=7)
