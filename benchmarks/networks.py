"""How fast a training step of each network is, and what each choice of operator is worth.

One thread. A step is the loss, its backward, gradient clipping and fused AdamW. All rows of a
table are measured in turn, round after round, and each row is the median of its rounds, so that
a busy machine slows all of them alike: trust the ratios.

    python benchmarks/networks.py [--rounds 9] [--choices "as it is" "scale and shift first"]
        [--out benchmarks/results/networks.json]
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ornstein.nets import MLP, DiT, UNet, blocks

Step = Callable[[], None]


# --- What is measured ----------------------------------------------------------------------------

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "unet 32, 1x8x8": (lambda: UNet((1, 8, 8), size=32), (1, 8, 8), 64),
    "unet 32, 3x16x16": (lambda: UNet((3, 16, 16), size=32), (3, 16, 16), 32),
    "unet 64, 3x16x16": (lambda: UNet((3, 16, 16), size=64), (3, 16, 16), 32),
    "unet 64, 3x32x32": (lambda: UNet((3, 32, 32), size=64), (3, 32, 32), 32),
    "unet 32, 1x1024": (lambda: UNet((1, 1024), size=32), (1, 1024), 16),
    "unet 32, 1x16x16x16": (lambda: UNet((1, 16, 16, 16), size=32), (1, 16, 16, 16), 4),
    "dit 192, 3x16x16": (lambda: DiT((3, 16, 16), size=192, depth=6, patch=2), (3, 16, 16), 32),
    "mlp 128, 2": (lambda: MLP((2,)), (2,), 512),
}


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def group_norm(x: Tensor) -> Tensor:
    return F.group_norm(x.movedim(-1, 1), 8).movedim(1, -1)


def group_norm_in_float32(x: Tensor) -> Tensor:
    return F.group_norm(x.movedim(-1, 1).float(), 8).movedim(1, -1).to(x.dtype)


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def written_out_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
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
            start = time.perf_counter()
            step()
            if turn >= 2:  # the first two warm the caches
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def flops_of(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def speeds(rounds: int) -> list[dict[str, object]]:
    """Examples per second of every network in float32 and under bfloat16 autocast."""
    rows: list[dict[str, object]] = []
    for name, (build, shape, batch) in NETWORKS.items():
        steps = {
            "float32": training_step(build, shape, batch, False, {}),
            "bfloat16": training_step(build, shape, batch, True, {}),
        }
        # fused attention is not counted, so count it written out
        flops = flops_of(
            training_step(build, shape, batch, False, CHOICES["written-out attention"])
        )
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


def choices(rounds: int, names: Sequence[str]) -> list[dict[str, object]]:
    """Time of a step with one operator replaced, over the time of the step as it is."""
    rows: list[dict[str, object]] = []
    for name in ("unet 32, 1x8x8", "unet 32, 3x16x16", "unet 64, 3x16x16", "dit 192, 3x16x16"):
        build, shape, batch = NETWORKS[name]
        for dtype in ("float32", "bfloat16"):
            steps = {
                choice: training_step(build, shape, batch, dtype == "bfloat16", replacement)
                for choice, replacement in CHOICES.items()
                if choice in names
            }
            seconds = in_turn(steps, rounds)
            for choice, value in seconds.items():
                ratio = round(value / seconds["as it is"], 3)
                rows.append({"network": name, "dtype": dtype, "choice": choice, "time": ratio})
                print(name, dtype, choice, ratio, sep="\t", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the networks and their operators.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--choices", nargs="*", default=list(CHOICES), help="these alone")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/networks.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": 1,
        "rounds": args.rounds,
        "speeds": speeds(args.rounds) if args.choices == list(CHOICES) else [],
        "choices": choices(args.rounds, args.choices),
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
