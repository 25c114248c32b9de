"""Restoring photographs beside the usual methods: taking off noise, filling gaps, enlarging.

A small network learns from patches of five photographs (`photographs`) and restores parts of two
it never saw, scikit-image's astronaut and cat: noise of 25 and 50 of 255 levels; half of the
pixels gone at random; scratches; a quarter of the size each way. Beside it stand non-local means,
total variation and, if PyWavelets is installed, wavelets, each with the strength that is best *for
that very picture*, which nobody knows in practice; biharmonic inpainting; bicubic enlargement.

Ours is the best guess in the mean square: of noise one denoiser call, else the mean of 19 draws,
and of 79 under scratches, which leave little to gain; and the first of these draws, which is sharp
and therefore further away in squares. The 90 % band goes from the first to the last of 19 draws.
Beside it stands the same band widened by what held-out patches of the five photographs ask for,
which `ornstein restore --calibrate` measures and keeps.

All is drawn as `ornstein restore` does unasked, but for HOW, which was measured so.

    python benchmarks/photographs.py --train RUN      # some ten minutes of one core
    python benchmarks/photographs.py --measure RUN [--task NAME ...]
    python benchmarks/photographs.py --docs docs/restoring.md --picture docs/pictures/it.png
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from pages import put
from PIL import Image, ImageDraw
from torch import Tensor

from ornstein.data import open_data
from ornstein.evaluate.measures.calibration import calibrate, compared
from ornstein.rng import generator, normal
from ornstein.runs.model import Model, load
from ornstein.runs.sized import sized
from ornstein.tasks.restore import restore

SEEN = 100_000
SIDE = 96
CORNERS = {"astronaut": (100, 150), "cat": (90, 160)}  # top, left of the part that is restored
DRAWS = {"scratches": 79}
FEW = 19  # draws of the others
HELD = 40  # patches of the training photographs, kept from training, that calibrate the bands
HOW = {task: {"iterations": 1} for task in ("half of the pixels", "scratches")}
RESULT = Path("benchmarks/results/photographs.json")
CACHE = Path(__file__).parent / ".cache" / "photographs"

Row = dict[str, float]


# --- What is done to a photograph ----------------------------------------------------------------


def photographs() -> Iterator[tuple[str, np.ndarray]]:
    """The parts that are restored, ``(SIDE, SIDE, 3)``, 8 bits."""
    from skimage import data

    whole = {"astronaut": data.astronaut(), "cat": data.chelsea()}
    for name, (top, left) in CORNERS.items():
        yield name, np.ascontiguousarray(whole[name][top : top + SIDE, left : left + SIDE])


def scratches() -> np.ndarray:
    """True along 12 lines, 3 pixels wide."""
    draw = generator("scratches")
    sheet = Image.new("L", (SIDE, SIDE))
    for _ in range(12):
        ImageDraw.Draw(sheet).line(draw.integers(SIDE, size=4).tolist(), fill=255, width=3)
    return np.asarray(sheet) > 0


def half() -> np.ndarray:
    """True at half of the pixels."""
    return generator("half").random((SIDE, SIDE)) < 0.5


def tensor(picture: np.ndarray) -> Tensor:
    """``(H, W, 3)`` -> ``(1, 3, H, W)``."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]


def array(x: Tensor) -> np.ndarray:
    """``(3, H, W)`` -> ``(H, W, 3)``."""
    return x.permute(1, 2, 0).double().numpy()


class Problem:
    """One photograph, what is left of it, and what is known of how.

    Args:
        truth: ``(SIDE, SIDE, 3)``, 8 bits.
        seen: What is left, in [0, 1].
        given: What `restore` is given, and its mask.
        options: And its options.
        rivals: Restorations by others, in [0, 1]: several of each for one that is tuned.
    """

    def __init__(
        self,
        truth: np.ndarray,
        seen: np.ndarray,
        given: Tensor,
        options: dict[str, Any],
        rivals: Callable[[np.ndarray], dict[str, list[np.ndarray]]],
        mask: Tensor | None = None,
    ) -> None:
        self.truth, self.seen, self.given = truth, seen, given
        self.options, self.rivals, self.mask = options, rivals, mask


def noise(sigma: float) -> Callable[[np.ndarray], Problem]:
    """White noise of a standard deviation known to all."""

    def problem(truth: np.ndarray) -> Problem:
        y = tensor(truth).double() + sigma * normal((1, 3, SIDE, SIDE), "noise").double()
        return Problem(truth, array(y[0]) / 255, y, {"denoise": sigma}, rivals)

    def rivals(y: np.ndarray) -> dict[str, list[np.ndarray]]:
        from skimage import restoration as old

        s = sigma / 255
        found = {
            "non-local means": [
                old.denoise_nl_means(y, 5, 6, h * s, fast_mode=True, sigma=s, channel_axis=-1)
                for h in np.arange(0.3, 1.25, 0.1)
            ],
            "total variation": [
                old.denoise_tv_chambolle(y, w * s, channel_axis=-1)
                for w in np.arange(0.4, 2.6, 0.2)
            ],
        }
        try:
            found["wavelets"] = [
                old.denoise_wavelet(
                    y, k * s, method=method, convert2ycbcr=True, rescale_sigma=True, channel_axis=-1
                )
                for method in ("BayesShrink", "VisuShrink")
                for k in np.arange(0.2, 1.25, 0.1)
            ]
        except ImportError:
            print("PyWavelets is not installed: no wavelets")
        return found

    return problem


def gap(make: Callable[[], np.ndarray]) -> Callable[[np.ndarray], Problem]:
    """Pixels that are gone, known which."""

    def problem(truth: np.ndarray) -> Problem:
        hole = make()
        seen = np.where(hole[..., None], 0, truth / 255)

        def rivals(y: np.ndarray) -> dict[str, list[np.ndarray]]:
            from skimage.restoration import inpaint_biharmonic

            return {"biharmonic": [inpaint_biharmonic(y, hole, channel_axis=-1)]}

        mask = torch.from_numpy(hole)[None]
        return Problem(truth, seen, tensor(truth), {}, rivals, mask)

    return problem


def small(truth: np.ndarray) -> Problem:
    """Means of blocks of 4 x 4, rounded to 8 bits."""
    y = np.rint(truth.reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean((1, 3)))

    def rivals(y: np.ndarray) -> dict[str, list[np.ndarray]]:
        found = Image.fromarray((255 * y).astype(np.uint8))
        ways = {"bicubic": Image.Resampling.BICUBIC, "Lanczos": Image.Resampling.LANCZOS}
        return {
            name: [np.asarray(found.resize((SIDE, SIDE), way)) / 255] for name, way in ways.items()
        }

    return Problem(truth, y / 255, tensor(y), {"upscale": 4}, rivals)


TASKS: dict[str, Callable[[np.ndarray], Problem]] = {
    "noise of 25": noise(25),
    "noise of 50": noise(50),
    "half of the pixels": gap(half),
    "scratches": gap(scratches),
    "4 times larger": small,
}


# --- Measuring -----------------------------------------------------------------------------------


def train(out: Path) -> None:
    """The recipe of a short training of pictures, on noise as weak as restoring has to do with."""
    from ornstein.train import recipe
    from ornstein.train import train as fit

    if out.exists():
        fit(out=out, resume=True)
        return
    config = recipe(open_data("photographs"), minutes=10)
    times = replace(config.times, mean=-1.0, std=1.2)
    settled = replace(config.train, seen=SEEN, precision="bf16")
    config = replace(config, times=times, train=settled)
    fit("photographs", out=out, config=config)


def quality(truth: np.ndarray, found: np.ndarray) -> Row:
    """Of a restoration in [0, 1], rounded to 8 bits as a file holds it."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    made = np.rint(255 * np.clip(found, 0, 1)).astype(np.uint8)
    return {
        "psnr": float(peak_signal_noise_ratio(truth, made)),
        "ssim": float(structural_similarity(truth, made, channel_axis=-1)),
    }


def calibrated(model: Model, task: str, truth: np.ndarray) -> Row:
    """How well held-out patches are covered, and by how much to widen; the run keeps it."""
    problem = TASKS[task](truth)
    options, begin = HOW.get(task, {}) | problem.options, time.process_time()
    found = calibrate(model, HELD, problem.mask, FEW, keep=True, **options)
    assert found.widening is not None
    seconds = time.process_time() - begin
    return {"band": found.everywhere, "widening": found.widening.factor, "seconds": seconds}


def measure(
    model: Model, task: str, name: str, truth: np.ndarray, widening: float
) -> dict[str, Row]:
    """Each method on one photograph; the pictures go to `CACHE`.

    Bands are of `FEW` draws, as those by which their widening was found, however many are drawn.
    """
    problem = TASKS[task](truth)
    rows = dict[str, Row]()
    if problem.seen.shape == truth.shape and problem.mask is None:
        rows["as it is"] = quality(truth, problem.seen)
    best = dict[str, np.ndarray]()
    for rival, tried in problem.rivals(problem.seen).items():
        best[rival] = max(tried, key=lambda found: quality(truth, found)["psnr"])
        rows[rival] = quality(truth, best[rival])
    begin = time.process_time()
    draws = DRAWS.get(task, FEW)
    options = HOW.get(task, {}) | problem.options
    restored = restore(model, problem.given, problem.mask, draws, **options)
    seconds = time.process_time() - begin
    codec = restored.samples.codec
    mean, draw = (
        codec.stored(x)[0].transpose(1, 2, 0) / 255 for x in (restored.mean, restored.drawn[:, 0])
    )
    few = replace(restored, samples=replace(restored.samples, x=restored.samples.x[:FEW]))
    found = compared(sized(model, (SIDE, SIDE)), tensor(truth), few)
    bands = {"band": found.everywhere, "widened": found.held(widening)}
    rows["ours"] = quality(truth, mean) | bands | {"seconds": seconds / draws, "draws": draws}
    rows["ours, one draw"] = quality(truth, draw)
    rival = max(best, key=lambda r: rows[r]["psnr"])
    seen = Image.fromarray((255 * np.clip(problem.seen, 0, 1)).astype(np.uint8))
    strip = [
        truth / 255,
        np.asarray(seen.resize((SIDE, SIDE), Image.Resampling.NEAREST)) / 255,
        best[rival],
        mean,
        draw,
    ]
    CACHE.mkdir(parents=True, exist_ok=True)
    sheet = np.concatenate([np.rint(255 * np.clip(s, 0, 1)).astype(np.uint8) for s in strip], 1)
    Image.fromarray(sheet).save(CACHE / f"{task}-{name}.png")
    return rows


def note(model: Model, task: str, rows: dict[str, dict[str, Row]], held: Row) -> None:
    """Put what was measured among what is known already."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result["machine"] = {"torch": torch.__version__, "cpu": platform.machine()}
    result |= {"seen": model.seen, "side": SIDE, "how": HOW}
    for part, found in (("tasks", rows), ("held_out", held)):
        known = result.get(part, {}) | {task: found}
        result[part] = {name: known[name] for name in TASKS if name in known}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


# --- Report --------------------------------------------------------------------------------------


def table(result: dict[str, dict[str, dict[str, Row]]]) -> str:
    lines = [
        "| | astronaut, dB | SSIM | cat, dB | SSIM | bands hold | widened | seconds a draw |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, found in result.items():
        lines.append(f"| **{task}** | | | | | | | |")
        for method in found["cat"]:
            rows = [found[name][method] for name in CORNERS]
            cells = [f"{row[k]:.{d}f}" for row in rows for k, d in (("psnr", 2), ("ssim", 3))]
            for key, digits in (("band", 3), ("widened", 3), ("seconds", 1)):
                known = [row[key] for row in rows if key in row]
                cells.append(f"{sum(known) / len(known):.{digits}f}" if known else "")
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sheet(out: Path) -> None:
    """A row for each task: the truth, what is left, the best of the others, ours, one draw."""
    names = list(CORNERS)
    strips = [
        Image.open(CACHE / f"{task}-{names[i % len(names)]}.png") for i, task in enumerate(TASKS)
    ]
    width, height = strips[0].size
    whole = Image.new("RGB", (width, height * len(strips) + 4 * (len(strips) - 1)), "white")
    for i, strip in enumerate(strips):
        whole.paste(strip, (0, i * (height + 4)))
    whole.resize((2 * whole.width, 2 * whole.height), Image.Resampling.NEAREST).save(out, "PNG")


def main() -> None:
    parser = argparse.ArgumentParser(description="Restoring photographs, beside usual methods.")
    parser.add_argument("--train", type=Path, help="Train a run here, or go on with it.")
    parser.add_argument("--measure", type=Path, help="Measure this run.")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS), help="Which.")
    parser.add_argument("--docs", type=Path, help="Put the table into this page.")
    parser.add_argument("--picture", type=Path, help="Put the pictures of the last measuring here.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.train:
        train(arguments.train)
    if arguments.measure:
        model = load(arguments.measure)
        for task in arguments.task:
            _, first = next(photographs())
            held = calibrated(model, task, first)
            print(task, "held out", json.dumps(held), flush=True)
            rows = dict[str, dict[str, Row]]()
            for name, truth in photographs():
                rows[name] = measure(model, task, name, truth, held["widening"])
                print(task, name, json.dumps(rows[name], indent=1), flush=True)
            note(model, task, rows, held)
    if arguments.docs:
        put(arguments.docs, "photographs", table(json.loads(RESULT.read_text())["tasks"]))
    if arguments.picture:
        sheet(arguments.picture)


if __name__ == "__main__":
    main()
