"""Untrained models that do something, to try tasks on."""

from dataclasses import replace
from typing import Literal

import torch

from ornstein.data.codec import Codec
from ornstein.data.image import ImageCodec
from ornstein.data.options import DataOptions
from ornstein.data.points import PointsCodec
from ornstein.runs.building import build_denoiser
from ornstein.runs.config import DistillConfig, NetConfig, RunConfig, SampleConfig
from ornstein.runs.model import Model
from ornstein.runs.vocabulary import Vocabulary

CLASSES = ("ant", "bee", "cat")


def grey_codec(shape: tuple[int, ...]) -> ImageCodec:
    """Of pictures in 17 levels."""
    return ImageCodec(shape=shape, dtype="uint8", mean=(5.0,), std=(6.0,), levels=17, layout="HW")


def tiny_model(
    kind: str = "unet",
    steps: int = 4,
    shape: tuple[int, ...] = (1, 8, 8),
    given: tuple[int, ...] | None = None,
    given_noise: float = 0.0,
) -> Model:
    """A model with random weights; its last layer too, which a new network has at zero."""
    config = RunConfig(
        data=DataOptions(given=given and "low", given_noise=given_noise),  # pyright: ignore
        net=NetConfig(kind=kind, size=8),  # pyright: ignore
        sample=SampleConfig(steps=steps),
    )
    if kind == "mlp":
        codec = PointsCodec(shape=(2,), dtype="float32", mean=(1.0, -1.0), std=(2.0, 0.5))
    else:
        codec = grey_codec(shape)
    words = Vocabulary(
        classes=CLASSES,
        attributes=("age",),
        means=(40.0,),
        stds=(10.0,),
        context=given[0] if given else 0,
    )
    return of_random_weights(config, codec, words, grey_codec(given) if given else None)


def tiny_student(
    kind: str = "unet",
    guidance: tuple[float, float] = (1.0, 3.0),
    method: Literal["flow-map", "mean-flow"] = "flow-map",
) -> Model:
    """One that looks ahead, with random weights, of two steps, told the weight of guidance."""
    model = tiny_model(kind)
    config = replace(
        model.config,
        sample=SampleConfig(sampler="leap", steps=2),
        distill=DistillConfig(method=method, guidance=guidance),
    )
    return of_random_weights(config, model.codec, model.vocabulary)


def of_random_weights(
    config: RunConfig, codec: Codec, words: Vocabulary, given: ImageCodec | None = None
) -> Model:
    denoiser = build_denoiser(config, codec.shape, words)
    generator = torch.Generator().manual_seed(1)
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    denoiser = denoiser.eval().requires_grad_(False)
    return Model(denoiser, codec, words, config, given=given)
