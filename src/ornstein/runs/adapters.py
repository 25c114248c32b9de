"""Adapters: runs that hold only what they add to another run, their base.

An adapter is put on a model as weights: what comes out is a model like any other. A control
branch alone stays beside the network.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.captions import Words
from ..data.names import shown
from ..errors import ModelFileError, UsageError
from ..nets import Controlled
from ..nets.adapters import grown
from ..nets.blocks import answering
from .building import build_denoiser
from .checkpoint import WEIGHTS
from .config import RunConfig
from .folder import RunFolder
from .lent import LENDERS, lender, opened_once
from .model import Model, chosen_weights, load, read_known
from .vocabulary import Vocabulary

Adapter = str | Path | tuple[str | Path, float]
"""An adapter's folder, with its strength; as text ``FOLDER:STRENGTH``. 1 if it is not said."""

TABLES = ("net.inputs.label", "net.inputs.text.word")
"""Where a network has its words: the classes, and the pieces of texts."""

READING = "net.reading.new."
"""Where a word is that the encoders of another library learn; the name of each encoder follows."""


def base_facts(model: Model) -> dict[str, Any]:
    """What a run remembers of the model that it goes on from."""
    if (pipeline := model.pipeline) is not None:
        bare = LENDERS["diffusers"](str(pipeline)) if model.adapters else model
        return {"pipeline": pipeline.name, "sha256": _digest(bare.denoiser.state_dict())}
    if model.run is None:
        raise UsageError("Only a run that lies in a folder can be gone on from: give the folder.")
    seal = model.run.checkpoint(model.seen).sealed.seals[WEIGHTS]
    data = model.run.identity.get("fingerprint")
    return {
        "run": model.run.identity["id"],
        "seen": model.seen,
        "sha256": seal.sha256,
        "fingerprint": data,
    }


def _digest(weights: dict[str, Tensor]) -> str:
    digest = sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@opened_once()
def load_adapted(
    folder: RunFolder,
    config: RunConfig,
    adapters: Sequence[Adapter],
    *,
    seen: int | None = None,
    sigma_rel: float | None = None,
    device: str | torch.device = "cpu",
) -> Model:
    """As `load`, of an adapter's own folder, or with adapters put on."""
    others = [(RunFolder.open(place), strength) for place, strength in map(parsed, adapters)]
    if not config.adapt.is_adapter:
        if seen is None and sigma_rel is None:  # the run may have learned on since
            then = _identity(others[0][0]).get("seen")
            seen = then if then in folder.saved() else None
        return _with(load(folder.path, seen=seen, sigma_rel=sigma_rel, device=device), others)
    checkpoint, weights = chosen_weights(folder, seen, sigma_rel)
    learned = checkpoint.load(WEIGHTS) if weights is None else weights
    base = load_base(folder, config)
    base.denoiser.to(device)
    model = _with(put_on(base, folder, learned=learned), others)
    own = {name: getattr(config, name) for name in ("source", "seed", "data", "train", "sample")}
    config = replace(model.config, **own, adapt=config.adapt)
    seen = checkpoint.seen if seen is None else seen
    on = tuple(one for one in model.adapters if one[0] != folder.identity["id"])
    of_run = {"run": folder, "seen": seen, "sigma_rel": sigma_rel, "pipeline": None}
    return replace(model, config=config, adapters=on, **of_run)


def worn(model: Model, adapters: Sequence[Adapter]) -> Model:
    """`model` with adapters on, one after the other."""
    return _with(model, [(RunFolder.open(place), s) for place, s in map(parsed, adapters)])


def _with(model: Model, adapters: Sequence[tuple[RunFolder, float]]) -> Model:
    for adapter, strength in adapters:
        model = put_on(model, adapter, strength)
    return model


def load_base(folder: RunFolder, config: RunConfig) -> Model:
    """The run, or the pipeline, that the adapter in `folder` was learned on.

    Raises:
        UsageError: If it is no longer where it was.
    """
    place = Path(config.adapt.base)
    if (place / "run.json").is_file():
        return load(place, seen=config.adapt.seen)
    if not place.is_dir():
        raise UsageError(
            f"{shown(place)}, the base of {shown(folder.path)}, is no longer there: put it back, "
            f"or say where it is with --adapter {shown(folder.path)} after the base."
        )
    return lender("diffusers", place)


def put_on(
    model: Model,
    adapter: RunFolder,
    strength: float = 1.0,
    learned: dict[str, Tensor] | None = None,
) -> Model:
    """`model` with an adapter on.

    Args:
        model: The adapter's base, perhaps with other adapters on.
        adapter: The adapter's run.
        strength: What it adds is multiplied by. Its new words are there at any strength.
        learned: Its weights; those of its newest checkpoint by default.

    Raises:
        UsageError: If it is no adapter, or was learned on something else.
        ModelFileError: If its weights do not fit.
    """
    config = RunConfig.from_toml(adapter.config_toml, str(adapter.path / "config.toml"))
    _refuse_another_base(model, adapter, config)
    if learned is None:
        learned = chosen_weights(adapter, None, None)[0].load(WEIGHTS)
    model, learned = _told(model, adapter, config.data.word, learned)
    on = (*model.adapters, (adapter.identity["id"], strength))
    if not learned:
        return replace(model, adapters=on)
    own, built = read_known(adapter), model.config
    words = _joined(model.vocabulary, own.vocabulary, learned, adapter)
    if config.adapt.learn == "control":
        if isinstance(model.denoiser.net, Controlled):
            raise UsageError(f"{shown(adapter.path)} is a second control branch: leave one out.")
        words = replace(words, context=own.vocabulary.context, block=own.vocabulary.block)
        built = replace(built, adapt=replace(built.adapt, learn="control"))
    denoiser = build_denoiser(built, model.shape, words)
    try:
        denoiser.load_state_dict(_assembled(model, learned, strength, config.adapt.learn))
    except (ValueError, RuntimeError) as error:
        reason = shown(str(error).splitlines()[-1].strip(), 200)
        raise ModelFileError(f"{shown(adapter.path)} does not fit its base: {reason}.") from None
    answering(denoiser, model.device)
    beside = own.given if config.adapt.learn == "control" else model.given
    return replace(
        model, denoiser=denoiser, vocabulary=words, given=beside, config=built, adapters=on
    )


def _told(
    model: Model, adapter: RunFolder, word: str | None, learned: dict[str, Tensor]
) -> tuple[Model, dict[str, Tensor]]:
    """The model with the word of another library's texts that the adapter has; and what is left."""
    vectors = {k.removeprefix(READING): v for k, v in learned.items() if k.startswith(READING)}
    if not vectors:
        return model, learned
    if word is None or model.reader is None:
        raise ModelFileError(f"{shown(adapter.path)} does not fit its base: it names no word.")
    if word in model.reader.words:
        raise UsageError(_there_already(adapter, word))
    left = {name: value for name, value in learned.items() if not name.startswith(READING)}
    return replace(model, reader=model.reader.taught(word, vectors)), left


def _there_already(adapter: RunFolder, word: str) -> str:
    return f"{shown(adapter.path)} brings the word {shown(word)!r}, which is there already."


def _assembled(
    model: Model, learned: dict[str, Tensor], strength: float, kind: str
) -> dict[str, Tensor]:
    """The weights of a model with those of an adapter, by name."""
    state = model.denoiser.state_dict()
    if kind == "control":
        state = {_within(name): value for name, value in state.items()}
        state |= {k: strength * v if k.startswith("net.out.") else v for k, v in learned.items()}
    else:
        if isinstance(model.denoiser.net, Controlled):
            learned = {_within(name): value for name, value in learned.items()}
        state = grown(state, learned, strength)
    for table in TABLES:  # words that the branch has never heard
        _, _, name = f"{table}.weight".partition(".")
        known, heard = state.get(f"net.net.{name}"), state.get(f"net.branch.{name}")
        if known is not None and heard is not None:
            state[f"net.branch.{name}"] = torch.cat([heard, known[len(heard) :]])
    return state


def _within(name: str) -> str:
    """The name of a weight of a network that is now inside a controlled one."""
    return f"net.{name}" if name.startswith("net.") else name


def _joined(
    words: Vocabulary, own: Vocabulary, learned: dict[str, Tensor], adapter: RunFolder
) -> Vocabulary:
    """The words of a model and the new ones of an adapter."""
    classes, pieces = (len(learned.get(f"{table}.new", ())) for table in TABLES)
    new = own.classes[len(own.classes) - classes :]
    said, there = (w.words.added if isinstance(w.words, Words) else () for w in (own, words))
    said = said[len(said) - pieces :]
    if both := (set(new) & set(words.classes)) | (set(said) & set(there)):
        raise UsageError(_there_already(adapter, min(both)))
    heard = words.words
    if isinstance(heard, Words):
        heard = replace(heard, added=there + said)
    return replace(words, classes=words.classes + new, words=heard)


def _identity(adapter: RunFolder) -> dict[str, Any]:
    """What an adapter says of its base."""
    known, config = adapter.identity.get("base"), RunConfig.from_toml(adapter.config_toml)
    if not isinstance(known, dict) or not config.adapt.is_adapter:
        raise UsageError(
            f"{shown(adapter.path)} is a whole run, no adapter: make one with `ornstein train DATA "
            "--from RUN --lora 8`."
        )
    return known


def _refuse_another_base(model: Model, adapter: RunFolder, config: RunConfig) -> None:
    known, here = _identity(adapter), base_facts(model)
    if known.get("sha256") != here["sha256"]:
        raise UsageError(
            f"{shown(adapter.path)} was learned on {shown(config.adapt.base)} at "
            f"{shown(known.get('seen', 0))} examples, not on {shown(model.place)} at {model.seen}: "
            "an adapter fits the weights that it was learned on, and no others."
        )


def parsed(adapter: Adapter) -> tuple[Path, float]:
    """The folder of an adapter and its strength.

    Raises:
        UsageError: If the strength is no number that can be meant.
    """
    if isinstance(adapter, tuple):
        place, strength = Path(adapter[0]), float(adapter[1])
    else:
        before, colon, last = str(adapter).rpartition(":")
        place, strength = Path(adapter), 1.0
        if colon and not place.exists():
            with suppress(ValueError):
                place, strength = Path(before), float(last)
    if not isfinite(strength) or abs(strength) > 100:
        raise UsageError(f"The strength {strength} of {shown(place)} must lie in [-100, 100].")
    return place, strength
