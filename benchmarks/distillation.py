"""How near students of few steps come to their teacher, and how soon they answer.

*Quality*: a teacher is trained on digits and on one class of CIFAR-10 at 16 x 16; students learn
from it as `ornstein distill` teaches them. The Frechet distance above the floor of real data, on
the features and test data of `tasks.py`, as a multiple of the teacher's at 16 denoiser calls, with
its interval from the scatter between sets that both drew from the same noise; beside it the teacher
untaught, by the sampler it has at as many calls. *Time*: one picture from a loaded run, alone in
its batch, the whole call of `ou.sample`; in processor time of one thread, so that other programs
disturb little.

    python benchmarks/distillation.py digits [--seeds 0 1 2] [--methods flow-map ...]
    python benchmarks/distillation.py horse         with ORNSTEIN_DATA; see `tasks.py`
    python benchmarks/distillation.py time
    python benchmarks/distillation.py table         into docs/distilling.md
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from measure import environment, grid
from pages import put
from torch import Tensor

import ornstein as ou
import tasks
from ornstein.data import DataOptions, open_data
from ornstein.data.image import ImageCodec
from ornstein.evaluate.distillation import FINE, lesson_plan, ratio
from ornstein.evaluate.measures.distances import frechet_distance
from ornstein.nets.blocks import answering
from ornstein.runs.building import build_denoiser
from ornstein.runs.config import DistillConfig, NetConfig, RunConfig
from ornstein.runs.model import Model
from ornstein.runs.quick import quick
from ornstein.runs.vocabulary import Vocabulary
from ornstein.train import recipe
from ornstein.train.recipes import ahead

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "distillation.json"
PAGE = HERE.parent / "docs" / "distilling.md"
STEPS = (4, 2, 1)
GOALS = {4: 1.15, 2: 1.5, 1: 2.5}
TEACHERS = {"digits": 40_000, "horse": 96_000}  # examples seen
SETS = {"digits": 6, "horse": 4}
METHODS = {"untaught": "the teacher untaught"}
COUNT = 1000  # in a set: as many as the floor has


# --- Quality -------------------------------------------------------------------------------------


def task_of(name: str) -> tasks.Task:
    """Digits; or horses, with the features and test data of the task that holds them."""
    if name == "digits":
        return tasks.load(name)
    whole, (x, label) = tasks.load("cifar3"), tasks.pictures("cifar10-train.tar.gz", 16)
    rows = torch.isin(label, torch.tensor((1, 7, 8))).nonzero()[:, 0]
    train, test = (part[label[part] == 7] for part in (rows[:-3000], rows[-3000:]))
    return replace(whole, name=name, train_x=x[train], test_x=x[test])


def stored(name: str, x: Tensor) -> np.ndarray:
    """Pictures in [-1, 1] as people have them."""
    if name == "digits":
        return ((x[:, 0] + 1) * 8).round().to(torch.uint8).numpy()
    return ((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def restored(name: str, arrays: np.ndarray) -> Tensor:
    """The inverse of `stored`."""
    x = torch.from_numpy(arrays.astype(np.float32))
    return x[:, None] / 8 - 1 if name == "digits" else (x / 127.5 - 1).permute(0, 3, 1, 2)


def trained(name: str, config: RunConfig, what: str) -> tuple[Model, float]:
    """A run of this benchmark, which is not trained twice, and the seconds it took."""
    place = tasks.CACHE / "distillation" / what
    if not (place / "run.json").exists():
        begun = time.process_time()
        ou.train(stored(name, task_of(name).train_x), config=config, out=place, device="cpu")
        (place / "seconds").write_text(f"{time.process_time() - begun:.1f}")
    return ou.load(place), float((place / "seconds").read_text())


def teacher_of(name: str, seed: int) -> tuple[Model, float]:
    options = DataOptions(validation=0.0)
    config = recipe(open_data(stored(name, task_of(name).train_x), options))
    train = replace(config.train, seen=TEACHERS[name], precision="bf16")
    config = replace(config, seed=seed, data=options, train=train)
    return trained(name, config, f"{name}-{seed}-teacher")


def students_of(name: str, seed: int, method: str) -> tuple[dict[int, Model], float]:
    """A model for each number of steps, and the seconds all of them took."""
    model, _ = teacher_of(name, seed)
    assert model.run is not None
    if method != "progressive":
        plan = DistillConfig(method=method, teacher=str(model.run.path))  # pyright: ignore
        config = lesson_plan(model.config, plan, STEPS[0])
        student, seconds = trained(name, config, f"{name}-{seed}-{method}")
        return dict.fromkeys(STEPS, student), seconds
    found, spent, teacher, before = dict[int, Model](), 0.0, model.run.path, FINE * STEPS[0]
    for steps in STEPS:
        plan = DistillConfig(teacher=str(teacher), jump=before // steps)
        config = lesson_plan(model.config, plan, steps)
        found[steps], seconds = trained(name, config, f"{name}-{seed}-{method}-{steps}")
        run = found[steps].run
        assert run is not None
        teacher, before, spent = run.path, steps, spent + seconds
    return found, spent


def above_floor(
    name: str, model: Model, steps: int, sets: int | None = None, **how: Any
) -> list[float]:
    """Of each set of examples drawn."""
    task, sets = task_of(name), sets or SETS[name]
    drawn = restored(name, ou.sample(model, sets * COUNT, steps=steps, batch=64, **how).arrays)
    real = task.features(task.test_x)
    distances = [frechet_distance(task.features(part), real) for part in drawn.split(COUNT)]
    return [distance - task.floors["frechet"] for distance in distances]


def over(found: Sequence[float], teacher: Sequence[float]) -> dict[str, float]:
    """The ratio of two excesses, as `ornstein distill` has it; a teacher is told from real data."""
    told = ratio(found, teacher)
    assert told is not None
    return asdict(told)


def quality(name: str, seed: int, methods: Sequence[str], found: dict[str, Any]) -> dict[str, Any]:
    """All figures of one seed: those found before of its teacher, and of students by `methods`."""
    model, seconds = teacher_of(name, seed)
    if "untaught" not in found:
        own = above_floor(name, model, 16)
        found["teacher"] = {"above_floor": own, "seconds": seconds}
        found["untaught"] = {n: over(above_floor(name, model, n), own) for n in STEPS}
    own = found["teacher"]["above_floor"]
    for method in methods:
        students, seconds = students_of(name, seed, method)
        figures = {n: over(above_floor(name, students[n], n), own) for n in STEPS}
        found[method] = figures | {"seconds": seconds}
        print(name, seed, method, {n: round(f["value"], 2) for n, f in figures.items()}, flush=True)
    return found


# --- Time ----------------------------------------------------------------------------------------


def times() -> dict[str, Any]:
    """Milliseconds of a picture, and its share of the teacher's; untrained, which is as fast."""
    found = dict[str, Any]()
    for side in (16, 32):
        teacher, student = (untrained(side, looks) for looks in (False, True))
        whole = milliseconds(partial(ou.sample, teacher, 1))
        rows: dict[str, Any] = {"teacher, 16 calls": {"ms": whole}}
        ways = {"in a full batch": (student, None), "alone": (student, 1)}
        ways["alone, in bfloat16"] = (quick(student, "bf16"), 1)
        for steps, (what, (model, batch)) in product((2, 1), ways.items()):
            ms = milliseconds(partial(ou.sample, model, 1, steps=steps, batch=batch))
            name = f"student, {steps} step{'s' * (steps > 1)}, {what}"
            rows[name] = {"ms": ms, "share": ms / whole}
        call = partial(student.denoiser, torch.zeros(1, 3, side, side), torch.ones(()))
        rows["one call of the network"] = {"ms": milliseconds(torch.no_grad()(call))}
        found[f"{side} x {side}"] = rows
    return found


def untrained(side: int, looks: bool) -> Model:
    config = RunConfig(net=NetConfig(kind="unet", size=32))
    config = ahead(config, "flow-map") if looks else config
    codec = ImageCodec(
        shape=(3, side, side), dtype="uint8", mean=(127.5,) * 3, std=(60.0,) * 3, layout="HWC"
    )
    denoiser = answering(build_denoiser(config, codec.shape, Vocabulary()), "cpu")
    return Model(denoiser, codec, Vocabulary(), config)


def milliseconds(run: Any, rounds: int = 25) -> float:
    """The median of some calls, after the first ones."""
    spent = []
    for _ in range(rounds + 2):
        begun = time.process_time()
        run()
        spent.append(time.process_time() - begun)
    return 1e3 * float(np.median(spent[2:]))


# --- The page ------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    rows = list[tuple[str, ...]]()
    for name in ("digits", "horse"):
        seeds = list(result.get(name, {}).values())
        for method in dict.fromkeys(m for seed in seeds for m in seed if m != "teacher"):
            figures = [seed[method] for seed in seeds if method in seed]
            cells = [told([f[str(n)] for f in figures]) for n in STEPS]
            notes = sorted({f["note"] for f in figures if "note" in f})  # of code that is not kept
            what = ", ".join([str(METHODS.get(method, method)), *notes])
            rows.append((name, what, *cells))
    rows.append(("", "goal", *(f"at most {GOALS[n]}" for n in STEPS)))
    quality = grid(("data", "", "4 steps", "2 steps", "1 step"), rows)
    speed = list[tuple[str, ...]]()
    for side, figures in result.get("time", {}).items():
        for what, row in figures.items():
            share = f"1 / {1 / row['share']:.0f}" if "share" in row else ""
            speed.append((side, what, f"{row['ms']:.1f}", share))
    return f"{quality}\n\n{grid(('pictures', '', 'ms', 'of the teacher'), speed)}"


def told(figures: Sequence[dict[str, Any]]) -> str:
    """The mean over seeds and each one's; of one seed its interval."""
    if len(figures) == 1:
        (f,) = figures
        return f"{f['value']:.2f} ({f['low']:.2f} to {f['high']:.2f})"
    ratios = [f["value"] for f in figures]
    return f"{np.mean(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("digits", "horse", "time", "table"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--methods", nargs="+", default=["progressive", "flow-map"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments.what == "time":
        result["time"] = times()
    elif arguments.what != "table":
        for seed in arguments.seeds:
            kept = result.setdefault(arguments.what, {}).setdefault(str(seed), {})
            quality(arguments.what, seed, arguments.methods, kept)
            result = json.loads(json.dumps(result))
            keep(result)
    keep(result)
    put(PAGE, "distillation", table(json.loads(RESULTS.read_text())))


def keep(result: dict[str, Any]) -> None:
    result["place"] = environment(1)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
