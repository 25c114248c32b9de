"""How far each sampler is from the exact solution, and what it costs beside the denoiser.

Error: data are a mixture of three Gaussians in the plane, standardised, whose denoiser is exact;
the root mean square distance between what a sampler makes of 256 starting points and what the
probability flow does, solved to 1e-10. Stochastic samplers have no such point to reach: for them,
the error of the variance they give N(0, 1/4), which is worked out exactly, relative to the truth.
The best of several time grids is kept, at 6, 10 and 20 denoiser calls, or as many as fit.

Overhead: seconds of a step beside the denoiser, which here returns its argument; one thread.

    python benchmarks/samplers.py [--out benchmarks/results/samplers.json]
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from ornstein.core.denoise import Denoiser
from ornstein.core.exact import GaussianDenoiser, MixtureDenoiser
from ornstein.core.noise import CosineSchedule, FlowSchedule, Schedule
from ornstein.core.sample import RK45, SAMPLERS, AdamsBashforth, Multistep, Sampler, UniPC, start
from ornstein.core.times import KarrasGrid, LogSNRGrid, TimeGrid, UniformGrid

F64 = torch.float64
CALLS = (6, 10, 20)
SCHEDULE = FlowSchedule()
VARIANCE = 0.25

ALSO: dict[str, Sampler] = {
    "dpm++4m": Multistep(order=4),
    "unipc-4": UniPC(order=4),
    "adams-bashforth-3": AdamsBashforth(order=3),
    "adams-bashforth-4": AdamsBashforth(order=4),
}
LEFT_OUT = ("ddpm-learned", "leap", "rk45")  # a head; a student; because it is the reference
STOCHASTIC = (
    "ddpm",
    "ddpm-large",
    "edm-churn",
    "sde-dpm++2m",
    "sde-dpm++2m-published",
    "predictor-corrector",
)


class Cosine(UniformGrid):
    """The log-SNRs of equal steps along the cosine schedule, on any schedule."""

    def _times(self, schedule: Schedule, steps: int, start: float) -> Tensor:
        cosine = CosineSchedule()
        times = schedule.time(cosine.log_snr(super()._times(cosine, steps, start)))
        times[-1] = 0
        return times


GRIDS: dict[str, TimeGrid] = {
    "uniform": UniformGrid(),
    "cosine": Cosine(),
    "karras": KarrasGrid(),
    "log-snr ±9": LogSNRGrid(),
    "log-snr ±7": LogSNRGrid(log_snr_min=-7.0, log_snr_max=7.0),
    "log-snr ±5": LogSNRGrid(log_snr_min=-5.0, log_snr_max=5.0),
}


# --- Error ---------------------------------------------------------------------------------------


def mixture() -> MixtureDenoiser:
    """Three Gaussians in the plane, together of mean 0 and variance 1."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    means = torch.tensor([[-1.0, -0.6], [1.2, -0.2], [0.6, 1.5]], dtype=F64)
    roots = torch.tensor(
        [[[0.5, 0.0], [0.3, 0.2]], [[0.2, 0.0], [0.0, 0.5]], [[0.4, 0.0], [-0.3, 0.1]]], dtype=F64
    )
    means = means - weights @ means
    covs = roots @ roots.mT
    total = torch.einsum("k,kij->ij", weights, covs + means[:, :, None] * means[:, None])
    std = (total.trace() / 2).sqrt()
    return MixtureDenoiser(weights, means / std, covs / std**2, SCHEDULE)


def steps_for(sampler: Sampler, calls: int) -> int:
    """The most steps that cost no more than `calls`."""
    return max(n for n in range(1, calls + 1) if (sampler.calls(n) or 0) <= calls)


class FlowError:
    """Root mean square distance from where the probability flow leads."""

    def __init__(self) -> None:
        self.denoiser, self.known = mixture(), {}
        self.eps = torch.randn(256, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
        self.solver = RK45(rtol=1e-10, atol=1e-10, tau_min=1e-5)

    def __call__(self, sampler: Sampler, times: Tensor) -> float:
        x, first = start(SCHEDULE, times[0], self.eps), times[0].item()
        if first not in self.known:
            ends = torch.stack([times[0], torch.zeros_like(times[0])])
            self.known[first] = self.solver(self.denoiser, x, ends)
        return (sampler(self.denoiser, x, times) - self.known[first]).square().mean().sqrt().item()


class Taps:
    """Noise that is 1 in one example of the batch, the next one at each draw, and 0 elsewhere."""

    def __init__(self) -> None:
        self.draws = 0

    def __call__(self, like: Tensor) -> Tensor:
        self.draws += 1
        return torch.zeros_like(like).index_fill_(0, torch.tensor(self.draws), 1.0)


def variance_error(sampler: Sampler, times: Tensor) -> float:
    """Relative error of the variance of the samples, for data N(0, 1/4)."""
    cov = torch.full((1, 1), VARIANCE, dtype=F64)
    denoiser = GaussianDenoiser(torch.zeros(1, dtype=F64), cov, SCHEDULE)
    alpha, sigma = SCHEDULE(times[0])
    x = torch.zeros(4 * len(times), 1, dtype=F64)
    x[0] = (alpha**2 * VARIANCE + sigma**2).sqrt()
    samples = sampler(denoiser, x, times, noise=Taps())
    return abs(samples.square().sum().item() / VARIANCE - 1)


def errors() -> dict[str, dict]:
    flow, table = FlowError(), {}
    for name, sampler in (SAMPLERS | ALSO).items():
        if name in LEFT_OUT:
            continue
        measure = variance_error if name in STOCHASTIC else flow
        rows = {}
        for calls in CALLS:
            steps = steps_for(sampler, calls)
            found = {k: measure(sampler, grid(SCHEDULE, steps)) for k, grid in GRIDS.items()}
            best = min(found, key=found.__getitem__)
            rows[calls] = {"steps": steps, "best": best, "error": found[best], "all": found}
        table[name] = {"order": sampler.order, "stochastic": name in STOCHASTIC, "calls": rows}
    return table


# --- Overhead ------------------------------------------------------------------------------------


class Identity(Denoiser):
    """Costs nothing."""

    schedule = SCHEDULE

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return x_t

    forward = __call__


def bare(x: Tensor, coefficients: list[tuple[float, float]]) -> Tensor:
    """What no sampler can save: DDIM by hand, its coefficients known beforehand."""
    for kept, of_x in coefficients:
        x = (x * kept).add_(x, alpha=of_x)
    return x


def overhead(rounds: int = 25, steps: int = 50) -> dict[str, dict[str, float]]:
    """Microseconds a step, the median of `rounds`, which all samplers take in turn.

    The plan is made beforehand; the denoiser returns its argument, a tenth of a microsecond.
    """
    times, denoiser, seconds = LogSNRGrid()(SCHEDULE, steps), Identity(), {}
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        name: partial(sampler.plan(SCHEDULE, times), denoiser)
        for name, sampler in SAMPLERS.items()
        if name not in LEFT_OUT
    }
    runs["ddim by hand"] = lambda x: bare(x, [(0.9, 0.1)] * steps)
    for _ in range(rounds):
        for name, run in runs.items():
            for batch in (1, 64):
                x = torch.randn(batch, 3, 32, 32)
                begin = time.perf_counter()
                run(x)
                spent = (time.perf_counter() - begin) / steps * 1e6
                seconds.setdefault(name, {}).setdefault(f"{batch}x3x32x32", []).append(spent)
    return {
        name: {shape: round(statistics.median(all), 1) for shape, all in shapes.items()}
        for name, shapes in seconds.items()
    }


# --- Report --------------------------------------------------------------------------------------


def markdown(result: dict) -> str:
    """The two tables of docs/samplers.md."""
    lines = []
    for stochastic in (False, True):
        lines += ["| sampler | " + " | ".join(f"{c} calls" for c in CALLS) + " | grid |"]
        lines += ["|---" * (len(CALLS) + 2) + "|"]
        rows = {k: v for k, v in result["error"].items() if v["stochastic"] == stochastic}
        for name, row in sorted(rows.items(), key=lambda r: r[1]["calls"][10]["error"]):
            cells = [f"{row['calls'][c]['error']:.4f}" for c in CALLS]
            grids = ", ".join(dict.fromkeys(row["calls"][c]["best"] for c in CALLS))
            lines.append(f"| `{name}` | {' | '.join(cells)} | {grids} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Error and overhead of every sampler.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/samplers.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "machine": {"torch": torch.__version__, "cpu": platform.processor() or platform.machine()},
        "error": errors(),
        "overhead in microseconds a step": overhead(),
    }
    print(markdown(result))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result["overhead in microseconds a step"], indent=1))


if __name__ == "__main__":
    main()
