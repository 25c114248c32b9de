"""A folder or archive of pictures -> a dataset: which files, which classes, one shape."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..progress import counted
from .beside import FILE_NAME, attributes_of, is_beside, labels_of, read_beside, unread_of
from .captions import Captions, is_text, read_captions
from .codec import few_values, measure, storage
from .dataset import Attributes, Dataset, Labels, fingerprint
from .decode import cover, decode, is_picture, rechannel, strict_decoders
from .files import Files, open_files
from .given import Given, find_pairs, is_derived
from .image import Format, ImageCodec, Layout, fits_png
from .names import Unreadable, Unusable, natural, shown
from .options import DataOptions
from .patches import lay, measure_pixels
from .room import Shelf, room, taken

TRAIN = ("train", "training")
OTHER_SPLITS = ("validation", "valid", "val", "dev", "test", "testing")
SHAPES = 32  # different sizes of pictures after which reading stops to ask for one size
THREADS_FROM = 16_384  # mean bytes of a file from which threads gain more than they cost

Picture = np.ndarray


def open_pictures(path: Path, options: DataOptions) -> Dataset:
    """Read a folder, zip, tar or tar.gz of pictures.

    A common folder around all is passed over. Of ``train``, ``validation`` and ``test``, the
    first is read. The folder next below names the class, unless ``metadata.jsonl`` or ``.csv``
    has a column for it; its other numeric columns are attributes. Captions are its column
    ``text``, one or in JSON a list of them, or the lines of ``img.txt`` beside ``img.png``.

    Raises:
        DataError: Naming the file, unless ``on_bad = skip``; always, if none can be read.
    """
    with open_files(path, is_of_pictures) as files:
        names = sorted((n for n in files.sizes if is_picture(n)), key=natural)
        root, names = find_root(names)
        problems = [p for p in files.problems if p.path.startswith(root)]
        stop_at(problems, options, path)
        if not names:
            raise DataError(
                f"{shown(path)} holds no pictures, which end in .png, .jpg, .tif ... Slices of "
                "volumes can be saved as 16-bit .png; sound is not read."
            )
        rows = read_beside(files, path, root)
        absent = [n for n in rows if n not in files.sizes]
        missing = [Unusable(n, "named in the metadata, but not there") for n in absent]
        partner: dict[str, str] = {}
        if options.given is not None and (options.make or not is_derived(options.given)):
            pairs = find_pairs(names, rows, root, options.given, options.make, str(path))
            root, partner = pairs.root, pairs.partner
            alone = [n for n, other in partner.items() if other not in files.sizes]
            names = sorted((n for n in partner if n in files.sizes), key=natural)
            names = [n for n in names if n not in set(alone)]
            lost = [n for n in partner if n not in files.sizes and n not in rows]
            missing += [Unusable(n, "named in the metadata, but not there") for n in lost]
            missing += [Unusable(n, "nothing is given for it") for n in alone]
            missing += pairs.problems
        else:
            others = {v for row in rows.values() for k, v in row.items() if k.endswith(FILE_NAME)}
            names = [n for n in names if n not in others]
        stop_at(missing, options, path)
        chosen = pick(names, options.limit)
        sizes: Counter[tuple[int, int]] = Counter()
        found = _decode_all(files, chosen, options, path, sizes)
        beside = [partner[n] for n in chosen if n in partner]
        captions = read_captions(files, chosen, rows, str(path))
        as_is = replace(options, channels=None)
        told = _decode_all(files, beside, as_is, path, Counter()) if beside else []
    dataset = assemble(
        found,
        options,
        source=str(path),
        problems=problems + missing,
        prefer=_format(chosen),
    )
    if told:
        dataset = _paired(dataset, assemble(told, as_is, source=str(path)), partner)
    origin = [i if i in files.sizes else i.rpartition("#")[0] for i in dataset.pictures]
    labels = labels_of(origin, rows, root, str(path), options)
    dataset = replace(dataset, sizes=dict(sizes.most_common()))
    if captions:
        said = Captions.of([captions.get(n, ()) for n in origin], options.text_encoder)
        dataset = replace(dataset, captions=said)
    attributes = attributes_of(origin, rows, options)
    unread = unread_of(rows, options, attributes[0] if attributes else ())
    return describe(replace(dataset, unread=unread), labels, attributes)


def is_of_pictures(name: str) -> bool:
    """Whether a file of this name is a picture, or may say something of pictures beside it."""
    return is_picture(name) or is_beside(name) or is_text(name)


def _paired(made: Dataset, given: Dataset, partner: dict[str, str]) -> Dataset:
    """The examples of `made` for which `given` holds a picture, with it."""
    place = {name: i for i, name in enumerate(given.ids)}
    bad = {problem.path for problem in given.problems}
    pairs, uneven = [], list[Unusable]()
    for i, name in enumerate(made.ids):
        origin, mark, page = name.rpartition("#") if name not in partner else (name, "", "")
        if (there := place.get(f"{partner[origin]}{mark}{page}")) is not None:
            pairs.append((i, there))
        elif not bad & {partner[origin], f"{partner[origin]}{mark}{page}"}:
            reason = f"{partner[origin]}, which is given for it, has other pages"
            uneven.append(Unusable(name, reason))
    stop_at(uneven, made.options, made.source)
    if not pairs:
        raise DataError(f"{shown(made.source)}: of no pair can both pictures be used.")
    rows, there = torch.tensor(pairs).T
    dataset = made.subset(rows)
    told = Given(codec=given.codec, stored=taken(given.stored, there))
    return replace(dataset, given=told, problems=made.problems + given.problems + uneven)


# --- Which files ---------------------------------------------------------------------------------


def _format(names: Sequence[str]) -> Format:
    """The format to save in: that of most `names`, or PNG for all that are no TIFF or array."""
    kinds = Counter(n.lower().rsplit(".", 1)[-1] for n in names)
    arrays, tiffs = kinds["npy"], kinds["tif"] + kinds["tiff"]
    if arrays > len(names) / 2:
        return "npy"
    return "tiff" if tiffs > len(names) / 2 else "png"


def find_root(names: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that is the dataset's own, with ``/`` behind, and the names within it."""
    root, inside = "", list(names)
    while inside:
        tops = {n[len(root) :].split("/", 1)[0] if "/" in n[len(root) :] else "" for n in inside}
        splits = {t for t in tops if t.lower() in (*TRAIN, *OTHER_SPLITS)}
        train = sorted(t for t in tops if t.lower() in TRAIN)
        if splits == tops and train:
            root += train[0] + "/"
        elif len(tops) == 1 and "" not in tops:
            root += tops.pop() + "/"
        else:
            break
        inside = [n for n in inside if n.startswith(root)]
    return root, inside


def pick(names: list[str], limit: int | None) -> list[str]:
    """At most `limit` names, those of the lowest hash, in their old order."""
    if limit is None or limit >= len(names):
        return names
    ranked = sorted(names, key=lambda n: blake2b(n.encode(errors="surrogatepass")).digest())
    kept = set(ranked[:limit])
    return [n for n in names if n in kept]


def stop_at(problems: Sequence[Unusable], options: DataOptions, path: object) -> None:
    """Raise the first of `problems` as a `DataError`, unless they are to be skipped."""
    if problems and options.on_bad == "error":
        first = problems[0]
        raise DataError(
            f"{shown(path)}: {shown(first.path)} cannot be used: {shown(first.reason, 250)}; "
            "mend or remove it, or leave such files out with --data.on-bad skip."
        )


# --- Decoding ------------------------------------------------------------------------------------


class Decoded(NamedTuple):
    """A picture made to fit, and the width and height it had."""

    picture: Picture
    size: tuple[int, int]


def _decode_all(
    files: Files,
    names: list[str],
    options: DataOptions,
    path: Path,
    sizes: Counter[tuple[int, int]],
) -> list[tuple[str, Picture | Unusable]]:
    """Every picture of `names`, in their order; stacks count each of theirs, `sizes` all."""
    found: dict[str, list[Picture] | Unusable] = {}
    first: dict[tuple[int, int], str] = {}
    shelf, tick = Shelf(), counted(len(names))
    with strict_decoders():
        for name, decoded in _decoded(files, names, options):
            if isinstance(decoded, Unusable):
                stop_at([decoded], options, path)
                found[name] = decoded
            else:
                sizes.update(d.size for d in decoded)
                found[name] = [shelf.put(d.picture) for d in decoded]
                for _, size in decoded:
                    first.setdefault(size, name)
            most = 1 if options.on_bad == "error" else SHAPES
            if options.size is None and options.patch is None and len(first) > most:
                raise _of_many_sizes(first)
            tick()
    flat: list[tuple[str, Picture | Unusable]] = []
    for name in names:
        pictures = found.pop(name)
        if isinstance(pictures, Unusable):
            flat.append((name, pictures))
        elif len(pictures) == 1:
            flat.append((name, pictures[0]))
        else:
            flat += [(f"{name}#{i}", picture) for i, picture in enumerate(pictures)]
    return flat


def _of_many_sizes(first: dict[tuple[int, int], str]) -> DataError:
    some = ", ".join(f"{shown(n)} is {w} x {h}" for (w, h), n in islice(first.items(), 2))
    return DataError(
        f"The pictures differ in size ({some}); choose one for all, as --data.size 64, or cut "
        "examples from them, as --data.patch 32."
    )


def _decoded(
    files: Files, names: list[str], options: DataOptions
) -> Iterator[tuple[str, list[Decoded] | Unusable]]:
    """In threads where that is faster; in the order in which the files are stored."""
    stream = files.stream(names)
    mean_bytes = sum(files.sizes[n] for n in names) / len(names)
    workers = min(8, os.cpu_count() or 1)
    if workers == 1 or mean_bytes < THREADS_FROM:
        yield from _decode_some(stream, options)
        return
    piece = max(1, min(64, int(2**23 // mean_bytes)))
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[list[tuple[str, list[Decoded] | Unusable]]]] = deque()
        while True:
            some = list(islice(stream, piece))
            if some:
                pending.append(pool.submit(lambda s: list(_decode_some(s, options)), some))
            while pending and (len(pending) > 2 * workers or not some):
                yield from pending.popleft().result()
            if not some:
                return


def _decode_some(
    some: Iterable[tuple[str, bytes | Unusable]], options: DataOptions
) -> Iterator[tuple[str, list[Decoded] | Unusable]]:
    for name, data in some:
        if isinstance(data, Unusable):
            yield name, data
            continue
        try:
            pictures = decode(data, options.channels)
            yield name, [Decoded(conform(p, options), (p.shape[1], p.shape[0])) for p in pictures]
        except Unreadable as error:
            yield name, Unusable(name, str(error))


def conform(picture: Picture, options: DataOptions) -> Picture:
    """A picture ``(H, W, C)`` with the size and channels asked for, finite."""
    if picture.dtype.kind not in "buif" or picture.dtype == np.uint64:
        raise Unreadable(f"its values are of type {picture.dtype}: only plain numbers are read")
    if picture.dtype.kind == "f" and not np.isfinite(picture).all():
        raise Unreadable("it holds NaN or infinite values")
    picture = rechannel(picture, options.channels)
    if options.size is not None:
        picture = cover(picture, options.size, options.size)
    return picture.astype(picture.dtype.newbyteorder("="), copy=False)


# --- One shape -----------------------------------------------------------------------------------


def assemble(
    found: list[tuple[str, Picture | Unusable]],
    options: DataOptions,
    *,
    source: str,
    problems: Sequence[Unusable] = (),
    prefer: Format = "png",
    layout: Layout = "HWC",
) -> Dataset:
    """One dataset of pictures ``(H, W, C)``: those of the commonest kind; others are problems.

    Grey among colour becomes colour. `found` is emptied as the pictures are copied.
    """
    usable, bad, (dtype, height, width, channels) = _alike(found, options, source, problems)
    if options.patch is not None:
        planes = [(found[i][0], _planes(found[i][1], channels)) for i in usable]
        dataset = cut(planes, dtype, options, source, prefer, layout)
        return replace(dataset, problems=bad + dataset.problems)
    stored = room((len(usable), channels, height, width), storage(dtype))
    ids = []
    for row, i in enumerate(usable):
        name, picture = found[i]
        stored[row] = np.moveaxis(np.asarray(picture), 2, 0)  # grey fills all channels
        ids.append(name)
        found[i] = (name, Unusable(name, ""))
    tensor = torch.from_numpy(stored)
    codec = make_codec(tensor, dtype, prefer, layout)
    return Dataset(
        codec=codec, stored=tensor, ids=ids, problems=bad, source=source, options=options
    )


def _alike(
    found: list[tuple[str, Picture | Unusable]],
    options: DataOptions,
    source: str,
    problems: Sequence[Unusable],
) -> tuple[list[int], list[Unusable], tuple[str, int, int, int]]:
    """Where pictures of the commonest kind are; all problems; dtype, height, width, channels."""
    kinds = Counter(_kind(p, options) for _, p in found if not isinstance(p, Unusable))
    if not kinds:
        all_bad = [p for _, p in found if isinstance(p, Unusable)] + list(problems)
        raise DataError(
            f"{shown(source)}: none of {len(all_bad)} files can be used"
            + (f"; the first: {all_bad[0]}." if all_bad else "; there are none.")
        )
    (dtype, height, width, colour), _ = kinds.most_common(1)[0]
    usable, bad, channels = [], list(problems), 0
    for i, (name, picture) in enumerate(found):
        if isinstance(picture, Unusable):
            bad.append(picture)
        elif _kind(picture, options) == (dtype, height, width, colour):
            usable.append(i)
            channels = max(channels, picture.shape[2])
        else:
            bad.append(Unusable(name, _oddity(picture, dtype, (height, width), colour)))
            stop_at(bad[-1:], options, source)
    return usable, bad, (dtype, height, width, channels)


def cut(
    pictures: list[tuple[str, np.ndarray]],
    dtype: str,
    options: DataOptions,
    source: str,
    prefer: Format,
    layout: Layout,
) -> Dataset:
    """Patches of pictures ``(C, H, W)`` by name, measured over all their pixels.

    Raises:
        DataError: If a picture is smaller than a patch, unless ``on_bad = skip``; if all are.
    """
    size, large, small = options.patch or 1, [], list[Unusable]()
    for name, picture in pictures:
        _, height, width = picture.shape
        if min(height, width) >= size:
            large.append((name, picture))
            continue
        small.append(Unusable(name, f"it is {width} x {height}, less than a patch of {size}"))
        stop_at(small[-1:], options, source)
    if not large:
        raise DataError(
            f"{shown(source)} holds no picture as large as a patch of {size}: lower --data.patch."
        )
    patches = lay(large, size)
    mean, std = measure_pixels(patches.pixels)
    stored, values = patches.fixed(), few_values(patches.pixels.T)
    codec = make_codec(stored, dtype, prefer, layout)
    return Dataset(
        codec=replace(codec, mean=mean, std=std, values=values),
        stored=stored,
        ids=patches.ids,
        patches=patches,
        problems=small,
        source=source,
        options=options,
    )


def _planes(picture: Picture | Unusable, channels: int) -> np.ndarray:
    """A picture as stored ``(C, H, W)``; grey fills all channels."""
    planes = np.moveaxis(np.asarray(picture), 2, 0)
    planes = np.broadcast_to(planes, (channels, *planes.shape[1:]))
    return planes.astype(storage(planes.dtype.name), copy=False)


def make_codec(
    stored: Tensor, dtype: str, prefer: Format, layout: Layout, levels: int | None = None
) -> ImageCodec:
    """The codec of pictures ``(N, C, H, W)``, measured on them."""
    mean, std = measure(stored)
    channels = stored.shape[1]
    if prefer == "png" and not fits_png(dtype, channels):
        prefer = "tiff"
    if levels is None:
        levels = {"bool": 2, "uint8": 256, "int8": 256, "uint16": 65536, "int16": 65536}.get(dtype)
    return ImageCodec(
        shape=tuple(stored.shape[1:]),
        dtype=dtype,
        mean=mean,
        std=std,
        levels=levels,
        values=few_values(stored),
        format=prefer,
        layout=layout,
    )


def describe(
    dataset: Dataset,
    labels: Labels = (None, []),
    attributes: tuple[list[str], np.ndarray] | None = None,
) -> Dataset:
    """`dataset` with its classes, attributes and fingerprint."""
    label, classes = labels
    known = None if attributes is None else Attributes.measured(*attributes)
    others = (dataset.given, dataset.patches, dataset.captions)
    mark = fingerprint(dataset.stored, dataset.ids, label, known, *others)
    return replace(dataset, label=label, classes=classes, attributes=known, fingerprint=mark)


def _kind(picture: Picture, options: DataOptions) -> tuple[str, int, int, int]:
    """What must be the same for all: dtype, height, width, channels (grey counts as colour).

    Of pictures that patches are cut from, the size need not be: it counts as 0.
    """
    height, width, channels = picture.shape
    height, width = (height, width) if options.patch is None else (0, 0)
    return picture.dtype.name, height, width, 3 if channels == 1 else channels


def _oddity(picture: Picture, dtype: str, size: tuple[int, int], colour: int) -> str:
    name, (height, width, channels) = picture.dtype.name, picture.shape
    if name != dtype:
        return f"it holds {name} where most hold {dtype}"
    if (height, width) != size and size != (0, 0):
        return f"it is {width} x {height} where most are {size[1]} x {size[0]}: choose a size"
    return f"it has {channels} channels where most have {colour}"
