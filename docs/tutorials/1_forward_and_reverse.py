"""Tutorial 1: the forward and the reverse process, on the swiss roll.

    python docs/tutorials/1_forward_and_reverse.py [FOLDER]

Diffusion in forty steps, as in the paper that began it (Sohl-Dickstein et al., 2015,
https://arxiv.org/abs/1503.03585): noise destroys a spiral, a small network learns to undo each
step, and fresh noise becomes a spiral again. Then the same network is trained with the recipe the
field arrived at since. Takes about half a minute; writes two pictures.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from ornstein.core.denoise import NetDenoiser
from ornstein.core.exact import EmpiricalDenoiser
from ornstein.core.noise import DDPMSchedule, KarrasSchedule
from ornstein.core.predict import predict_balanced, predict_noise, weigh_simple
from ornstein.core.sample import Ancestral, Heun, start
from ornstein.core.times import (
    KarrasGrid,
    LogNormalTimes,
    StrideGrid,
    TimeDistribution,
    UniformTimes,
)
from ornstein.data import open_data
from ornstein.nets import MLP

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial-1")
out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)

# %% Data: standardised to mean 0 and variance 1, as every formula here expects.
dataset = open_data("swiss-roll")
x, _ = dataset.batch(torch.arange(4000))


# %% The forward process: x_t = alpha_t x + sigma_t eps. Nothing is learned in it.
def noised(x: Tensor, t: Tensor, schedule) -> Tensor:
    alpha, sigma = (c[:, None].float() for c in schedule(t))
    return alpha * x + sigma * torch.randn_like(x)


ddpm = DDPMSchedule(steps=40, beta_first=1e-3, beta_last=0.2)
times = torch.tensor([0.0, 0.1, 0.25, 0.5, 1.0])
forward = [noised(x, t.expand(len(x)), ddpm) for t in times]

# %% What the reverse process needs is one function: the posterior mean E[x | x_t].
# For these 4000 points it is known exactly: a weighted mean of them all.
exact = EmpiricalDenoiser(x, ddpm)
print("x_t =", [round(v, 2) for v in forward[2][0].tolist()], "was probably", end=" ")
print([round(v, 2) for v in exact(forward[2][:1], times[2])[0].tolist()], "- truly", end=" ")
print([round(v, 2) for v in x[0].tolist()])


# %% A network learns it from noised examples: the loss asks for the noise that was added.
def train(denoiser: NetDenoiser, times: TimeDistribution, steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(denoiser.parameters(), rate, weight_decay=0, foreach=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        batch = x[torch.randint(len(x), (512,))]
        t = times(torch.rand(len(batch)), denoiser.schedule)
        loss = denoiser.loss(batch, t, torch.randn_like(batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        if step % (steps // 4) == 0:
            print(f"  step {step:5d}  loss {loss.item():.3f}")


print("as in 2015 and 2020: predict the noise, forty equal steps")
classic = NetDenoiser(MLP((2,), size=64, depth=3), ddpm, predict_noise, weigh_simple)
train(classic, UniformTimes(), 800, 3e-3)

print("as in 2022: balanced prediction, log-normal noise levels")
karras = KarrasSchedule()
modern = NetDenoiser(MLP((2,), size=64, depth=3), karras, predict_balanced)
train(modern, LogNormalTimes(mean=-1.2, std=1.2), 800, 5e-3)

# %% The reverse process: from noise, one step at a time. `on_step` looks over its shoulder.
reverse: list[Tensor] = []
grid = StrideGrid(train_steps=40)(ddpm, 40)
noise = start(ddpm, grid[0], torch.randn(2000, 2))
Ancestral()(classic, noise, grid, on_step=lambda x, s: reverse.append(x))

grid = KarrasGrid()(karras, 20)
better = Heun()(modern, start(karras, grid[0], torch.randn(2000, 2)), grid)


# %% How far is a sample from the spiral? (Distance to the nearest of 4000 fresh points.)
def distance(samples: Tensor) -> float:
    fresh, _ = dataset.batch(torch.arange(4000, 8000))
    return torch.cdist(samples, fresh).amin(1).mean().item()


floor = distance(x)
for name, samples in (("classic", reverse[-1]), ("modern", better)):
    print(f"{name}: mean distance to the spiral {distance(samples):.4f} (real data: {floor:.4f})")

# %% Pictures.
rows = [forward, [noise, *(reverse[i] for i in (19, 29, 35, 39))]]
titles = [[f"t = {t:.2f}" for t in times.tolist()], ["noise", "step 20", "30", "36", "40: sample"]]
figure, axes = plt.subplots(2, 5, figsize=(12, 5), layout="constrained")
for row, clouds in enumerate(rows):
    for axis, cloud, title in zip(axes[row], clouds, titles[row], strict=True):
        axis.scatter(*cloud.T, s=1, alpha=0.5, linewidths=0)
        axis.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal", title=title)
axes[0, 0].set_ylabel("forward")
axes[1, 0].set_ylabel("reverse")
figure.savefig(out / "processes.png", dpi=120)

figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for axis, cloud, title in zip(
    axes, (x, reverse[-1], better), ("data", "classic, 40 calls", "modern, 39 calls"), strict=True
):
    axis.scatter(*cloud[:2000].T, s=1, alpha=0.5, linewidths=0)
    axis.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal", title=title)
figure.savefig(out / "samples.png", dpi=120)
print(f"pictures in {out}")
