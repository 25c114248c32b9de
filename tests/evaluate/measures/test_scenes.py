"""The judge of scenes: it sees what is there, and says so where something else is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from ornstein.data import DataOptions, open_data
from ornstein.data.scenes import OPPOSITE, Scene, Thing, draw_scene, paint, scans
from ornstein.evaluate.measures.scenes import (
    FOLD,
    RESPECTS,
    Seen,
    Verdict,
    ask,
    ceiling,
    judge,
    reader,
    requests,
    shares,
)
from ornstein.rng import generator
from ornstein.runs.config import NetConfig, RunConfig
from ornstein.runs.vocabulary import Vocabulary
from untrained import of_random_weights

A, B = Thing("7", "red", "small"), Thing("square", "blue", "large")
SCENE = Scene((A, B), "left of")
THERE = (Seen("7", "red", (8, 6)), Seen("square", "blue", (10, 24)))


def test_a_scene_as_asked_for_is_right_in_whatever_order_its_things_are_seen():
    assert judge(SCENE, THERE) == judge(SCENE, THERE[::-1]) == Verdict(True, True, True)


@pytest.mark.parametrize(
    "found, right",
    [
        ((THERE[0], replace(THERE[1], kind="circle")), (False, True, True)),
        ((THERE[0], replace(THERE[1], colour="green")), (True, False, True)),
        ((replace(THERE[0], colour="blue"), replace(THERE[1], colour="red")), (True, False, True)),
        ((THERE[0], replace(THERE[1], middle=(10, 0))), (True, True, False)),
        ((THERE[0], replace(THERE[1], middle=(30, 14))), (True, True, False)),
        ((*THERE, Seen("cross", "white", (28, 6))), (False, True, True)),
        ((THERE[0], replace(THERE[0], middle=(10, 24))), (False, False, False)),
        (THERE[:1], (False, False, False)),
        ((), (False, False, False)),
    ],
)
def test_what_is_not_as_asked_for_is_not_right(found, right):
    assert judge(SCENE, found) == Verdict(*right)


def test_one_thing_alone_is_right_wherever_it_stands():
    alone = Scene((A,))
    assert judge(alone, THERE[:1]) == Verdict(True, True, True)
    assert judge(alone, THERE) == Verdict(False, True, True)


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [False, True])
def test_real_scenes_are_read_as_what_they_are(held_out):
    found = ceiling(400, seed=1, held_out=held_out)
    assert found["objects"].value >= 0.98**2  # 98 % of things, and there are two
    assert found["colours"].value >= 0.98
    assert found["relation"].value >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("larger, down, soft", [(1.05, 0.5, 0.0), (0.97, 0.3, 0.6), (1, 0.25, 0.8)])
def test_scenes_that_are_soft_and_off_the_grid_are_read_as_what_they_are(larger, down, soft):
    draw = generator("test-scenes", 3)
    asked = [draw_scene(draw) for _ in range(200)]
    middle = 15.5 * (1 - 1 / larger) - down

    bend: Any = ndimage.affine_transform  # whose offset is declared a number

    def redrawn(picture):
        scale, offset = (1, 1 / larger, 1 / larger), (0, middle, middle)
        bent = bend(picture.astype(float), scale, offset, order=1, mode="nearest")
        return np.clip(ndimage.gaussian_filter(bent, (0, soft, soft)), 0, 255).astype(np.uint8)

    pictures = [redrawn(paint(scene, draw, scans(0, FOLD))) for scene in asked]
    found = shares([judge(a, s) for a, s in zip(asked, reader(0)(np.stack(pictures)), strict=True)])
    assert found["objects"].value >= 0.92  # who has seen none so finds .4
    assert found["relation"].value >= 0.98


@pytest.mark.slow
def test_real_scenes_contradict_their_opposites():
    draw = generator("test-scenes", 2)
    asked = [s for s in (draw_scene(draw) for _ in range(30)) if s.relation is not None]
    turned = [replace(s, relation=OPPOSITE[s.relation]) for s in asked if s.relation]
    seen = reader(0)(np.stack([paint(scene, draw, scans()) for scene in asked]))
    assert not any(judge(scene, found).relation for scene, found in zip(turned, seen, strict=True))


def test_what_is_asked_for_was_not_among_the_captions():
    data = open_data("scenes", DataOptions(limit=64))
    assert data.captions is not None
    told = {text for row in data.captions.texts for text in row}
    for held_out in (False, True):
        asked = requests(20, 0, data, held_out)
        assert not told & {request.caption for request in asked}
        assert all(any(t.held_out for t in r.scene.things) == held_out for r in asked)
    assert requests(5, 0, data) == requests(20, 0, data)[:5]


def test_a_run_is_asked_and_read():
    data = open_data("scenes", DataOptions(limit=64))
    assert data.captions is not None
    config = RunConfig(net=NetConfig(size=8, depth=1))
    model = of_random_weights(config, data.codec, Vocabulary(words=data.captions.words))
    found = ask(model, data, 4, steps=1)
    assert {name: share.n for name, share in found.items()} == dict.fromkeys(RESPECTS, 4)
    assert found["all"].hits == 0  # noise shows nothing


def test_all_is_right_where_each_is():
    found = shares([Verdict(True, True, False), Verdict(True, False, True), Verdict(*[True] * 3)])
    assert {name: share.hits for name, share in found.items()} == {
        "objects": 3,
        "colours": 2,
        "relation": 2,
        "all": 1,
    }
