"""The commands that work on the user's files: what they print, write and refuse."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from ornstein.cli import run_command
from ornstein.runs.provenance import read_stamp


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has seen 128 digits."""
    place = tmp_path_factory.mktemp("verbs") / "digits"
    flags = ["--seen", "128", "--size", "8", "--device", "cpu"]
    assert run_command(["train", "digits", "--out", str(place), *flags]) == 0
    return place


@pytest.fixture(scope="module")
def scans(run, tmp_path_factory):
    """A folder of six scans."""
    folder = tmp_path_factory.mktemp("scans")
    assert run_command(["sample", str(run), "-n", "6", "--steps", "2", "--out", str(folder)]) == 0
    return folder


def printed(capsys) -> tuple[list[str], list[str]]:
    caught = capsys.readouterr()
    return caught.out.splitlines(), caught.err.splitlines()


QUICK = ["--under", "any", "--pairs", "1", "--device", "cpu"]


def test_anomalies_are_found_scored_and_shown(run, scans, capsys, tmp_path):
    out = tmp_path / "found"
    assert run_command(["detect", str(run), str(scans), "--out", str(out), *QUICK]) == 0
    lines, heard = printed(capsys)
    assert heard[0].startswith("Looking for anomalies")
    assert any("flagged on average" in line for line in lines)
    assert any(line.startswith("Other methods") for line in lines)
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(p) for p in sorted(scans.iterdir())]
    assert len(list((out / "overlays").iterdir())) == 6
    flags = ["--out", str(tmp_path / "again"), "--json", *QUICK]
    assert run_command(["detect", str(run), f"{scans}/*.png", *flags]) == 0
    found = json.loads(printed(capsys)[0][-1])
    assert [r["p"] for r in found["results"]] == pytest.approx([float(r["p"]) for r in rows])
    assert found["methods"].keys() == {"ornstein", "neighbours", "components", "forest"}


@pytest.mark.slow
def test_classes_are_told_and_how_far_to_believe_them(run, scans, capsys, tmp_path):
    flags = ["--noises", "2", "--held-out", "40", "--levels", "-2", "--levels", "0"]
    command = ["classify", str(run), str(scans), *flags, "--out", str(tmp_path), "--json"]
    assert run_command([*command, "--device", "cpu"]) == 0
    found = json.loads(printed(capsys)[0][-1])
    assert len(found["results"]) == 6
    assert found["trust"]["right"]["n"] == 40
    assert found["trust"]["others"]["nearest neighbour"]["hits"] > 30
    assert (tmp_path / "classes.csv").read_text().startswith("path,class,p_0")


def test_a_larger_training_set_is_written(run, capsys, tmp_path):
    flags = ["--per-class", "2", "--seeds", "0", "--steps", "2", "--out", str(tmp_path / "set")]
    assert run_command(["augment", str(run), *flags, "--device", "cpu"]) == 0
    lines, _ = printed(capsys)
    assert lines[0].split() == ["class", "real", "drawn", "refused"]
    drawn = list((tmp_path / "set" / "train").rglob("drawn-*.png"))
    assert 0 < len(drawn) <= 20
    rows = (tmp_path / "set" / "provenance.jsonl").read_text().splitlines()
    assert len(rows) == len(drawn)
    for fact in map(json.loads, rows):
        stamped = read_stamp((tmp_path / "set" / fact.pop("path")).read_bytes())
        assert stamped == fact
    assert run_command(["augment", str(run), *flags, "--device", "cpu"]) == 3
    assert "is not empty" in printed(capsys)[1][-1]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["detect", "RUN", "9x9.png"], 6, "9 x 9, but the run was trained on pictures of 8 x 8"),
        (["detect", "RUN", "nowhere.png"], 6, "nowhere.png"),
        (["detect", "RUN", "rows.csv"], 6, "is a table, but the run was trained on pictures"),
        (["detect", "RUN", "fine.png", "--alpha", "1.5"], 2, "alpha"),
        (["detect", "RUN", "fine.png", "--normal", "swiss-roll"], 6, "the run was trained on"),
        (["classify", "RUN", "9x9.png"], 6, "9 x 9"),
        (["classify", "RUN", "fine.png", "--levels", "1", "--levels", "0"], 2, "must rise"),
        (["augment", "RUN", "--out", "OUT", "--label", "unicorn"], 2, "no class 'unicorn'"),
        (["augment", "nowhere", "--out", "OUT"], 2, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(
    run, capsys, tmp_path, command, code, words
):
    Image.new("L", (9, 9)).save(tmp_path / "9x9.png")
    Image.new("L", (8, 8)).save(tmp_path / "fine.png")
    np.savetxt(tmp_path / "rows.csv", np.eye(3), delimiter=",")
    there = {"RUN": run, "OUT": tmp_path / "out"}
    tokens = [
        str(there.get(t, tmp_path / t if "." in t and t[-1].isalpha() else t)) for t in command
    ]
    assert run_command([*tokens, "--device", "cpu"]) == code
    assert words in printed(capsys)[1][-1]
