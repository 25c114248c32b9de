"""The contract of every network: what it accepts, what it refuses, and how it starts."""

from math import prod

import pytest
import torch
from torch.testing import assert_close

from ornstein.nets import MLP, NETS, Conditions, DiT, UNet
from ornstein.nets.conditions import COARSE, Inputs
from ornstein.rng import normal

EVERYTHING = Conditions(
    classes=10, attributes=3, context=2, augment=4, words=20, length=6, embedding=5
)
CASES = [
    (MLP, (1,)),
    (MLP, (2,)),
    (UNet, (1, 8, 8)),
    (UNet, (3, 7, 13)),
    (UNet, (1, 5, 1)),
    (UNet, (2, 50)),
    (UNet, (1, 5, 6, 7)),
    (DiT, (1, 8, 8)),
    (DiT, (3, 7, 13)),
    (DiT, (2, 50)),
    (DiT, (1, 5, 6, 7)),
]
every_case = pytest.mark.parametrize("kind, shape", CASES, ids=lambda v: getattr(v, "__name__", v))
one_of_each = pytest.mark.parametrize(
    "kind, shape", [(MLP, (3,)), (UNet, (2, 9, 6)), (DiT, (2, 9, 6))], ids=["mlp", "unet", "dit"]
)


def build(kind, shape, *, conditions=EVERYTHING, dtype=torch.float64, size=16, **options):
    """A small network whose silent branches have been given a voice."""
    torch.manual_seed(0)
    net = kind(shape, size=size, conditions=conditions, **options).to(dtype)
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return net


def inputs(shape, batch=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=dtype)  # noqa: E731
    cond = {
        "label": torch.arange(batch) % 10,
        "attributes": draw(batch, 3),
        "context": draw(batch, 2, *shape[1:]),
        "augment": draw(batch, 4),
        "text": torch.tensor([[3, 1, 4, -1, -1, -1]] * batch),
        "emphasis": draw(batch, 6).exp(),
        "embedding": draw(batch, 5),
    }
    return draw(batch, *shape), 5 * draw(batch), cond


@every_case
def test_output_has_the_shape_and_dtype_of_the_input(kind, shape):
    x, log_snr, cond = inputs(shape)
    output = build(kind, shape)(x, log_snr, **cond)
    assert output.shape == x.shape and output.dtype == torch.float64
    assert output.isfinite().all() and output.std() > 0.01


@every_case
def test_a_new_network_is_zero(kind, shape):
    x, log_snr, _ = inputs(shape, dtype=torch.float32)
    assert not kind(shape, size=16)(x, log_snr).any()


@every_case
def test_every_weight_has_a_gradient_even_if_no_condition_is_given(kind, shape):
    net, (x, log_snr, cond) = build(kind, shape), inputs(shape)
    net(x, log_snr).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net(x, log_snr, **cond).square().sum().backward()
    # a kernel's outer taps see only the padding where an axis has one point: none here
    silent = [name for name, p in net.named_parameters() if not p.grad.any()]
    assert not silent


@every_case
def test_each_example_is_treated_by_itself(kind, shape):
    net, (x, log_snr, cond) = build(kind, shape, dtype=torch.float32), inputs(shape, batch=5)
    x, log_snr = x.float(), log_snr.float()
    cond = {k: v.float() if v.is_floating_point() else v for k, v in cond.items()}
    together = net(x, log_snr, **cond)
    alone = [
        net(x[i : i + 1], log_snr[i : i + 1], **{k: v[i : i + 1] for k, v in cond.items()})
        for i in range(len(x))
    ]
    assert_close(torch.cat(alone), together, rtol=1e-5, atol=1e-5 * together.abs().max().item())


@one_of_each
def test_not_given_is_left_out(kind, shape):
    net, (x, log_snr, cond) = build(kind, shape), inputs(shape)
    absent = {
        "label": torch.full_like(cond["label"], -1),
        "attributes": torch.full_like(cond["attributes"], torch.nan),
        "context": torch.full_like(cond["context"], torch.nan),
        "augment": torch.zeros_like(cond["augment"]),
        "text": torch.full_like(cond["text"], -1),
        "embedding": torch.full_like(cond["embedding"], torch.nan),
    }
    without = net(x, log_snr)
    no_text = {"text": absent.pop("text")}, {"emphasis": cond.pop("emphasis")}
    assert_close(net(x, log_snr, **absent), without, rtol=0, atol=0)
    for said in no_text:  # what is left out is read in less room: other sums, other last bits
        assert_close(net(x, log_snr, **said), without, rtol=1e-5, atol=1e-6)
    for name, value in cond.items():
        assert (net(x, log_snr, **{name: value}) - without).flatten(1).norm(dim=1).min() > 1e-6


@one_of_each
def test_conditions_are_given_example_by_example(kind, shape):
    net, (x, log_snr, cond) = build(kind, shape), inputs(shape)
    some = {name: value.clone() for name, value in cond.items()}
    some["label"][1], some["augment"][1], some["text"][1] = -1, 0, -1
    some["attributes"][1] = some["context"][1].view(-1)[0] = torch.nan
    some["embedding"][1, 0] = torch.nan
    output, given, without = net(x, log_snr, **some), net(x, log_snr, **cond), net(x, log_snr)
    assert_close(output[1], without[1])
    assert_close(output[[0, 2, 3]], given[[0, 2, 3]])


@one_of_each
def test_attributes_are_given_one_by_one_and_zero_is_not_absent(kind, shape):
    net, (x, log_snr, _) = build(kind, shape), inputs(shape)
    only_first = torch.tensor([[0.0, torch.nan, torch.nan]]).double().expand(4, 3)
    first = net(x, log_snr, attributes=only_first)
    assert (first - net(x, log_snr)).abs().max() > 1e-6
    assert (first - net(x, log_snr, attributes=torch.zeros(4, 3).double())).abs().max() > 1e-6


@one_of_each
def test_unknown_conditions_are_refused(kind, shape):
    net, (x, log_snr, cond) = build(kind, shape, conditions=Conditions()), inputs(shape)
    for name, value in cond.items():
        with pytest.raises(ValueError, match=f"expected no {name}"):
            net(x, log_snr, **{name: value})


@one_of_each
@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": lambda x: x[:, :1]}, "expected x"),
        ({"x": lambda x: x[..., None]}, "expected x"),
        ({"x": lambda x: x[0]}, "expected x"),
        ({"x": lambda x: x[..., :1]}, "expected x"),
        ({"x": lambda x: x.float()}, "expected x of torch.float64"),
        ({"log_snr": lambda s: s[:1]}, r"expected log_snr \(4,\)"),
        ({"log_snr": lambda s: s[0]}, r"expected log_snr \(4,\)"),
        ({"log_snr": lambda s: s.long()}, "floating"),
        ({"text": lambda c: c + 20}, r"text in \[0, 20\).*got 24"),
        ({"text": lambda c: c.repeat(1, 2)}, r"expected text \(4, 6\)"),
        ({"text": lambda c: c[:, :2]}, r"expected emphasis \(4, 2\)"),
        ({"emphasis": lambda c: c[:, :2]}, r"expected emphasis \(4, 6\)"),
        ({"label": lambda c: c + 10}, r"\[0, 10\).*got 13"),
        ({"label": lambda c: c - 2}, "got -2"),
        ({"label": lambda c: c[:1]}, r"expected label \(4,\)"),
        ({"label": lambda c: c.double()}, "got .* of torch.float64"),
        ({"attributes": lambda c: c[:, :2]}, r"expected attributes \(4, 3\).*got \(4, 2\)"),
        ({"attributes": lambda c: c[:1]}, "expected attributes"),
        ({"attributes": lambda c: c.long()}, "floating"),
        ({"context": lambda c: c[:, :1]}, "expected context"),
        ({"context": lambda c: c[:1]}, "expected context"),
        ({"augment": lambda c: c[:, :1]}, "expected augment"),
    ],
)
def test_mismatched_inputs_are_refused_by_name(kind, shape, change, message):
    net, (x, log_snr, cond) = build(kind, shape), inputs(shape)
    (name, spoil), arguments = *change.items(), {"x": x, "log_snr": log_snr, **cond}
    with pytest.raises(ValueError, match=message):
        net(**{**arguments, name: spoil(arguments[name])})


@pytest.mark.parametrize(
    "kind, shape, options",
    [
        (MLP, (2, 3), {}),
        (MLP, (), {}),
        (UNet, (3,), {}),
        (UNet, (1, 2, 2, 2, 2), {}),
        (UNet, (0, 8, 8), {}),
        (UNet, (10**9, 8, 8), {}),
        (UNet, (1, 10**9, 10**9), {}),
        (UNet, (1, 8.0, 8), {}),
        (UNet, (1, 8, 8), {"size": 10**9}),
        (UNet, (1, 8, 8), {"size": 12}),
        (UNet, (1, 8, 8), {"size": 16.0}),
        (UNet, (1, 8, 8), {"depth": 0}),
        (UNet, (1, 8, 8), {"levels": ((1, 1), (10**6, 1))}),
        (UNet, (1, 8, 8), {"levels": ((1, 10**6),)}),
        (UNet, (1, 8, 8), {"levels": ((1, 1),) * 17}),
        (UNet, (1, 8, 8), {"levels": ()}),
        (UNet, (1, 8, 8), {"out_channels": 10**9}),
        (DiT, (1, 8, 8), {"out_channels": 0}),
        (DiT, (1, 8, 8), {"patch": 9}),
        (DiT, (1, 8, 8), {"depth": 10**9}),
        (DiT, (1, 1024, 1024), {"patch": 1}),
        (DiT, (64, 1024, 1024), {}),
        (MLP, (2,), {"depth": -1}),
        (MLP, (2,), {"size": True}),
    ],
)
def test_impossible_networks_are_refused_before_anything_is_allocated(kind, shape, options):
    with pytest.raises(ValueError, match=r"expected .* got"):
        kind(shape, **options)


@pytest.mark.parametrize("name", ["classes", "attributes", "context", "augment"])
@pytest.mark.parametrize("count", [-1, 10**9, 1.5])
def test_impossible_conditions_are_refused(name, count):
    with pytest.raises(ValueError, match=f"expected {name}"):
        Conditions(**{name: count})


@every_case
def test_weights_and_gradients_are_contiguous_as_fused_optimisers_need(kind, shape):
    net, (x, log_snr, cond) = build(kind, shape), inputs(shape)
    net(x, log_snr, **cond).sum().backward()
    assert all(p.is_contiguous() and p.grad.is_contiguous() for p in net.parameters())


@one_of_each
def test_weights_survive_a_state_dict(kind, shape):
    net, (x, log_snr, cond) = build(kind, shape), inputs(shape)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    other = kind(shape, size=16, conditions=EVERYTHING).double()
    other.load_state_dict(state)
    assert_close(other(x, log_snr, **cond), net(x, log_snr, **cond), rtol=0, atol=0)


@one_of_each
def test_non_contiguous_inputs_give_the_same_output(kind, shape):
    net, (x, log_snr, cond) = build(kind, shape), inputs(shape)

    def strided(value):
        wide = torch.stack([value, torch.zeros_like(value)], -1)
        return wide[..., 0]

    assert not strided(x).is_contiguous()
    output = net(strided(x), strided(log_snr), **{k: strided(v) for k, v in cond.items()})
    assert_close(output, net(x, log_snr, **cond))


@one_of_each
def test_size_is_a_dial_of_parameters(kind, shape):
    counts = [sum(p.numel() for p in kind(shape, size=s).parameters()) for s in (16, 32, 64)]
    assert counts[0] < counts[1] / 2 < counts[2] / 4


@one_of_each
def test_out_channels_are_what_was_asked_for(kind, shape):
    x, log_snr, _ = inputs(shape)
    net = build(kind, shape, conditions=Conditions(), out_channels=2 * shape[0])
    assert net(x, log_snr).shape == (4, 2 * shape[0], *shape[1:])


@one_of_each
@pytest.mark.parametrize("value", [-30.0, 30.0])
def test_the_ends_of_the_log_snr_are_told_from_their_neighbours(kind, shape, value):
    net, (x, _, _) = build(kind, shape), inputs(shape)
    end, near = (net(x, torch.full((4,), v).double()) for v in (value, value * 0.98))
    assert end.isfinite().all() and (end - near).abs().max() > 1e-4
    assert (end - net(x, torch.full((4,), -value).double())).abs().max() > 1e-3


@one_of_each
def test_autocast_rounds_and_no_more(kind, shape):
    net, (x, log_snr, cond) = build(kind, shape, dtype=torch.float32), inputs(shape)
    x, log_snr = x.float(), log_snr.float()
    exact = net(x, log_snr, **cond)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(x, log_snr, **cond)
    rounded.float().square().sum().backward()
    assert (rounded - exact).norm() < 0.05 * exact.norm()
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in net.parameters())


@one_of_each
def test_derivatives_forward_and_backward_agree(kind, shape):
    net, (x, log_snr, cond) = build(kind, shape), inputs(shape)
    if kind is DiT:  # more tokens than attention is written out for
        net, (x, log_snr, cond) = build(kind, (2, 130)), inputs((2, 130))
    f = lambda x: net(x, log_snr, **cond)  # noqa: E731
    u, v = torch.randn_like(x), torch.randn_like(x)
    _, forward = torch.func.jvp(f, (x,), (u,))
    _, backward = torch.func.vjp(f, x)
    assert_close((forward * v).sum(), (u * backward(v)[0]).sum())
    both = torch.func.vmap(lambda v: backward(v)[0])(torch.stack([u, v]))
    assert_close(both[1], backward(v)[0])


def test_networks_are_found_by_name():
    assert [NETS[name] for name in ("mlp", "unet", "dit")] == [MLP, UNet, DiT]


AHEAD = Conditions(span=1, guidance=1)


@one_of_each
def test_a_span_of_zero_and_a_weight_of_one_are_none(kind, shape):
    net = build(kind, shape, conditions=AHEAD)
    x, log_snr, _ = inputs(shape)
    nothing, one = x.new_zeros(4), x.new_ones(4)
    assert_close(net(x, log_snr, span=nothing, guidance=one), net(x, log_snr))
    far = net(x, log_snr, span=torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=x.dtype))
    strong = net(x, log_snr, guidance=torch.tensor([1.0, 2.0, 4.0, 0.0], dtype=x.dtype))
    for told in (far, strong):
        heard = (told - net(x, log_snr)).flatten(1).abs().amax(1)
        assert heard[0] == 0 and (heard[1:] > 1e-4).all()


@one_of_each
def test_dials_that_are_not_there_or_of_another_shape_are_refused(kind, shape):
    x, log_snr, _ = inputs(shape)
    for name in ("span", "guidance"):
        with pytest.raises(ValueError, match=f"expected no {name}"):
            build(kind, shape)(x, log_snr, **{name: log_snr})
        with pytest.raises(ValueError, match=f"expected {name} "):
            build(kind, shape, conditions=AHEAD)(x, log_snr, **{name: log_snr[:2]})
    with pytest.raises(ValueError, match="span"):
        Conditions(span=2)


@pytest.mark.parametrize("space, coarse", [((20, 14), (10, 7)), ((8, 8), (8, 8)), ((300,), (150,))])
def test_an_embedding_says_something_else_of_each_place_and_nothing_finer(space, coarse):
    torch.manual_seed(0)
    inputs = Inputs((3, *space), Conditions(embedding=5), 16)
    x, e = normal((2, 3, *space), "x"), normal((2, 5), "e")
    joined, _ = inputs(x, torch.zeros(2), embedding=e)
    assert joined.shape == (2, inputs.channels, *space) and torch.equal(joined[:, :3], x)
    drawn = joined[:, 3:].flatten(2)
    assert len(drawn[0].unique(dim=1)[0]) == prod(coarse) <= COARSE
    other, _ = inputs(x, torch.zeros(2), embedding=e.flip(0))
    assert (joined != other)[:, 3:].any(1).all()
