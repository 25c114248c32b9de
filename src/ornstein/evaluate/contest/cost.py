"""What a piece of work takes."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Tensors(TorchDispatchMode):
    """Counts the bytes of all tensors that operators return, for as long as anything holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        given = {_place(t) for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)}
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if not isinstance(tensor, Tensor) or tensor.device.type == "meta":
                continue
            storage, place = tensor.untyped_storage(), _place(tensor)
            if place in self._known or place in given:  # a view, or what was there before
                continue
            self._known.add(place)
            self.held += storage.nbytes()
            weakref.finalize(storage, self._let_go, place, storage.nbytes())
        self.most = max(self.most, self.held)
        return found

    def _let_go(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.held -= size


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Bytes in tensors at the fullest moment of `work`, beyond those there were before.

    On a GPU as its allocator counts, on a CPU operator by operator, without what an operator needs
    inside. What the interpreter and the libraries take, some 300 MiB, is the same for all work.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with _Tensors() as tensors:
        work()
    return tensors.most
