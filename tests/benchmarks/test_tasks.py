"""The yardstick of quality: what it draws with must not be what it measures."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import tasks  # pyright: ignore
from ornstein.data import DataOptions, open_data
from ornstein.rng import normal

POINTS = 400


def spread(steps: int, x: torch.Tensor) -> float:
    """Of samples of the exact denoiser of `x` ``(N, 2)``, over all their coordinates."""

    def denoise(x_t: torch.Tensor, sigma: float) -> torch.Tensor:
        log_likelihood = (x_t @ x.T - x.square().sum(1) / 2) / sigma**2
        return torch.softmax(log_likelihood, 1) @ x

    return float(tasks.heun(denoise, normal((1000, 2), "spread"), tasks.karras(steps)).std())


def test_the_steps_that_points_are_drawn_in_are_many_enough_not_to_spread_them():
    x = open_data("swiss-roll", DataOptions(limit=POINTS, seed=7)).stored.float()
    x = (x - x.mean(0)) / x.std()
    few, chosen, many = (spread(steps, x) for steps in (20, 40, 160))
    assert few - many > 0.008
    assert abs(chosen - many) < 0.5 * (few - many)
