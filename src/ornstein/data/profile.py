"""What `ornstein show DATA` says of a dataset before anybody trains on it."""

from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .dataset import Dataset
from .names import shown

COMPARED = 4096  # examples compared with each other, at most
NEAR = 0.1  # near duplicates: closer than this share of the median distance to a neighbour
FAR = 6.0  # outliers: further from every other than so many robust deviations above the median


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One channel of pictures, or one column of points, in the units of the source."""

    name: str
    low: float
    high: float
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Said:
    """The captions of a dataset.

    Args:
        count: Of all examples together.
        length: Pieces of the longest, or that are read of it.
        cut: Captions that are longer than what is read.
        some: A few.
    """

    count: int
    length: int
    cut: int
    some: list[str]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A dataset in figures. `lines` puts them into words.

    Args:
        source: What was opened.
        kind: Of its codec.
        count: Examples.
        shape: Of one, ``(C, *S)``.
        dtype: Of the source.
        sizes: How many pictures had which size, such as ``640 x 480``, before they were scaled.
        classes: Examples of each class by name.
        unlabelled: Examples without a class, where others have one.
        attributes: For each attribute, the examples that lack it.
        unread: Columns of the metadata that nothing is made of.
        captions: How many there are, the pieces that are read of one, and some of them.
        silent: Ids without a caption, where others have one.
        channels: The range, mean and deviation of each.
        constant: Examples in which every value is the same.
        duplicates: Groups of ids with equal content.
        near_duplicates: Pairs of ids that nearly agree, among the `compared`.
        outliers: Ids far from all others, farthest first, among the `compared`.
        compared: Examples that were compared with each other.
        problems: Path and reason of all that was left out.
        advice: What to consider, in sentences.
    """

    source: str
    kind: str
    count: int
    shape: tuple[int, ...]
    dtype: str
    sizes: dict[str, int]
    classes: dict[str, int]
    unlabelled: int
    attributes: dict[str, int]
    unread: list[str]
    captions: Said | None
    silent: list[str]
    channels: list[Channel]
    constant: list[str]
    duplicates: list[list[str]]
    near_duplicates: list[tuple[str, str]]
    outliers: list[str]
    compared: int
    problems: list[tuple[str, str]]
    advice: list[str]

    @property
    def imbalance(self) -> float:
        """The largest class over the smallest; 1 without classes."""
        sizes = [n for n in self.classes.values() if n]
        return max(sizes) / min(sizes) if sizes else 1.0

    def lines(self) -> list[str]:
        """The profile as text; names are safe to print."""
        what = "pictures" if self.kind == "image" else self.kind
        if self.kind == "image":
            c, h, w = self.shape
            size = f"{w} x {h} pixels, {c} channel{'s' * (c > 1)}"
        else:
            size = " x ".join(map(str, self.shape)) + " numbers"
        text = [f"{shown(self.source)}: {self.count:,} {what} of {size}, {self.dtype}"]
        if len(self.sizes) > 1:
            some = [f"{size} ({n:,})" for size, n in list(self.sizes.items())[:8]]
            more = f", and {len(self.sizes) - 8} more" if len(self.sizes) > 8 else ""
            text.append(f"of {len(self.sizes)} sizes: {', '.join(some)}{more}")
        if self.classes:
            some = [f"{shown(name, 30)} {n:,}" for name, n in list(self.classes.items())[:12]]
            more = f", and {len(self.classes) - 12} more" if len(self.classes) > 12 else ""
            text.append(f"{len(self.classes)} classes: {', '.join(some)}{more}")
            missing = f", {self.unlabelled:,} examples without a class" if self.unlabelled else ""
            text.append(f"largest class over smallest: {self.imbalance:.3g}{missing}")
        for name, missing in self.attributes.items():
            text.append(f"attribute {shown(name, 40)}: missing in {missing:,}")
        if self.unread:
            names = ", ".join(shown(name, 40) for name in self.unread[:12])
            text.append(f"not read of the metadata: {names}; captions are the column text")
        if said := self.captions:
            some = "; ".join(shown(text, 80) for text in said.some)
            text.append(f"{said.count:,} captions of up to {said.length} pieces: {some}")
            if said.cut:
                text.append(f"longer than what is read of a caption: {said.cut:,}")
        if self.silent:
            some = ", ".join(shown(i, 60) for i in self.silent[:10])
            text.append(f"without a caption, and learned so: {len(self.silent):,}, such as {some}")
        for channel in self.channels[:16]:
            text.append(
                f"{shown(channel.name, 40)}: from {channel.low:.6g} to {channel.high:.6g}, "
                f"mean {channel.mean:.6g}, std {channel.std:.6g}"
            )
        spare = sum(len(group) - 1 for group in self.duplicates)
        if spare:
            pair = " = ".join(shown(i, 60) for i in self.duplicates[0][:2])
            text.append(f"exact duplicates: {spare:,}, such as {pair}")
        among = f"among {self.compared:,} compared"
        if self.near_duplicates:
            pair = " ~ ".join(shown(i, 60) for i in self.near_duplicates[0])
            text.append(f"near duplicates: {len(self.near_duplicates):,} {among}, such as {pair}")
        if self.outliers:
            some = ", ".join(shown(i, 60) for i in self.outliers[:3])
            text.append(f"outliers: {len(self.outliers):,} {among}, such as {some}")
        if self.constant:
            some = ", ".join(shown(i, 60) for i in self.constant[:3])
            text.append(f"of one value throughout: {len(self.constant):,}, such as {some}")
        if self.problems:
            text.append(f"left out: {len(self.problems):,}")
            text += [f"  {shown(path)}: {shown(why, 200)}" for path, why in self.problems[:20]]
            if len(self.problems) > 20:
                text.append(f"  and {len(self.problems) - 20:,} more")
        return text + self.advice


def profile_data(dataset: Dataset) -> Profile:
    """Look a dataset over. All examples are measured; at most `COMPARED` are compared in pairs."""
    codec, stored = dataset.codec, dataset.stored
    low, high, constant = _ranges(stored)
    names = getattr(codec, "columns", ()) or _channel_names(codec.kind, codec.shape[0])
    sizes = Counter([] if dataset.label is None else dataset.label.tolist())
    attributes = dataset.attributes
    lacks = [] if attributes is None else attributes.values.isnan().sum(0).tolist()
    copies = _copies(stored)
    spare = {i for group in copies for i in group[1:]}
    single = np.array([i for i in range(len(dataset)) if i not in spare])
    chosen = single[np.linspace(0, len(single) - 1, min(len(single), COMPARED)).astype(int)]
    near, far = _neighbours(codec.pack(stored[torch.from_numpy(chosen)]))
    ids = dataset.ids
    profile = Profile(
        source=dataset.source,
        kind=codec.kind,
        count=len(dataset),
        shape=codec.shape,
        dtype=codec.dtype,
        sizes={f"{w} x {h}": n for (w, h), n in dataset.sizes.items()},
        classes={name: sizes[i] for i, name in enumerate(dataset.classes)},
        unlabelled=sizes[-1],
        attributes=dict(zip(attributes.names if attributes else (), lacks, strict=True)),
        unread=dataset.unread,
        captions=_said(dataset),
        silent=_silent(dataset),
        channels=[
            Channel(name=n, low=a, high=b, mean=m, std=s)
            for n, a, b, m, s in zip(names, low, high, codec.mean, codec.std, strict=True)
        ],
        constant=[ids[i] for i in constant] if codec.kind == "image" else [],
        duplicates=[[ids[i] for i in group] for group in copies],
        near_duplicates=[(ids[chosen[i]], ids[chosen[j]]) for i, j in near],
        outliers=[ids[chosen[i]] for i in far],
        compared=len(chosen),
        problems=[(p.path, p.reason) for p in dataset.problems],
        advice=[],
    )
    profile.advice.extend(_advice(profile, dataset))
    return profile


def _said(dataset: Dataset) -> Said | None:
    if (captions := dataset.captions) is None:
        return None
    texts = [text for row in captions.texts for text in row]
    return Said(
        count=len(texts),
        length=captions.words.length,
        cut=sum(bool(captions.words.unread(text)) for text in set(texts)),
        some=list(dict.fromkeys(row[0] for row in captions.texts if row))[:3],
    )


def _silent(dataset: Dataset) -> list[str]:
    if dataset.captions is None:
        return []
    rows = zip(dataset.pictures, dataset.captions.texts, strict=True)
    return [name for name, texts in rows if not texts]


def _channel_names(kind: str, count: int) -> list[str]:
    if kind == "image" and count in (1, 3, 4):
        return {1: ["grey"], 3: ["red", "green", "blue"], 4: ["red", "green", "blue", "alpha"]}[
            count
        ]
    return [f"{'channel' if kind == 'image' else 'column'} {i + 1}" for i in range(count)]


def _ranges(stored: Tensor) -> tuple[list[float], list[float], list[int]]:
    """Least and greatest value of each channel, and the examples that are constant."""
    lows, highs, constant = [], [], []
    piece = max(1, 2**22 // stored[0].numel())
    for start, part in enumerate(stored.split(piece)):
        flat = part.to(torch.float64).reshape(len(part), part.shape[1], -1)
        low, high = flat.amin(2), flat.amax(2)
        lows.append(low.amin(0))
        highs.append(high.amax(0))
        constant += (start * piece + (low == high).all(1).nonzero()[:, 0]).tolist()
    return (
        torch.stack(lows).amin(0).tolist(),
        torch.stack(highs).amax(0).tolist(),
        constant if stored[0].numel() > stored.shape[1] else [],
    )


def _copies(stored: Tensor) -> list[list[int]]:
    """Groups of examples with equal content."""
    groups: dict[bytes, list[int]] = {}
    flat = np.ascontiguousarray(stored.numpy()).reshape(len(stored), -1)
    for i, row in enumerate(flat):
        groups.setdefault(blake2b(row.data, digest_size=16).digest(), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _neighbours(x: Tensor) -> tuple[list[tuple[int, int]], list[int]]:
    """Near duplicates ``i < j`` and outliers among different packed examples ``(n, C, *S)``.

    Pictures are compared at 16 x 16 pixels at most. With d_i the distance to the nearest other
    example, an outlier has log d_i above its median by more than `FAR` robust deviations (1.4826
    times the median absolute deviation); points have outliers, but no near duplicates.
    """
    if len(x) < 8:
        return [], []
    if x.ndim == 4 and max(x.shape[2:]) > 16:
        x = functional.adaptive_avg_pool2d(x, (min(16, x.shape[2]), min(16, x.shape[3])))
    flat = x.flatten(1)
    other = torch.empty(len(flat), dtype=torch.int64)
    for start in range(0, len(flat), 512):
        gap = torch.cdist(flat[start : start + 512], flat)
        gap[torch.arange(len(gap)), start + torch.arange(len(gap))] = torch.inf
        other[start : start + 512] = gap.argmin(1)
    nearest = (flat - flat[other]).norm(dim=1).clamp_min(1e-12)  # exact, unlike cdist's
    middle = nearest.median()
    pairs: set[tuple[int, int]] = set()
    if x.ndim == 4:
        close = (nearest < NEAR * middle).nonzero()[:, 0].tolist()
        pairs = {(min(i, j), max(i, j)) for i, j in zip(close, other[close].tolist(), strict=True)}
    excess = nearest.log() - middle.log()
    far = (excess > FAR * (1.4826 * excess.abs().median()).clamp_min(0.05)).nonzero()[:, 0]
    return sorted(pairs), sorted(far.tolist(), key=lambda i: -excess[i].item())


def _advice(profile: Profile, dataset: Dataset) -> list[str]:
    said = []
    if profile.imbalance >= 3 and not dataset.options.balance:
        said.append("The classes are uneven: consider --data.balance.")
    if profile.count == 1:
        said.append("One example is too few: a model of it can only repeat it.")
    elif profile.count < 500:
        said.append(
            f"{profile.count:,} examples are few: expect the model to learn them by heart; "
            "the report says whether it did."
        )
    if sum(len(group) - 1 for group in profile.duplicates) > 0.02 * profile.count:
        said.append("Many examples are there twice: remove copies, or they will be memorised.")
    small = sum(n for size, n in dataset.sizes.items() if min(size) < min(profile.shape[1:]))
    if small:
        said.append(
            f"{small:,} pictures were smaller and had to be enlarged: choose a smaller size."
        )
    for channel in profile.channels:
        if channel.std == 0:
            said.append(f"{shown(channel.name, 40)} is constant: it comes back exactly.")
    return said
