"""How far a task is, or the reading of its data, for whoever waits for it.

Whoever works says only of what pieces the work is made: `pieces`, or `counted` where there is no
loop to see. Pieces within a piece count as parts of it. Where nobody watches, nothing is told.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

Watch = Callable[[float], None]
"""Told the share that is done, in [0, 1]; a task of several stages begins again at each."""

Item = TypeVar("Item")


class Part(NamedTuple):
    """What the work now being done is of the whole: from share `low` to share `high`."""

    watch: Watch
    low: float = 0.0
    high: float = 1.0

    def cut(self, i: int, count: int) -> "Part":
        """Piece i of `count` equal ones."""
        size = (self.high - self.low) / count
        return Part(self.watch, self.low + i * size, self.low + (i + 1) * size)


_PART: ContextVar[Part | None] = ContextVar("part", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Inside, tell `watch` how far the work is, after every piece."""
    before = _PART.get()
    _PART.set(Part(watch))
    try:
        yield
    finally:
        _PART.set(before)


def pieces(items: Sequence[Item]) -> Iterator[Item]:
    """The items in order, each as large a piece of the work as the others."""
    if (part := _PART.get()) is None:
        yield from items
        return
    try:
        for i, item in enumerate(items):
            piece = part.cut(i, len(items))
            _PART.set(piece)
            yield item
            part.watch(piece.high)
    finally:
        _PART.set(part)


def counted(count: int) -> Callable[[], None]:
    """Call what this gives after each of `count` equal pieces of the work."""
    if (part := _PART.get()) is None:
        return lambda: None
    done = iter(range(count))

    def tick() -> None:
        part.watch(part.cut(next(done, count - 1), count).high)

    return tick
