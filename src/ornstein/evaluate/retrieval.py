"""How well an encoder of pictures and texts finds the one by the other, in what it never saw."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.shares import Share
from ..data import open_data
from ..data.codec import write_bytes
from ..errors import UsageError
from ..runs.config import RunConfig
from ..runs.embedding import captioned, encoder_of
from ..runs.folder import RunFolder

MOST = 1000  # pairs


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """How often the nearest of N is the right one; one with the same caption is as right.

    Args:
        by_text: Of the pictures nearest to each caption.
        by_picture: Of the captions nearest to each picture.
        floor: What chance finds: 1 / N, but for captions that occur more than once.
    """

    by_text: Share
    by_picture: Share
    floor: float

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values, for programs."""
        both = {"by_text": self.by_text, "by_picture": self.by_picture}
        shares = {name: {"share": s.value, "interval": s.interval} for name, s in both.items()}
        return {"pairs": self.by_text.n, **shares, "floor": self.floor}

    def lines(self) -> list[str]:
        """What the command prints."""
        beside = f"nearest of {self.by_text.n:,}, chance {100 * self.floor:.2g} %"
        rows = {
            "picture found by caption": self.by_text,
            "caption found by picture": self.by_picture,
        }
        return [f"{name:<24} {share}, {beside}" for name, share in rows.items()]

    def save(self, run: RunFolder) -> None:
        """Write ``retrieval.json``, and lines of the model card, into the run."""
        metrics = {"pictures found by caption": self.by_text.value}
        metrics |= {"captions found by picture": self.by_picture.value, "chance": self.floor}
        with run.lock():
            write_bytes(
                run.evaluation / "retrieval.json", json.dumps(self.facts, indent=1).encode()
            )
            run.write_card(metrics=metrics)


def is_encoder(run: str | Path) -> bool:
    """Whether the run is an encoder of pictures and texts; what is no run is none."""
    if not (Path(run) / "run.json").is_file():
        return False
    return RunConfig.from_toml(RunFolder.open(run).config_toml).net.kind == "contrastive"


def measure_retrieval(run: str | Path, device: str | torch.device = "cpu") -> Retrieval:
    """Measure an encoder on what its training left out: each picture with its first caption.

    Raises:
        UsageError: If nothing was left out, or the run is no encoder.
        StorageError: If its training has not come to an end.
    """
    encoder, folder = encoder_of(run, device), RunFolder.open(run)
    config = RunConfig.from_toml(folder.config_toml)
    data = open_data(config.source, config.data)
    held = captioned(data.split(config.data.validation, config.seed)[1])
    if len(held) < 2:
        raise UsageError(f"{run} left out fewer than two pairs: train with --data.validation.")
    held = held.subset(torch.arange(min(MOST, len(held))))
    assert held.captions is not None
    texts = held.captions.first
    same = torch.tensor([[one == other for other in texts] for one in texts])
    near = encoder.of_texts(texts) @ encoder.of_pictures(held.stored).T
    rows = torch.arange(len(texts))
    found = (same[rows, near.argmax(1)], same[rows, near.argmax(0)])
    by_text, by_picture = (Share(hits=int(hits.sum()), n=len(texts)) for hits in found)
    return Retrieval(by_text=by_text, by_picture=by_picture, floor=same.float().mean().item())
