"""A pipeline of diffusers as a run of ours that has yet to begin.

Its network is one of ours with its weights where there is one that is the same: such a run needs
its pipeline no more. Else it stays that of diffusers, and the run goes by its pipeline for all but
the weights: what the network is, its autoencoder, its encoders of texts.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..core.denoise import NetDenoiser
from ..core.noise import FlowSchedule, Schedule, TableSchedule
from ..core.predict import (
    WEIGHTINGS,
    Prediction,
    predict_data,
    predict_flow,
    predict_noise,
    predict_velocity,
)
from ..data.names import shown
from ..data.options import DataOptions
from ..errors import ModelFileError
from ..nets.unet2d import OURS, Layout
from ..runs.building import build_denoiser, build_schedule
from ..runs.config import (
    DenoiserConfig,
    NetConfig,
    RunConfig,
    ScheduleConfig,
    TimesConfig,
    TrainConfig,
)
from ..runs.latents import LatentCodec
from ..runs.lent import LENDERS
from ..runs.model import Model
from ..runs.vocabulary import Vocabulary
from .diffusers import CONSISTENT, eight_bits, load_diffusers, schedule_of
from .foreign import Foreign
from .pipeline import BESIDE, Pipeline, find

LENT = "diffusers"  # the kind of a network that stays where it is
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
"""What a network of ours is always like; dropout is left out."""

LOSSES: dict[Prediction, DenoiserConfig] = {
    predict_noise: DenoiserConfig(prediction="noise", weighting="simple"),
    predict_data: DenoiserConfig(prediction="data", weighting="data"),
    predict_velocity: DenoiserConfig(prediction="velocity", weighting="balanced"),
    predict_flow: DenoiserConfig(prediction="flow", weighting="flow"),
}
"""Of each prediction, whose error counts as it is."""

RATE = 1e-4  # of learning, as the training script of diffusers
LARGE = TrainConfig(learning_rate=RATE / 2, ema=(0.05,), ema_snapshots=1)
"""Of networks with a billion weights: one average, kept once."""

NEAR = 1e-4  # relative, between two tables of log-SNR: diffusers adds up theirs in float32


def adopted(place: str | Path) -> Model:
    """The model that a run begins as, which goes on from a pipeline.

    Args:
        place: As for `load_diffusers`.

    Raises:
        UsageError: If nothing is there.
        ModelFileError: If nothing of ours can be what it is, or its weights are pickled.
    """
    pipeline = Pipeline(find(place).path.resolve())
    parts = {name: kind for name, kind in pipeline.parts.items() if name not in BESIDE}
    if list(parts.values()) == [NETWORK]:
        [part] = parts
        schedule, prediction, _ = schedule_of(pipeline)
        net = pipeline.load(part)
        if isinstance(schedule, TableSchedule) and (layout := layout_of(net.config)):
            return _ours(pipeline, net, layout, _named(pipeline, schedule), prediction)
    return _kept(pipeline)


LENDERS[LENT] = adopted


def _kept(pipeline: Pipeline) -> Model:
    """With the network of diffusers."""
    if pipeline.parts.get("scheduler") == CONSISTENT:
        raise ModelFileError(
            f"{shown(pipeline.path)} has learned where the probability flow ends, which a training "
            "would undo: go on from the pipeline that taught it."
        )
    model = load_diffusers(pipeline.path)
    path, prediction = model.denoiser.schedule, model.denoiser.prediction
    schedule, place, net = _named(pipeline, path), str(pipeline.path), model.denoiser.net
    assert isinstance(net, Foreign)
    loss = LOSSES[prediction]
    config = replace(
        model.config,
        source=place,
        latent=place if isinstance(model.codec, LatentCodec) else "",
        net=NetConfig(kind=LENT, pipeline=place),
        schedule=schedule,
        denoiser=loss,
        times=_times(path),
        train=replace(
            LARGE,
            condition_dropout=0.0 if net.classes and net.none is None else LARGE.condition_dropout,
        ),
    )
    denoiser = NetDenoiser(net, build_schedule(schedule), prediction, WEIGHTINGS[loss.weighting])
    denoiser.eval().requires_grad_(False)
    return replace(model, denoiser=denoiser, config=config, pipeline=pipeline.path)


def _ours(
    pipeline: Pipeline,
    net: Any,
    built: tuple[int, int, Layout],
    schedule: ScheduleConfig,
    prediction: Prediction,
) -> Model:
    """With a network of ours in the place of `net`."""
    size, depth, layout = built
    channels, side = net.config.in_channels, net.config.sample_size
    sides = (side, side) if isinstance(side, int) else tuple(side)
    given = {k: v for k, v in asdict(layout).items() if v != getattr(OURS, k)}
    config = RunConfig(
        source=str(pipeline.path),
        data=DataOptions(size=min(sides)),
        net=NetConfig(kind="unet2d", size=size, depth=depth, options=given),
        schedule=schedule,
        denoiser=LOSSES[prediction],
        times=TimesConfig(name="uniform"),
        train=TrainConfig(learning_rate=RATE),
    )
    denoiser = build_denoiser(config, (channels, *sides), Vocabulary())
    denoiser.net.load_state_dict(net.state_dict())
    denoiser.eval().requires_grad_(False)
    codec = eight_bits(channels, *sides)
    return Model(denoiser, codec, Vocabulary(), config, pipeline=pipeline.path)


def layout_of(config: Mapping[str, Any]) -> tuple[int, int, Layout] | None:
    """Size, depth and layout by which `UNet2D` is what a UNet2DModel of this configuration is.

    None if it is nothing of that kind.
    """
    widths = tuple(config["block_out_channels"])
    must = {**FIXED, "out_channels": config["in_channels"]}
    if config.get("time_embedding_dim") == 4 * widths[0]:
        del must["time_embedding_dim"]
    down = tuple(config["down_block_types"])
    attends = ["Attn" in kind for kind in down]
    must["down_block_types"] = tuple("Attn" * one + "DownBlock2D" for one in attends)
    must["up_block_types"] = tuple("Attn" * one + "UpBlock2D" for one in reversed(attends))
    there = {name: config.get(name, value) for name, value in must.items()}
    there |= {k: tuple(value) for k, value in there.items() if isinstance(value, list)}
    known = config["in_channels"] in (1, 3) and config["sample_size"] is not None
    if there != must or not known or widths[0] % 8:
        return None
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


def _times(path: Schedule) -> TimesConfig:
    """Which noise levels such networks are trained on.

    Of flow matching, those whose time before the shift is logit-normal: the shift moves the whole
    distribution.

    Source: Esser et al. (2024), https://arxiv.org/abs/2403.03206, sections 3.1 and 5.3.2.
    """
    if isinstance(path, FlowSchedule):
        return TimesConfig(name="log-normal", mean=-path.shift / 2, std=1.0)
    return TimesConfig(name="uniform")


def _named(pipeline: Pipeline, path: Schedule) -> ScheduleConfig:
    """The schedule of a pipeline, if it is one that has a name here."""
    if isinstance(path, FlowSchedule):
        return ScheduleConfig(name="flow", options={"shift": path.shift})
    given = pipeline.config("scheduler")
    kind, name = pipeline.parts["scheduler"], given.get("beta_schedule", "linear")
    if isinstance(path, TableSchedule):
        steps = len(path.alpha_bar)
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
                build_schedule(ours).log_snr(i), path.log_snr(i), rtol=NEAR, atol=NEAR
            ):
                return ours
    raise ModelFileError(
        f"{shown(pipeline.path)}: its {shown(kind)} has beta_schedule = {shown(str(name))}, or a "
        "table of its own; only linear, scaled_linear and squaredcos_cap_v2, not rescaled, can be "
        "gone on from."
    )
