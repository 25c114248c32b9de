"""Words to pictures in two stages: an encoder, a prior and a decoder of `scenes`, on one core.

The encoder is asked to find held-out pictures by their captions, and captions by their pictures.
Then a scene it has not seen is asked for in words, and what is drawn is read back. The decoder is
told an embedding that the prior draws, that of the text in place of a picture's, that of a real
picture of the scene, or, as the floor, that of a picture of another scene.

    [ORNSTEIN_RUNS=folder] python benchmarks/prior.py [--captions N] [table]

With `table`, only docs/prior.md is written anew. Runs that lie in the folder are measured as they
are.
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

import ornstein as ou
from ornstein.core.shares import Share
from ornstein.data import DataOptions, open_data
from ornstein.data.scenes import paint, scans
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
from ornstein.runs.config import EmbeddingConfig, NetConfig, RunConfig, TrainConfig
from ornstein.runs.model import Model
from ornstein.tasks.options import SampleOptions
from ornstein.tasks.sample import Samples, drawn_by
from ornstein.train.recipes import contrastive, points

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "prior.json"
PAGE = HERE.parent / "docs" / "prior.md"
START, STOP = "<!-- measured -->", "<!-- /measured -->"
DATA = DataOptions(limit=4096)
GUIDANCE = 3.0
DECODER = RunConfig(
    net=NetConfig(kind="unet", size=32, depth=1),
    train=TrainConfig(seen=163_840, batch=32, optimizer="muon", learning_rate=4e-3),
)
NAMES = {
    "prior": "drawn by the prior for the text",
    "text": "of the text itself",
    "picture": "of a real picture of that scene",
    "other": "of a picture of another scene: the floor",
    "real": "*real pictures, as the reader finds them*",
}


def runs(folder: Path) -> tuple[Path, Model, Model]:
    """The encoder's folder, the prior and the decoder, trained unless they are there."""
    encoder = folder / "encoder"
    prior = EmbeddingConfig(encoder=str(encoder), role="prior")
    decoder = EmbeddingConfig(encoder=str(encoder), role="decoder")
    configs = {
        "encoder": with_seen(contrastive(), 98_304),
        "prior": replace(with_seen(points(), 307_200), embedding=prior),
        "decoder": replace(DECODER, embedding=decoder),
    }
    for name, config in configs.items():
        if not (folder / name / "run.json").is_file():
            given = replace(config, data=DATA)
            ou.train("scenes", config=given, out=folder / name, device="cpu")
    torch.set_num_threads(1)
    return encoder, ou.load(folder / "prior"), ou.load(folder / "decoder")


def with_seen(config: RunConfig, seen: int) -> RunConfig:
    return replace(config, train=replace(config.train, seen=seen))


def measure(folder: Path, captions: int) -> dict[str, Any]:
    """How often the encoder finds, the prior is found, and the pictures show what was asked."""
    place, prior, decoder = runs(folder)
    encoder = decoder.encoder
    assert encoder is not None
    train, held = open_data("scenes", DATA).split(DATA.validation, 0)
    assert held.captions is not None
    texts = held.captions.first
    drawn = encoder.of_x(drawn_by(prior, decoder, SampleOptions(text=texts))(range(len(texts))))
    near = (drawn @ encoder.of_pictures(held.stored).T).argmax(1)
    found = Share(hits=int((near == torch.arange(len(texts))).sum()), n=len(texts))

    asked = requests(captions, 0, train)
    said, how = tuple(a.caption for a in asked), {"guidance": GUIDANCE, "device": "cpu"}
    draw = generator("scenes", "two stages")
    pictures = torch.from_numpy(np.stack([paint(a.scene, draw, scans()) for a in asked]))
    others = pictures.roll(1, 0)
    of = {"how": "embedding", "draws": 1, **how}
    results: dict[str, Samples] = {
        "prior": ou.sample(decoder, captions, text=said, prior=prior, **how),
        "text": ou.sample(decoder, captions, text=said, **how),
        "picture": ou.edit(decoder, pictures, **of).samples,
        "other": ou.edit(decoder, others, **of).samples,
    }
    judged = {name: judged_as(samples, asked) for name, samples in results.items()}
    judged["real"] = {k: plain(v) for k, v in ceiling(captions, 0).items()}
    return {
        "data": {"name": "scenes", "train": len(train), "held_out": len(held)},
        "seen": {"encoder": encoder.seen, "prior": prior.seen, "decoder": decoder.seen},
        "guidance": GUIDANCE,
        "retrieval": measure_retrieval(place).facts,
        "prior_retrieval": plain(found),
        "shares": judged,
    }


def judged_as(samples: Samples, asked: Sequence[Any]) -> dict[str, Any]:
    """The shares of pictures that show what was asked for."""
    seen = reader()(np.moveaxis(samples.arrays, -1, 1))
    found = shares([judge(a.scene, s) for a, s in zip(asked, seen, strict=True)])
    return {name: plain(share) for name, share in found.items()}


def table() -> None:
    """Put what was measured between the marks of the page."""
    found = json.loads(RESULTS.read_text())
    data, seen, retrieval = found["data"], found["seen"], found["retrieval"]
    n, captions = retrieval["pairs"], found["shares"]["real"]["all"]["n"]
    chance = f"{100 * retrieval['floor']:.2g} %"
    lines = [
        f"| nearest of {n} held-out scenes | is the right one | chance |",
        "|---|---|---|",
        f"| picture to a caption | {_share(retrieval['by_text'], n)} | {chance} |",
        f"| caption to a picture | {_share(retrieval['by_picture'], n)} | {chance} |",
        f"| picture to what the prior draws for a caption | {_share(found['prior_retrieval'])} "
        f"| {100 / n:.2g} % |",
        "",
        f"| the decoder is told the embedding | {' | '.join(RESPECTS)} |",
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
        f"the prior {seen['prior']:,}, the decoder {seen['decoder']:,}; guidance "
        f"{found['guidance']:g} ([benchmarks/prior.py](../benchmarks/prior.py)).",
    ]
    before, rest = PAGE.read_text().split(START)
    body = "\n".join(lines)
    PAGE.write_text(f"{before}{START}\n\n{body}\n\n{STOP}{rest.split(STOP)[1]}")


def _share(row: dict[str, Any], n: int | None = None) -> str:
    count = n or row["n"]
    return str(Share(hits=round(row["share"] * count), n=count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", choices=["table"])
    parser.add_argument("--captions", type=int, default=200)
    chosen = parser.parse_args()
    if chosen.only is None:
        kept = os.environ.get("ORNSTEIN_RUNS")
        with tempfile.TemporaryDirectory() as temporary:
            found = measure(Path(kept or temporary), chosen.captions)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    table()


if __name__ == "__main__":
    main()
