"""Going on from a run: what new data mean to it, and which of its weights are learned."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.denoise import NetDenoiser
from ..core.sample import SAMPLERS, start
from ..data.captions import Captions, Texts, Words, called
from ..data.codec import Codec
from ..data.dataset import Attributes, Dataset
from ..data.given import Given
from ..data.image import ImageCodec
from ..data.names import shown
from ..data.options import DataOptions
from ..data.reader import Reader
from ..errors import DataError, UsageError
from ..interop.adopted import LENT
from ..interop.pipeline import INDEX
from ..interop.texts import PipelineReader
from ..interop.words import Reading, Spelling, introduced
from ..nets import Controlled
from ..nets.adapters import NewWords, add_low_rank, freeze
from ..rng import normal
from ..runs.adapters import TABLES, base_facts
from ..runs.building import GRIDS
from ..runs.config import AdaptConfig, RunConfig
from ..runs.folder import RunFolder
from ..runs.latents import LatentCodec
from ..runs.lent import lender
from ..runs.model import Model, load

LABELS, PIECES = (f"{table}.weight" for table in TABLES)
DRAWN = 256  # examples that the base draws of the class that is not to be forgotten
ROOM = 64  # of them at once

RATES = {"all": 1.0, "low-rank": 2.0, "words": 5.0, "control": 1.0}
"""Of learning, over the base's own: an addition has to grow from nothing, a word is one row."""

UNWEIGHTED: dict[str, Any] = {"velocity": "balanced", "flow": "flow"}
"""The weighting by which the error of a prediction counts as it is, whatever that of the base."""


# --- What to do ----------------------------------------------------------------------------------


def adaptation(
    run: Model | str | Path,
    learn: Literal["all", "low-rank", "words", "control"] = "low-rank",
    *,
    rank: int = 8,
    targets: Sequence[str] = (),
    like: str = "",
    predict: Literal["velocity", "flow"] | None = None,
) -> RunConfig:
    """The configuration of a training that goes on from `run`, for `train`.

    Args:
        run: Its base, or where that lies; or a pipeline of diffusers.
        learn: As in `AdaptConfig`, like all that follows.
        rank: Of additions of low rank.
        targets: Layers that get them, by parts of their paths; all by default.
        like: The class that new ones begin as.
        predict: What the network learns to predict in place of what it does.

    Raises:
        UsageError: If the run is a student, an adapter, controlled, or adds to a mean; or there is
            no such class.
        ModelFileError: If ours cannot be what the network of a pipeline is.
    """
    base = run if isinstance(run, Model) else begun(run)
    if base.run is None and base.pipeline is None:
        raise UsageError("Only a run that lies in a folder can be gone on from: give the folder.")
    place, config = base.place, base.config
    if config.net.pipeline and learn == "control":
        raise UsageError(
            f"{shown(place)} has a network of another library, which takes no control branch. Go "
            "on with --lora, or with all of its weights."
        )
    if predict and learn != "all":
        raise UsageError("To predict something else takes all weights: leave --predict out.")
    if config.distill.teacher or config.distill.looks_ahead:
        raise UsageError(f"{place} is a student of few steps: go on from its teacher, then distil.")
    if config.mean:
        raise UsageError(
            f"{place} adds to a mean, and what it learned is what that leaves: train anew with "
            "--mean, or go on from a run without."
        )
    if base.encoder is not None and learn in ("words", "control"):
        raise UsageError(
            f"{place} hears what its encoder does: it learns no new words, and takes no control "
            "branch. Go on with --lora, or with all of its weights."
        )
    if isinstance(base.denoiser.net, Controlled):
        raise UsageError(f"{place} is a control branch: go on from its base, {config.adapt.base}.")
    if config.adapt.is_adapter and not config.net.pipeline:
        raise UsageError(f"{place} is an adapter: go on from its base, {config.adapt.base}.")
    if learn == "control" and (base.given is not None or config.net.kind == "mlp"):
        why = "is given pictures already" if base.given else "draws points, not pictures"
        raise UsageError(f"{place} {why}: it takes no control branch.")
    if like and (base.reader or base.vocabulary.words) is None:
        like = _named(base, like)
    adapt = AdaptConfig(
        base=place, seen=base.seen, learn=learn, rank=rank, targets=tuple(targets), like=like
    )
    rate = RATES[learn] * config.train.learning_rate
    kind = config.train.optimizer if learn in ("all", "control") else "adamw"
    train = replace(config.train, learning_rate=rate, optimizer=kind)
    if adapt.is_adapter:  # which stays small: one average, kept once
        train = replace(train, ema=train.ema[:1], ema_snapshots=1)
    config = replace(config, data=options_of(base, DataOptions()), train=train, adapt=adapt)
    if predict is None:
        return config
    plain = replace(config.denoiser, prediction=predict, weighting=UNWEIGHTED[predict])
    return replace(config, denoiser=plain)


def _named(base: Model, like: str) -> str:
    """The name of a class that is given by its name or its number."""
    known = base.vocabulary
    if (number := known.label(like)) < 0:
        raise UsageError(f"--like {like} is no class: name one, as {shown(known.classes[0])}.")
    return known.classes[number]


def options_of(base: Model, options: DataOptions) -> DataOptions:
    """How to read data for a run to go on with: as its own, where `options` say nothing else."""
    own, codec = base.config.data, _codec_of(base)
    size, channels = options.size or own.size, options.channels or own.channels
    if isinstance(codec, ImageCodec) and own.patch is None and options.patch is None:
        square = codec.shape[1] == codec.shape[2]
        size = size or (codec.shape[2] if square else None)
        channels = channels or next((n for n in (1, 3, 4) if n == codec.shape[0]), None)
    paired = own if base.given is not None else options
    return replace(
        options,
        size=size,
        channels=channels,
        patch=options.patch or own.patch,
        flip=own.flip,
        shift=own.shift,
        given=options.given or paired.given,
        make=options.make or paired.make,
        given_noise=own.given_noise,
    )


def _codec_of(base: Model) -> Codec:
    """Of the data that a run learns from: a prior's are pictures, as its encoder sees them."""
    if base.encoder is not None and _is_prior(base):
        return base.encoder.codec
    return base.codec.data


def _is_prior(base: Model) -> bool:
    return base.encoder is not None and base.config.embedding.role == "prior"


def base_of(config: RunConfig) -> Model:
    """The run that a configuration goes on from.

    Raises:
        UsageError: If it is not there.
    """
    place = Path(config.adapt.base)
    if not any((place / name).is_file() for name in ("run.json", INDEX)):
        raise UsageError(f"[adapt] base = {config.adapt.base!r} is no run: say where it is.")
    return begun(place, config.adapt.seen or None)


def begun(place: str | Path, seen: int | None = None) -> Model:
    """The run at a place; or the pipeline of diffusers there, as the run that it may become."""
    pipeline = (Path(place) / INDEX).is_file()
    return lender(LENT, place) if pipeline else load(place, seen=seen)


def check_same_base(config: RunConfig, folder: RunFolder) -> None:
    """Refuse to go on with a run whose base is no longer what it was."""
    if config.adapt.base and base_facts(base_of(config)) != folder.identity.get("base"):
        raise UsageError(
            f"{shown(config.adapt.base)} is not what {shown(folder.path)} goes on from: put that "
            "back."
        )


# --- What the data mean to it --------------------------------------------------------------------


def in_words_of(base: Model, data: Dataset, adapt: AdaptConfig) -> Dataset:
    """`data` as the network of `base` will see them.

    In its units. A class keeps the number it has there by its name, and new ones come after; a
    run without labels, and a control branch, hear of no new ones. Attributes keep their places by
    their names too, and their scale; what the data do not have is not given.

    Raises:
        DataError: If the data are of another shape or type than the run draws.
        UsageError: If nothing in them is new, where new words are to be learned.
    """
    place, known, codec = base.place, base.vocabulary, data.codec
    own = _codec_of(base)
    kinds = [(c.kind, c.shape, c.dtype, c.levels) for c in (codec, own)]
    if kinds[0] != kinds[1]:
        ours, theirs = (
            f"{c.shape} of {c.dtype}" + (f" in {c.levels} levels" if c.levels else "")
            for c in (codec, own)
        )
        raise DataError(
            f"{shown(data.source)} holds {ours}, but {shown(place)} draws {theirs}: bring the data "
            "to that, or begin anew without --from."
        )
    label, classes, captions = None, list(known.classes), _captions(base, data, adapt)
    if classes and base.config.net.pipeline:
        _refuse_new_classes(base, data)
    if classes:
        if adapt.learn != "control":
            classes += [name for name in data.classes if name not in classes]
        number = {name: i for i, name in enumerate(classes)}
        lookup = torch.tensor([*(number.get(name, -1) for name in data.classes), -1])
        label = torch.full((len(data),), -1) if data.label is None else lookup[data.label]
    reads = base.reader or known.words
    fresh = len(classes) > len(known.classes) or (captions and captions.words != reads)
    deaf = base.encoder is not None or (not classes and captions is None)
    if (adapt.like or data.options.word) and deaf:
        why = "goes by an encoder" if base.encoder else "was trained without labels"
        raise UsageError(f"{shown(place)} {why}: it hears no new words.")
    if adapt.learn == "words" and not fresh:
        raise UsageError(
            f"{shown(data.source)} holds no class that {shown(place)} does not know: name a new "
            "one with --word, or learn more than words, with --lora."
        )
    return replace(
        data,
        codec=own,
        label=label,
        classes=classes,
        captions=data.captions if _is_prior(base) else captions,
        attributes=_attributes(base, data),
        given=_given(base, data, adapt),
    )


def _refuse_new_classes(base: Model, data: Dataset) -> None:
    """A network of another library has a fixed number of classes, and perhaps none besides."""
    known, hears_none = base.vocabulary.classes, base.config.train.condition_dropout > 0
    new = [name for name in data.classes if name not in known]
    if new or (not hears_none and (data.label is None or (data.label < 0).any())):
        what = f"the class {shown(new[0])!r}" if new else "examples without a class"
        raise DataError(
            f"{shown(data.source)} holds {what}, but {shown(base.place)} knows {shown(known[0])!r} "
            f"to {shown(known[-1])!r} and no others: name the folders of the data so."
        )


def _captions(base: Model, data: Dataset, adapt: AdaptConfig) -> Captions | None:
    """The captions of the data in the words of the run, and the word that all of them are.

    A new word is a piece of its own, and stands before what else is said.
    """
    if (words := base.reader or base.vocabulary.words) is None:
        return None
    texts = data.captions.texts if data.captions else ((),) * len(data)
    if (word := data.options.word) is not None:
        if isinstance(words, PipelineReader):
            return _spelt(words, word, texts, adapt)
        if not isinstance(words, Words):
            who = words.encoder if isinstance(words, Reader) else base.place
            raise UsageError(
                f"The encoder of {shown(who)} reads the texts of this run, and learns no word: say "
                "what is new in captions, and learn with --lora."
            )
        word = word.lower()
        if adapt.learn != "control" and word not in words.added:
            words = replace(words, added=(*words.added, word))
        texts = called(word, texts)
    return Captions(words=words, texts=texts)


def _spelt(reader: PipelineReader, word: str, texts: Texts, adapt: AdaptConfig) -> Captions:
    """Captions with a new word, for encoders of another library that learn it."""
    if adapt.learn == "all":
        raise UsageError(
            "A new word of a pipeline is learned beside its network, not with all weights of it: "
            "say --lora 8 too, or the word alone."
        )
    spelling = Spelling(introduced(reader, word, adapt.like))
    return Captions(words=spelling, texts=called(word, texts))


def _attributes(base: Model, data: Dataset) -> Attributes | None:
    """The attributes that the run knows, NaN where the data have none."""
    known = base.vocabulary
    if not known.attributes:
        return None
    values = torch.full((len(data), len(known.attributes)), torch.nan, dtype=torch.float64)
    if data.attributes is not None:
        for i, name in enumerate(known.attributes):
            if name in data.attributes.names:
                values[:, i] = data.attributes.values[:, data.attributes.names.index(name)]
    return Attributes(names=known.attributes, values=values, mean=known.means, std=known.stds)


def _given(base: Model, data: Dataset, adapt: AdaptConfig) -> Given | None:
    """What is given, in the units of the run, or in its own to a control branch."""
    if adapt.learn == "control":
        if data.given is None:
            raise UsageError("A control branch is given pictures: say --given edges, or a folder.")
        return data.given
    if (data.given is None) != (base.given is None):
        why = "is given pictures" if base.given else "is given no pictures, unless with --control"
        raise UsageError(f"{shown(base.place)} {why}: {shown(data.source)} must fit.")
    if data.given is None or base.given is None:
        return None
    if data.given.codec.shape != base.given.shape:
        raise DataError(
            f"What is given in {shown(data.source)} is {data.given.codec.shape}, but "
            f"{shown(base.place)} is given {base.given.shape}."
        )
    return replace(data.given, codec=base.given)


# --- What is not to be forgotten -----------------------------------------------------------------


KEPT = "remembered"  # under this name in the run folder: what is drawn once is not drawn again


def recall(config: RunConfig, data: Dataset, folder: RunFolder | None = None) -> Dataset:
    """`data` and, if a class is not to be forgotten, the base's examples of it.

    Args:
        config: Of this run.
        data: In the words of its base.
        folder: Where they were kept, if they were; else they are drawn.
    """
    if not (name := config.adapt.like):
        return data
    if data.patches is not None or data.given is not None:
        raise UsageError(f"--like {name} is for examples as they are: not for patches and pairs.")
    if folder is not None and KEPT in folder.kept_names():
        stored = folder.kept(KEPT)["stored"]
    else:
        stored = drawn(base_of(config), name, config.seed)
        if isinstance(data.codec, LatentCodec) and data.stored.shape[1:] == data.codec.shape:
            stored = data.codec.encode(stored)
    return with_memory(data, stored, name)


def keep_memory(config: RunConfig, data: Dataset, folder: RunFolder) -> None:
    """Keep what `recall` has added."""
    if config.adapt.like and KEPT not in folder.kept_names():
        folder.keep(KEPT, {"stored": data.stored[len(data) // 2 :][:DRAWN]})


def drawn(base: Model, name: str, seed: int) -> Tensor:
    """Examples of the class `name` that `base` draws, as stored: ``(DRAWN, C, *S)``."""
    plan, schedule = base.config.sample, base.denoiser.schedule
    times = GRIDS[plan.grid](schedule, plan.steps)
    known, parts = base.vocabulary, list[Tensor]()
    if (words := base.reader or known.words) is not None:
        told = {"text": words.tensor([name] * ROOM)}
    else:
        told = {"label": torch.full((ROOM,), known.label(name))}
    with torch.no_grad():
        for first in range(0, DRAWN, ROOM):
            x = start(schedule, times[0], normal((ROOM, *base.shape), seed, "remembered", first))
            x = SAMPLERS["adams-bashforth"](base.denoiser.given(**told), x, times)
            parts.append(torch.from_numpy(base.codec.stored(x)))
    return torch.cat(parts)


def with_memory(data: Dataset, stored: Tensor, name: str) -> Dataset:
    """`data`, then as many examples of the class `name`, or of that caption.

    Source: prior preservation: Ruiz et al. (2022), https://arxiv.org/abs/2208.12242, section 3.3.
    """
    rows = torch.arange(max(len(data), len(stored)))
    here = data.subset(rows % len(data))
    label, known, captions = here.label, here.attributes, here.captions
    if captions is not None:
        captions = replace(captions, texts=captions.texts + ((name,),) * len(rows))
    if label is not None:
        number = data.classes.index(name) if name in data.classes else -1
        label = torch.cat([label, torch.full_like(label, number)])
    if known is not None:
        absent = torch.full_like(known.values, torch.nan)
        known = replace(known, values=torch.cat([known.values, absent]))
    return replace(
        here,
        stored=torch.cat([here.stored, stored[rows % len(stored)].to(here.stored)]),
        ids=here.ids + [f"drawn-{i:04d}" for i in (rows % len(stored)).tolist()],
        label=label,
        attributes=known,
        captions=captions,
    )


# --- What is learned -----------------------------------------------------------------------------


def go_on_from(base: Model, denoiser: NetDenoiser, config: RunConfig) -> None:
    """Give `denoiser` the weights of `base`, and freeze what is not to be learned.

    Args:
        base: The run to go on from.
        denoiser: As `config` describes it, untrained.
        config: Of this run.

    Raises:
        UsageError: If there are no layers of the names in ``adapt.targets``, or `config` wants
            another network.
    """
    adapt, state, own = config.adapt, base.denoiser.state_dict(), base.config
    if adapt.learn == "all":  # weights can learn to predict something else
        loss = {name: getattr(config.denoiser, name) for name in ("prediction", "weighting")}
        own = replace(own, denoiser=replace(own.denoiser, **loss))
    for table in ("net", "denoiser", "schedule"):
        if getattr(config, table) != getattr(own, table):
            raise UsageError(f"[{table}] must be as in {adapt.base}: leave it out.")
    if adapt.learn == "control":
        assert isinstance(denoiser.net, Controlled)
        denoiser.net.net.load_state_dict(base.denoiser.net.state_dict())
        denoiser.net.begin()
        for part in (denoiser.uncertainty, denoiser.curve):
            if part is not None:
                freeze(part)
        return
    new = dict[str, Tensor]()
    for table, like in ((LABELS, _label_like(base, adapt)), (PIECES, _pieces_like(base, adapt))):
        known, wanted = state.get(table), denoiser.state_dict().get(table)
        if known is not None and wanted is not None and len(wanted) > len(known):
            first = known[like].mean(0)
            new[table] = first.expand(len(wanted) - len(known), -1)
            state[table] = torch.cat([known, new[table]])
    denoiser.load_state_dict(state)
    if adapt.learn == "all":
        return
    freeze(denoiser)
    if adapt.learn == "low-rank":
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                add_low_rank(denoiser.net, adapt.rank, adapt.targets)
        except ValueError as error:
            raise UsageError(f"[adapt] targets: {error}.") from None
    for table, first in new.items():
        place, _, name = table.removesuffix(".weight").rpartition(".")
        words = NewWords(base.denoiser.state_dict()[table], first)
        setattr(denoiser.get_submodule(place), name, words)
    if (word := config.data.word) is not None and isinstance(base.reader, PipelineReader):
        denoiser.net.reading = Reading(introduced(base.reader, word, adapt.like), word)


def _label_like(base: Model, adapt: AdaptConfig) -> list[int]:
    """The classes that new ones begin as the mean of."""
    known = base.vocabulary
    named = adapt.like and (base.reader or known.words) is None
    return [known.label(adapt.like)] if named else list(range(len(known.classes)))


def _pieces_like(base: Model, adapt: AdaptConfig) -> list[int]:
    """The pieces of words that new words begin as the mean of."""
    words = base.vocabulary.words
    if not isinstance(words, Words):
        return []
    return words.pieces(adapt.like) if adapt.like else list(range(len(words)))
