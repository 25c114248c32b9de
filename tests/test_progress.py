"""What is told of the work's progress: every piece, in order, from nothing to all."""

import pytest
import torch

from ornstein.progress import counted, pieces, watched
from ornstein.tasks.sample import sample
from untrained import tiny_model


def test_pieces_of_pieces_are_parts_of_them():
    told = []
    with watched(told.append):
        for i in pieces("ab"):
            for _ in pieces(range(2 if i == "a" else 5)):
                pass
    assert told == pytest.approx([0.25, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])


def test_counted_pieces_are_as_good():
    told = []
    with watched(told.append):
        for _ in pieces(range(2)):
            tick = counted(2)
            tick()
            tick()
    assert told == pytest.approx([0.25, 0.5, 0.5, 0.75, 1.0, 1.0])


def test_a_stage_that_is_left_early_leaves_nothing_behind():
    told = []
    with watched(told.append):
        for _ in pieces(range(4)):
            break
        with pytest.raises(KeyError):
            for _ in pieces(range(3)):
                raise KeyError
        list(pieces(range(2)))
    list(pieces(range(2)))  # and nobody is told
    assert told == [0.5, 1.0]


def test_every_step_of_every_block_is_told():
    model = tiny_model(steps=4)
    told = []
    with watched(told.append):
        x = sample(model, 130, steps=4).x  # in blocks of 64
    assert told == sorted(told) and told[-1] == pytest.approx(1)
    steps = torch.tensor(told).unique()
    assert len(steps) == 3 * 4
    assert torch.equal(x, sample(model, 130, steps=4).x)
