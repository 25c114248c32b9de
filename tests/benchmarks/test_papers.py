"""The papers' claims: every script runs, and what it says follows from what it measured."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

PAPERS = Path(__file__).resolve().parents[2] / "benchmarks" / "papers"
SCRIPTS = sorted(
    p.stem for p in PAPERS.glob("*.py") if p.read_text().endswith("    main(measure, judge)\n")
)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("papers")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Import a script as Python does that is given its path."""
    monkeypatch.syspath_prepend(str(PAPERS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in [p.stem for p in PAPERS.glob("*.py")]:
        sys.modules.pop(name, None)


def run(module: ModuleType, *arguments: str) -> int:
    return sys.modules["claims"].main(module.measure, module.judge, arguments)


# --- Every script --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_quick_form_writes_what_it_measured_and_judges_it_alike_again(script, cache, name):
    out, module = cache / f"{name}.json", script(name)
    assert run(module, "--quick", "--out", str(out), "--cache", str(cache)) == 0
    facts = json.loads(out.read_text())
    assert facts["quick"] and facts["values"] and facts["url"].startswith("https://")
    for line in facts["lines"]:
        assert len(line["each"]) in (1, facts["seeds"])
        assert line["text"] and line["ours"] and line["holds"] == all(line["each"])
    assert facts["holds"] == all(line["holds"] for line in facts["lines"])
    out.write_text(json.dumps(facts | {"lines": [], "says": "something else"}))
    run(module, "--judge", "--out", str(out), "--cache", str(cache))
    assert json.loads(out.read_text()) == facts


def test_every_script_has_its_place_in_the_table(script):
    assert set(script("table").ORDER) == set(SCRIPTS)


def test_the_page_is_what_the_measurements_say(script):
    table = script("table")
    page = table.PAGE.read_text()
    assert table.filled(page) == page, "run python benchmarks/papers/table.py"


def test_data_that_are_not_there_are_skipped_in_words(script, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("ORNSTEIN_DATA", raising=False)
    out = tmp_path / "out.json"
    assert run(script("ddim_table"), "--data", "mnist", "--out", str(out)) == 0
    assert "mnist is skipped: set ORNSTEIN_DATA" in capsys.readouterr().out
    assert not out.exists()


# --- What a line says ----------------------------------------------------------------------------


def test_a_line_holds_only_if_it_does_for_every_seed(script):
    claims = script("claims")
    assert claims.Line(text="", ours="", each=(True, True)).holds
    assert not claims.Line(text="", ours="", each=(True, False)).holds
    assert not claims.Line(text="", ours="", each=()).holds


def test_values_that_are_equal_do_not_rise(script):
    rising = script("claims").rising
    assert rising([1.0, 1.0], [2.0, 1.0], [3.0, 2.0]) == (True, False)


def test_the_page_says_where_a_line_does_not_hold_and_why(script):
    line = {"text": "a < b", "ours": "2, 1", "each": [True, False], "holds": False}
    facts = {"paper": "P", "url": "u", "says": "s", "published": "p", "setting": "d", "floor": "f"}
    text = script("table").section("x", facts | {"lines": [line | {"because": "Noise."}]})
    assert "| a < b | 2, 1 | *does not hold* (1 of 2 seeds) |" in text
    assert text.endswith("\n\nNoise.")


# --- What is measured ----------------------------------------------------------------------------


def test_the_times_of_ddim_begin_at_the_first_step_of_the_table(script):
    assert script("ddim_table").grid(10).times[-3:] == (0.101, 0.001, 0.0)


def test_repaint_on_a_gaussian_is_what_its_samples_say(script):
    repaint = script("repaint")
    exact = repaint.of_gaussian(2, 20, 5)
    cov = torch.tensor([[1, 0.9], [0.9, 1]], dtype=torch.float64)
    schedule = repaint.DDPMSchedule()
    denoiser = repaint.GaussianDenoiser(cov.new_zeros(2), cov, schedule)
    draw, times = torch.Generator().manual_seed(0), repaint.StrideGrid()(schedule, 20)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=draw, dtype=like.dtype)

    y, n = torch.full((20_000, 2), 1.5, dtype=torch.float64), 20_000
    x = repaint.start(schedule, times[0], noise(y))
    known = torch.tensor([True, False])
    x = repaint.repaint(denoiser, x, y, known, times, repeats=2, jump=5, noise=noise)
    mean, var = exact["slope"] * 1.5, exact["variance"] * (1 - 0.9**2)
    assert (x[:, 0] == 1.5).all()
    assert x[:, 1].mean().item() == pytest.approx(mean, abs=4 * (var / n) ** 0.5)
    assert x[:, 1].var().item() == pytest.approx(var, rel=4 * (2 / n) ** 0.5)


def test_what_is_noised_back_is_drawn_from_the_forward_process(script):
    repaint, one = script("repaint"), torch.ones(1, 1, dtype=torch.float64)
    schedule = repaint.DDPMSchedule()
    s, t = torch.tensor([0.2, 0.6], dtype=torch.float64)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    mean = repaint.noised(schedule, alpha_s * one, s, t, torch.zeros_like)
    kept = repaint.noised(schedule, sigma_s * one, s, t, torch.zeros_like)
    fresh = repaint.noised(schedule, 0 * one, s, t, torch.ones_like)
    assert mean.item() == pytest.approx(alpha_t.item(), rel=1e-12)
    assert (kept**2 + fresh**2).item() == pytest.approx(sigma_t.item() ** 2, rel=1e-12)


def test_real_points_of_the_tree_cover_it_and_a_thousandth_are_outliers(script):
    tree = script("autoguidance")
    law = tree.CLASSES["east"]
    truth, x = tree.Truth.of(law), law.draw(8_000, torch.Generator().manual_seed(1))
    assert truth.coverage(x) > 0.97
    assert truth.outliers(x) == pytest.approx(0.1, abs=0.15)
    assert truth.outliers(x + 0.1) > 5
    assert truth.coverage(x[x[:, 0] > x[:, 1]]) < 0.7  # the trunk, and half of the branches
    assert truth.outliers(torch.zeros(10, 2).double() + 9) == 100


def test_an_average_is_rebuilt_only_from_the_other_widths(script, cache):
    module = script("posthoc_ema")
    scale = sys.modules["claims"].Scale(quick=True, data="digits", cache=cache)
    config = module.settings(scale, 0)
    found = module.rebuilt(module.trained(scale, config), config.train.ema)
    assert 0 < found["error"] < found["nearest"]
