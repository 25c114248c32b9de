"""Words to pictures in two stages: an encoder, a prior and a decoder of `scenes`, on one core.

The decoder draws latents of an autoencoder that is trained here too; all as the recipes say. The
encoder is asked to find held-out pictures by their captions, and captions by their pictures. Then
scenes that were not seen are asked for in words, and what is drawn is read back. The decoder is
told the text and an embedding that the prior draws, or one of both alone; the embedding of a real
picture of the scene; or, as the floor, that of a picture of another scene.

    [ORNSTEIN_RUNS=folder] python benchmarks/prior.py [--seen N] [--captions N]
        [coder | encoder | prior | decoder | order | table]

With the name of a run, only this one is trained, after those before it, into the folder. With
`order`, small encoders are trained for a minute, with and without coarse pictures to draw, and
asked which of two things stands left or above. With `table`, only docs/prior.md is written anew.
Runs that lie in the folder are measured as they are, and go on if they were stopped.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from pages import put
from scenes import CODED, settings, trained, with_seen

import ornstein as ou
from ornstein.core.shares import Share
from ornstein.data import DataOptions, open_data
from ornstein.data.dataset import Dataset
from ornstein.data.scenes import DIRECTION, draw_scene, paint, scans
from ornstein.evaluate.measures.scenes import (
    RESPECTS,
    ceiling,
    judge,
    plain,
    reader,
    requests,
    shares,
)
from ornstein.evaluate.retrieval import measure_retrieval
from ornstein.rng import generator
from ornstein.runs.config import EmbeddingConfig, NetConfig, RunConfig
from ornstein.runs.embedding import Encoder, encoder_of
from ornstein.tasks.options import SampleOptions
from ornstein.tasks.sample import Samples, drawn_by
from ornstein.train import recipe
from ornstein.train.recipes import contrastive

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "prior.json"
PAGE = HERE.parent / "docs" / "prior.md"
GUIDANCE = 3.0
SEEN = {"coder": CODED, "encoder": 98_304, "prior": 1_228_800, "decoder": 480_000}  # examples
NAMES = {
    "both": "the text, and what the prior draws for it",
    "prior": "what the prior draws for the text",
    "text": "the text",
    "picture": "the embedding of a real picture of that scene",
    "other": "that of a picture of another scene: the floor",
    "coded": "*real pictures, encoded and decoded*",
    "real": "*real pictures, as the reader finds them*",
}


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


def train(folder: Path, seen: dict[str, int], last: str = "decoder") -> None:
    """The runs, in order, up to the last one wanted, unless they are there."""
    data, names = open_data("scenes"), list(SEEN)
    for name in names[: names.index(last) + 1]:
        trained(with_seen(config_of(name, folder, data), seen[name]), folder / name)
    torch.set_num_threads(1)


def measure(folder: Path, seen: dict[str, int], captions: int) -> dict[str, Any]:
    """How often the encoder finds, the prior is found, and the pictures show what was asked."""
    train(folder, seen)
    prior, decoder = (ou.load(folder / name) for name in ("prior", "decoder"))
    encoder = decoder.encoder
    assert encoder is not None
    data = open_data("scenes")
    known, held = data.split(data.options.validation, 0)
    assert held.captions is not None
    texts = held.captions.first
    drawn = encoder.of_x(drawn_by(prior, decoder, SampleOptions(text=texts))(range(len(texts))))
    near = (drawn @ encoder.of_pictures(held.stored).T).argmax(1)
    found = Share(hits=int((near == torch.arange(len(texts))).sum()), n=len(texts))

    asked = requests(captions, 0, known)
    said, how = tuple(a.caption for a in asked), {"guidance": GUIDANCE, "device": "cpu"}
    draw = generator("scenes", "two stages")
    pictures = torch.from_numpy(np.stack([paint(a.scene, draw, scans()) for a in asked]))
    others = pictures.roll(1, 0)
    of = {"how": "embedding", "draws": 1, **how}
    deaf = replace(decoder, vocabulary=replace(decoder.vocabulary, words=None))
    results: dict[str, Samples] = {
        "both": ou.sample(decoder, captions, text=said, prior=prior, **how),
        "prior": ou.sample(deaf, captions, text=said, prior=prior, **how),
        "text": ou.sample(decoder, captions, text=said, **how),
        "picture": ou.edit(decoder, pictures, **of).samples,
        "other": ou.edit(decoder, others, **of).samples,
    }
    judged = {name: judged_as(samples, asked) for name, samples in results.items()}
    for kind, codec in (("coded", decoder.codec), ("real", None)):
        judged[kind] = {k: plain(v) for k, v in ceiling(captions, 0, codec=codec).items()}
    return {
        "data": {"name": "scenes", "train": len(known), "held_out": len(held)},
        "config": {"prior": settings(prior.config), "decoder": settings(decoder.config)},
        "seen": {"encoder": encoder.seen, "prior": prior.seen, "decoder": decoder.seen},
        "processor_seconds": {n: json.loads((folder / f"{n}.json").read_text()) for n in SEEN},
        "guidance": GUIDANCE,
        "retrieval": measure_retrieval(folder / "encoder").facts,
        "prior_retrieval": plain(found),
        "shares": judged,
    }


def judged_as(samples: Samples, asked: Sequence[Any]) -> dict[str, Any]:
    """The shares of pictures that show what was asked for."""
    seen = reader()(np.moveaxis(samples.arrays, -1, 1))
    found = shares([judge(a.scene, s) for a, s in zip(asked, seen, strict=True)])
    return {name: plain(share) for name, share in found.items()}


# --- What stands where ---------------------------------------------------------------------------

SHORT = DataOptions(limit=3000, validation=0.25)


def order(coarse: float) -> dict[str, Any]:
    """How often an embedding tells which of two colours stands left or above the other.

    A small network learns from embeddings to name both colours in order, and is asked which of
    both orders is the likelier one: chance is one half.
    """
    from sklearn.neural_network import MLPClassifier

    config = replace(with_seen(contrastive(), 9600), net=NetConfig(kind="contrastive", size=16))
    config = replace(config, data=SHORT, embedding=EmbeddingConfig(coarse=coarse))
    config = replace(config, train=replace(config.train, batch=64))
    with tempfile.TemporaryDirectory() as folder:
        encoder = encoder_of(ou.train("scenes", config=config, out=Path(folder) / "e").path)
    parts = open_data("scenes", SHORT).split(SHORT.validation, 0)
    (known, said), (asked, true) = (in_order(part, encoder) for part in parts)
    learned: Any = MLPClassifier((128,), alpha=0.1, max_iter=100, random_state=0).fit(known, said)
    chances, names = learned.predict_proba(asked), list(learned.classes_)
    turned = [" ".join(reversed(name.split())) for name in true]
    both = ((names.index(a), names.index(b)) for a, b in zip(true, turned, strict=True))
    right = [row[a] > row[b] for row, (a, b) in zip(chances, both, strict=True)]
    return plain(Share(hits=sum(right), n=len(true)))


def in_order(data: Dataset, encoder: Encoder) -> tuple[np.ndarray, list[str]]:
    """Embeddings of pictures of two colours, and these as they stand."""
    rows, names = list[int](), list[str]()
    for row, name in enumerate(data.ids):
        scene = draw_scene(generator("scenes", SHORT.seed, int(name.split("-")[1])))
        colours = [thing.colour for thing in scene.things]
        if scene.relation is not None and len(set(colours)) == 2:
            rows.append(row)
            names.append(" ".join(colours[:: sum(DIRECTION[scene.relation])]))
    return encoder.pictures.standard(encoder.of_pictures(data.stored[rows])).numpy(), names


# --- The page ------------------------------------------------------------------------------------


def table() -> None:
    """Put what was measured between the marks of the page."""
    found = json.loads(RESULTS.read_text())
    if "order" in found:
        put(PAGE, "order", order_lines(found["order"]))
    if "shares" in found:
        put(PAGE, "measured", stages_lines(found))


def order_lines(found: dict[str, Any]) -> str:
    """How often it is told which of two stands first."""
    names = {"0": "the contrast alone", "2": "the contrast and coarse pictures"}
    lines = [
        "| learned from | which of two colours stands left or above | chance |",
        "|---|---|---|",
    ]
    lines += [f"| {names[weight]} | {_share(row)} | 50 % |" for weight, row in found.items()]
    return "\n".join(lines)


def stages_lines(found: dict[str, Any]) -> str:
    """What the encoder, the prior and the decoder are worth."""
    data, seen, retrieval = found["data"], found["seen"], found["retrieval"]
    n, drawn = retrieval["pairs"], found["prior_retrieval"]["n"]
    captions = found["shares"]["real"]["all"]["n"]
    minutes = sum(found["processor_seconds"].values()) / 60
    chance = f"{100 * retrieval['floor']:.2g} %"
    lines = [
        f"| nearest of {n:,} held-out scenes | is the right one | chance |",
        "|---|---|---|",
        f"| picture to a caption | {_share(retrieval['by_text'], n)} | {chance} |",
        f"| caption to a picture | {_share(retrieval['by_picture'], n)} | {chance} |",
        f"| picture to what the prior draws for a caption, of {drawn:,} "
        f"| {_share(found['prior_retrieval'])} | {100 / drawn:.2g} % |",
        "",
        f"| the decoder is told | {' | '.join(RESPECTS)} |",
        "|---|" + "---|" * len(RESPECTS),
    ]
    for kind, name in NAMES.items():
        row = found["shares"][kind]
        lines.append(f"| {name} | {' | '.join(_share(row[r]) for r in RESPECTS)} |")
    lines += [
        "",
        f"Shares with their 95 % intervals, the second table of {captions} captions of two things: "
        "both kinds are right and there is nothing else, both colours, the relation, all three. "
        f"Trained on {data['train']:,} scenes; the encoder has seen {seen['encoder']:,} examples, "
        f"the prior {seen['prior']:,}, the decoder {seen['decoder']:,}, which draws latents of an "
        f"autoencoder: {minutes:.0f} minutes of a core in all; guidance {found['guidance']:g} "
        "([benchmarks/prior.py](../benchmarks/prior.py)).",
    ]
    return "\n".join(lines)


def _share(row: dict[str, Any], n: int | None = None) -> str:
    count = n or row["n"]
    return str(Share(hits=round(row["share"] * count), n=count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", choices=[*SEEN, "order", "table"])
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--seen", type=int, default=SEEN["decoder"], help="of the decoder")
    chosen = parser.parse_args()
    seen, kept = SEEN | {"decoder": chosen.seen}, os.environ.get("ORNSTEIN_RUNS")
    if chosen.only in SEEN:
        if kept is None:
            parser.error("say in which folder the run is to lie: ORNSTEIN_RUNS")
        train(Path(kept), seen, chosen.only)
        return
    if chosen.only == "order":
        keep({"order": {f"{weight:g}": order(weight) for weight in (0.0, 2.0)}})
    elif chosen.only is None:
        with tempfile.TemporaryDirectory() as temporary:
            keep(measure(Path(kept or temporary), seen, chosen.captions))
    table()


def keep(found: dict[str, Any]) -> None:
    """Beside what was measured before."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
