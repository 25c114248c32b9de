import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ornstein.nets import UNet
from ornstein.nets.blocks import (
    Attention,
    Convolution,
    Linear,
    answering,
    attend,
    heads_of,
    normalise,
)


@pytest.mark.parametrize("lead", [(7,), (16, 16), (8192,), (4, 32, 64), (3, 3333)])
def test_linear_is_linear_however_it_runs(lead):
    torch.manual_seed(0)
    layer, x = Linear(24, 40), torch.randn(*lead, 24, requires_grad=True)
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [x, layer.weight, layer.bias], upstream)
    got = torch.autograd.grad(layer(x), [x, layer.weight, layer.bias], upstream.float())
    assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_a_convolution_is_one_however_it_runs(count, kernel, stride):
    """And so are its derivatives, of which the operator that it asks has not all."""
    torch.manual_seed(0)
    layer = answering(Convolution(64, 64, kernel, stride, kernel // 2), "cpu")
    x, direction = torch.randn(2, count, 48, 48, 64).movedim(-1, 2)
    how = (stride, kernel // 2)
    expected = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), *how)
    with torch.no_grad():
        assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-4)
        slope = torch.func.jvp(layer, (x,), (direction,))[1]
    wanted = F.conv2d(direction.double(), layer.weight.double(), None, *how)
    assert_close(slope.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 64), (1, 8, 8, 8)])
def test_a_network_answers_the_same_to_the_last_bit_however_its_kernels_lie(shape):
    torch.manual_seed(0)
    net = UNet(shape, size=8).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, log_snr = torch.randn(2, *shape), torch.zeros(2)
    with torch.no_grad():
        before = net(x, log_snr)
        names = {name: value.clone() for name, value in net.state_dict().items()}
        assert torch.equal(answering(net, "cpu")(x, log_snr), before)
    kernels = [p for p in net.parameters() if p.ndim > 3]
    assert any(not p.is_contiguous() for p in kernels)
    assert not any(p.requires_grad for p in kernels)
    assert all(torch.equal(names[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("count", [16, 600])
def test_attention_is_a_softmax_average_however_it_runs(dtype, tolerance, count):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, count, 8).to(dtype)
    weights = torch.softmax(q.double() @ k.double().mT / 8**0.5, -1)
    assert_close(attend(q, k, v).double(), weights @ v.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("heads", [1, 3, 4])
@pytest.mark.parametrize("points", [2, 3, 9, 10, 16])
def test_attention_to_any_number_of_keys_does_not_hear_the_place_in_the_batch(points, heads):
    for keys in (1, 5, 6, 7, 9, 11, 15, 16):
        torch.manual_seed(keys)
        drawn = (torch.randn(1, n, heads, 8) for n in (points, keys, keys))
        q, k, v = (one.repeat(8, 1, 1, 1).transpose(1, 2) for one in drawn)
        many = attend(q, k, v)
        assert torch.equal(many, many[:1].expand_as(many)), keys
        weights = torch.softmax(q.double() @ k.double().mT / 8**0.5, -1)
        assert_close(many.double(), weights @ v.double(), rtol=1e-5, atol=1e-5)


def test_attention_does_not_care_about_the_order_of_points():
    torch.manual_seed(0)
    layer, x, order = Attention(16).double(), torch.randn(2, 9, 16).double(), torch.randperm(9)
    assert_close(layer(x[:, order]), layer(x)[:, order])


def test_normalised_channels_have_mean_zero_and_variance_one():
    x = normalise(5 + 3 * torch.randn(2, 7, 64, dtype=torch.float64))
    assert_close(x.mean(-1), torch.zeros(2, 7).double(), rtol=0, atol=1e-10)
    assert_close(x.var(-1, correction=0), torch.ones(2, 7).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("width", range(8, 2049, 8))
def test_heads_divide_every_width(width):
    heads = heads_of(width)
    assert width % heads == 0 and width // heads <= 64 and width // heads % 8 == 0
