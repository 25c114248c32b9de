"""What the machine can do at all: products of matrices and convolutions, float32 and bfloat16.

A share of a limit elsewhere is a share of the fastest of these convolutions in that precision,
measured there in turn with what it limits: a machine that is shared is not always as fast.

    python benchmarks/limits.py [--threads 1] [--quick]
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measure import Claim, Options, Result, figure, grid, in_turn, main, seconds_of, told

CONVOLUTIONS = ((64, 32), (128, 16), (256, 8))  # channels, side; 3 x 3, batch 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def product(n: int, dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    return partial(torch.mm, a, b), 2.0 * n**3


def convolution(
    channels: int, side: int, batch: int, dtype: torch.dtype, layout: torch.memory_format
) -> tuple[Callable[[], object], float]:
    x = torch.randn(batch, channels, side, side).to(dtype, memory_format=layout)
    weight = torch.randn(channels, channels, 3, 3).to(dtype, memory_format=layout)
    return partial(F.conv2d, x, weight, padding=1), 2.0 * x.numel() * channels * 9


@torch.no_grad()
def measure(options: Options) -> Result:
    batch, size = (2, 128) if options.quick else (64, 2048)
    cases = dict[str, tuple[Callable[[], object], float]]()
    for name, dtype in DTYPES.items():
        cases[f"matrix {size}, {name}"] = product(size, dtype)
        for channels, side in CONVOLUTIONS:
            for layout in (torch.contiguous_format, torch.channels_last):
                last = "channels last" if layout == torch.channels_last else "channels first"
                case = convolution(channels, side, batch, dtype, layout)
                cases[f"convolution {channels}, {side}x{side}, {name}, {last}"] = case
    speeds = {
        name: lambda run=run, flops=flops: flops / seconds_of(run, options.threads) / 1e9
        for name, (run, flops) in cases.items()
    }
    for run, _ in cases.values():
        run()
    found = in_turn(speeds, options.rounds(9))
    return {name: {"gflops_per_s": figure(values)} for name, values in found.items()}


@torch.no_grad()
def reached(dtype: str, threads: int, seconds: float = 0.3) -> float:
    """GFLOP/s of the fastest convolution of that precision, now."""
    run, flops = convolution(*CONVOLUTIONS[-1], 64, DTYPES[dtype], torch.channels_last)
    count = max(1, round(seconds / seconds_of(run, threads)))
    return count * flops / seconds_of(lambda: [run() for _ in range(count)], threads) / 1e9


def table(result: Result) -> str:
    rows = [(name, told(row["gflops_per_s"])) for name, row in result["rows"].items()]
    return grid(("operator", "GFLOP/s"), rows)


LIMITS = Claim("limits", measure, table)

if __name__ == "__main__":
    main(LIMITS, __doc__)
