"""Runs of pairs: how far what was drawn lies from what belonged to the given, beside a copy."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

import numpy as np
import torch
from torch import Tensor

from ...data import Dataset
from ...data.codec import Codec
from ...data.given import fitted
from ...errors import DataError
from ...runs.model import Model
from ...tasks.asking import Context, context_from

DRAWN, COPY, ANOTHER = "drawn", "the given, scaled", "what belongs to another"


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far examples lie from what belonged to the given.

    Args:
        mae: Mean absolute difference, in the units of the data.
        mae_error: Its standard error, over the examples.
        psnr: ``10 log10(range^2 / mean square)`` in decibels, of all examples together.
    """

    mae: float
    mae_error: float
    psnr: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One draw for each given, beside what takes no network.

    Args:
        drawn: Of the samples.
        copy: Of the given itself, scaled; None where it is of another kind.
        another: Of what belongs to the next given: what drawing without the given would do.
        n: Pairs.
    """

    drawn: Distance
    copy: Distance | None
    another: Distance
    n: int

    @property
    def rows(self) -> list[tuple[str, Distance]]:
        """What was measured, by name."""
        found = [(DRAWN, self.drawn), (COPY, self.copy), (ANOTHER, self.another)]
        return [(name, distance) for name, distance in found if distance is not None]

    @property
    def sentence(self) -> str:
        """What to make of it."""
        floors = [(name, d.mae) for name, d in self.rows[1:]]
        name, least = min(floors, key=lambda floor: floor[1])
        word = "nearer to" if self.drawn.mae < least else "no nearer to"
        return (
            f"Of {self.n:,} pairs, what was drawn is {word} what belongs to the given than "
            f"{name}: a mean difference of {self.drawn.mae:.3g} against {least:.3g}."
        )


def context_of_pairs(model: Model, data: Dataset, order: Sequence[int]) -> Context:
    """What belongs to the examples `order` of `data`, dealt out in turn.

    Raises:
        DataError: If the data hold no pairs, or pairs of another kind.
    """
    assert model.given is not None
    if data.given is None:
        raise DataError(
            f"{data.source} holds no pairs, and the run draws one picture from another: give pairs."
        )
    theirs, ours = data.given.codec, model.given
    if theirs.shape[0] != ours.shape[0] or theirs.dtype != ours.dtype:
        raise DataError(
            f"What is given in {data.source} is {theirs.shape} of {theirs.dtype}, the run was "
            f"given {ours.shape} of {ours.dtype}: give pairs of the kind it was trained on."
        )
    stored = data.given.stored[torch.tensor(order)].numpy()
    context = context_from(model, stored)
    return lambda indices: context[torch.tensor(indices) % len(context)]


def measure_pairs(codec: Codec, x: Tensor, data: Dataset, order: Sequence[int]) -> Paired | None:
    """Compare draws with what belonged to their given; None of fewer than two pairs.

    Args:
        codec: Of the draws.
        x: ``(N, C, *S)``: one draw from each of the examples `order` in turn; more are left out.
        data: The pairs.
        order: As the draws were given them.
    """
    rows = torch.tensor(order)[: len(x)]
    if len(rows) < 2:
        return None
    truth = _values(codec, codec.pack(data.stored[rows]))
    span = float(data.stored.max()) - float(data.stored.min())

    def distance(made: np.ndarray) -> Distance:
        apart = (made - truth).reshape(len(truth), -1)
        each, square = np.abs(apart).mean(1), float((apart**2).mean())
        return Distance(
            mae=float(each.mean()),
            mae_error=float(each.std(ddof=1) / len(each) ** 0.5),
            psnr=10 * log10(span**2 / max(square, 1e-300)),
        )

    copy = _copy(codec, data, rows)
    return Paired(
        drawn=distance(_values(codec, x[: len(rows)])),
        copy=None if copy is None else distance(copy),
        another=distance(np.roll(truth, 1, axis=0)),
        n=len(rows),
    )


def _values(codec: Codec, x: Tensor) -> np.ndarray:
    return codec.stored(x).astype(np.float64)


def _copy(codec: Codec, data: Dataset, rows: Tensor) -> np.ndarray | None:
    """The given as if it were the answer: scaled, and grey in every channel."""
    assert data.given is not None
    given, theirs = data.given.stored[rows], data.given.codec
    alike = theirs.dtype == codec.dtype and theirs.levels == codec.levels
    if not alike or theirs.shape[0] not in (1, codec.shape[0]):
        return None
    scaled = fitted(given.float(), codec.shape[1:]).expand(-1, codec.shape[0], *codec.shape[1:])
    return scaled.double().numpy()
