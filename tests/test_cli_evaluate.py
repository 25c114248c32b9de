"""The command that measures a run: what it prints, writes and refuses."""

import json

import numpy as np
import pytest

from ornstein.cli import run_command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has seen 64 digits."""
    place = tmp_path_factory.mktemp("measured") / "digits"
    flags = ["--seen", "64", "--size", "8", "--device", "cpu"]
    assert run_command(["train", "digits", "--out", str(place), *flags]) == 0
    return place


QUICK = ["--steps", "2", "--likely", "0", "--device", "cpu"]


def test_the_figures_the_verdict_and_the_report_are_printed(run, capsys):
    assert run_command(["evaluate", str(run), "-n", "200", *QUICK]) == 0
    caught = capsys.readouterr()
    lines = caught.out.splitlines()
    assert sum(", real " in line for line in lines) == 13
    assert any("copying" in line or "copies" in line for line in lines)
    report = run.resolve() / "evaluation" / "report.html"
    assert lines[-1] == f"Report: {report}"
    assert report.is_file()
    assert caught.err.startswith(f"Measuring {run} on 200 examples")


def test_the_same_command_gives_the_same_figures_as_json(run, tmp_path, capsys):
    found = []
    for name in ("a", "b"):
        out = ["--out", str(tmp_path / name), "--json"]
        assert run_command(["evaluate", str(run), "-n", "120", *QUICK, *out]) == 0
        found.append(json.loads(capsys.readouterr().out))
        written = json.loads((tmp_path / name / "metrics.json").read_text())
        assert {**written, "report": found[-1]["report"]} == found[-1]
    assert found[0]["figures"] == found[1]["figures"]
    assert found[0]["figures"]["coverage (learned)"]["n"] == 120


def test_other_held_out_data_can_be_given(run, tmp_path, capsys):
    rows = np.zeros((30, 8, 8), np.uint8)
    rows[:, 2:6, 2:6] = np.arange(30, dtype=np.uint8)[:, None, None] % 17
    np.save(tmp_path / "held.npy", rows)
    flags = ["--against", str(tmp_path / "held.npy"), "-n", "40", "--out", str(tmp_path / "out")]
    assert run_command(["evaluate", str(run), *flags, *QUICK]) == 0
    assert "30 examples on each side are too few" in capsys.readouterr().out


def test_restorations_are_judged_where_words_say_what_was_measured(run, tmp_path, capsys):
    flags = ["-n", "20", "--posterior", "deblur=1", "steps=2", "--out", str(tmp_path), "--json"]
    assert run_command(["evaluate", str(run), *flags, *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)["posterior"]
    assert found["examples"] == 100 and 0 <= found["coverage_90%"] <= 1


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--count", "1"], 2, "greater than or equal to 2"),
        (["--against", "swiss-roll"], 6, "the run was trained on"),
        (["--against", "no/such/folder"], 6, "no/such/folder"),
        (["--label", "unicorn"], 2, "no class 'unicorn'"),
        (["--posterior", "upscal=2"], 2, "did you mean 'upscale'?"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(run, capsys, flags, code, words):
    assert run_command(["evaluate", str(run), *flags, *QUICK]) == code
    assert words in capsys.readouterr().err.splitlines()[-1]
