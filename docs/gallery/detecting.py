"""docs/pictures/detecting.png: whole scans and damaged ones, and where the damage is seen."""

import numpy as np
import torch
from gallery import Gallery, Shown, main, screen, sheet

import ornstein as ou
from ornstein.tasks.detect import HOT, WARM
from ornstein.tasks.examples import training_data


def make(gallery: Gallery) -> Shown:
    model = gallery.digits()
    held_out = training_data(model)[1]
    fresh, known = torch.arange(len(held_out)).split([8, len(held_out) - 8])
    scans = held_out.stored[fresh]
    faults = {"": scans[:2], **damaged(scans[2:])}
    under = gallery.pick("best", "any")
    names = [name or "whole" for name, part in faults.items() for _ in part]
    found = ou.detect(
        model, torch.cat([*faults.values()]), normal=held_out.subset(known), under=under, alpha=0.05
    )
    assert found.heat is not None
    pictures = screen(model, found.x)
    marked = [shade(p, h) for p, h in zip(pictures, found.heat, strict=True)]
    judged = zip(found.p, found.flagged, strict=True)
    notes = [names, [f"p {p:.3f}" + " !" * bool(flagged) for p, flagged in judged]]
    caption = (
        f"Two held-out digits as they were scanned, and six that were damaged, by a run that has "
        f"seen {model.seen:,} whole ones; seed 0. Below, in yellow to red, what errs {WARM:g} to "
        f"{HOT:g} standard deviations above normal, and the p-value by {found.normals} others that "
        "it never saw; an exclamation mark where it is at most 0.05. "
        f"{found.calls} denoiser calls for each digit."
    )
    alt = "Digits, whole and damaged, and the same under their heat maps"
    return Shown(sheet([("scan", pictures), ("heat", marked)], notes=notes), alt, caption)


def damaged(scans: torch.Tensor) -> dict[str, torch.Tensor]:
    """Six scans ``(6, 1, 8, 8)`` with three kinds of faults, two of each."""
    scans = scans.clone()
    scans[0, 0, 1], scans[1, 0, :, 6] = 14, 14
    scans[2, 0, 2:5, 2:5], scans[3, 0, 4:7, 3:6] = 0, 0
    scans[4:6] = scans[4:6].flip(-2)
    return {"scratch": scans[:2], "hole": scans[2:4], "turned over": scans[4:6]}


def shade(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture in grey under its heat: yellow at `WARM`, red at `HOT`."""
    part = np.clip((heat - WARM) / (HOT - WARM), 0, 1)[..., None]
    colour = np.concatenate([np.full_like(part, 255), 190 * (1 - part), 0 * part], -1)
    cover = np.where(part > 0, 0.4 + 0.5 * part, 0)
    return np.rint(picture.mean(-1, keepdims=True) * (1 - cover) + colour * cover).astype(np.uint8)


if __name__ == "__main__":
    main("detecting", make)
