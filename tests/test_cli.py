"""The command line: what it says, where it says it, and its exit codes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ornstein as ou
from ornstein import cli
from ornstein.cli import machine, run_command, with_rows_ended
from ornstein.errors import OrnsteinError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has seen 128 digits."""
    place = tmp_path_factory.mktemp("runs") / "digits"
    flags = ["--seen", "128", "--size", "8", "--seed", "3", "--device", "cpu"]
    assert run_command(["train", "digits", "--out", str(place), *flags]) == 0
    return place


def output(capsys) -> tuple[list[str], list[str]]:
    caught = capsys.readouterr()
    return caught.out.splitlines(), caught.err.splitlines()


# --- The program ---------------------------------------------------------------------------------


def test_help_loads_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "ornstein", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "pydantic", "scipy"}
    for verb in ("train", "sample", "restore", "evaluate", "show", "doctor", "demo"):
        assert verb in done.stdout


def helped(capsys, monkeypatch, command) -> str:
    """The help of a command, on one line."""
    monkeypatch.setenv("COLUMNS", "1000")
    assert run_command([command, "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_prints_a_word_in_angles(capsys, monkeypatch):
    assert "a new word of texts, as <cat>." in helped(capsys, monkeypatch, "train")


def test_help_names_samplers_operators_and_recipes_that_there_are(capsys, monkeypatch):
    from ornstein.core.operators import OPERATORS
    from ornstein.core.sample import SAMPLERS
    from ornstein.train.recipes import RECIPES

    for command, start, end, there in (
        ("sample", "Rule for one transition, as ", ";", SAMPLERS),
        ("restore", "by the operator of this name, as ", ".", OPERATORS),
        ("train", "what suits DATA (auto), ", ";", RECIPES),
    ):
        _, text = helped(capsys, monkeypatch, command).split(start)
        assert set(text.split(end)[0].replace(" or ", ", ").split(", ")) <= there.keys()


def test_the_pace_leaves_out_what_it_took_to_get_ready(capsys, monkeypatch):
    reports = {100.0: 0.1, 120.0: 0.3, 140.0: 0.5, 300.0: 0.2, 311.0: 0.6}
    clock = iter([0.0, *reports])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    lines = machine._Lines()
    for share in reports.values():
        lines(share)
    assert output(capsys)[1] == [" 30%  1 min 10 s left", " 50%  50 s left", " 60%  11 s left"]


def test_three_of_what_a_user_named_are_said_and_how_many_more():
    assert machine.named(["a", "b", "c"]) == "a, b, c"
    assert machine.named([Path("a"), *"bcde"]) == "a, b, c and 2 more"


def test_the_version_is_printed(capsys):
    assert run_command(["--version"]) == 0
    assert output(capsys)[0] == [ou.__version__]


def test_the_first_line_comes_before_torch(tmp_path):
    code = """
import sys
from ornstein import cli
from ornstein.cli import machine
machine.say = lambda line: sys.exit(77 if "torch" not in sys.modules else 78)
cli.run_command(sys.argv[1:])
"""
    for tokens in (["show", "digits"], ["sample", "x"], ["train", "digits", "--seen", "1"]):
        done = subprocess.run([sys.executable, "-c", code, *tokens], cwd=tmp_path, check=False)
        assert done.returncode == 77


@pytest.mark.parametrize(
    ("tokens", "code", "words"),
    [
        (["samples"], 2, 'Did you mean "sample"?'),
        (["sample", "run", "--guidence", "2"], 2, "Did you mean --guidance?"),
        (["sample", "run", "--count", "0"], 2, "count"),
        (
            ["sample", "run", "-n", "1.5"],
            2,
            'Invalid value for -n: unable to convert "1.5" into int',
        ),
        (["sample", "run", "--batch", "2.5"], 2, "Invalid value for --batch"),
        (["sample", "nowhere"], 2, "nowhere"),
        (["sample"], 2, "RUN"),
        (["train", "digits"], 2, "--minutes"),
        (["train", "digits", "--seen", "1", "--minutes", "1"], 2, "not both"),
        (["train", "--resume"], 2, "--out"),
        (["train", "digits", "--seen", "1", "--size", "7"], 2, "size"),
        (["train", "digits", "--seen", "1", "--config", "none.toml"], 2, "none.toml"),
        (["train", "nowhere", "--seen", "1"], 6, "nowhere"),
        (["show", "nowhere"], 6, "nowhere"),
        (["doctor", "--threads", "0"], 2, "--threads 0"),
        (["doctor", "--threads", "100000"], 2, "--threads 100000 must be from 1 to 1024"),
        (["show", "a" * 300], 3, "is too long for a name"),
        (["demo", "--minutes", "-1"], 2, "--minutes -1"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(tokens, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(tokens) == code
    out, err = output(capsys)
    assert not out
    assert words in err[-1]
    assert err[-1].startswith("ornstein: ")
    assert "Traceback" not in "\n".join(err)


@pytest.mark.parametrize(
    "said",
    [
        ["--size", "64"],
        ["--seed", "7"],
        ["--recipe", "ddpm"],
        ["--data.size", "4"],
        ["--memory", "low"],
        ["--latent", "nowhere"],
        ["--autoencoder.factor", "2"],
        ["--minutes", "1"],
    ],
)
def test_a_run_that_goes_on_is_told_nothing_else(run, said, capsys):
    assert run_command(["train", "--resume", str(run), *said]) == 2
    assert "leave out --minutes, --seen, --config and all else" in output(capsys)[1][-1]


def test_data_that_are_not_a_run_s_are_named(run, capsys):
    assert run_command(["train", "swiss-roll", "--resume", "--out", str(run)]) == 6
    assert "The data swiss-roll have another shape" in output(capsys)[1][-1]


@pytest.mark.parametrize("kind", OrnsteinError.__subclasses__())
def test_every_kind_of_error_has_an_exit_code_of_its_own(kind, capsys, monkeypatch):
    def fail(*_, **__):
        raise kind("A sentence.")

    monkeypatch.setattr(cli, "app", fail)
    assert run_command([]) == kind.exit_code
    assert kind.exit_code not in (0, 1)
    assert output(capsys) == ([], ["ornstein: A sentence."])


def test_any_other_error_is_a_bug_and_its_trace_is_shown_on_demand(capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(cli, "app", fail)
    assert run_command([]) == 1
    (line,) = output(capsys)[1]
    assert line.startswith("ornstein: This is a bug (RuntimeError: two lines)")
    assert run_command(["--debug"]) == 1
    assert any("Traceback" in line for line in output(capsys)[1])


def test_an_interrupt_exits_with_130(capsys, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", fail)
    assert run_command([]) == 130


# --- Its commands --------------------------------------------------------------------------------


def test_train_writes_a_run_as_the_flags_say(run):
    config = ou.RunConfig.from_toml((run / "config.toml").read_text())
    assert (config.net.size, config.seed, config.train.seen) == (8, 3, 128)
    assert config.source == "digits"


def test_a_file_and_flags_change_the_recipe_and_nothing_else(tmp_path, capsys):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[train]\nlearning_rate = 0.5\n[data]\nlimit = 50\n")
    tokens = ["train", "digits", "--dry-run", "--config", str(recipe), "--data.shift", "1"]
    assert run_command(tokens) == 0
    config = ou.RunConfig.from_toml(capsys.readouterr().out)
    assert config.train.learning_rate == 0.5
    assert (config.data.limit, config.data.shift) == (50, 1)
    plain = ["train", "digits", "--dry-run", "--data.limit", "50"]
    assert run_command(plain) == 0
    other = ou.RunConfig.from_toml(capsys.readouterr().out)
    assert other.net == config.net
    assert other.train.optimizer == config.train.optimizer
    assert not (tmp_path / "runs").exists()


def test_a_flag_wins_over_the_file_though_it_say_what_is_so_by_default(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("[data]\nvalidation = 0.3\nlimit = 50\n")
    tokens = ["train", "digits", "--dry-run", "--config", str(tmp_path / "mine.toml")]
    for flags, share in ((["--data.validation", "0.1"], 0.1), ([], 0.3)):
        assert run_command([*tokens, *flags]) == 0
        data = ou.RunConfig.from_toml(capsys.readouterr().out).data
        assert (data.validation, data.limit) == (share, 50)


def test_an_unknown_key_in_the_file_is_named(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("[train]\nlerning_rate = 0.5\n")
    tokens = ["train", "digits", "--dry-run", "--config", str(tmp_path / "mine.toml")]
    assert run_command(tokens) == 2
    assert "lerning_rate" in output(capsys)[1][-1]


def test_resume_goes_on_with_a_run(run, capsys):
    before = sorted((run / "checkpoints").iterdir())
    assert run_command(["train", "--resume", str(run)]) == 0
    assert sorted((run / "checkpoints").iterdir()) == before  # its budget was spent
    assert run_command(["train", "digits", "--seen", "128", "--out", str(run)]) != 0


def test_sample_writes_what_python_draws(run, tmp_path, capsys):
    flags = ["--label", "3", "--seed", "5", "--steps", "2"]
    tokens = ["sample", str(run), "-n", "3", *flags, "--out", str(tmp_path / "a")]
    assert run_command([*tokens, "--grid", str(tmp_path / "grid.png"), "--json"]) == 0
    out, err = output(capsys)
    paths = [Path(p) for p in json.loads(out[0])["paths"]]
    assert [p.name for p in paths] == [f"00000{i}-3.png" for i in range(3)] + ["grid.png"]
    assert Image.open(paths[-1]).width > 24
    assert "Drawing 3 examples" in err[0]
    drawn = ou.sample(run, 3, 3, seed=5, steps=2)
    for path, array in zip(paths, drawn.arrays, strict=False):
        assert np.array_equal(drawn.codec.read(path)[0, 0].numpy(), array[..., 0])


def test_two_processes_draw_what_one_does(run, tmp_path, capsys):
    def draw(folder: str, *which: str) -> dict[str, bytes]:
        out = tmp_path / folder
        flags = ["--steps", "2", "--label", "1", "--label", "7", "--out", str(out)]
        command = [sys.executable, "-m", "ornstein", "sample", str(run), *flags, *which]
        subprocess.run(command, check=True, capture_output=True)
        return {p.name: p.read_bytes() for p in out.iterdir()}

    whole = draw("whole", "-n", "16")
    draw("parts", "--examples", "0-7")
    assert draw("parts", "--examples", "8-15") == whole
    assert len(whole) == 16


def test_a_row_of_numbers_ends_where_no_number_stands(run, tmp_path, capsys):
    flags = ["-n", "1", "--label", "3", "--dry-run", "--json"]
    for tokens in (["--guidance", "5", str(run)], [str(run), "--guidance", "5"]):
        assert run_command(["sample", *tokens, *flags]) == 0
        assert json.loads(output(capsys)[0][0])["guidance"] == 5
    assert run_command(["sample", "--guidance", "5", "-2", str(run), *flags]) == 2
    assert "guidance = 5 -2: give one weight." in output(capsys)[1][-1]
    assert with_rows_ended(["distill", "--steps", "4", "2", "a", "1", "--guidance=1", "2"]) == (
        ["distill", "--steps", "4", "--steps", "2", "a", "1", "--guidance=1", "2"]
    )


def test_dash_and_underscore_are_one(run, tmp_path, capsys):
    for flag in ("--time-grid", "--time_grid"):
        tokens = ["sample", str(run), "-n", "1", flag, "karras", "--out", str(tmp_path)]
        assert run_command([*tokens, "--dry_run"]) == 0
    assert not list(tmp_path.iterdir())


def test_restore_keeps_what_is_known(run, tmp_path, capsys):
    (picture,) = ou.sample(run, 1, steps=2).save(tmp_path)
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    tokens = ["restore", str(run), str(picture), "--mask", str(tmp_path / "mask.png")]
    flags = ["-n", "2", "--steps", "2", "--out", str(tmp_path / "out"), "--json"]
    assert run_command([*tokens, *flags]) == 0
    paths = json.loads(output(capsys)[0][0])["paths"]
    known = np.asarray(Image.open(picture))[:4]
    assert len(paths) == 2
    for path in paths:
        assert np.array_equal(np.asarray(Image.open(path))[:4], known)


def test_show_knows_data_a_run_and_a_folder_of_runs(run, capsys):
    assert run_command(["show", "digits"]) == 0
    assert output(capsys)[0][0].startswith("digits: 1,797 pictures of 8 x 8 pixels")
    assert run_command(["show", str(run), "--json"]) == 0
    assert "128" in output(capsys)[0][0]
    assert run_command(["show", str(run)]) == 0
    assert len(output(capsys)[0]) > 3
    assert run_command(["show", str(run.parent)]) == 0
    head, *rows = output(capsys)[0]
    assert len(rows) == 1
    assert head.count("\t") == rows[0].count("\t") > 1


def test_the_doctor_speaks_json(capsys):
    assert run_command(["doctor", "--json"]) == 0
    assert "torch" in json.loads(output(capsys)[0][0])


def test_show_lists_what_cannot_be_read_and_goes_on(capsys, tmp_path):
    from PIL import Image

    for i in range(3):
        Image.new("L", (8, 8), 80 * i).save(tmp_path / f"{i}.png")
    (tmp_path / "page.png").write_text("<html>")
    assert run_command(["show", str(tmp_path)]) == 0
    out, _ = output(capsys)
    assert "3 pictures" in out[0]
    assert any("page.png" in line and "not a picture" in line for line in out)
