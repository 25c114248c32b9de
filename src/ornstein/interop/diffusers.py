"""Pipelines of diffusers as models of ours, so that every task works on them.

The network stays that of diffusers. What its scheduler says becomes a noise schedule, a
prediction, and the clock by which the network is told the noise level:

    a table of betas        t = (i + 1) / T for its timestep i, exact there
    flow matching, shift s  log-SNR moved by -2 log s; the network is told T sigma
"""

from collections.abc import Callable
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.denoise import (
    Coefficients,
    NetDenoiser,
    Prediction,
    predict_data,
    predict_noise,
    predict_velocity,
)
from ..core.noise import FlowSchedule, Schedule, TableSchedule, number_of
from ..data.codec import Codec
from ..data.image import ImageCodec, fits_png
from ..data.names import shown
from ..data.options import DataOptions
from ..errors import ModelFileError, UsageError
from ..runs.config import RunConfig, SampleConfig
from ..runs.latents import LatentCodec
from ..runs.model import Model, Vocabulary
from .latents import ForeignAutoencoder
from .pipeline import Pipeline, find, needed
from .texts import PipelineReader

NETWORKS = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "Transformer2DModel")
AUTOENCODERS = ("AutoencoderKL", "VQModel")
ENCODERS = ("CLIPTextModel",)
UNKNOWN = ("addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim", "class_embed_type")

MASKED = 1e4  # taken off the attention to what a mask of diffusers hides

Clock = Callable[[Tensor], Tensor]
"""What a network is told in place of the log-SNR ``(B,)``."""


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
    encoder = pipeline.part(ENCODERS, needed=False)
    pipeline.refuse_others((network, coder, encoder))
    assert network is not None
    schedule, prediction, clock = schedule_of(pipeline)
    net = pipeline.load(network).to(device).eval()
    _refuse_unknown(pipeline, net)
    if (encoder is None) != (net.__class__.__name__ != "UNet2DConditionModel"):
        raise ModelFileError(f"{shown(pipeline.path)}: its network and its text encoder disagree.")
    reader = None if encoder is None else PipelineReader.opened(pipeline, encoder)
    autoencoder = None if coder is None else pipeline.load(coder).to(device).eval()
    codec = _codec(pipeline, net, autoencoder, size)
    nothing = None if reader is None else reader.nothing
    foreign = Foreign(net, clock, codec.shape[0], nothing, _none(net))
    denoiser = NetDenoiser(foreign, schedule, prediction).to(device).eval().requires_grad_(False)
    guidance = 7.5 if reader else 4.0 if foreign.none is not None else 1.0  # as diffusers has it
    config = RunConfig(
        source="array",
        data=DataOptions(size=min(codec.data.shape[1:])),
        sample=SampleConfig(guidance=guidance),
    )
    words = Vocabulary(classes=_classes(pipeline, net))
    return Model(denoiser, codec, words, config, reader=reader)


class Foreign(nn.Module):
    """A network of diffusers, called as ours are.

    Args:
        net: Of one of the classes `NETWORKS`.
        clock: What it is told in place of the log-SNR.
        channels: Of x; what it puts out beyond them, a variance, is left out.
        nothing: What it hears for no text ``(1, L, D)``, if it reads.
        none: The number by which it knows no class, if it does.
    """

    def __init__(
        self, net: Any, clock: Clock, channels: int, nothing: Tensor | None, none: int | None
    ) -> None:
        super().__init__()
        self.net, self.clock, self.channels, self.none = net, clock, channels, none
        self.register_buffer("nothing", nothing, persistent=False)
        self.classes = classes_of(net)

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        emphasis: Tensor | None = None,
    ) -> Tensor:
        step, told = self.clock(log_snr).to(x), {}
        if isinstance(self.nothing, Tensor):
            heard = self.nothing if text is None else text.to(x)
            told["encoder_hidden_states"] = heard.expand(x.shape[0], -1, -1)
            if emphasis is not None:  # of which diffusers adds -MASKED (1 - mask) to the attention
                told["encoder_attention_mask"] = 1 + emphasis.to(x).log() / MASKED
        elif self.classes:
            label = torch.full((len(x),), -1, device=x.device) if label is None else label
            told["class_labels"] = self._numbers(label)
        return self.net(x, step, **told).sample[:, : self.channels]

    def _numbers(self, label: Tensor) -> Tensor:
        if self.none is not None:
            return torch.where(label < 0, self.none, label)
        if not torch.compiler.is_exporting() and (label < 0).any():
            raise UsageError("This network knows no example without a class: give a label.")
        return label


# --- What the scheduler says ---------------------------------------------------------------------

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
LEAST_ALPHA_BAR = 1e-13  # of a table that ends without signal: networks hear of log-SNRs above -30


def predict_raw_flow(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """F predicts ``eps - x`` from x_t as it is, on a path with ``alpha + sigma = 1``."""
    one = torch.ones_like(alpha)
    return Coefficients(one, one, -sigma)


def schedule_of(pipeline: Pipeline) -> tuple[Schedule, Prediction, Clock]:
    """The noise schedule of a pipeline, its prediction, and its network's clock.

    Raises:
        ModelFileError: If its scheduler cannot be mapped.
    """
    kind, config = pipeline.parts.get("scheduler", "none"), pipeline.config("scheduler")
    steps = config.get("num_train_timesteps", 1000)
    if kind in FLOWS or config.get("use_flow_sigmas"):
        shift = config.get("shift" if kind in FLOWS else "flow_shift") or 1.0
        return FlowSchedule(shift=-2 * log(shift)), predict_raw_flow, partial(flow_clock, steps)
    if not kind.startswith(TABLES) or not kind.endswith("Scheduler"):
        raise ModelFileError(
            f"{shown(pipeline.path)}: the scheduler {shown(kind)} cannot be mapped; those that can "
            f"begin with {', '.join(TABLES)} or FlowMatch."
        )
    schedule = TableSchedule(alpha_bar=_table(config))
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


def flow_clock(steps: int, log_snr: Tensor) -> Tensor:
    """``T sigma``, whatever the shift."""
    return torch.sigmoid(-log_snr.double() / 2) * steps


def _table(config: dict[str, Any]) -> tuple[float, ...]:
    """``alpha_bar_1`` to ``alpha_bar_T``, as diffusers rounds them to float32."""
    given = {key: config[key] for key in TABLE_KEYS if config.get(key) is not None}
    try:
        scheduler = needed("diffusers").DDPMScheduler(**given)
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"scheduler_config.json is refused: {shown(error)}.") from None
    return tuple(scheduler.alphas_cumprod.double().clamp_min(LEAST_ALPHA_BAR).tolist())


# --- What the network is -------------------------------------------------------------------------


def classes_of(net: Any) -> int:
    """How many classes a network can be told; 0 for none."""
    embedded = "num_embeds_ada_norm" if _is_transformer(net) else "num_class_embeds"
    return net.config.get(embedded) or 0


def _is_transformer(net: Any) -> bool:
    return net.__class__.__name__.endswith("Transformer2DModel")


def _none(net: Any) -> int | None:
    """The class that is none: a transformer has learned one beyond its classes."""
    return classes_of(net) if _is_transformer(net) else None


def _classes(pipeline: Pipeline, net: Any) -> tuple[str, ...]:
    names = pipeline.index.get("id2label")
    names = names if isinstance(names, dict) else {}
    return tuple(str(names.get(str(i), i)) for i in range(classes_of(net)))


def _refuse_unknown(pipeline: Pipeline, net: Any) -> None:
    name, config = net.__class__.__name__, net.config
    for key in UNKNOWN:
        if config.get(key) is not None:
            raise ModelFileError(
                f"{shown(pipeline.path)}: its {name} has {key} = {shown(config[key])}, which "
                "cannot be mapped."
            )
    if name == "UNet2DConditionModel" and classes_of(net):
        raise ModelFileError(f"{shown(pipeline.path)}: classes beside texts cannot be mapped.")
    if _is_transformer(net) and config.get("norm_type") != "ada_norm_zero":
        raise ModelFileError(
            f"{shown(pipeline.path)}: of its transformers only DiT can be mapped, with norm_type = "
            f"ada_norm_zero, not {shown(config.get('norm_type'))}."
        )


def _codec(pipeline: Pipeline, net: Any, autoencoder: Any, size: int | None) -> Codec:
    """Of pictures of 8 bits in [-1, 1], or of the latents of such pictures."""
    coder = ForeignAutoencoder(autoencoder) if autoencoder else None
    factor = coder.factor if coder else 1
    sample_size = net.config.get("sample_size")
    if size is None and sample_size is None:
        raise UsageError(f"{shown(pipeline.path)} does not say of what size: give `size`.")
    if size is not None and size % factor:
        raise UsageError(f"size = {size} must be a multiple of {factor}, as the VAE is built.")
    inner = sample_size if size is None else size // factor
    high, wide = (inner, inner) if isinstance(inner, int) else inner
    channels = net.config.in_channels
    if coder is None:
        return eight_bits(channels, high, wide)
    config = coder.net.config
    if channels != config.latent_channels:
        raise ModelFileError(
            f"{shown(pipeline.path)}: its network takes {channels} channels and its VAE makes "
            f"{config.latent_channels}; one that is given more than noise cannot be "
            "mapped."
        )
    return LatentCodec(
        shape=(channels, high, wide),
        dtype="float32",
        mean=(config.get("shift_factor") or 0.0,) * channels,
        std=(1 / config.scaling_factor,) * channels,
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
