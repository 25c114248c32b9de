"""Tutorial 7: a run that learns something new, and can leave it off again.

    python docs/tutorials/7_a_style_of_your_own.py [FOLDER] [MINUTES]

A run of upright digits is shown a hundred slanted ones. What it learns from them is an adapter: a
small file of additions of low rank, that can be put on in any strength, laid on others, and merged.
How what is new gets a name, by which it can be asked for, is in tutorial 10.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from skimage.transform import AffineTransform, warp

import ornstein as ou

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial-7")
minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 0.3
out.mkdir(parents=True, exist_ok=True)

# %% The base: digits as they are, in 256 greys.
digits = ou.open_data("digits")
assert digits.label is not None
upright, labels = (digits.stored[:, 0] * 15).numpy(), digits.label.numpy()
base = ou.train((upright, labels), minutes=minutes * 2 / 3, out=out / "base")

# %% A hundred pictures of your own: here the same digits, slanted. Labels come along.
slant = AffineTransform(matrix=np.array([[1, 0.45, -1.6], [0, 1, 0], [0, 0, 1]]))
slanted = [warp(picture, slant, preserve_range=True).round() for picture in upright[:100]]
pictures = np.stack(slanted).astype(np.uint8)

# %% Go on from the base with them. Its own weights stay as they are.
config = ou.adaptation(base.path, rank=8)
style = ou.train((pictures, labels[:100]), config=config, minutes=minutes / 3, out=out / "style")

# %% From the same noise, without it, with half of it, and with all of it.
asked = {"count": 10, "label": range(10), "guidance": 2.0}
rows = []
for strength in (0.0, 0.5, 1.0):
    model = ou.load(base.path, adapters=[(style.path, strength)])
    rows.append(ou.sample(model, **asked).x)
model = ou.load(base.path)
print("strength 0 is the base, to the last bit:", torch.equal(rows[0], ou.sample(model, **asked).x))
model.codec.preview(torch.cat(rows), 10).save(out / "strength.png")

# %% Merged, both are one run that needs neither.
whole = ou.merge(base.path, [(style.path, 1.0)], out=out / "merged")
near = (ou.sample(whole, **asked).x - rows[-1]).abs().max()
print(f"merged, it draws the same: {near:.1e}")
print(f"pictures in {out}")
