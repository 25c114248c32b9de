"""What the product costs, counted instead of timed: so that a slow machine cannot hide a loss.

Expected counts lie beside this file in ``cost.json``. Where a change of them is meant:

    COST=write .venv/bin/pytest tests/test_cost.py
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
from ornstein.data.captions import Captions
from ornstein.data.dataset import Dataset
from ornstein.nets import MLP, DiT, UNet
from ornstein.nets.conditions import Conditions
from ornstein.rng import normal
from ornstein.train import RECIPES, recipe
from ornstein.train.recipes import AHEAD, FEW
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

CASES: dict[str, tuple[str, tuple[int, ...], float | None, str]] = {
    "auto, 1x8x8, 2 min": ("auto", (1, 8, 8), 2, "nothing"),
    "auto, 1x8x8, 2 min, told all": ("auto", (1, 8, 8), 2, "all"),
    "auto, 3x16x16, 2 min": ("auto", (3, 16, 16), 2, "nothing"),
    "auto, 3x20x20, 60 min": ("auto", (3, 20, 20), 60, "nothing"),
    "auto, points, 2 min": ("auto", (2,), 2, "nothing"),
    "auto, points, 60 min": ("auto", (2,), 60, "nothing"),
    "flow-map": ("flow-map", (1, 8, 8), 2, "nothing"),
    "mean-flow": ("mean-flow", (1, 8, 8), 2, "nothing"),
    "autoencoder": ("autoencoder", (1, 16, 16), None, "nothing"),
    "contrastive": ("contrastive", (1, 8, 8), None, "texts"),
    "ddpm-swiss-roll": ("ddpm-swiss-roll", (2,), None, "nothing"),
    "ddpm-digits": ("ddpm-digits", (1, 8, 8), None, "nothing"),
    "diffusers": ("diffusers", (1, 8, 8), None, "nothing"),
}
"""A recipe, the shape of the data, the minutes there are, what the data say of each example."""
NO_CASE = {"points", "ddpm"}  # as auto of points in an hour, and as ddpm-digits but for its size
BATCHES = 2, 4


class Counting(TorchDispatchMode):
    """Operators as PyTorch runs them, and those whose result is memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.made = Counter[str](), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        held = places((args, kwargs))
        result = func(*args, **(kwargs or {}))
        self.calls[str(func)] += 1
        self.made += len(places(result) - held)
        return result


def places(tree: Any) -> set[int]:
    """Where tensors lie; those that stand for others, within a derivative, lie nowhere."""
    found = set[int]()
    for tensor in tree_leaves(tree):
        if isinstance(tensor, torch.Tensor):
            with suppress(RuntimeError):
                found.add(tensor.untyped_storage().data_ptr())
    return found


def dataset(shape: tuple[int, ...], said: str) -> Dataset:
    """Noise that is not moved, of which something is said."""
    x, labels = normal((FEW, *shape), "cost").numpy(), [i % 3 for i in range(FEW)]
    options = DataOptions(validation=0.0, given="edges" if said == "all" else None)
    data = open_data((x, labels) if said == "all" else x, options)
    if said == "nothing":
        return data
    return replace(data, captions=Captions.of([[f"noise of kind {i}"] for i in labels]))


def training(
    name: str, shape: tuple[int, ...], minutes: float | None, said: str, batch: int
) -> Training:
    """After a first update."""
    data = dataset(shape, said)
    config = recipe(data, name, minutes, device="cpu")
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
    few, many = (training(*CASES[case], batch) for batch in BATCHES)
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


def test_every_recipe_has_its_cost():
    assert {name for name, *_ in CASES.values()} | NO_CASE == {*RECIPES, "auto", *AHEAD}


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


GRAPHS: dict[str, tuple[Callable[..., torch.nn.Module], tuple[int, ...], bool]] = {
    "unet": (UNet, (1, 8, 8), False),
    "unet, bf16": (UNet, (1, 8, 8), True),
    "dit": (DiT, (1, 8, 8), False),
    "mlp": (MLP, (2,), False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_a_network_that_is_told_all_it_can_be_is_one_graph(name, mode):
    dynamo = pytest.importorskip("torch._dynamo")
    make, shape, bf16 = GRAPHS[name]
    told = {"label": torch.zeros(2, dtype=torch.int64), "attributes": torch.zeros(2, 1)}
    conditions = Conditions(classes=3, attributes=1)
    if len(shape) > 1:
        told |= {"context": torch.zeros(2, *shape), "text": torch.tensor([[0, 7], [1, -1]])}
        conditions = replace(conditions, context=1, words=8, length=2)
    net = make(shape, size=8, depth=1, conditions=conditions)
    dynamo.reset()
    with mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = dynamo.explain(net)(torch.zeros(2, *shape), torch.zeros(2), **told)
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
    run, out, data = (str(tmp_path / name) for name in ("run", "pictures", "data.npy"))
    pictures = torch.arange(32 * 64).view(32, 8, 8).remainder(251).to(torch.uint8)
    np.save(data, pictures.numpy())
    assert loaded(["--help"]) == {"rich"}
    trained = loaded(["train", data, "--out", run, "--seen", "64"])
    assert trained == {"torch", "numpy", "pydantic", "PIL", "safetensors"}
    assert loaded(["show", run]) == {"torch", "numpy"}
    drawn = loaded(["sample", run, "-n", "1", "--steps", "2", "--out", out])
    assert drawn == {"torch", "numpy", "pydantic"}
