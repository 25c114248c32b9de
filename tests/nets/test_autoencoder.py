"""Autoencoders: what they hear, tiles, grids, and the loss."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.func import jvp, vjp
from torch.testing import assert_close

from ornstein.nets.autoencoder import Autoencoder
from ornstein.nets.reconstruction import Reconstruction
from ornstein.rng import normal

SHAPES = {"signal": (2, 400), "picture": (1, 150, 70), "volume": (1, 40, 9, 8)}


def filled(shape, **options):
    """An autoencoder with random weights, its silent branches too."""
    net = Autoencoder(shape, size=8, channels=2, **options).double()
    for i, p in enumerate(net.parameters()):
        p.data = 0.2 * normal(p.shape, "autoencoder", i).double()
    return net


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("factor", [2, 4])
def test_tiles_give_what_the_whole_gives(shape, factor):
    net = filled(shape, factor=factor)
    x = normal((1, *shape), "whole").double()
    with torch.no_grad():
        z = net.encode(x, tile=10**6)
        assert z.shape[2:] == tuple(-(-n // factor) for n in shape[1:])
        assert_close(net.encode(x, tile=3), z, rtol=0, atol=1e-10)
        assert_close(net.decode(z, tile=3), net.decode(z, tile=10**6), rtol=0, atol=1e-10)


def test_slopes_pass_through_tiles_as_through_the_whole():
    """Forwards and backwards: as measurements through a decoder ask for."""
    net = filled((1, 24, 40), factor=2)
    z, along = (normal((1, 2, 12, 20), name).double() for name in ("z", "along"))
    found = []
    for tile in (4, 10**6):
        value, slope = jvp(lambda z, tile=tile: net.decode(z, tile=tile), (z,), (along,))
        _, back = vjp(lambda z, tile=tile: net.decode(z, tile=tile), z)
        found.append((value, slope, *back(value)))
    for tiled, whole in zip(*found, strict=True):
        assert_close(tiled, whole, rtol=0, atol=1e-8)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_nothing_beyond_its_reach_is_heard_and_what_is_near_is(factor):
    net = filled((1, 64), factor=factor)
    count, middle = 61, 30
    z = normal((1, 2, count), "z").double().requires_grad_()
    [slope] = torch.autograd.grad(net.decode(z)[..., factor * middle].sum(), z)
    down = slope.abs().sum((0, 1)).nonzero().flatten() - middle
    x = normal((1, 1, factor * count), "x").double().requires_grad_()
    [slope] = torch.autograd.grad(net.encode(x)[..., middle].sum(), x)
    up = (slope.abs().sum((0, 1)).nonzero().flatten() // factor) - middle
    furthest = torch.cat([down, up]).abs().max()
    assert net.reach - 2 <= furthest <= net.reach


def test_latents_on_a_grid_are_its_points_and_have_the_slope_of_what_was_rounded():
    net = filled((1, 16, 16), levels=5)
    z = net.encode(normal((2, 1, 16, 16), "x").double())
    assert_close((2 * z).round(), 2 * z, rtol=0, atol=1e-12)
    assert len(z.unique()) > 2
    off = torch.full((1, 2, 4, 4), 0.3, dtype=torch.float64, requires_grad=True)
    assert_close(net.decode(off), net.decode(torch.full_like(off, 0.5)))
    [slope] = torch.autograd.grad(net.decode(off).sum(), off)
    assert slope.abs().min() > 0


def test_the_loss_is_the_squared_error_and_the_divergence_from_the_normal():
    net = filled((1, 16, 16))
    x, eps = normal((3, 1, 16, 16), "x").double(), normal((3, 2, 4, 4), "eps").double()
    loss = Reconstruction(net, 1, kl=0.3, features=0, critic=0).loss(x, torch.zeros(3), eps)
    mean, log_var = net.latents(x)
    std = (log_var / 2).exp()
    error = (net.decode(mean + std * eps) - x).square().flatten(1).mean(1)
    nats = kl_divergence(Normal(mean, std), Normal(0, 1)).flatten(1).mean(1)
    assert_close(loss, error + 0.3 * nats)


def test_the_critic_learns_to_tell_and_the_decoder_to_be_taken_for_real():
    net = filled((1, 16, 16))
    x, eps = normal((3, 1, 16, 16), "x").double(), normal((3, 2, 4, 4), "eps").double()
    slopes = []
    for weight in (0.0, 0.5, 1.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            whole = Reconstruction(net, 1, kl=0.0, features=0, critic=weight).double()
        total = whole.loss(x, torch.zeros(3), eps).sum()
        of_critic = () if whole.critic is None else tuple(whole.critic.parameters())
        slopes.append(torch.autograd.grad(total, (net.decoder[0].weight, *of_critic)))
    (none,), (half, *tells), (full, *alike) = slopes
    assert_close(full - none, 2 * (half - none))  # turned round, in proportion to its weight
    assert (full - none).abs().max() > 0
    for one, other in zip(tells, alike, strict=True):
        assert_close(one, other)  # it learns as fast, whatever it weighs


def test_features_weigh_and_their_own_layers_do_not_move_by_them():
    net = filled((1, 16, 16))
    x, eps = normal((2, 1, 16, 16), "x").double(), normal((2, 2, 4, 4), "eps").double()
    plain, more = (
        Reconstruction(net, 1, kl=0.0, features=weight, critic=0).loss(x, torch.zeros(2), eps)
        for weight in (0.0, 1.0)
    )
    assert (more > plain).all()
    again = Reconstruction(net, 1, kl=0.0, features=2.0, critic=0).loss(x, torch.zeros(2), eps)
    assert_close(again - plain, 2 * (more - plain))
