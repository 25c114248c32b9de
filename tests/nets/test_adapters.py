"""What is added to a frozen network: nothing at first, and afterwards what its weights become."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ornstein.nets import MLP, NETS, Conditions, Controlled
from ornstein.nets.adapters import LowRank, NewWords, add_low_rank, freeze, grown

TOLD = Conditions(classes=3)
SHAPES = {"mlp": (3,), "unet": (2, 9, 6), "dit": (2, 9, 6)}
every_net = pytest.mark.parametrize("kind", SHAPES)


def awake(net):
    """The network in float64, its silent parts given a voice."""
    torch.manual_seed(0)
    for p in net.double().parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return net


def build(kind, **conditions):
    told = Conditions(classes=3, **conditions)
    torch.manual_seed(0)
    return awake(NETS[kind](SHAPES[kind], size=16, conditions=told, depth=2))


def inputs(kind, batch=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *SHAPES[kind], generator=generator, dtype=torch.float64)
    log_snr = torch.linspace(-4, 4, batch, dtype=torch.float64)
    return x, log_snr, torch.arange(batch) % 3


def adapted(net, targets=()):
    """A copy with additions that are not zero, and their state."""
    net = copy.deepcopy(net)
    freeze(net)
    add_low_rank(net, 2, targets)
    return awake(net)


# --- Low rank ------------------------------------------------------------------------------------


@every_net
def test_additions_are_nothing_at_first(kind):
    net, (x, log_snr, label) = build(kind), inputs(kind)
    before = net(x, log_snr, label=label)
    add_low_rank(net, 4)
    assert torch.equal(net(x, log_snr, label=label), before)


@every_net
def test_the_gradient_reaches_additions_and_nothing_else(kind):
    net = adapted(build(kind))
    learned = [name for name, _ in net.named_parameters()]
    assert learned == list(net.state_dict())
    assert {name.rpartition(".")[2] for name in learned} == {"up", "down"}
    x, log_snr, label = inputs(kind)
    net(x, log_snr, label=label).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@every_net
def test_added_to_the_weights_they_give_the_same(kind):
    net, (x, log_snr, label) = build(kind), inputs(kind)
    with_layers = adapted(net)
    want = with_layers(x, log_snr, label=label)
    assert (want - net(x, log_snr, label=label)).abs().max() > 0.01
    net.load_state_dict(grown(net.state_dict(), with_layers.state_dict()))
    assert_close(net(x, log_snr, label=label), want, rtol=1e-9, atol=1e-9)


def test_an_addition_to_a_convolution_is_two_convolutions_one_after_the_other():
    torch.manual_seed(0)
    layer = LowRank(nn.Conv2d(3, 5, 3, stride=2, padding=1).double(), 2)
    nn.init.normal_(layer.up)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    down = torch.nn.functional.conv2d(x, layer.down, stride=2, padding=1)
    both = layer.layer(x) + torch.nn.functional.conv2d(down, layer.up[..., None, None])
    assert_close(layer(x), both)


def test_strength_zero_leaves_every_weight_as_it_is_and_half_adds_half():
    net = build("unet")
    own, additions = net.state_dict(), adapted(net).state_dict()
    none, half, whole = (grown(own, additions, s) for s in (0.0, 0.5, 1.0))
    assert all(torch.equal(none[name], own[name]) for name in own)
    for name in own:
        assert_close(half[name], (own[name] + whole[name]) / 2)
    assert any((whole[name] != own[name]).any() for name in own)


def test_two_adapters_of_disjoint_layers_commute():
    net = build("unet")
    a, b = (adapted(net, [target]).state_dict() for target in ("down", "up"))
    own = net.state_dict()
    one, other = grown(grown(own, a), b), grown(grown(own, b), a)
    assert a and b and all(torch.equal(one[name], other[name]) for name in own)


def test_only_the_targets_get_additions_and_unknown_ones_are_refused_with_all_there_are():
    net = build("dit")
    names = {name.rsplit(".", 2)[-2] for name in adapted(net, ["qkv"]).state_dict()}
    assert names == {"qkv"}
    with pytest.raises(ValueError, match=r"expected targets among .*qkv.*, got 'attn'"):
        add_low_rank(net, 2, ["attn"])


def test_recomputed_blocks_have_the_gradient_of_kept_ones():
    (x, log_snr, _), gradients = inputs("unet"), []
    for recompute in (False, True):
        net = adapted(build("unet"))
        net.recompute = recompute
        net(x, log_snr).square().sum().backward()
        gradients.append([p.grad for p in net.parameters()])
    assert_close(*gradients)


@pytest.mark.parametrize(
    "broken",
    [
        {"middle.block.first.up": torch.zeros(7, 2), "middle.block.first.down": torch.zeros(2, 1)},
        {"middle.block.first.down": torch.zeros(2, 1)},
        {"nowhere.new": torch.zeros(1, 1)},
        {"inputs.label.new": torch.zeros(1, 3)},
    ],
)
def test_what_does_not_belong_to_the_network_is_refused(broken):
    with pytest.raises(ValueError):
        grown(build("unet").state_dict(), broken)


# --- Words ---------------------------------------------------------------------------------------


def test_a_new_word_stands_below_those_there_are_which_stay():
    net = build("unet")
    known = net.inputs.label.weight.detach().clone()
    freeze(net)
    net.inputs.label = NewWords(net.inputs.label.weight, torch.ones(1, known.shape[1]).double())
    words = grown({"inputs.label.weight": known}, net.state_dict())["inputs.label.weight"]
    assert torch.equal(words[:3], known) and (words[3] == 1).all() and len(words) == 4
    assert [name for name, _ in net.named_parameters()] == ["inputs.label.new"]
    assert torch.equal(net.inputs.label(torch.tensor([3, 0])), words[[3, 0]])


# --- Control -------------------------------------------------------------------------------------


def controlled(kind):
    """A controlled network as training begins it, and the network in it."""
    whole = Controlled(build(kind), build(kind, context=2)).double()
    whole.begin()
    return whole, whole.net


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_control_branch_is_nothing_at_first_and_then_something(kind):
    whole, net = controlled(kind)
    x, log_snr, label = inputs(kind)
    context = torch.randn(4, 2, *SHAPES[kind][1:], dtype=torch.float64)
    before, nothing = net(x, log_snr, label=label), torch.full_like(context, torch.nan)
    assert torch.equal(whole(x, log_snr, label=label, context=context), before)
    assert_close(
        whole.branch.encode(*whole.branch.inputs(x, log_snr, label, context=nothing)),
        net.encode(*net.inputs(x, log_snr, label))[: len(whole.out)],
    )
    awake(whole)
    after = whole(x, log_snr, label=label, context=context)
    assert (after - before).abs().min(0).values.max() > 0.01


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_without_a_picture_a_controlled_network_stays_the_network(kind):
    whole, net = controlled(kind)
    awake(whole)
    x, log_snr, label = inputs(kind)
    context = torch.randn(4, 2, *SHAPES[kind][1:], dtype=torch.float64)
    context[1] = torch.nan
    before = net(x, log_snr, label=label)
    after = whole(x, log_snr, label=label, context=context)
    assert torch.equal(after[1], before[1]) and not torch.equal(after[0], before[0])
    assert torch.equal(whole(x, log_snr, label=label), before)


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_only_the_branch_is_learned(kind):
    whole, _ = controlled(kind)
    awake(whole)
    assert {name.split(".")[0] for name, _ in whole.named_parameters()} == {"branch", "out"}
    assert {name.split(".")[0] for name in whole.state_dict()} == {"branch", "out"}
    x, log_snr, _ = inputs(kind)
    whole(x, log_snr, context=x).square().sum().backward()
    assert all(p.grad is not None for p in whole.parameters())


def test_points_take_no_control_branch():
    with pytest.raises(ValueError, match="UNet or a DiT"):
        Controlled(MLP((2,), size=8), MLP((2,), size=8))
