"""Pipelines of diffusers as models of ours, so that every task works on them.

The network stays that of diffusers. What its scheduler says becomes a noise schedule, a
prediction, and the clock by which the network is told the noise level:

    a table of betas        t = (i + 1) / T for its timestep i, exact there
    flow matching, shift s  log-SNR moved by -2 log s; the network is told T sigma
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import exp, log, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.denoise import NetDenoiser
from ..core.noise import FlowSchedule, Schedule, TableSchedule, number_of
from ..core.predict import Prediction, predict_data, predict_flow, predict_noise, predict_velocity
from ..data.codec import Codec
from ..data.image import ImageCodec, fits_png
from ..data.names import shown
from ..data.options import DataOptions
from ..errors import ModelFileError, UsageError
from ..runs.config import DistillConfig, RunConfig, SampleConfig
from ..runs.latents import LatentCodec
from ..runs.model import Model
from ..runs.vocabulary import Vocabulary
from .foreign import NETWORKS, Clock, Family, Foreign, family_of
from .latents import ForeignAutoencoder
from .pipeline import Pipeline, find, needed
from .texts import ENCODERS, LONGEST, PipelineReader, TextEncoder

AUTOENCODERS = ("AutoencoderKL", "VQModel")
FEW = 4  # steps of latent consistency, as its pipeline takes
GUIDANCE = (1.0, 100.0)  # of networks that guide themselves, and do not say what they have learned


def load_diffusers(
    place: str | Path,
    *,
    size: int | None = None,
    device: str | torch.device = "cpu",
) -> Model:
    """Open a pipeline of diffusers as a model that every task takes.

    What can be asked for are the classes that the network knows or, where it reads, texts. No
    class at all is what the network knows as none; no text is the empty one.

    Args:
        place: A folder with a ``model_index.json``; or a repository of the Hub, in the cache.
        size: Of the pictures, in pixels; that of the training by default.
        device: Where to put the networks.

    Raises:
        UsageError: If nothing is there, or the size does not suit.
        ModelFileError: If it cannot be mapped, or its weights are pickled.
    """
    pipeline = find(place)
    network = pipeline.part(NETWORKS)
    coder = pipeline.part(AUTOENCODERS, needed=False)
    encoders = pipeline.every(ENCODERS)
    pipeline.refuse_others((network, coder, *encoders))
    assert network is not None
    net = pipeline.load(network).to(device).eval()
    family = family_of(pipeline, net)
    autoencoder = None if coder is None else pipeline.load(coder).to(device).eval()
    codec = _codec(pipeline, net, family, autoencoder, size)
    squares = prod(n // family.patch(net.config) for n in codec.shape[1:])
    schedule, prediction, clock = schedule_of(pipeline, squares)
    reader = _reader(pipeline, net, family, encoders)
    foreign = Foreign(
        net,
        family,
        clock,
        schedule.scaling,
        codec.shape[0],
        codec.coder.factor if isinstance(codec, LatentCodec) else 1,
        nothing=reader.nothing if reader else None,
        layout=reader.layout if reader else None,
    )
    denoiser = NetDenoiser(foreign, schedule, prediction).to(device).eval().requires_grad_(False)
    config = RunConfig(
        source="array",
        data=DataOptions(size=min(codec.data.shape[1:])),
        sample=_drawing(pipeline, foreign),
        distill=DistillConfig(guidance=GUIDANCE if foreign.guided else (1.0, 1.0)),
    )
    words = Vocabulary(classes=_classes(pipeline, foreign.classes))
    return Model(denoiser, codec, words, config, reader=reader)


# --- What the scheduler says ---------------------------------------------------------------------

CONSISTENT = "LCMScheduler"  # whose networks say where the flow ends
TABLES = ("DDPM", "DDIM", "PNDM", "LMS", "Euler", "Heun", "KDPM2", "DPMSolver", "UniPC", "DEIS")
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": predict_noise,
    "sample": predict_data,
    "v_prediction": predict_velocity,
}
TABLE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
LINE = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
LEAST_ALPHA_BAR = 1e-13  # of a table that ends without signal: networks hear of log-SNRs above -30


def schedule_of(pipeline: Pipeline, squares: int = 1) -> tuple[Schedule, Prediction, Clock]:
    """The noise schedule of a pipeline, its prediction, and its network's clock.

    Args:
        pipeline: Whose scheduler it is.
        squares: That its network sees at once: a shift may follow from how many there are.

    Raises:
        ModelFileError: If its scheduler cannot be mapped.
    """
    kind, config = pipeline.parts.get("scheduler", "none"), pipeline.config("scheduler")
    steps = config.get("num_train_timesteps", 1000)
    if config.get("invert_sigmas"):
        raise ModelFileError(f"{shown(pipeline.path)} has invert_sigmas, which cannot be mapped.")
    if kind in FLOWS or config.get("use_flow_sigmas"):
        fixed = config.get("shift" if kind in FLOWS else "flow_shift") or 1.0
        shift = shift_of(config, squares) if config.get("use_dynamic_shifting") else fixed
        return FlowSchedule(shift=-2 * log(shift)), predict_flow, partial(flow_clock, steps)
    known = kind.startswith(TABLES) and kind.endswith("Scheduler")
    if not known and kind != CONSISTENT:
        raise ModelFileError(
            f"{shown(pipeline.path)}: the scheduler {shown(kind)} cannot be mapped; those that can "
            f"begin with {', '.join(TABLES)}, LCM or FlowMatch."
        )
    schedule = TableSchedule(alpha_bar=_table(kind, config))
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ModelFileError(
            f"{shown(pipeline.path)}: prediction_type {shown(prediction)!r} is not one of "
            f"{', '.join(PREDICTIONS)}."
        )
    if prediction == "epsilon" and schedule.alpha_bar[-1] <= LEAST_ALPHA_BAR:
        raise ModelFileError(
            f"{shown(pipeline.path)} predicts noise where its table leaves no signal, which says "
            "nothing of the data: set rescale_betas_zero_snr = false, or train another prediction."
        )
    return schedule, PREDICTIONS[prediction], partial(number_of, schedule, len(schedule.alpha_bar))


def shift_of(config: Mapping[str, Any], squares: int) -> float:
    """The shift s for so many squares: ``log s`` is linear in them, or s itself.

    Source: Esser et al. (2024), https://arxiv.org/abs/2403.03206, section 5.3.2, for its purpose;
    the line is that of Flux.
    """
    given = {key: config.get(key) for key in LINE}
    low, high, first, last = (LINE[key] if v is None else v for key, v in given.items())
    mu = low + (high - low) * (squares - first) / (last - first)
    return mu if config.get("time_shift_type") == "linear" else exp(mu)


def flow_clock(steps: int, log_snr: Tensor) -> Tensor:
    """``T sigma``, whatever the shift."""
    return torch.sigmoid(-log_snr.double() / 2) * steps


def _table(kind: str, config: dict[str, Any]) -> tuple[float, ...]:
    """``alpha_bar_1`` to ``alpha_bar_T``, as diffusers rounds them to float32."""
    given = {key: config[key] for key in TABLE_KEYS if config.get(key) is not None}
    try:  # all but one kind mean the same by what they leave out
        name = kind if kind == CONSISTENT else "DDPMScheduler"
        scheduler = getattr(needed("diffusers"), name)(**given)
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"scheduler_config.json is refused: {shown(error)}.") from None
    return tuple(scheduler.alphas_cumprod.double().clamp_min(LEAST_ALPHA_BAR).tolist())


# --- What else there is --------------------------------------------------------------------------


def _reader(
    pipeline: Pipeline, net: Any, family: Family, encoders: Sequence[str]
) -> PipelineReader | None:
    """The text encoders, if the network hears texts."""
    if bool(family.join) != bool(encoders):
        raise ModelFileError(
            f"{shown(pipeline.path)}: its network {'hears' if family.join else 'knows no'} texts, "
            f"and it has {len(encoders) or 'no'} text encoders."
        )
    if family.join is None:
        return None
    width, whole = family.hears(net.config)
    readers = [TextEncoder.opened(pipeline, part, family.masked) for part in encoders]
    try:
        reader = PipelineReader(
            readers,
            family.join,
            (pipeline.default("max_sequence_length") or LONGEST, width),
            weighs=family.weighs,
            silent=family.silent and pipeline.index.get("force_zeros_for_empty_prompt", True),
        )
    except ValueError:
        there = ", ".join(f"{part} ({pipeline.parts[part]})" for part in encoders)
        raise ModelFileError(
            f"{shown(pipeline.path)}: its {net.__class__.__name__} is not told what its text "
            f"encoders say: {shown(there, 300)}."
        ) from None
    said = reader.layout
    if (said.width, said.whole) != (width, whole):
        raise ModelFileError(
            f"{shown(pipeline.path)}: its network hears {width} numbers of each piece of a text "
            f"and {whole} of the whole, but its text encoders say {said.width} and {said.whole}."
        )
    return reader


def _drawing(pipeline: Pipeline, net: Foreign) -> SampleConfig:
    """How to draw if nobody says: where its network says where the flow ends, by that."""
    weight = _guidance(pipeline, net)
    if pipeline.parts["scheduler"] == CONSISTENT:
        return SampleConfig(sampler="consistency", steps=FEW, guidance=weight)
    return SampleConfig(guidance=weight)


def _guidance(pipeline: Pipeline, net: Foreign) -> float:
    """The weight that diffusers takes if nobody says one."""
    if net.layout is None and net.none is None:
        return 1.0
    taught = net.family.packed and not net.guided  # to take few steps: what it is told is dropped
    weight = pipeline.default("true_cfg_scale" if taught else "guidance_scale")
    return 1.0 if weight is None else float(weight)


def _classes(pipeline: Pipeline, count: int) -> tuple[str, ...]:
    names = pipeline.index.get("id2label")
    names = names if isinstance(names, dict) else {}
    return tuple(str(names.get(str(i), i)) for i in range(count))


def _codec(
    pipeline: Pipeline, net: Any, family: Family, autoencoder: Any, size: int | None
) -> Codec:
    """Of pictures of 8 bits in [-1, 1], or of the latents of such pictures."""
    coder = ForeignAutoencoder(autoencoder) if autoencoder else None
    factor = coder.factor if coder else 1
    side = net.config.get("sample_size") or family.side
    if size is not None:
        least = factor * family.patch(net.config)
        if size % least:
            raise UsageError(f"size = {size} must be a multiple of {least}, as it is built.")
        side = size // factor
    if side is None:
        raise UsageError(f"{shown(pipeline.path)} does not say of what size: give `size`.")
    high, wide = (side, side) if isinstance(side, int) else side
    channels = family.channels(net.config)
    if coder is None:
        return eight_bits(channels, high, wide)
    config = coder.net.config
    if channels != config.latent_channels:
        raise ModelFileError(
            f"{shown(pipeline.path)}: its network takes {channels} channels and its VAE makes "
            f"{config.latent_channels}; one that is given more than noise cannot be "
            "mapped."
        )
    shift = config.get("latents_mean") or (config.get("shift_factor") or 0.0,) * channels
    scale = config.get("latents_std") or (1.0,) * channels
    return LatentCodec(
        shape=(channels, high, wide),
        dtype="float32",
        mean=tuple(shift),
        std=tuple(one / config.scaling_factor for one in scale),
        inner=eight_bits(config.in_channels, high * factor, wide * factor),
        coder=coder,
    )


def eight_bits(channels: int, high: int, wide: int) -> ImageCodec:
    """``x = v / 127.5 - 1``."""
    half = (127.5,) * channels
    return ImageCodec(
        shape=(channels, high, wide),
        dtype="uint8",
        mean=half,
        std=half,
        format="png" if fits_png("uint8", channels) else "npy",
        layout="HW" if channels == 1 else "HWC",
        levels=256,
    )
