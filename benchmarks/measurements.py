"""Measurements of other kinds, beside what is usual for each.

Digits: what is not linear (clipped, rounded, compressed, without phases), of sixteen digits that
a small run never saw. Beside the methods stand what was measured as it is, the JPEG decoded, and
for phases Fienup's hybrid input-output: known are that values are not negative and where the
picture ends; the best of 16 starts, by how well it explains the measurement, whichever way round
is nearer to the truth.

Photographs: what instruments do (blur, motion, MRI, CT, a lens without colours), of six parts of
two photographs that a run of patches never saw. Beside them the Wiener filter and filtered
back-projection, each with the strength that is best for the very picture, which nobody knows in
practice; MRI with zeros where nothing was sampled; grey.

Decibels are those of the mean of 19 draws; bands go from the first to the last of them.

    ornstein train digits --seen 60000 --out DIGITS
    python benchmarks/photographs.py --train PHOTOGRAPHS
    python benchmarks/measurements.py [--digits DIGITS] [--photographs PHOTOGRAPHS]
    python benchmarks/measurements.py --docs docs/restoring.md
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import photographs
import torch
from pages import put
from torch import Tensor

from ornstein.core.measure import LinearOperator, Operator
from ornstein.core.rounding import Quantise
from ornstein.evaluate.measures.calibration import compared
from ornstein.rng import generator, normal
from ornstein.runs.model import Model, load
from ornstein.tasks.examples import training_data
from ornstein.tasks.options import RestoreOptions, checked
from ornstein.tasks.restore import restore
from ornstein.tasks.ways import named_operator

RESULT = Path("benchmarks/results/measurements.json")
PAGE = Path("docs/restoring.md")
DRAWS = 19
DIGITS, PARTS = 16, 3  # of each photograph
METHODS = ("mmps", "pigdm", "diffpir", "dps", "daps")

Usual = Callable[[Any, Tensor], Iterable[Tensor]]
"""From the operator and what was measured to restorations, one for each strength."""


class Case(NamedTuple):
    """What is measured, in the words of `restore`, and what is usual for it."""

    options: dict[str, Any]
    name: str
    usual: Usual


# --- What is usual -------------------------------------------------------------------------------


def as_it_is(A: Operator, y: Tensor) -> list[Tensor]:
    return [y]


def decoded(A: Quantise, y: Tensor) -> list[Tensor]:
    """What rounds to `y` exactly: the middle of each interval."""
    return [A.inner.consistent(A.inner.adjoint(0 * y), y) + A.centre]


def hybrid(A: Operator, y: Tensor, starts: int = 16, rounds: int = 300) -> list[Tensor]:
    """Fienup's hybrid input-output, then error reduction; and the same turned by half.

    Source: Fienup (1982), https://doi.org/10.1364/AO.21.002758.
    """
    high, wide = (n // 2 for n in y.shape[-2:])
    sizes = y.clamp_min(0).repeat(starts, 1, 1, 1)
    angles = 2 * torch.pi * normal(sizes.shape, "phases").double()
    x = torch.fft.ifft2(torch.polar(sizes, angles), norm="ortho").real
    inside = torch.zeros(x.shape[-2:], dtype=torch.bool)
    inside[:high, :wide] = True
    for i in range(rounds):
        c = torch.fft.fft2(x, norm="ortho")
        found = torch.fft.ifft2(sizes * torch.sgn(c), norm="ortho").real
        good = inside & (found > 0)
        x = torch.where(good, found, x - 0.9 * found if i < 0.8 * rounds else 0.0)
    parts = x[..., :high, :wide].clamp_min(0)
    misfit = (A(parts) - sizes).square().flatten(1).sum(1).view(starts, len(y))
    best = parts.view(starts, *y.shape[:2], high, wide)[misfit.argmin(0), torch.arange(len(y))]
    return [best, best.flip((-2, -1))]


def wiener(edge: str) -> Usual:
    """scikit-image's Wiener filter, beyond edges that are mirrored or come in again."""
    margin = 16

    def every(A: LinearOperator, y: Tensor) -> Iterable[Tensor]:
        from skimage.restoration import wiener as one

        point = torch.zeros(1, *y.shape[1:], dtype=y.dtype)
        middle = y.shape[-1] // 2
        point[..., middle, middle] = 1
        kernel = A(point)[0, 0, middle - 7 : middle + 8, middle - 7 : middle + 8].numpy()
        wide = np.pad((y / 255).numpy(), ((0, 0), (0, 0), *((margin, margin),) * 2), edge)  # pyright: ignore
        for balance in 10.0 ** np.arange(-5, 0, 0.5):
            found = [[one(c, kernel, balance, clip=False) for c in part] for part in wide]
            inner = np.array(found)[..., margin:-margin, margin:-margin]
            yield 255 * torch.from_numpy(inner)

    return every


def zero_filled(A: LinearOperator, y: Tensor) -> list[Tensor]:
    return [A.adjoint(y)]


def back_projected(A: LinearOperator, y: Tensor) -> Iterable[Tensor]:
    """Filtered back-projection, the ramp cut off at several frequencies.

    Source: Kak & Slaney (1988), https://doi.org/10.1137/1.9780898719277, section 3.3.
    """
    size = 4 * y.shape[-1]
    n = torch.fft.fftfreq(size, 1 / size).double()  # the ramp's samples, whose mean is then right
    odd = n.long() % 2 == 1
    ramp = torch.where(odd, -1 / (torch.pi * torch.where(odd, n, 1.0)) ** 2, 0.0)
    ramp[0] = 0.25
    response = torch.fft.fft(ramp).real
    frequency = torch.fft.fftfreq(size).abs().double()
    for cut in (0.5, 0.4, 0.3, 0.25, 0.2, 0.15):
        window = torch.where(frequency < cut, (torch.pi * frequency / (2 * cut)).cos() ** 2, 0.0)
        filtered = torch.fft.ifft(torch.fft.fft(y, size) * response * window).real
        yield A.adjoint(filtered[..., : y.shape[-1]]) * (torch.pi / y.shape[-2])


def grey(A: LinearOperator, y: Tensor) -> list[Tensor]:
    return [y.expand(-1, 3, -1, -1)]


# --- What is measured ----------------------------------------------------------------------------


def named(operator: str, noise: float | None = None, **parameters: float | str) -> dict[str, Any]:
    options = {"operator": operator, "parameters": parameters}
    return options if noise is None else {**options, "noise": noise}


OF_DIGITS = {
    "clipped at 8 of 16": Case(named("declip", low=-1, high=8), "as it is", as_it_is),
    "rounded to 0, 8, 16": Case(named("quantise", step=8), "as it is", decoded),
    "JPEG of quality 5": Case(named("jpeg", quality=5, unit=16), "decoded", decoded),
    "sizes of Fourier coefficients": Case(named("phase-retrieval", 0.3), "Fienup", hybrid),
}
OF_PHOTOGRAPHS = {
    "blurred by 1.5, noise of 2": Case(
        {"deblur": "1.5", "noise": 2.0}, "Wiener", wiener("symmetric")
    ),
    "moved by 7, noise of 2": Case(
        named("motion-blur", 2.0, length=7, angle=30, edges="torus"), "Wiener", wiener("wrap")
    ),
    "MRI, a third of the lines, noise of 2": Case(
        named("mri", 2.0, acceleration=3), "zero-filled", zero_filled
    ),
    "CT, 20 angles, noise of 50": Case(
        {"ct": 20, "noise": 50.0}, "filtered back-projection", back_projected
    ),
    "without colours": Case({"colourise": True}, "grey", grey),
}


def held_out(model: Model) -> Tensor:
    """Digits that the run never saw."""
    every = training_data(model)[1]
    order = generator("calibration", 0).permutation(len(every))[:DIGITS]
    return every.stored[torch.from_numpy(order)]


def parts(size: int) -> Tensor:
    """Of photographs that the run never saw, along a diagonal ``(2 PARTS, 3, size, size)``."""
    every = []
    for _, whole in photographs.photographs():
        for i in range(PARTS):
            every.append(photographs.tensor(whole[i * size : (i + 1) * size, i * size :][:, :size]))
    return torch.cat(every)


Row = dict[str, float]


def measure(model: Model, case: Case, truth: Tensor, methods: Iterable[str]) -> dict[str, Row]:
    """What is usual, and each method, on one measurement of all examples."""
    chosen = checked(RestoreOptions, dict(case.options))
    A, noise = named_operator(model.codec.data, chosen), chosen.noise or 0.0
    y = A(truth.double())
    y = y + noise * normal(y.shape, "measurement").double()
    tried = torch.stack([decibels(truth, found) for found in case.usual(A, y)])
    # of what is rounded, `restore` takes the examples that it is decoded to, or measures them
    given, how = (truth, {"simulate": True}) if isinstance(A, Quantise) else (y, {})
    rows = {case.name: {"psnr": tried.amax(0).mean().item()}}
    for method in methods:
        begin = time.process_time()
        restored = restore(model, given, draws=DRAWS, method=method, **how, **case.options)
        seconds = (time.process_time() - begin) / len(truth)
        codec = model.codec.data
        found = compared(model, truth, restored)
        assert restored.cost is not None
        mean = torch.from_numpy(codec.stored(restored.mean).astype(np.float64))
        rows[method] = {
            "psnr": decibels(truth, mean).mean().item(),
            "band": found.everywhere,
            "calls": restored.cost.calls / DRAWS,
            "products": restored.cost.products / DRAWS,
            "seconds": seconds,
        }
        print(method, rows[method], flush=True)
    return rows


def decibels(truth: Tensor, found: Tensor) -> Tensor:
    """Of each example ``(P,)``, in whole numbers of the data's range."""
    top = 255 if truth.max() > 16 else 16
    error = (found.clamp(0, top).round() - truth.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(top**2 / error.clamp_min(1e-12))


def note(part: str, name: str, rows: dict[str, Row], cases: Iterable[str]) -> None:
    """Put what was measured among what is known already."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result["machine"] = {"torch": torch.__version__, "cpu": platform.machine()}
    known = result.get(part, {}) | {name: rows}
    result[part] = {case: known[case] for case in cases if case in known}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


# --- Report --------------------------------------------------------------------------------------


def table(result: dict[str, dict[str, Row]]) -> str:
    lines = [
        "| measured | by | PSNR | 90 % bands hold | calls | Jacobian products | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, rows in result.items():
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["psnr"]):
            cells = [f"{row['psnr']:.1f} dB"]
            for key, form in (("band", ".3f"), ("calls", ".0f"), ("products", ".0f")):
                cells.append(format(row[key], form) if key in row else "")
            cells.append(f"{row['seconds']:.1f}" if "seconds" in row else "")
            lines.append(f"| {case} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_tables() -> None:
    result = json.loads(RESULT.read_text())
    for part in (part for part in ("nonlinear", "instruments") if part in result):
        put(PAGE, part, table(result[part]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Other measurements, beside what is usual.")
    parser.add_argument("--digits", type=Path, help="Measure on this run of digits.")
    parser.add_argument("--photographs", type=Path, help="And on this one of photographs.")
    parser.add_argument("--case", nargs="+", help="Which; all if left out.")
    parser.add_argument("--docs", action="store_true", help="Put the tables into their page.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part, run, cases in (
        ("nonlinear", arguments.digits, OF_DIGITS),
        ("instruments", arguments.photographs, OF_PHOTOGRAPHS),
    ):
        if run is None:
            continue
        model = load(run)
        truth = held_out(model) if part == "nonlinear" else parts(model.shape[-1])
        for name in arguments.case or cases:
            methods = METHODS if part == "nonlinear" else METHODS[:1]
            rows = measure(model, cases[name], truth, methods)
            print(name, json.dumps(rows), flush=True)
            note(part, name, rows, cases)
    if arguments.docs:
        write_tables()


if __name__ == "__main__":
    main()
