"""Say what is where in a picture: masks drawn several times over, their vote and their doubt."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..data.codec import Codec
from ..data.decode import decode, uncovered
from ..data.files import read_file
from ..data.image import ImageCodec
from ..data.places import Place, files_in
from ..errors import UsageError
from .asking import context_from
from .examples import refuse_another_size
from .options import DrawOptions, SampleOptions, SegmentOptions, checked
from .picture import png, write_picture
from .restored import Cost
from .sample import Run, opened, plan, stream

if TYPE_CHECKING:
    from PIL import Image

Pictures = Place | Sequence[Place] | Tensor


@dataclass(frozen=True, eq=False)
class Segmented:
    """Pictures, and what the masks drawn for them say.

    Args:
        names: Of the P pictures.
        given: The pictures ``(P, Cg, *Sg)``, as stored.
        shares: How many of a picture's masks say each of the K values there are, in [0, 1],
            ``(P, K, C, *S)``.
        codec: Of the masks.
        beside: Of the pictures.
        cost: What they took; None if it was not counted.
        sizes: (height, width) of each picture before it was scaled; empty if none was.
    """

    names: tuple[str, ...]
    given: Tensor
    shares: Tensor
    codec: Codec
    beside: ImageCodec
    cost: Cost | None = None
    sizes: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.shares)

    @property
    def values(self) -> np.ndarray:
        """What a mask may say, rising, ``(K,)``."""
        return np.array(self.codec.values)

    @property
    def masks(self) -> np.ndarray:
        """The vote ``(P, C, *S)``, in the dtype of the masks; ties go to the lower value."""
        return self.values[self.shares.argmax(1).numpy()].astype(self.codec.dtype)

    @property
    def mean(self) -> Tensor:
        """The mean of the masks ``(P, C, *S)``: 0 is the lowest value, 1 the highest."""
        return torch.einsum("pk...,k->p...", self.shares, self._unit(self.values))

    @property
    def doubt(self) -> Tensor:
        """The share of the masks that disagree with the vote, ``(P, C, *S)``."""
        return 1 - self.shares.amax(1)

    def overlap(self, truth: np.ndarray) -> list[float]:
        """Dice's coefficient with the true masks ``(P, C, *S)``, for each picture.

        ``2 |A and B| / (|A| + |B|)``, the mean over all values but the lowest, which is the
        background; two empty sets agree.
        """
        scores = []
        for mask, true in zip(self.masks, truth, strict=True):
            each = []
            for value in self.values[1:]:
                a, b = mask == value, true == value
                size = a.sum() + b.sum()
                each.append(2 * (a & b).sum() / size if size else 1.0)
            scores.append(float(np.mean(each)))
        return scores

    def panel(self, scale: int | None = None) -> "Image.Image":
        """One row for each picture: it, the vote, the mean of the masks, and the doubt."""
        from PIL import Image

        height, width = self.codec.shape[1:]
        scale, gap = scale or max(1, min(8, 96 // min(height, width))), 2
        size, step = (width * scale, height * scale), (width * scale + gap, height * scale + gap)
        sheet = Image.new("RGB", (4 * step[0] + gap, len(self) * step[1] + gap), "white")
        shown = self.beside.screen(self.beside.pack(self.given))
        vote = self._unit(self.masks.astype(np.float64))
        for i in range(len(self)):
            maps = [map_[0] for map_ in (vote[i], self.mean[i], 2 * self.doubt[i])]
            row = [Image.fromarray(shown[i]), *map(_picture, maps)]
            for j, picture in enumerate(row):
                at = gap + j * step[0], gap + i * step[1]
                sheet.paste(picture.resize(size, Image.Resampling.NEAREST), at)
        return sheet

    def save(self, folder: str | Path) -> list[Path]:
        """Write each mask in the format of the data, and what is to be thought of it as grey PNGs.

        ``NAME-mean.png`` is white where all masks have the highest value, ``NAME-doubt.png`` is
        bright where they disagree. All are as large as the picture was; where it was cut, they
        have the lowest value.
        """
        folder, paths = Path(folder), []
        for i, name in enumerate(self.names):
            mask = self._as_large(i, torch.from_numpy(self.masks[i]), self.values[0])
            codec = replace(self.codec, shape=tuple(mask.shape))
            [made] = codec.save(codec.pack(mask[None]), folder)
            paths.append(made.replace(folder / f"{name}-mask{made.suffix}"))
            for word, maps in (("mean", self.mean[i]), ("doubt", 2 * self.doubt[i])):
                map_ = self._as_large(i, maps, 0.0)[0]
                paths.append(write_picture(_picture(map_), folder / f"{name}-{word}.png"))
        return paths

    def _as_large(self, i: int, maps: Tensor, fill: float) -> Tensor:
        """Maps ``(C, *S)`` of picture i at the size that it had."""
        if not self.sizes:
            return maps
        return torch.from_numpy(
            uncovered(maps.movedim(0, -1).numpy(), *self.sizes[i], fill)
        ).movedim(-1, 0)

    def _unit(self, values: np.ndarray) -> Tensor:
        low, high = self.values[0], self.values[-1]
        return torch.from_numpy((values - low) / (high - low)).float()

    def _repr_png_(self) -> bytes:
        return png(self.panel())


def segment(
    run: Run,
    pictures: Pictures,
    draws: int = 8,
    *,
    device: str | torch.device = "auto",
    **options: Any,
) -> Segmented:
    """Say what is where in pictures, with a run that was trained to make masks of them.

    Args:
        run: The run, or its folder; trained with ``given`` pictures to ``make`` masks.
        pictures: Files, folders, or what they hold as a stored batch ``(P, C, *S)``.
        draws: Masks of each picture. One is a guess; their mean says how sure to be.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        **options: Those of `SegmentOptions`.

    Raises:
        UsageError: If an option is unknown or out of its bounds, or the run makes no masks.
        DataError: If a picture cannot be read.

    Source: Wolleb et al. (2021), https://arxiv.org/abs/2112.03145.
    """
    chosen = checked(SegmentOptions, {"draws": draws, **options})
    model = opened(run, device)
    codec, beside = model.codec.data, model.given
    if codec.values is None or not isinstance(beside, ImageCodec):
        raise UsageError("This run does not make masks of pictures: train one with given and make.")
    as_they_are = model.config.data.size is None
    names, stored = read(beside, pictures, as_it_is=as_they_are)
    sizes = () if as_they_are or isinstance(pictures, Tensor) else sizes_of(pictures)
    begun, count, context = time.perf_counter(), len(stored), context_from(model, stored.numpy())
    kept = {f.name: getattr(chosen, f.name) for f in fields(DrawOptions)}
    asked = SampleOptions(**kept, count=count * chosen.draws)

    def given(indices: Sequence[int]) -> Tensor:
        return context[torch.tensor(indices) // chosen.draws]

    values = np.array(codec.values).reshape(-1, *(1 for _ in codec.shape))
    votes = torch.zeros(count, len(values), *codec.shape)
    for part in stream(model, asked, context=given):
        said = torch.from_numpy(codec.stored(part.x)[:, None] == values)
        votes.index_add_(0, (part.first + torch.arange(len(part))) // chosen.draws, said.float())
    cost, seconds = None, (time.perf_counter() - begun) / count
    if (calls := plan(model, asked)[1].calls) is not None:
        cost = Cost(calls=chosen.draws * calls, products=0, seconds=seconds)
    return Segmented(names, stored, votes / chosen.draws, codec, beside, cost, sizes)


def compare(found: Segmented, truth: Pictures) -> list[float]:
    """`Segmented.overlap` with the true masks that files hold.

    Raises:
        UsageError: If there are not as many as pictures.
    """
    _, true = read(found.codec, truth, as_it_is=True)
    if len(true) != len(found):
        raise UsageError(f"{len(true)} true masks for {len(found)} pictures: give one for each.")
    return found.overlap(true.numpy())


def read(codec: Codec, pictures: Pictures, as_it_is: bool) -> tuple[tuple[str, ...], Tensor]:
    """A name for each picture, and the pictures ``(P, C, *S)`` as stored.

    Args:
        codec: Of such pictures.
        pictures: Where they lie, or what they hold.
        as_it_is: Whether those of the training were not scaled, so that these must not be.

    Raises:
        DataError: If one cannot be read, or is of another size.
        UsageError: If there is none.
    """
    if isinstance(pictures, Tensor):
        return tuple(f"{i:06d}" for i in range(len(pictures))), pictures
    names, found = [], []
    for path in files_in(pictures):
        if as_it_is:
            refuse_another_size(codec.shape, path)
        pages = codec.read(path)
        many = len(pages) > 1
        names += [f"{path.stem}-{i}" if many else path.stem for i in range(len(pages))]
        found.append(pages)
    return tuple(names), torch.cat(found)


def sizes_of(pictures: Place | Sequence[Place]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each picture in the files; empty if they are arrays."""
    paths = files_in(pictures)
    if any(path.suffix.lower() == ".npy" for path in paths):
        return ()
    pages = (page for path in paths for page in decode(read_file(path)))
    return tuple((page.shape[0], page.shape[1]) for page in pages)


def _picture(map_: Tensor) -> "Image.Image":
    """A map ``(H, W)`` of values in [0, 1] in grey."""
    from PIL import Image

    return Image.fromarray((255 * map_.clamp(0, 1)).round().byte().numpy())
