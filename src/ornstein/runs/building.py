"""From a configuration to what it names: networks, schedules, times; denoisers made of them."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core import noise, times
from ..core.denoise import NetDenoiser
from ..core.predict import LOG_SNR_LIMIT, PREDICTIONS, WEIGHTINGS, Hearing, PredictMean, Variational
from ..data.captions import Words
from ..data.reader import Reader
from ..errors import UsageError
from ..nets import NETS, Conditions, Controlled, MonotoneCurve, Uncertainty
from ..nets.unet2d import Layout
from .config import RunConfig, ScheduleConfig, TimesConfig
from .lent import apart, lent
from .vocabulary import Vocabulary

NOISE = -9.0  # log-SNR below which all is noise to a flow map
BEND = -4.5  # below which a mean flow hears the tangent of the log-SNR, whose slope there is -23

SCHEDULES: dict[str, type[noise.Schedule]] = {
    "ddpm": noise.DDPMSchedule,
    "ddpm-cosine": noise.CosineTableSchedule,
    "linear": noise.LinearSchedule,
    "sub-vp": noise.SubVPSchedule,
    "cosine": noise.CosineSchedule,
    "sigmoid": noise.SigmoidSchedule,
    "flow": noise.FlowSchedule,
    "karras": noise.KarrasSchedule,
    "geometric": noise.GeometricSchedule,
    "learned": noise.LearnedSchedule,
}

GRIDS: dict[str, times.TimeGrid] = {
    "uniform": times.UniformGrid(),
    "straight": times.StraightGrid(),
    "early": times.StraightGrid(power=0.7),
    "log-snr": times.LogSNRGrid(),
    "karras": times.KarrasGrid(),
    "stride": times.StrideGrid(),
}


def build_denoiser(
    config: RunConfig,
    shape: tuple[int, ...],
    vocabulary: Vocabulary,
    net: nn.Module | None = None,
) -> NetDenoiser:
    """The untrained denoiser that `config` describes, for examples of `shape` ``(C, *S)``.

    The initial weights are a function of ``config.seed`` alone; the global random state is kept. A
    network that is there already may be given.
    """
    c, steps = config.denoiser, config.denoiser.variance_steps
    bound = c.weighting == "variational" and config.times.name == "uniform"
    if config.schedule.name == "learned" and not bound:
        raise UsageError(
            "A learned schedule lowers the variance of the variational bound, and knows no other "
            "aim: set [denoiser] weighting = 'variational' and [times] name = 'uniform'."
        )
    recomputes = config.train.memory == "low" and config.net.kind != "mlp"
    if config.schedule.name == "learned" and recomputes:
        raise UsageError(
            "A learned schedule holds the weights of the network still for a loss of its own, and "
            "so nothing can be computed anew: leave --memory low out."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        schedule = build_schedule(config.schedule)
        net = build_net(config, shape, vocabulary) if net is None else net
        uncertainty = Uncertainty() if c.uncertainty else None
    if c.prediction == "mean":
        prediction = PredictMean(schedule=schedule, steps=getattr(schedule, "steps", 1000))
    else:
        prediction = PREDICTIONS[c.prediction]
    if c.weighting == "variational":
        weighting = Variational(schedule=schedule, times=build_times(config.times))
    else:
        weighting = WEIGHTINGS[c.weighting]
    try:
        return NetDenoiser(
            net,
            schedule,
            prediction,
            weighting,
            uncertainty,
            steps or None,
            config.distill.looks_ahead,
            hearing(config),
        )
    except ValueError as error:
        raise UsageError(f"[denoiser] and [schedule] disagree: {error}.") from None


def hearing(config: RunConfig) -> Hearing:
    """What the network hears of a log-SNR: those it is trained on, by its own times.

    Students are taught at the very ends, too; of a network that is lent nobody knows.
    """
    if config.distill.method == "mean-flow":
        return Hearing(bend=BEND)
    if config.distill.method == "flow-map" and not config.net.pipeline:
        return Hearing(low=NOISE)
    if config.net.pipeline or config.distill.teacher or config.distill.looks_ahead:
        return Hearing()
    low, high = build_times(config.times).reach
    return Hearing(low=max(low, -LOG_SNR_LIMIT), high=min(high, LOG_SNR_LIMIT))


def build_net(config: RunConfig, shape: tuple[int, ...], vocabulary: Vocabulary) -> nn.Module:
    """The network alone."""
    if config.net.pipeline:
        return _lent_net(config)
    options: dict[str, Any] = {"depth": config.net.depth} if config.net.depth else {}
    if config.net.kind == "unet":
        options["levels"] = config.net.levels
    if config.net.kind != "mlp":
        options["recompute"] = config.train.memory == "low"
    if config.net.kind == "unet2d":
        options |= {"clock": _clock(config.schedule), "layout": _layout(config.net.options)}
    elif config.net.options:
        raise UsageError(f"[net] options are of the kind unet2d, not {config.net.kind}.")
    channels = shape[0] * (2 if config.denoiser.variance_steps else 1)
    net, words = NETS[config.net.kind], vocabulary.words
    try:
        conditions = Conditions(
            classes=len(vocabulary.classes),
            attributes=len(vocabulary.attributes),
            context=vocabulary.context,
            augment=config.data.augmentations,
            words=len(words) if isinstance(words, Words) else 0,
            read=words.width if isinstance(words, Reader) else 0,
            length=words.length if words else 0,
            span=int(config.distill.looks_ahead),
            guidance=int(config.distill.told_guidance),
            embedding=vocabulary.embedding,
        )
        build = partial(net, shape, size=config.net.size, out_channels=channels, **options)
        if config.adapt.learn == "control":
            alone = replace(conditions, context=0)
            return Controlled(build(conditions=alone), build(conditions=conditions))
        return build(conditions=conditions)
    except ValueError as error:
        raise UsageError(f"[net] of the configuration does not fit the data: {error}.") from None


def _lent_net(config: RunConfig) -> nn.Module:
    """The network of another library, with the weights that it has there."""
    net: Any = apart(lent(config.net).denoiser.net)
    if config.train.memory == "low":
        net.net.enable_gradient_checkpointing()
    return net.requires_grad_(True).train()


def _clock(config: ScheduleConfig) -> Callable[[Tensor], Tensor]:
    """By which a network of another library hears the noise: the number of a step."""
    schedule = build_schedule(config)
    if not isinstance(schedule, noise.DDPMSchedule | noise.CosineTableSchedule):
        raise UsageError(
            "[net] kind = 'unet2d' hears the steps of a table: set [schedule] name = 'ddpm', as "
            "--recipe diffusers does."
        )
    return partial(noise.number_of, schedule, schedule.steps)


def _layout(options: dict[str, Any]) -> Layout:
    """The options of a network of another library's kind, checked."""
    from pydantic import TypeAdapter, ValidationError

    known = [f.name for f in fields(Layout)]
    for name in options:
        if name not in known:
            raise UsageError(f"[net] options has no {name!r}; it has: {', '.join(known)}.")
    try:
        return TypeAdapter(Layout).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"[net] options: {first['loc'][0]}: {first['msg']}.") from None


def build_schedule(config: ScheduleConfig) -> noise.Schedule:
    """The schedule of that name with those options; anything else is a `UsageError`."""
    if config.name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise UsageError(f"There is no schedule {config.name!r}; there are: {known}.")
    kind = SCHEDULES[config.name]
    types = {f.name: f.type for f in fields(kind) if f.name != "net"}
    for name, value in config.options.items():
        if name not in types:
            raise UsageError(
                f"The schedule {config.name!r} has no option {name!r}; it has: {', '.join(types)}."
            )
        wanted = {float: (int, float), int: int}.get(types[name], str)
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise UsageError(f"[schedule] {name} = {value!r} is not of the right type.")
    options: dict[str, Any] = dict(config.options)
    if kind is noise.LearnedSchedule:
        options["net"] = MonotoneCurve()
    try:
        return kind(**options)
    except ValueError as error:
        raise UsageError(f"[schedule] of the configuration: {error}.") from None


def build_times(config: TimesConfig) -> times.TimeDistribution:
    """The distribution of training times."""
    match config.name:
        case "uniform":
            return times.UniformTimes()
        case "log-normal":
            return times.LogNormalTimes(mean=config.mean, std=config.std)
        case "uniform-log-snr":
            return times.UniformLogSNR()
