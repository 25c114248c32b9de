"""Texts as a pipeline of diffusers hears them: by its own encoders, frozen."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..data.names import shown
from ..errors import ModelFileError, UsageError
from .pipeline import Pipeline, needed

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "LDMBertModel")
TOKENIZERS = ("CLIPTokenizer", "T5Tokenizer", "BertTokenizer")
SENTENCES = "spiece.model"
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", SENTENCES)
LONGEST = 512  # pieces, for an encoder of any length of which its pipeline says nothing
REMEMBERED = 32  # texts, of megabytes each where the encoders are large


class Heard(NamedTuple):
    """What one encoder says of a text.

    Args:
        pieces: Of each piece, by its last layer ``(1, L, D)``.
        before: By the last layer but one ``(1, L, D)``.
        whole: Of the whole text ``(1, P)``; None if it says nothing of it.
        projected: Whether that was brought to where it meets pictures.
    """

    pieces: Tensor
    before: Tensor
    whole: Tensor | None
    projected: bool


class Said(NamedTuple):
    """What a network hears of texts.

    Args:
        pieces: Of each piece ``(B, L, D)``; NaN where it is to hear nothing.
        whole: Of the whole text ``(B, P)``, P = 0 if it hears nothing of it.
    """

    pieces: Tensor
    whole: Tensor


# --- Several encoders for one network ------------------------------------------------------------

Room = tuple[int, int]
"""Pieces, and the numbers of each, of an encoder that a pipeline may leave out."""

Join = Callable[[Sequence[Heard], Room], Said]
"""What a network hears, from what each encoder of its pipeline says.

Raises `ValueError` if these are not the encoders that it joins.
"""


def alone(heard: Sequence[Heard], room: Room) -> Said:
    """One encoder, of which the network hears the pieces."""
    [one] = heard
    return Said(one.pieces, one.pieces.new_zeros(1, 0))


def abreast(heard: Sequence[Heard], room: Room) -> Said:
    """Of each piece what all say one after the other, by their last layers but one; and the whole.

    Source: Podell et al. (2023), https://arxiv.org/abs/2307.01952, section 2.1.
    """
    wholes = [h.whole for h in heard if h.projected and h.whole is not None]
    if not wholes:
        raise ValueError("expected an encoder of whole texts, got none")
    return Said(torch.cat([h.before for h in heard], -1), torch.cat(wholes, -1))


def stacked(heard: Sequence[Heard], room: Room) -> Said:
    """Those of whole texts abreast, and behind their pieces those of the other; zeros without it.

    Source: Esser et al. (2024), https://arxiv.org/abs/2403.03206, section 4.
    """
    first, whole = abreast([h for h in heard if h.whole is not None], room)
    [second] = [h.pieces for h in heard if h.whole is None] or [first.new_zeros(1, *room)]
    filled = pad(first, (0, max(0, second.shape[-1] - first.shape[-1])))
    return Said(torch.cat([filled, second], 1), whole)


def apart(heard: Sequence[Heard], room: Room) -> Said:
    """One for the whole text, another for its pieces."""
    [whole] = [h.whole for h in heard if h.whole is not None]
    [pieces] = [h.pieces for h in heard if h.whole is None]
    return Said(pieces, whole)


@dataclass(frozen=True)
class Layout:
    """How what is said of a text lies in one table, the condition ``text``.

    A row for each piece; below them, in as many rows as it takes, what is said of the whole.

    Args:
        length: Pieces.
        width: Numbers of each.
        whole: Numbers of the whole.
    """

    length: int
    width: int
    whole: int

    @classmethod
    def of(cls, said: Said) -> "Layout":
        length, width = said.pieces.shape[1:]
        return cls(length, width, said.whole.shape[1])

    def laid_out(self, said: Said) -> Tensor:
        """The table ``(B, rows, width)``."""
        rows = pad(said.whole, (0, -self.whole % self.width)).unflatten(1, (-1, self.width))
        return torch.cat([said.pieces, rows], 1)

    def said(self, table: Tensor) -> Said:
        """What was laid out."""
        pieces, rows = table[:, : self.length], table[:, self.length :]
        return Said(pieces, rows.flatten(1)[:, : self.whole])


# --- Reading -------------------------------------------------------------------------------------


class TextEncoder:
    """An encoder of texts with its tokenizer, always shown as many pieces.

    Args:
        name: Of the part of the pipeline.
        net: Of one of the classes `ENCODERS`.
        tokenizer: That goes with it.
        length: Pieces.
        masked: Whether neither it nor the network attends to what lies behind the end of a text.
            The others were trained to.
    """

    def __init__(self, name: str, net: Any, tokenizer: Any, length: int, masked: bool) -> None:
        self.name, self.net, self.tokenizer = name, net, tokenizer
        self.length, self.masked = length, masked

    @classmethod
    def opened(cls, pipeline: Pipeline, part: str, masked: bool) -> "TextEncoder":
        """That of a part of a pipeline."""
        net, tokenizer = pipeline.load(part).eval(), _tokenizer(pipeline, part)
        places = getattr(net.config, "max_position_embeddings", None)
        if places is None:  # it knows how far pieces are from each other, and not where they are
            places = pipeline.default("max_sequence_length")
            length = places or min(LONGEST, tokenizer.model_max_length)
        else:
            length = min(places, tokenizer.model_max_length)
        return cls(part, net, tokenizer, length, masked)

    @torch.no_grad()
    def __call__(self, text: str) -> Heard:
        how = {"padding": "max_length", "truncation": True, "max_length": self.length}
        read = self.tokenizer([text], **how, return_tensors="pt")
        attends = self.masked or getattr(self.net.config, "use_attention_mask", False)
        mask = read.attention_mask if attends else None
        out = self.net(
            read.input_ids, attention_mask=mask, output_hidden_states=True, return_dict=True
        )
        pieces = out.last_hidden_state
        if self.masked:
            pieces = pieces.masked_fill(read.attention_mask[..., None] == 0, torch.nan)
        projected = out.get("text_embeds")
        whole = out.get("pooler_output") if projected is None else projected
        return Heard(pieces, out.hidden_states[-2], whole, projected is not None)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where in the text the pieces begin and end; equal for those that stand for no letters."""
        how = {"truncation": True, "max_length": self.length, "return_offsets_mapping": True}
        return self.tokenizer(text, **how).offset_mapping

    def unread(self, text: str) -> str:
        """What is left of a text behind the pieces that are read; empty if it fits."""
        return text[max((end for _, end in self.offsets(text)), default=0) :].strip()


def _tokenizer(pipeline: Pipeline, part: str) -> Any:
    name = part.replace("text_encoder", "tokenizer") if "text_encoder" in part else "tokenizer"
    kind = pipeline.parts.get(name, "none").removesuffix("Fast")
    if kind not in TOKENIZERS:
        raise ModelFileError(
            f"{shown(pipeline.path)}: the tokenizer {shown(kind)} of its {shown(part)} is not one "
            f"of {', '.join(TOKENIZERS)}."
        )
    folder = pipeline.path / name
    there = [file for file in VOCABULARIES if (folder / file).is_file()]
    if not there:  # of which transformers makes a tokenizer that knows nothing
        raise ModelFileError(f"{shown(folder)} holds no vocabulary ({', '.join(VOCABULARIES)}).")
    if there == [SENTENCES] and find_spec("sentencepiece") is None:
        raise UsageError(f"{shown(folder / SENTENCES)} needs: pip install sentencepiece protobuf.")
    try:
        return getattr(needed("transformers"), kind).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise ModelFileError(f"{shown(folder)} cannot be loaded: {reason}.") from None


class PipelineReader:
    """The text encoders of a pipeline, one or several, and how they are joined.

    Args:
        encoders: At least one.
        join: What the network hears of what they say.
        room: For an encoder that the pipeline goes without.
        weighs: Whether the network can be told how much a piece counts.
        silent: Whether no text is zeros to it; else it is the empty one.
    """

    def __init__(
        self,
        encoders: Sequence[TextEncoder],
        join: Join,
        room: Room,
        *,
        weighs: bool = True,
        silent: bool = False,
    ) -> None:
        self.encoders, self.join, self.room = tuple(encoders), join, room
        self.weighs, self.silent = weighs, silent
        self.layout = Layout.of(self._joined(""))
        self._said = lru_cache(REMEMBERED)(self._say)

    @property
    def length(self) -> int:
        """Pieces that the network hears of."""
        return self.layout.length

    @property
    def nothing(self) -> Tensor:
        """The condition ``text`` of no text ``(1, rows, width)``."""
        empty = self._said("")
        return torch.zeros_like(empty) if self.silent else empty

    def tensor(self, texts: Iterable[str]) -> Tensor:
        """The condition ``text`` ``(B, rows, width)``, see `Layout`; what is too long is cut."""
        return torch.cat([self._said(text) for text in texts])

    def emphasis(self, spans: Sequence[tuple[str, float]]) -> Tensor:
        """The condition ``emphasis`` ``(length,)`` of one text in parts: that of each piece.

        Raises:
            UsageError: If the network cannot be told it.
        """
        weights, text = torch.ones(self.length), "".join(part for part, _ in spans)
        if all(weight == 1 for _, weight in spans):
            return weights
        if not self.weighs:
            raise UsageError(
                "This network looks at texts and pictures at once, and knows no emphasis: leave "
                "the numbers in (word:1.4) out."
            )
        each = [weight for part, weight in spans for _ in part]
        for i, (begin, end) in enumerate(self.encoders[0].offsets(text)):
            if begin < end:
                weights[i] = each[end - 1]
        return weights

    def unread(self, text: str) -> str:
        """What any of the encoders leaves out, and which, if others read on; empty if it fits."""
        rests = {encoder.name: encoder.unread(text) for encoder in self.encoders}
        longest = max(rests.values(), key=len)
        short = [name for name, rest in rests.items() if rest]
        if len(set(rests.values())) == 1:
            return longest
        return f"{longest} (by {', '.join(short)})"

    def _joined(self, text: str) -> Said:
        return self.join([encoder(text) for encoder in self.encoders], self.room)

    def _say(self, text: str) -> Tensor:
        return self.layout.laid_out(self._joined(text))
