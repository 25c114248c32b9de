"""Texts as a pipeline of diffusers hears them: by its own encoders, frozen."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from ..data.names import shown
from ..errors import ModelFileError, UsageError
from .pipeline import Pipeline, needed

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "LDMBertModel")
TOKENIZERS = ("CLIPTokenizer", "T5Tokenizer", "BertTokenizer")
SENTENCES = "spiece.model"
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", SENTENCES)
LONGEST = 512  # pieces, for an encoder of any length of which its pipeline says nothing
REMEMBERED = 32  # texts, of megabytes each where the encoders are large
WORD = r"[^\s():]+"  # that a prompt can hold


class Heard(NamedTuple):
    """What one encoder says of texts.

    Args:
        pieces: Of each piece, by its last layer ``(B, L, D)``.
        before: By the last layer but one ``(B, L, D)``.
        whole: Of the whole text ``(B, P)``; None if it says nothing of it.
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
    return Said(one.pieces, one.pieces.new_zeros(len(one.pieces), 0))


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
    absent = first.new_zeros(len(first), *room)
    [second] = [h.pieces for h in heard if h.whole is None] or [absent]
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

    Attributes:
        words: Those it was taught, each with its vectors ``(V, D)``, which stand for as many
            pieces.
    """

    def __init__(self, name: str, net: Any, tokenizer: Any, length: int, masked: bool) -> None:
        self.name, self.net, self.tokenizer = name, net, tokenizer
        self.length, self.masked = length, masked
        self.words: dict[str, Tensor] = {}
        self._known = len(tokenizer)

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
        return cls(part, net.requires_grad_(False), tokenizer, length, masked)

    @property
    def table(self) -> Tensor:
        """The vectors of the pieces that it knew before any word was taught ``(N, D)``."""
        return self.net.get_input_embeddings().weight

    def pieces(self, texts: Sequence[str]) -> Tensor:
        """The numbers of the pieces of texts ``(B, length)``; what is too long is cut."""
        how = {"padding": "max_length", "truncation": True, "max_length": self.length}
        spelt = [self._spelt(text) for text in texts]
        return self.tokenizer(spelt, **how, return_tensors="pt").input_ids

    def __call__(self, pieces: Tensor, newest: Tensor | None = None) -> Heard:
        """What it says of pieces; it goes where they are.

        Args:
            pieces: ``(B, length)``.
            newest: Vectors ``(V, D)`` in place of those of the word that it was taught last.
        """
        there = pieces != self.tokenizer.pad_token_id
        attends = self.masked or getattr(self.net.config, "use_attention_mask", False)
        vectors = [self.table[:0], *self.words.values()]
        if newest is not None:
            vectors[-1] = newest
        net, new = self.net.to(pieces.device), pieces - self._known
        with _in_place(net.get_input_embeddings(), new, torch.cat(vectors)):
            out = net(
                pieces.masked_fill(new >= 0, 0),
                attention_mask=there.long() if attends else None,
                output_hidden_states=True,
                return_dict=True,
            )
        said = out.last_hidden_state
        if self.masked:
            said = said.masked_fill(~there[..., None], torch.nan)
        projected = out.get("text_embeds")
        whole = out.get("pooler_output") if projected is None else projected
        return Heard(said, out.hidden_states[-2], whole, projected is not None)

    def taught(self, word: str, vectors: Tensor) -> "TextEncoder":
        """The same encoder, which knows a word more.

        Args:
            word: As it will stand in texts.
            vectors: ``(V, D)``, that stand for as many pieces.

        Raises:
            UsageError: If it knows the word already, or the word is none.
        """
        every, other = _numbered(word, len(vectors)), copy(self)
        if not re.fullmatch(WORD, word):
            raise UsageError(f"The word {shown(word)!r} must have no spaces, brackets or colons.")
        vocabulary = {*self.tokenizer.get_vocab(), *map(str.lower, self.words)}
        if vocabulary & {*every, word.lower()}:
            raise UsageError(
                f"The word {shown(word)!r} is one that the {self.name} knows already: take one "
                f"that means nothing, such as {shown(f'<{word}>')!r}."
            )
        token, other.tokenizer = needed("transformers").AddedToken, deepcopy(self.tokenizer)
        other.tokenizer.add_tokens([token(one, single_word=True) for one in every])
        other.words = self.words | {word: vectors}
        return other

    def mean(self, text: str) -> Tensor:
        """The mean ``(1, D)`` of the vectors of the pieces of a text; of all, if it is empty."""
        if not text:
            return self.table.mean(0, keepdim=True)
        numbers = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        return self.table[numbers[0].to(self.table.device)].mean(0, keepdim=True)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where in the text the pieces begin and end; equal for those that stand for no letters."""
        how = {"truncation": True, "max_length": self.length, "return_offsets_mapping": True}
        return self.tokenizer(self._spelt(text), **how).offset_mapping

    def emphasis(self, spans: Sequence[tuple[str, float]]) -> list[float]:
        """That of each piece of a text in parts."""
        parts = [(self._spelt(part), weight) for part, weight in spans]
        each = [weight for part, weight in parts for _ in part]
        places = self.offsets("".join(part for part, _ in spans))
        return [each[end - 1] if begin < end else 1.0 for begin, end in places]

    def unread(self, text: str) -> str:
        """What is left of a text behind the pieces that are read; empty if it fits."""
        read = max((end for _, end in self.offsets(text)), default=0)
        return self._spelt(text)[read:].strip()

    def _spelt(self, text: str) -> str:
        """A text with all the pieces of words that are several."""
        for word, vectors in self.words.items():
            if len(vectors) > 1:
                every = " ".join(_numbered(word, len(vectors)))
                alone = rf"(?<!\w){re.escape(word)}(?!\w)"
                text = re.sub(alone, lambda _, every=every: every, text, flags=re.IGNORECASE)
        return text


def _numbered(word: str, count: int) -> list[str]:
    """The pieces of a word, by the names that diffusers gives them.

    >>> _numbered("<cat>", 3)
    ['<cat>', '<cat>_1', '<cat>_2']
    """
    return [word, *(f"{word}_{i}" for i in range(1, count))]


@contextmanager
def _in_place(table: nn.Module, which: Tensor, vectors: Tensor) -> Iterator[None]:
    """Let a table of pieces say a row of `vectors` ``(N, D)`` where `which` ``(B, L)`` is not < 0.

    The table itself stays as it is, and is not copied to be a little longer.
    """

    def said(_: nn.Module, __: Any, found: Tensor) -> Tensor:
        if not len(vectors):
            return found
        new = embedding(which.clamp_min(0), vectors.to(found))
        return torch.where(which[..., None] < 0, found, new)

    hook = table.register_forward_hook(said)
    try:
        yield
    finally:
        hook.remove()


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
        self.layout = Layout.of(self._heard(self.pieces([""]), {}))
        self._said = lru_cache(REMEMBERED)(self._say)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PipelineReader":
        """Itself: it is frozen, and large."""
        return self

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
        return torch.cat([self._said("")[:0], *(self._said(text) for text in texts)])

    def emphasis(self, spans: Sequence[tuple[str, float]]) -> Tensor:
        """The condition ``emphasis`` ``(length,)`` of one text in parts: that of each piece.

        Raises:
            UsageError: If the network cannot be told it.
        """
        weights = torch.ones(self.length)
        if all(weight == 1 for _, weight in spans):
            return weights
        if not self.weighs:
            raise UsageError(
                "This network looks at texts and pictures at once, and knows no emphasis: leave "
                "the numbers in (word:1.4) out."
            )
        each = self.encoders[0].emphasis(spans)
        weights[: len(each)] = torch.tensor(each)
        return weights

    def unread(self, text: str) -> str:
        """What any of the encoders leaves out, and which, if others read on; empty if it fits."""
        rests = {encoder.name: encoder.unread(text) for encoder in self.encoders}
        longest = max(rests.values(), key=len)
        short = [name for name, rest in rests.items() if rest]
        if len(set(rests.values())) == 1:
            return longest
        return f"{longest} (by {', '.join(short)})"

    @property
    def words(self) -> dict[str, dict[str, Tensor]]:
        """Those it was taught, each with its vectors ``(V, D)`` to each encoder, by its name."""
        every = dict.fromkeys(word for encoder in self.encoders for word in encoder.words)
        return {
            word: {e.name: e.words[word] for e in self.encoders if word in e.words}
            for word in every
        }

    def taught(self, word: str, vectors: Mapping[str, Tensor]) -> "PipelineReader":
        """The same reader, which knows a word more.

        Args:
            word: As it will stand in texts.
            vectors: ``(V, D)`` to each encoder that is to know it, by its name.

        Raises:
            UsageError: If one of them knows it already, or it is none.
            ModelFileError: If the vectors are none of theirs.
        """
        widths = {encoder.name: encoder.table.shape[1] for encoder in self.encoders}
        for name, value in vectors.items():
            if value.ndim != 2 or value.shape[1] != widths.get(name) or not len(value):
                raise ModelFileError(
                    f"The word {shown(word)!r} has vectors of shape {tuple(value.shape)} for the "
                    f"{shown(name)}, but the encoders take rows of: {shown(str(widths))}."
                )
        other = copy(self)
        other.encoders = tuple(
            encoder.taught(word, vectors[encoder.name]) if encoder.name in vectors else encoder
            for encoder in self.encoders
        )
        other._said = lru_cache(REMEMBERED)(other._say)
        return other

    def pieces(self, texts: Sequence[str]) -> Tensor:
        """The numbers of the pieces of texts ``(B, P)``, those to each encoder in turn."""
        return torch.cat([encoder.pieces(texts) for encoder in self.encoders], 1)

    def read(self, pieces: Tensor, newest: Mapping[str, Tensor]) -> Tensor:
        """The condition ``text`` ``(B, rows, width)`` of pieces, which differs by `newest`.

        Args:
            pieces: ``(B, P)``.
            newest: To each encoder, vectors in place of those of the word it was taught last.
        """
        return self.layout.laid_out(self._heard(pieces, newest))

    @torch.no_grad()
    def _say(self, text: str) -> Tensor:
        return self.read(self.pieces([text]), {})

    def _heard(self, pieces: Tensor, newest: Mapping[str, Tensor]) -> Said:
        each = pieces.split([encoder.length for encoder in self.encoders], 1)
        heard = [
            encoder(numbers, newest.get(encoder.name))
            for encoder, numbers in zip(self.encoders, each, strict=True)
        ]
        return self.join(heard, self.room)
