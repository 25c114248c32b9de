"""How far each sampler is from the exact solution. What it costs: `overhead.py`.

Data are a mixture of three Gaussians in the plane, standardised, whose denoiser is exact;
the root mean square distance between what a sampler makes of 256 starting points and what the
probability flow does, solved to 1e-10. Stochastic samplers have no such point to reach: for them,
the error of the variance they give N(0, 1/4), which is worked out exactly, relative to the truth.
The best of several time grids is kept, at 6, 10 and 20 denoiser calls, or as many as fit.

    python benchmarks/samplers.py [--out benchmarks/results/samplers.json]
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measure import RESULTS, environment, grid
from pages import put
from torch import Tensor

from ornstein.core.exact import GaussianDenoiser, MixtureDenoiser
from ornstein.core.noise import CosineSchedule, FlowSchedule, Schedule
from ornstein.core.sample import RK45, SAMPLERS, AdamsBashforth, Multistep, Sampler, UniPC, start
from ornstein.core.times import KarrasGrid, LogSNRGrid, TimeGrid, UniformGrid

F64 = torch.float64
CALLS = (6, 10, 20)
SCHEDULE = FlowSchedule()
VARIANCE = 0.25
PAGE = Path(__file__).parents[1] / "docs/samplers.md"

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


# --- Report --------------------------------------------------------------------------------------


def write_tables() -> None:
    """Into docs/samplers.md."""
    found = json.loads((RESULTS / "samplers.json").read_text())["error"]
    put(PAGE, "flow", table(found, stochastic=False))
    put(PAGE, "variance", table(found, stochastic=True))


def table(found: dict[str, dict], stochastic: bool) -> str:
    """The samplers of one kind, the nearest at 10 calls first."""
    rows = [(name, row["calls"]) for name, row in found.items() if row["stochastic"] == stochastic]
    shown = list[list[str]]()
    for name, at in sorted(rows, key=lambda row: row[1]["10"]["error"]):
        grids = ", ".join(dict.fromkeys(at[str(n)]["best"] for n in CALLS))
        shown.append([f"`{name}`", *(f"{at[str(n)]['error']:.4f}" for n in CALLS), grids])
    return grid(("sampler", *(f"{n} calls" for n in CALLS), "grid"), shown)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Error of every sampler.")
    parser.add_argument("--out", type=Path, default=RESULTS / "samplers.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result = json.dumps({"place": environment(1), "error": errors()}, indent=1, ensure_ascii=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(result + "\n")
    found = json.loads(result)["error"]
    print(table(found, stochastic=False), table(found, stochastic=True), sep="\n\n")


if __name__ == "__main__":
    main()
