"""Runs and pipelines on the Hugging Face Hub: pushed, pulled, and what of them is refused.

Nothing is fetched that could run: tensors in safetensors, and text that is read as data.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shutil import rmtree
from typing import Any

from ..data.cache import folder
from ..data.names import shown
from ..errors import ModelFileError, StorageError, UsageError
from ..runs.checkpoint import WEIGHTS
from ..runs.config import RunConfig
from ..runs.disk import discarding, make_folder, storing, temporary
from ..runs.folder import RunFolder
from .pipeline import INDEX, PICKLES, SAFE

MARK = "hf:"
"""How the name of a repository begins where a path could be meant too."""
READ = (SAFE, ".toml", ".json", ".jsonl", ".md", ".txt", "/spiece.model")
RUN = "run.json"
LEFT = ("ema-", "encoder-", "remembered")
"""How the names begin of what a run keeps to learn on or to be judged, and not to be opened."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What lies on the Hub now.

    Args:
        name: Of the repository.
        url: Where to look at it.
        files: In it that are of the run.
        size: Bytes of them.
    """

    name: str
    url: str
    files: tuple[str, ...]
    size: int


def push(
    run: RunFolder | str | Path,
    name: str,
    *,
    private: bool = False,
    whole: bool = False,
    license: str | None = None,
) -> Pushed:
    """Write a run to a repository of the Hub, its model card first, to draw from anywhere.

    Its configuration goes with it, which names the data by their path. An older checkpoint that
    was pushed before is removed in the same commit.

    Args:
        run: The run, or its folder.
        name: Of the repository, as ``user/name``; it is made if it is not there.
        private: Whether a new one is to be private.
        whole: Also what training needs to go on.
        license: For the model card, an identifier that the Hub knows.

    Raises:
        UsageError: If the name is none, the Hub refuses, or the run is nothing without what
            lies here: a pipeline, or the run of its mean.
        StorageError: If no checkpoint verifies.
    """
    run = run if isinstance(run, RunFolder) else RunFolder.open(run)
    files = files_of(run, whole)
    if license is not None and not run.write_card(license=license):
        raise UsageError(
            f"{run.path / 'README.md'} is yours: write `license: {shown(license)}` between its "
            "first lines, and leave --license out."
        )
    api = _library().HfApi()
    with _said(name):
        made = api.create_repo(repo_id=name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=run.path,
            allow_patterns=files,
            delete_patterns=["checkpoints/**", "kept/**"],
            commit_message=f"Run {run.identity['id']}",
        )
    size = sum((run.path / file).stat().st_size for file in files)
    return Pushed(name=name, url=str(made), files=tuple(files), size=size)


def files_of(run: RunFolder, whole: bool = False) -> list[str]:
    """What of a run is pushed, relative to its folder: its newest checkpoint alone.

    Raises:
        UsageError: If it is nothing without a pipeline, or the run of its mean, that lies here.
        StorageError: If no checkpoint verifies.
    """
    config = RunConfig.from_toml(run.config_toml)
    if config.net.pipeline and not config.adapt.is_adapter:
        raise UsageError(
            f"{run.path} goes by the pipeline {shown(config.net.pipeline)}, which would stay here: "
            "write both by `ornstein export RUN --to diffusers`, and upload that folder."
        )
    if config.mean:
        raise UsageError(
            f"{run.path} adds to the mean of {shown(config.mean)}, which would stay here: push a "
            "run that was trained without --mean."
        )
    checkpoint = run.latest() if whole else run.latest(WEIGHTS)
    if checkpoint is None:
        raise StorageError(f"{run.path} has no checkpoint that verifies: there is nothing to push.")
    place = checkpoint.path.relative_to(run.path)
    parts = checkpoint.parts if whole else [WEIGHTS]
    paths = [run.path / file for file in ("README.md", RUN, "config.toml", "metrics.jsonl")]
    paths += [run.path / place / "manifest.json"]
    paths += [run.path / place / f"{part}.safetensors" for part in parts]
    names = [n for n in run.kept_names() if whole or not n.startswith(LEFT)]
    paths += [p for n in names for p in sorted((run.path / "kept" / n).iterdir())]
    return [p.relative_to(run.path).as_posix() for p in paths if p.is_file()]


def pull(name: str, out: str | Path | None = None, *, revision: str | None = None) -> Path:
    """Fetch a run or a pipeline from the Hub into a folder of its own.

    Args:
        name: Of the repository, as ``user/name``.
        out: The folder, which must not be there yet; by default that of its name.
        revision: A branch, a tag or a commit.

    Raises:
        UsageError: If there is no such repository, it holds neither, or the folder is taken.
        StorageError: If the folder cannot be made.
        ModelFileError: If it holds pickled weights alone, or what was fetched does not verify.
    """
    name = name.removeprefix(MARK)
    place = Path(out) if out is not None else Path(PurePosixPath(name).name)
    _refuse_taken(place)
    library = _library()
    with _said(name):
        files = library.HfApi().list_repo_files(name, revision=revision)
    wanted = wanted_of(name, files)
    new = temporary(place.parent)
    with discarding(new):
        with storing(place, 0):
            make_folder(new)
        with _said(name):
            library.snapshot_download(name, revision=revision, allow_patterns=wanted, local_dir=new)
        rmtree(new / ".cache", ignore_errors=True)  # of the library
        _refuse_links(new)
        if (new / RUN).is_file():
            _refuse_damaged(RunFolder.open(new), name)
        _refuse_taken(place)  # by who was faster
        with storing(place, 0):
            new.rename(place)
    return place


def wanted_of(name: str, files: Sequence[str]) -> list[str]:
    """Of the files of a repository, those to fetch.

    Raises:
        UsageError: If it is neither a run nor a pipeline.
        ModelFileError: If its weights are pickled, or a name leads elsewhere.
    """
    if RUN not in files and INDEX not in files:
        raise UsageError(f"{shown(name)} holds neither {RUN} nor {INDEX}: it is nothing we know.")
    for file in files:
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise ModelFileError(f"{shown(name)} names {shown(repr(file))}: it is refused.")
    wanted = [file for file in files if file.endswith(READ) and not any(c in file for c in "*?[")]
    if RUN not in files:
        wanted = _once(wanted)
    if not any(file.endswith(SAFE) for file in wanted):
        able = next((file for file in files if file.endswith(PICKLES)), None)
        what = f"{shown(able)} is pickled, which can run code" if able else "there are no weights"
        raise ModelFileError(
            f"{shown(name)}: {what}, and nothing in safetensors: ask its author to convert it."
        )
    return wanted


def _once(files: Sequence[str]) -> list[str]:
    """Of a pipeline, each part once: not the whole in one file, nor in less precision beside."""
    weights = [path for path in map(PurePosixPath, files) if path.suffix == SAFE]
    full = {path.parent for path in weights if path.name.count(".") == 1}
    again = {str(p) for p in weights if p.parent in full and p.name.count(".") > 1}
    return [f for f in files if f not in again and ("/" in f or not f.endswith(SAFE))]


def fetched(name: str) -> Path:
    """Where a repository lies on this machine; it is pulled if it is not there yet."""
    place = folder() / "hub" / name.removeprefix(MARK).replace("/", "--")
    if place.is_dir():
        return place
    try:
        return pull(name, place)
    except (UsageError, StorageError):
        if place.is_dir():  # another process was faster
            return place
        raise


def _refuse_taken(place: Path) -> None:
    if os.path.lexists(place):
        raise UsageError(f"{shown(place)} is there already: choose another folder with --out.")


def _refuse_damaged(run: RunFolder, name: str) -> None:
    try:
        if run.latest(WEIGHTS) is None:
            raise ModelFileError(f"{shown(name)} holds no weights that verify: it is refused.")
        for part in run.kept_names():
            run.kept(part)
    except StorageError as error:
        raise ModelFileError(f"{shown(name)} is not whole: {error}") from None


def _refuse_links(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ModelFileError(f"{shown(path)} is a link, not a file: it is refused.")


@contextmanager
def _said(name: str) -> Iterator[None]:
    """What the Hub has against it, in one sentence."""
    try:
        yield
    # Nothing of ours runs in here. The library's errors are OSError or ValueError; those of what it
    # speaks to the net by, which differs by its version, share no base with them, nor a module.
    except Exception as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise UsageError(
            f"The Hub on {shown(name)}: {reason}. Look whether this machine is online; log in with "
            "`hf auth login` if it is yours."
        ) from None


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError("huggingface_hub is not installed: pip install 'ornstein[hub]'.") from None
    return huggingface_hub
