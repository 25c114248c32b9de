"""Quick models: float32 states, answers near to those of the model as trained."""

import inspect
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from ornstein.cli.machine import Opening
from ornstein.core.denoise import NetDenoiser
from ornstein.core.residual import Residual
from ornstein.errors import UsageError
from ornstein.evaluate.measures import bits
from ornstein.runs import quick as module
from ornstein.runs.quick import Quick, is_quick, plain, quick, rewired, with_halves
from ornstein.tasks.sample import sample
from untrained import tiny_model, tiny_student

DRAWING = [
    "augment",
    "classify",
    "detect",
    "edit",
    "evaluate",
    "restore",
    "sample",
    "segment",
    "tune",
]


@pytest.mark.parametrize("kind", ["unet", "dit", "mlp"])
def test_products_in_bf16_leave_states_in_f32_and_samples_near(kind):
    model, seen = tiny_model(kind), []
    exact = sample(model, 4).x
    near = sample(quick(model, "bf16"), 4, on_step=lambda x, s: seen.append(x.dtype)).x
    assert set(seen) == {torch.float32} and near.dtype == torch.float32
    assert not torch.equal(exact, near)
    assert (exact - near).square().mean().sqrt() < 0.05 * exact.std()
    assert torch.equal(sample(quick(model, "f32"), 4).x, exact)
    assert torch.equal(sample(plain(quick(model, "bf16")), 4).x, exact)


@pytest.mark.parametrize("kind", ["unet", "dit", "mlp"])
def test_halves_of_the_weights_made_once_are_those_that_autocast_makes_at_each_call(kind):
    net = tiny_model(kind).denoiser.net
    halved, x, log_snr = with_halves(net), torch.randn(2, *net.inputs.shape), torch.zeros(2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert (answer := net(x, log_snr)).std() > 0
        assert torch.equal(halved(x, log_snr), answer)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    again = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in halved.parameters()}
    halves = [p for p in halved.parameters() if p.dtype == torch.bfloat16]
    assert halves and len(again) + len(halves) == len(list(net.parameters()))


@pytest.mark.parametrize("verb", DRAWING)
def test_every_command_that_draws_can_be_quick(verb):
    command = getattr(import_module(f"ornstein.cli.{verb}"), verb)
    assert isinstance(inspect.signature(command).parameters["machine"].default, Opening)


def test_a_command_opens_all_its_runs_as_quick_as_it_was_asked(monkeypatch):
    monkeypatch.setattr("ornstein.tasks.sample.opened", lambda *_: tiny_model("mlp"))
    for machine, wanted in ((Opening(), False), (Opening(precision="bf16"), True)):
        assert (
            is_quick(machine.opened(Path("run")))
            == is_quick(machine.beside(Path("other")))
            == wanted
        )


@pytest.mark.parametrize("method", ["flow-map", "mean-flow"])
def test_a_quick_student_looks_ahead_as_far_as_it_did(method):
    student = tiny_student(method=method)
    drawn = [sample(m, 3, label=["bee"]).x for m in (student, quick(student, "bf16"))]
    assert (drawn[0] - drawn[1]).square().mean().sqrt() < 0.05 * drawn[0].std()


def test_both_networks_of_a_mean_and_what_it_leaves_are_quick():
    model = tiny_model("mlp")
    both = replace(model, denoiser=Residual(model.denoiser, model.denoiser, 0.5))
    parts = [p for p in quick(both, "bf16").denoiser.modules() if isinstance(p, NetDenoiser)]
    assert len(parts) == 2 and all(isinstance(part.net, Quick) for part in parts)
    assert not is_quick(plain(quick(both, "bf16")))


def test_a_likelihood_is_measured_with_the_network_as_trained(monkeypatch):
    asked = []
    monkeypatch.setattr(bits, "_profile", lambda model, *_: asked.append(model) or 1 / 0)
    model = tiny_model("mlp")
    with pytest.raises(ZeroDivisionError):
        bits.measure_bits(quick(model, "bf16"), range(9), range(9), 8)  # pyright: ignore
    assert not is_quick(asked[0])


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
        quick(tiny_model("mlp"), compiled=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_model, tiny_student])
def test_a_compiled_network_draws_the_same(make):
    model = make("mlp")
    compiled = rewired(model, bf16=False, compiler="eager")
    assert torch.equal(sample(compiled, 3).x, sample(model, 3).x)
