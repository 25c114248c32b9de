"""The Hub, played by a folder: what goes there, what comes back, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ornstein as ou
from ornstein.cli import run_command
from ornstein.errors import ModelFileError, StorageError, UsageError
from ornstein.interop import hub
from ornstein.interop.hub import files_of, pull, push
from ornstein.interop.place import open_model
from ornstein.runs.folder import RunFolder
from ornstein.tasks.sample import sample
from train.tiny import tiny_config

NAME = "ann/points"


class Folder:
    """A Hub in a folder, with the calls of `huggingface_hub` that are made."""

    def __init__(self, path: Path) -> None:
        self.path, self.private = path, {}

    def HfApi(self):
        return self

    def create_repo(self, repo_id, private, exist_ok):
        (self.path / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        self.private.setdefault(repo_id, private)
        return f"https://hub/{repo_id}"

    def upload_folder(self, repo_id, folder_path, allow_patterns, delete_patterns, commit_message):
        for pattern in delete_patterns:
            shutil.rmtree(self.path / repo_id / pattern.removesuffix("/**"), ignore_errors=True)
        for name in allow_patterns:
            to = self.path / repo_id / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder_path / name, to)

    def list_repo_files(self, name, revision=None):
        if name == "ann/far":
            raise Exception("no way there")
        if not (self.path / name).is_dir():
            raise OSError(f"404 Client Error: Repository Not Found for {name}")
        found = (self.path / name).rglob("*")
        return [p.relative_to(self.path / name).as_posix() for p in found if not p.is_dir()]

    def snapshot_download(self, name, revision, allow_patterns, local_dir):
        for file in allow_patterns:
            to = Path(local_dir) / file
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.path / name / file, to, follow_symlinks=False)
        (Path(local_dir) / ".cache" / "huggingface").mkdir(parents=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ou.train("swiss-roll", config=tiny_config(), out=tmp_path_factory.mktemp("hub") / "run")


@pytest.fixture
def there(tmp_path, monkeypatch):
    folder = Folder(tmp_path / "there")
    monkeypatch.setattr(hub, "_library", lambda: folder)
    monkeypatch.setenv("ORNSTEIN_CACHE", str(tmp_path / "cache"))
    return folder


def test_what_is_pushed_and_pulled_draws_the_same(run, there, tmp_path):
    pushed = push(run, NAME, private=True, license="cc0-1.0")
    assert pushed.url == "https://hub/ann/points" and there.private == {NAME: True}
    assert sorted(pushed.files) == sorted(there.list_repo_files(NAME))
    card = (there.path / NAME / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: ornstein\nlicense: "cc0-1.0"\n')
    expected = sample(run, 3).x
    place = pull(NAME, tmp_path / "mine")
    assert torch.equal(sample(place, 3).x, expected)
    assert not list(place.rglob(".cache"))
    assert torch.equal(sample(f"hf:{NAME}", 3).x, expected)
    shutil.rmtree(there.path)  # and then without a Hub
    assert torch.equal(sample(f"hf:{NAME}", 3).x, expected)


def test_weights_alone_go_unless_all_is_asked_for(run, there, tmp_path):
    few, whole = files_of(run), files_of(run, whole=True)
    names = {Path(file).name for file in few}
    assert names == {
        "README.md",
        "run.json",
        "config.toml",
        "metrics.jsonl",
        "manifest.json",
        "ema-0.safetensors",
    }
    assert {Path(file).name for file in whole} > names | {"optimizer.safetensors"}
    push(run, NAME, whole=True)
    assert RunFolder.open(pull(NAME, tmp_path / "whole")).latest() is not None
    push(run, NAME)  # what is not pushed again is not kept
    place = RunFolder.open(pull(NAME, tmp_path / "few"))
    assert place.latest("ema-0") is not None and place.latest() is None


def test_a_damaged_run_is_not_left_behind(run, there, tmp_path):
    push(run, NAME)
    (weights,) = (there.path / NAME).rglob("ema-0.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ModelFileError, match="no weights that verify"):
        pull(NAME, tmp_path / "mine")
    assert not list(tmp_path.glob("*mine*"))


def test_only_what_cannot_run_is_fetched(run, there, tmp_path):
    push(run, NAME)
    for name in ("setup.py", "more.bin", "notes.pkl", "x.safetensors.exe"):
        (there.path / NAME / name).write_text("print()")
    place = pull(NAME, tmp_path / "mine")
    assert {p.suffix for p in place.rglob("*") if p.is_file()} == {
        ".md",
        ".json",
        ".toml",
        ".jsonl",
        ".safetensors",
    }


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        (["model_index.json", "unet/weights.bin"], ModelFileError, "pickle"),
        (["model_index.json"], ModelFileError, "no weights"),
        (["run.json", "a/../../b.safetensors"], ModelFileError, "names"),
        (["run.json", "/etc/b.safetensors"], ModelFileError, "names"),
        (["weights.safetensors"], UsageError, "neither"),
    ],
)
def test_what_is_no_run_or_could_run_is_refused(files, error, words):
    with pytest.raises(error, match=words):
        hub.wanted_of(NAME, files)


def test_of_a_pipeline_each_part_is_fetched_once():
    needed = [
        "model_index.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "tokenizer/spiece.model",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",  # there in no other precision
    ]
    again = [
        "sd_xl_base_1.0.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "spare.model",
    ]
    assert hub.wanted_of(NAME, [*again, *needed]) == needed


def test_a_link_among_what_was_fetched_is_refused(run, there, tmp_path):
    push(run, NAME)
    (there.path / NAME / "more.txt").symlink_to("/etc/hostname")
    with pytest.raises(ModelFileError, match="link"):
        pull(NAME, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_what_the_hub_refuses_is_said_in_a_sentence(there, tmp_path):
    with pytest.raises(UsageError, match=r"Not Found.*hf auth login"):
        pull("ann/nothing", tmp_path / "mine")
    with pytest.raises(UsageError, match="Not Found"):
        open_model("hf:ann/nothing")
    with pytest.raises(UsageError, match=r"no way there.*is online"):
        pull("ann/far", tmp_path / "mine")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="already"):
        pull(NAME, tmp_path / "taken")


def test_a_run_without_weights_is_not_pushed(there, tmp_path):
    config = tiny_config()
    empty = RunFolder.create(tmp_path / "run", config_toml=config.to_toml(), identity={})
    with pytest.raises(StorageError, match="nothing to push"):
        push(empty, NAME)


def test_a_run_that_adds_to_a_mean_is_not_pushed_without_it(there, tmp_path):
    toml = replace(tiny_config(), mean="runs/mean").to_toml()
    half = RunFolder.create(tmp_path / "run", config_toml=toml, identity={})
    with pytest.raises(UsageError, match="adds to the mean of runs/mean, which would stay here"):
        push(half, NAME)


def test_a_license_is_not_put_into_a_card_that_is_the_users_own(run, there, tmp_path):
    own = RunFolder.open(shutil.copytree(run.path, tmp_path / "own"))
    (own.path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="is yours: write `license: mit`"):
        push(own, NAME, license="mit")


def test_two_that_fetch_at_once_do_not_break_each_other(run, there, monkeypatch):
    push(run, NAME)
    download, places = there.snapshot_download, []

    def slow(name, revision, allow_patterns, local_dir):
        download(name, revision, allow_patterns, local_dir)
        if not places:
            places.append(None)
            places.append(hub.fetched(NAME))  # another begins later, and is done before

    monkeypatch.setattr(there, "snapshot_download", slow)
    place = hub.fetched(NAME)
    assert place == places[1] and RunFolder.open(place).latest("ema-0") is not None
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_a_place_that_cannot_be_written_is_not_blamed_on_the_hub(run, there, tmp_path):
    push(run, NAME)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        pull(NAME, tmp_path / "file" / "mine")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError, match="already"):
        pull(NAME, tmp_path / "link")


def test_the_commands_push_and_pull(run, there, tmp_path, capsys):
    assert run_command(["push", str(run.path), NAME, "--dry-run", "--json"]) == 0
    assert "config.toml" in json.loads(capsys.readouterr().out)["files"]
    assert not (there.path / NAME).exists()
    assert run_command(["push", str(run.path), NAME]) == 0
    assert "ornstein sample hf:ann/points" in capsys.readouterr().out
    assert run_command(["pull", NAME, "--out", str(tmp_path / "mine")]) == 0
    assert run_command(["pull", "ann/nothing"]) == 2
