"""Whether pictures of `scenes` show what their captions ask for: read back, thing by thing."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import torch

from ...core.shares import Share
from ...data.codec import Codec
from ...data.dataset import Dataset
from ...data.scenes import COLOURS, DIRECTION, Scans, Scene, draw_scene, paint, scans
from ...rng import generator
from ...runs.model import Model
from ...tasks.sample import sample

PATCH = 12  # pixels of a side, from which the kind of a thing is read
LEARNED = 4_000  # scenes that the reader of kinds learns from
APART = 50  # levels from the ground, of a pixel that belongs to a thing
DISTINCT = 80  # of at least one of its pixels
EDGE = 0.15  # share of its colour, from which on a pixel counts when a thing is cut out
SPECK = 6.0  # pixels of colour below which there is no thing
MOVED, SOFTENED, NOISE = 0.5, 0.8, 12.0  # at most: pixels, pixels of standard deviation, levels
FOLD = 5  # every so many-th scan is kept from the reader, to say how often it errs


@dataclass(frozen=True)
class Seen:
    """A thing in a picture: its kind and colour, and its middle, down and to the right."""

    kind: str
    colour: str
    middle: tuple[float, float]


@dataclass(frozen=True)
class Verdict:
    """What of a picture is as asked for. What is not there at all is wrong in every respect.

    Args:
        objects: There are as many things, of these kinds.
        colours: Each is of its colour.
        relation: They stand as asked, and can be told apart; true of one alone.
    """

    objects: bool
    colours: bool
    relation: bool


WRONG = Verdict(False, False, False)


def judge(asked: Scene, seen: Sequence[Seen]) -> Verdict:
    """Compare with what was asked for, things matched as well as can be: by kind, then colour."""
    count = len(asked.things)
    ways = [_alike(asked, found) for found in permutations(seen, count)]
    best = max(((sum(kinds), sum(colours)) for kinds, colours, _ in ways), default=(0, 0))
    if not any(best):
        return WRONG
    kept = [way for way in ways if (sum(way[0]), sum(way[1])) == best]
    return Verdict(
        objects=len(seen) == count and any(all(kinds) for kinds, _, _ in kept),
        colours=any(all(colours) for _, colours, _ in kept),
        relation=all(stands for _, _, stands in kept),
    )


def _alike(asked: Scene, seen: Sequence[Seen]) -> tuple[list[bool], list[bool], bool]:
    """Which kinds and which colours agree, and whether the relation does."""
    pairs = list(zip(asked.things, seen, strict=True))
    kinds = [thing.kind == found.kind for thing, found in pairs]
    colours = [thing.colour == found.colour for thing, found in pairs]
    if asked.relation is None:
        return kinds, colours, True
    apart, direction = np.subtract(seen[1].middle, seen[0].middle), DIRECTION[asked.relation]
    along, across = apart @ direction, apart @ direction[::-1]
    return kinds, colours, bool(along > abs(across))


# --- Reading -------------------------------------------------------------------------------------


class SceneReader:
    """Sees the things in a picture: what differs from the ground, in connected pieces.

    It learns from scenes as they are painted and `disturbed`: a shape is painted pixel by pixel
    the same each time, and who has seen no other takes a soft triangle for a digit.

    Args:
        digits: The scans from which it learns what digits look like.
    """

    def __init__(self, digits: Scans) -> None:
        from sklearn.svm import SVC

        draw, patches, kinds = generator("scenes", "reader"), [], []
        for _ in range(LEARNED):
            scene = draw_scene(draw, held_out=bool(draw.integers(2)))
            axis = 0 if scene.relation in ("above", "below") else 1
            forward = scene.relation is None or sum(DIRECTION[scene.relation]) > 0
            things = scene.things if forward else scene.things[::-1]
            painted = paint(scene, draw, digits)
            for picture in (painted, disturbed(painted, draw)):
                pieces = _pieces(picture)
                if len(pieces) == len(things):
                    pieces.sort(key=lambda piece: piece.middle[axis])
                    patches += [piece.patch for piece in pieces]
                    kinds += [thing.kind for thing in things]
        kernel: Any = {"C": 10, "gamma": 0.06}
        self._classifier: Any = SVC(**kernel).fit(np.stack(patches), kinds)

    def __call__(self, pictures: np.ndarray) -> list[tuple[Seen, ...]]:
        """The things in each of the pictures ``(N, 3, 32, 32)`` in 8 bits."""
        found = [_pieces(picture) for picture in pictures]
        patches = [piece.patch for pieces in found for piece in pieces]
        kinds = iter(self._classifier.predict(np.stack(patches)) if patches else ())
        return [tuple(Seen(str(next(kinds)), p.colour, p.middle) for p in ps) for ps in found]


def disturbed(picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The same scene, moved by parts of a pixel, softened and with noise ``(3, 32, 32)``."""
    from scipy import ndimage

    moved = ndimage.shift(
        picture.astype(np.float64), (0, *draw.uniform(-MOVED, MOVED, 2)), order=1, mode="nearest"
    )
    soft = draw.uniform(0, SOFTENED)
    softened = ndimage.gaussian_filter(moved, (0, soft, soft))
    noisy = softened + draw.uniform(0, NOISE) * draw.standard_normal(picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


@cache
def reader(fold: int | None = None) -> SceneReader:
    """A reader, or one that has not seen every `FOLD`-th scan, from number `fold` on."""
    if fold is None:
        return SceneReader(scans())
    parts = [scans(k, FOLD) for k in range(FOLD) if k != fold]
    others = {digit: np.concatenate([part[digit] for part in parts]) for digit in scans()}
    return SceneReader(others)


@dataclass(frozen=True)
class _Piece:
    colour: str
    middle: tuple[float, float]
    patch: np.ndarray


def _pieces(picture: np.ndarray) -> list[_Piece]:
    """The connected pieces of what is not ground; gaps of up to two pixels are bridged."""
    from scipy import ndimage

    label: Any = ndimage.label
    pixels = picture.astype(np.float64)
    ground = np.median(pixels.reshape(3, -1), 1)[:, None, None]
    away = pixels - ground
    cover = np.abs(away).max(0)
    parts, count = label(ndimage.binary_dilation(cover > APART, np.ones((3, 3))))
    pieces = []
    for number in range(1, count + 1):
        inside = np.where(parts == number, cover, 0)
        share = inside / np.quantile(inside[inside > 0], 0.9)
        if np.minimum(share, 1).sum() < SPECK or inside.max() < DISTINCT:
            continue
        rows, columns = np.indices(share.shape)
        middle = (float(np.average(rows, weights=share)), float(np.average(columns, weights=share)))
        colour = (pixels * (share > 0.7)).sum((1, 2)) / (share > 0.7).sum()
        pieces.append(_Piece(_name(colour), middle, _patch(share)))
    return pieces


def _name(colour: np.ndarray) -> str:
    """The name of the nearest colour."""
    known = np.array(list(COLOURS.values()))
    return list(COLOURS)[int(np.square(known - colour).sum(1).argmin())]


def _patch(share: np.ndarray) -> np.ndarray:
    """What is there, its longer side scaled to `PATCH` pixels, ``(PATCH^2,)``."""
    from PIL import Image

    share = np.clip(share, 0, 1)
    rows, columns = (np.nonzero((share > EDGE).any(axis))[0] for axis in (1, 0))
    box = share[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(box.shape)
    square = np.zeros((side, side), np.float32)
    top, left = ((side - n) // 2 for n in box.shape)
    square[top : top + box.shape[0], left : left + box.shape[1]] = box
    image = Image.fromarray(square).resize((PATCH, PATCH), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(-1)


# --- Measuring -----------------------------------------------------------------------------------


def plain(share: Share) -> dict[str, Any]:
    """A share as plain values, for programs."""
    return {"share": share.value, "interval": share.interval, "n": share.n}


RESPECTS = ("objects", "colours", "relation", "all")

Shares = dict[str, Share]
"""Of how many pictures each of `RESPECTS` is right."""


def shares(verdicts: Sequence[Verdict]) -> Shares:
    """How often each respect is right, and all three."""
    rows = [(v.objects, v.colours, v.relation) for v in verdicts]
    counts = [*np.sum(rows, 0).tolist(), sum(map(all, rows))]
    return {n: Share(hits=hits, n=len(rows)) for n, hits in zip(RESPECTS, counts, strict=True)}


@dataclass(frozen=True)
class Request:
    """What is asked of a run: a scene, and one way to say it."""

    scene: Scene
    caption: str


def requests(count: int, seed: int, known: Dataset, held_out: bool = False) -> list[Request]:
    """Scenes and captions of which `known` has none, drawn from the seed."""
    texts = set() if known.captions is None else {t for row in known.captions.texts for t in row}
    draw, found = generator("scenes", "requests", seed, int(held_out)), list[Request]()
    while len(found) < count:
        scene = draw_scene(draw, held_out)
        (caption,) = scene.captions(draw, 1)
        if scene.relation is not None and caption not in texts:
            found.append(Request(scene, caption))
    return found


def ceiling(count: int, seed: int, held_out: bool = False, codec: Codec | None = None) -> Shares:
    """How often the reader finds real scenes right, of digits that it has not learned from.

    Args:
        count: Scenes.
        seed: Of the scenes.
        held_out: Whether one thing of each is of a kind and colour held out.
        codec: Through which the pictures go, and back, before they are read. What is lost in
            latents, no run on them can draw.
    """
    draw, real, pictures = generator("scenes", "ceiling", seed, int(held_out)), [], []
    for _ in range(count):
        real.append(draw_scene(draw, held_out))
        pictures.append(paint(real[-1], draw, scans(0, FOLD)))
    shown = np.stack(pictures)
    if codec is not None:
        shown = codec.stored(codec.pack(torch.from_numpy(shown)))
    return shares([judge(scene, seen) for scene, seen in zip(real, reader(0)(shown), strict=True)])


def ask(
    model: Model, known: Dataset, count: int, *, seed: int = 0, held_out: bool = False, **how: Any
) -> Shares:
    """Ask a run for `count` scenes it has not seen, and look.

    Args:
        model: A run of `scenes`.
        known: What it was trained on.
        count: Captions.
        seed: Of the captions and the pictures.
        held_out: Whether one thing of each is of a kind and colour that it never saw together.
        **how: Options of `tasks.sample`.
    """
    asked = requests(count, seed, known, held_out)
    texts = tuple(request.caption for request in asked)
    drawn = sample(model, count, text=texts, seed=seed, **how)
    seen = reader()(np.moveaxis(drawn.arrays, -1, 1))
    return shares([judge(a.scene, s) for a, s in zip(asked, seen, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What of the pictures of a run of `scenes` is as asked for.

    Args:
        unseen: For captions that it has not seen.
        held_out: For those with a kind and colour that it never saw together.
        real: What is found right of real scenes, by a reader that knows not their digits.
        real_held_out: Likewise, of those that are held out.
    """

    unseen: Shares
    held_out: Shares
    real: Shares
    real_held_out: Shares

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """As plain values, for programs."""
        kinds = (field.name for field in fields(self))
        return {kind: {n: plain(s) for n, s in getattr(self, kind).items()} for kind in kinds}

    def lines(self) -> list[str]:
        """A line for each respect."""
        return [
            f"{f'{name} right':<28} {self.unseen[name]}, real {self.real[name].value:.1%}; "
            f"held out {self.held_out[name]}, real {self.real_held_out[name].value:.1%}"
            for name in RESPECTS
        ]


def judge_run(model: Model, known: Dataset, count: int, *, seed: int = 0, **how: Any) -> Judged:
    """Ask a run of `scenes` for `count` unseen captions, and for as many held out."""
    found = (ask(model, known, count, seed=seed, held_out=held, **how) for held in (False, True))
    unseen, held_out = found
    real, real_held_out = (ceiling(count, seed, held) for held in (False, True))
    return Judged(unseen=unseen, held_out=held_out, real=real, real_held_out=real_held_out)
