"""A dataset as plain values and tensors, and back: what is kept of it in files."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from .captions import Captions, Words
from .codec import Codec
from .dataset import Attributes, Dataset
from .given import Given
from .names import Unusable
from .options import DataOptions
from .patches import Part, Patches
from .reader import Reader


def tensors_of(data: Dataset) -> dict[str, Tensor]:
    """All tensors of a dataset that was opened, by name."""
    found = {"stored": data.stored}
    if data.label is not None:
        found["label"] = data.label
    if data.attributes is not None:
        found["attributes"] = data.attributes.values
    if data.given is not None:
        found["given"] = data.given.stored
    if (patches := data.patches) is not None:
        found |= {"pixels": patches.pixels, "part": patches.part}
        found |= {"cell": patches.cell, "still": patches.still}
    return found


def to_plain(data: Dataset) -> dict[str, Any]:
    """All else of it, as JSON can hold it; but its source and its options."""
    told: dict[str, Any] = {
        "codec": data.codec.to_dict(),
        "ids": data.ids,
        "classes": data.classes,
        "fingerprint": data.fingerprint,
        "problems": data.problems,
        "sizes": list(data.sizes.items()),
        "unread": data.unread,
    }
    if (known := data.attributes) is not None:
        told["attributes"] = {"names": known.names, "mean": known.mean, "std": known.std}
    if (said := data.captions) is not None:
        told["captions"] = {
            "texts": said.texts,
            "words": asdict(said.words) if isinstance(said.words, Words) else None,
        }
    if (given := data.given) is not None:
        told["given"] = {"codec": given.codec.to_dict(), "block": given.block}
    if (patches := data.patches) is not None:
        told["patches"] = {"parts": patches.parts, "size": patches.size}
    return told


def from_plain(
    told: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str, options: DataOptions
) -> Dataset:
    """The dataset that `to_plain` and `tensors_of` took apart.

    Raises:
        KeyError, TypeError, ValueError, ModelFileError: If they do not belong together.
        DataError: If the encoder of its texts is no longer there.
    """
    known, given, patches = (told.get(name) for name in ("attributes", "given", "patches"))
    return Dataset(
        codec=Codec.from_dict(told["codec"]),
        stored=tensors["stored"],
        ids=told["ids"],
        label=tensors.get("label"),
        classes=told["classes"],
        attributes=known
        and Attributes(
            names=tuple(known["names"]),
            values=tensors["attributes"],
            mean=tuple(known["mean"]),
            std=tuple(known["std"]),
        ),
        captions=_captions(told["captions"], options) if "captions" in told else None,
        given=given
        and Given(
            codec=Codec.from_dict(given["codec"]), stored=tensors["given"], block=given["block"]
        ),
        patches=patches
        and Patches(
            pixels=tensors["pixels"],
            parts=tuple(Part(*part) for part in patches["parts"]),
            size=patches["size"],
            part=tensors["part"],
            cell=tensors["cell"],
            still=tensors["still"],
        ),
        fingerprint=told["fingerprint"],
        problems=[Unusable(*problem) for problem in told["problems"]],
        sizes={(width, height): count for (width, height), count in told["sizes"]},
        unread=told["unread"],
        source=source,
        options=options,
    )


def _captions(told: Mapping[str, Any], options: DataOptions) -> Captions:
    texts, words = tuple(tuple(row) for row in told["texts"]), told["words"]
    if words is not None:
        merges, added = tuple(words["merges"]), tuple(words["added"])
        return Captions(
            words=Words(merges=merges, length=words["length"], added=added), texts=texts
        )
    if options.text_encoder is None:
        raise ValueError("expected words, or the encoder that reads the texts")
    every = [text for row in texts for text in row]
    return Captions(words=Reader.opened(options.text_encoder, every), texts=texts)
