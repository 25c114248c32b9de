"""Contrastive towers: the loss, its slope, and what the towers make of pictures and texts."""

from math import log

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ornstein.nets.contrastive import SHARPEST, Contrast, Contrastive, info_nce, places
from ornstein.rng import normal

SHAPES = {"signal": (2, 100), "picture": (3, 20, 14), "volume": (1, 9, 8, 6)}


def unit(count, *key, numbers=6):
    return torch.nn.functional.normalize(normal((count, numbers), *key).double(), dim=1)


def written_out(a, b, s):
    """The loss of each pair and its slopes, in loops over a matrix of similarities."""
    n = len(a)
    sim = s * np.array([[np.dot(a[i], b[j]) for j in range(n)] for i in range(n)])
    rows = np.exp(sim) / np.exp(sim).sum(1, keepdims=True)
    columns = np.exp(sim) / np.exp(sim).sum(0, keepdims=True)
    loss = np.array([-(np.log(rows[i, i]) + np.log(columns[i, i])) / 2 for i in range(n)])
    of_sim = np.zeros((n, n))  # d sum(loss) / d sim
    for i in range(n):
        for j in range(n):
            of_sim[i, j] = (rows[i, j] + columns[i, j]) / 2 - (i == j)
    return loss, s * of_sim @ b, s * of_sim.T @ a, (of_sim * sim / s).sum()


def test_the_loss_and_its_slopes_are_those_written_out():
    a, b = (unit(5, name).requires_grad_() for name in "ab")
    s = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    loss = info_nce(a, b, s)
    slopes = torch.autograd.grad(loss.sum(), (a, b, s))
    expected = written_out(a.detach().numpy(), b.detach().numpy(), 7.0)
    for found, known in zip((loss, *slopes), expected, strict=True):
        assert_close(found.detach(), torch.as_tensor(known), rtol=0, atol=1e-12)


def test_the_loss_is_symmetric_and_knows_no_order():
    a, b, s = unit(5, "a"), unit(5, "b"), 7.0
    assert_close(info_nce(a, b, s), info_nce(b, a, s), rtol=0, atol=1e-14)
    mixed = torch.tensor([3, 0, 4, 1, 2])
    assert_close(info_nce(a[mixed], b[mixed], s), info_nce(a, b, s)[mixed], rtol=0, atol=1e-14)


def test_who_knows_nothing_loses_log_n():
    """All alike: exactly. Independent: up to s^2 / E, the variance of the similarities."""
    same = unit(1, "same").expand(64, -1)
    assert_close(info_nce(same, same, 9.0), torch.full((64,), log(64)).double())
    a, b = (unit(4096, name, numbers=256) for name in "ab")
    assert info_nce(a, b, 1.0).mean().item() == pytest.approx(log(4096), abs=2 / 256)


def test_who_knows_all_loses_nothing():
    own = torch.eye(8, dtype=torch.float64)
    assert info_nce(own, own, 40.0).max() < 1e-12


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_embeddings_have_length_1_and_each_is_of_its_own_example(shape):
    torch.manual_seed(0)
    net = Contrastive(shape, size=8, numbers=6, words=20, length=5)
    x, text = (
        normal((3, *shape), "x"),
        torch.tensor([[1, 2, -1, -1, -1], [3, 4, 5, 6, 7], [-1] * 5]),
    )
    for of, one in ((net.of_pictures, x), (net.of_texts, text)):
        found = of(one)
        assert found.shape == (3, 6)
        assert_close(of(one[1:2]), found[1:2])
    assert_close(net.of_pictures(x).norm(dim=1), torch.ones(3))
    assert_close(net.of_texts(text[:2]).norm(dim=1), torch.ones(2))


def test_where_a_thing_stands_is_seen():
    torch.manual_seed(0)
    net = Contrastive((1, 32, 32), size=8, words=20, length=5)
    left, right = torch.zeros(2, 1, 1, 32, 32)
    left[..., 8:16, 0:8] = right[..., 8:16, 24:32] = 1
    both = net.of_pictures(torch.cat([left, right]))
    assert (both[0] - both[1]).norm() > 1e-2


def test_every_weight_learns_and_the_sharpness_has_a_bound():
    torch.manual_seed(0)
    net = Contrast(Contrastive((3, 16, 16), size=8, words=20, length=5))
    x, text = normal((4, 3, 16, 16), "x"), torch.arange(20).view(4, 5)
    net.loss(x, torch.zeros(4), x[:, :0], text=text).sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # the last layer of each block of convolutions is zero at first, and what lies before it deaf
    assert all(".first." in name for name in silent), silent
    net.towers.log_sharpness.data.fill_(20.0)
    assert net.towers.sharpness.item() == SHARPEST


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_what_a_coarse_picture_misses_is_a_share_of_its_variance(shape):
    """Who draws nothing misses all of it: 1, beside what the contrast says."""
    torch.manual_seed(0)
    towers = Contrastive(shape, size=8, words=20, length=5)
    x, text = normal((4, *shape), "x"), torch.arange(20).view(4, 5)
    plain = info_nce(towers.of_pictures(x), towers.of_texts(text), towers.sharpness)
    losses = [Contrast(towers, weight) for weight in (0.0, 3.0)]
    for part in losses[1].draw[-1].parameters():
        part.data.zero_()
    found = [net.loss(x, torch.zeros(4), x[:, :0], text=text) for net in losses]
    assert_close(found[0], plain)
    assert (found[1] - plain).mean().item() == pytest.approx(3.0, rel=0.02)
    assert all(n <= 100 for n in losses[1].space)


def test_places_begin_as_waves_that_tell_left_from_right():
    for space in ([8], [4, 6], [2, 3, 4]):
        found = places(space, 20).view(*space, 20)
        for axis in range(len(space)):
            mirrored = found.flip(axis)
            assert not torch.equal(mirrored, found)
            assert_close(mirrored.abs(), found.abs())  # sines turn round, cosines stay
        flat = found.flatten(0, -2)
        apart = torch.cdist(flat, flat) + torch.eye(len(flat))
        assert apart.min() > 0.1


def test_another_encoder_may_read_the_texts():
    torch.manual_seed(0)
    net = Contrastive((3, 16, 16), size=8, read=7, length=5)
    text = normal((2, 5, 7), "text").half()
    text[0, 3:] = torch.nan
    assert_close(net.of_texts(text).norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("wrong", [{}, {"words": 3, "read": 3}, {"words": 3, "numbers": 1}])
def test_what_makes_no_towers_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Contrastive((3, 16, 16), length=5, **wrong)
