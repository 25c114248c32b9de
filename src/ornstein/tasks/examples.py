"""The examples a verb works on: the user's files, and the data that a run came from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset, open_data
from ..data.captions import Captions, called
from ..data.codec import storage
from ..data.decode import decode, is_picture, strict_decoders
from ..data.files import read_file
from ..data.names import Unreadable, shown
from ..data.options import DataOptions
from ..data.places import Place, files_in
from ..errors import DataError, UnknownLabel, UsageError
from ..runs.embedding import embedded
from ..runs.model import Model

TABLES = (".csv", ".tsv", ".txt", ".npy")

Places = Place | Sequence[Place] | Tensor
"""Files, folders, patterns as ``scans/*.png``; or a stored batch ``(N, C, *S)``."""


@dataclass(frozen=True, eq=False)
class Examples:
    """What was given to work on.

    Args:
        stored: ``(N, C, *S)``, in the dtype of the run's data.
        ids: The file of each, with the row or page if it holds several.
    """

    stored: Tensor = field(repr=False)
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> tuple[str, ...]:
        """For what is made of each: the name of its file, with the page; none if two are alike."""
        split = (name.partition("#") for name in self.ids)
        names = [Path(path).stem + (page and f"-{page}") for path, _, page in split]
        return tuple(names) if len(set(names)) == len(names) else ()


def read_examples(model: Model, places: Places) -> Examples:
    """The examples in files, in the folders among them, and in what patterns match.

    Raises:
        UsageError: If a batch does not have the shape of the run's examples, or nothing is there.
        DataError: If a file cannot be read, or is of another size or kind than the run's data.
    """
    shape = model.codec.data.shape
    if isinstance(places, Tensor):
        if tuple(places.shape[1:]) != shape:
            raise UsageError(
                f"The examples have shape {tuple(places.shape)}, but the run was trained on "
                f"{shape}: give (N, {', '.join(map(str, shape))})."
            )
        return Examples(places, [f"row-{i:06d}" for i in range(len(places))])
    parts, ids = [], []
    for path in _files(model, places):
        if len(shape) == 3 and model.config.data.size is None:
            refuse_another_size(shape, path)
        found = model.codec.read(path)
        parts.append(found)
        ids += [str(path)] if len(found) == 1 else [f"{path}#{i}" for i in range(len(found))]
    return Examples(torch.cat(parts), ids)


def _files(model: Model, places: Place | Sequence[Place]) -> list[Path]:
    """Every file that is named; refuses what can hold no examples of the run's kind."""
    shape = model.codec.data.shape
    pictures = len(shape) > 1
    paths = files_in(places, partial(_could_be, picture=pictures))
    if pictures and (table := next((p for p in paths if p.suffix.lower() in TABLES[:3]), None)):
        raise DataError(
            f"{shown(table)} is a table, but the run was trained on pictures of shape "
            f"{shape}: give pictures."
        )
    if not pictures and (other := next((p for p in paths if not _could_be(p.name, False)), None)):
        raise DataError(
            f"{shown(other)} is no table, but the run was trained on rows of {prod(shape)} "
            "numbers: give a CSV or an npy file."
        )
    return paths


def _could_be(name: str, picture: bool) -> bool:
    return is_picture(name) if picture else name.lower().endswith(TABLES)


def refuse_another_size(shape: tuple[int, ...], path: Path) -> None:
    """A picture that would be scaled, although those of the training were not, looks strange."""
    if path.suffix == ".npy":
        return
    try:
        with strict_decoders():
            pages = decode(read_file(path), shape[0])
    except (Unreadable, OSError):
        return  # the codec says it better
    for page in pages:
        if page.shape[:2] != shape[1:]:
            (height, width), (h, w) = page.shape[:2], shape[1:]
            raise DataError(
                f"{shown(path)} is {width} x {height}, but the run was trained on pictures of "
                f"{w} x {h} that nothing was done to: cut it to that size, or train "
                "with --data.size."
            )


# --- What the run was trained on -----------------------------------------------------------------


def training_data(model: Model, data: Dataset | None = None) -> tuple[Dataset, Dataset]:
    """What the run was trained on, and what its training left out, as it was then.

    Args:
        model: The run.
        data: The data, if the run was trained on an array.

    Raises:
        DataError: If the data are no longer there, or no longer what they were.
    """
    config = model.config
    if data is None:
        if config.source == "array":
            raise UsageError("This run was trained on an array: give it again, as data=...")
        data = open_data(config.source, config.data)
    if model.run is not None and data.fingerprint != model.run.identity.get("fingerprint"):
        raise DataError(
            f"The data {shown(config.source)} are not those that {model.run.path} was trained on, "
            "so what it never saw is not known: put them back, or train again."
        )
    train, held_out = _as_told(model, data).split(config.data.validation, config.seed)
    if model.encoder is not None:
        role = config.embedding.role
        return embedded(train, model.encoder, role), embedded(held_out, model.encoder, role)
    if data.codec.shape != model.codec.data.shape:
        raise DataError(
            f"{shown(config.source)} holds examples of shape {data.codec.shape}, the run makes "
            f"{model.codec.data.shape}."
        )
    return train, held_out


def _as_told(model: Model, data: Dataset) -> Dataset:
    """`data` with captions as the run reads them: they begin with the word that it was taught."""
    word = model.config.data.word if model.config.adapt.base else None
    reads = model.reader or (model.vocabulary.words if word else None)
    if reads is None or (word is None and data.captions is None):
        return data
    texts = data.captions.texts if data.captions else ((),) * len(data)
    texts = texts if word is None else called(word, texts)
    return replace(data, captions=Captions(words=reads, texts=texts))


def other_data(model: Model, source: str) -> Dataset:
    """Data of the run's kind that it never saw, read as its training data were.

    Raises:
        DataError: If they are of another kind.
    """
    codec = model.codec.data
    options = replace(model.config.data, limit=None)
    try:
        data = open_data(source, options)
    except UnknownLabel:  # of these, no class needs to be known
        data = open_data(source, replace(options, label=DataOptions.label))
    if data.codec.shape != codec.shape or storage(data.codec.dtype) != storage(codec.dtype):
        raise DataError(
            f"{shown(source)} holds examples of shape {data.codec.shape} and type "
            f"{data.codec.dtype}, the run was trained on {codec.shape} of {codec.dtype}."
        )
    return _as_told(model, data)


def flat(x: Tensor) -> np.ndarray:
    """Rows ``(N, D)`` of float64, for methods that know no shape."""
    return x.flatten(1).double().numpy()
