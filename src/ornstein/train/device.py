"""Where training runs: the device, the precision of its products, the processes that share it."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import UsageError
from ..runs.quick import has_bf16 as has_bf16

Precision = Literal["f32", "bf16"]


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` is a GPU if there is one.

    Raises:
        UsageError: If this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UsageError(
            f"There is no device {name!r} here; leave --device out, or say cpu."
        ) from None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which the network computes; its weights stay float32."""
    if precision == "f32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """PyTorch with so many threads: sums, and so the last bits of weights, depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class World:
    """The processes that train one run together, each on its share of every batch.

    What they compute is that of one process, but for the order of a sum: each takes a slice of
    the same global batch, and gradients are added.

    Args:
        rank: Of this process. Rank 0 alone writes.
        size: How many there are.
        device: On which messages travel.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls, device: torch.device) -> "World":
        """The world that ``torchrun`` describes in the environment; else one process."""
        size = int(os.environ.get("WORLD_SIZE", 1))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), size, device)

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` examples, in order; shares differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tensors: list[Tensor]) -> None:
        """Add each of `tensors` over all processes, in place; one message."""
        if self.size == 1:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        parts = flat.split([t.numel() for t in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def count(self, flag: bool) -> int:
        """How many processes say yes."""
        if self.size == 1:
            return int(flag)
        votes = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(votes)
        return int(votes)

    def tell(self, text: str = "") -> str:
        """What rank 0 says, to all."""
        if self.size == 1:
            return text
        letters = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        length = torch.tensor([len(letters)], device=self.device)
        dist.broadcast(length, 0)
        letters = letters if self.writes else letters.new_empty(int(length))
        dist.broadcast(letters, 0)
        return bytes(letters.tolist()).decode()
