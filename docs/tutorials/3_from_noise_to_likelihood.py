"""Tutorial 3: from noise to likelihood.

    python docs/tutorials/3_from_noise_to_likelihood.py [FOLDER]

The probability flow joins every example to one point of noise and back, and tells how likely the
example is. Here the data come from a mixture of three Gaussians, whose density is known, so that
each number of the model stands beside the truth. Takes about half a minute; writes one picture.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from ornstein.core.denoise import NetDenoiser
from ornstein.core.exact import MixtureDenoiser
from ornstein.core.likelihood import (
    Range,
    bits_per_dimension,
    dequantise,
    log_likelihood,
    variational_bound,
)
from ornstein.core.noise import CosineSchedule
from ornstein.core.predict import predict_balanced
from ornstein.core.sample import Multistep, encode
from ornstein.core.times import LogNormalTimes, LogSNRGrid
from ornstein.nets import MLP

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial-3")
out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)

# %% The truth: three Gaussians in the plane, and the exact denoiser of their mixture.
schedule = CosineSchedule()
weights = torch.tensor([0.5, 0.3, 0.2])
means = torch.tensor([[-1.0, -0.6], [1.2, -0.2], [0.6, 1.5]])
roots = torch.tensor(
    [[[0.5, 0.0], [0.3, 0.2]], [[0.2, 0.0], [0.0, 0.5]], [[0.4, 0.0], [-0.3, 0.1]]]
)
exact = MixtureDenoiser(weights, means, roots @ roots.mT, schedule).double()
data = exact.draw(20_000).float()
fresh = exact.draw(300)

# %% A network that has only seen the data.
model = NetDenoiser(MLP((2,), size=96, depth=3), schedule, predict_balanced)
optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0, foreach=True)
steps, times = 1000, LogNormalTimes(mean=-0.6, std=1.4)
decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for step in range(steps):
    x = data[torch.randint(len(data), (512,))]
    t = times(torch.rand(len(x)), schedule)
    loss = model.loss(x, t, torch.randn_like(x)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    decay.step()
    if step % 250 == 0:
        print(f"step {step:5d}  loss {loss.item():.3f}")
model = model.double().eval().requires_grad_(False)

# %% From data to noise and back: nothing is lost on the way.
grid = LogSNRGrid(log_snr_min=-12, log_snr_max=12)(schedule, 64)
sampler = Multistep(order=3)
noise = encode(sampler, model, fresh, grid)
again = sampler(model, noise, grid)
print(f"encoded data: mean {noise.mean():+.3f}, variance {noise.var():.3f} (noise: 0 and 1)")
print(f"there and back: off by {(again - fresh).square().mean().sqrt():.1e}")

# %% How likely is an example? Three answers: the truth, the flow, the variational bound.
within = Range(log_snr_min=-14, log_snr_max=14)
truth = exact.log_prob(fresh, torch.tensor(0.0, dtype=torch.float64))
flow = log_likelihood(model, fresh, within=within).nats
bound = -variational_bound(model, fresh, torch.randn_like, calls=128, within=within).total


def line(name: str, nats: torch.Tensor) -> None:
    gap = nats - truth
    error = gap.std() / len(gap) ** 0.5
    print(f"{name:28s} {nats.mean():+.3f} nats, above the truth by {gap.mean():+.3f} ± {error:.3f}")


line("truth", truth)
line("exact denoiser, by the flow", log_likelihood(exact, fresh, within=within).nats)
line("network, by the flow", flow)
line("network, variational bound", bound)

# %% Bits per dimension: rounded data have probabilities, and the unit has to be declared.
unit = torch.tensor(1 / 16, dtype=torch.float64)
rounded = (fresh / unit).round() * unit
spread = dequantise(rounded, unit, torch.rand_like(rounded))
bits = bits_per_dimension(log_likelihood(model, spread, within=within).nats, fresh.shape[1:], unit)
print(f"rounded to sixteenths: {bits.mean():.3f} bits per dimension")

# %% Picture: the density that the network has learned, beside the true one.
axis = torch.linspace(-3, 3, 40, dtype=torch.float64)
points = torch.cartesian_prod(axis, axis)
maps = {
    "true density": exact.log_prob(points, torch.tensor(0.0, dtype=torch.float64)),
    "learned density": log_likelihood(model, points, within=within, tolerance=1e-4).nats,
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.5), layout="constrained")
for panel, (title, nats) in zip(axes, maps.items(), strict=False):
    panel.pcolormesh(axis, axis, nats.exp().view(40, 40).T, shading="gouraud", cmap="magma")
    panel.set(title=title, xticks=[], yticks=[], aspect="equal")
axes[2].scatter(truth, flow, s=3, alpha=0.5, linewidths=0)
axes[2].plot([-8, 1], [-8, 1], lw=0.8, color="grey")
axes[2].set(xlabel="log p, truth", ylabel="log p, network", xlim=(-8, 1), ylim=(-8, 1))
figure.savefig(out / "likelihood.png", dpi=120)
print(f"picture in {out}")
