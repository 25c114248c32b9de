"""Networks of other libraries, by which runs go that have none of ours.

`interop`, which alone knows the folders that they lie in, says here who opens them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..data.names import shown
from ..errors import UsageError
from .config import NetConfig

if TYPE_CHECKING:
    from torch import nn

    from .model import Model

    Net = TypeVar("Net", bound=nn.Module)

LENDERS: dict[str, "Callable[[str], Model]"] = {}
"""By the kind of a network, what opens the folder that it is lent from."""

_open: "ContextVar[dict[tuple[str, str], Model] | None]" = ContextVar("open", default=None)


@contextmanager
def opened_once() -> Iterator[None]:
    """Inside, each such folder is opened once, and let go of at the end."""
    if _open.get() is not None:
        yield
        return
    token = _open.set({})
    try:
        yield
    finally:
        _open.reset(token)


def lender(kind: str, place: str | Path) -> "Model":
    """The model in a folder of another library, to be looked at: others may look at it too."""
    if (known := _open.get()) is None:
        return LENDERS[kind](str(place))
    key = kind, str(Path(place).resolve())
    if key not in known:
        known[key] = LENDERS[kind](str(place))
    return known[key]


def apart(net: "Net") -> "Net":
    """A network that is lent, to be changed: a copy, if others may look at it."""
    return net if _open.get() is None else deepcopy(net)


def lent(config: NetConfig) -> "Model":
    """The model whose network, codec and reader a run goes by that has no network of ours.

    Raises:
        UsageError: If it is no longer there.
    """
    if not Path(config.pipeline).is_dir():
        raise UsageError(
            f"{shown(config.pipeline)} is no longer there, whose network the run goes on with: put "
            "it back."
        )
    return lender(config.kind, config.pipeline)
