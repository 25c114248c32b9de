"""How far each method of posterior sampling is from the exact posterior, and what it costs.

Points: a mixture of four Gaussians in eight dimensions, standardised, whose denoiser is exact,
and three noisy measurements of it. The distance is sliced Wasserstein of order 2 between draws and
the exact posterior, whose quantiles are known in closed form, in units of its standard deviation;
it is divided by its *floor*, that of as many exact draws. The mean and standard error are those
over eight such problems, drawn at random. The 90 % bands are those of each coordinate, and their
coverage the exact posterior's mass within. Methods make 400 draws, or as many as `particles` has.

Bias: one Gaussian, whose posterior is a formula; what each method makes of its variance and mean.

Curve: the same distance over its floor, of each method, by how many denoiser calls it is allowed;
of `particles`, 256.

Digits: a small run trained on scanned digits, of which the lower half is masked, or only the means
of four blocks are known; held-out digits, the mean of 19 draws against the truth in decibels, and
how often the truth lies in the 90 % band. Calls, products and seconds are those of one draw, and of
the 19 draws of one digit.

    ornstein train digits --seen 60000 --out RUN
    python benchmarks/posterior.py [--points] [--bias] [--curve] [--digits RUN]
    python benchmarks/posterior.py --docs docs/restoring.md --picture docs/pictures/calls.svg
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from lines import Line, drawn
from pages import put
from torch import Tensor

from ornstein.core.conformal import band
from ornstein.core.denoise import Denoiser
from ornstein.core.exact import GaussianDenoiser, MixtureDenoiser
from ornstein.core.measure import Mask, Matrix
from ornstein.core.measured import METHODS, Method
from ornstein.core.noise import FlowSchedule
from ornstein.core.particles import Particles
from ornstein.core.posterior import Measured
from ornstein.core.sample import SAMPLERS, Sampler, start
from ornstein.core.tally import Tally
from ornstein.core.times import LogSNRGrid, TimeGrid, UniformGrid
from ornstein.tasks.methods import method_of
from ornstein.tasks.options import RestoreOptions

F64 = torch.float64
SCHEDULE = FlowSchedule()
DRAWS, STEPS, PROBLEMS = 400, 50, 8
PARTICLES = (64, 256, 1024, 4096)
REPEATS, FLOORS = 4, 32  # populations of particles and sets of exact draws, for each problem
AXES = 128
LOG_SNR = LogSNRGrid()
SIGMA_Y = 0.3
LEFT_OUT = ("ddnm", "repaint")  # which want exact measurements, and masks
ZETAS = (0.1, 0.3, 3.0)
AS_TYPED = "mmps, as `ornstein restore` has it"
CALLS = (10, 20, 50, 100)
COMPETING = 256


# --- Points --------------------------------------------------------------------------------------


class Problem:
    """A mixture, three measurements of one of its examples, and the exact posterior."""

    def __init__(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        means = torch.randn(4, 8, generator=g, dtype=F64)
        roots = torch.randn(4, 8, 8, generator=g, dtype=F64) * 0.9 / math.sqrt(8)
        covs = roots @ roots.mT + 0.05**2 * torch.eye(8, dtype=F64)
        means = means - means.mean(0)
        std = (covs + means[:, :, None] * means[:, None]).mean(0).diagonal().sqrt()
        means, covs = means / std, covs / (std[:, None] * std)
        weights = torch.full((4,), 0.25, dtype=F64)
        self.prior = MixtureDenoiser(weights, means, covs, SCHEDULE)
        A = torch.randn(3, 8, generator=g, dtype=F64) / math.sqrt(8)
        seen = self.prior.draw(1, g) @ A.T + SIGMA_Y * torch.randn(1, 3, generator=g, dtype=F64)
        self.measured = Measured(Matrix(A, (8,)), seen, SIGMA_Y)
        self.posterior = conditional(self.prior, A, seen[0])
        axes = torch.randn(8, AXES, generator=torch.Generator().manual_seed(0), dtype=F64)
        self.axes = axes / axes.norm(dim=0)
        of = self.posterior
        mean = of.weights @ of.means
        second = of.covs.diagonal(dim1=1, dim2=2) + of.means**2
        self.std = (of.weights @ second - mean**2).mean().sqrt().item()

    def distance(self, x: Tensor) -> float:
        """Sliced Wasserstein, in standard deviations of the posterior."""
        exact = self.quantiles((torch.arange(len(x), dtype=F64) + 0.5) / len(x))
        return ((x @ self.axes).sort(0)[0] - exact).square().mean().sqrt().item() / self.std

    def floor(self, count: int, g: torch.Generator) -> dict[str, float]:
        """Distance and coverage of so many exact draws, in the mean."""
        every = [self.posterior.draw(count, g) for _ in range(FLOORS)]
        return {
            "distance": fmean(self.distance(x) for x in every),
            "coverage": fmean(self.coverage(x) for x in every),
        }

    def quantiles(self, places: Tensor) -> Tensor:
        """Of the exact posterior along each axis ``(P, AXES)``, between 4001 places of it."""
        z, below = self._line
        i = torch.searchsorted(below, places.repeat(AXES, 1)).clamp(1, z.shape[1] - 1)
        (first, last), (low, high) = ((v.gather(1, i - 1), v.gather(1, i)) for v in (below, z))
        part = ((places - first) / (last - first).clamp_min(1e-300)).clamp(0, 1)
        return torch.lerp(low, high, part).T

    @cached_property
    def _line(self) -> tuple[Tensor, Tensor]:
        """Places along each axis ``(AXES, 4001)``, and the posterior's mass below them."""
        means, stds = self.projected(self.axes)
        low, high = (means - 8 * stds).amin(0), (means + 8 * stds).amax(0)
        z = low + (high - low) * torch.linspace(0, 1, 4001, dtype=F64)[:, None]
        return z.T.contiguous(), self.below(z, self.axes).T.contiguous()

    def below(self, z: Tensor, axes: Tensor) -> Tensor:
        """The posterior's mass below `z` ``(..., K)`` along the axes ``(8, K)``."""
        means, stds = self.projected(axes)
        parts = zip(self.posterior.weights, means, stds, strict=True)
        return sum((w * torch.special.ndtr((z - m) / s) for w, m, s in parts), torch.zeros_like(z))

    def projected(self, axes: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the posterior's parts along the axes ``(4, K)``."""
        variances = torch.einsum("ik,mij,jk->mk", axes, self.posterior.covs, axes)
        return self.posterior.means @ axes, variances.sqrt()

    def coverage(self, x: Tensor) -> float:
        """The exact posterior's mass within the 90 % bands of the draws, mean over coordinates."""
        low, high = (torch.from_numpy(end[0]) for end in band(x[None].numpy(), 0.9))
        one = torch.eye(8, dtype=F64)
        return (self.below(high, one) - self.below(low, one)).mean().item()


def conditional(prior: MixtureDenoiser, A: Tensor, y: Tensor) -> MixtureDenoiser:
    """``p(x | y)`` of a mixture: a mixture again."""
    means, covs, log_weights = [], [], []
    for weight, mean, cov in zip(prior.weights, prior.means, prior.covs, strict=True):
        S = A @ cov @ A.T + SIGMA_Y**2 * torch.eye(len(A), dtype=F64)
        gain = cov @ A.T @ torch.linalg.inv(S)
        left = (torch.eye(len(cov), dtype=F64) - gain @ A) @ cov
        means.append(mean + gain @ (y - A @ mean))
        covs.append((left + left.mT) / 2)
        likely = torch.distributions.MultivariateNormal(A @ mean, S).log_prob(y)
        log_weights.append(weight.log() + likely)
    weights = torch.softmax(torch.stack(log_weights), 0)
    return MixtureDenoiser(weights, torch.stack(means), torch.stack(covs), prior.schedule)


Way = tuple[Callable[[Denoiser, Measured], Denoiser], Sampler]


def way(method: Method, sampler: str = "sde-dpm++2m") -> Way:
    """A method with the rule it brings, or this one."""
    return method.denoiser, method.sampler or SAMPLERS[sampler]


def plain() -> dict[str, Way]:
    """Every method that this measurement leaves, with the best of the rules that it may take."""
    return {name: way(make()) for name, make in METHODS.items() if name not in LEFT_OUT}


def lengths() -> dict[str, Way]:
    """DPS of several lengths, of which nobody knows the best beforehand."""
    return {f"dps, zeta {zeta:g}": way(METHODS["dps"](zeta)) for zeta in ZETAS}


def ways() -> dict[str, Way]:
    """Every method, and some in other ways."""
    return {
        **plain(),
        **lengths(),
        "mmps, ddpm": way(METHODS["mmps"](), "ddpm"),
        "mmps, ddim": way(METHODS["mmps"](), "ddim"),
        "mmps of 1 iteration": way(METHODS["mmps"](1)),
        "evidence, ddpm": way(METHODS["evidence"](), "ddpm"),
    }


def points() -> dict[str, dict[str, float]]:
    """Distance, over its floor, coverage and cost of each method, over all problems."""
    every = list[dict[str, dict[str, float]]]()
    for seed in range(PROBLEMS):
        every.append(solved(seed))
        print(f"problem {seed} of {PROBLEMS}", flush=True)
    return together(every)


def solved(seed: int) -> dict[str, dict[str, float]]:
    """One problem by each method."""
    problem, g = Problem(seed), torch.Generator().manual_seed(100 + seed)
    floors = {count: problem.floor(count, g) for count in (DRAWS, *PARTICLES)}
    rows = {f"exact draws, {count}": floor for count, floor in floors.items()}
    for name, how in ways().items():
        torch.manual_seed(seed)
        rows[name] = judged(problem, partial(by, how, problem.measured), DRAWS, 1, floors)
    torch.manual_seed(seed)
    asked = RestoreOptions()
    how = partial(by, way(method_of(asked), asked.sampler or ""), problem.measured)
    rows[AS_TYPED] = judged(problem, how, DRAWS, 1, floors, asked.steps or STEPS, UniformGrid())
    for count, steps in (*((count, STEPS) for count in PARTICLES), (max(PARTICLES), 2 * STEPS)):
        torch.manual_seed(seed)
        name = f"particles, {count}" if steps == STEPS else f"particles, {count}, {steps} steps"
        rows[name] = judged(
            problem, partial(competing, problem.measured), count, REPEATS, floors, steps
        )
    return rows


def together(every: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean over problems, and the standard error of what is over the floor."""
    found: dict[str, dict[str, float]] = {}
    for name, first in every[0].items():
        found[name] = {key: fmean(rows[name][key] for rows in every) for key in first}
        if "over" in first:
            over = [rows[name]["over"] for rows in every]
            found[name]["error"] = stdev(over) / math.sqrt(len(over))
    return found


def by(how: Way, measured: Measured, tally: Tally, x_t: Tensor, times: Tensor) -> Tensor:
    """Draws of a method that walks each example on its own."""
    build, sampler = how
    return sampler(build(tally, measured), x_t, times)


def competing(measured: Measured, tally: Tally, x_t: Tensor, times: Tensor) -> Tensor:
    """Draws of as many particles."""
    return Particles(measured)(tally, x_t, times).x


def judged(
    problem: Problem,
    drawn: Callable[[Tally, Tensor, Tensor], Tensor],
    count: int,
    repeats: int,
    floors: dict[int, dict[str, float]],
    steps: int = STEPS,
    grid: TimeGrid = LOG_SNR,
) -> dict[str, float]:
    """One method on one problem, the mean over so many sets of `count` draws."""
    times, every = grid(SCHEDULE, steps), list[dict[str, float]]()
    for _ in range(repeats):
        tally = Tally(problem.prior)
        x = drawn(tally, start(SCHEDULE, times[0], torch.randn(count, 8, dtype=F64)), times)
        distance = problem.distance(x)
        over = distance / floors[count]["distance"]
        cost = {"calls": tally.calls, "products": tally.products}
        every.append({"distance": distance, "over": over, "coverage": problem.coverage(x)} | cost)
    return {key: fmean(row[key] for row in every) for key in every[0]}


def curve() -> dict[str, dict[str, dict[str, float]]]:
    """What is over the floor, by method and by how many denoiser calls it is allowed."""
    found = dict[str, dict[str, dict[str, float]]]()
    for calls in CALLS:
        every = [allowed(seed, calls) for seed in range(PROBLEMS)]
        for name, row in together(every).items():
            found.setdefault(name, {})[str(calls)] = row
        print(f"{calls} calls", {name: rows[str(calls)]["over"] for name, rows in found.items()})
    return found


def allowed(seed: int, calls: int) -> dict[str, dict[str, float]]:
    """One problem by each method, in as many steps as the calls allow."""
    problem, g = Problem(seed), torch.Generator().manual_seed(100 + seed)
    floors = {count: problem.floor(count, g) for count in (DRAWS, COMPETING)}
    rows = dict[str, dict[str, float]]()
    for name, how in {
        **plain(),
        **lengths(),
        "mmps of 1 iteration": way(METHODS["mmps"](1)),
    }.items():
        torch.manual_seed(seed)
        steps = max(2, calls // (how[1].calls(1) or 1))
        rows[name] = judged(problem, partial(by, how, problem.measured), DRAWS, 1, floors, steps)
    torch.manual_seed(seed)
    rows[f"particles, {COMPETING}"] = judged(
        problem, partial(competing, problem.measured), COMPETING, 1, floors, calls // 2
    )
    return rows


# --- One Gaussian --------------------------------------------------------------------------------

MANY = 20_000
LEVELS = (0.05, 0.3, 1.0)
CORRELATED = 0.8


def bias() -> dict[str, dict[str, dict[str, float]]]:
    """Variance of the draws over what it should be, and how their mean follows y, as it should.

    Of N(0, 1) measured with noise; and of two numbers, correlated, the first of them known.
    """
    one, pair = torch.eye(1, dtype=F64), torch.eye(2, dtype=F64)
    pair = pair + CORRELATED * pair.flip(0)
    found = dict[str, dict[str, dict[str, float]]]()
    for name, make in METHODS.items():
        cases = {f"noise of {level:g}": (one, level) for level in LEVELS if name not in LEFT_OUT}
        cases["one of two"] = pair, 0.0
        found[name] = {case: moments(make(), *known) for case, known in cases.items()}
        print(name, found[name], flush=True)
    return found


def moments(method: Method, cov: Tensor, level: float) -> dict[str, float]:
    """Of the last coordinate, when the first is measured."""
    prior = GaussianDenoiser(torch.zeros(len(cov), dtype=F64), cov, SCHEDULE)
    first = torch.arange(len(cov)) == 0
    times, drawn = LOG_SNR(SCHEDULE, STEPS), []
    for y in (0.0, 1.0):
        torch.manual_seed(0)
        measured = Measured(Mask(first), y * first.to(F64)[None], level)
        x_t = start(SCHEDULE, times[0], torch.randn(MANY, len(cov), dtype=F64))
        build, sampler = way(method)
        drawn.append(sampler(build(prior, measured), x_t, times)[:, -1])
    slope = (cov[-1, 0] / (cov[0, 0] + level**2)).item()
    variance = (cov[-1, -1] - slope * cov[-1, 0]).item()
    return {
        "variance": drawn[0].var().item() / variance,
        "follows": (drawn[1] - drawn[0]).mean().item() / slope,
    }


# --- Digits --------------------------------------------------------------------------------------

HALF, BLOCKS = "lower half masked", "means of 4 x 4 blocks"
EVERY: dict[str, dict[str, Any]] = {
    "mmps": {},
    "mmps of 1 iteration": {"iterations": 1},
    "mmps, ddpm in 32 steps": {"sampler": "ddpm", "steps": 32},
    **{name: {"method": name} for name in ("pigdm", "diffpir", "ddrm", "dps", "daps")},
}
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    HALF: {
        **EVERY,
        "ddnm": {"method": "ddnm"},
        "repaint": {"method": "repaint"},
        "particles, 64": {"method": "particles", "particles": 64},
    },
    BLOCKS: {
        **EVERY,
        "evidence": {"method": "evidence"},
        "particles, 64": {"method": "particles", "particles": 64},
    },
}
"""By measurement and name. What is known of half a digit is 32 numbers, each of which costs
`evidence` a product at every step: it is measured on the four block means."""


def digits(run: Path, note: Callable[[str, str, dict[str, float]], None], count: int = 16) -> None:
    """Calibration, error and cost of each method on held-out digits; notes each as it is done.

    Bands are from the first to the last of 19 draws: 90 % if the posterior is right.
    """
    from ornstein.evaluate.measures.calibration import DRAWS as FOR_BANDS
    from ornstein.evaluate.measures.calibration import calibrate

    half = torch.zeros(1, 8, 8, dtype=torch.bool)
    half[:, 4:] = True
    for measurement, ways in WAYS.items():
        given: dict[str, Any] = {"mask": half} if measurement == HALF else {"upscale": 4}
        for name, options in ways.items():
            begin = time.process_time()
            result = calibrate(run, count, **given, **options)
            assert result.cost is not None
            row = {
                "psnr": result.psnr,
                "coverage": result.everywhere,
                "calls": result.cost.calls / FOR_BANDS,
                "products": result.cost.products / FOR_BANDS,
                **({} if result.cost.worth is None else {"worth": result.cost.worth}),
                "seconds": (time.process_time() - begin) / count,
            }
            note(measurement, name, row)
            print(measurement, name, row, flush=True)


# --- Report --------------------------------------------------------------------------------------


def points_table(rows: dict[str, dict[str, float]]) -> str:
    lines = [
        "| method | distance | over its floor | 90 % bands hold | calls | Jacobian products |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: item[1]["distance"]):
        if name.startswith("exact"):
            continue
        lines.append(
            f"| {name} | {row['distance']:.3f} | {row['over']:.2f} ± {row['error']:.2f} | "
            f"{row['coverage']:.3f} | {row['calls']:.0f} | {row['products']:.0f} |"
        )
    return "\n".join(lines)


def bias_table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    cases = list(rows["mmps"])
    lines = [
        f"| method | {' | '.join(f'{case}: variance | mean' for case in cases)} |",
        "|---" * (1 + 2 * len(cases)) + "|",
    ]
    for name, found in rows.items():
        cells = [
            f"{found[case][key]:.2f}" if case in found else ""
            for case in cases
            for key in ("variance", "follows")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curve_table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [
        f"| method | {' | '.join(f'{calls} calls' for calls in CALLS)} | products a call |",
        "|---" * (len(CALLS) + 2) + "|",
    ]
    for name, found in sorted(shown(rows).items(), key=lambda item: item[1]["50"]["over"]):
        cells = [f"{found[str(calls)]['over']:.2f}" for calls in CALLS]
        each = found["50"]["products"] / found["50"]["calls"]
        lines.append(f"| {name} | {' | '.join(cells)} | {each:.0f} |")
    return "\n".join(lines)


def curve_picture(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [
        Line(
            name, [row["calls"] for row in found.values()], [row["over"] for row in found.values()]
        )
        for name, found in shown(rows).items()
    ]
    return drawn(
        lines,
        across="denoiser calls",
        down="distance from the exact posterior, over that of as many exact draws",
        describe="How the distance of each method falls, or does not, with denoiser calls.",
    )


def shown(
    rows: dict[str, dict[str, dict[str, float]]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Of DPS, the length that was best, at each number of calls: what tuning would find."""
    lengths = {name: found for name, found in rows.items() if name.startswith("dps")}
    best = {
        calls: min((found[calls] for found in lengths.values()), key=lambda row: row["over"])
        for calls in rows["dps"]
    }
    others = {name: found for name, found in rows.items() if not name.startswith("dps, ")}
    return {**others, "dps, tuned": best}


def digits_table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [
        "| known | method | PSNR of the mean | 90 % bands hold | calls | Jacobian products "
        "| seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for measurement, methods in rows.items():
        for name, row in sorted(methods.items(), key=lambda item: -item[1]["psnr"]):
            lines.append(
                f"| {measurement} | {name} | {row['psnr']:.1f} dB | {row['coverage']:.3f} | "
                f"{row['calls']:.0f} | {row['products']:.0f} | {row['seconds']:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Every method of posterior sampling, measured.")
    parser.add_argument("--points", action="store_true", help="Measure on the mixture.")
    parser.add_argument("--bias", action="store_true", help="Measure on one Gaussian.")
    parser.add_argument("--curve", action="store_true", help="And by calls that are allowed.")
    parser.add_argument("--digits", type=Path, help="Measure on this run of digits.")
    parser.add_argument("--count", type=int, default=16, help="How many held-out digits.")
    parser.add_argument("--docs", type=Path, help="Put the tables into this page.")
    parser.add_argument("--picture", type=Path, help="Draw the curve here, as SVG.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/posterior.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    result["machine"] = {"torch": torch.__version__, "cpu": platform.machine()}

    def keep() -> None:
        arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")

    def note(measurement: str, name: str, row: dict[str, float]) -> None:
        result["digits"].setdefault(measurement, {})[name] = row
        keep()

    if arguments.points:
        result["points"] = points()
        keep()
    if arguments.bias:
        result["bias"] = bias()
        keep()
    if arguments.curve:
        result["curve"] = curve()
        keep()
    if arguments.digits:
        result["digits"] = {}
        digits(arguments.digits, note, arguments.count)
    tables = {
        "points": points_table,
        "curve": curve_table,
        "bias": bias_table,
        "digits": digits_table,
    }
    for name, table in tables.items():
        if name not in result:
            continue
        print(table(result[name]))
        if arguments.docs:
            put(arguments.docs, name, table(result[name]))
    if arguments.picture:
        arguments.picture.write_text(curve_picture(result["curve"]))


if __name__ == "__main__":
    main()
