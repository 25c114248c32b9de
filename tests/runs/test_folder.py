import json
import logging
import time
from itertools import count
from pathlib import Path

import pytest
import torch

from ornstein.errors import LockedError, StorageError, UsageError
from ornstein.runs import disk
from ornstein.runs.facts import FACTS, describe, list_runs
from ornstein.runs.folder import RunFolder

CONFIG = 'source = "digits"\n\n[train]\nseen = 640\n'
IDENTITY = {"codec": {"kind": "image"}, "examples": 1617, "parameters": 1234, "fingerprint": "f00d"}
PARTS = {"model": {"w": torch.arange(6.0).view(2, 3)}, "ema-0": {"w": torch.ones(2, 3)}}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "a run", config_toml=CONFIG, identity=IDENTITY)


# --- Making and opening


def test_a_run_is_opened_as_it_was_made(run):
    again = RunFolder.open(str(run.path))
    assert (again.path, again.identity, again.config_toml) == (run.path, run.identity, CONFIG)
    assert again.identity.items() > IDENTITY.items()
    assert len(again.identity["id"]) == 26 and again.identity["torch"] == torch.__version__
    assert sorted(p.name for p in run.path.iterdir()) == ["README.md", "config.toml", "run.json"]


def test_two_runs_have_two_names_for_themselves(run, tmp_path):
    other = RunFolder.create(tmp_path / "b", config_toml=CONFIG, identity=IDENTITY)
    assert other.identity["id"] != run.identity["id"]


def test_an_identity_may_not_claim_to_be_another_run(tmp_path):
    with pytest.raises(ValueError, match="'id'"):
        RunFolder.create(tmp_path / "b", config_toml=CONFIG, identity={"id": "mine"})
    assert not (tmp_path / "b").exists()


def test_an_empty_folder_may_become_a_run(tmp_path):
    (tmp_path / "b").mkdir()
    assert RunFolder.create(tmp_path / "b", config_toml="", identity={}).config_toml == ""


def test_a_run_is_not_made_over_another(run):
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(UsageError, match=r"is a run already: go on with it by --resume"):
        RunFolder.create(run.path, config_toml=CONFIG, identity=IDENTITY)
    assert (run.path / "run.json").read_bytes() == before


def test_a_run_is_not_made_among_the_files_of_a_person(tmp_path):
    (tmp_path / "config.toml").write_text("mine = true\n")
    with pytest.raises(UsageError, match=r"holds 'config\.toml' but no run\.json"):
        RunFolder.create(tmp_path, config_toml=CONFIG, identity={})
    assert (tmp_path / "config.toml").read_text() == "mine = true\n"


@pytest.mark.parametrize("there", [True, False])
def test_what_is_no_run_is_named_with_the_way_to_make_one(there, tmp_path):
    path = tmp_path / "b"
    if there:
        path.mkdir()
    with pytest.raises(UsageError) as caught:
        RunFolder.open(path)
    why = "no run.json" if there else "there is no such folder"
    wanted = f"{path} is not a run folder: {why}. Make one with `ornstein train`."
    assert str(caught.value) == wanted


# --- Checkpoints


def test_a_checkpoint_gives_back_what_was_saved(run):
    run.log({"seen": 64})
    run.save(64, PARTS, {"a": [1, 2.5, None], "b": {"c": "ü"}})
    found = RunFolder.open(run.path).latest()
    assert found is not None
    assert (found.seen, found.parts) == (64, ["model", "ema-0"])
    assert found.state == {"a": [1, 2.5, None], "b": {"c": "ü"}}
    assert found.log_size == run.metrics_path.stat().st_size > 0
    for part, tensors in PARTS.items():
        assert torch.equal(found.load(part)["w"], tensors["w"])


def test_floats_of_the_state_come_back_to_the_bit(run):
    state = {"x": 0.1 + 0.2, "y": 1e-320, "z": -0.0}
    run.save(1, PARTS, state)
    found = run.checkpoint(1).state
    assert {k: v.hex() for k, v in found.items()} == {k: v.hex() for k, v in state.items()}


def test_the_newest_two_are_kept_by_default_and_more_if_asked(run):
    for seen in (1, 2, 3):
        run.save(seen, PARTS, {})
    assert run.saved() == [3, 2]
    for seen in (4, 5, 6):
        run.save(seen, PARTS, {}, keep=4)
    assert run.saved() == [6, 5, 4, 3]


@pytest.mark.parametrize(("seen", "keep"), [(-1, 2), (1, 1), (1, 0)])
def test_positions_before_the_start_and_a_single_checkpoint_are_refused(seen, keep, run):
    with pytest.raises(ValueError, match="expected seen >= 0 and keep >= 2"):
        run.save(seen, PARTS, {}, keep=keep)


def test_a_new_run_has_no_checkpoint(run):
    assert run.latest() is None and run.saved() == []
    with pytest.raises(StorageError, match="has no checkpoint at 7; it has: none"):
        run.checkpoint(7)


def test_a_part_that_is_not_there_is_named_with_those_that_are(run):
    run.save(1, PARTS, {})
    with pytest.raises(StorageError, match="no part 'net'; it has: model, ema-0"):
        run.checkpoint(1).load("net")


def test_what_is_not_asked_for_need_not_verify(run, caplog):
    """To sample, the averaged weights alone are read."""
    for seen in (1, 2):
        run.save(seen, PARTS, {})
    (run.checkpoint(2).path / "model.safetensors").write_bytes(b"")
    assert run.latest("ema-0").seen == 2 and not caplog.records
    assert run.latest().seen == 1
    assert run.latest("no-such-part") is None


def test_warnings_reach_standard_error_in_one_line_each(run, capfd):
    """Nobody has to configure logging to be told."""
    for seen in (1, 2):
        run.save(seen, PARTS, {})
    (run.checkpoint(2).path / "model.safetensors").write_bytes(b"")
    handlers, logging.getLogger().handlers = logging.getLogger().handlers, []
    try:
        run.latest()
    finally:
        logging.getLogger().handlers = handlers
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("Checkpoint 2 is passed over: ")


def keep_saving(path: str, stop: str) -> None:
    run = RunFolder.open(path)
    for seen in count(1):
        run.save(seen, PARTS, {})
        if Path(stop).exists():
            return


def test_a_reader_always_finds_a_checkpoint_while_a_writer_adds_and_prunes(tmp_path, caplog):
    import threading

    run = RunFolder.create(tmp_path / "b", config_toml=CONFIG, identity={})
    run.save(0, PARTS, {})
    stop = tmp_path / "stop"
    writer = threading.Thread(target=keep_saving, args=(str(run.path), str(stop)))
    writer.start()
    found, end = [], time.monotonic() + 2
    try:
        while time.monotonic() < end:
            found.append(run.latest())
    finally:
        stop.touch()
        writer.join()
    assert None not in found
    seen = [checkpoint.seen for checkpoint in found]
    assert seen == sorted(seen) and seen[-1] > seen[0]
    assert not caplog.records


def test_a_checkpoint_that_goes_is_no_checkpoint_while_it_goes(run, monkeypatch):
    seen, gone = list[list[int]](), disk.shutil.rmtree
    monkeypatch.setattr(disk.shutil, "rmtree", lambda path: seen.append(run.saved()) or gone(path))
    for position in range(4):
        run.save(position, PARTS, {}, keep=2)
    assert seen == [[2, 1], [3, 2]]
    assert sorted(p.name[-1] for p in (run.path / "checkpoints").iterdir()) == ["2", "3"]


# --- What is kept


def test_what_is_kept_outlives_the_checkpoints(run):
    run.keep("ema-0-64", PARTS["ema-0"])
    run.keep("ema-1-64", PARTS["model"])
    for seen in range(5):
        run.save(seen, PARTS, {})
    assert run.kept_names() == ["ema-0-64", "ema-1-64"]
    assert torch.equal(run.kept("ema-1-64")["w"], PARTS["model"]["w"])


def test_what_is_kept_again_takes_the_place_of_the_first(run):
    """After a roll-back, training comes by the same position with other weights."""
    run.keep("x", {"w": torch.zeros(3)})
    run.keep("x", {"w": torch.ones(3)})
    assert run.kept("x")["w"].tolist() == [1, 1, 1]
    assert [p.name for p in (run.path / "kept").iterdir()] == ["x"]


def test_what_was_never_kept_is_named(run):
    with pytest.raises(StorageError, match="y is not there; kept are: nothing"):
        run.kept("y")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "x" * 101, "ü", "a\nb"])
def test_names_that_are_no_plain_names_are_refused(name, run):
    with pytest.raises(ValueError, match="expected plain names"):
        run.keep(name, {"w": torch.ones(1)})
    with pytest.raises(StorageError, match="is not there"):
        run.kept(name)
    assert not (run.path.parent / "x").exists()


# --- The log


def test_rewinding_cuts_the_log_to_the_checkpoint(run):
    rows = [{"seen": n, "train/loss": n / 3} for n in range(4)]
    run.log(rows[0])
    run.log(rows[1])
    run.save(1, PARTS, {})
    run.log(rows[2])
    run.log_time({"seconds": 1.5})
    run.rewind(run.latest())
    run.log(rows[3])
    text = run.metrics_path.read_text()
    assert [json.loads(line) for line in text.splitlines()] == [rows[0], rows[1], rows[3]]
    assert run.timings_path.read_text() == '{"seconds": 1.5}\n'


def test_a_log_that_is_gone_is_said_to_be_gone(run):
    run.log({"seen": 1})
    run.save(1, PARTS, {})
    run.metrics_path.unlink()
    with pytest.raises(StorageError, match=r"metrics\.jsonl is gone: put it back"):
        run.rewind(run.checkpoint(1))


def test_rewinding_to_before_the_log_empties_it(run):
    run.save(0, PARTS, {})
    run.rewind(run.checkpoint(0))
    run.log({"seen": 1})
    run.rewind(run.checkpoint(0))
    assert run.metrics_path.read_text() == ""


def test_a_log_that_somebody_has_cut_is_not_gone_on_with(run):
    run.log({"seen": 1})
    run.save(1, PARTS, {})
    run.metrics_path.write_text("")
    with pytest.raises(StorageError, match=r"metrics\.jsonl is shorter than at checkpoint 1"):
        run.rewind(run.checkpoint(1))


def test_rows_that_are_no_json_are_refused(run):
    with pytest.raises(ValueError, match="JSON compliant"):
        run.log({"loss": float("nan")})


# --- The lock


def test_the_lock_is_free_again_after_an_error(run):
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock(), pytest.raises(LockedError), run.lock():
        pass


# --- Looking at runs


def test_a_run_is_described_in_plain_values(run):
    run.log({"seen": 32, "train/loss": 2.0, "val/loss": 3.0})
    run.log({"seen": 64, "train/loss": 1.0})
    run.save(64, {"model": {"w": torch.zeros(250_000)}}, {})
    with run.metrics_path.open("a") as file:
        file.write('{"seen": 96, "train/lo')  # cut short by a kill
    found = describe(run.path)
    assert tuple(found) == FACTS
    assert found == {
        "run": "a run",
        "id": run.identity["id"],
        "data": "digits",
        "kind": "image",
        "created": run.identity["created"],
        "ornstein": run.identity["ornstein"],
        "examples": 1617,
        "parameters": 1234,
        "seen": 64,
        "budget": 640,
        "loss": 1.0,
        "held_out_loss": 3.0,
        "megabytes": 1.0,
        "problem": None,
    }
    assert json.loads(json.dumps(found)) == found


def test_runs_are_listed_and_a_damaged_one_does_not_hide_the_others(run, tmp_path):
    RunFolder.create(tmp_path / "b", config_toml="no toml", identity={})
    damaged = RunFolder.create(tmp_path / "c", config_toml="", identity={})
    (damaged.path / "run.json").write_text("{")
    (tmp_path / "no run").mkdir()
    rows = list_runs(tmp_path)
    assert [row["run"] for row in rows] == ["a run", "b", "c"]
    assert all(tuple(row) == FACTS for row in rows)
    assert rows[0]["problem"] is None
    assert rows[1]["problem"] == "config.toml is not TOML"
    assert "run.json is damaged: it is not JSON" in rows[2]["problem"]


@pytest.mark.parametrize("text", ["source = " + "[" * 10**5, "seed = " + "9" * 5000])
def test_a_configuration_that_cannot_be_parsed_does_not_hide_the_others(text, run):
    (run.path / "config.toml").write_text(text)
    (row,) = list_runs(run.path.parent)
    assert row["problem"] == "config.toml is not TOML"


def test_the_card_follows_the_run_until_somebody_makes_it_theirs(run):
    path = run.path / "README.md"
    assert "| Examples seen | 0 |" in path.read_text()
    run.save(6400, PARTS, {})
    assert "| Examples seen | 6,400 |" in path.read_text()
    path.write_text("mine")
    run.save(9600, PARTS, {})
    assert path.read_text() == "mine"
