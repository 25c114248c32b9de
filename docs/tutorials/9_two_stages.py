"""Tutorial 9: pictures in two stages: what is meant, then how it looks.

    python docs/tutorials/9_two_stages.py [FOLDER] [TIMES]

An encoder places pictures and texts on one sphere, a prior draws places on it for a text, and a
decoder draws pictures of a place: so DALL-E 2 was made. What the encoder sees in a picture can then
be drawn anew, mixed with what it sees in another, and turned from one text towards another. Shown
on small pictures of discs, which a few seconds are enough for; so many TIMES as long is better.
What harder pictures take is in docs/prior.md.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ornstein as ou
from ornstein.evaluate.retrieval import measure_retrieval
from ornstein.runs.config import EmbeddingConfig

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial-9")
times = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
out.mkdir(parents=True, exist_ok=True)

# %% Pictures of your own, with a text beside each: here a disc of some colour at some place.
COLOURS = {"red": (220, 50, 50), "green": (50, 190, 70), "blue": (70, 100, 240)}
PLACES = {"on the left": (4, 2), "on the right": (4, 5), "at the top": (2, 4)}
pictures, chance = out / "pictures", np.random.default_rng(0)
pictures.mkdir(exist_ok=True)
rows, columns = np.indices((8, 8))
for i in range(360):
    colour, place = (list(words)[chance.integers(3)] for words in (COLOURS, PLACES))
    row, column = PLACES[place] + chance.uniform(-0.7, 0.7, 2)
    disc = np.clip(chance.uniform(2, 3) - np.hypot(rows - row, columns - column), 0, 1)[..., None]
    picture = 40 * (1 - disc) + np.array(COLOURS[colour]) * disc
    Image.fromarray(picture.astype(np.uint8)).save(pictures / f"{i:03d}.png")
    (pictures / f"{i:03d}.txt").write_text(f"a {colour} disc {place}\n")
data = ou.open_data(pictures)

# %% The encoder: how often is the nearest picture the right one, of those that it never saw?
config = ou.train.recipe(data, "contrastive", size=16)
few = replace(config.train, batch=32)  # more would hold the same text several times
config = replace(config, train=few)
encoder = ou.train(pictures, config=config, seen=round(1600 * times), out=out / "encoder")
print(*measure_retrieval(encoder.path).lines(), sep="\n")

# %% Both stages go by it: the prior draws embeddings for a text, the decoder pictures for these.
for role, size, seen in (("prior", 64, 6_400), ("decoder", 24, 4_800)):
    by = EmbeddingConfig(encoder=str(encoder.path), role=role)
    config = ou.train.recipe(data, embedding=by, minutes=1, size=size)
    ou.train(pictures, config=config, seen=round(seen * times), out=out / role)
prior, decoder = ou.load(out / "prior"), ou.load(out / "decoder")

# %% Words to pictures, in one command and from one seed: a column for each text.
texts = ("a red disc on the left", "a blue disc at the top", "a green disc on the right")
asked = ou.sample(decoder, 12, prior=prior, text=texts, guidance=2.0)
asked.grid(columns=3).save(out / "asked.png")

# %% A picture drawn anew: only what the encoder sees in it is kept.
held = data.split(0.1, 0)[1].stored
ou.edit(decoder, held[:3], how="embedding", draws=6).panel().save(out / "variations.png")

# %% From one picture to another, by what is seen in both, and by the noise they come from.
ou.between(decoder, held[:1], held[1:2], 8).grid(columns=8).save(out / "between.png")

# %% And from one text towards another, further in each row.
told = {"from_text": "a blue disc", "to_text": "a red disc", "how": "embedding", "draws": 1}
turned = [ou.edit(decoder, held[:6], turn=turn, **told) for turn in (0.0, 0.3, 0.6)]
given = decoder.codec.pack(held[:6])
table = torch.cat([given, *(found.samples.x for found in turned)])
decoder.codec.preview(table, 6).save(out / "turned.png")
print(f"pictures in {out}")
