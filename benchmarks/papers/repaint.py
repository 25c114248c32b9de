"""RePaint: inpainting by replacement, better the more often each part of the path is walked.

python benchmarks/papers/repaint.py [--quick]
"""

from math import sqrt

import numpy as np
import torch
from claims import Claim, Line, Scale, Values, main, rising, spread
from pictures import Columns, Yardstick, add, as_files, model_of, noise_of, settings
from torch import Tensor

from ornstein.core.denoise import Denoiser
from ornstein.core.exact import GaussianDenoiser
from ornstein.core.noise import DDPMSchedule, Schedule
from ornstein.core.sample import Ancestral, start
from ornstein.core.times import StrideGrid
from ornstein.core.trajectory import Draw
from ornstein.rng import generator, normal

REPEATS = (1, 2, 5, 10)
CORRELATION = 0.9


# --- The method ----------------------------------------------------------------------------------


@torch.no_grad()
def repaint(
    denoiser: Denoiser,
    x: Tensor,
    y: Tensor,
    known: Tensor,
    times: Tensor,
    *,
    repeats: int,
    jump: int,
    noise: Draw,
) -> Tensor:
    """Examples with the `known` entries of `y`.

    After each DDPM step to x_s the known entries become ``alpha_s y + sigma_s eps``. Every `jump`
    steps are taken `repeats` times: in between, what was reached is noised back to where they
    began, so that known and unknown entries come to agree.

    Source: Lugmayr et al. (2022), https://arxiv.org/abs/2201.09865, algorithm 1 and appendix B.
    """
    schedule, rule = denoiser.schedule, Ancestral()
    for top in range(0, len(times) - 1, jump):
        part = times[top : top + jump + 1]
        for again in range(repeats):
            if again:
                x = noised(schedule, x, part[-1], part[0], noise)
            for i in range(len(part) - 1):
                x = rule(denoiser, x, part[i : i + 2], noise=noise)
                alpha, sigma = (c.to(x) for c in schedule(part[i + 1]))
                x = torch.where(known, alpha * y + sigma * noise(x), x)
    return x


def noised(schedule: Schedule, x_s: Tensor, s: Tensor, t: Tensor, noise: Draw) -> Tensor:
    """x_t given x_s, t > s: a draw of ``q(x_t | x_s)``."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    kept = alpha_t / alpha_s
    fresh = (sigma_t**2 - (kept * sigma_s) ** 2).sqrt()
    return kept.to(x_s) * x_s + fresh.to(x_s) * noise(x_s)


# --- A Gaussian, where all is known --------------------------------------------------------------


class Taps:
    """Noise that is 1 in one entry of one row, the next one at each draw, and 0 elsewhere."""

    def __init__(self) -> None:
        self.row = 1

    def __call__(self, like: Tensor) -> Tensor:
        eps = torch.zeros_like(like)
        for entry in range(like.shape[1]):
            eps[self.row, entry] = 1.0
            self.row += 1
        return eps


def of_gaussian(repeats: int, steps: int, jump: int) -> dict[str, float]:
    """What RePaint makes of two correlated numbers of which the first is known.

    It is affine in y and in all noise: row 0 is told y = 1 and no noise; every other row answers
    to a unit of one draw. Nothing is sampled, and the law of the result is exact.

    Returns:
        slope: Of the mean in y; the truth is the correlation.
        variance: Over the true one.
        distance: 2-Wasserstein, from the truth, in the root mean square over y.
    """
    cov = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)
    schedule = DDPMSchedule()
    denoiser = GaussianDenoiser(cov.new_zeros(2), cov, schedule)
    times = StrideGrid()(schedule, steps)
    draws = 2 * steps * repeats + (repeats - 1) * -(-steps // jump)
    eps = torch.zeros(3 + 2 * draws, 2, dtype=torch.float64)
    eps[-2, 0] = eps[-1, 1] = 1.0  # the start is noise too
    y = torch.zeros_like(eps)
    y[0, 0] = 1.0
    known, x = torch.tensor([True, False]), start(schedule, times[0], eps)
    x = repaint(denoiser, x, y, known, times, repeats=repeats, jump=jump, noise=Taps())
    slope, var = x[0, 1].item(), x[1:, 1].square().sum().item()
    true_var = 1 - CORRELATION**2
    distance = sqrt((slope - CORRELATION) ** 2 + (sqrt(var) - sqrt(true_var)) ** 2)
    return {"slope": slope, "variance": var / true_var, "distance": distance}


# --- Digits --------------------------------------------------------------------------------------


def of_digits(scale: Scale, seed: int) -> dict[str, np.ndarray]:
    """The distance of each mended digit from the original, in learned features."""
    config = settings(scale, seed)
    model, yardstick = model_of(scale, config), Yardstick.of(config)
    steps, jump, count = scale(50, 4), scale(5, 2), scale(192, 16)
    rows = generator("papers", "mended", seed).permutation(len(yardstick.held_out))[:count]
    real = yardstick.packed(yardstick.held_out, rows)
    known = torch.zeros(real.shape[1:], dtype=torch.bool)
    known[:, : real.shape[2] // 2] = True  # the upper half
    encode, schedule, found = yardstick.encoders["learned"], model.denoiser.schedule, {}
    ways = {"once": (1, steps), "often": (scale(10, 2), steps), "slowly": (1, 10 * steps)}
    for name, (repeats, n) in ways.items():
        times = StrideGrid()(schedule, n)
        x = start(schedule, times[0], normal(real.shape, "papers", "start", seed))
        x = repaint(
            model.denoiser,
            x,
            real,
            known,
            times,
            repeats=repeats,
            jump=jump,
            noise=noise_of(seed),
        )
        gap = encode(as_files(model.codec, x).numpy()) - encode(real.numpy())
        found[name] = np.linalg.norm(gap, axis=1)
    return found


def measure(scale: Scale) -> Values:
    steps, jump = scale(250, 20), scale(10, 5)
    gaussian = {r: of_gaussian(r, steps, jump) for r in scale(REPEATS, (1, 2))}
    digits = Columns()
    for seed in scale.seeds:
        found = of_digits(scale, seed)
        gain = found["once"] - found["often"]
        row = {name: float(values.mean()) for name, values in found.items()}
        error = float(gain.std(ddof=1) / len(gain) ** 0.5)
        add(digits, row | {"gain": float(gain.mean()), "error": error})
    return {"gaussian": gaussian, "digits": digits}


def judge(values: Values) -> Claim:
    digits, gaussian = values["digits"], values["gaussian"]
    distances = [[row["distance"]] for row in gaussian.values()]
    return Claim(
        paper="Lugmayr et al. (2022), RePaint",
        url="https://arxiv.org/abs/2201.09865",
        says="Walking each part of the path ten times mends better than once.",
        published="CelebA-HQ, half of the face: LPIPS 0.165 with 10 resamplings",
        setting="192 digits for each seed, the lower half mended in 50 steps; distance from the "
        "original in learned features",
        floor=f"once, at as many calls (500 steps): {spread(digits['slowly'])}",
        lines=[
            Line(
                text="ten times is nearer to the original than once, beyond the 95 % interval",
                ours=f"{spread(digits['once'])} → {spread(digits['often'])}, nearer by "
                f"{spread(digits['gain'])}, standard error {spread(digits['error'], 2)}",
                each=tuple(
                    g > 1.96 * e for g, e in zip(digits["gain"], digits["error"], strict=True)
                ),
            ),
            Line(
                text=f"for a Gaussian, the bias falls with {', '.join(gaussian)} walks",
                ours=" → ".join(f"{distance[0]:.3f}" for distance in distances)
                + " (2-Wasserstein, exact)",
                each=rising(*reversed(distances)),
            ),
        ],
    )


if __name__ == "__main__":
    main(measure, judge)
