"""Encoders of texts that others trained: frozen, and what they said once is kept on disk."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, ModelFileError
from .cache import folder
from .names import shown

Pieces = tuple[int, ...]
"""The numbers of the pieces of a text, as far as it is read."""

Result = TypeVar("Result")

MOST_PIECES = 128  # of one text
AT_ONCE = 32  # texts
KEPT_FROM = 64  # different texts, of which is kept on disk what was said
PATIENCE = 30.0  # seconds, while another process writes there
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
        """The condition ``text`` ``(B, length, width)``, in float16, NaN behind the last piece.

        Of many texts, each is read once: what was said of it is kept on disk.
        """
        rows = self._pieces(list(texts))
        every = list(dict.fromkeys(rows))
        said = self._read_once(every) if len(every) >= KEPT_FROM else self._read(every)
        told = self.nothing.repeat(len(rows), 1, 1)
        for row, pieces in zip(told, rows, strict=True):
            row[: len(pieces)] = said[pieces]
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

    def _pieces(self, texts: list[str]) -> list[Pieces]:
        if not texts:  # which tokenizers refuse
            return []
        how = {"truncation": True, "max_length": self.length}
        return [tuple(ids) for ids in self._parts.tokenizer(texts, **how)["input_ids"]]

    def _room(self, pieces: Pieces) -> int:
        """Places for a text: a multiple of 8, or as many as there are at most."""
        return min(self.length, -(-len(pieces) // 8) * 8)

    def _read_once(self, every: Sequence[Pieces]) -> dict[Pieces, Tensor]:
        """What the encoder says of texts, of each the same whichever others there are.

        For that it sees as many at once as ever, all about as long: sums are rounded by the size
        of what is summed.
        """
        kept = Kept(self.mark, self.width)
        said = kept.read(every)
        new = sorted((one for one in every if one not in said), key=self._room)
        for _, alike in groupby(new, key=self._room):
            for some in _batches(list(alike)):
                found = self._read([*some, *[some[-1]] * (AT_ONCE - len(some))])
                kept.write(found)
                said |= found
        return said

    @torch.no_grad()
    def _read(self, every: Sequence[Pieces]) -> dict[Pieces, Tensor]:
        """What the encoder says ``(pieces, width)`` of each text."""
        tokenizer, net, _ = self._parts
        said = dict[Pieces, Tensor]()
        for some in _batches(every):
            ids = torch.full((len(some), max(map(self._room, some))), tokenizer.pad_token_id or 0)
            there = torch.zeros_like(ids, dtype=torch.bool)
            for i, pieces in enumerate(some):
                ids[i, : len(pieces)], there[i, : len(pieces)] = torch.tensor(pieces), True
            heard = net(input_ids=ids, attention_mask=there).last_hidden_state.half()
            said |= {pieces: heard[i, : len(pieces)] for i, pieces in enumerate(some)}
        return said


def _batches(every: Sequence[Pieces]) -> Iterator[Sequence[Pieces]]:
    return (every[i : i + AT_ONCE] for i in range(0, len(every), AT_ONCE))


class Kept:
    """What an encoder has said of texts, in a file for all runs that go by it.

    It is only a copy: what cannot be read or written is left out, and a broken file removed.

    Args:
        mark: Of the encoder.
        width: Numbers that it says of each piece.
    """

    def __init__(self, mark: str, width: int) -> None:
        self.path, self.width = folder() / "texts" / f"{mark}.db", width

    def read(self, every: Sequence[Pieces]) -> dict[Pieces, Tensor]:
        """Of those that are there."""

        def found(table: sqlite3.Connection) -> dict[Pieces, Tensor]:
            said = dict[Pieces, Tensor]()
            for pieces in every:
                rows = table.execute("SELECT said FROM texts WHERE pieces = ?", (_key(pieces),))
                for (there,) in rows:
                    if len(there) == 2 * len(pieces) * self.width:
                        numbers = np.frombuffer(there, np.float16).copy()
                        said[pieces] = torch.from_numpy(numbers).view(-1, self.width)
            return said

        return self._at(found) or {}

    def write(self, said: Mapping[Pieces, Tensor]) -> None:
        """Keep them beside the others."""
        rows = [(_key(pieces), heard.numpy().tobytes()) for pieces, heard in said.items()]
        self._at(
            lambda table: table.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?)", rows)
        )

    def _at(self, do: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """What is done at the table; None if that fails."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as table, table:
                table.execute(
                    "CREATE TABLE IF NOT EXISTS texts (pieces BLOB PRIMARY KEY, said BLOB)"
                )
                return do(table)
        except (sqlite3.OperationalError, OSError):  # no room, no leave, or too many at it
            return None
        except sqlite3.DatabaseError:
            self.path.unlink(missing_ok=True)
            return None


def _key(pieces: Pieces) -> bytes:
    return np.array(pieces, "<i4").tobytes()


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
