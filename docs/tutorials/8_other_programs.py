"""Tutorial 8: a run that other programs use, and pipelines that you do.

    python docs/tutorials/8_other_programs.py [FOLDER] [MINUTES]

The whole sampler goes into one file, which needs this library no more. A run of the U-Net that
diffusers has built in becomes a pipeline, and a pipeline opens as a run does: what this library can
do beyond drawing, it can do with other people's weights. The second half needs
`pip install 'ornstein[hub]'`.
"""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

import ornstein as ou

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial-8")
minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 0.35
out.mkdir(parents=True, exist_ok=True)
digits = ou.open_data("digits")

# %% A run, and its sampler as one graph: loop, guidance, and the units of the data at the end.
run = ou.train("digits", minutes=minutes / 3, out=out / "run")
written = ou.export(run, out / "sampler.pt2", to="torch", steps=8, guidance=2.0)
print(f"{written.path.name}: {written.calls} calls of the network, {written.size / 1e6:.1f} MB")
print(f"takes {', '.join(written.inputs)}; differs by {written.difference:.0e} from the run")

# %% From here on, a program needs torch alone.
sampler = torch.export.load(written.path).module()
drawn = sampler(torch.randn(20, 1, 8, 8), torch.arange(20) % 10)
print("drawn by the graph:", tuple(drawn.shape), f"{drawn.min():.1f} to {drawn.max():.1f}")
digits.codec.preview(digits.codec.pack(drawn.round().clamp(0, 16).to(torch.uint8)), 10).save(
    out / "graph.png"
)

# %% A U-Net that diffusers has built in, trained here.
if find_spec("diffusers") is None:
    print("for the rest, pip install 'ornstein[hub]'")
    print(f"pictures in {out}")
    sys.exit()
pictures = out / "pictures"
ou.sample(run, 200, guidance=1.0).save(pictures)  # any pictures of 8 bits will do
config = ou.train.recipe(ou.open_data(pictures), "diffusers")
small = replace(config.net, size=16)
quick = replace(config.train, learning_rate=2e-3, decay="cosine")
config = replace(config, net=small, train=quick)
plain = ou.train(pictures, config=config, minutes=minutes * 2 / 3, out=out / "plain")
folder = ou.export(plain, to="diffusers").path

# %% Now it is a pipeline. Opened by diffusers, and by us, it is the same model.
from diffusers import DDPMPipeline  # noqa: E402

theirs = DDPMPipeline.from_pretrained(folder)
print("opened by diffusers:", type(theirs.unet).__name__, theirs.unet.num_parameters(), "weights")
model = ou.load_diffusers(folder)
ou.sample(model, 20, sampler="ddim", steps=20).grid(columns=10).save(out / "pipeline.png")

# %% It can be gone on from: here by additions of rank 4, a run of its own that opens its base.
fours = out / "fours"
ou.sample(run, 64, label=4).save(fours)
style = ou.train(fours, config=ou.adaptation(folder, rank=4), seen=3200, out=out / "style")
ou.sample(style, 20, sampler="ddim", steps=20).grid(columns=10).save(out / "style.png")

# %% And whatever a run can be asked, it can: here, to draw the hidden half of a picture.
mask = torch.zeros(model.shape[1:], dtype=torch.bool)
mask[4:] = True
ou.restore(model, ou.open_data(pictures).stored[:4], mask, draws=5).panel().save(out / "half.png")
print(f"pictures in {out}")
