"""Datasets by name: real scans and photographs that ship with scikit-learn, points from a seed."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import pi

import numpy as np
import torch

from ..errors import DataError
from ..rng import generator
from .codec import measure
from .dataset import Dataset, name_classes
from .decode import like
from .drawn import cells
from .options import DataOptions
from .pictures import assemble, conform, cover, describe, make_codec, pick
from .points import PointsCodec
from .scenes import scenes

POINTS = 10_000
PATCHES = 8_192
STACKS = 20_000


def digits(options: DataOptions) -> Dataset:
    """1,797 real scans of written digits, 8 x 8, in 17 grey levels from 0 to 16.

    Source: Alpaydin & Kaynak (1998), https://doi.org/10.24432/C50P49, in scikit-learn.
    """
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    images = np.asarray(flat).reshape(-1, 8, 8)
    ids = [f"digit-{i:04d}" for i in range(len(images))]
    kept = set(pick(ids, options.limit))
    chosen = [i for i, name in enumerate(ids) if name in kept]
    pictures = [
        np.minimum(conform(like(images[i], np.dtype(np.uint8))[..., None], options), 16)
        for i in chosen
    ]
    stored = torch.from_numpy(np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2)))
    dataset = Dataset(
        codec=make_codec(stored, "uint8", "png", "HWC", levels=17),
        stored=stored,
        ids=[ids[i] for i in chosen],
        source="digits",
        options=options,
    )
    return describe(dataset, name_classes([str(labels[i]) for i in chosen]))


def stacked_digits(options: DataOptions) -> Dataset:
    """Three scans drawn at random from `digits`, one in each channel: 1,000 kinds of examples.

    Names tell the digits, as ``stack-00012-407``; no label does, for which of the 1,000 kinds a
    model draws is what it is judged by.

    Source: Metz et al. (2017), https://arxiv.org/abs/1611.02163, section 3.3.1, on MNIST.
    """
    single = digits(DataOptions())
    assert single.label is not None
    scans = np.stack([conform(p[..., None], options) for p in single.stored[:, 0].numpy()])
    count = options.limit or STACKS
    which = generator("stacked-digits", options.seed).integers(len(scans), size=(count, 3))
    stored = torch.from_numpy(np.minimum(scans[..., 0], 16)[which])
    read = single.label[torch.from_numpy(which)].tolist()
    return describe(
        Dataset(
            codec=make_codec(stored, "uint8", "png", "HWC", levels=17),
            stored=stored,
            ids=[f"stack-{i:05d}-{a}{b}{c}" for i, (a, b, c) in enumerate(read)],
            source="stacked-digits",
            options=options,
        ),
        (None, []),
    )


def flower(options: DataOptions) -> Dataset:
    """Random patches of two photographs, a temple in China and a flower: colour, 32 x 32 or `size`.

    Each is cut at a random place and scale: a square of 1 to 4 times its size, scaled down.
    """
    from sklearn.datasets import load_sample_images

    photographs = [np.asarray(p) for p in load_sample_images().images]
    size, count = options.size or 32, options.limit or PATCHES
    draw = generator("flower", options.seed)
    patches, labels = [], []
    for i in range(count):
        picture = photographs[i % 2]
        height, width, _ = picture.shape
        side = min(int(size * 4 ** draw.random()), height, width)
        top, left = draw.integers(height - side + 1), draw.integers(width - side + 1)
        patch = cover(picture[top : top + side, left : left + side], size, size)
        patches.append(conform(patch, options))
        labels.append(("china", "flower")[i % 2])
    stored = torch.from_numpy(np.ascontiguousarray(np.stack(patches).transpose(0, 3, 1, 2)))
    dataset = Dataset(
        codec=make_codec(stored, "uint8", "png", "HWC"),
        stored=stored,
        ids=[f"patch-{i:05d}" for i in range(count)],
        source="flower",
        options=options,
    )
    return describe(dataset, name_classes(labels))


def photographs(options: DataOptions, left_out: bool = False) -> Dataset:
    """Five colour photographs that come with scikit-image and scikit-learn, or the two left out.

    The two are those on which scikit-image's own examples of restoration are shown. They differ
    in size: examples are patches of 32 x 32 pixels, if no other size or patch is asked for.

    Raises:
        DataError: If scikit-image is not installed.
    """
    from sklearn.datasets import load_sample_images

    try:
        from skimage import data
    except ImportError:
        raise DataError(
            "The photographs come with scikit-image, which is not installed: "
            "pip install 'ornstein[evaluate]'."
        ) from None
    if options.size is None and options.patch is None:
        options = replace(options, patch=32)
    if left_out:
        pictures = {"astronaut": data.astronaut(), "cat": data.chelsea()}
    else:
        china, flower = load_sample_images().images
        pictures = {"coffee": data.coffee(), "rocket": data.rocket()}
        pictures |= {"motorcycle": data.stereo_motorcycle()[0], "china": china, "flower": flower}
    chosen = pick(list(pictures), options.limit)
    found = [(name, conform(np.asarray(pictures[name]), options)) for name in chosen]
    source = "photographs-left-out" if left_out else "photographs"
    return describe(assemble([*found], options, source=source))


# --- Points in the plane -------------------------------------------------------------------------

Drawn = tuple[np.ndarray, np.ndarray | None]


def swiss_roll(count: int, draw: np.random.Generator) -> Drawn:
    """A spiral ``a (cos a, sin a) / 10``, a uniform in [1.5 pi, 4.5 pi], noise 0.03."""
    angle = pi * (1.5 + 3 * draw.random(count))
    roll = np.stack([angle * np.cos(angle), angle * np.sin(angle)], 1) / 10
    return roll + 0.03 * draw.standard_normal((count, 2)), None


def moons(count: int, draw: np.random.Generator) -> Drawn:
    """Two interleaved half circles of radius 1, noise 0.05; the moon is the class."""
    angle, moon = pi * draw.random(count), np.arange(count) % 2
    arc = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = np.where(moon[:, None] == 0, arc, np.array([1.0, 0.5]) - arc)
    return points + 0.05 * draw.standard_normal((count, 2)), moon


def checkerboard(count: int, draw: np.random.Generator) -> Drawn:
    """Uniform on the 8 dark squares of a board of 4 x 4 on [-2, 2]^2."""
    row, half = draw.integers(4, size=count), draw.integers(2, size=count)
    corner = np.stack([2 * half + row % 2, row], 1) - 2.0
    return corner + draw.random((count, 2)), None


def eight_gaussians(count: int, draw: np.random.Generator) -> Drawn:
    """Eight Gaussians of std 0.1, evenly on a circle of radius 2; the Gaussian is the class."""
    which = np.arange(count) % 8
    centre = 2 * np.stack([np.cos(which * pi / 4), np.sin(which * pi / 4)], 1)
    return centre + 0.1 * draw.standard_normal((count, 2)), which


def grid_of_gaussians(count: int, draw: np.random.Generator) -> Drawn:
    """25 Gaussians of std 0.05 at ``(-4, -2, 0, 2, 4)^2``; the Gaussian is the class.

    Source: Lin et al. (2018), https://arxiv.org/abs/1712.04086, section 4.1.
    """
    which = np.arange(count) % 25
    centre = 2.0 * np.stack([which // 5, which % 5], 1) - 4
    return centre + 0.05 * draw.standard_normal((count, 2)), which


CURVES: dict[str, Callable[[int, np.random.Generator], Drawn]] = {
    "swiss-roll": swiss_roll,
    "moons": moons,
    "checkerboard": checkerboard,
    "8-gaussians": eight_gaussians,
    "25-gaussians": grid_of_gaussians,
}


def points(name: str, options: DataOptions) -> Dataset:
    """One of `CURVES`: points in the plane, a function of ``options.seed`` and their number."""
    count = options.limit or POINTS
    values, label = CURVES[name](count, generator(name, options.seed))
    stored = torch.from_numpy(values.astype(np.float32))
    mean, std = measure(stored)
    codec = PointsCodec(shape=(2,), dtype="float32", mean=mean, std=std, columns=("x", "y"))
    dataset = Dataset(
        codec=codec,
        stored=stored,
        ids=[f"point-{i:05d}" for i in range(count)],
        source=name,
        options=options,
    )
    return describe(dataset, name_classes([] if label is None else [str(k) for k in label]))


BUILT_IN: dict[str, Callable[[DataOptions], Dataset]] = {
    "digits": digits,
    "stacked-digits": stacked_digits,
    "flower": flower,
    "photographs": photographs,
    "photographs-left-out": partial(photographs, left_out=True),
    "cells": cells,
    "scenes": scenes,
    "scenes-held-out": partial(scenes, held_out=True),
} | {name: (lambda options, name=name: points(name, options)) for name in CURVES}
