"""Tutorial 2: digits that were never written.

    python docs/tutorials/2_digits.py [FOLDER] [MINUTES]

Everything the command line does is a call here: train on the 1,797 scanned digits that ship with
scikit-learn, draw new ones, steer them, look over the sampler's shoulder, mend a picture. It takes
under a minute; the digits get better with more. In a notebook, the last line of a cell shows its
pictures.
"""

import sys
from pathlib import Path

import torch

import ornstein as ou

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial-2")
minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 0.3
out.mkdir(parents=True, exist_ok=True)

# %% Look at the data before training: counts, classes, ranges, duplicates.
digits = ou.open_data("digits")
print(*ou.profile_data(digits).lines(), sep="\n")

# %% Train for a while. The folder holds everything; the same line again would go on from there.
run = ou.train("digits", minutes=minutes, out=out / "run")

# %% Draw. Example i depends on (run, seed, i) alone, whatever the batch.
model = ou.load(run.path)
ou.sample(model, 100).grid(columns=10).save(out / "any.png")

# %% Ask for a class, and say how loudly: guidance 1 is none.
for guidance in (1.0, 3.0):
    threes = ou.sample(model, 40, label=3, guidance=guidance)
    threes.grid(columns=10).save(out / f"threes-{guidance:g}.png")
rows = ou.sample(model, 100, label=range(10))  # labels are dealt out in turn
rows.grid(columns=10).save(out / "all.png")
print("values", rows.arrays.min(), "to", rows.arrays.max(), "as in the data:", rows.arrays.dtype)

# %% Fewer denoiser calls, or another rule: the trained model is the same.
for sampler, steps in (("ddpm", 50), ("ddim", 16), ("heun", 8), ("adams-bashforth", 8)):
    ou.sample(model, 40, sampler=sampler, steps=steps).grid(10).save(out / f"{sampler}.png")

# %% Look over its shoulder: x_s after each step.
seen: list[torch.Tensor] = []
ou.sample(model, 10, label=range(10), on_step=lambda x, s: seen.append(x.cpu()))
model.codec.preview(torch.cat(seen[:: max(1, len(seen) // 8)]), 10).save(out / "steps.png")

# %% Mend: the lower half is hidden, and drawn six times over from what is above it.
pictures = digits.stored[1000:1005]
mask = torch.zeros(8, 8, dtype=torch.bool)
mask[4:] = True
mended = ou.restore(model, pictures, mask, draws=6)
mended.panel().save(out / "mended.png")
known = model.codec.unpack(mended.samples.x)[:, :4]
given = model.codec.unpack(mended.given.repeat_interleave(6, 0))[:, :4]
print("what was known is kept exactly:", bool((known == given).all()))
print(f"pictures in {out}")
