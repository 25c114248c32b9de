"""docs/pictures/prior.png: words to pictures in two stages; pictures by their embeddings."""

from dataclasses import replace
from pathlib import Path

import torch
from gallery import Gallery, Shown, main, screen, sheet

import ornstein as ou
from ornstein.data import DataOptions, open_data
from ornstein.data.dataset import Dataset
from ornstein.data.scenes import COLOURS
from ornstein.runs.config import EmbeddingConfig, RunConfig
from ornstein.runs.model import Model
from ornstein.train import recipe

COLUMNS = 8
TEXTS = ("a green circle", "a red 7 left of a blue square", "a yellow cross above a white circle")
SEEN = {"coder": 240_000, "encoder": 98_304, "prior": 1_228_800, "decoder": 480_000}
"""The runs of benchmarks/prior.py, and the examples that each sees."""


def trained(gallery: Gallery) -> tuple[Model, Model]:
    """A prior and a decoder of scenes, and the encoder that both go by."""
    folder = gallery.runs / "stages"
    data = open_data("scenes", DataOptions(limit=gallery.pick(None, 64)))
    for name, seen in SEEN.items():
        if not (folder / name / "run.json").is_file():
            config = config_of(name, folder, data)
            if gallery.tiny:
                config = replace(config, net=replace(config.net, size=8))
            seen = gallery.pick(seen, 64)
            ou.train("scenes", out=folder / name, config=config, seen=seen, device="cpu")
    torch.set_num_threads(1)
    return ou.load(folder / "prior"), ou.load(folder / "decoder")


def config_of(name: str, folder: Path, data: Dataset) -> RunConfig:
    """What the recipes say of a run, those before it trained."""
    encoder, coder = str(folder / "encoder"), folder / "coder"
    match name:
        case "coder":
            return recipe(data, "autoencoder")
        case "encoder":
            return recipe(data, "contrastive")
        case "prior":
            return recipe(data, embedding=EmbeddingConfig(encoder=encoder, role="prior"))
    return recipe(data, minutes=10, latent=coder, embedding=EmbeddingConfig(encoder=encoder))


def make(gallery: Gallery) -> Shown:
    prior, decoder = trained(gallery)
    steps = gallery.pick(16, 2)
    how = {"steps": steps, "guidance": 3.0, "device": "cpu"}
    rows = [
        (text, screen(decoder, ou.sample(decoder, COLUMNS, text=text, prior=prior, **how).x))
        for text in TEXTS
    ]
    held = open_data("scenes", decoder.config.data).split(0.1, 0)[1]
    assert held.captions is not None
    alone = [i for i, text in enumerate(held.captions.first) if text.count("a ") == 1] or [0]
    one, other = held.stored[alone[0]][None], held.stored[alone[-1]][None]
    draws = {"how": "embedding", "draws": COLUMNS - 1, **how}
    varied = ou.edit(decoder, one, **draws)
    rows.append(("variations", screen(decoder, torch.cat([varied.given, varied.samples.x]))))
    plain = {"steps": gallery.pick(32, 2), "device": "cpu"}
    way = ou.between(decoder, one, other, COLUMNS, **plain)
    rows.append(("from one to another", screen(decoder, way.x)))
    said = held.captions.first[alone[0]]
    before = next(colour for colour in COLOURS if colour in said)
    after = "green" if before == "red" else "red"
    became = said.replace(before, after)
    turn = {"how": "embedding", "draws": 1, "from_text": said, "to_text": became, **how}
    shares = torch.linspace(0, 0.7, COLUMNS).tolist()
    turned = [ou.edit(decoder, one, turn=share, **turn).samples.x for share in shares]
    rows.append((f"{before} to {after}", screen(decoder, torch.cat(turned))))
    assert decoder.encoder is not None
    seen = [f"{count:,}" for count in (decoder.seen, prior.seen, decoder.encoder.seen)]
    caption = (
        f"Three texts, each with eight pictures, not picked, by a decoder that has seen {seen[0]} "
        f"examples, a prior that has seen {seen[1]} and an encoder that has seen {seen[2]}: "
        "half an hour of one core; seed 0, guidance 3; both told the text. Then a held-out "
        f"picture, {said!r}, "
        "and what is drawn by its embedding alone; the way from it to another, by embeddings and "
        f"latents; and what is drawn from one noise by its embedding, turned towards {became!r}, 0 "
        "to 0.7 of the way. Of a picture the decoder keeps the colour, the place and how many "
        "things there are."
    )
    return Shown(sheet(rows, side=64), "Rows of scenes, drawn in two stages", caption)


if __name__ == "__main__":
    main("prior", make)
