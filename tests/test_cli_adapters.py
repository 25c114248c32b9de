"""Going on from a run on the command line: made, put on, merged, refused."""

import pytest

from ornstein.cli import run_command
from ornstein.runs.config import RunConfig
from ornstein.runs.folder import RunFolder
from ornstein.train.start import train
from train.tiny import labelled_points, tiny_config


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    data = labelled_points()
    source = data.stored.numpy(), [data.classes[i] for i in data.label.tolist()]
    out = tmp_path_factory.mktemp("base") / "base"
    return train(source, out=out, config=tiny_config(16, seen=320)).path


@pytest.fixture(scope="module")
def adapter(base):
    out = base.parent / "adapter"
    flags = ["--lora", "2", "--targets", "blocks", "--seen", "64", "--data.limit", "50"]
    flags += ["--word", "sks", "--like", "left"]
    assert run_command(["train", "moons", "--from", str(base), "--out", str(out), *flags]) == 0
    return out


def test_the_flags_say_what_is_learned(base, adapter):
    config = RunConfig.from_toml(RunFolder.open(adapter).config_toml)
    assert (config.adapt.base, config.adapt.learn, config.adapt.rank) == (str(base), "low-rank", 2)
    assert (config.adapt.targets, config.adapt.like) == (("blocks",), "left")
    assert config.data.word == "sks" and config.data.limit == 50
    assert config.net.size == 16 and config.schedule.name == "karras"


def test_what_would_be_learned_is_printed_with_its_own_data_and_budget(base, capsys):
    flags = ["--from", str(base), "--lora", "2", "--seen", "96", "--dry-run"]
    assert run_command(["train", "moons", *flags]) == 0
    config = RunConfig.from_toml(capsys.readouterr().out)
    assert (config.source, config.train.seen, config.adapt.rank) == ("moons", 96, 2)


def test_an_adapter_is_put_on_by_name_and_strength_or_opened_by_itself(base, adapter, tmp_path):
    draw = ["sample", "-n", "4", "--label", "sks"]
    for name, rest in (
        ("one", [str(base), "--adapter", str(adapter)]),
        ("half", [str(base), "--adapter", f"{adapter}:0.5"]),
        ("own", [str(adapter)]),
    ):
        assert run_command([*draw, *rest, "--out", str(tmp_path / name)]) == 0
    one, half, own = (
        [p.read_bytes() for p in sorted((tmp_path / name).iterdir())]
        for name in ("one", "half", "own")
    )
    assert one == own != half
    merged = tmp_path / "merged"
    command = ["merge", str(base), "--adapter", str(adapter), "--out", str(merged)]
    assert run_command(command) == 0
    assert run_command([*draw, str(merged), "--out", str(tmp_path / "again")]) == 0
    assert [p.read_bytes() for p in sorted((tmp_path / "again").iterdir())] == one


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--lora", "2"], "An adapter adds to a trained run: name it with --from RUN."),
        (["--from", "BASE", "--lora", "2", "--control"], "are two adapters"),
        (["--from", "BASE", "--targets", "blocks"], "say --lora 8 too"),
        (["--from", "BASE", "--lora", "2", "--targets", "x"], "targets: expected targets among"),
        (["--from", "BASE", "--recipe", "ddpm"], "has its recipe: leave --recipe out"),
        (["--from", "BASE", "--control"], "draws points, not pictures"),
        (["--from", "BASE", "--size", "32"], "[net] must be as in"),
        (["--from", "nowhere", "--lora", "2"], "nowhere is not a run folder"),
    ],
)
def test_what_contradicts_itself_is_refused_in_a_sentence(base, tmp_path, capsys, flags, sentence):
    flags = [str(base) if flag == "BASE" else flag for flag in flags]
    command = ["train", "moons", "--seen", "32", "--out", str(tmp_path / "none"), *flags]
    assert run_command(command) == 2
    assert sentence in capsys.readouterr().err
