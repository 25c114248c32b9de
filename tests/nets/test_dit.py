import pytest
import torch
from torch.testing import assert_close

from ornstein.nets import DiT
from ornstein.nets.dit import Beside, cut, positions


@pytest.mark.parametrize(
    "space, patch, grid",
    [
        ((8, 8), (1, 1), (8, 8)),
        ((28, 28), (2, 2), (14, 14)),
        ((32, 32), (2, 2), (16, 16)),
        ((64, 64), (4, 4), (16, 16)),
        ((1000,), (4,), (250,)),
        ((16, 16, 16), (4, 4, 4), (4, 4, 4)),
        ((2, 600), (4, 4), (1, 150)),
    ],
)
def test_patches_leave_at_most_256_tokens(space, patch, grid):
    assert cut(space, None) == (tuple(min(p, n) for p, n in zip(patch, space, strict=True)), grid)


@pytest.mark.parametrize("space", [(11,), (5, 9), (3, 4, 7)])
def test_patches_are_put_together_as_they_were_cut(space):
    net, x = DiT((2, *space), size=8, depth=1, patch=3), torch.randn(2, 2, *space)
    patches = net._patches(x)
    assert patches.shape[1] == torch.Size(net.grid).numel()
    assert_close(net._assemble(patches, x.shape[2:]), x, rtol=0, atol=0)


def test_a_patch_holds_neighbours():
    net = DiT((1, 4, 6), size=8, depth=1, patch=2)
    x = torch.arange(24.0).view(1, 1, 4, 6)
    assert net._patches(x)[0, 1].tolist() == [2, 3, 8, 9]


@pytest.mark.parametrize("grid", [(200,), (14, 9), (5, 6, 7)])
def test_every_place_has_its_own_code(grid):
    codes = positions(grid, 48)
    assert codes.shape == (torch.Size(grid).numel(), 48) and codes.abs().max() <= 1
    distance = torch.cdist(codes.double(), codes.double()) + 10 * torch.eye(len(codes)).double()
    assert distance.min() > 0.1


@pytest.mark.parametrize("grid", [(6,), (4, 3), (3, 2, 4)])
def test_a_patch_hears_those_beside_it_and_nobody_at_first(grid):
    beside, count = Beside(2, grid), torch.Size(grid).numel()
    h = torch.randn(2, count, 2)
    assert_close(beside(h), h, rtol=0, atol=0)
    torch.nn.init.ones_(beside.kernel.weight)
    heard = torch.func.jacrev(lambda one: beside(one[None, :, None].expand(1, -1, 2))[0, :, 0])
    place = torch.cartesian_prod(*(torch.arange(n) for n in grid)).view(count, -1)
    apart = (place[:, None] - place).abs().amax(-1)
    assert torch.equal(heard(torch.randn(count)) != 0, apart <= 1)
