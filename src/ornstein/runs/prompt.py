"""What a person asks for in words: texts with emphasis, put together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..data.captions import Reads
from ..errors import UsageError

AND = re.compile(r"\s+AND\s+")
NOT = re.compile(r"NOT\s+")
STRESSED = re.compile(r"(?<!\\)\(((?:\\[()]|[^():])+):([^():]*)\)")
MEANT = re.compile(r"[()\\]|\b(?:AND|NOT)\b")  # which a backslash before it takes away
LEAST, MOST = 0.01, 100.0  # emphasis


@dataclass(frozen=True)
class Term:
    """A part of a prompt that is a text by itself.

    Args:
        spans: Its parts, each with the emphasis that lies on it.
        share: 1 to go towards it, -1 away from it.
    """

    spans: tuple[tuple[str, float], ...]
    share: float = 1.0

    @property
    def text(self) -> str:
        return "".join(part for part, _ in self.spans)


@dataclass(frozen=True)
class Prompt:
    """One or several texts that all are to hold.

    >>> Prompt.read("a (red:1.5) 7 AND NOT a square").terms[0].spans
    (('a ', 1.0), ('red', 1.5), (' 7', 1.0))

    Args:
        terms: At least one.
        source: As it was written.
    """

    terms: tuple[Term, ...]
    source: str = ""

    @classmethod
    def read(cls, source: str) -> "Prompt":
        """Read ``(words:1.4)`` as emphasis, ``AND`` and ``AND NOT`` between texts.

        With a backslash before them, brackets, AND and NOT are what they are in any text.

        Raises:
            UsageError: If an emphasis is no number, or out of its bounds.
        """
        terms = []
        for part in AND.split(source.strip()):
            away = NOT.match(part)
            text = part[away.end() :] if away else part
            terms.append(Term(_spans(text, source), -1.0 if away else 1.0))
        return cls(tuple(terms), source)


def _spans(text: str, source: str) -> tuple[tuple[str, float], ...]:
    spans, place = list[tuple[str, float]](), 0
    for found in STRESSED.finditer(text):
        try:
            weight = float(found[2])
        except ValueError:
            weight = torch.nan
        if not LEAST <= weight <= MOST:
            raise UsageError(
                f"The emphasis in {found[0]!r} of the text {source!r} must be a number from "
                f"{LEAST:g} to {MOST:g}, as in (red:1.4)."
            )
        spans += [(text[place : found.start()], 1.0), (found[1], weight)]
        place = found.end()
    spans.append((text[place:], 1.0))
    return tuple((_plain(part), weight) for part, weight in spans if part) or (("", 1.0),)


def quoted(text: str) -> str:
    """What is read as `text` and nothing more, whatever stands in it.

    >>> Prompt.read(quoted("noon (12:30) AND after")).terms[0].text
    'noon (12:30) AND after'
    """
    return MEANT.sub(r"\\\g<0>", text)


def _plain(text: str) -> str:
    return re.sub(rf"\\({MEANT.pattern})", r"\1", text)


def terms_of(prompts: Sequence[Prompt]) -> int:
    """The most terms of one of `prompts`; 0 if all are but a text."""
    plain = all(len(p.terms) == 1 and all(term.share == 1 for term in p.terms) for p in prompts)
    return 0 if plain else max(len(p.terms) for p in prompts)


def told_by(prompts: Sequence[Prompt], words: Reads, terms: int = 0) -> dict[str, Tensor]:
    """The conditions ``text`` and, where it is not all 1, ``emphasis`` ``(P, L)`` of P prompts.

    With room for K `terms`, ``text`` and ``emphasis`` are ``(P, K, L)``, and ``shares`` ``(P, K)``
    are 0 for terms that are not there: what `core.guide.Composed` expects.
    """
    room = (len(prompts), terms or 1)
    text = words.nothing.repeat(prod(room), *(1 for _ in words.nothing.shape[1:])).unflatten(
        0, room
    )
    emphasis, shares = torch.ones(*room, words.length), torch.zeros(room)
    for i, prompt in enumerate(prompts):
        for k, term in enumerate(prompt.terms):
            text[i, k] = words.tensor([term.text])[0]
            emphasis[i, k], shares[i, k] = words.emphasis(term.spans), term.share
    told = {"text": text} if (emphasis == 1).all() else {"text": text, "emphasis": emphasis}
    if terms:
        return told | {"shares": shares}
    return {name: value[:, 0] for name, value in told.items()}
