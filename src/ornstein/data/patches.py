"""Pictures of any sizes, of which the examples are patches cut at random places.

An example is one cell of a grid laid over a picture. Looked at, it is a fixed patch, which no
other overlaps; shown in training, a patch that begins at a random place of its cell. The cells of
a picture share out all the places where a patch can begin, so that every patch is as likely.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import floor, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .codec import measure, movable
from .room import parts, room

WHOLE = 20  # pictures from which some are held out whole, rather than a strip of each


class Part(NamedTuple):
    """A rectangle of a picture, the whole of it at first.

    Args:
        name: Of the picture.
        first: The place of the picture's first pixel.
        row: Pixels in a row of the picture.
        top: Where the rectangle begins.
        left: Likewise.
        height: Of the rectangle.
        width: Likewise.
    """

    name: str
    first: int
    row: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Patches:
    """Where examples are cut from.

    Args:
        pixels: Of all pictures, one after the other, row by row: ``(C, M)``.
        parts: The rectangles patches may come from.
        size: Of a patch.
        part: Which of them, for each example ``(N,)``.
        cell: Where its patches may begin: place of the first, pixels in a row of the picture,
            rows, columns ``(N, 4)``.
        still: Where its fixed patch begins ``(N, 2)``: top and left in the picture.
    """

    pixels: Tensor = field(repr=False)
    parts: tuple[Part, ...]
    size: int
    part: Tensor
    cell: Tensor
    still: Tensor

    def __len__(self) -> int:
        return len(self.part)

    @classmethod
    def of(cls, pixels: Tensor, parts: Sequence[Part], size: int) -> "Patches":
        """A grid over each part, of as many cells as patches fit side by side."""
        part, cell, still = [], [], []
        for number, p in enumerate(parts):
            for y, rows in _axis(p.height, size):
                for x, columns in _axis(p.width, size):
                    top, left = p.top + rows.start, p.left + columns.start
                    part.append(number)
                    cell.append((p.first + top * p.row + left, p.row, len(rows), len(columns)))
                    still.append((p.top + y, p.left + x))
        return cls(
            pixels=pixels,
            parts=tuple(parts),
            size=size,
            part=torch.tensor(part, dtype=torch.int64),
            cell=torch.tensor(cell, dtype=torch.int64).view(-1, 4),
            still=torch.tensor(still, dtype=torch.int64).view(-1, 2),
        )

    def __getitem__(self, indices: Tensor) -> "Patches":
        return replace(
            self, part=self.part[indices], cell=self.cell[indices], still=self.still[indices]
        )

    def to(self, device: str | torch.device) -> "Patches":
        """The same on another device."""
        return replace(self, pixels=self.pixels.to(device), cell=self.cell.to(device))

    @property
    def pictures(self) -> list[str]:
        """The picture of each example, by name."""
        return [self.parts[p].name for p in self.part.tolist()]

    @property
    def ids(self) -> list[str]:
        """A name for each example: its picture's, and where its fixed patch lies."""
        places = zip(self.pictures, self.still.tolist(), strict=True)
        return [f"{name}@{top},{left}" for name, (top, left) in places]

    def fixed(self) -> Tensor:
        """The fixed patches ``(N, C, size, size)``."""
        begins = torch.tensor([(p.first, p.row) for p in self.parts], dtype=torch.int64)
        first, row = begins.view(-1, 2)[self.part].unbind(1)
        first = first + self.still[:, 0] * row + self.still[:, 1]
        pixels = self.pixels.numpy()
        cut = room((len(self), len(pixels), self.size, self.size), pixels.dtype)
        for some in parts(cut):
            cut[some] = self._cut(first[some], row[some]).numpy()
        return torch.from_numpy(cut)

    def drawn(self, indices: Tensor, draws: Tensor) -> Tensor:
        """Patches that begin at random places of the cells of examples `indices` ``(B,)``.

        Args:
            indices: Which examples.
            draws: ``(B, 2)`` in [0, 1): for the move down, the move right.
        """
        first, row, rows, columns = self.cell[indices].unbind(1)
        down = torch.floor(draws[:, 0] * rows).long()
        right = torch.floor(draws[:, 1] * columns).long()
        return self._cut(first + down * row + right, row)

    def _cut(self, first: Tensor, row: Tensor) -> Tensor:
        ahead = torch.arange(self.size, device=first.device)
        place = first[:, None, None] + row[:, None, None] * ahead[:, None] + ahead
        cut = movable(self.pixels)[:, place].movedim(0, 1).contiguous()
        return cut.view(self.pixels.dtype)

    def split(self, fraction: float, seed: int) -> tuple["Patches", "Patches"]:
        """Patches to train on and patches held out; no pixel is on both sides, nor is its copy.

        Of many pictures, about `fraction` are held out whole, by a hash of what they show, and so
        with their copies; of a handful, a strip along one side of each that is wide enough.
        """
        if fraction == 0:
            return self, self[torch.empty(0, dtype=torch.int64)]
        shown = sorted(set(self.part.tolist()))
        keys = {i: self._digest(self.parts[i], seed) for i in shown}
        kept, held = list[Part](), list[Part]()
        if len(shown) >= WHOLE:
            last = lowest(shown, keys, floor(fraction * len(shown) + 0.5))
            for i in shown:
                (held if i in last else kept).append(self.parts[i])
        else:
            for i in shown:
                for side, part in _cleft(self.parts[i], fraction, self.size, keys[i][0] % 2 == 0):
                    (held if side else kept).append(part)
        return Patches.of(self.pixels, kept, self.size), Patches.of(self.pixels, held, self.size)

    def _digest(self, part: Part, seed: int) -> bytes:
        last = part.first + part.row * (part.top + part.height)
        seen = np.ascontiguousarray(self.pixels[:, part.first : last].cpu().numpy())
        salt = seed.to_bytes(8, "little")
        return blake2b(seen.view(np.uint8).data, digest_size=16, salt=salt).digest()


def lowest(members: list[int], keys: Sequence[bytes] | Mapping[int, bytes], count: int) -> set[int]:
    """The first `count` members by key, with their copies; never all of them."""
    ranked = sorted(members, key=lambda i: keys[i])
    while 0 < count < len(ranked) and keys[ranked[count]] == keys[ranked[count - 1]]:
        count += 1
    return set(ranked[:count]) if count < len(ranked) else set()


def _axis(length: int, size: int) -> list[tuple[int, range]]:
    """Of each cell along an axis, where its fixed patch begins, and where any may."""
    count, places = length // size, length - size + 1
    ends = [places * i // count for i in range(count + 1)]
    still = [(places - 1) * i // max(1, count - 1) for i in range(count)]
    return [(still[i], range(ends[i], ends[i + 1])) for i in range(count)]


def _cleft(part: Part, fraction: float, size: int, first: bool) -> list[tuple[bool, Part]]:
    """`part` in two along its longer axis, the strip held out marked; or whole, if too small."""
    wide = part.width >= part.height
    length = part.width if wide else part.height
    strip = max(size, round(fraction * length))
    if length - strip < size:
        return [(False, part)]
    at = strip if first else length - strip
    one = part._replace(width=at) if wide else part._replace(height=at)
    if wide:
        other = part._replace(left=part.left + at, width=length - at)
    else:
        other = part._replace(top=part.top + at, height=length - at)
    return [(first, one), (not first, other)]


def lay(pictures: Sequence[tuple[str, np.ndarray]], size: int) -> Patches:
    """Patches of pictures ``(C, H, W)`` by name, of one dtype, none smaller than a patch."""
    laid, end = list[Part](), 0
    for name, picture in pictures:
        _, height, width = picture.shape
        laid.append(Part(name, end, width, 0, 0, height, width))
        end += height * width
    pixels = room((len(pictures[0][1]), end), pictures[0][1].dtype)
    for part, (_, picture) in zip(laid, pictures, strict=True):
        here = slice(part.first, part.first + part.height * part.width)
        pixels[:, here] = picture.reshape(len(picture), -1)
    return Patches.of(torch.from_numpy(pixels), laid, size)


def measure_pixels(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean of each channel of ``(C, M)``, and one standard deviation for all that vary.

    With one for all, noise that is white in the units of the pictures is white in those of x.
    """
    mean, std = measure(pixels.T)
    vary = [s for s in std if s > 0]
    common = sqrt(sum(s * s for s in vary) / len(vary)) if vary else 0.0
    return mean, tuple(common if s > 0 else 0.0 for s in std)
