"""The command that compares models: what it prints, writes and refuses."""

import json

import pytest

from ornstein.cli import run_command

QUICK = ["--seen", "64", "--size", "8", "--seeds", "1", "-n", "60", "--likely", "0"]


def test_the_table_the_verdict_and_the_page_are_printed(tmp_path, capsys):
    flags = ["--data.limit", "300", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert run_command(["compare", "25-gaussians", *QUICK, *flags]) == 0
    caught = capsys.readouterr()
    lines = caught.out.splitlines()
    models = ["Diffusion", "GAN", "VAE", "Flow", "Gaussian", "Kernel density"]
    assert " ".join(lines[0].split()) == " ".join(["Real data", *models])
    assert any(line.startswith("Modes found") for line in lines)
    assert any(line.startswith("Seconds to draw one") for line in lines)
    assert "Diffusion: 1 of 1" in caught.out
    page = (tmp_path / "out" / "comparison.html").resolve()
    assert lines[-1] == f"Report: {page}" and page.is_file()
    start = "Comparing models on 25-gaussians: 4 networks, 1 times each, for 64 examples"
    assert caught.err.startswith(start)


def test_the_same_command_gives_the_same_figures_as_json(tmp_path, capsys):
    found = []
    for name in ("a", "b"):
        flags = ["--models", "vae", "gaussian", "--data.limit", "300", "--json"]
        place = ["--out", str(tmp_path / name), "--device", "cpu", "--threads", "1"]
        assert run_command(["compare", "moons", *QUICK, *flags, *place]) == 0
        found.append(json.loads(capsys.readouterr().out))
    first, again = ([m["trials"][0]["figures"] for m in f["models"].values()] for f in found)
    assert first == again
    assert list(found[0]["models"]) == ["vae", "gaussian"]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--seeds", "0"], 2, "greater than or equal to 1"),
        (["--models", "magic"], 2, "magic"),
        (["--data.flip"], 2, "as they are"),
        (["--minutes", "0"], 2, "greater than 0"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(capsys, flags, code, words):
    assert run_command(["compare", "digits", *flags, "--device", "cpu"]) == code
    assert words in capsys.readouterr().err.splitlines()[-1]
