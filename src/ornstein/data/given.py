"""What a network is given beside the noise, for each example: another picture, or a part of it.

A dataset of pairs teaches to make the one from the other: a sharp picture from a small one, a
photograph from a sketch, a mask of cells from a micrograph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import DataError
from .codec import Codec
from .names import Unusable, shown
from .room import parts, room, taken

if TYPE_CHECKING:
    from .dataset import Dataset

SMALL, GREY, EDGES, SKETCH = "small-", "grey", "edges", "sketch"
FAINT = 0.05  # a slope, of data of variance 1 each pixel, that is next to nothing
PLAIN = ("image", "file", "picture")  # words for the picture that `file_name` names


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """One given picture for each example of a dataset.

    Args:
        codec: Between these pictures and what a network sees of them.
        stored: ``(N, Cg, *Sg)``, in the dtype of their source.
        block: Pixels along each axis that one point of the network hears; see `fitted`.
    """

    codec: Codec
    stored: Tensor = field(repr=False)
    block: int = 1

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, indices: Tensor) -> "Given":
        return replace(self, stored=taken(self.stored, indices))

    def to(self, device: str | torch.device) -> "Given":
        """The same on another device."""
        return replace(self, stored=self.stored.to(device))

    @property
    def channels(self) -> int:
        """Of the context."""
        return heard(self.codec.shape, self.block)

    def context(self, indices: Tensor, space: Sequence[int]) -> Tensor:
        """The condition ``context`` ``(B, channels, *space)`` of the examples `indices`."""
        return fitted(self.codec.pack(self.stored[indices]), space, self.block)

    def scaled(self, indices: Tensor, space: Sequence[int]) -> Tensor:
        """What the examples `indices` are given, in as many pixels as they have themselves."""
        return fitted(self.codec.pack(self.stored[indices]), space)


def fitted(context: Tensor, space: Sequence[int], block: int = 1) -> Tensor:
    """Given pictures ``(B, Cg, *Sg)`` as the points ``*space`` of a network hear them.

    They are scaled to as many pixels, bicubic with antialias. Or to `block` times as many along
    each axis, of which a point hears its own, one channel for each: ``(B, Cg block^2, *space)``.
    So a network of few points, each of which stands for many pixels, loses none of them. Where
    less than a block is missing, the last pixels are repeated, as autoencoders do.

    Source: pixels as channels: Mou et al. (2023), https://arxiv.org/abs/2302.08453, section 3.2.
    """
    size = tuple(block * n for n in space)
    short = [n - there for n, there in zip(size, context.shape[2:], strict=True)]
    if len(size) != 2 and (block > 1 or any(short)):
        raise ValueError(f"only pictures can be scaled, got {tuple(context.shape)} for {size}")
    if any(short) and all(0 <= n < block for n in short):
        context = functional.pad(context, (0, short[1], 0, short[0]), mode="replicate")
    elif any(short):
        context = functional.interpolate(context, size, mode="bicubic", antialias=True)
    return functional.pixel_unshuffle(context, block) if block > 1 else context


def heard(shape: Sequence[int], block: int) -> int:
    """The channels that pictures of `shape` ``(Cg, *Sg)`` are heard in, in blocks."""
    return shape[0] * block ** (len(shape) - 1)


def mixed(context: Tensor, noise: Tensor, share: float | Tensor) -> Tensor:
    """What is given with noise in it: ``sqrt(1 - share^2) context + share noise``.

    The variance stays what it is. A run that was trained on such a mixture, and told the share,
    makes no difference between the noise and the flaws of what a run before it has drawn.

    Source: noise conditioning augmentation: Ho et al. (2021), https://arxiv.org/abs/2106.15282.
    """
    share = torch.as_tensor(share).to(context).view(-1, *(1 for _ in context.shape[1:]))
    return (1 - share**2).sqrt() * context + share * noise


def is_derived(word: str) -> bool:
    """Whether what is given follows from the example itself."""
    small = word.startswith(SMALL) and word.removeprefix(SMALL).isdecimal()
    return small or word in (GREY, EDGES, SKETCH)


def derive(dataset: "Dataset", word: str) -> Given:
    """What is given, made from the examples themselves.

    Args:
        dataset: Of pictures.
        word: ``small-N``, each picture scaled until its short side has N pixels; ``grey``; or
            `edges` and `sketch` of it, drawn in white on black in one channel of 8 bits.

    Raises:
        DataError: If the examples are no pictures, or have as few pixels, or no colour.
    """
    from .decode import cover, rechannel
    from .image import ImageCodec
    from .pictures import make_codec

    codec = dataset.codec
    if not isinstance(codec, ImageCodec):
        raise DataError(f"given = {word!r} is for pictures; {shown(dataset.source)} holds none.")
    channels, *space = codec.shape
    if word in (EDGES, SKETCH):
        lines = {EDGES: edges, SKETCH: sketch}[word]
        drawn = room((len(dataset), 1, *space), np.dtype(np.uint8))
        for some in parts(drawn):
            white = lines(codec.pack(dataset.stored[some]).cpu())
            drawn[some] = (255 * white).round().to(torch.uint8).numpy()
        stored = torch.from_numpy(drawn)
        return Given(codec=make_codec(stored, "uint8", "png", "HWC"), stored=stored)
    if word == GREY:
        if channels != 3:
            raise DataError(f"given = 'grey' needs colour; the pictures have {channels} channels.")
        size = tuple(space)
    else:
        short = int(word.removeprefix(SMALL))
        if not 1 <= short < min(space):
            raise DataError(
                f"given = {word!r} must be smaller than the pictures, {space[1]} x {space[0]}."
            )
        size = tuple(max(1, round(n * short / min(space))) for n in space)
    pictures = dataset.stored.numpy()
    made = room((len(pictures), 1 if word == GREY else channels, *size), pictures.dtype)
    for i, picture in enumerate(pictures):
        picture = np.moveaxis(picture, 0, 2)
        picture = rechannel(picture, 1) if word == GREY else cover(picture, *size)
        made[i] = np.moveaxis(picture, 2, 0)
    stored = torch.from_numpy(made)
    layout = "HW" if stored.shape[1] == 1 and codec.layout == "HW" else "HWC"
    if codec.levels is not None and stored.dtype == torch.uint8:
        stored.clamp_max_(codec.levels - 1)  # an antialiasing filter overshoots
    return Given(
        codec=make_codec(stored, codec.dtype, codec.format, layout, codec.levels), stored=stored
    )


# --- Lines ---------------------------------------------------------------------------------------


def edges(x: Tensor) -> Tensor:
    """Where pictures ``(B, C, H, W)`` change, thin: ``(B, 1, H, W)`` in [0, 1].

    The length of Sobel's gradient, in the channel where it is longest, over twice its root mean
    square in the picture, if that is not faint; kept where it is largest across the edge.

    Source: Canny (1986), https://doi.org/10.1109/TPAMI.1986.4767851, section 3, without its
    hysteresis.
    """
    size, along = gradient(x)
    size = (size / (2 * size.square().mean((2, 3), keepdim=True).sqrt() + FAINT)).clamp_max(1.0)
    around = functional.pad(size, [1] * 4)
    height, width = size.shape[2:]
    thin = torch.zeros_like(size)
    for sector, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        one, other = (
            around[..., 1 + s * down : 1 + s * down + height, 1 + s * right : 1 + s * right + width]
            for s in (1, -1)
        )
        thin += size * ((along == sector) & (size >= one) & (size >= other))
    return thin


def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's: its length and to which of four axes it is nearest, each ``(B, 1, H, W)``."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    kernels = torch.stack([kernel, kernel.T])[:, None].to(x)
    padded = functional.pad(x.flatten(0, 1)[:, None], [1] * 4, mode="replicate")
    both = functional.conv2d(padded, kernels).unflatten(0, x.shape[:2])
    size, channel = both.norm(dim=2).max(1, keepdim=True)
    right, down = (both[:, :, i].gather(1, channel) for i in (0, 1))
    return size, (torch.atan2(down, right) / (torch.pi / 4)).round().long() % 4


def sketch(x: Tensor) -> Tensor:
    """Strokes along the edges of pictures ``(B, C, H, W)``: ``(B, 1, H, W)``, 0 or 1.

    White where an edge is about as strong as usual in its picture, or more: a pen has no shades.
    """
    lines = edges(x)
    there = (lines > 0).sum((2, 3), keepdim=True).clamp_min(1)
    usual = lines.sum((2, 3), keepdim=True) / there
    return (lines > (0.9 * usual).clamp_min(0.1)).to(lines)


# --- Which file goes with which ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Names of pictures to make, and for each the name of what is given.

    Args:
        root: What all names to make begin with.
        partner: The name of what is given, by the name of what is made.
        problems: Pictures that are of no pair, and why.
    """

    root: str
    partner: dict[str, str]
    problems: list[Unusable]


def find_pairs(
    names: Sequence[str],
    rows: Mapping[str, Mapping[str, object]],
    root: str,
    given: str,
    make: str | None,
    place: str,
) -> Pairs:
    """Match what is given with what is to be made, by two folders or by columns of metadata.

    Two folders beside each other, such as ``low/`` and ``high/``, hold pictures of equal names,
    but for their endings. In metadata, ``mask`` stands for the column ``mask_file_name``, and
    ``image`` for ``file_name`` itself.

    Args:
        names: Of all pictures.
        rows: The metadata by the name of the picture; columns of file names hold full names.
        root: The dataset's own folder.
        given: A folder or a column.
        make: Likewise; by default ``image``.
        place: The dataset, for messages.

    Raises:
        DataError: If there are no such folders and no such columns.
    """
    words = given, make or PLAIN[0]
    if any(f"{word}_file_name" in row for row in rows.values() for word in words):
        return _pairs_of_rows(names, rows, root, words)
    here, there = f"{root}{given}/", f"{root}{make}/"
    sources = {_stem(n, here): n for n in names if n.startswith(here)}
    targets = [n for n in names if make is not None and n.startswith(there)]
    if not sources or not targets:
        folders = sorted({n[len(root) :].split("/")[0] for n in names if "/" in n[len(root) :]})
        known = ", ".join(shown(f, 30) for f in folders[:8]) or "no folders"
        raise DataError(
            f"{shown(place)} has no pairs of {given!r} and {make or PLAIN[0]!r}: name two folders "
            f"with --given and --make (there are: {known}), or columns such as mask_file_name of "
            "the metadata; or give each picture's own small-8, grey, edges or sketch."
        )
    partner = {n: sources[stem] for n in targets if (stem := _stem(n, there)) in sources}
    used = set(partner.values())
    unused = [n for n in names if n.startswith(here) and n not in used]
    problems = [Unusable(n, "nothing is given for it") for n in targets if n not in partner]
    problems += [Unusable(n, "nothing is made of it") for n in unused]
    return Pairs(root=there, partner=partner, problems=problems)


def _pairs_of_rows(
    names: Sequence[str],
    rows: Mapping[str, Mapping[str, object]],
    root: str,
    words: tuple[str, str],
) -> Pairs:
    partner: dict[str, str] = {}
    problems: list[Unusable] = []
    second = {str(v) for row in rows.values() for k, v in row.items() if k.endswith("_file_name")}
    for name, row in rows.items():
        given, made = (_named(name, row, word) for word in words)
        if given is not None and made is not None:
            if partner.setdefault(made, given) != given:
                reason = f"{made} is made of {partner[made]} already: copy it for each"
                problems.append(Unusable(given, reason))
        elif name not in second:
            what = "nothing is given for it" if given is None else "nothing is made of it"
            problems.append(Unusable(made or name, what))
    untold = [n for n in names if n not in rows and n not in second]
    problems += [Unusable(n, "no row of the metadata names it") for n in untold]
    return Pairs(root=root, partner=partner, problems=problems)


def _named(name: str, row: Mapping[str, object], word: str) -> str | None:
    """The picture that `word` stands for in the row of the picture `name`."""
    if value := row.get(f"{word}_file_name"):
        return str(value)
    return name if word in PLAIN else None


def _stem(name: str, folder: str) -> str:
    return name[len(folder) :].rpartition(".")[0]
