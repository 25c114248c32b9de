"""A dataset, the order in which training sees it, and its variations."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat
from math import floor

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, Notice
from ..rng import generator
from .captions import Captions
from .codec import Codec, movable
from .embedded import Embedded
from .given import Given, fitted
from .names import Unusable, natural, shown
from .options import DataOptions
from .patches import WHOLE, Patches, lowest
from .room import parts, taken
from .table import MISSING, read_number

CLASSES = 100_000
_BLOCK = 1024  # draws are made in blocks of so many positions


# --- Labels and attributes -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Numeric attributes of each example, in their own units.

    Args:
        names: Of the A attributes.
        values: ``(N, A)``, float64, NaN where missing.
        mean: Of each, over the examples that have it.
        std: Likewise, > 0.
    """

    names: tuple[str, ...]
    values: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def measured(cls, names: Sequence[str], values: np.ndarray) -> "Attributes":
        """From raw values ``(N, A)``; a constant attribute has std 1, an absent one mean 0."""
        there = np.isfinite(values)
        count = np.maximum(1, there.sum(0))
        mean = np.where(there, values, 0).sum(0) / count
        std = np.sqrt(np.where(there, (values - mean) ** 2, 0).sum(0) / count)
        std = np.where(std > 0, std, 1.0)
        raw = torch.from_numpy(np.where(there, values, np.nan).astype(np.float64))
        return cls(
            names=tuple(names), values=raw, mean=tuple(mean.tolist()), std=tuple(std.tolist())
        )

    def standard(self, indices: Tensor) -> Tensor:
        """Values of mean 0 and variance 1, ``(B, A)``, float32; NaN stays NaN."""
        values = self.values[indices]
        return ((values - values.new_tensor(self.mean)) / values.new_tensor(self.std)).float()

    def to(self, device: torch.device) -> "Attributes":
        """The same on another device."""
        values = self.values.float() if device.type == "mps" else self.values  # has no float64
        return replace(self, values=values.to(device))


Labels = tuple[Tensor | None, list[str]]
"""The class of each example ``(N,)``, int64, -1 where missing, and the names of the classes."""


def name_classes(names: Sequence[str]) -> Labels:
    """Classes by their names, in natural order; the empty name is missing.

    Raises:
        DataError: If there are too many.
    """
    classes = sorted(set(names) - {""}, key=natural)
    if not classes:
        return None, []
    if len(classes) > CLASSES:
        raise DataError(
            f"There are {len(classes):,} classes, such as {shown(classes[0])}; the "
            f"limit is {CLASSES:,}: are they names of single examples?"
        )
    place_of = {name: i for i, name in enumerate(classes)} | {"": -1}
    return torch.tensor([place_of[name] for name in names]), classes


def number_classes(names: Sequence[object], place: str) -> Labels:
    """Classes by the values of a column or an array, as `name_classes`.

    None, NaN, texts of `MISSING` such as NA, and -1 mean missing: label -1. Numbers must be whole.

    Raises:
        DataError: If numbers are negative or fractions.
    """
    texts = ["" if name is None else str(name).strip() for name in names]
    texts = ["" if text.lower() in MISSING else text for text in texts]
    numbers = [_number(t) for t in texts]
    if all(v is not None for v, t in zip(numbers, texts, strict=True) if t):
        for number in numbers:
            if number is not None and (number != floor(number) or number < -1):
                raise DataError(
                    f"{shown(place)}: {number:g} is no class; classes are names or whole numbers "
                    "from 0, -1 for missing. A measurement is an attribute: name its column."
                )
        texts = ["" if v in (None, -1) else str(int(v)) for v in numbers]
    return name_classes(texts)


def _number(text: str) -> float | None:
    value = read_number(text)
    return value if value is not None and abs(value) < 2**53 else None


# --- The dataset ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Examples in the dtype of their source, in memory or mapped; see `room`.

    Args:
        codec: Between the examples and x; measured on all that was opened.
        stored: ``(N, C, *S)``.
        ids: A name for each example: its path, or its row.
        label: ``(N,)``, int64, -1 where missing; None without classes.
        classes: Their names.
        attributes: Numbers known of each example.
        captions: What people say of each example.
        given: What the network is given of each beside the noise.
        embedded: What an encoder makes of each, or of its captions, if the network hears of it.
        patches: What the examples are cut from, if they are patches of pictures.
        fingerprint: A hash of ids, labels, attributes and content of all that was opened.
        problems: What was found and left out.
        sizes: How many pictures had which (width, height) before they were scaled.
        unread: Columns of the metadata that nothing is made of.
        source: What was opened.
        options: How it was opened.
        device: Where batches go; None for where the examples are.
    """

    codec: Codec
    stored: Tensor = field(repr=False)
    ids: list[str] = field(repr=False)
    label: Tensor | None = field(default=None, repr=False)
    classes: list[str] = field(default_factory=list)
    attributes: Attributes | None = field(default=None, repr=False)
    captions: Captions | None = field(default=None, repr=False)
    given: Given | None = None
    embedded: Embedded | None = field(default=None, repr=False)
    patches: Patches | None = field(default=None, repr=False)
    fingerprint: str = ""
    problems: list[Unusable] = field(default_factory=list, repr=False)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    unread: list[str] = field(default_factory=list, repr=False)
    source: str = ""
    options: DataOptions = field(default_factory=DataOptions)
    device: torch.device | None = None

    def __post_init__(self) -> None:
        count = len(self.stored)
        lengths = [len(self.ids), count if self.label is None else len(self.label)]
        lengths.append(count if self.attributes is None else len(self.attributes.values))
        others = (self.captions, self.given, self.embedded, self.patches)
        lengths += [count if other is None else len(other) for other in others]
        if any(n != count for n in lengths):
            raise ValueError(
                f"expected {count} ids, labels, attributes, captions, given, embedded, patches; "
                f"got {lengths}"
            )

    def __len__(self) -> int:
        return len(self.stored)

    def to(self, device: str | torch.device) -> "Dataset":
        """The same with its batches on another device; and with its tensors there, if it has room.

        A quarter of what a GPU has left is for them: the rest is for the network.
        """
        device, attributes = torch.device(device), self.attributes
        if device.type == "cuda" and self._bytes > torch.cuda.mem_get_info(device)[0] / 4:
            return replace(self, device=device)
        if attributes is not None:
            attributes = attributes.to(device)
        return replace(
            self,
            device=device,
            stored=self.stored.to(device),
            label=None if self.label is None else self.label.to(device),
            attributes=attributes,
            given=None if self.given is None else self.given.to(device),
            embedded=None if self.embedded is None else self.embedded.to(device),
            patches=None if self.patches is None else self.patches.to(device),
        )

    @property
    def _bytes(self) -> int:
        """Of all examples, and what goes with them."""
        given = 0 if self.given is None else self.given.stored.nbytes
        return self.stored.nbytes + given + (self.patches.pixels.nbytes if self.patches else 0)

    @property
    def pictures(self) -> list[str]:
        """The picture that each example is, or is cut from, by name."""
        return self.ids if self.patches is None else self.patches.pictures

    def batch(
        self, indices: Tensor, draws: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Examples for the network, and their conditions.

        Args:
            indices: ``(B,)``.
            draws: ``(B, 4)`` from `draws_at`, to vary the examples by, patches by their place,
                captions by which of several; None leaves them as they are.

        Returns:
            x ``(B, C, *S)`` and, as far as they exist, ``label`` ``(B,)``, ``attributes``
            ``(B, A)`` of mean 0 and variance 1 with NaN for missing, ``text`` ``(B, L)``: the
            pieces of a caption, with room for the longest, ``embedding`` ``(B, E)``: what an
            encoder makes of it, ``context`` ``(B, Cg, *S)``: what is given, and ``augment``
            ``(B, options.augmentations)``: how each example was varied, zeros for untouched.
        """
        indices = indices.to(self.stored.device)
        if self.patches is not None and draws is not None:
            draws = draws.to(self.stored.device)
            stored = self.patches.drawn(indices, draws[:, 1:3])
        else:
            stored = movable(self.stored)[indices].view(self.stored.dtype)
        cond: dict[str, Tensor] = {}
        if self.label is not None:
            cond["label"] = self.label[indices]
        if self.attributes is not None:
            cond["attributes"] = self.attributes.standard(indices)
        if self.captions is not None:
            which = None if draws is None else draws[:, 3]
            cond["text"] = self.captions.tensor(indices, which).to(indices.device)
        if self.embedded is not None:
            which = None if draws is None else draws[:, 3]
            cond["embedding"] = self.embedded.tensor(indices, which)
        if self.given is not None:
            cond["context"] = self.given.context(indices, self.codec.shape[1:])
        if self.options.augmentations and stored.ndim == 4:
            augment = torch.zeros(len(stored), self.options.augmentations, device=stored.device)
            if draws is not None and (self.options.flip or self.options.shift):
                draws = draws.to(stored.device)
                size = stored.shape[2:]
                stored, varied = vary(stored, draws, self.options)
                augment[:, : varied.shape[1]] = varied
                if self.given is not None:  # pixel by pixel, before blocks of them are made
                    context, _ = vary(self.given.scaled(indices, size), draws, self.options)
                    cond["context"] = fitted(context, self.codec.shape[1:], self.given.block)
            cond["augment"] = augment
        device = self.device or stored.device
        cond = {name: value.to(device) for name, value in cond.items()}
        return self.codec.pack(stored.to(device)), cond

    def order(self, seed: int, positions: range) -> Tensor:
        """`order` for this dataset, balanced if its options say so."""
        return order(seed, len(self), positions, self.label if self.options.balance else None)

    def subset(self, indices: Tensor) -> "Dataset":
        """The examples at `indices`, with the same codec, classes and fingerprint."""
        attributes = self.attributes
        if attributes is not None:
            attributes = replace(attributes, values=attributes.values[indices])
        return replace(
            self,
            stored=taken(self.stored, indices),
            ids=[self.ids[i] for i in indices.tolist()],
            label=None if self.label is None else self.label[indices],
            attributes=attributes,
            captions=None if self.captions is None else self.captions[indices],
            given=None if self.given is None else self.given[indices],
            embedded=None if self.embedded is None else self.embedded[indices],
            patches=None if self.patches is None else self.patches[indices],
        )

    def without_copies(self) -> "Dataset":
        """The examples that differ from those before in content, or in what is said of it."""
        count = len(self)
        labels = [-1] * count if self.label is None else self.label.tolist()
        given = repeat(b"", count) if self.given is None else _rows(self.given.stored)
        texts = [()] * count if self.captions is None else self.captions.texts
        first: dict[tuple[bytes, bytes, int, tuple[str, ...]], int] = {}
        told = zip(_rows(self.stored), given, labels, texts, strict=True)
        for i, (row, beside, label, text) in enumerate(told):
            first.setdefault((_digest(row, 0), _digest(beside, 0), label, text), i)
        return self if len(first) == count else self.subset(torch.tensor(list(first.values())))

    def split(self, fraction: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """Training and held-out examples, about `fraction` of each class held out.

        A function of the content of each example and the seed: new examples leave the side of
        most others as it was, and copies of one example fall on the same side, be they of other
        classes. Training is never empty; with two different examples or more and
        ``fraction > 0``, nor is the other. Of patches, see `Patches.split`.
        """
        if self.patches is not None:
            train, rest = self.patches.split(fraction, seed)
            if fraction > 0 and not len(rest):
                warnings.warn(
                    f"Nothing is held out of {shown(self.source)}, and nothing can be measured on "
                    "what was not seen: its pictures are too few and too small to part. Give "
                    f"{WHOLE} or more, larger ones, or a --data.patch below {self.patches.size}.",
                    Notice,
                    stacklevel=2,
                )
            return self._cut_anew(train), self._cut_anew(rest)
        keys = [_digest(row, seed) for row in _rows(self.stored)]
        groups: dict[int, list[int]] = {}
        for i, c in enumerate([0] * len(self) if self.label is None else self.label.tolist()):
            groups.setdefault(c, []).append(i)
        held: set[int] = set()
        for members in groups.values():
            held |= lowest(members, keys, floor(fraction * len(members) + 0.5))
        if fraction > 0 and not held:
            held = lowest(list(range(len(self))), keys, 1)
        out_of_sight = {keys[i] for i in held}
        sides = [key in out_of_sight for key in keys]  # with copies in other classes
        train = torch.tensor([i for i, out in enumerate(sides) if not out], dtype=torch.int64)
        rest = torch.tensor([i for i, out in enumerate(sides) if out], dtype=torch.int64)
        return self.subset(train), self.subset(rest)

    def _cut_anew(self, patches: Patches) -> "Dataset":
        """Other patches of the same pictures."""
        place = {name: i for i, name in enumerate(self.pictures)}
        rows = torch.tensor([place[name] for name in patches.pictures], dtype=torch.int64)
        return replace(self.subset(rows), stored=patches.fixed(), ids=patches.ids, patches=patches)


def _rows(stored: Tensor) -> Iterator[memoryview]:
    """The bytes of each example."""
    for some in parts(stored):
        array = np.ascontiguousarray(stored[some].cpu().numpy())
        yield from (row.data for row in array.reshape(len(array), -1).view(np.uint8))


def _digest(row: memoryview | bytes, seed: int) -> bytes:
    return blake2b(row, digest_size=16, salt=seed.to_bytes(8, "little")).digest()


def fingerprint(
    stored: Tensor,
    ids: Sequence[str],
    label: Tensor | None,
    attributes: Attributes | None,
    given: Given | None = None,
    patches: Patches | None = None,
    captions: Captions | None = None,
) -> str:
    """A hash of everything training can see."""
    digest = blake2b(digest_size=16)
    digest.update(repr((tuple(stored.shape), str(stored.dtype), list(ids))).encode())
    digest.update(np.ascontiguousarray(stored.numpy()).view(np.uint8).reshape(-1).data)
    if label is not None:
        digest.update(label.numpy().tobytes())
    if attributes is not None:
        single = attributes.values.float()  # as when runs began that go on
        digest.update(repr(attributes.names).encode() + single.numpy().tobytes())
    if given is not None:
        digest.update(np.ascontiguousarray(given.stored.numpy()).view(np.uint8).reshape(-1).data)
    if patches is not None:
        digest.update(np.ascontiguousarray(patches.pixels.numpy()).view(np.uint8).reshape(-1).data)
    if captions is not None:
        digest.update(repr(captions.texts).encode(errors="surrogatepass"))
    return digest.hexdigest()


# --- Order ---------------------------------------------------------------------------------------


def order(seed: int, count: int, positions: range, label: Tensor | None = None) -> Tensor:
    """Which example training sees at each position of its clock `seen`.

    Positions ``e count ... (e + 1) count - 1`` are epoch e, a permutation that is a function of
    (seed, e) alone. With labels, an epoch is a systematic sample instead, in which every class is
    shown ``count / classes`` times, to within one; a class of -1 counts as one.

    Args:
        seed: Of the run.
        count: Examples in the dataset.
        positions: One after the other, >= 0.
        label: ``(count,)``, to balance.

    Returns:
        Indices ``(B,)``, int64; perhaps a view of what is kept, so not to be written to.
    """
    first, stop = positions.start, positions.start + len(positions)
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    if first < 0 or positions.step != 1:
        raise ValueError(f"positions must follow each other from 0 or more, got {positions}")
    weights = None if label is None else label.cpu().numpy().astype(np.int32).tobytes()
    starts = range(first - first % count, max(stop, first + 1), count)  # of the epochs
    shown = [_epoch(seed, s // count, count, weights)[max(0, first - s) : stop - s] for s in starts]
    return shown[0] if len(shown) == 1 else torch.cat(shown)


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, count: int, label: bytes | None) -> Tensor:
    draw = generator("order", seed, epoch)
    if label is None:
        return torch.from_numpy(draw.permutation(count))
    kinds, place, sizes = np.unique(
        np.frombuffer(label, np.int32), return_inverse=True, return_counts=True
    )
    mixed = draw.permutation(count)
    mixed = mixed[np.argsort(place[mixed], kind="stable")]  # by class, in random order within
    share = 1 / (len(kinds) * sizes[place[mixed]])
    ends = np.cumsum(share)
    picks = np.searchsorted(ends / ends[-1], (np.arange(count) + draw.random()) / count, "right")
    return torch.from_numpy(draw.permutation(mixed[np.minimum(picks, count - 1)]))


# --- Variation -----------------------------------------------------------------------------------


def draws_at(seed: int, positions: Sequence[int] | Tensor) -> Tensor:
    """Uniform numbers ``(B, 4)`` in [0, 1), float64: row i a function of (seed, position i)."""
    place = torch.as_tensor(positions, dtype=torch.int64)
    block, within = place // _BLOCK, place % _BLOCK
    draws = torch.empty(len(place), 4, dtype=torch.float64)
    for b in block.unique().tolist():
        here = block == b
        draws[here] = _block(seed, b)[within[here]]
    return draws


@lru_cache(maxsize=4)
def _block(seed: int, block: int) -> Tensor:
    return torch.from_numpy(generator("augment", seed, block).random((_BLOCK, 4)))


def vary(stored: Tensor, draws: Tensor, options: DataOptions) -> tuple[Tensor, Tensor]:
    """Mirror and move pictures, and say how.

    Args:
        stored: ``(B, C, H, W)``.
        draws: ``(B, 4)`` in [0, 1): the first for the mirror, the move down, the move right.
        options: ``flip`` and ``shift``.

    Returns:
        The pictures, and what was done, as far as asked for: 1 if mirrored, ``(B, 1)``; the moves
        over ``shift``, ``(B, 2)``.

    A network that is told how its example was varied, and is asked for zeros, does not draw
    varied examples: the variation does not leak.
    Source: Karras et al. (2020), https://arxiv.org/abs/2006.06676; Karras et al. (2022),
    https://arxiv.org/abs/2206.00364, appendix F.2.
    """
    batch, channels, height, width = stored.shape
    rows = torch.arange(height, device=stored.device).expand(batch, -1)
    columns = torch.arange(width, device=stored.device).expand(batch, -1)
    told = []
    if options.flip:
        mirrored = draws[:, :1] < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        told.append(mirrored)
    if options.shift:
        moves = torch.floor(draws[:, 1:3] * (2 * options.shift + 1)).long() - options.shift
        rows = (rows - moves[:, :1]).clamp(0, height - 1)
        # the mirror was made first: what moves right is the mirrored picture
        columns = columns.gather(
            1, (torch.arange(width, device=stored.device) - moves[:, 1:]).clamp(0, width - 1)
        )
        told.append(moves / options.shift)
    place = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # of each pixel
    pixels = movable(stored.flatten(2)).gather(2, place[:, None].expand(-1, channels, -1))
    varied = pixels.view(stored.dtype).view_as(stored)
    return varied, torch.cat([t.float() for t in told], 1)
