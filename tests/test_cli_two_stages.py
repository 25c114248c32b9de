"""An encoder, a prior and a decoder on the command line."""

import json

import pytest
from PIL import Image

from captioned import captioned_folder
from ornstein.cli import run_command


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    captioned_folder(folder / "pictures")
    return folder


def command(place, *words):
    return run_command([str(place / w) if (place / w).exists() else w for w in words])


def trained(place, name, *flags):
    out = ["--out", str(place / name), "--seen", "128", "--size", "8"]
    return command(place, "train", "pictures", *flags, *out)


def test_three_trainings_and_one_command_make_pictures_of_a_text(place, capsys, tmp_path):
    flags = ["--recipe", "contrastive", "--data.size", "8"]
    assert trained(place, "encoder", *flags) == 0
    said = capsys.readouterr().out
    assert "picture found by caption" in said and "nearest of 6, chance" in said
    assert f"--data.size 8 --minutes 20 --prior {place / 'encoder'}" in said
    assert trained(place, "prior", "--prior", str(place / "encoder")) == 0
    assert trained(place, "decoder", "--embedding", str(place / "encoder")) == 0
    (tmp_path / "mine.toml").write_text("[embedding]\nsilent = 0.3\n")
    mine = ["--config", str(tmp_path / "mine.toml"), "--seen", "128", "--dry-run"]
    capsys.readouterr()
    assert command(place, "train", "pictures", "--embedding", "encoder", *mine) == 0
    config = capsys.readouterr().out
    assert "silent = 0.3" in config and 'role = "decoder"' in config
    draw = ["--text", "red left", "-n", "2", "--steps", "2", "--out", str(tmp_path / "drawn")]
    assert command(place, "sample", "decoder", "--prior", "prior", *draw) == 0
    drawn = sorted((tmp_path / "drawn").glob("*.png"))
    assert [Image.open(path).size for path in drawn] == [(8, 8)] * 2
    page = tmp_path / "texts.html"
    ask = ["--text", "red left", "-n", "1", "--steps", "1", "--page", str(page)]
    assert command(place, "sample", "decoder", "--prior", "prior", *ask) == 0
    assert "red left" in page.read_text() and "guidance 1, 1 step, seed 0" in page.read_text()
    capsys.readouterr()
    assert command(place, "sample", "decoder", "--text", "red", "left") == 2
    assert 'put texts in quotes, as in --text "a red left"' in capsys.readouterr().err
    capsys.readouterr()
    assert command(place, "evaluate", "encoder", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pairs"] == 6 and 0 < facts["floor"] < 1
    edit = ["--steps", "2", "--out", str(tmp_path / "edited")]
    one, other = (str(place / "pictures" / name) for name in ("000.png", "001.png"))
    texts = ["--from-text", "red left", "--to-text", "blue left", "--how", "embedding"]
    assert command(place, "edit", "decoder", one, *texts, "-n", "2", *edit) == 0
    assert command(place, "edit", "decoder", one, other, "--between", "3", *edit) == 0


def test_a_run_is_a_prior_or_a_decoder(place, capsys):
    both = ["--prior", "encoder", "--embedding", "encoder"]
    assert trained(place, "both", *both) == 2
    assert "train one with --prior, then the other" in capsys.readouterr().err
