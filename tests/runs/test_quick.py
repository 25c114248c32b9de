"""Quick models: float32 states, answers near to those of the model as trained."""

import pytest
import torch

from ornstein.errors import UsageError
from ornstein.runs import quick as module
from ornstein.runs.quick import Quick, quick, rewired
from ornstein.tasks.sample import sample
from untrained import tiny_model


@pytest.mark.parametrize("kind", ["unet", "dit", "mlp"])
def test_products_in_bf16_leave_states_in_f32_and_samples_near(kind):
    model, seen = tiny_model(kind), []
    plain = sample(model, 4).x
    near = sample(model, 4, precision="bf16", on_step=lambda x, s: seen.append(x.dtype)).x
    assert set(seen) == {torch.float32} and near.dtype == torch.float32
    assert not torch.equal(plain, near)
    assert (plain - near).square().mean().sqrt() < 0.05 * plain.std()
    assert torch.equal(sample(model, 4, precision="f32").x, plain)


def test_auto_asks_the_hardware(monkeypatch):
    model = tiny_model("mlp")
    for there in (True, False):
        monkeypatch.setattr(module, "has_bf16", lambda device, there=there: there)
        assert isinstance(quick(model, "auto").denoiser.net, Quick) == there


def test_a_quick_model_is_not_made_quick_twice():
    once = quick(tiny_model("mlp"), "bf16")
    assert quick(once, "bf16") is once


def test_compiling_without_a_gpu_is_refused_with_a_remedy():
    with pytest.raises(UsageError, match="--precision auto"):
        sample(tiny_model("mlp"), 2, compile=True)


@pytest.mark.slow
def test_a_compiled_network_draws_the_same():
    model = tiny_model("mlp")
    compiled = rewired(model, bf16=False, compiler="eager")
    assert torch.equal(sample(compiled, 3).x, sample(model, 3).x)
