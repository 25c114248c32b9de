"""What the product costs, counted instead of timed: so that a slow machine cannot hide a loss.

Expected counts lie beside this file in ``cost.json``. Where a change of them is meant:

    COST=write .venv/bin/pytest tests/test_cost.py
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ornstein.core.denoise import Denoiser
from ornstein.core.noise import FlowSchedule
from ornstein.core.sample import SAMPLERS
from ornstein.core.times import UniformGrid
from ornstein.data import DataOptions, open_data
from ornstein.nets import UNet
from ornstein.rng import normal
from ornstein.train import recipe, train
from ornstein.train.training import Training

EXPECTED = Path(__file__).with_name("cost.json")
WRITES = os.environ.get("COST") == "write"


def check(name: str, found: Mapping[str, float], tolerance: float = 0.03) -> None:
    """Compare counts with those kept, or keep them; less is a change worth keeping too."""
    kept = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    if WRITES:
        kept[name] = found
        EXPECTED.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    assert found == pytest.approx(kept[name], rel=tolerance), (
        f"the cost of {name} changed; if that is meant: COST=write pytest tests/test_cost.py"
    )


# --- A step of training --------------------------------------------------------------------------

CASES: dict[str, tuple[str, tuple[int, ...], float | None]] = {
    "auto, 1x8x8, 2 min": ("auto", (1, 8, 8), 2),
    "auto, 3x16x16, 2 min": ("auto", (3, 16, 16), 2),
    "auto, 3x32x32, 60 min": ("auto", (3, 32, 32), 60),
    "auto, points, 2 min": ("auto", (2,), 2),
    "auto, points, 60 min": ("auto", (2,), 60),
    "ddpm-swiss-roll": ("ddpm-swiss-roll", (2,), None),
    "ddpm-digits": ("ddpm-digits", (1, 8, 8), None),
}
"""A recipe, the shape of the data, the minutes there are."""
BATCHES = 2, 4


class Counting(TorchDispatchMode):
    """Operators as PyTorch runs them, and those whose result is memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.made = Counter[str](), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        held = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        self.calls[str(func)] += 1
        new = {t.untyped_storage().data_ptr() for t in tensors(result)}
        self.made += len(new - held)
        return result


def tensors(tree: Any) -> list[torch.Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]


def training(name: str, shape: tuple[int, ...], minutes: float | None, batch: int) -> Training:
    """On noise, after a first update."""
    x = normal((64, *shape), "cost").numpy()
    data = open_data(x, DataOptions(validation=0.0))
    config = recipe(data, name, minutes)
    train = replace(config.train, batch=batch, precision="f32", seen=100 * batch)
    run = Training(replace(config, train=train), data)
    run.update()
    return run


def flops(run: Training) -> int:
    with FlopCounterMode(display=False) as counter:
        run.update()
    return counter.get_total_flops()


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_each_recipe_costs_what_it_did(case):
    name, shape, minutes = CASES[case]
    few, many = (training(name, shape, minutes, batch) for batch in BATCHES)
    every = (flops(many) - flops(few)) / (BATCHES[1] - BATCHES[0])
    with Counting() as counting:
        many.update()
    found = {
        "weights": sum(p.numel() for p in many.weights),
        "flops per example": every,
        "flops per step": flops(few) - BATCHES[0] * every,
        "operators": sum(counting.calls.values()),
        "allocations": counting.made,
    }
    check(case, found)


# --- A step of sampling --------------------------------------------------------------------------

STEPS = 10
CALLS = {"heun": 19, "edm": 19, "edm-churn": 19, "predictor-corrector": 19}
"""Denoiser calls of ten steps, of the samplers that take more than one a step."""


class Identity(Denoiser):
    """Returns its argument, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule, self.calls = FlowSchedule(), 0

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        self.calls += 1
        return x_t

    def moments(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor]:
        return self(x_t, t), torch.zeros_like(x_t)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"rk45"}))
def test_a_sampler_takes_the_calls_it_says_and_few_operators(name):
    denoiser, x = Identity(), normal((2, 3), "cost")
    plan = SAMPLERS[name].plan(denoiser.schedule, UniformGrid()(denoiser.schedule, STEPS))
    with Counting() as counting:
        plan(denoiser, x)
    assert denoiser.calls == plan.calls == CALLS.get(name, STEPS)
    found = {"operators": sum(counting.calls.values()), "allocations": counting.made}
    check(f"sampler {name}, {STEPS} steps", found, tolerance=0.0)


# --- A network, compiled -------------------------------------------------------------------------


@pytest.mark.slow
def test_the_unet_is_one_graph():
    dynamo = pytest.importorskip("torch._dynamo")
    net = UNet((1, 8, 8), size=8)
    found = dynamo.explain(net)(torch.zeros(2, 1, 8, 8), torch.zeros(2))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


# --- What a command loads ------------------------------------------------------------------------

HEAVY = {"torch", "numpy", "matplotlib", "pydantic", "PIL", "safetensors", "rich", "sklearn"}
HEAVY |= {"scipy", "sympy", "pandas", "diffusers", "torch._dynamo", "torch._inductor"}


def loaded(command: list[str]) -> set[str]:
    """Of `HEAVY`, what a new process holds after a command."""
    code = (
        "import sys\n"
        "from ornstein.cli import run_command\n"
        "try: code = run_command(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "assert not code, code\n"
        "print('loaded', *sys.modules)"
    )
    line = [sys.executable, "-c", code, *command]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:]) & HEAVY


@pytest.mark.slow
def test_commands_load_no_more_than_they_need(tmp_path):
    run, out = str(tmp_path / "run"), str(tmp_path / "pictures")
    pictures = torch.arange(32 * 64).view(32, 8, 8).remainder(251).to(torch.uint8)
    train(pictures.numpy(), out=run, seen=64)
    assert loaded(["--help"]) == {"rich"}
    assert loaded(["show", run]) == {"torch", "numpy"}
    drawn = loaded(["sample", run, "-n", "1", "--steps", "2", "--out", out])
    assert drawn == {"torch", "numpy", "pydantic", "PIL"}
