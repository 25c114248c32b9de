"""What people say of each example, and the pieces of words that a network reads of it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..errors import DataError, ModelFileError
from .files import Files
from .names import Unusable, shown
from .reader import Reader

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Spans = Sequence[tuple[str, float]]
"""A text in parts, each with the emphasis that lies on it."""
Texts = tuple[tuple[str, ...], ...]
"""The captions of each example; none where it is empty."""

MERGES = 4096  # pieces beside the 256 bytes
MOST_PIECES = 128  # of one text
MOST_CHARACTERS = 4096
NAMED = 10  # examples without a caption
TEXT, TEXT_FILE, TEXT_BYTES = "text", ".txt", 2**16


@dataclass(frozen=True, kw_only=True)
class Words:
    """Byte pairs: the pieces in which a text is read, learned from captions. No text lacks one.

    Args:
        merges: The two pieces, with a space between, that make each piece beside the 256 bytes.
        length: Pieces that are read of a text at most.
        added: Words that came later, each a piece of its own.

    Raises:
        ValueError: If a merge is none, or the length is out of its bounds.

    Source: Sennrich et al. (2016), https://arxiv.org/abs/1508.07909; bytes: Radford et al. (2019),
    "Language models are unsupervised multitask learners".
    """

    merges: tuple[str, ...]
    length: int
    added: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.length <= MOST_PIECES:
            raise ValueError(f"a text must have 1 to {MOST_PIECES} pieces, got {self.length}")
        if len(self.merges) > MERGES or any(len(m.split(" ")) != 2 for m in self.merges):
            raise ValueError(f"expected at most {MERGES} merges of two pieces")
        if any(word != "".join(word.lower().split()) or not word for word in self.added):
            raise ValueError(f"expected added words in small letters, without spaces: {self.added}")

    @classmethod
    def learned(cls, texts: Sequence[str]) -> "Words":
        """The pieces that occur most often in `texts`, as long as the longest of them.

        Raises:
            DataError: If the library `tokenizers` is not installed.
        """
        import json

        from_scratch = _tokenizer({}, [])
        trainers, alphabet = _library().trainers, _alphabet()
        from_scratch.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=len(alphabet) + MERGES,
                min_frequency=2,
                initial_alphabet=alphabet,
                show_progress=False,
            ),
        )
        merges = json.loads(from_scratch.to_str())["model"]["merges"]
        words = cls(merges=tuple(" ".join(pair) for pair in merges), length=MOST_PIECES)
        longest = max((len(words.pieces(text)) for text in set(texts)), default=1)
        return replace(words, length=min(MOST_PIECES, -(-longest // 8) * 8))

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self._vocabulary) + len(self.added)

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        numbers = {letter: i for i, letter in enumerate(_alphabet())}
        for merge in self.merges:
            first, second = merge.split(" ")
            if first not in numbers or second not in numbers:
                raise ModelFileError(f"The words of the run merge {shown(merge)}: no two pieces.")
            numbers.setdefault(first + second, len(numbers))
        return numbers

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        pairs = [(a, b) for a, b in (merge.split(" ") for merge in self.merges)]
        tokenizer, one = _tokenizer(self._vocabulary, pairs), _library().AddedToken
        tokenizer.add_tokens([one(word, single_word=True, lstrip=True) for word in self.added])
        return tokenizer

    def pieces(self, text: str) -> list[int]:
        """The numbers of the pieces of a text, all of them."""
        return self._tokenizer.encode(text[:MOST_CHARACTERS]).ids

    @property
    def nothing(self) -> Tensor:
        """The condition ``text`` of no text ``(1, length)``."""
        return torch.full((1, self.length), -1)

    def tensor(self, texts: Iterable[str]) -> Tensor:
        """The condition ``text`` ``(B, length)``, int64, -1 behind the last piece; cut to it."""
        texts = list(texts)
        numbers = self.nothing.repeat(len(texts), 1)
        for row, text in zip(numbers, texts, strict=True):
            ids = self.pieces(text)[: self.length]
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return numbers

    def emphasis(self, spans: Spans) -> Tensor:
        """The condition ``emphasis`` ``(length,)`` of one text in parts: that of each piece."""
        weights = torch.ones(self.length)
        ends, total = [], 0
        for part, weight in spans:
            ends.append(((total := total + len(part)), weight))
        found = self._tokenizer.encode("".join(part for part, _ in spans)[:MOST_CHARACTERS])
        for i, (_, end) in enumerate(found.offsets[: self.length]):
            weights[i] = next(weight for last, weight in ends if end <= last)
        return weights

    def unread(self, text: str) -> str:
        """What is left of a text behind the pieces that are read; empty if it fits."""
        offsets = self._tokenizer.encode(text[:MOST_CHARACTERS]).offsets
        if len(offsets) <= self.length:
            return text[MOST_CHARACTERS:]
        return text[offsets[self.length - 1][1] :]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that the captions had once or never: they are read in pieces.

        What the captions had twice is a piece of its own; but of captions with too many words for
        that, none is said to be unknown.
        """
        if len(self.merges) == MERGES:
            return []
        found = self._tokenizer.encode(text[:MOST_CHARACTERS])
        places = defaultdict[int | None, list[tuple[int, int]]](list)
        for word, place in zip(found.word_ids, found.offsets, strict=True):
            places[word].append(place)
        in_pieces = [pieces for pieces in places.values() if len(pieces) > 1]
        return list(dict.fromkeys(text[p[0][0] : p[-1][1]].strip() for p in in_pieces))


class Reads(Protocol):
    """By what texts are read: `Words`, a `Reader`, or the encoder of another library's pipeline.

    What it makes of them is the condition ``text``, and of their emphasis ``emphasis``.
    """

    @property
    def length(self) -> int: ...
    @property
    def nothing(self) -> Tensor: ...
    def tensor(self, texts: Iterable[str]) -> Tensor: ...
    def emphasis(self, spans: Sequence[tuple[str, float]]) -> Tensor: ...
    def unread(self, text: str) -> str: ...


class Learns(Reads, Protocol):
    """Encoders of another library's pipeline, which can be taught words."""

    @property
    def words(self) -> Mapping[str, Mapping[str, Tensor]]: ...
    def taught(self, word: str, vectors: Mapping[str, Tensor]) -> "Learns": ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Captions:
    """The captions of each example of a dataset.

    Args:
        words: In which they are read, or by whom.
        texts: Of each of the N examples; none where it is empty.
    """

    words: Reads
    texts: Texts = field(repr=False)

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], encoder: str | None = None) -> "Captions":
        """With words learned from them, or read by the encoder of that name."""
        rows = tuple(tuple(row) for row in texts)
        every = [text for row in rows for text in row]
        words = Words.learned(every) if encoder is None else Reader.opened(encoder, every)
        return cls(words=words, texts=rows)

    @property
    def kept(self) -> Words | Reader | None:
        """The words, where a run keeps them: who is lent with a network stays where that is."""
        return self.words if isinstance(self.words, Words | Reader) else None

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, indices: Tensor) -> "Captions":
        return replace(self, texts=tuple(self.texts[i] for i in indices.tolist()))

    @property
    def first(self) -> tuple[str, ...]:
        """The first caption of each example; empty where there is none."""
        return tuple(row[0] if row else "" for row in self.texts)

    def notices(self, names: Sequence[str]) -> list[str]:
        """What to know before learning from them, in sentences: who has none, and what is cut.

        Args:
            names: Of the N examples.
        """
        said = []
        if silent := [name for name, row in zip(names, self.texts, strict=True) if not row]:
            more = f" and {len(silent) - NAMED:,} more" if len(silent) > NAMED else ""
            some = ", ".join(shown(name, 60) for name in silent[:NAMED])
            said.append(f"Without a caption, and learned so, are {len(silent):,}: {some}{more}.")
        every = dict.fromkeys(text for row in self.texts for text in row)
        if cut := [(text, rest) for text in every if (rest := self.words.unread(text))]:
            text, rest = cut[0]
            said.append(
                f"Longer than the {self.words.length} pieces that are read of a caption are "
                f"{len(cut):,}: of {shown(text)!r}, {shown(rest)!r} is left out."
            )
        return said

    @cached_property
    def longest(self) -> int:
        """The example that has the longest caption."""
        numbers, which, first, _ = self._numbers
        place = int(_pieces(numbers)[which[:-1]].argmax()) if len(which) > 1 else 0
        return max(int(torch.searchsorted(first, place, right=True)) - 1, 0)

    @cached_property
    def _numbers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The captions that differ, as the network hears them, and last none; which of them each
        caption is; of each example the place of its first, and how many it has."""
        every = [text for row in self.texts for text in row]
        place = {text: i for i, text in enumerate(dict.fromkeys(every))}
        numbers = torch.cat([self.words.tensor(place), self.words.nothing])
        which = torch.tensor([*(place[text] for text in every), len(place)])
        count = torch.tensor([len(row) for row in self.texts])
        return numbers, which, count.cumsum(0) - count, count

    def tensor(self, indices: Tensor, draws: Tensor | None = None) -> Tensor:
        """The condition ``text`` ``(B, L)`` of examples, `words.nothing` where there is none.

        L is the most pieces that one of them has, rounded up to a multiple of 8, so that there are
        few shapes: a network that learns hears no more. Who is lent with a network has its own.

        Args:
            indices: ``(B,)``.
            draws: ``(B,)`` in [0, 1), which of its captions; the first if not given.
        """
        numbers, which, first, count = self._numbers
        here, many = indices.cpu(), count[indices.cpu()]
        picked = torch.zeros_like(here) if draws is None else (draws.cpu() * many).long()
        told = numbers[which[torch.where(many > 0, first[here] + picked, -1)]]
        if self.kept is None or not len(told):
            return told
        return told[:, : 8 * max(-(-int(_pieces(told).max()) // 8), 1)]


def called(word: str, texts: Texts) -> Texts:
    """Captions that begin with the word that all examples are, or are it where there is none.

    >>> called("sks", (("a red square",), ()))
    (('sks a red square',), ('sks',))
    """
    return tuple(tuple(f"{word} {text}" for text in row) or (word,) for row in texts)


def _pieces(numbers: Tensor) -> Tensor:
    """How many pieces each of the conditions ``text`` ``(B, length)`` or ``(B, length, F)`` has."""
    there = numbers >= 0 if numbers.ndim == 2 else ~numbers.isnan().any(2)
    return there.sum(1)


# --- From files ----------------------------------------------------------------------------------


def is_text(name: str) -> bool:
    """Whether a file may hold the captions of the picture beside it."""
    return name.lower().endswith(TEXT_FILE)


def read_captions(
    files: Files, names: Sequence[str], rows: Mapping[str, Mapping[str, Any]], place: str
) -> dict[str, tuple[str, ...]]:
    """What is said of each picture that something is said of.

    Args:
        files: That hold the texts beside the pictures.
        names: Of the pictures.
        rows: Of the metadata, by the name of the picture.
        place: Of the dataset, for messages.

    Raises:
        DataError: If a caption is no text, or a file of them no UTF-8.
    """
    found = {n: _texts(rows[n][TEXT], n, place) for n in names if TEXT in rows.get(n, {})}
    pictures = defaultdict[str, list[str]](list)
    for n in names:
        pictures[n.rpartition(".")[0]].append(n)
    beside = {n: pictures[stem] for n in files.sizes if is_text(n) and (stem := n[:-4]) in pictures}
    for name, data in files.stream(sorted(beside)):
        if isinstance(data, Unusable) or len(data) > TEXT_BYTES:
            raise DataError(f"{shown(place)}: {shown(name)} cannot be read; mend or remove it.")
        try:
            lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
        except UnicodeDecodeError:
            raise DataError(
                f"{shown(place)}: {shown(name)} is no text in UTF-8; save it as that."
            ) from None
        for n in beside[name]:
            found[n] = found.get(n, ()) + tuple(line for line in lines if line)
    return {name: texts for name, texts in found.items() if texts}


def _texts(value: Any, name: str, place: str) -> tuple[str, ...]:
    """One caption, or a list of them."""
    values = value if isinstance(value, list) else [value]
    if any(v is not None and not isinstance(v, str) for v in values):
        raise DataError(
            f"{shown(place)}: the text of {shown(name)} is {shown(repr(value))}; write words in "
            "quotes, or a list of them."
        )
    if any(v and not _is_unicode(v) for v in values):
        raise DataError(
            f"{shown(place)}: the text of {shown(name)}, {shown(repr(value))}, holds half of a "
            "letter (\\ud800 to \\udfff), which no text in UTF-8 has; mend it."
        )
    return tuple(text for v in values if v and (text := v.strip()))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- The library ---------------------------------------------------------------------------------


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise DataError(
            "Captions are read with the library tokenizers, which is not installed: "
            "pip install 'ornstein[text]'."
        ) from None
    return tokenizers


def _alphabet() -> list[str]:
    """A letter for each of the 256 bytes, in order."""
    return sorted(_library().pre_tokenizers.ByteLevel.alphabet())


def _tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> "Tokenizer":
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE(vocabulary, merges))
    normalizers = library.normalizers
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer
