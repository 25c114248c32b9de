"""`train`: from data to a run folder, anew or from where it stopped."""

import os
import time
import warnings
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from ..data import open_data
from ..data.dataset import Dataset
from ..data.names import shown
from ..data.open import Source, is_built_in
from ..errors import DataError, Notice, StorageError, UsageError
from ..interop.written import as_published
from ..runs.adapters import base_facts
from ..runs.checkpoint import WEIGHTS
from ..runs.config import RunConfig
from ..runs.embedding import KEPT as ENCODER
from ..runs.embedding import (
    captioned,
    embedded,
    keep_encoder,
    named_encoder,
    read_encoder,
)
from ..runs.folder import RunFolder
from ..runs.latents import KEPT, LatentCodec, encoded, keep_autoencoder, latents_of
from ..runs.lent import opened_once
from ..runs.model import Model, load, read_known
from ..runs.residual import left_by
from .adapt import base_of, check_same_base, in_words_of, keep_memory, recall
from .budget import settle
from .device import World, choose_device, using_threads
from .draft import Draft, Sequel
from .lessons import taught_as_begun, teacher_of
from .loop import Loop
from .progress import Report, tensorboard
from .signals import Stop
from .training import Training, vocabulary_of


def train(
    source: Source | None = None,
    *,
    out: str | Path | None = None,
    minutes: float | None = None,
    seen: int | None = None,
    config: RunConfig | Draft | Sequel | None = None,
    resume: bool = False,
    allow_data_change: bool = False,
    device: str = "auto",
    report: Report | None = None,
    save_every: float = 60.0,
    track: bool = False,
    stop: Stop | None = None,
) -> RunFolder:
    """Train a model of the data, or go on with a training that was stopped.

    A stopped training that is resumed ends in the same weights, to the last bit, as one that was
    never stopped, on the same machine; the number of threads is kept with the run. One that goes
    wrong goes back to a checkpoint from before, and so depends on when these were made. SIGINT,
    SIGTERM and SIGUSR1 stop it with a checkpoint; the call then returns early.

    Args:
        source: The data: what `open_data` takes. With `resume`, needed only if they were given
            as an array.
        out: The run folder; by default the first free ``runs/<name>-<number>``.
        minutes: The time there is, in all. Turned into a number of examples by a short trial.
        seen: The budget in examples instead, rounded up to whole batches.
        config: What to train and how, or what is wanted of that; `recipe` decides by default. Its
            ``train.seen`` is the budget if neither `minutes` nor `seen` is given.
        resume: Go on with the run at `out`.
        allow_data_change: Go on although the data are not what they were.
        device: ``auto``, ``cpu``, ``cuda``, ...
        report: Called with a `Progress` a few times in a second.
        save_every: Seconds between checkpoints; they do not influence the weights, unless training
            goes wrong and goes back to one.
        track: Log to TensorBoard too.
        stop: To stop the training from another thread.

    Returns:
        The run folder.

    Raises:
        UsageError: If the arguments contradict each other.
        DataError: If the data cannot be read, or changed since the training began.
        StorageError: If the folder cannot be written, or no checkpoint verifies.
        LockedError: If another process trains in it.
        DivergedError: If training goes wrong twice.
    """
    began = time.monotonic()
    refuse(source, out, minutes, seen, config, resume)
    place = choose_device(device)
    world = World.join(place)
    with ExitStack() as stack, ExitStack() as opening:
        opening.enter_context(opened_once())
        if resume:
            folder, config, data, held = go_on(source, Path(str(out)), place, allow_data_change)
            data = recall(config, data, folder)
        else:
            config, data, held = plan(source, config, seen, minutes, place)
            data = recall(config, data)
            left = None if minutes is None else 60 * minutes - (time.monotonic() - began)
            config, threads = settle(config, data, device=place, world=world, seconds=left)
            folder, config = begin(out, config, data, held, place, world, threads)
        stack.enter_context(using_threads(threads_of(folder)))
        if world.writes:
            stack.enter_context(folder.lock())
            keep_memory(config, data, folder)
            keep_autoencoder(folder, data.codec)
            keep_encoder(config, folder)
        stop = stack.enter_context(Stop() if stop is None else stop)
        training = Training(config, data, device=place, world=world)
        loop = Loop(
            training,
            held,
            folder,
            stop=stop,
            report=report if report and world.writes else lambda progress: None,
            save_every=save_every,
            saved_seen=restore(training, folder) if resume else -1,
            track=tensorboard(folder.path, stack) if track and world.writes else lambda row: None,
        )
        opening.close()  # while it runs, a training needs no network but its own
        loop.run()
        if world.writes:
            training.aim.finish(folder, training.averages.learners[0], data)
    return folder


def refuse(
    source: Source | None,
    out: str | Path | None,
    minutes: float | None,
    seen: int | None,
    config: RunConfig | Draft | Sequel | None,
    resume: bool,
) -> None:
    """Name the first contradiction among the arguments of `train`."""
    if resume and out is None:
        raise UsageError("Which run is to go on? Say --out RUN.")
    if resume and not (minutes is None and seen is None and config is None):
        raise UsageError(
            "A run that goes on keeps its budget and its configuration, on which its learning "
            "rate depends: leave out --minutes, --seen, --config and all else that changes them."
        )
    if not resume and source is None:
        raise UsageError("There is nothing to train on: name the data.")
    if minutes is not None and seen is not None:
        raise UsageError("Two budgets were given: say --minutes or --seen, not both.")
    if not resume and minutes is None and seen is None and config is None:
        raise UsageError("How long to train? Say --minutes M or --seen N.")
    if minutes is not None and not 0 < minutes < 1e6:
        raise UsageError(f"--minutes {minutes:g} must be a positive number.")
    if seen is not None and seen < 1:
        raise UsageError(f"--seen {seen} must be 1 or more.")


def plan(
    source: Source | None,
    config: RunConfig | Draft | Sequel | None,
    seen: int | None,
    minutes: float | None,
    device: torch.device,
) -> tuple[RunConfig, Dataset, Dataset]:
    """What to do, before the clock is asked; and the data, opened once, on the device."""
    assert source is not None
    config, data = planned(source, config, seen, minutes, device)
    data, held = as_seen(data, config, device)
    return config, data, held


def planned(
    source: Source,
    config: RunConfig | Draft | Sequel | None,
    seen: int | None,
    minutes: float | None,
    device: torch.device,
) -> tuple[RunConfig, Dataset]:
    """The configuration of the run, before the clock is asked; and all its data, opened once."""
    wanted = Draft() if config is None else config
    wanted = wanted.settled() if isinstance(wanted, Sequel) else wanted
    data = open_data(source, wanted.data)
    config = wanted.settled(data, minutes, str(device)) if isinstance(wanted, Draft) else wanted
    config = replace(config, source=name_of(source))
    if seen is not None:
        config = replace(config, train=replace(config.train, seen=seen))
    return config, replace(data, options=config.data)


def read(
    source: Source, config: RunConfig, device: torch.device, begun: RunFolder | None = None
) -> tuple[Dataset, Dataset]:
    """The data, opened, as `as_seen` by the run."""
    return as_seen(open_data(source, config.data), config, device, begun)


def as_seen(
    data: Dataset, config: RunConfig, device: torch.device, begun: RunFolder | None = None
) -> tuple[Dataset, Dataset]:
    """Training and held-out examples, on the device, as the run sees them.

    A run on latents sees these, a prior embeddings; an encoder nothing that has no caption.

    Args:
        data: All that were opened.
        config: Of the run.
        device: Where to put them.
        begun: The run, if it goes on: it may keep the autoencoder or the encoder that `config`
            names.
    """
    base = None
    if config.adapt.base:
        base = base_of(config)
        data = in_words_of(base, data, config.adapt)
    if config.net.kind == "unet2d":
        data = as_published(data)
    if begun is None:
        for sentence in _notices(data):
            warnings.warn(sentence, Notice, stacklevel=2)
    train, held = (d.to(device) for d in data.split(data.options.validation, config.seed))
    if config.net.kind == "contrastive":
        return captioned(train), captioned(held)
    kept = () if begun is None else begun.kept_names()
    if config.embedding.encoder:
        if begun is not None and ENCODER in kept:
            encoder = read_encoder(begun, device)
        else:
            encoder = named_encoder(config, device)
        train, held = (embedded(d, encoder, config.embedding.role) for d in (train, held))
    if config.latent:
        if config.net.kind == "autoencoder" or config.mean:
            what = "A mean is added to" if config.mean else "An autoencoder learns"
            raise UsageError(f"{what} the data themselves: leave --latent out.")
        own = begun.path if begun and KEPT in kept else None
        codec = _latents(config, base, own, device)
        return encoded(train, codec), encoded(held, codec)
    if config.mean:
        return left_by(load(config.mean, device=device), train, held)
    return train, held


def _notices(data: Dataset) -> list[str]:
    """What to know of the words in the data before learning from them."""
    if data.captions is not None:
        return data.captions.notices(data.pictures)
    names = ", ".join(shown(name, 40) for name in data.unread[:12])
    said = f"Not read of the metadata: {names}. Captions are read from the column text."
    return [said] if data.unread else []


def _latents(
    config: RunConfig, base: Model | None, own: Path | None, device: torch.device
) -> LatentCodec:
    """The codec of a run on latents, which may keep it as its own, or goes on with another's."""
    if base is not None and base.config.net.pipeline and isinstance(base.codec, LatentCodec):
        return base.codec.to(device)
    before = own or config.distill.teacher or config.adapt.base
    return latents_of(before or config.latent, device)


def begin(
    out: str | Path | None,
    config: RunConfig,
    data: Dataset,
    held: Dataset,
    device: torch.device,
    world: World,
    threads: int,
) -> tuple[RunFolder, RunConfig]:
    """A new run folder. All processes go by the configuration of rank 0, who has timed it."""
    config = RunConfig.from_toml(world.tell(config.to_toml()))
    path = Path(world.tell(str(out or free_place(config.source))))
    if not world.writes:
        world.tell()  # rank 0 has made it
        return RunFolder.open(path), config
    identity = identify(Training(config, data, device=device), held) | {"threads": threads}
    folder = RunFolder.create(path, config_toml=config.to_toml(), identity=identity)
    world.tell()
    return folder, config


def identify(training: Training, held: Dataset) -> dict[str, Any]:
    """What `run.json` says of a run, for ever: what its weights mean, and where they come from."""
    data, config = training.data, training.config
    return {
        "codec": data.codec.to_dict(),
        "given": data.given.codec.to_dict() if data.given else None,
        "vocabulary": asdict(vocabulary_of(data)),
        "fingerprint": data.fingerprint,
        "examples": len(data),
        "held_out": len(held),
        "parameters": sum(p.numel() for p in training.weights),
        **({"base": base_facts(base_of(config))} if config.adapt.base else {}),
        **({"teacher": base_facts(teacher_of(config))} if config.distill.teacher else {}),
        **({"encoder": named_encoder(config).to_dict()} if config.embedding.encoder else {}),
    }


def go_on(
    source: Source | None, path: Path, device: torch.device, allow_data_change: bool
) -> tuple[RunFolder, RunConfig, Dataset, Dataset]:
    """A run folder that is there, and its data."""
    folder = RunFolder.open(path)
    config = RunConfig.from_toml(folder.config_toml, str(folder.path / "config.toml"))
    check_same_base(config, folder)
    config = taught_as_begun(config, folder)
    data, held = read(config.source if source is None else source, config, device, folder)
    named, known = config.source if source is None else name_of(source), read_known(folder, device)
    if data.codec.shape != known.codec.shape or tuple(data.classes) != known.vocabulary.classes:
        raise DataError(
            f"The data {named} have another shape or other classes than those that {path} began "
            "with: start a new run."
        )
    if data.fingerprint != folder.identity["fingerprint"] and not allow_data_change:
        raise DataError(
            f"The data {named} are not those that {path} began with: put them back, or say "
            "--allow-data-change."
        )
    data, held = (_told_as_in(folder, d) for d in (data, held))
    return folder, config, replace(data, codec=known.codec), replace(held, codec=known.codec)


def _told_as_in(folder: RunFolder, data: Dataset) -> Dataset:
    """`data`, what is given of them standardised, and captions read, as when the run began."""
    _, given, vocabulary = read_known(folder)
    if (data.given is None) != (given is None):
        raise DataError(f"{folder.path} and its data disagree on what is given: start a new run.")
    if ((data.captions and data.captions.kept) is None) != (vocabulary.words is None):
        raise DataError(f"{folder.path} and its data disagree on captions: start a new run.")
    if data.given is not None and given is not None:
        if given.shape != data.given.codec.shape:
            raise DataError(f"What is given has another shape than {folder.path} began with.")
        data = replace(data, given=replace(data.given, codec=given))
    if data.captions is not None and vocabulary.words is not None:
        data = replace(data, captions=replace(data.captions, words=vocabulary.words))
    return data


def restore(training: Training, folder: RunFolder) -> int:
    """Bring `training` to the newest checkpoint that verifies; its place on the clock.

    A run that was stopped before its first checkpoint begins at 0: -1.

    Raises:
        StorageError: If it has checkpoints, but none that verifies.
    """
    checkpoint = folder.latest()
    if checkpoint is None:
        refuse_lost(folder)
        return -1
    training.restore(checkpoint)
    if training.world.writes:
        folder.rewind(checkpoint)
    return checkpoint.seen


def refuse_lost(folder: RunFolder) -> None:
    """Refuse a run that has come further than its checkpoints can tell."""
    if not folder.saved():
        return
    if folder.latest(WEIGHTS) is not None:
        raise StorageError(
            f"{shown(folder.path)} holds what draws, but no checkpoint with all that training "
            "needs: if it was pulled, push it again with --whole; else put a sound one back."
        )
    raise StorageError(
        f"{shown(folder.path)} has no checkpoint that verifies: put one back, or begin anew with "
        "another --out."
    )


def threads_of(folder: RunFolder) -> int:
    """How many threads the run began with."""
    threads = folder.identity.get("threads")
    if isinstance(threads, int) and 1 <= threads <= 4 * (os.cpu_count() or 1):
        return threads
    return torch.get_num_threads()


def name_of(source: Source) -> str:
    """What the configuration says of the data: an absolute path, a built-in name."""
    if isinstance(source, (str, Path)):
        return str(source) if is_built_in(source) else str(Path(source).resolve())
    return "array"


def free_place(source: str) -> Path:
    """The first ``runs/<name>-<number>`` that is not there."""
    stem = Path(source).stem or "run"
    return next(p for n in count(1) if not (p := Path("runs") / f"{stem}-{n}").exists())
