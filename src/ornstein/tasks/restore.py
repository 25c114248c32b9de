"""Mend pictures: draw what is masked from the posterior, given what is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.denoise import Denoiser
from ..core.measure import Mask
from ..core.posterior import PosteriorDenoiser
from ..core.sample import OnStep
from ..data.codec import Codec
from ..data.image import ImageCodec
from ..errors import UsageError
from ..runs.model import Model
from .options import RestoreOptions, checked
from .sample import Run, Samples, conditions, draw, label_names, maker, opened, plan, png

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Restored:
    """Pictures, and what was put where they were masked.

    Args:
        given: What was given ``(P, C, *S)``, as x.
        keep: True where it is known ``(P, C, *S)``.
        samples: The restorations, `draws` of the first picture, then of the second.
    """

    given: Tensor
    keep: Tensor
    samples: Samples

    @property
    def draws(self) -> int:
        """Restorations of each picture."""
        return len(self.samples) // len(self.given)

    def panel(self, scale: int | None = None) -> "Image.Image":
        """One row for each picture: what was given, what was known of it, its restorations."""
        known = torch.where(self.keep, self.given, 0.0)
        drawn = self.samples.x.unflatten(0, (len(self.given), self.draws))
        rows = torch.cat([self.given[:, None], known[:, None], drawn], 1)
        return self.samples.codec.preview(rows.flatten(0, 1), rows.shape[1], scale)

    def save(self, folder: str | Path) -> list[Path]:
        """Write each restoration in the format of the data, and return the paths."""
        return self.samples.save(folder)

    def _repr_png_(self) -> bytes:
        return png(self.panel())


def restore(
    run: Run,
    pictures: str | Path | Sequence[str | Path] | Tensor,
    mask: str | Path | Tensor | np.ndarray,
    draws: int = 4,
    *,
    device: str | torch.device = "auto",
    on_step: OnStep | None = None,
    **options: Any,
) -> Restored:
    """Fill in the masked part of pictures, several times over; the rest is kept exactly.

    Args:
        run: The run, or its folder.
        pictures: Files, or what they hold as a stored batch ``(P, C, *S)`` in the data's units.
        mask: What to fill in: a picture, white there; or booleans, true there, that broadcast to
            ``(P, C, *S)``.
        draws: Restorations of each picture.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        on_step: Called with x_s ``(B, C, *S)`` and s after each step of
            each block of examples.
        **options: Those of `RestoreOptions`.

    Raises:
        UsageError: If an option is unknown or out of its bounds, or the mask does not fit.
        DataError: If a picture cannot be read.
    """
    chosen = checked(RestoreOptions, {"draws": draws, **options})
    model = opened(run, device)
    given = model.codec.pack(_stored(model.codec, pictures))
    keep = ~_read_mask(model.shape, mask, len(given))
    x = fill(model, given, keep, chosen, on_step)
    count = range(len(x))
    labels, made = label_names(model, chosen, count), maker(model, chosen.seed)
    samples = Samples(x, model.codec, labels=labels, made=made)
    return Restored(given, keep, samples)


def fill(
    model: Model,
    given: Tensor,
    keep: Tensor,
    options: RestoreOptions,
    on_step: OnStep | None = None,
) -> Tensor:
    """Draws ``(P draws, C, *S)`` that agree with `given` ``(P, C, *S)`` where `keep` is true."""
    prior, steps = plan(model, options)
    if keep.all():
        raise UsageError("The mask asks for nothing: make it white where to fill in.")

    def posterior(examples: Sequence[int]) -> Denoiser:
        rows = torch.tensor(examples) // options.draws
        told = prior.given(**conditions(model, options, examples))
        y = torch.where(keep[rows], given[rows], 0.0).to(model.device)
        mask = Mask(keep[rows].to(model.device))
        return PosteriorDenoiser(told, mask, y, sigma_y=0, iterations=options.iterations)

    total = len(given) * options.draws
    x = draw(model, posterior, steps, options.seed, range(total), on_step)
    rows = torch.arange(total) // options.draws
    return torch.where(keep[rows], given[rows], x)


def _stored(codec: Codec, pictures: str | Path | Sequence[str | Path] | Tensor) -> Tensor:
    if isinstance(pictures, Tensor):
        if tuple(pictures.shape[1:]) != codec.shape:
            raise UsageError(
                f"The pictures have shape {tuple(pictures.shape)}, but the run was trained on "
                f"{codec.shape}: give (P, {', '.join(map(str, codec.shape))})."
            )
        return pictures
    paths = [pictures] if isinstance(pictures, (str, Path)) else list(pictures)
    if not paths:
        raise UsageError("An empty list of pictures: give at least one.")
    return torch.cat([codec.read(Path(path)) for path in paths])


def _read_mask(
    shape: tuple[int, ...], mask: str | Path | Tensor | np.ndarray, count: int
) -> Tensor:
    """True where to fill in, ``(P, C, *S)``; a picture is scaled and cut as those of the data."""
    if isinstance(mask, (str, Path)):
        if len(shape) != 3:
            raise UsageError("A mask from a file is for pictures: give a tensor of booleans.")
        grey = ImageCodec(shape=(1, *shape[1:]), dtype="uint8", mean=(0.0,), std=(1.0,))
        hole = grey.read(Path(mask)) >= 128
        if len(hole) not in (1, count):
            raise UsageError(f"{mask} holds {len(hole)} pictures: give one, or {count}.")
    else:
        hole = torch.as_tensor(mask)
        if hole.dtype != torch.bool:
            raise UsageError(f"The mask is of {hole.dtype}: give booleans, true where to fill in.")
    try:
        return hole.expand(count, *shape)
    except RuntimeError:
        raise UsageError(
            f"The mask has shape {tuple(hole.shape)}, which does not fit {count} pictures of "
            f"shape {shape}."
        ) from None
