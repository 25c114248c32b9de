"""Captioned pictures that can be judged: shapes and real digits, in colour, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch

from ..errors import DataError
from ..rng import generator
from .captions import Captions
from .dataset import Dataset
from .options import DataOptions
from .pictures import describe, make_codec

SCENES = 16_384
SIDE = 32

COLOURS = {
    "red": (225, 45, 45),
    "green": (50, 190, 60),
    "blue": (60, 95, 240),
    "yellow": (240, 220, 50),
    "purple": (200, 70, 220),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
KINDS = (*SHAPES, *"0123456789")
SIZES = {"small": (8, 9), "large": (12, 13)}
"""Pixels of a side, of 32."""

Relation = Literal["left of", "right of", "above", "below"]
OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
DIRECTION: dict[Relation, tuple[int, int]] = {
    "left of": (0, 1),
    "right of": (0, -1),
    "above": (1, 0),
    "below": (-1, 0),
}
"""Down and to the right, from what stands so to the other."""

GAP, DRIFT, RIM = 4, 4, 1  # pixels between things, across, and around
ALONE = 1 / 8  # share of scenes of one thing
CAPTIONS = 3  # of each scene
DARK, LIGHT = 25, 75  # grey of the background
SHADE = 8.0  # std of the levels of a colour

Scans = dict[str, np.ndarray]
"""Scans ``(N, 8, 8)`` of each digit, from 0 to 1."""


@dataclass(frozen=True)
class Thing:
    """What is seen: one of `KINDS`, of `COLOURS` and of `SIZES`."""

    kind: str
    colour: str
    size: str

    @property
    def held_out(self) -> bool:
        """Whether it is of the kinds and colours that are never together in `scenes`.

        Each is there with others: of each colour two kinds are held out, 12 of 84 in all.
        """
        return (KINDS.index(self.kind) + 2 * list(COLOURS).index(self.colour)) % 7 == 0


@dataclass(frozen=True)
class Scene:
    """One thing, or two with a relation: the first stands left of the second.

    Args:
        things: One or two.
        relation: None for one.
    """

    things: tuple[Thing, ...]
    relation: Relation | None = None

    def captions(self, draw: np.random.Generator, count: int = CAPTIONS) -> tuple[str, ...]:
        """Ways to say it. Each of the sizes is said in half of them."""
        return tuple(self._said(draw) for _ in range(count))

    def _said(self, draw: np.random.Generator) -> str:
        words = [
            f"{t.size} {t.colour} {t.kind}" if draw.random() < 0.5 else f"{t.colour} {t.kind}"
            for t in self.things
        ]
        if self.relation is None:
            return (f"a {words[0]}", f"one {words[0]}")[draw.integers(2)]
        (first, second), relation, phrasing = words, self.relation, draw.integers(4)
        if draw.random() < 0.5:
            first, second, relation = second, first, OPPOSITE[relation]
        to_the = relation if relation in ("above", "below") else f"to the {relation}"
        return (
            f"a {first} {relation} a {second}",
            f"{first} {relation} {second}",
            f"there is a {first} {to_the} a {second}",
            f"a {second} and, {to_the} it, a {first}",
        )[phrasing]


def scenes(options: DataOptions, held_out: bool = False) -> Dataset:
    """One or two things on a dark grey ground, 32 x 32, each with three captions.

    Things are circles, squares, triangles, crosses and real scans of digits, in six colours and
    two sizes: "a small red 7 left of a blue square". Some kinds and colours are never together:
    see `Thing.held_out`. Scene i is a function of the seed and i alone.

    Args:
        options: `limit` says how many.
        held_out: Those with a thing of such a kind and colour instead.

    Raises:
        DataError: If another size than 32 or other than three channels are asked for.

    Source: of the scans: Alpaydin & Kaynak (1998), https://doi.org/10.24432/C50P49.
    """
    if options.size not in (None, SIDE) or options.channels not in (None, 3):
        raise DataError(f"scenes are {SIDE} x {SIDE} in colour: leave size and channels out.")
    name = "scenes-held-out" if held_out else "scenes"
    pictures, texts, count = [], [], options.limit or SCENES
    for i in range(count):
        draw = generator(name, options.seed, i)
        scene = draw_scene(draw, held_out)
        pictures.append(paint(scene, draw, scans()))
        texts.append(scene.captions(draw))
    stored = torch.from_numpy(np.stack(pictures))
    dataset = Dataset(
        codec=make_codec(stored, "uint8", "png", "HWC"),
        stored=stored,
        ids=[f"scene-{i:05d}" for i in range(count)],
        captions=Captions.of(texts, options.text_encoder),
        source=name,
        options=options,
    )
    return describe(dataset)


def draw_scene(draw: np.random.Generator, held_out: bool = False) -> Scene:
    """Any scene, half of its things digits.

    Args:
        draw: Gives the chances.
        held_out: Whether one of its things is to be one held out, else none is.
    """
    while True:
        first, second = _thing(draw), _thing(draw)
        alone = draw.random() < ALONE
        things = (first,) if alone else (first, second)
        relation = None if alone else tuple(OPPOSITE)[draw.integers(4)]
        same = (first.kind, first.colour) == (second.kind, second.colour)
        if not same and any(t.held_out for t in things) == held_out:
            return Scene(things, relation)


def _thing(draw: np.random.Generator) -> Thing:
    kinds = SHAPES if draw.random() < 0.5 else KINDS[len(SHAPES) :]
    return Thing(
        kind=kinds[draw.integers(len(kinds))],
        colour=tuple(COLOURS)[draw.integers(len(COLOURS))],
        size=tuple(SIZES)[draw.integers(len(SIZES))],
    )


def paint(scene: Scene, draw: np.random.Generator, digits: Scans) -> np.ndarray:
    """A picture of a scene ``(3, 32, 32)`` in 8 bits, its digits taken from `digits`."""
    masks = [_mask(thing, draw, digits) for thing in scene.things]
    picture = np.full((3, SIDE, SIDE), draw.uniform(DARK, LIGHT))
    sides = [len(mask) for mask in masks]
    for thing, mask, (top, left) in zip(
        scene.things, masks, _places(sides, scene.relation, draw), strict=True
    ):
        colour = np.array(COLOURS[thing.colour]) + SHADE * draw.standard_normal(3)
        here = picture[:, top : top + len(mask), left : left + len(mask)]
        here += mask * (colour[:, None, None] - here)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _places(
    sides: Sequence[int], relation: Relation | None, draw: np.random.Generator
) -> list[tuple[int, int]]:
    """The top left corners of squares with these sides, in this relation."""
    if relation is None:
        top, left = (RIM + int(draw.integers(SIDE - 2 * RIM - sides[0] + 1)) for _ in range(2))
        return [(top, left)]
    forward = sum(DIRECTION[relation]) > 0
    near, far = (0, 1) if forward else (1, 0)
    spare = SIDE - 2 * RIM - GAP - sum(sides)
    begin, more = np.sort(draw.integers(spare + 1, size=2))
    along, across = [0, 0], [0, 0]
    along[near] = RIM + int(begin)
    along[far] = along[near] + sides[near] + GAP + int(more - begin)
    middle = draw.uniform(RIM + max(sides) / 2, SIDE - RIM - max(sides) / 2)
    drift = draw.uniform(-DRIFT, DRIFT)
    for k, side in enumerate(sides):
        start = round(middle + (drift if k else 0) - side / 2)
        across[k] = min(max(start, RIM), SIDE - RIM - side)
    places = list(zip(along, across, strict=True))
    return places if DIRECTION[relation][0] else [(a, b) for b, a in places]


def _mask(thing: Thing, draw: np.random.Generator, digits: Scans) -> np.ndarray:
    """How much of each pixel of a square the thing covers, from 0 to 1."""
    side = int(draw.choice(SIZES[thing.size]))
    if thing.kind in SHAPES:
        return _shape(thing.kind, side)
    from PIL import Image

    scan = digits[thing.kind][draw.integers(len(digits[thing.kind]))]
    scaled = Image.fromarray(scan.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    return np.clip(1.25 * np.asarray(scaled), 0, 1)


@cache
def _shape(kind: str, side: int) -> np.ndarray:
    fine = 8  # points across a pixel
    place = (np.arange(side * fine) + 0.5) / (side * fine) * 2 - 1
    y, x = place[:, None], place[None]
    inside = {
        "circle": x**2 + y**2 < 1,
        "square": np.maximum(abs(x), abs(y)) < 0.9,
        "triangle": abs(x) < (y + 1) / 2,
        "cross": np.minimum(abs(x), abs(y)) < 0.3,
    }[kind]
    return inside.reshape(side, fine, side, fine).mean((1, 3))


@cache
def scans(first: int = 0, step: int = 1) -> Scans:
    """The scans of each digit: every `step`-th, from `first` on."""
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    images = np.asarray(flat).reshape(-1, 8, 8)[first::step] / 16
    return {digit: images[np.asarray(labels)[first::step] == int(digit)] for digit in "0123456789"}
