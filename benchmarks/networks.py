"""How fast a training step of each network is, and what each choice of operator is worth.

One thread, in processor seconds. A step is the loss, its backward, gradient clipping and fused
AdamW. All rows of a table are measured in turn, round after round, and each row is the median of
its rounds, so that a busy machine slows all of them alike: trust the ratios.

    python benchmarks/networks.py [--rounds 7] [--out benchmarks/results/networks.json]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from measure import RESULTS, Result, environment, grid
from pages import put
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ornstein.nets import MLP, DiT, UNet, blocks

Step = Callable[[], None]
PAGE = Path(__file__).parents[1] / "docs/performance.md"


# --- What is measured ----------------------------------------------------------------------------

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "unet 32, 1x8x8": (lambda: UNet((1, 8, 8), size=32), (1, 8, 8), 64),
    "unet 64, 3x16x16": (lambda: UNet((3, 16, 16), size=64), (3, 16, 16), 32),
    "unet 64, 3x32x32": (lambda: UNet((3, 32, 32), size=64), (3, 32, 32), 32),
    "unet 32, 1x1024": (lambda: UNet((1, 1024), size=32), (1, 1024), 16),
    "unet 32, 1x16x16x16": (lambda: UNet((1, 16, 16, 16), size=32), (1, 16, 16, 16), 4),
    "dit 192, 3x16x16": (lambda: DiT((3, 16, 16), size=192, depth=6, patch=2), (3, 16, 16), 32),
    "mlp 128, 2": (lambda: MLP((2,)), (2,), 512),
}


def group_norm(x: Tensor) -> Tensor:
    return F.group_norm(x.movedim(-1, 1), 8).movedim(1, -1)


def group_norm_in_float32(x: Tensor) -> Tensor:
    return F.group_norm(x.movedim(-1, 1).float(), 8).movedim(1, -1).to(x.dtype)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def written_out_attention(q: Tensor, k: Tensor, v: Tensor, bias: None) -> Tensor:
    return torch.softmax(q.shape[-1] ** -0.5 * q @ k.transpose(-1, -2), -1) @ v


class ModulatedFirst(blocks.ResidualBlock):
    """The block with scale and shift before both convolutions, as Dhariwal & Nichol have them."""

    def __init__(
        self, channels: int, out_channels: int, told: int, kernel: tuple[int, ...]
    ) -> None:
        super().__init__(channels, out_channels, told, kernel)
        self.modulation = blocks.Modulation(told, channels, 2, len(kernel))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = blocks.modulate(x.movedim(1, -1), *self.modulation(told)).movedim(-1, 1)
        return self.skip(x) + self.last(F.silu(self.first(h)))


PLAIN_FORMATS = {2: torch.contiguous_format, 3: torch.contiguous_format}

CHOICES: dict[str, dict[str, object]] = {
    "as it is": {},
    "group norm": {"normalise": group_norm},
    "group norm in float32": {"normalise": group_norm_in_float32},
    "fused attention": {"attend": fused_attention},
    "written-out attention": {"attend": written_out_attention},
    "linear by BLAS": {"Linear.forward": nn.Linear.forward},
    "plain memory format": {"MEMORY_FORMATS": PLAIN_FORMATS},
    "scale and shift first": {"ResidualBlock": ModulatedFirst},
}
"""Of names in `blocks`, what to put in their place."""


@contextmanager
def replaced(choice: dict[str, object]) -> Iterator[None]:
    """`blocks`, and the modules that imported from it, with other operators."""
    from ornstein.nets import dit, mlp, unet

    kept: list[tuple[object, str, object]] = []
    for name, value in choice.items():
        owners = [blocks.Linear] if "." in name else [blocks, dit, mlp, unet]
        attribute = name.split(".")[-1]
        for owner in owners:
            if hasattr(owner, attribute):
                kept.append((owner, attribute, getattr(owner, attribute)))
                setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in kept:
            setattr(owner, attribute, value)


def training_step(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    batch: int,
    bf16: bool,
    choice: dict[str, object],
) -> Step:
    torch.manual_seed(0)
    with replaced(choice):
        net = build()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    x, log_snr, target = torch.randn(batch, *shape), torch.randn(batch), torch.randn(batch, *shape)

    def step() -> None:
        with replaced(choice):
            with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
                output = net(x, log_snr)
            (output.float() - target).square().mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    return step


# --- How it is measured --------------------------------------------------------------------------


def in_turn(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median seconds of each step, all taken in turn, round after round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn >= 2:  # the first two warm the caches
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def flops_of(build: Callable[[], nn.Module], shape: tuple[int, ...], batch: int) -> int:
    """Of a step: the way back is as the way there twice. Fused attention is not counted."""
    with replaced(CHOICES["written-out attention"]), FlopCounterMode(display=False) as counter:
        build()(torch.randn(batch, *shape), torch.randn(batch))
    return 3 * counter.get_total_flops()


def speeds(rounds: int) -> list[dict[str, object]]:
    """Examples per second of every network in float32 and under bfloat16 autocast."""
    rows: list[dict[str, object]] = []
    for name, (build, shape, batch) in NETWORKS.items():
        steps = {
            "float32": training_step(build, shape, batch, False, {}),
            "bfloat16": training_step(build, shape, batch, True, {}),
        }
        flops = flops_of(build, shape, batch)
        million = sum(p.numel() for p in build().parameters()) / 1e6
        for dtype, seconds in in_turn(steps, rounds).items():
            row = {
                "network": name,
                "million parameters": round(million, 2),
                "batch": batch,
                "dtype": dtype,
                "milliseconds per step": round(1e3 * seconds, 2),
                "examples per second": round(batch / seconds, 1),
                "GFLOP/s": round(flops / seconds / 1e9),
            }
            rows.append(row)
            print(*row.values(), sep="\t", flush=True)
    return rows


def choices(rounds: int) -> list[dict[str, object]]:
    """Time of a step with one operator replaced, over the time of the step as it is."""
    rows: list[dict[str, object]] = []
    for name in ("unet 32, 1x8x8", "unet 64, 3x16x16", "dit 192, 3x16x16"):
        build, shape, batch = NETWORKS[name]
        for dtype in ("float32", "bfloat16"):
            steps = {
                choice: training_step(build, shape, batch, dtype == "bfloat16", replacement)
                for choice, replacement in CHOICES.items()
            }
            seconds = in_turn(steps, rounds)
            for choice, value in seconds.items():
                ratio = round(value / seconds["as it is"], 3)
                rows.append({"network": name, "dtype": dtype, "choice": choice, "time": ratio})
                print(name, dtype, choice, ratio, sep="\t", flush=True)
    return rows


# --- Report --------------------------------------------------------------------------------------


def write_tables() -> None:
    """Into docs/performance.md."""
    found = json.loads((RESULTS / "networks.json").read_text())
    put(PAGE, "networks", speeds_table(found))
    put(PAGE, "choices", choices_table(found))


def speeds_table(result: Result) -> str:
    rows = [
        [
            row["network"],
            f"{row['million parameters']:.2f} M",
            row["batch"],
            row["dtype"],
            f"{float(format(row['milliseconds per step'], '.3g')):,g}",
            f"{row['examples per second']:,.0f}",
            row["GFLOP/s"],
        ]
        for row in result["speeds"]
    ]
    head = ("network", "weights", "batch", "products in", "ms a step", "examples/s", "GFLOP/s")
    at = result["place"]
    where = f"*{at['processor']}, 1 thread, PyTorch {at['torch']}, {at['date'][:10]}.*"
    return f"{where}\n\n{grid(head, rows)}"


def choices_table(result: Result) -> str:
    """A row for each choice, a column for each network in each precision."""
    time_of = {(r["network"], r["dtype"], r["choice"]): r["time"] for r in result["choices"]}
    columns = list(dict.fromkeys((network, dtype) for network, dtype, _ in time_of))
    rows = [
        [choice, *(f"{time_of[*column, choice]:.2f}" for column in columns)] for choice in CHOICES
    ]
    return grid(("", *(f"{network}, {dtype}" for network, dtype in columns)), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time the networks and their operators.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "networks.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result = {
        "place": environment(1),
        "rounds": args.rounds,
        "speeds": speeds(args.rounds),
        "choices": choices(args.rounds),
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
