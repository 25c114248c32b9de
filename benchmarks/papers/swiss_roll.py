"""The swiss roll of 2015: a small network learns it as well as fresh data tell.

python benchmarks/papers/swiss_roll.py [--quick]
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from claims import Claim, Line, Scale, Values, main, spread
from pictures import Columns, add, draw, trained

from ornstein.core.sample import SAMPLERS
from ornstein.data import DataOptions, open_data
from ornstein.data.codec import Codec
from ornstein.evaluate.measures.distances import sliced_wasserstein
from ornstein.runs.building import GRIDS
from ornstein.runs.config import RunConfig
from ornstein.runs.model import load
from ornstein.train.recipes import few_points


def settings(scale: Scale, seed: int) -> RunConfig:
    config = few_points()
    train = replace(config.train, seen=scale(3_072_000, 2_560), precision="f32")
    return replace(config, source="swiss-roll", seed=seed, data=DataOptions(seed=seed), train=train)


def fresh(codec: Codec, count: int, seed: int) -> torch.Tensor:
    """Points that were never seen, from a seed of their own."""
    return codec.pack(open_data("swiss-roll", DataOptions(limit=count, seed=seed)).stored)


def measure(scale: Scale) -> Values:
    """Both distances are means over four pairs of sets: that of one pair scatters by a third."""
    count, sets, found = scale(8000, 200), scale(4, 1), Columns()
    for seed in scale.seeds:
        config = settings(scale, seed)
        model = load(trained(scale, config).path)
        sampler, grid = SAMPLERS[config.sample.sampler], GRIDS[config.sample.grid]
        times = grid(model.denoiser.schedule, 40)
        samples = draw(model, sampler, times, sets * count, seed=seed).split(count)
        row = {"distance": 0.0, "floor": 0.0}
        for i, part in enumerate(samples):
            a, b = (fresh(model.codec, count, 1000 + 100 * seed + 2 * i + k) for k in (0, 1))
            row["distance"] += sliced_wasserstein(*in_numpy(part, a)) / sets
            row["floor"] += sliced_wasserstein(*in_numpy(b, a)) / sets
        add(found, row)
    return {"count": count, **found}


def in_numpy(*sets: torch.Tensor) -> list[np.ndarray]:
    return [x.double().numpy() for x in sets]


def _scatter(values: Sequence[float]) -> str:
    return f"{np.std(values, ddof=1) / np.mean(values):.0%}".replace("%", " %")


def judge(values: Values) -> Claim:
    ratios = [d / f for d, f in zip(values["distance"], values["floor"], strict=True)]
    return Claim(
        paper="Sohl-Dickstein et al. (2015)",
        url="https://arxiv.org/abs/1503.03585",
        says="A diffusion model learns the swiss roll.",
        published="a picture",
        setting=f"an MLP, sliced Wasserstein distance of {values['count']} points to fresh ones",
        floor=spread(values["floor"]),
        lines=[
            Line(
                text="the distance is at most 1.3 times that of fresh points to fresh points",
                ours=f"{spread(values['distance'])}, {spread(ratios)} times",
                each=tuple(r <= 1.3 for r in ratios),
                because=f"By seed the ratio is {', '.join(f'{r:.2f}' for r in ratios)}; distance "
                f"and floor scatter by {_scatter(values['distance'])} and "
                f"{_scatter(values['floor'])} from seed to seed, more than the line leaves room.",
            )
        ],
    )


if __name__ == "__main__":
    main(measure, judge)
