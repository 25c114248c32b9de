"""What a network is told beside the noisy data, and how it hears it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import FourierFeatures, Heard, Linear, Told, zero
from .text import TextEncoder, TextFeatures

LARGEST_EXAMPLE = 2**28  # numbers: a gibibyte in float32
WAVES = 8
CANVAS = 8  # channels that an embedding fills beside x
COARSE = 256  # points of them, at most


def check_shape(shape: Sequence[int], ndims: Sequence[int]) -> tuple[int, ...]:
    """The shape ``(C, *S)`` of one example as a tuple, if S has as many axes as one of `ndims`."""
    shape = tuple(shape)
    if len(shape) - 1 not in ndims:
        axes = " or ".join(str(n) for n in ndims)
        raise ValueError(f"expected shape (C, *S) with {axes} axes in S, got {shape}")
    if not all(isinstance(n, int) and n >= 1 for n in shape) or prod(shape) > LARGEST_EXAMPLE:
        raise ValueError(f"expected shape of at least 1 and at most 2^28 numbers, got {shape}")
    check_range("channels", shape[0], 1, 4096)
    return shape


def check_size(size: int) -> int:
    """The base width `size`, if it is a multiple of 8 in [8, 2048]."""
    check_range("size", size, 8, 2048)
    if size % 8:
        raise ValueError(f"expected size a multiple of 8, got {size}")
    return size


def check_range(name: str, value: int, least: int, most: int) -> int:
    """`value`, if it is an int in [least, most]."""
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"expected {name} an int in [{least}, {most}], got {value!r}")
    return value


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions a network is built for; each is optional at every call.

    What is not given is not the same as zero: a label is -1, an attribute NaN, a context NaN
    anywhere in its example, and a condition left out is all of these for the whole batch. So one
    network is both the conditional and the unconditional one, as guidance needs.

    Args:
        classes: ``label`` ``(B,)``, int64, in [0, classes).
        attributes: ``attributes`` ``(B, attributes)``, standardised; given or not one by one.
        context: ``context`` ``(B, context, *S)``, seen beside the data, point by point.
        augment: ``augment`` ``(B, augment)``, how the example was augmented. Left out is zeros,
            not augmented: so augmentation does not leak into samples.
        span: 1 for ``span`` ``(B,)``, in [0, 1], how far to look: a student's step in flow time.
            Left out is 0, as a denoiser looks.
        guidance: 1 for ``guidance`` ``(B,)``, the weight of a guidance that the network has
            learned to do by itself. Left out is 1, none.
        words: ``text`` ``(B, L)``, int64, the numbers of its pieces in [0, words) and -1 behind
            the last, L <= length; and ``emphasis`` ``(B, L)``, > 0, left out 1.
        read: In place of `words`, ``text`` ``(B, L, read)``: what another encoder says of
            each piece, NaN behind the last.
        length: Pieces of a text at most; 0 if there are no texts.
        embedding: ``embedding`` ``(B, embedding)``, standardised: what an encoder makes of a whole
            picture or text; not given if any of it is NaN.

    Raises:
        ValueError: If a count is negative or beyond 100,000 classes and words, 4096 of the
            others, 1 of `span` and `guidance`; if texts come in two ways, or have no length.
    """

    classes: int = 0
    attributes: int = 0
    context: int = 0
    augment: int = 0
    span: int = 0
    guidance: int = 0
    words: int = 0
    read: int = 0
    length: int = 0
    embedding: int = 0

    def __post_init__(self) -> None:
        most = {"classes": 100_000, "words": 100_000, "span": 1, "guidance": 1}
        for field in fields(self):
            check_range(field.name, getattr(self, field.name), 0, most.get(field.name, 4096))
        if (self.words > 0) + (self.read > 0) != (self.length > 0):
            raise ValueError(f"expected words or read, and a length, got {self}")


UNCONDITIONAL = Conditions()


class Inputs(nn.Module):
    """Checks what a network is called with, joins the context to x, embeds all the rest.

    The embedding is one vector for each example, a small MLP of the sum of what is known: Fourier
    features of the log-SNR, a vector for the label, a linear map of the attributes and of which
    of them are given, linear maps of the augmentation and of another's embedding. What is not
    given adds zero. From another's embedding, what stands where is drawn beside x too, point by
    point and no finer than `COARSE`.

    Args:
        shape: Of one example, ``(C, *S)``.
        conditions: What the network can be told.
        width: Of the embedding.

    Attributes:
        channels: Of x joined with the context and, if there can be one, with the channel that
            says whether it was given; and with what an embedding draws.
        heard: Width of each piece of a text.

    Source: non-leaking augmentation: Karras et al. (2022), https://arxiv.org/abs/2206.00364,
    appendix F.2.
    """

    def __init__(self, shape: tuple[int, ...], conditions: Conditions, width: int) -> None:
        super().__init__()
        self.shape, self.conditions = tuple(shape), conditions
        self.channels = shape[0] + (conditions.context + 1 if conditions.context else 0)
        self.heard = max(8, width // 2)  # as wide as the rest, texts would cost more than it
        self.features = FourierFeatures(width // 2)
        self.log_snr = Linear(width // 2 * 2, width)
        if conditions.classes:
            self.label = nn.Embedding(conditions.classes, width)
            nn.init.normal_(self.label.weight, std=0.5)  # heard as loudly as the log-SNR
        if conditions.attributes:
            self.attributes = Linear(2 * conditions.attributes, width, bias=False)
        if conditions.augment:
            self.augment = Linear(conditions.augment, width, bias=False)
        if conditions.embedding:
            self.embedding = Linear(conditions.embedding + 1, width, bias=False)
        if conditions.embedding and len(shape) > 1:
            self.coarse = coarsened(shape[1:], COARSE)
            self.canvas = Linear(conditions.embedding + 1, CANVAS * prod(self.coarse))
            self.channels += CANVAS
        if conditions.span:  # both start silent: a student begins as its teacher
            self.span = zero(Linear(WAVES, width, bias=False))
        if conditions.guidance:
            self.guidance = zero(Linear(WAVES, width, bias=False))
        if conditions.words:
            self.text = TextEncoder(conditions.words, conditions.length, self.heard, width)
        if conditions.read:
            self.text = TextFeatures(conditions.read, self.heard, width)
        self.out = Linear(width, width)

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        label: Tensor | None = None,
        attributes: Tensor | None = None,
        context: Tensor | None = None,
        augment: Tensor | None = None,
        span: Tensor | None = None,
        guidance: Tensor | None = None,
        text: Tensor | None = None,
        emphasis: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> tuple[Tensor, Told]:
        """x with its context ``(B, channels, *S)``, and all the rest embedded."""
        self._check(x, log_snr)
        told = self.log_snr(self.features(log_snr).to(x))
        told = told + self._embed(x, label, attributes, augment) + self._dials(x, span, guidance)
        joined = self._join(x, context)
        if self.conditions.embedding or embedding is not None:
            known = self._known(x, embedding)
            told, joined = told + self.embedding(known), self._draw(joined, known)
        whole, heard = self._read(x, text, emphasis)
        told = F.silu(self.out(F.silu(told + whole)))
        return joined, Told(told, heard)

    def _read(
        self, x: Tensor, text: Tensor | None, emphasis: Tensor | None
    ) -> tuple[Tensor, Heard | None]:
        """What the text says as a whole ``(B, width)`` or, of none, ``()``; and piece by piece.

        What is left out says the same of every example, so that it is read once, and is short.
        """
        told, length = self.conditions, self.conditions.length
        if length and text is None and emphasis is None:
            empty = x.new_full((1, 1), -1, dtype=torch.int64)
            if told.read:
                empty = x.new_full((1, 1, told.read), torch.nan)
            whole, (pieces, bias) = self.text(empty, x.new_ones(1, 1))
            each = x.shape[0], -1, -1
            return whole.expand(each[:2]), Heard(pieces.expand(each), bias.expand(*each, -1))
        if text is not None and text.ndim > 1:
            length = min(max(text.shape[1], 1), length)
        shape = x.shape[0], length
        if told.read:
            absent = x.new_full((*shape, told.read), torch.nan)
        else:
            absent = x.new_full(shape, -1, dtype=torch.int64)
        emphasis = _or_absent("emphasis", emphasis, told.length, x.new_ones(shape))
        if (text := _or_absent("text", text, told.length, absent)) is None or emphasis is None:
            return x.new_zeros(()), None
        _check_tensor("emphasis", emphasis, shape)
        if told.read:
            _check_tensor("text", text, (*shape, told.read))
            return self.text(text.to(x), emphasis.to(x))
        self._check_numbers("text", text, shape, told.words)
        return self.text(text, emphasis.to(x))

    def _embed(
        self, x: Tensor, label: Tensor | None, attributes: Tensor | None, augment: Tensor | None
    ) -> Tensor:
        """Sum of the embeddings of the conditions ``(B, width)`` or, of none, ``()``."""
        told, batch, known = self.conditions, x.shape[0], x.new_zeros(())
        absent = x.new_full((batch,), -1, dtype=torch.int64)
        if (label := _or_absent("label", label, told.classes, absent)) is not None:
            self._check_numbers("label", label, (batch,), told.classes)
            known = known + self.label(label.clamp_min(0)) * (label >= 0)[:, None]
        absent = x.new_full((batch, told.attributes), torch.nan)
        attributes = _or_absent("attributes", attributes, told.attributes, absent)
        if attributes is not None:
            _check_tensor("attributes", attributes, tuple(absent.shape))
            given = ~attributes.isnan()
            values = torch.where(given, attributes, 0)
            known = known + self.attributes(torch.cat([values, given], 1).to(x))
        absent = x.new_zeros(batch, told.augment)
        if (augment := _or_absent("augment", augment, told.augment, absent)) is not None:
            _check_tensor("augment", augment, tuple(absent.shape))
            known = known + self.augment(augment.to(x))
        return known

    def _known(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """What an encoder says of the whole, and whether it does ``(B, embedding + 1)``."""
        shape = (x.shape[0], self.conditions.embedding)
        embedding = _or_absent("embedding", embedding, shape[1], x.new_full(shape, torch.nan))
        assert embedding is not None
        _check_tensor("embedding", embedding, shape)
        given = ~embedding.isnan().any(1, keepdim=True)
        return torch.cat([torch.where(given, embedding, 0), given], 1).to(x)

    def _draw(self, x: Tensor, known: Tensor) -> Tensor:
        """x and what stands where, if there are places."""
        if x.ndim == 2:
            return x
        drawn = self.canvas(known).view(-1, CANVAS, *self.coarse).to(x)
        drawn = drawn if self.coarse == x.shape[2:] else F.interpolate(drawn, x.shape[2:])
        return torch.cat([x, drawn], 1)

    def _dials(self, x: Tensor, span: Tensor | None, guidance: Tensor | None) -> Tensor:
        """Sum of the embeddings of two numbers ``(B, width)`` or, of none, ``()``."""
        told, batch, known = self.conditions, x.shape[0], x.new_zeros(())
        if (span := _or_absent("span", span, told.span, x.new_zeros(batch))) is not None:
            _check_tensor("span", span, (batch,))
            known = known + self.span(waves(span).to(x))
        absent = x.new_ones(batch)
        if (weight := _or_absent("guidance", guidance, told.guidance, absent)) is not None:
            _check_tensor("guidance", weight, (batch,))
            known = known + self.guidance(waves(torch.asinh(weight - 1) / 4).to(x))
        return known

    def _join(self, x: Tensor, context: Tensor | None) -> Tensor:
        count = self.conditions.context
        absent = x.new_full((x.shape[0], count, *self.shape[1:]), torch.nan)
        if (context := _or_absent("context", context, count, absent)) is None:
            return x
        _check_tensor("context", context, tuple(absent.shape))
        given = ~context.isnan().flatten(1).any(1).view(-1, *(1 for _ in self.shape))
        seen = torch.where(given, context, 0)
        return torch.cat([x, seen.to(x), given.expand_as(x[:, :1]).to(x)], 1)

    def _check(self, x: Tensor, log_snr: Tensor) -> None:
        if x.ndim != len(self.shape) + 1 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected x {_batched(self.shape)}, got {tuple(x.shape)}")
        if x.dtype != (dtype := self.out.weight.dtype):
            raise ValueError(f"expected x of {dtype}, like the network, got {x.dtype}")
        _check_tensor("log_snr", log_snr, (x.shape[0],))

    def _check_numbers(self, name: str, value: Tensor, shape: tuple[int, ...], count: int) -> None:
        if value.shape != shape or value.dtype != torch.int64:
            raise ValueError(
                f"expected {name} {shape} of torch.int64, got {tuple(value.shape)} of {value.dtype}"
            )
        if value.device.type != "cpu" or torch.compiler.is_compiling() or not value.numel():
            return  # to look would be to wait for the device, which traps what is out of range
        low, high = (int(end) for end in value.aminmax())
        if low < -1 or high >= count:
            raise ValueError(
                f"expected {name} in [0, {count}), or -1 for not given, "
                f"got {low if low < -1 else high}"
            )


def coarsened(space: Sequence[int], most: int) -> tuple[int, ...]:
    """`space`, its axes halved, rounding up, until there are at most so many points."""
    while prod(space) > most:
        space = [-(-n // 2) for n in space]
    return tuple(space)


def waves(value: Tensor) -> Tensor:
    """Sines of a number ``(B,)``, about in [-1, 1]: ``(B, WAVES)``, all zero at zero."""
    rate = torch.arange(1, WAVES + 1, dtype=value.dtype, device=value.device)
    return torch.sin(torch.pi / 2 * rate * value[:, None])


def _or_absent(name: str, value: Tensor | None, count: int, absent: Tensor) -> Tensor | None:
    """`value` or, left out, `absent`; None if the network was built without it.

    So a condition left out takes the path of one not given, and every weight has a gradient in
    every step, as distributed training expects.
    """
    if count:
        return absent if value is None else value
    if value is not None:
        raise ValueError(f"expected no {name}, which the network was built without, got one")
    return None


def _check_tensor(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape or not value.is_floating_point():
        raise ValueError(
            f"expected {name} {shape} of a floating dtype, "
            f"got {tuple(value.shape)} of {value.dtype}"
        )


def _batched(shape: tuple[int, ...]) -> str:
    return f"(B, {', '.join(str(n) for n in shape)})"
