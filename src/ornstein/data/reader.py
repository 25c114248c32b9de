"""Encoders of texts that others trained: frozen, and what they said once is kept on disk."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, ModelFileError
from .codec import write_bytes
from .names import shown

MOST_PIECES = 128  # of one text
AT_ONCE = 32  # texts
KEPT_FROM = 64  # different texts, whose encodings are kept on disk
ENCODERS = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}
"""Of these kinds, the half that reads; the others are encoders as a whole."""


class Parts(NamedTuple):
    """What an encoder is made of."""

    tokenizer: Any
    net: Any
    mark: str


@dataclass(frozen=True, kw_only=True)
class Reader:
    """An encoder of the library transformers, by which texts are read in place of learned words.

    Args:
        encoder: Its folder, or its name in the cache of this machine.
        mark: A hash of its weights: no other will do.
        width: Numbers that it says of each piece.
        length: Pieces that are read of a text at most.

    Raises:
        ValueError: If the length or the width is out of its bounds.
    """

    encoder: str
    mark: str
    width: int
    length: int

    def __post_init__(self) -> None:
        if not (1 <= self.length <= MOST_PIECES and 1 <= self.width <= 4096):
            raise ValueError(f"expected 1 to {MOST_PIECES} pieces of 1 to 4096 numbers, got {self}")

    @classmethod
    def opened(cls, encoder: str, texts: Sequence[str]) -> "Reader":
        """The encoder at a place, to read texts as long as the longest of these.

        Raises:
            DataError: If it is not on this machine, or the library is not.
            ModelFileError: If it does not hold the weights that it says, in safetensors.
        """
        place = str(Path(encoder).resolve()) if Path(encoder).is_dir() else encoder
        tokenizer, net, mark = _parts(place)
        most = min(MOST_PIECES, tokenizer.model_max_length)
        longest = max((len(ids) for ids in tokenizer(list(texts) or [""])["input_ids"]), default=1)
        width = net.config.hidden_size
        return cls(encoder=place, mark=mark, width=width, length=min(most, -(-longest // 8) * 8))

    @property
    def nothing(self) -> Tensor:
        """The condition ``text`` of no text ``(1, length, width)``."""
        return torch.full((1, self.length, self.width), torch.nan, dtype=torch.float16)

    def tensor(self, texts: Iterable[str]) -> Tensor:
        """The condition ``text`` ``(B, length, width)``, in float16, NaN behind the last piece."""
        texts = list(texts)
        if len(texts) < KEPT_FROM:
            return self._encode(texts)
        from safetensors.torch import load_file, save

        names = blake2b(repr((self.mark, self.length, texts)).encode(), digest_size=16).hexdigest()
        path = _cache() / f"{names}.safetensors"
        if path.is_file():
            try:
                return load_file(path)["text"]
            except Exception:  # as many kinds as ways to be broken: it is only a copy
                path.unlink(missing_ok=True)
        told = self._encode(texts)
        write_bytes(path, save({"text": told}))
        return told

    def emphasis(self, spans: Sequence[tuple[str, float]]) -> Tensor:
        """The condition ``emphasis`` ``(length,)`` of one text in parts: that of each piece."""
        weights, ends, total = torch.ones(self.length), [], 0
        for part, weight in spans:
            ends.append(((total := total + len(part)), weight))
        for i, (begin, end) in enumerate(self._offsets("".join(part for part, _ in spans))):
            if begin < end:  # the others stand for no letters
                weights[i] = next(weight for last, weight in ends if end <= last)
        return weights

    def unread(self, text: str) -> str:
        """What is left of a text behind the pieces that are read; empty if it fits."""
        return text[max((end for _, end in self._offsets(text)), default=0) :].strip()

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        how = {"truncation": True, "max_length": self.length, "return_offsets_mapping": True}
        return self._parts.tokenizer(text, **how)["offset_mapping"]

    @property
    def _parts(self) -> Parts:
        parts = _parts(self.encoder)
        if parts.mark != self.mark:
            raise ModelFileError(
                f"{shown(self.encoder)} is not the encoder that the run was trained with: put that "
                "one back."
            )
        return parts

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Tensor:
        tokenizer, net, _ = self._parts
        told = self.nothing.repeat(len(texts), 1, 1)
        for i in range(0, len(texts), AT_ONCE):
            read = tokenizer(
                texts[i : i + AT_ONCE],
                padding="max_length",
                truncation=True,
                max_length=self.length,
                return_tensors="pt",
            )
            there = read["attention_mask"].bool()
            said = net(input_ids=read["input_ids"], attention_mask=there).last_hidden_state
            told[i : i + AT_ONCE] = said.half().masked_fill(~there[..., None], torch.nan)
        return told


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "ornstein" / "texts"


@cache
def _parts(encoder: str) -> Parts:
    try:
        import transformers
        from huggingface_hub import snapshot_download
    except ImportError:
        raise DataError(
            "The encoder of texts needs the library transformers: pip install 'ornstein[text]'."
        ) from None
    transformers.logging.set_verbosity_error()
    try:
        here = Path(encoder)
        folder = here if here.is_dir() else Path(snapshot_download(encoder, local_files_only=True))
    except (OSError, ValueError):
        raise DataError(
            f"{shown(encoder)} is no folder, and not in the cache of this machine: fetch it with "
            f"`hf download {shown(encoder)}`."
        ) from None
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelFileError(f"{shown(folder)} holds no weights in safetensors.")
    digest = blake2b(digest_size=16)
    for file in [folder / "config.json", *files]:
        digest.update(file.read_bytes() if file.is_file() else b"")
    local: dict[str, Any] = {"local_files_only": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        kind = transformers.AutoConfig.from_pretrained(folder, **local).model_type
        network = getattr(transformers, ENCODERS.get(kind, "AutoModel"))
        net, report = network.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **local
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = shown(" ".join(str(error).split()), 300)
        raise ModelFileError(f"{shown(folder)} cannot be opened: {reason}.") from None
    if absent := [name for name in sorted(report["missing_keys"]) if "pooler" not in str(name)]:
        raise ModelFileError(f"{shown(folder)} does not hold {shown(str(absent[0]))}.")
    return Parts(tokenizer, net.float().eval().requires_grad_(False), digest.hexdigest())
