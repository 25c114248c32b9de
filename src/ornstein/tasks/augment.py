"""Make a training set larger and even: real examples, and drawn ones that are no copies."""

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.neighbours import two_nearest
from ..data import Dataset
from ..data.captions import TEXT
from ..data.codec import storage, write_bytes
from ..data.image import ImageCodec
from ..data.points import PointsCodec
from ..data.table import safe_cell
from ..errors import StorageError, UsageError
from ..progress import pieces
from ..rng import generator
from ..runs.model import Model
from ..runs.provenance import stamp
from .anomaly import Say
from .examples import flat, training_data
from .gain import Gain, Labelled, measure_gain
from .options import AugmentOptions, DrawOptions, SampleOptions, checked
from .sample import Run, maker, opened, stream

NEAR = 0.01  # share of held-out examples that lie as near to the training data as a copy may
TRIES = 3  # times as many draws as are wanted, before a class is given up
ORIGIN = "origin"  # the column of metadata that says what is real and what was drawn


@dataclass(frozen=True, eq=False)
class Drawn:
    """One example that was drawn and taken.

    Args:
        stored: ``(C, *S)``, as the files hold it.
        label: The number of its class.
        index: Its number in the sequence of `seed`.
        seed: Of its class.
        nearest: The training example nearest to it.
        distance: To that, in x.
    """

    stored: np.ndarray = field(repr=False)
    label: int
    index: int
    seed: int
    nearest: str
    distance: float


@dataclass(frozen=True, eq=False)
class Augmented:
    """A training set, real and drawn.

    Args:
        model: The run that drew.
        real: What the run was trained on.
        drawn: What was taken.
        refused: Near copies, by class.
        missing: What could not be drawn without copying, by class.
        edge: The distance to the training data, up to which a draw is a near copy.
        gain: What it is worth; None if it was not asked.
        options: How.
    """

    model: Model
    real: Dataset
    drawn: list[Drawn]
    refused: Counter[str]
    missing: Counter[str]
    edge: float
    gain: Gain | None
    options: AugmentOptions

    def __len__(self) -> int:
        return len(self.real) + len(self.drawn)

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values, for programs."""
        words = self.model.vocabulary.classes
        assert self.real.label is not None
        return {
            "real": len(self.real),
            "drawn": len(self.drawn),
            "classes": {
                name: {
                    "real": int((self.real.label == c).sum()),
                    "drawn": sum(d.label == c for d in self.drawn),
                    "refused": self.refused[name],
                    "missing": self.missing[name],
                }
                for c, name in enumerate(words)
            },
            "gain": self.gain and asdict(self.gain),
        }

    def lines(self) -> list[str]:
        """What the command prints."""
        head = f"{'class':<16}{'real':>8}{'drawn':>8}{'refused':>9}"
        out = [head]
        for name, row in self.facts["classes"].items():
            out.append(f"{name[:15]:<16}{row['real']:>8,}{row['drawn']:>8,}{row['refused']:>9,}")
        if self.missing:
            out.append(
                f"{self.missing.total():,} could not be drawn without copying: the run leans on "
                "its training data; see `ornstein evaluate`."
            )
        return [*out, *(self.gain.lines() if self.gain else [])]

    # --- files

    def save(self, folder: str | Path) -> list[Path]:
        """Write the set in the layout of the data, and ``provenance.jsonl``; return the paths.

        Pictures: ``train/<class>/``, as the run sees them, and ``train/metadata.csv``, whose column
        `origin` says *real* or *drawn*; attributes are in columns of their own. With captions it
        is ``metadata.jsonl``. Of what was drawn, neither is known. A CSV: ``train.csv``. Arrays:
        ``train.npz``. In the last two the drawn rows follow the real ones.

        Raises:
            StorageError: If the folder holds something, or the disk refuses.
        """
        folder = Path(folder)
        refuse_full(folder)
        codec = self.model.codec.data
        if isinstance(codec, ImageCodec) and codec.format != "npy":
            paths, names = self._pictures(folder / "train", codec)
        elif isinstance(codec, PointsCodec) and codec.format == "csv":
            paths, names = self._table(folder, codec)
        else:
            paths, names = self._arrays(folder)
        lines = "".join(
            json.dumps({"path": name, **self._provenance(d)}) + "\n"
            for name, d in zip(names, self.drawn, strict=True)
        )
        return [*paths, write_bytes(folder / "provenance.jsonl", lines.encode())]

    def _provenance(self, drawn: Drawn) -> dict[str, Any]:
        made = maker(self.model, drawn.seed)
        return {
            **(made(drawn.index) if made else {"seed": drawn.seed, "index": drawn.index}),
            "class": self.model.vocabulary.classes[drawn.label],
            "nearest": drawn.nearest,
            "distance": drawn.distance,
        }

    def _stored(self) -> tuple[Tensor, list[int]]:
        """All examples ``(N, C, *S)``, real ones first, and their classes."""
        assert self.real.label is not None
        new = np.stack([d.stored for d in self.drawn]) if self.drawn else self.real.stored[:0]
        both = torch.cat([self.real.stored, torch.as_tensor(new)])
        return both, [*self.real.label.tolist(), *(d.label for d in self.drawn)]

    def _pictures(self, folder: Path, codec: ImageCodec) -> tuple[list[Path], list[str]]:
        stored, labels = self._stored()
        words, real = self.model.vocabulary.classes, len(self.real)
        paths, names, rows = list[Path](), list[str](), list[dict[str, Any]]()
        for i, label in enumerate(labels):
            picture = codec.unpack(codec.pack(stored[i : i + 1]))[0]
            kind = _folder_name(words[label]) if label >= 0 else "unlabelled"
            stem = f"real-{i:06d}" if i < real else f"drawn-{i - real:06d}"
            name, data = f"{kind}/{stem}.{codec.format}", codec.encode(picture)
            if i >= real and codec.format == "png" and self.model.run is not None:
                data = stamp(data, self._provenance(self.drawn[i - real]))
            paths.append(write_bytes(folder / name, data))
            names.append(f"train/{name}")
            row = {"file_name": name, self.real.options.label: words[label] if label >= 0 else ""}
            rows.append(row | {ORIGIN: "real" if i < real else "drawn"} | self._said(i))
        return [*paths, _metadata(folder, rows)], names[real:]

    def _said(self, i: int) -> dict[str, Any]:
        """What else is known of example i: nothing of one that was drawn."""
        attributes, captions = self.real.attributes, self.real.captions
        known, found = i < len(self.real), dict[str, Any]()
        if attributes is not None:
            row = attributes.values[i].tolist() if known else [nan] * len(attributes.names)
            values = [None if value != value else value for value in row]
            found |= dict(zip(attributes.names, values, strict=True))
        if captions is not None:
            found[TEXT] = list(captions.texts[i]) if known else []
        return found

    def _table(self, folder: Path, codec: PointsCodec) -> tuple[list[Path], list[str]]:
        stored, labels = self._stored()
        words = self.model.vocabulary.classes
        named = replace(
            codec, columns=codec.columns or tuple(f"x{i}" for i in range(codec.shape[0]))
        )
        told = [words[c] if c >= 0 else "" for c in labels]
        (path,) = named.save(named.pack(stored), folder, 0, told)
        path = path.rename(folder / "train.csv")
        first = len(self.real) + 2  # a header, and lines count from 1
        return [path], [f"train.csv#line-{first + i}" for i in range(len(self.drawn))]

    def _arrays(self, folder: Path) -> tuple[list[Path], list[str]]:
        stored, labels = self._stored()
        codec, words, out = self.model.codec.data, self.model.vocabulary.classes, io.BytesIO()
        whole = all(name.isdecimal() for name in words)  # else by their place: arrays are numbers
        told = np.array([int(words[c]) if whole and c >= 0 else c for c in labels])
        np.savez_compressed(out, x=codec.unpack(codec.pack(stored)), y=told)
        path = write_bytes(folder / "train.npz", out.getvalue())
        first = len(self.real)
        return [path], [f"train.npz#{first + i}" for i in range(len(self.drawn))]


def _metadata(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A table beside the pictures; lines of JSON if they have captions, each maybe several."""
    if TEXT in rows[0]:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return write_bytes(folder / "metadata.jsonl", lines.encode())
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([safe_cell(v) if isinstance(v, str) else v for v in row.values()])
    return write_bytes(folder / "metadata.csv", text.getvalue().encode())


def _folder_name(label: str) -> str:
    """A class as a folder on any system; ``metadata.csv`` has its true name."""
    plain = "".join(c if c.isalnum() or c in "._- " else "_" for c in label).strip(". ")
    return plain[:80] or "_"


# --- The verb ------------------------------------------------------------------------------------


def augment(
    run: Run,
    per_class: int | None = None,
    *,
    data: Dataset | None = None,
    device: str | torch.device = "auto",
    say: Say = lambda line: None,
    **options: Any,
) -> Augmented:
    """Draw examples beside those a run was trained on, until all classes have as many.

    A draw that lies as near to a training example as only one in a hundred held-out examples
    does is a near copy, and refused. What the drawn ones are worth is measured: a classifier
    learns with them and without, and reads held-out examples.

    Args:
        run: The run, or its folder; trained with labels.
        per_class: Examples to draw of each class; by default as many as even out the classes.
        data: What the run was trained on, if that was an array.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        say: Told how it goes.
        **options: Those of `AugmentOptions`.

    Raises:
        UsageError: If the run has no classes, or nothing is to be drawn.
        DataError: If its training data are no longer there.
    """
    chosen = checked(AugmentOptions, {"per_class": per_class, **options})
    model = opened(run, device)
    if not model.vocabulary.classes:
        raise UsageError("This run was trained without labels: there are no classes to even out.")
    if model.given is not None:
        raise UsageError("This run was trained on pairs: it draws nothing without what is given.")
    real, held_out = training_data(model, data)
    wanted = _wanted(model, real, chosen)
    train = flat(model.codec.data.pack(real.stored))
    edge = _edge(train, flat(model.codec.data.pack(held_out.stored)))
    drawn: list[Drawn] = []
    refused, missing = Counter[str](), Counter[str]()
    for label, count in pieces(list(wanted.items())):
        name = model.vocabulary.classes[label]
        say(f"Drawing {count:,} of class {name}")
        taken, copies = _draw_class(model, chosen, label, count, train, real.ids, edge)
        drawn += taken
        refused[name] += copies
        missing[name] += count - len(taken)
    gain = None
    if chosen.seeds:
        gain = _gain(model, real, drawn, held_out, chosen.seeds, say)
    return Augmented(model, real, drawn, refused, +missing, edge, gain, chosen)


def refuse_full(folder: Path) -> None:
    """Refuse a place for a training set where something is; ask before anything is drawn.

    Raises:
        StorageError: If the folder holds something, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} is not empty: name another by --out.")


def _wanted(model: Model, real: Dataset, options: AugmentOptions) -> dict[int, int]:
    """How many to draw of each class."""
    assert real.label is not None
    words = model.vocabulary
    chosen = range(len(words.classes))
    if options.label is not None:
        chosen = sorted({words.label(name) for name in options.label})
        if chosen[0] < 0:
            raise UsageError("label = 'any' is no class: name those to draw.")
    counts = torch.bincount(real.label[real.label >= 0], minlength=len(words.classes)).tolist()
    if options.per_class is not None:
        return dict.fromkeys(chosen, options.per_class)
    wanted = {c: max(counts) - counts[c] for c in chosen if counts[c] < max(counts)}
    if not wanted:
        raise UsageError("All classes have as many examples already: say --per-class N.")
    return wanted


def _edge(train: np.ndarray, held_out: np.ndarray) -> float:
    """The distance to the training data below which a draw is a near copy."""
    if len(held_out) < 1 or len(train) < 2:
        raise UsageError(
            "Near copies are known by what training left out, and it left out nothing: train with "
            "--data.validation."
        )
    return float(np.quantile(two_nearest(held_out, train)[1][:, 0], NEAR))


def _draw_class(
    model: Model,
    options: AugmentOptions,
    label: int,
    count: int,
    train: np.ndarray,
    ids: list[str],
    edge: float,
) -> tuple[list[Drawn], int]:
    """Draws of one class that are no near copies, and how many were."""
    seed = int(generator("augment", options.seed, label).integers(2**62))
    known = {k: v for k, v in asdict(options).items() if k in DrawOptions.__dataclass_fields__}
    taken: list[Drawn] = []
    tried = 0
    while len(taken) < count and tried < TRIES * count:
        more = min(count - len(taken), TRIES * count - tried)
        how = SampleOptions(
            **{**known, "label": (str(model.vocabulary.classes[label]),), "seed": seed},
            examples=f"{tried}-{tried + more - 1}",
        )
        for part in stream(model, how):
            stored = _as_in_files(model, part.x)
            place, apart = two_nearest(flat(model.codec.data.pack(torch.from_numpy(stored))), train)
            for i in range(len(part)):
                near = float(apart[i, 0])
                if near > edge:
                    of = ids[int(place[i, 0])]
                    taken.append(Drawn(stored[i], label, part.first + i, seed, of, near))
        tried += more
    return taken, tried - len(taken)


def _as_in_files(model: Model, x: Tensor) -> np.ndarray:
    """Draws rounded as files hold them, ``(B, C, *S)``."""
    codec = model.codec.data
    values = codec.unpack(x) if len(codec.shape) == 1 else codec.stored(x)
    return np.ascontiguousarray(values.astype(storage(codec.dtype)))


def _gain(
    model: Model,
    real: Dataset,
    drawn: list[Drawn],
    held_out: Dataset,
    seeds: int,
    say: Say,
) -> Gain | None:
    """None if held-out examples are not of two classes."""
    known, unseen = _labelled(model, real), _labelled(model, held_out)
    if len(np.unique(unseen.label)) < 2 or not drawn:
        return None
    stored = torch.from_numpy(np.stack([d.stored for d in drawn]))
    new = Labelled(x=flat(model.codec.data.pack(stored)), label=np.array([d.label for d in drawn]))
    return measure_gain(known, new, unseen, seeds, say)


def _labelled(model: Model, data: Dataset) -> Labelled:
    assert data.label is not None
    there = (data.label >= 0).nonzero()[:, 0]
    x = flat(model.codec.data.pack(data.stored[there]))
    return Labelled(x=x, label=data.label[there].numpy())
