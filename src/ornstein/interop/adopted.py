"""A pipeline of diffusers as a run of ours that has yet to begin: our network, with its weights.

The opposite of `written`: what a training goes on from needs a network of ours, by its
configuration alone, where `load_diffusers` keeps that of diffusers.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..core.denoise import Prediction, predict_data, predict_noise, predict_velocity
from ..core.noise import TableSchedule
from ..data.names import shown
from ..data.options import DataOptions
from ..errors import ModelFileError
from ..nets.unet2d import OURS, Layout
from ..runs.config import (
    DenoiserConfig,
    NetConfig,
    RunConfig,
    ScheduleConfig,
    TimesConfig,
    TrainConfig,
)
from ..runs.model import Model, Vocabulary, build_denoiser, build_schedule
from .diffusers import eight_bits, schedule_of
from .pipeline import BESIDE, Pipeline, find

NETWORK = "UNet2DModel"
FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
"""What networks of ours are always like; dropout is left out."""

LOSSES: dict[Prediction, DenoiserConfig] = {
    predict_noise: DenoiserConfig(prediction="noise", weighting="simple"),
    predict_data: DenoiserConfig(prediction="data", weighting="data"),
    predict_velocity: DenoiserConfig(prediction="velocity", weighting="balanced"),
}
"""Of each prediction, whose error counts as it is."""

NEAR = 1e-4  # relative, between two tables of log-SNR: diffusers adds up theirs in float32


def adopted(place: str | Path) -> Model:
    """The model that a run begins as, which goes on from a pipeline.

    Args:
        place: As for `load_diffusers`.

    Raises:
        UsageError: If nothing is there.
        ModelFileError: If a network of ours cannot be what its network is, or its weights are
            pickled.
    """
    pipeline = Pipeline(find(place).path.resolve())
    parts = {name: kind for name, kind in pipeline.parts.items() if name not in BESIDE}
    if list(parts.values()) != [NETWORK]:
        raise ModelFileError(
            f"{shown(pipeline.path)} is made of {shown(', '.join(parts.values()), 300)}; only a "
            f"pipeline of pixels, with one {NETWORK} and nothing else, can be gone on from."
        )
    [part] = parts
    table, prediction, _ = schedule_of(pipeline)
    schedule = _betas(pipeline, table)
    net = pipeline.load(part)
    try:
        size, depth, layout = layout_of(net.config)
        channels, sides = net.config.in_channels, _sides(net.config)
        given = {k: v for k, v in asdict(layout).items() if v != getattr(OURS, k)}
        config = RunConfig(
            source=str(pipeline.path),
            data=DataOptions(size=min(sides)),
            net=NetConfig(kind="unet2d", size=size, depth=depth, options=given),
            schedule=schedule,
            denoiser=LOSSES[prediction],
            times=TimesConfig(name="uniform"),
            train=TrainConfig(learning_rate=1e-4),  # as the training script of diffusers
        )
    except ValueError as error:
        raise ModelFileError(f"{shown(pipeline.path)}: its network has {error}") from None
    denoiser = build_denoiser(config, (channels, *sides), Vocabulary())
    denoiser.net.load_state_dict(net.state_dict())
    denoiser.eval().requires_grad_(False)
    codec = eight_bits(channels, *sides)
    return Model(denoiser, codec, Vocabulary(), config, pipeline=pipeline.path)


def layout_of(config: Mapping[str, Any]) -> tuple[int, int, Layout]:
    """Size, depth and layout by which `UNet2D` is what a UNet2DModel of this configuration is.

    Raises:
        ValueError: Naming the attribute by which none is.
    """
    widths = tuple(config["block_out_channels"])
    must = {**FIXED, "out_channels": config["in_channels"]}
    if config.get("time_embedding_dim") == 4 * widths[0]:
        del must["time_embedding_dim"]
    down = tuple(config["down_block_types"])
    attends = ["Attn" in kind for kind in down]
    must["down_block_types"] = tuple("Attn" * one + "DownBlock2D" for one in attends)
    must["up_block_types"] = tuple("Attn" * one + "UpBlock2D" for one in reversed(attends))
    for name, value in must.items():
        there = config.get(name, value)
        if (tuple(there) if isinstance(there, list) else there) != value:
            raise ValueError(_differs(name, there, f"{name} = {value}"))
    if config["in_channels"] not in (1, 3):
        raise ValueError(_differs("in_channels", config["in_channels"], "1 or 3"))
    if widths[0] % 8:
        raise ValueError(_differs("block_out_channels", widths, "multiples of 8"))
    layout = Layout(
        widths=widths,
        attended=tuple(i for i, one in enumerate(attends) if one),
        head=config.get("attention_head_dim") or 0,
        groups=config["norm_num_groups"],
        epsilon=config["norm_eps"],
        centred=bool(config["downsample_padding"]),
        sines_first=not config["flip_sin_to_cos"],
        shift=float(config["freq_shift"]),
    )
    return widths[0], config["layers_per_block"], layout


def _differs(name: str, there: object, can: str) -> str:
    return f"{name} = {shown(str(there))}; one with {can} can be gone on from."


def _sides(config: Mapping[str, Any]) -> tuple[int, int]:
    match config["sample_size"]:
        case int() as side:
            return side, side
        case [int() as high, int() as wide]:
            return high, wide
    raise ValueError(_differs("sample_size", config["sample_size"], "a size"))


def _betas(pipeline: Pipeline, table: object) -> ScheduleConfig:
    """The table of a pipeline, if it is one of ours."""
    given = pipeline.config("scheduler")
    kind, name = pipeline.parts["scheduler"], given.get("beta_schedule", "linear")
    if isinstance(table, TableSchedule):
        steps = len(table.alpha_bar)
        i = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        ends = {
            "beta_first": given.get("beta_start", 1e-4),
            "beta_last": given.get("beta_end", 0.02),
        }
        for ours in (
            ScheduleConfig(name="ddpm", options={"steps": steps, **ends}),
            ScheduleConfig(name="ddpm", options={"steps": steps, **ends, "power": 2}),
            ScheduleConfig(name="ddpm-cosine", options={"steps": steps}),
        ):
            if torch.allclose(
                build_schedule(ours).log_snr(i), table.log_snr(i), rtol=NEAR, atol=NEAR
            ):
                return ours
    raise ModelFileError(
        f"{shown(pipeline.path)}: its {shown(kind)} has beta_schedule = {shown(str(name))}, or a "
        "table of its own; only linear, scaled_linear and squaredcos_cap_v2, not rescaled, can be "
        "gone on from."
    )
