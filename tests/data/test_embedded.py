"""Embeddings of examples: which belongs to whom."""

import pytest
import torch
from torch.testing import assert_close

from ornstein.data.embedded import Embedded

VALUES = torch.arange(12.0).view(6, 2)
TOLD = Embedded(values=VALUES, count=torch.tensor([2, 0, 3, 1]))


def test_each_example_hears_of_its_own_and_of_each_as_often():
    draws = (torch.arange(600) + 0.5) / 600
    for i, own in enumerate(([0, 1], [], [2, 3, 4], [5])):
        found = TOLD.tensor(torch.full((600,), i), draws)
        if not own:
            assert found.isnan().all()
            continue
        rows, counts = found.unique(dim=0, return_counts=True)
        assert_close(rows, VALUES[own])
        assert (counts == 600 // len(own)).all()
    assert_close(TOLD.tensor(torch.tensor([3, 2, 0])), VALUES[[5, 2, 0]])


def test_a_part_is_as_the_whole():
    some = torch.tensor([2, 1, 0])
    draws = torch.tensor([0.9, 0.5, 0.6])
    part = TOLD[some]
    assert len(part) == 3 and len(part.values) == 5
    found = part.tensor(torch.arange(3), draws)
    assert_close(found, TOLD.tensor(some, draws), equal_nan=True)
    assert len(TOLD[torch.tensor([], dtype=torch.int64)].values) == 0


def test_as_many_as_were_counted_are_there():
    with pytest.raises(ValueError, match="expected 6"):
        Embedded(values=VALUES[:5], count=TOLD.count)
