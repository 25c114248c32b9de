"""Tutorial 4: pictures asked for in words.

    python docs/tutorials/4_words_to_pictures.py [FOLDER] [MINUTES]

The built-in scenes show digits and shapes, with captions such as "a small red 7 left of a blue
square". A quarter of a minute is enough to see how one asks; twenty are needed for right answers:
see docs/text.md. With pictures of your own, put a text file beside each.
"""

import sys
from pathlib import Path

import torch

import ornstein as ou

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial-4")
minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 0.25
out.mkdir(parents=True, exist_ok=True)

# %% What is said of the pictures, and in how many pieces it is read.
scenes = ou.open_data("scenes", ou.DataOptions(limit=4000 if minutes > 1 else 500))
assert scenes.captions is not None
print(*ou.profile_data(scenes).lines()[:2], sep="\n")
for text in scenes.captions.texts[0]:
    print("  ", text, scenes.captions.words.tensor([text])[0].tolist())
scenes.codec.preview(scenes.codec.pack(scenes.stored[:20]), 10).save(out / "scenes.png")

# %% Train on pictures and captions, as on pictures alone.
run = ou.train("scenes", minutes=minutes, out=out / "run")
model = ou.load(run.path)

# %% Ask. Texts are dealt out in turn; guidance says how loudly.
texts = ["a red circle left of a blue square", "a green 7 above a white triangle"]
ou.sample(model, 8, text=texts, guidance=2, steps=8).grid(columns=4).save(out / "asked.png")

# %% Emphasis, what not to draw, and texts put together.
for name, text in {
    "emphasis": "a (red:2) circle left of a blue square",
    "both": "a red circle AND a blue square",
    "one-not-the-other": "a red circle AND NOT a blue square",
}.items():
    ou.sample(model, 4, text=text, guidance=2, steps=8).grid(columns=4).save(out / f"{name}.png")

# %% The same noise, with and without the word.
one, other = (
    ou.sample(model, 4, text=f"a {colour} circle", guidance=2, steps=8)
    for colour in ("red", "blue")
)
model.codec.preview(torch.cat([one.x, other.x]), 4).save(out / "one-word.png")
print(f"pictures in {out}")
