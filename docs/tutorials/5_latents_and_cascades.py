"""Tutorial 5: larger pictures, by way of smaller ones.

    python docs/tutorials/5_latents_and_cascades.py [FOLDER] [MINUTES]

Two ways to spend less on larger pictures. In a latent space, the model draws a few numbers that a
decoder makes a picture of; in a cascade, one run draws small pictures and another enlarges them.
Both are shown on patches of a photograph that ships with scikit-learn. A third of a minute shows
how it goes; with ten the patches are worth looking at.
"""

import sys
from pathlib import Path

import torch

import ornstein as ou
from ornstein.runs.latents import latents_of

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial-5")
minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 0.35
out.mkdir(parents=True, exist_ok=True)
options = ou.DataOptions(size=16, limit=800 if minutes > 1 else 200)
flower = ou.open_data("flower", options)

# %% First the autoencoder: what is a picture, in fewer numbers?
config = ou.train.recipe(flower, "autoencoder")
coder = ou.train("flower", config=config, minutes=minutes / 5, out=out / "coder")

# %% Look at what comes back before anything is built on it: no run on the latents can be better.
codec = latents_of(coder.path)
given = flower.stored[:8]
latents = codec.pack(given)
back = torch.from_numpy(codec.unpack(latents)).movedim(-1, 1)
print(f"{given[0].numel()} numbers of a picture become {latents[0].numel()}")
print(f"mean {latents.mean():.2f}, deviation {latents.std():.2f}: latents are standardised")
flower.codec.preview(flower.codec.pack(torch.cat([given, back])), 8).save(out / "back.png")

# %% A run on the latents is a run like any other. It keeps the decoder in its own folder.
config = ou.train.recipe(flower, latent=coder.path, minutes=minutes)
latent = ou.train("flower", config=config, minutes=minutes / 5, out=out / "latent")
ou.sample(latent, 32).grid(columns=8).save(out / "latent.png")

# %% Every verb speaks of pictures. What is known is kept to the last bit, decoder or not.
mask = torch.zeros(16, 16, dtype=torch.bool)
mask[:, 10:] = True
mended = ou.restore(latent, given[:3], mask, draws=4, steps=8)
mended.panel().save(out / "mended.png")

# %% The other way: a run of small pictures, and one that learns to enlarge pictures.
small = ou.DataOptions(size=4, limit=options.limit)
pairs = ou.DataOptions(size=16, limit=options.limit, given="small-4", given_noise=0.5)
base, sharp = (
    ou.train(
        "flower",
        config=ou.train.recipe(ou.open_data("flower", which), minutes=minutes),
        minutes=share * minutes,
        out=out / name,
    )
    for name, which, share in (("base", small, 0.1), ("sharp", pairs, 0.5))
)

# %% Both in one call, with one seed. A little noise on what is given covers the first run's flaws.
ou.sample([base, sharp], 16, given_noise=0.1).grid(columns=8).save(out / "cascade.png")
print(f"pictures in {out}")
