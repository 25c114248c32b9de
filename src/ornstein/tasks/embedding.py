"""Pictures by what an encoder sees in them: turned by two texts, and what a decoder is told."""

import torch
from torch import Tensor

from ..errors import UsageError
from ..runs.embedding import Encoder
from ..runs.model import Model
from .asking import Heard
from .options import DrawOptions, EditOptions

ROUNDED = 1e-5  # between embeddings of length 1 that differ in rounding alone


def sphere(a: Tensor, b: Tensor, shares: Tensor) -> Tensor:
    """Points between two latents ``(*S)`` along the sphere, one for each of `shares` ``(N,)``."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0)
    angle = cosine.clamp(-1, 1).acos().clamp_min(1e-6)
    u = shares.view(-1, *(1 for _ in a.shape))
    return (((1 - u) * angle).sin() * a + (u * angle).sin() * b) / angle.sin()


def turned(e: Tensor, source: Tensor, target: Tensor, share: float) -> Tensor:
    """Embeddings of pictures ``(P, E)``, turned by what is between those of two texts ``(E,)``.

    Along the sphere, a `share` of the way towards ``(target - source) / |target - source|``; where
    the texts say the same, not at all.

    Source: Ramesh et al. (2022), https://arxiv.org/abs/2204.06125, section 3.3.
    """
    apart = target - source
    if apart.norm() < ROUNDED:
        return e
    shares = torch.tensor([share], dtype=e.dtype)
    return torch.cat([sphere(one, apart / apart.norm(), shares) for one in e])


def told_by(model: Model, options: DrawOptions) -> Encoder | None:
    """The encoder by which a decoder is told of pictures; none if it is told something else."""
    decodes = model.encoder is not None and model.config.embedding.role == "decoder"
    return model.encoder if decodes and not options.text else None


def heard_of(
    model: Model, back: Model, stored: Tensor, options: EditOptions
) -> tuple[Heard | None, Heard | None]:
    """What is heard of each picture on the way to noise, and of each result on the way back.

    Raises:
        UsageError: If the run to come back by hears no embeddings, but is asked by them.
    """
    to, encoder = told_by(model, options), told_by(back, options)
    away = None if to is None else dealt(to, to.of_pictures(stored))
    if encoder is None:
        if options.how == "embedding" or options.from_text is not None:
            raise UsageError(
                "This run is not told the embeddings of pictures: train one by `ornstein train "
                "DATA --embedding ENCODER`, and leave --text out."
            )
        return away, None
    e = encoder.of_pictures(stored)
    if options.from_text is not None and options.to_text is not None:
        source, target = encoder.of_texts([options.from_text, options.to_text])
        e = turned(e, source, target, options.turn)
    return away, dealt(encoder, e.repeat_interleave(options.draws, 0))


def dealt(encoder: Encoder, e: Tensor) -> Heard:
    """One embedding for each example, by its number, as networks hear it."""
    values = encoder.pictures.standard(e)
    return lambda examples: values[torch.as_tensor(examples)]
