"""Randomness as a function of a key: nothing random is ever saved, and nothing is ever shared."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(*key: int | str) -> np.random.Generator:
    """A generator whose stream is a function of the `key` alone.

    The 128-bit key of a Philox counter generator is the BLAKE2b digest of `key`, written with its
    types: ``(1, 23)``, ``(12, 3)`` and ``("1", 23)`` give independent streams.

    Source: Salmon et al. (2011), https://doi.org/10.1145/2063384.2063405.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def normal(shape: Sequence[int], *key: int | str) -> Tensor:
    """Standard Gaussian noise, float32 on the CPU, a function of `shape` and `key` alone."""
    return torch.from_numpy(generator(*key).standard_normal(tuple(shape), dtype=np.float32))


class Streams:
    """Gaussian noise in which example i has a stream of its own, a function of (seed, i) alone.

    What example i draws depends neither on the batch it is drawn in nor on its neighbours, so a
    sample is the same picture whether it is made alone, among 64, or on two machines. Drawn on
    the CPU in float32 and moved, so that devices and dtypes agree too.

    Args:
        seed: The seed of the whole set.
        examples: The indices i of the examples of this batch, in order.
    """

    def __init__(self, seed: int, examples: Sequence[int]) -> None:
        self._generators = [generator("example", int(seed), int(i)) for i in examples]

    def __call__(self, like: Tensor) -> Tensor:
        """The next standard Gaussian draw ``(B, *S)``, of the shape, dtype, device of `like`."""
        if len(like) != len(self._generators):
            raise ValueError(f"expected a batch of {len(self._generators)}, got {len(like)}")
        draws = np.empty(like.shape, np.float32)
        for i, stream in enumerate(self._generators):
            draws[i] = stream.standard_normal(draws.shape[1:], dtype=np.float32)
        return torch.from_numpy(draws).to(like)
