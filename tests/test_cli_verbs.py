"""The commands that work on the user's files: what they print, write and refuse."""

import csv
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ornstein.cli import machine, run_command
from ornstein.data import DataOptions, open_data
from ornstein.progress import pieces
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


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """A run that has seen 64 pictures of cells and their masks, and a folder of both."""
    place = tmp_path_factory.mktemp("masks")
    flags = ["--given", "image", "--make", "mask", "--data.size", "8", "--data.limit", "80"]
    flags += ["--seen", "64", "--size", "8", "--device", "cpu", "--out", str(place / "run")]
    assert run_command(["train", "cells", *flags]) == 0
    made = open_data("cells", DataOptions(given="image", make="mask", size=8, limit=80))
    for kind, stored in (("pictures", made.given.stored), ("true", made.stored)):
        (place / kind).mkdir()
        for i in range(2):
            Image.fromarray(stored[i, 0].numpy()).save(place / kind / f"cell{i}.png")
    return place


def layer(path, size=(8, 8), mode="L", lit=True):
    """A mask, or strokes, whose lower half is lit."""
    picture = np.zeros((size[1], size[0], *([4] if mode == "RGBA" else [])), np.uint8)
    picture[size[1] // 2 :] = 255 * lit
    Image.fromarray(picture, mode).save(path)
    return path


@pytest.mark.parametrize("places", [["SCANS"], ["SCANS/*.png"], ["SCANS/000001.png", "SCANS"]])
def test_restore_takes_files_folders_and_patterns_and_says_what_it_cost(
    run, scans, capsys, tmp_path, places
):
    mask, out = layer(tmp_path / "mask.png"), tmp_path / "mended"
    named = [place.replace("SCANS", str(scans)) for place in places]
    flags = ["--mask", str(mask), "-n", "2", "--steps", "2", "--seed", "3", "--device", "cpu"]
    assert run_command(["restore", str(run), *named, *flags, "--out", str(out), "--json"]) == 0
    lines, heard = printed(capsys)
    assert heard[0].startswith("Restoring") and "denoiser calls" in heard[-1]
    found = json.loads(lines[-1])
    assert len(found["paths"]) == 2 * (6 + (len(places) > 1))
    kept = np.asarray(Image.open(scans / "000001.png"))[:4]
    if len(places) == 1:
        mended = Image.open(out / "000001-0.png")
        assert np.array_equal(np.asarray(mended)[:4], kept)
        again = tmp_path / "again"
        assert run_command(["restore", str(run), *named, *flags, "--out", str(again)]) == 0
        assert all((again / path.name).read_bytes() == path.read_bytes() for path in out.iterdir())


def test_edit_names_its_results_after_the_files_and_says_what_they_cost(
    run, scans, capsys, tmp_path
):
    mask, out = layer(tmp_path / "mask.png"), tmp_path / "edited"
    strokes = layer(tmp_path / "strokes.png", mode="RGBA")
    flags = ["--mask", str(mask), "--strokes", str(strokes), "-n", "2", "--steps", "2"]
    command = ["edit", str(run), f"{scans}/*[01].png", *flags, "--out", str(out), "--json"]
    assert run_command([*command, "--seed", "5", "--device", "cpu"]) == 0
    found = json.loads(printed(capsys)[0][-1])
    names = ["000000-0.png", "000000-1.png", "000001-0.png", "000001-1.png"]
    assert [Path(path).name for path in found["paths"]] == names
    assert found["cost"]["calls"] == 2 * 1  # half of two steps, two draws
    ends = [str(scans / f"00000{i}.png") for i in (0, 1)]
    way = ["edit", str(run), *ends, "--between", "3", "--steps", "2", "--out", str(out / "way")]
    assert run_command([*way, "--grid", str(out / "way.png"), "--device", "cpu"]) == 0
    assert len(list((out / "way").iterdir())) == 3 and (out / "way.png").exists()


def test_segment_says_what_it_cost_and_how_well_it_overlaps(masks, capsys, tmp_path):
    command = ["segment", str(masks / "run"), f"{masks}/pictures/*.png", "-n", "2", "--steps", "2"]
    flags = ["--truth", str(masks / "true"), "--out", str(tmp_path), "--device", "cpu"]
    assert run_command([*command, *flags, "--json"]) == 0
    lines, heard = printed(capsys)
    assert "It took 4 denoiser calls" in heard[-1]
    found = json.loads(lines[-1])
    assert len(found["dice"]) == 2 and found["cost"]["calls"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {
        f"cell{i}-{what}.png" for i in (0, 1) for what in ("mask", "mean", "doubt")
    }


def test_how_far_it_is_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(machine, "SILENCE", 0.0)
    with machine.watching() as taken:
        for _ in pieces(range(4)):
            pass
    heard = printed(capsys)[1]
    assert [line.split()[0] for line in heard] == ["50%", "75%"]  # the pace is since the first
    assert all(line.endswith("left") for line in heard)
    assert str(taken) == "0.0 s" and taken.seconds > 0
    with machine.watching():  # within ten seconds, nothing
        monkeypatch.setattr(machine, "SILENCE", 10.0)
        list(pieces(range(4)))
    assert printed(capsys) == ([], [])


def test_how_far_data_are_read_is_told_too(scans, capsys, monkeypatch):
    monkeypatch.setattr(machine, "SILENCE", 0.0)
    assert run_command(["show", str(scans)]) == 0
    shown = printed(capsys)[1]
    with machine.training():
        open_data(scans)
    trained = printed(capsys)[1]
    for heard in (shown, trained):
        shares = [int(line.split("%")[0]) for line in heard if line.endswith(" left")]
        assert shares == sorted(shares) and 0 < shares[0] < shares[-1] < 100


def test_in_a_terminal_it_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with machine.watching():
        for _ in pieces(range(4)):
            machine.say("still there")
    shown = capsys.readouterr()
    assert "100%" in shown.err and "still there" in shown.err and not shown.out


def test_tune_speaks_json(run, capsys):
    flags = ["--calls", "2", "--examples", "2", "--steps", "4", "--rounds", "1", "--seed", "1"]
    assert run_command(["tune", str(run), *flags, "--json", "--device", "cpu"]) == 0
    found = json.loads(printed(capsys)[0][-1])
    assert found["calls"] == 2 and found["fitted"]["value"] > 0


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
        (["restore", "RUN", "fine.png", "--mask", "12x9.png"], 2, "12 x 9 pixels and"),
        (["restore", "RUN", "fine.png", "--mask", "8x8.png", "--upscale", "2"], 2, "two meas"),
        (["restore", "RUN", "fine.png", "--mask", "white.png"], 2, "The mask keeps nothing"),
        (["restore", "RUN", "fine.png", "--mask", "black.png"], 2, "black.png asks for nothing"),
        (["restore", "RUN", "fine.png", "--mask", "thin.png"], 2, "32 x 32 pixels, seen as 8 x 8"),
        (["restore", "RUN", "fine.png", "--operator", "box", "--operator.share", "1"], 2, "loses"),
        (["restore", "RUN", "fine.png", "--operator", "blurs"], 2, "did you mean 'blur'"),
        (["restore", "RUN", "fine.png", "--upscale", "2"], 6, "8 x 8 (channels first), but"),
        (["restore", "RUN", "fine.png", "--colourise"], 2, "made of 3 channels"),
        (["restore", "RUN", "gone.png", "--mask", "8x8.png"], 6, "There is no"),
        (["restore", "RUN", "x*.png", "--mask", "8x8.png"], 2, "matches no files"),
        (["restore", "RUN", "broken.png", "--mask", "8x8.png"], 6, "broken.png"),
        (["restore", "RUN", "fine.png"], 2, "Say what was measured"),
        (["restore", "RUN", "fine.png", "--outpaint", "1"], 2, "is of 10 x 10, but the run"),
        (["restore", "RUN", "fine.png", "--operator", "jpeg"], 2, "fine.png is no JPEG file"),
        (["restore", "RUN", "fine.png", "--ct", "0,east"], 2, "no number of angles"),
        (["restore", "RUN"], 2, "Give files to mend"),
        (["edit", "RUN", "9x9.png"], 6, "9 x 9, but the run was trained on pictures of 8 x 8"),
        (["edit", "RUN", "fine.png", "--mask", "12x9.png"], 2, "12 x 9 pixels and"),
        (["edit", "RUN", "fine.png", "--strokes", "12x9.png"], 2, "12 x 9 pixels and"),
        (["edit", "RUN", "fine.png", "--strokes", "8x8.png"], 2, "has no transparency"),
        (["edit", "RUN", "fine.png", "--between", "3"], 2, "got 1"),
        (["edit", "RUN", "rows.csv"], 6, "is a table"),
        (["edit", "RUN", "broken.png"], 6, "broken.png cannot be used"),
        (["segment", "RUN", "fine.png"], 2, "does not make masks"),
        (["segment", "MASKS", "gone.png"], 6, "There is no"),
        (["segment", "MASKS", "broken.png"], 6, "broken.png cannot be used"),
        (["detect", "MASKS", "fine.png"], 2, "trained on pairs"),
        (["detect", "RUN", "x*.png"], 2, "matches no files"),
        (["classify", "MASKS", "fine.png"], 2, "without labels"),
        (["classify", "RUN", "broken.png"], 6, "broken.png cannot be used"),
        (["augment", "MASKS", "--out", "OUT"], 2, "without labels"),
        (["tune", "RUN", "--calls", "1"], 2, "calls"),
        (["tune", "RUN", "--sampler", "ddpm"], 2, "draws noise"),
        (["sample", "RUN", "--out", "rows.csv"], 2, "rows.csv is a file: name a folder"),
        (["detect", "RUN", "fine.png", "--out", "rows.csv"], 2, "rows.csv is a file"),
        (["augment", "RUN", "--out", "rows.csv"], 3, "rows.csv is not empty"),
        (["sample", "RUN", "--grid", "rows.csv"], 2, "does not end like a picture"),
        (["edit", "RUN", "fine.png", "--grid", "rows.csv"], 2, "does not end like a picture"),
        (["sample", "RUN", "--size", "8"], 2, "8 is no size for this run: it was trained on 8 x 8"),
        (
            ["sample", "--label", "1", "2", "RUN"],
            2,
            "name several classes as in --label 1 --label 2",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(
    run, masks, capsys, tmp_path, command, code, words
):
    Image.new("L", (9, 9)).save(tmp_path / "9x9.png")
    Image.new("L", (8, 8)).save(tmp_path / "fine.png")
    layer(tmp_path / "8x8.png")
    layer(tmp_path / "12x9.png", (12, 9))
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    scratched = Image.new("L", (32, 32))
    scratched.putpixel((3, 3), 255)
    scratched.save(tmp_path / "thin.png")
    (tmp_path / "broken.png").write_bytes(b"hello")
    np.savetxt(tmp_path / "rows.csv", np.eye(3), delimiter=",")
    there = {"RUN": run, "MASKS": masks / "run", "OUT": tmp_path / "out"}
    files = {t: tmp_path / t for t in command if t.endswith((".png", ".csv"))}
    tokens = [str({**there, **files}.get(t, t)) for t in command]
    assert run_command([*tokens, "--device", "cpu"]) == code
    assert words in printed(capsys)[1][-1]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_grade_that_was_told_in_a_terminal_is_not_told_again(terminal, monkeypatch, capsys):
    """In a pipe the result has it, too."""
    grades = [SimpleNamespace(line=f"{n} steps: good", facts={}, folder=None) for n in (4, 2)]

    def teach(run, *, say, **_):
        say(grades[0].line)
        return grades

    monkeypatch.setattr("ornstein.evaluate.distillation.distill", teach)
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
    assert run_command(["distill", "run"]) == 0
    out, err = printed(capsys)
    assert (
        out == [grade.line for grade in grades[terminal:]]
        and sum(line.endswith(grades[0].line) for line in err) == 1
    )


def test_a_run_that_has_learned_nothing_says_so(run, tmp_path, capsys):
    shutil.copytree(run, left := tmp_path / "left")
    shutil.rmtree(left / "checkpoints" / f"{128:012d}")
    assert run_command(["sample", str(left), "-n", "1", "--steps", "1", "--device", "cpu"]) == 0
    said = f"{left} has learned nothing yet: ornstein train --resume {left}"
    assert said in printed(capsys)[1]
