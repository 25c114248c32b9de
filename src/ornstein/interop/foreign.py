"""Networks of diffusers, called as ours are: what each family is told, and by which names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from ..core.denoise import align
from ..core.noise import Scaling, scales
from ..data.names import shown
from ..errors import ModelFileError, UsageError
from .pipeline import Pipeline
from .texts import Join, Layout, Said, abreast, alone, apart, stacked

MASKED = 1e4  # taken off the attention to what a mask of diffusers hides
SIZES = 6  # numbers that Stable Diffusion XL is told of the size and the crop
THOUSAND = 1000  # by which networks multiply what they are told of the noise, or of guidance

UNKNOWN = ("encoder_hid_dim_type", "class_embed_type")

Clock = Callable[[Tensor], Tensor]
"""What a network is told in place of the log-SNR ``(B,)``."""


class Told(NamedTuple):
    """What a network is told of examples beside x.

    Args:
        step: The noise level, by its clock ``(B,)``.
        points: ``(h, w)`` of x.
        pixels: ``(high, wide)`` of the pictures.
        label: Their classes ``(B,)``, if it knows any.
        said: Of texts, if it hears them.
        mask: How much each piece counts ``(B, L)``, 1 + log / `MASKED`; None for all alike.
        guidance: Its weight ``(B,)``, if it has learned to guide itself; or that in as many
            numbers as it takes ``(B, G)``, see `embedded`.
    """

    step: Tensor
    points: tuple[int, int]
    pixels: tuple[int, int]
    label: Tensor | None = None
    said: Said | None = None
    mask: Tensor | None = None
    guidance: Tensor | None = None


Named = dict[str, Any]
Tell = Callable[[Told], Named]
"""What is told, by the names under which networks of one family take it."""


def of_classes(told: Told) -> Named:
    return {"timestep": told.step, "class_labels": told.label}


def of_texts(told: Told) -> Named:
    assert told.said is not None
    pieces = told.said.pieces
    return {
        "timestep": told.step,
        "encoder_hidden_states": pieces,
        "encoder_attention_mask": told.mask,
    }


def of_texts_and_guidance(told: Told) -> Named:
    return of_texts(told) | {"timestep_cond": told.guidance}


def of_texts_and_crops(told: Told) -> Named:
    """As if the picture had been taken as it was: of this size before, nothing cut off."""
    assert told.said is not None
    sizes = _each(told.step, *told.pixels, 0, 0, *told.pixels)
    added = {"text_embeds": told.said.whole, "time_ids": sizes}
    return of_texts_and_guidance(told) | {"added_cond_kwargs": added}


def of_texts_and_sizes(told: Told) -> Named:
    high, wide = told.pixels
    sizes, ratio = _each(told.step, high, wide), _each(told.step, high / wide)
    return of_texts(told) | {"added_cond_kwargs": {"resolution": sizes, "aspect_ratio": ratio}}


def of_whole_texts(told: Told) -> Named:
    assert told.said is not None
    return {
        "timestep": told.step,
        "encoder_hidden_states": told.said.pieces,
        "pooled_projections": told.said.whole,
    }


def of_squares(told: Told) -> Named:
    """Where each square of 2 x 2 points lies; pieces of texts lie nowhere."""
    assert told.said is not None
    high, wide = (n // 2 for n in told.points)
    rows = torch.arange(high, device=told.step.device).repeat_interleave(wide)
    columns = torch.arange(wide, device=told.step.device).repeat(high)
    places = torch.stack([torch.zeros_like(rows), rows, columns], 1).to(told.step)
    return of_whole_texts(told) | {
        "timestep": told.step / THOUSAND,
        "guidance": told.guidance,
        "img_ids": places,
        "txt_ids": places.new_zeros(told.said.pieces.shape[1], 3),
    }


def _each(step: Tensor, *numbers: float) -> Tensor:
    """The same numbers for each example ``(B, N)``, not as a constant: graphs keep none."""
    return torch.stack([torch.full_like(step, number) for number in numbers], 1)


def embedded(weight: Tensor, numbers: int) -> Tensor:
    """A weight of guidance ``(B,)`` as sines and cosines ``(B, numbers)`` of 1000 (w - 1).

    Networks of latent consistency count from 0, which is no guidance.

    Source: Luo et al. (2023), https://arxiv.org/abs/2310.04378, section 4.2, as diffusers has it.
    """
    half = numbers // 2
    rates = torch.exp(torch.arange(half, device=weight.device) * (-log(10_000) / (half - 1)))
    angles = THOUSAND * (weight.float() - 1)[:, None] * rates
    return pad(torch.cat([angles.sin(), angles.cos()], 1), (0, numbers % 2))


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks that are told the same things.

    Args:
        tell: Under which names.
        classes: The number of classes that it knows, by its name in their configuration.
        none: Whether they know a class more, which is none of them.
        join: What they hear of several encoders of texts; None if they hear no texts.
        width: The numbers of each piece, by their name in the configuration.
        whole: Those of the whole text, likewise; empty if they do not hear it.
        masked: Whether they attend to nothing behind the end of a text.
        weighs: Whether they can be told how much a piece counts.
        silent: Whether no text is zeros to them, unless their pipeline says otherwise.
        packed: Whether x is a row of squares of 2 x 2 points to them.
        side: Of x, where the configuration does not say.
    """

    tell: Tell
    classes: str = ""
    none: bool = False
    join: Join | None = None
    width: str = ""
    whole: str = ""
    masked: bool = False
    weighs: bool = False
    silent: bool = False
    packed: bool = False
    side: int | None = None

    def patch(self, config: Mapping[str, Any]) -> int:
        """Points along each axis of x that the network takes as one."""
        return 2 if self.packed else config.get("patch_size") or 1

    def channels(self, config: Mapping[str, Any]) -> int:
        """Of x."""
        return config["in_channels"] // (4 if self.packed else 1)

    def hears(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Numbers of each piece of a text, and of the whole."""
        whole = config[self.whole] if self.whole else 0
        return config[self.width], whole - SIZES * (config.get("addition_time_embed_dim") or 0)


CLASSES = Family(tell=of_classes, classes="num_class_embeds")
TEXTS = Family(tell=of_texts_and_guidance, join=alone, width="cross_attention_dim", weighs=True)
FAMILIES = {
    "UNet2DModel": CLASSES,
    "DiTTransformer2DModel": Family(tell=of_classes, classes="num_embeds_ada_norm", none=True),
    "UNet2DConditionModel": TEXTS,
    "PixArtTransformer2DModel": Family(
        tell=of_texts_and_sizes,
        join=alone,
        width="caption_channels",
        masked=True,
        weighs=True,
    ),
    "SD3Transformer2DModel": Family(
        tell=of_whole_texts,
        join=stacked,
        width="joint_attention_dim",
        whole="pooled_projection_dim",
    ),
    "FluxTransformer2DModel": Family(
        tell=of_squares,
        join=apart,
        width="joint_attention_dim",
        whole="pooled_projection_dim",
        packed=True,
        side=128,
    ),
}
LARGE = Family(  # Stable Diffusion XL: of the same class as the others
    tell=of_texts_and_crops,
    join=abreast,
    width="cross_attention_dim",
    whole="projection_class_embeddings_input_dim",
    weighs=True,
    silent=True,
)
NETWORKS = (*FAMILIES, "Transformer2DModel")  # which is one of the others by its norm


def family_of(pipeline: Pipeline, net: Any) -> Family:
    """The family of the network of a pipeline.

    Raises:
        ModelFileError: If it has none, or is told what nothing is known of.
    """
    name, config = net.__class__.__name__, net.config
    if name not in FAMILIES:
        raise ModelFileError(
            f"{shown(pipeline.path)}: of its {name} only those can be mapped with norm_type = "
            f"ada_norm_zero or ada_norm_single, not {shown(config.get('norm_type'))}."
        )
    added = config.get("addition_embed_type")
    strange = {key: config.get(key) for key in UNKNOWN}
    strange |= {"addition_embed_type": None if added == "text_time" else added}
    for key, value in strange.items():
        if value is not None:
            raise ModelFileError(
                f"{shown(pipeline.path)}: its {name} has {key} = {shown(value)}, which cannot be "
                "mapped."
            )
    family = LARGE if added else FAMILIES[name]
    if family.join and config.get("num_class_embeds"):
        raise ModelFileError(f"{shown(pipeline.path)}: classes beside texts cannot be mapped.")
    return family


class Foreign(nn.Module):
    """A network of diffusers, called as ours are.

    Args:
        net: Of one of the classes `NETWORKS`.
        family: Its family.
        clock: What it is told in place of the log-SNR.
        scaling: Of the path along which it has seen noisy data: vp, where these have a variance of
            1 at every noise level, as ours are told them, or flow.
        channels: Of x; what it puts out beyond them, a variance, is left out.
        factor: Pixels along each axis for each point of x.
        nothing: What it hears for no text ``(1, rows, width)``, if it reads.
        layout: Of that.

    Attributes:
        classes: How many it can be told; 0 for none.
        none: The number by which it knows no class, if it does.
        guided: Whether it has learned to guide itself, and is told the weight.
        weights: In how many numbers, if that is `embedded`; else 0.
        reading: By what texts are read here, while a word of them is learned: then they are told
            as the numbers of their pieces ``(B, P)``.
    """

    def __init__(
        self,
        net: Any,
        family: Family,
        clock: Clock,
        scaling: Scaling,
        channels: int,
        factor: int = 1,
        nothing: Tensor | None = None,
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        self.net, self.family, self.clock = net, family, clock
        self.scaling: Scaling = scaling
        self.channels, self.factor, self.layout = channels, factor, layout
        self.register_buffer("nothing", nothing, persistent=False)
        self.classes: int = net.config.get(family.classes) or 0
        self.none = self.classes if family.none else None
        self.weights: int = net.config.get("time_cond_proj_dim") or 0
        self.guided = bool(self.weights or net.config.get("guidance_embeds"))
        self.reading: nn.Module | None = None

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        emphasis: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        high, wide = x.shape[2:]
        step = self.clock(log_snr).to(x)
        said, mask = self._heard(x, text, emphasis)
        weight = None
        if self.guided:
            weight = torch.ones_like(step) if guidance is None else guidance
            weight = (embedded(weight, self.weights) if self.weights else weight).to(x)
        told = Told(
            step=step,
            points=(high, wide),
            pixels=(high * self.factor, wide * self.factor),
            label=self._numbers(x, label) if self.classes else None,
            said=said,
            mask=mask,
            guidance=weight,
        )
        if self.scaling != "vp":
            x = align(torch.hypot(*scales(log_snr, self.scaling)), x).to(x) * x
        named = self.family.tell(told)
        if not self.family.packed:
            return self.net(x, **named).sample[:, : self.channels]
        squares = pixel_unshuffle(x, 2).flatten(2).mT
        return pixel_shuffle(self.net(squares, **named).sample.mT.unflatten(2, (-1, wide // 2)), 2)

    def _heard(
        self, x: Tensor, text: Tensor | None, emphasis: Tensor | None
    ) -> tuple[Said | None, Tensor | None]:
        """What is said of texts, and how much of each piece is attended to."""
        if self.layout is None:
            return None, None
        table = self.nothing
        assert isinstance(table, Tensor)
        if self.reading is not None and text is not None and not text.is_floating_point():
            text = self.reading(text)
        if text is not None:  # all NaN where it is hidden
            silent = text.isnan().flatten(1).all(1).view(-1, 1, 1)
            table = torch.where(silent, table, text.to(x))
        said, mask = self.layout.said(table.expand(x.shape[0], -1, -1)), None
        if self.family.masked:
            mask = 1 - said.pieces[..., 0].isnan().to(x)
            said = said._replace(pieces=said.pieces.nan_to_num())
        if emphasis is not None:  # of which diffusers adds -MASKED (1 - mask) to the attention
            mask = (1 if mask is None else mask) + emphasis.to(x).log() / MASKED
        return said, mask

    def _numbers(self, x: Tensor, label: Tensor | None) -> Tensor:
        label = torch.full((len(x),), -1, device=x.device) if label is None else label
        if self.none is not None:
            return torch.where(label < 0, self.none, label)
        if not torch.compiler.is_exporting() and (label < 0).any():
            raise UsageError("This network knows no example without a class: give a label.")
        return label
