import pytest
import torch
from torch.testing import assert_close

from ornstein.nets import MonotoneCurve, Uncertainty


def perturbed(module):
    torch.manual_seed(0)
    for p in module.parameters():
        p.data += torch.randn_like(p)
    return module


@pytest.mark.parametrize("curve", [MonotoneCurve(), perturbed(MonotoneCurve())])
def test_monotone_curve_increases_from_zero_to_one(curve):
    u = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    f = curve(u)
    assert f.dtype == torch.float64
    assert (f.diff() > 0).all()
    assert_close(f[[0, -1]], torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-14)


def test_monotone_curve_starts_near_the_identity():
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert (MonotoneCurve()(u) - u).abs().max() < 0.02


def test_monotone_curve_is_elementwise_and_differentiable():
    curve = perturbed(MonotoneCurve(8)).double()
    u = torch.rand(2, 3, dtype=torch.float64).requires_grad_()
    assert_close(curve(u), torch.stack([torch.stack([curve(v) for v in row]) for row in u]))
    assert torch.autograd.gradcheck(curve, u)
    curve(u).square().sum().backward()
    assert all(p.grad.any() for p in curve.parameters())


def test_monotone_curve_is_not_rounded_by_autocast():
    curve, u = perturbed(MonotoneCurve()), torch.rand(100)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(curve(u), curve(u.double()).float(), rtol=1e-5, atol=1e-6)


def test_monotone_curve_lives_where_its_argument_does():
    assert MonotoneCurve()(torch.rand(3, device="meta")).device.type == "meta"


def test_uncertainty_starts_at_zero_and_learns_a_function_of_the_log_snr():
    net, log_snr = Uncertainty(), torch.linspace(-15, 15, 200)
    assert not net(log_snr).any()
    target = torch.tanh(log_snr / 3)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(200):
        loss = (net(log_snr) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 1e-3
