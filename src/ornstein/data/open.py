"""`open_data`: whatever the user points at -> a dataset."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, Notice, UsageError
from .arrays import read_npy, read_npz
from .builtin import BUILT_IN
from .codec import measure, storage
from .dataset import Dataset, fingerprint, number_classes
from .decode import channels_first, is_picture
from .given import derive, is_derived
from .image import Format, ImageCodec, Layout
from .names import Unreadable, Unusable, shown
from .options import DataOptions
from .pictures import (
    assemble,
    conform,
    cut,
    describe,
    make_codec,
    open_pictures,
    pick,
    stop_at,
)
from .points import PointsCodec
from .prepared import prepared
from .room import packed, room
from .table import read_table

Source = str | Path | np.ndarray | Tensor | tuple | list

CHANNELS = 16  # of a picture, beyond which they might be slices
TABLES = (".csv", ".tsv", ".txt")
PICTURES = ("x_train", "train_images", "images", "image", "x", "data", "arr_0")
LABELS = ("y_train", "train_labels", "labels", "label", "y", "arr_1")


def open_data(source: Source, options: DataOptions | None = None) -> Dataset:
    """Read a dataset, into memory or, where it is large, into a mapped file; see `room`.

    What takes long to read is kept, and read no more until its files change; see `prepared`.

    Args:
        source: The name of a built-in dataset; a folder, zip, tar or tar.gz of pictures; a CSV;
            a .npy or .npz file; an array ``(N, D)`` of points or ``(N, H, W[, C])`` of pictures;
            a tensor ``(N, C, H, W)``; a list of pictures ``(H, W[, C])``; a pair
            ``(data, labels)`` of these.
        options: How.

    Raises:
        DataError: If there is nothing to read, or something that must be mended.
        StorageError: If there is no room on the disk for what memory does not hold.
        UsageError: If the options do not go together.
    """
    options = options or DataOptions()
    if options.given is None and options.make is not None:
        raise UsageError(f"The data option make = {options.make!r} needs given: what is known.")
    if options.given is None and options.given_noise:
        raise UsageError("The data option given_noise needs given: what to mix it into.")
    read = partial(_read, source, options)
    if not isinstance(source, (str, Path)) or is_built_in(source) or _is_run(Path(source)):
        return read()
    return prepared(Path(source), options, read)


def _read(source: Source, options: DataOptions) -> Dataset:
    """The dataset as its options say, from the user's own files."""
    data = _open(source, options)
    if options.patch is not None and data.patches is None:
        data = _patched(data)
    if options.word is not None:
        label = torch.zeros(len(data), dtype=torch.int64)
        data = _marked(replace(data, label=label, classes=[options.word]))
    if options.given is not None and data.given is None:
        data = _with_derived(data, options.given)
    return data if options.duplicates == "keep" else data.without_copies()


def _patched(data: Dataset) -> Dataset:
    """Patches of pictures that are all of one size."""
    codec, size = data.codec, data.options.patch or 1
    if not isinstance(codec, ImageCodec):
        raise DataError(f"--data.patch {size} is for pictures; {shown(data.source)} holds none.")
    found = list(zip(data.ids, data.stored.numpy(), strict=True))
    cells = cut(found, codec.dtype, data.options, data.source, codec.format, codec.layout)
    place = {name: i for i, name in enumerate(data.ids)}
    rows = torch.tensor([place[name] for name in cells.pictures], dtype=torch.int64)
    known, label = data.attributes, None if data.label is None else data.label[rows]
    attributes = None if known is None else (list(known.names), known.values[rows].numpy())
    levels = replace(cells.codec, levels=codec.levels)
    return describe(replace(cells, codec=levels), (label, data.classes), attributes)


def _with_derived(data: Dataset, word: str) -> Dataset:
    """`data` with what follows from each example itself."""
    if not is_derived(word):
        raise DataError(
            f"{shown(data.source)} has no {word!r} to be given: pairs are read from folders of "
            "pictures; or say small-8, grey, edges or sketch."
        )
    return _marked(replace(data, given=derive(data, word)))


def _marked(d: Dataset) -> Dataset:
    """`d` with the fingerprint of what it is."""
    mark = fingerprint(d.stored, d.ids, d.label, d.attributes, d.given, d.patches, d.captions)
    return replace(d, fingerprint=mark)


def _open(source: Source, options: DataOptions) -> Dataset:
    if isinstance(source, (str, Path)):
        return _open_path(source, options)
    if isinstance(source, Dataset):
        raise UsageError(
            f"These data are open already: give {shown(source.source)}, from which they were "
            "opened, and their options, as the data of a configuration."
        )
    data, labels = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    if isinstance(data, (list, tuple)):
        return _open_list(list(data), labels, options)
    return open_array(data, labels, options, "array")


def _is_run(path: Path) -> bool:
    """Whether a folder is a run, whose pictures are its own: no data to learn from."""
    return "\0" not in str(path) and (path / "run.json").is_file()


def is_built_in(source: str | Path) -> bool:
    """Whether `source` is the name of built-in data, and nothing to learn from lies there."""
    path = Path(source)
    return str(source) in BUILT_IN and (_is_run(path) or not path.exists())


def _open_path(source: str | Path, options: DataOptions) -> Dataset:
    path = Path(source)
    if is_built_in(source):
        return BUILT_IN[str(source)](options)
    if _is_run(path):
        raise DataError(f"{shown(path)} is a run, not data: give what such a run is trained on.")
    if "\0" in str(source) or not path.exists():
        known = ", ".join(BUILT_IN)
        raise DataError(
            f"There is no {shown(source)}; give a folder or file, or a built-in: {known}."
        )
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return open_pictures(path, options)
        if not path.is_file():
            raise DataError(f"{shown(path)} is not a regular file; give a folder or a file.")
        if suffix in TABLES:
            return _open_table(path, options)
        if suffix == ".npy":
            return open_array(read_npy(path), None, options, str(path), "npy")
        if suffix == ".npz":
            return _open_npz(path, options)
        if is_picture(path.name):
            raise DataError(f"{shown(path)} is one picture; give the folder it is in.")
        return open_pictures(path, options)
    except Unreadable as error:
        raise DataError(f"{shown(path)} cannot be used: {shown(error, 200)}.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{shown(path)} cannot be read ({reason}); check its rights.") from None


# --- Tables --------------------------------------------------------------------------------------


def _open_table(path: Path, options: DataOptions) -> Dataset:
    table = read_table(path, options)
    if not table.labels:
        options.check_label(table.columns, str(path))
    ids = [f"line-{line}" for line in table.lines]
    kept = set(pick(ids, options.limit))
    rows = [i for i, name in enumerate(ids) if name in kept]
    stored = torch.from_numpy(table.values[rows])
    mean, std = measure(stored)
    codec = PointsCodec(
        shape=(stored.shape[1],),
        dtype="float64",
        mean=mean,
        std=std,
        columns=table.columns,
        whole=tuple(i for i, whole in enumerate(table.whole) if whole),
        delimiter=table.delimiter,  # pyright: ignore[reportArgumentType] (one of the four)
        decimal=table.decimal,  # pyright: ignore[reportArgumentType]
        label=options.label,
    )
    dataset = Dataset(
        codec=codec,
        stored=stored,
        ids=[ids[i] for i in rows],
        problems=table.problems,
        source=str(path),
        options=options,
    )
    labels = [table.labels[i] for i in rows] if table.labels else []
    return describe(dataset, number_classes(labels, str(path)))


# --- Arrays --------------------------------------------------------------------------------------


def _open_npz(path: Path, options: DataOptions) -> Dataset:
    arrays = read_npz(path)
    wide = [name for name, array in arrays.items() if array.ndim >= 2 and len(array)]
    data = next((n for n in PICTURES if n in arrays), wide[0] if len(wide) == 1 else None)
    if data is None:
        names = ", ".join(shown(n, 30) for n in list(arrays)[:10])
        raise DataError(
            f"{shown(path)} holds the arrays {names}; name the one with the data x or images."
        )
    options.check_label(arrays, str(path))
    label = next((n for n in (options.label, *LABELS) if n in arrays and n != data), None)
    labels = None if label is None else arrays[label]
    return open_array(arrays[data], labels, options, str(path), "npy")


def _open_list(pictures: list, labels: object, options: DataOptions) -> Dataset:
    """A list of pictures, which may differ in size if one is chosen."""
    arrays = [np.asarray(p) for p in pictures]
    if arrays and all(a.ndim == 1 for a in arrays) and len({a.shape for a in arrays}) == 1:
        return open_array(np.stack(arrays), labels, options, "list")
    place = {f"item-{i:06d}": i for i in range(len(arrays))}
    found = []
    for name in pick(list(place), options.limit):
        array = arrays[place[name]]
        array = array[..., None] if array.ndim == 2 else array
        try:
            if array.ndim != 3 or not array.size:
                raise Unreadable(f"its shape {array.shape} is not (H, W) or (H, W, C)")
            found.append((name, conform(array, options)))
        except Unreadable as error:
            problem = Unusable(name, str(error))
            stop_at([problem], options, "list")
            found.append((name, problem))
    dataset = assemble(found, options, source="list")
    given = _given_labels(labels, len(arrays), "list")
    kept = [place[name] for name in dataset.pictures]
    return describe(dataset, number_classes([given[i] for i in kept] if given else [], "list"))


def open_array(
    data: np.ndarray | Tensor,
    labels: object,
    options: DataOptions,
    source: str,
    kind: Format = "png",
) -> Dataset:
    """An array of points ``(N, D)`` or pictures; see `open_data` for the axes.

    Of an array ``(N, *, *, *)`` the last axis is channels; the second is where it alone has one,
    three or four entries, and always in a tensor.
    """
    array = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    if array.dtype.kind not in "buif" or array.dtype in (np.uint64, np.longdouble):
        raise DataError(f"{shown(source)} holds values of type {array.dtype}; give plain numbers.")
    if not array.size or array.ndim not in (1, 2, 3, 4):
        raise DataError(
            f"{shown(source)} has the shape {array.shape}; give (N, D) for points, (N, H, W) or "
            "(N, H, W, C) for pictures, none of them empty."
        )
    given = _given_labels(labels, len(array), source)
    finite = np.ones(len(array), bool)
    if array.dtype.kind == "f":
        finite = np.array([np.isfinite(row).all() for row in array])
    bad = [Unusable(f"row {i}", "it holds NaN or infinite values") for i in np.flatnonzero(~finite)]
    stop_at(bad, options, source)
    if not finite.any():
        raise DataError(f"{shown(source)} holds NaN or infinite values in every row.")
    ids = [f"row-{i:06d}" for i in range(len(array))]
    kept = set(pick([ids[i] for i in np.flatnonzero(finite)], options.limit))
    rows = [i for i, name in enumerate(ids) if name in kept]
    array = array if len(rows) == len(array) else packed(array, array.dtype, np.array(rows))
    if array.ndim <= 2:
        codec, stored = _points(array)
    else:
        codec, stored = _pictures(array, isinstance(data, Tensor), kind, options, source)
    dataset = Dataset(
        codec=codec,
        stored=stored,
        ids=[ids[i] for i in rows],
        problems=bad,
        source=source,
        options=options,
    )
    return describe(dataset, number_classes([given[i] for i in rows] if given else [], source))


def _points(array: np.ndarray) -> tuple[PointsCodec, Tensor]:
    """Rows ``(N, D)`` or ``(N,)``."""
    array = array[:, None] if array.ndim == 1 else array
    stored = torch.from_numpy(packed(array, storage(array.dtype.name)))
    mean, std = measure(stored)
    codec = PointsCodec(
        shape=(stored.shape[1],), dtype=array.dtype.name, mean=mean, std=std, format="npy"
    )
    return codec, stored


def _pictures(
    array: np.ndarray, tensor: bool, kind: Format, options: DataOptions, source: str
) -> tuple[ImageCodec, Tensor]:
    """Pictures ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``."""
    layout: Layout = "HW" if array.ndim == 3 else "HWC"
    if array.ndim == 4 and (tensor or channels_first(array.shape)):
        layout, array = "CHW", np.moveaxis(array, 1, 3)
    if array.ndim == 4 and array.shape[3] > CHANNELS:
        count, height, width, channels = array.shape
        warnings.warn(
            f"{shown(source)} is read as {count:,} pictures of {height} x {width} in {channels} "
            "channels. If they are volumes, give their slices: an array (N, H, W).",
            Notice,
            stacklevel=4,
        )
    array = array[..., None] if layout == "HW" else array
    dtype = array.dtype.name
    if options.size is not None or options.channels not in (None, array.shape[3]):
        try:
            planes = _conformed(array, options)
        except Unreadable as error:
            raise DataError(f"{shown(source)} cannot be used: {error}.") from None
        layout = "HWC" if layout == "HW" and planes.shape[1] > 1 else layout
    else:
        planes = packed(array.transpose(0, 3, 1, 2), storage(dtype))
    stored = torch.from_numpy(planes)
    return make_codec(stored, dtype, kind, layout), stored


def _conformed(array: np.ndarray, options: DataOptions) -> np.ndarray:
    """Pictures ``(N, H, W, C)`` of the size and channels asked for, as stored ``(N, C, *S)``."""
    height, width, channels = conform(array[0], options).shape
    planes = room((len(array), channels, height, width), storage(array.dtype.name))
    for i, picture in enumerate(array):
        planes[i] = np.moveaxis(conform(picture, options), 2, 0)
    return planes


def _given_labels(labels: object, count: int, source: str) -> Sequence[object] | None:
    """Labels as given in memory or in an array, one for each example."""
    if labels is None:
        return None
    try:
        array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    except ValueError:
        raise DataError(
            f"{shown(source)}: the labels differ in shape; give one for each."
        ) from None
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or len(array) != count:
        raise DataError(
            f"{shown(source)} has {count} examples and labels of shape {array.shape}; "
            "give one label for each."
        )
    return array.tolist()
