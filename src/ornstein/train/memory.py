"""How much memory a training takes, how many examples it has room for, and what it keeps."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from ..core.denoise import NetDenoiser
from ..nets import DiT, UNet
from .aims import Learner
from .draws import Batch

ROOM = 2**29  # bytes for what is kept for the gradient, where memory is low
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")


def examples_at_once(learner: Learner, one: Batch, room: int = ROOM) -> int:
    """How many examples such as the `one` fit in `room` bytes, at least one.

    A network that recomputes its blocks keeps what lies between them and, while the gradient
    passes through one, what lies within it: together at most half of what it would keep else.
    """
    net = learner.net if isinstance(learner, NetDenoiser) else None
    if not (isinstance(net, (UNet, DiT)) and net.recompute):
        return max(1, room // max(1, kept(learner, one)))
    net.recompute = False
    every = kept(learner, one)
    net.recompute = True
    return max(1, 2 * room // max(1, every))


def kept(learner: Learner, one: Batch) -> int:
    """Bytes of the tensors that the loss of an example keeps for its gradient, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in learner.parameters()}
    storages = dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        learner.loss(one.x, one.t, one.eps, **one.cond)
    return sum(storages.values())


def peak(device: torch.device) -> int:
    """The most bytes that this process has held so far, on a GPU of its memory; 0 if not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    with suppress(OSError, StopIteration):  # Linux counts what the program before it held, too
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # of what the system counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def memory_kept() -> Iterator[None]:
    """What is freed stays with the process meanwhile, where GNU's allocator would give it back.

    Every update takes the same memory again, and each page of it that was given back costs a
    fault: a fifth of the time on small pictures, a twentieth of that of drawing them. The most
    that is held is the same. It is for processes that are there to train or to draw, as those of
    the commands are: afterwards the allocator has the bounds that it finds for itself once large
    blocks were freed, but finds no others any more. Who has set its bounds in the environment keeps
    them.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in CHOSEN):
        yield
        return
    libc, trim_threshold, mmap_threshold, mmap_max = ctypes.CDLL(None), -1, -3, -4
    libc.mallopt(trim_threshold, -1)  # the largest there is
    libc.mallopt(mmap_max, 0)
    try:
        yield
    finally:
        libc.mallopt(mmap_max, 2**16)
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**26)
        libc.malloc_trim(0)
