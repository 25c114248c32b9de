"""EDM2's averages: the best length lies inside, and can be chosen after training.

python benchmarks/papers/posthoc_ema.py [--quick]
"""

from math import sqrt

import torch
from claims import SPACES, Claim, Line, Scale, Values, main, spread
from pictures import Columns, Yardstick, add, draw, noise_of, settings, trained
from torch import Tensor

from ornstein.core.ema import Profile, coefficients
from ornstein.core.sample import AdamsBashforth
from ornstein.core.times import UniformGrid
from ornstein.runs.folder import RunFolder
from ornstein.runs.model import Model, load
from ornstein.runs.posthoc import combine

WIDTHS = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)
LEFT_OUT = 0.1  # tracked too, and rebuilt from the others


def rebuilt(folder: RunFolder, tracked: tuple[float, ...]) -> dict[str, float]:
    """How far the average at `LEFT_OUT`, rebuilt from the other widths, is from that tracked.

    Returns:
        ``error``, relative to the weights, and for comparison ``nearest``, how far the nearest of
        the other tracked averages is.
    """
    kept = {}
    for name in folder.kept_names():
        if name.startswith("ema-"):
            _, i, seen = name.split("-")
            kept[name] = Profile(tracked[int(i)], int(seen))
    end = max(p.time for p in kept.values())
    target = Profile(LEFT_OUT, end)
    stored = {name: p for name, p in kept.items() if p.sigma_rel != LEFT_OUT}
    c = coefficients(list(stored.values()), target)
    truth = next(folder.kept(name) for name, p in kept.items() if p == target)
    again = combine(folder, dict(zip(stored, c, strict=True)))
    others = [folder.kept(name) for name, p in stored.items() if p.time == end]
    nearest = min(_gap(other, truth) for other in others)
    return {"error": _gap(again, truth), "nearest": nearest}


def _gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """``|a - b| / |b|`` over all weights."""
    gap = sum((a[k].double() - b[k].double()).square().sum().item() for k in b)
    return sqrt(gap / sum(v.double().square().sum().item() for v in b.values()))


@torch.no_grad()
def loss(model: Model, x: Tensor, seed: int) -> float:
    """Mean loss on held-out examples, at evenly spaced times and with the same noise for all."""
    noise, total = noise_of(seed), 0.0
    for part in x.split(256):
        t = (torch.arange(len(part)).double() + 0.5) / len(part)
        total += model.denoiser.loss(part, t, noise(part)).sum().item()
    return total / len(x)


def inside(values: list[float]) -> bool:
    """Whether the least value is at neither end."""
    return 0 < values.index(min(values)) < len(values) - 1


def measure(scale: Scale) -> Values:
    widths, floor, again = scale(WIDTHS, WIDTHS[3:6]), Columns(), Columns()
    table: dict[str, list[list[float]]] = {"learned": [], "fixed": [], "loss": []}
    for seed in scale.seeds:
        config = settings(scale, seed)
        folder, yardstick = trained(scale, config), Yardstick.of(config)
        x = yardstick.packed(yardstick.held_out)
        count = scale(yardstick.size, 96)
        add(floor, yardstick.floor(count))
        add(again, rebuilt(folder, config.train.ema))
        found = Columns()
        for width in widths:
            model = load(folder.path, sigma_rel=width)
            times = UniformGrid()(model.denoiser.schedule, scale(20, 3))
            samples = draw(model, AdamsBashforth(), times, count, seed=seed)
            add(found, yardstick(samples) | {"loss": loss(model, x, seed)})
        for name, row in found.items():
            table[name].append(row)
    return {"widths": widths, **table, "rebuilt": again, "floor": floor}


def judge(values: Values) -> Claim:
    widths, floor, again = values["widths"], values["floor"], values["rebuilt"]

    def u_shape(name: str, words: str) -> Line:
        first, *_, last = zip(*values[name], strict=True)
        least = [min(row) for row in values[name]]
        places = [str(widths[row.index(min(row))]) for row in values[name]]
        return Line(
            text=f"the {words} is least at neither end of the widths {widths[0]} to {widths[-1]}",
            ours=f"{spread(first)} → {spread(least)} → {spread(last)}, least at "
            + ", ".join(places),
            each=tuple(inside(row) for row in values[name]),
        )

    return Claim(
        paper="Karras et al. (2023), EDM2",
        url="https://arxiv.org/abs/2312.02696",
        says="Quality is U-shaped in the length of the average, chosen after training.",
        published="a figure; ImageNet-512: FID 2.56 (S) to 1.91 (XXL) at the best lengths",
        setting="digits, a constant learning rate, all averages from 24 kept of each tracked width",
        floor=", ".join(f"{spread(floor[space])} ({space})" for space in SPACES)
        + f"; of the tracked averages the nearest other is {spread(again['nearest'], 2)} away",
        lines=[
            *(u_shape(space, f"distance ({space} features)") for space in SPACES),
            u_shape("loss", "held-out loss"),
            Line(
                text=f"the average of width {LEFT_OUT}, rebuilt from those of two other widths, is "
                "within 1e-3 of that tracked",
                ours=f"{spread(again['error'], 2)} of the weights",
                each=tuple(e <= 1e-3 for e in again["error"]),
            ),
        ],
    )


if __name__ == "__main__":
    main(measure, judge)
