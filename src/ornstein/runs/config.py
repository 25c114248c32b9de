"""The typed description of a run: what `config.toml` holds. Closed: unknown keys are refused."""

import tomllib
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Len

from ..data.names import shown
from ..data.options import DataOptions
from ..errors import UsageError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Share = Annotated[float, Interval(ge=0, le=1)]
Weight = Annotated[float, Interval(ge=-100, le=100)]
Number = int | float | str | bool
Level = tuple[Annotated[int, Interval(ge=1, le=64)], Annotated[int, Interval(ge=1, le=16)]]
Role = Literal["decoder", "prior"]


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """The network.

    Args:
        kind: Its architecture.
        size: The one dial: its base width in channels; all else follows from it and the data.
        depth: Blocks: for each level of a U-Net, in all for the others; 0 for the default.
        levels: Of the kind unet, the finest first: width over `size`, and blocks; then as the last.
        options: Of the kind unet2d: what differs from the defaults of `nets.unet2d.Layout`.
        pipeline: Of the kind diffusers: the folder of the pipeline whose network this is, with its
            autoencoder and its encoders of texts.
    """

    kind: Literal["mlp", "unet", "dit", "unet2d", "diffusers", "autoencoder", "contrastive"] = (
        "unet"
    )
    size: Annotated[int, Interval(ge=8, le=2048)] = 32
    depth: Annotated[int, Interval(ge=0, le=64)] = 0
    levels: Annotated[tuple[Level, ...], Len(1, 16)] = ((1, 2), (2, 2), (2, 2), (4, 2))
    options: dict[str, Number | tuple[int, ...]] = field(default_factory=dict)
    pipeline: Annotated[str, Len(0, 4096)] = ""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The noise schedule.

    Args:
        name: A key of `SCHEDULES`.
        options: The parameters that differ from its defaults.
    """

    name: str = "flow"
    options: dict[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """What the network predicts, and how its errors count.

    Args:
        prediction: What the network predicts.
        weighting: How much the squared error counts at each noise level.
        uncertainty: Learn the weight of each noise level beside the network.
        variance_steps: T of a learned reverse variance; 0 for none.
    """

    prediction: Literal["noise", "score", "data", "velocity", "flow", "balanced", "mean"] = "flow"
    weighting: Literal[
        "simple", "data", "balanced", "flow", "min-snr", "sigmoid", "variational"
    ] = "flow"
    uncertainty: bool = False
    variance_steps: Annotated[int, Interval(ge=0, le=100_000)] = 0


@dataclass(frozen=True, kw_only=True)
class TimesConfig:
    """Which noise levels to train on.

    Args:
        name: Uniform in t, log(sigma / alpha) ~ N(mean, std^2), or uniform in log-SNR.
        mean: Of the log-normal.
        std: Of the log-normal.
    """

    name: Literal["uniform", "log-normal", "uniform-log-snr"] = "log-normal"
    mean: Annotated[float, Interval(ge=-20, le=20)] = 0.0
    std: Annotated[float, Interval(gt=0, le=20)] = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Args:
        seen: The budget, in examples seen.
        epochs: How often each example is seen at most, where minutes are the budget; 0 for as often
            as there is time.
        batch: Examples for each update, over all processes.
        micro_batch: Examples at once in one process; 0 for as many as fit.
        memory: Low computes activations twice, and takes as many examples at once as half a
            gibibyte holds: for more time, larger networks and pictures.
        optimizer: AdamW, or Muon for the matrices with AdamW for the rest.
        learning_rate: At its peak.
        warmup: Share of the budget over which the learning rate rises from 0.
        decay: How it falls to 0 at the end of the budget.
        weight_decay: Decoupled, on matrices only.
        clip: Largest norm of the gradient.
        precision: Of the network's products; weights and states are float32 always.
        condition_dropout: Share of examples whose conditions are hidden, for guidance.
        ema: Relative widths of the averages of the weights to track.
        ema_snapshots: Snapshots of each average over the budget, for any width afterwards.
    """

    seen: Annotated[int, Interval(ge=1, le=10**13)] = 100_000
    epochs: Annotated[int, Interval(ge=0, le=10**9)] = 0
    batch: Annotated[int, Interval(ge=1, le=10**6)] = 64
    micro_batch: Annotated[int, Interval(ge=0, le=10**6)] = 0
    memory: Literal["plenty", "low"] = "plenty"
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Interval(gt=0, le=10)] = 2e-3
    warmup: Share = 0.02
    decay: Literal["cosine", "linear", "none"] = "cosine"
    weight_decay: Annotated[float, Ge(0)] = 0.0
    clip: Annotated[float, Gt(0)] = 1.0
    precision: Literal["auto", "f32", "bf16"] = "auto"
    condition_dropout: Share = 0.1
    ema: Annotated[tuple[Annotated[float, Interval(gt=0, lt=0.28)], ...], Len(1, 4)] = (0.05, 0.1)
    ema_snapshots: Annotated[int, Interval(ge=1, le=1000)] = 8


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How this run samples unless told otherwise.

    Args:
        sampler: A key of `ornstein.core.sample.SAMPLERS`.
        steps: Steps of the time grid.
        grid: A key of `GRIDS`.
        guidance: Weight of classifier-free guidance; 1 is none.
        guidance_parallel: Share that is kept of its part along the estimate.
    """

    sampler: str = "adams-bashforth"
    steps: Annotated[int, Interval(ge=1, le=100_000)] = 16
    grid: Literal["uniform", "straight", "early", "log-snr", "karras", "stride"] = "uniform"
    guidance: Weight = 1.0
    guidance_parallel: Share = 1.0


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How this run learns to take few steps, and from whom.

    Args:
        method: Progressive learns to do one step of its grid. A flow map learns to look as far as
            any step leads: from where its teacher's path leads, or, without one, from where two of
            its own half as long do. Mean-flow learns it from the slope of its own answers.
        teacher: A run folder; empty if the run learns from data alone.
        seen: Of the checkpoint of the teacher; 0 for its newest when the run begins.
        jump: Steps of the teacher that a progressive student does in one.
        guidance: The least and the largest weight with which the teacher is guided; where they
            differ, this run is told which.
    """

    method: Literal["progressive", "flow-map", "mean-flow"] = "progressive"
    teacher: str = ""
    seen: Annotated[int, Interval(ge=0)] = 0
    jump: Annotated[int, Interval(ge=2, le=1000)] = 2
    guidance: tuple[Weight, Weight] = (1.0, 1.0)

    @property
    def looks_ahead(self) -> bool:
        """Whether the network is told how far to look."""
        return self.method != "progressive"

    @property
    def told_guidance(self) -> bool:
        """Whether the network is told the weight of guidance."""
        return self.guidance[0] != self.guidance[1]


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """From which run this one goes on, and what of it is learned.

    Args:
        base: A run folder; empty if this run begins anew.
        seen: Of the checkpoint of the base.
        learn: All weights; additions of low rank to them; the new words alone; or a control
            branch. In all but the first, this run is an adapter: without its base it is nothing.
        rank: Of the additions.
        targets: Parts of the paths of the layers that get additions; all layers if empty.
        like: The class or the caption that new words begin as, and that is not to be forgotten:
            half of what is seen are examples of it that the base has drawn.
    """

    base: str = ""
    seen: Annotated[int, Interval(ge=0)] = 0
    learn: Literal["all", "low-rank", "words", "control"] = "all"
    rank: Annotated[int, Interval(ge=1, le=1024)] = 8
    targets: tuple[Annotated[str, Len(1, 200)], ...] = ()
    like: Annotated[str, Len(0, 200)] = ""

    @property
    def is_adapter(self) -> bool:
        """Whether this run holds no more than what it adds to its base."""
        return bool(self.base) and self.learn != "all"


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """What an autoencoder's latents are, and what its reconstructions are held to.

    Args:
        factor: Points along each axis that become one.
        channels: Of the latents.
        levels: Values that each channel of the latents may take; 0 for Gaussians.
        kl: Weight of what a Gaussian latent tells, in nats per number, beside the squared error.
        features: Weight of the squared error of what the encoder makes of the reconstruction.
        critic: Weight of a network that tells patches of reconstructions from real ones.
    """

    factor: Literal[2, 4, 8] = 4
    channels: Annotated[int, Interval(ge=1, le=64)] = 4
    levels: Annotated[int, Interval(ge=0, le=256)] = 0
    kl: Annotated[float, Interval(ge=0, le=100)] = 1e-3
    features: Annotated[float, Interval(ge=0, le=100)] = 0.0
    critic: Annotated[float, Interval(ge=0, le=100)] = 0.0


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """What an encoder of pictures and texts makes of them, and who goes by it.

    Args:
        numbers: Of an embedding, where this run is an encoder.
        coarse: Then, weight of the error of coarse pictures that are drawn from embeddings, as a
            share of their variance: so an embedding tells what is where, and not only what is
            there; 0 for none.
        encoder: The run of the encoder that this one goes by; empty if it goes by none.
        role: A decoder draws pictures, told their embedding; a prior draws embeddings, told that
            of a text.
        silent: Share of examples whose caption a decoder is not told, so that it goes by an
            embedding alone as well.
    """

    numbers: Annotated[int, Interval(ge=2, le=4096)] = 64
    coarse: Annotated[float, Interval(ge=0, le=100)] = 2.0
    encoder: str = ""
    role: Role = "decoder"
    silent: Share = 0.5


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run becomes.

    Args:
        source: The data: a path, or the name of a built-in dataset.
        latent: The run of an autoencoder, whose latents of the data are learned; empty for the
            data themselves.
        mean: A run of the same pairs, whose mean of all answers this one adds to what it draws;
            empty for none.
        seed: Of everything random.
    """

    source: str = "digits"
    latent: str = ""
    mean: str = ""
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0
    data: DataOptions = field(default_factory=DataOptions)
    net: NetConfig = field(default_factory=NetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    times: TimesConfig = field(default_factory=TimesConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)

    def to_toml(self) -> str:
        """The text of `config.toml`. ``RunConfig.from_toml(c.to_toml()) == c``."""
        lines, tables = [], []
        for name, value in asdict(self).items():
            (tables if isinstance(value, dict) else lines).append((name, value))
        text = "".join(f"{name} = {_toml(value)}\n" for name, value in lines)
        for name, table in tables:
            rows = "".join(f"{k} = {_toml(v)}\n" for k, v in table.items() if v is not None)
            text += f"\n[{name}]\n{rows}"
        return text

    @classmethod
    def from_toml(cls, text: str, place: str = "config.toml") -> "RunConfig":
        """Parse and check. Raises `UsageError` naming `place`, the key and what it should be."""
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # also numbers too long, lists too deep
            why = shown(error)
            raise UsageError(f"{place} is not TOML: {why}. Mend or remove the line.") from None
        return cls.from_dict(values, place)

    @classmethod
    def from_dict(cls, values: dict[str, Any], place: str = "the configuration") -> "RunConfig":
        """As `from_toml`, from nested dictionaries."""
        from pydantic import ValidationError

        _refuse_unknown(cls, values, place)
        try:
            return _adapter().validate_python(_brought_up_to_date(values))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            value = repr(first["input"])[:80]
            raise UsageError(f"{place}: {key} = {value}: {first['msg']}.") from None


@cache
def _adapter() -> "TypeAdapter[RunConfig]":
    from pydantic import TypeAdapter

    return TypeAdapter(RunConfig)


def _brought_up_to_date(values: dict[str, Any]) -> dict[str, Any]:
    """What older runs wrote in other words: one weight of guidance, where there is a range now."""
    match values.get("distill"):
        case {"guidance": int() | float() as weight} as table:
            return {**values, "distill": {**table, "guidance": (weight, weight)}}
    return values


def _refuse_unknown(cls: type, values: dict[str, Any], place: str) -> None:
    known = {f.name: f for f in fields(cls)}
    for name, value in values.items():
        if name not in known:
            choices = ", ".join(known)
            raise UsageError(f"{place}: there is no {shown(repr(name))}; there are: {choices}.")
        inner = known[name].type
        if isinstance(inner, type) and is_dataclass(inner) and isinstance(value, dict):
            _refuse_unknown(inner, value, f"{place}: [{name}]")


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if value in (inf, -inf):
            return "inf" if value > 0 else "-inf"
        case int() | float():
            return repr(value)
        case str():
            return '"' + "".join(_escape(c) for c in value) + '"'
        case list() | tuple():
            return "[" + ", ".join(_toml(v) for v in value) + "]"
        case dict():
            return "{ " + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    raise TypeError(f"no TOML for {type(value).__name__}")


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    plain = character == "\t" or (ord(character) >= 0x20 and ord(character) != 0x7F)
    return character if plain else f"\\u{ord(character):04x}"
