"""The built-in scenes: what their captions say is what was drawn."""

import numpy as np
import pytest
import torch

from ornstein.data import DataOptions, open_data
from ornstein.data.scenes import (
    COLOURS,
    DIRECTION,
    KINDS,
    OPPOSITE,
    SIDE,
    Scene,
    Thing,
    draw_scene,
    paint,
    scans,
)
from ornstein.errors import DataError
from ornstein.rng import generator


def test_a_scene_is_a_function_of_the_seed_and_its_number():
    few, many = (open_data("scenes", DataOptions(limit=n)) for n in (8, 16))
    other = open_data("scenes", DataOptions(limit=8, seed=1))
    assert few.captions is not None and many.captions is not None
    assert torch.equal(few.stored, many.stored[:8])
    assert few.captions.texts == many.captions.texts[:8]
    assert not torch.equal(few.stored, other.stored)
    assert few.codec.shape == (3, SIDE, SIDE)


def test_what_is_held_out_shares_no_thing_with_the_rest_but_all_its_kinds_and_colours():
    draw = generator("test-scenes", 3)
    here = {t for _ in range(3000) for t in draw_scene(draw).things}
    assert not any(t.held_out for t in here)
    assert {t.kind for t in here} == set(KINDS) and {t.colour for t in here} == set(COLOURS)
    kept = [(k, c) for k in KINDS for c in COLOURS if Thing(k, c, "small").held_out]
    assert len(kept) == 12 and {c for _, c in kept} == set(COLOURS)
    assert all(any(t.held_out for t in draw_scene(draw, held_out=True).things) for _ in range(50))


@pytest.mark.parametrize("relation", list(OPPOSITE))
def test_things_stand_as_the_relation_says_and_apart(relation):
    draw = generator("test-scenes", relation)
    scene = Scene((Thing("square", "red", "large"), Thing("square", "blue", "large")), relation)
    for _ in range(50):
        red, _, blue = paint(scene, draw, scans()).astype(float)
        first, second = (np.argwhere(a > b + 60) for a, b in ((red, blue), (blue, red)))
        apart = second.mean(0) - first.mean(0)
        along = apart @ DIRECTION[relation]
        assert along >= 14 and along > 2 * abs(apart @ DIRECTION[relation][::-1])


@pytest.mark.parametrize("relation", list(OPPOSITE))
def test_all_phrasings_say_the_same(relation):
    first, second = Thing("7", "red", "small"), Thing("square", "blue", "large")
    said = Scene((first, second), relation).captions(generator("test-scenes"), 60)
    assert len(set(said)) > 20
    for text in said:
        assert "red 7" in text and "blue square" in text
        named = next(r for r in OPPOSITE if r in text)
        begins_with_first = text.index("7") < text.index("square")
        if " and, " in text:  # "a second and, left of it, a first"
            begins_with_first = not begins_with_first
        assert named == (relation if begins_with_first else OPPOSITE[relation])


def test_scenes_of_another_size_are_refused():
    with pytest.raises(DataError, match="32 x 32"):
        open_data("scenes", DataOptions(size=16))
