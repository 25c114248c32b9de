"""The suite of speed: what it writes, what it tells, whom it skips."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import measure  # pyright: ignore  # noqa: E402
import pages  # pyright: ignore  # noqa: E402
import quality  # pyright: ignore  # noqa: E402
import suite  # pyright: ignore  # noqa: E402
from peers import install, pipe  # pyright: ignore  # noqa: E402
from peers.adapter import time_of  # pyright: ignore  # noqa: E402

PLACE = {
    "processor": "ACME (R) 9000",
    "cores": 2,
    "cores used": 2,
    "threads": 1,
    "others": 0.05,
    "clock": "processor",
    "torch": "2.13.0",
    "date": "2026-01-02T03:04Z",
}


CPUINFO = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: {name}\nflags\t: fpu\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (CPUINFO.format(name="ACME Cloud"), "ACME Cloud (family 25, model 17)"),
        (CPUINFO.format(name="ACME 9654 96-Core"), "ACME 9654 96-Core"),
        ("model name\t: ACME Cloud\n", "ACME Cloud"),
        ("Hardware\t: board\n", ""),
    ],
)
def test_processors_of_one_name_are_told_apart(text, name):
    assert measure.model_of(text) == name


def result(date: str, **place) -> dict:
    rows = {"matrix 2, float32": {"gflops_per_s": measure.figure([1.0, 2.0, 3.0])}}
    place = PLACE | {"date": date} | place
    return {"claim": "limits", "quick": False, "place": place, "rows": rows}


def kept(folder: Path, found: dict) -> dict:
    path = measure.path_of(found["claim"], found["place"], folder)
    path.write_text(json.dumps(found))
    return found


# --- Pages ---------------------------------------------------------------------------------------


def test_what_stands_between_marks_is_replaced_and_nothing_else():
    text = "a\n<!-- x -->\n\nold\n\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n"
    new = pages.between(text, "x", r"new \1")
    assert new == text.replace("old", r"new \1")
    with pytest.raises(ValueError, match="found none"):
        pages.between(text, "z", "new")


def test_a_table_comes_from_the_newest_result_of_each_machine(tmp_path):
    kept(tmp_path, result("2026-01-01T00:00Z"))
    last = kept(tmp_path, result("2026-01-03T00:00Z"))
    other = kept(tmp_path, result("2026-01-02T00:00Z", threads=2))
    assert measure.newest("limits", tmp_path) == [last, other]
    assert measure.newest("throughput", tmp_path) == []


def test_a_training_that_is_not_repeated_keeps_its_figures_on_the_same_machine_alone(tmp_path):
    here, rows = measure.environment(1), {"digits, 25 s, ornstein": {"task": "digits"}}
    for processor in ("ACME (R) 9000", here["processor"]):
        found = {"claim": "quality", "place": here | {"processor": processor}, "rows": {}}
        kept(tmp_path, found | {"rows": rows if processor == here["processor"] else {}})
    assert quality.kept(measure.Options(threads=1), tmp_path) == rows
    assert quality.kept(measure.Options(threads=7), tmp_path) == {}


def test_a_busy_machine_is_said_to_be_so():
    assert "busy (others kept 0.8 of 2 cores at work)" in suite.place(result("2026", others=0.8))
    assert "busy (with what, is not known)" in suite.place(result("2026", others=None))
    assert "busy (load 2.3 before, 2 cores)" in suite.place(result("2026", load=2.3))
    assert "busy" not in suite.place(result("2026"))
    assert "busy" not in suite.place(result("2026", load=0.2))


def test_what_others_do_is_what_all_do_but_we(monkeypatch):
    accounts = {"machine_time": iter((100.0, 118.0)), "own_time": iter((7.0, 20.0))}
    for name, values in accounts.items():
        monkeypatch.setattr(measure, name, lambda values=values: next(values))
    monkeypatch.setattr(measure.time, "monotonic", iter((0.0, 10.0)).__next__)
    assert measure.Others()() == pytest.approx((18 - 13) / 10)


@pytest.mark.skipif(measure.machine_time() is None, reason="the system keeps no such account")
def test_what_we_do_is_in_the_account_of_the_machine():
    machine, own = measure.machine_time(), measure.own_time()
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    used = measure.own_time() - own
    assert 0.02 < used < measure.machine_time() - machine + 0.05


# --- Figures -------------------------------------------------------------------------------------


def test_all_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) or 1.0 for name in "ab"}
    assert measure.in_turn(runs, 2) == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert order == ["a", "b", "a", "b"]


def test_a_figure_is_a_median_between_quartiles():
    found = measure.figure([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found["low"], found["median"], found["high"]) == pytest.approx((2, 3, 4), abs=0.3)
    assert found["median"] == 3
    assert measure.told(measure.figure([2.0])) == "2"


def test_a_level_of_noise_is_found_between_the_rows_of_a_table():
    kept_signal = torch.linspace(0.99, 0.01, 50)
    sigma = ((1 - kept_signal) / kept_signal).sqrt()
    assert float(time_of(float(sigma[17]), kept_signal)) == pytest.approx(17, abs=1e-3)
    between = float((sigma[17] * sigma[18]).sqrt())
    assert float(time_of(between, kept_signal)) == pytest.approx(17.5, abs=1e-3)
    assert float(time_of(1e-6, kept_signal)) == 0
    assert float(time_of(1e6, kept_signal)) == 49


# --- Peers ---------------------------------------------------------------------------------------


def test_who_is_not_installed_is_skipped_with_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(install, "ENVS", tmp_path)
    with pipe.peers(["diffusers", "azula"], "trainer") as found:
        assert found == {}
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "diffusers: skipped, not installed" in said[0]


@pytest.mark.slow
def test_a_peer_does_as_it_is_asked_or_says_why_not():
    with pipe.peers([pipe.OURS], "trainer") as found:
        peer = found[pipe.OURS]
        built = peer.ask("build", shape=(1, 8, 8), batch=4)
        assert built["flops_per_image"] > 1e6 and "unet" in built["settings"]
        assert peer.ask("steps", count=1)["cpu"] > 0
        with pytest.raises(pipe.PeerError, match="expected one of"):
            peer.ask("dance")
        assert peer.ask("peak")["bytes"] > 2**26


@pytest.mark.slow
def test_the_quick_form_writes_a_file_that_names_the_hardware_and_the_day(tmp_path):
    line = [sys.executable, "benchmarks/suite.py", "limits", "overhead", "--quick"]
    line += ["--peers", "ornstein", "--out", str(tmp_path)]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.split("_")[0] for name in names] == ["limits", "overhead"]
    for name in names:
        assert re.fullmatch(r"[a-z]+_[a-z0-9-]+-1-thread_\d{4}-\d\d-\d\d\.json", name)
        text = (tmp_path / name).read_text()
        assert json.loads(text)["quick"] and os.uname().nodename not in text
