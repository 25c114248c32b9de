import pytest
import torch
from torch.testing import assert_close

from ornstein.nets import UNet, unet
from ornstein.nets.unet import coarsen


@pytest.mark.parametrize(
    "space, last, levels",
    [
        ((8, 8), (4, 4), 2),
        ((16, 16), (4, 4), 3),
        ((28, 28), (7, 7), 3),
        ((32, 32), (8, 8), 3),
        ((64, 64), (8, 8), 4),
        ((3, 3), (3, 3), 1),
        ((16, 64), (8, 8), 4),
        ((1024,), (8,), 5),
        ((16, 16, 16), (4, 4, 4), 3),
    ],
)
def test_levels_end_where_points_are_few(space, last, levels):
    spaces = coarsen(space)
    assert (spaces[0], spaces[-1], len(spaces)) == (space, last, levels)


@pytest.mark.parametrize("length", range(1, 40))
def test_the_convolutions_reach_the_sizes_that_were_planned(length):
    net = UNet((1, length), size=8, depth=1)
    x = torch.randn(1, 1, 1, length)
    h = torch.cat([x, x], 1)
    for step, (planned,) in zip(net.steps, coarsen((length,)), strict=True):
        h = step(h)
        assert h.shape[3] == planned


def test_levels_are_as_wide_and_deep_as_told_and_the_coarser_ones_as_the_last():
    net = UNet((1, 32, 32), size=8, levels=((1, 3), (3, 1)))
    assert [step.out_channels for step in net.steps] == [8, 24, 24]
    assert [stage.block.last.out_channels for stage in net.down] == [8, 8, 8, 24, 24]
    assert [stage.block.last.out_channels for stage in net.up] == [24, 24, 8, 8, 8]
    assert UNet((1, 32, 32), size=8, levels=((1, 3), (3, 1)), depth=2).depths == [2, 2, 2]


def test_a_signal_is_an_image_one_pixel_high():
    torch.manual_seed(0)
    net = UNet((2, 1, 12), size=16, depth=1).double()
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    signal = UNet((2, 12), size=16, depth=1).double()
    signal.load_state_dict(net.state_dict())
    x, log_snr = torch.randn(3, 2, 12).double(), torch.randn(3).double()
    assert_close(signal(x, log_snr), net(x[:, :, None], log_snr)[:, :, 0])


def test_attention_reaches_across_the_image_where_convolutions_do_not(monkeypatch):
    monkeypatch.setattr(unet, "coarsen", lambda space: [space, (32, 32)])
    torch.manual_seed(0)
    net = UNet((1, 64, 64), size=8, levels=((1, 1),)).double()
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.3)
    x, log_snr = torch.randn(1, 1, 64, 64).double().requires_grad_(), torch.zeros(1).double()

    def influence():
        (gradient,) = torch.autograd.grad(net(x, log_snr)[0, 0, 0, 0], x)
        return gradient[0, 0, -1, -1].abs()

    assert influence() > 0
    net.middle.attention = None
    assert influence() == 0


def test_attended_levels_are_those_with_few_points():
    net = UNet((1, 16, 16), size=8, depth=1, attended=64)
    attends = [stage.attention is not None for stage in net.down]
    assert attends == [False, True, True]
    assert attends[::-1] == [stage.attention is not None for stage in net.up]
