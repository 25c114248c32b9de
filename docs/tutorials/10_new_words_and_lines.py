"""Tutorial 10: a new word, and lines to follow.

    python docs/tutorials/10_new_words_and_lines.py [FOLDER] [TIMES]

A run of digits that never saw a nine is shown twenty of them. With a new word alone it finds what
comes nearest among what it can draw already; with additions of low rank it learns nines, and so as
not to forget fours, it draws some itself and learns them beside. In a few seconds some nines are
still fours, and some fours nines: so many TIMES as long is better. Then the same run learns to
follow lines. None of this changes the run: each is an adapter, put on when it is asked for.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

import ornstein as ou
from ornstein.data.given import edges

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial-10")
times = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
out.mkdir(parents=True, exist_ok=True)

# %% The base knows the digits from 0 to 8, in 256 greys.
digits = ou.open_data("digits")
assert digits.label is not None
pictures, labels = (15 * digits.stored[:, 0]).numpy(), digits.label.numpy()
nines, others = pictures[labels == 9][:20], labels < 9
known = (pictures[others][20:], labels[others][20:])
config = ou.train.recipe(ou.open_data(known), minutes=1, size=16)
base = ou.train(known, config=config, seen=round(12_800 * times), out=out / "base")


# %% The new word `nine`, which begins as a four: first the word alone, then additions of rank 8.
def called_nine(name: str, **how):
    config = ou.adaptation(base.path, like="4", **how)
    config = replace(config, data=replace(config.data, word="nine", validation=0.0))
    run = ou.train(nines, config=config, seen=round(1_920 * times), out=out / name)
    return ou.load(run.path)


word, subject = called_nine("word", learn="words"), called_nine("subject", rank=8)
ask = {"count": 10, "guidance": 2.0}
rows = [subject.codec.pack(torch.from_numpy(nines[:10, None]))]
rows += [ou.sample(model, label="nine", **ask).x for model in (word, subject)]

# %% What it knew before, from the same noise: with the word alone the very same fours, with the
# additions others.
fours = [ou.sample(model, label="4", **ask).x for model in (ou.load(base.path), word, subject)]
print("the word alone leaves fours as they were:", torch.equal(fours[0], fours[1]))
subject.codec.preview(torch.cat([*rows, fours[0], fours[2]]), 10).save(out / "nine.png")

# %% A control branch: edges follow from each picture itself, so that no pairs are needed.
config = ou.adaptation(base.path, "control")
config = replace(config, data=replace(config.data, given="edges"))
lines = ou.train(known, config=config, seen=round(4_800 * times), out=out / "lines")

# %% Drawings to follow: the edges of digits that it has not seen.
model = ou.load(base.path, adapters=[(lines.path, 1.0)])
unseen = model.codec.pack(torch.from_numpy(pictures[others][:10, None]))
drawings = out / "drawings"
drawings.mkdir(exist_ok=True)
for i, drawing in enumerate((255 * edges(unseen)[:, 0]).round().byte().numpy()):
    Image.fromarray(drawing).save(drawings / f"{i}.png")
followed = ou.sample(model, 10, given=(str(drawings),))
model.codec.preview(torch.cat([unseen, followed.x]), 10).save(out / "followed.png")
print(f"pictures in {out}")
