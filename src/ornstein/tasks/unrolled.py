"""A sampler with all its steps laid out: noise and conditions in, data in their own units out."""

from collections import deque
from collections.abc import Callable
from copy import copy
from math import hypot
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.denoise import LOG_SNR_LIMIT, Denoiser, flow_time
from ..core.guide import ClassifierFree, LearnedGuidance, Thresholded, away, steered, weight_at
from ..core.noise import Schedule
from ..core.sample import Plan
from ..core.trajectory import instants
from ..errors import UsageError
from ..interop.diffusers import Foreign
from ..interop.latents import ForeignAutoencoder
from ..rng import normal
from ..runs.latents import LatentCodec
from ..runs.model import Model
from .asking import conditions
from .options import DrawOptions
from .sample import plan

MOST = 65_536  # examples at once
MOST_FOREIGN = 63  # through networks of diffusers, which lay memory out anew for more


class Call(NamedTuple):
    """All that one call of the network needs to know of its time, as numbers.

    ``x_hat = skip x_t + out F(inp x_t, heard)``; `heard` is the log-SNR, or what the clock of the
    network makes of it; `span` is how far to look, None for networks that know no such thing;
    `weight` is that of guidance.
    """

    inp: float
    skip: float
    out: float
    heard: float
    span: float | None
    weight: float


class Unrolled(nn.Module):
    """A deterministic sampler of a fixed number of calls, as a function of noise and conditions.

    Args:
        model: The run.
        asked: Sampler and guidance; of its conditions, only which there are.

    Attributes:
        inputs: Names of what it takes, in order.
        calls: One after the other.
        weight: Of guidance.
        most: Examples that it takes at once.

    Raises:
        UsageError: If there is no such graph: the sampler draws noise or adapts its steps, or the
            run is given pictures or embeddings.
    """

    mean: Tensor
    std: Tensor
    centre: Tensor
    width: Tensor

    def __init__(self, model: Model, asked: DrawOptions) -> None:
        super().__init__()
        words, codec, denoiser = model.vocabulary, model.codec, model.denoiser
        if model.given is not None or model.encoder is not None or words.embedding:
            told = "given pictures beside the noise" if model.given else "told embeddings"
            raise UsageError(f"A run that is {told} cannot be exported.")
        rule, self.plan = plan(model, asked)
        if isinstance(rule, Thresholded):
            rule = rule.denoiser
        self.shape, self.schedule = model.shape, denoiser.schedule
        self.inputs = ["noise"]
        self.inputs += ["label"] if words.classes else []
        self.inputs += ["attributes"] if words.attributes else []
        self.inputs += ["text"] if model.words else []
        self.variance = denoiser.variance_steps is not None
        self.told_weight = model.config.distill.told_guidance
        self.weight, self.parallel, self.rescale, self.negative = _guidance(rule)
        self.range, self.quantile = codec.range, asked.threshold
        self.net, clock = _without_clock(denoiser.net)
        self.calls = [
            _call(model, clock, rule, *time) for time in called(self.plan, denoiser.schedule)
        ]
        [first] = instants(denoiser.schedule, self.plan.times[:1])
        self.first = hypot(first.alpha, first.sigma)
        wide = (-1, *(1 for _ in model.shape[1:]))
        self.decoder = Decoder(codec) if isinstance(codec, LatentCodec) else nn.Identity()
        numbers = {"mean": codec.data.mean, "std": codec.data.std}
        for name, values in numbers.items():
            self.register_buffer(name, torch.tensor(values).view(wide).to(model.device))
        self.register_buffer("centre", torch.tensor(words.means, device=model.device))
        self.register_buffer("width", torch.tensor(words.stds, device=model.device))
        foreign = any(isinstance(part, Foreign | ForeignAutoencoder) for part in self.modules())
        self.most = MOST_FOREIGN if foreign else MOST

    def forward(self, noise: Tensor, *told: Tensor) -> Tensor:
        cond = dict(zip(self.inputs[1:], told, strict=True))
        if "attributes" in cond:
            cond["attributes"] = (cond["attributes"] - self.centre) / self.width
        denoiser, past, x = Placed(self, cond), deque(maxlen=self.plan.memory), self.first * noise
        if self.quantile is not None and self.range is not None:
            denoiser = Thresholded(denoiser, *self.range, self.quantile)
        for step in self.plan.transitions:  # the loop of `Plan`, which would switch gradients off
            x = step(denoiser, x, past, refuse_noise)
        return self.mean + self.std * self.decoder(x)

    def examples(self, model: Model, asked: DrawOptions, count: int) -> tuple[Tensor, ...]:
        """What it takes to draw what is asked, from `count` draws of noise."""
        known = conditions(model, asked, range(count))
        if "attributes" in known:
            known["attributes"] = self.centre + self.width * known["attributes"]
        if "text" in known and known["text"].is_floating_point():
            known["text"] = known["text"].float()
        known["noise"] = normal((count, *self.shape), "export", count).float().to(model.device)
        return tuple(known[name] for name in self.inputs)


class Decoder(nn.Module):
    """`LatentCodec.decode`, with its numbers in the graph: from latents to data as packed."""

    mean: Tensor
    std: Tensor

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        assert isinstance(codec.coder, nn.Module)
        wide = (-1, *(1 for _ in codec.shape[1:]))
        self.coder, self.space = codec.coder, codec.inner.shape[1:]
        for name, values in {"mean": codec.mean, "std": codec.std}.items():
            self.register_buffer(name, torch.tensor(values).view(wide).to(codec.coder.device))

    def forward(self, x: Tensor) -> Tensor:
        z, coder = self.mean + self.std * x, self.coder
        foreign = isinstance(coder, ForeignAutoencoder)
        whole = coder.decode_together(z) if foreign else coder.decode(z)
        return whole[(..., *(slice(n) for n in self.space))]


class Placed(Denoiser):
    """The guided network of an `Unrolled`, by the places of its calls: a graph has no times."""

    def __init__(self, graph: Unrolled, cond: dict[str, Tensor]) -> None:
        super().__init__()
        self.graph, self.cond, self.calls = [graph], cond, iter(graph.calls)
        self.schedule = graph.schedule

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        call, [graph] = next(self.calls), self.graph
        x_hat = self._answer(x_t, call, self.cond)
        if call.weight == 1 or graph.told_weight:
            return x_hat
        other = steered(self.cond, graph.negative, x_t.shape[0])
        reference = self._answer(x_t, call, other)
        weight = x_t.new_full((1,) * x_t.ndim, call.weight)
        return away(x_hat, reference, weight, graph.parallel, graph.rescale)

    def _answer(self, x_t: Tensor, call: Call, cond: dict[str, Tensor]) -> Tensor:
        [graph] = self.graph

        def each(value: float) -> Tensor:
            return x_t.new_full((x_t.shape[0],), value)

        told = {} if call.span is None else {"span": each(call.span)}
        told |= {"guidance": each(call.weight)} if graph.told_weight else {}
        F = graph.net(call.inp * x_t, each(call.heard), **cond, **told)
        return call.skip * x_t + call.out * (F.chunk(2, 1)[0] if graph.variance else F)


# --- What is known beforehand --------------------------------------------------------------------


def called(steps: Plan, schedule: Schedule) -> list[tuple[Tensor, Tensor | None]]:
    """The times at which a plan calls its denoiser, one after the other; and how far to look.

    Raises:
        UsageError: If it adapts them to what it sees, or draws noise.
    """
    if steps.calls is None:
        raise UsageError("A sampler that adapts its steps cannot be exported: take another.")
    watch, past = Watch(schedule), deque(maxlen=steps.memory)
    x = torch.zeros(1, 1, device=steps.times.device)
    for step in steps.transitions:
        x = step(watch, x, past, refuse_noise)
    return watch.calls


class Watch(Denoiser):
    """Remembers at which times it was called, and to look until when."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule, self.calls = schedule, list[tuple[Tensor, Tensor | None]]()

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        self.calls.append((t.reshape(-1)[:1], cond.get("until")))
        return x_t


def refuse_noise(like: Tensor) -> Tensor:
    """The noise of a sampler that must draw none."""
    raise UsageError("The sampler draws noise, which a graph cannot: take ddim or dpm++2m.")


Guidance = tuple[float, float, float, Any]
"""Weight, parallel share, rescaling, and the conditions that differ in the reference."""


def _guidance(rule: Denoiser) -> Guidance:
    match rule:
        case ClassifierFree():
            return rule.weight.item(), rule.parallel, rule.rescale, rule.negative
        case LearnedGuidance():
            return rule.weight.item(), 1.0, 0.0, None
    return 1.0, 1.0, 0.0, None


def _call(
    model: Model,
    clock: Callable[[Tensor], Tensor],
    rule: Denoiser,
    t: Tensor,
    until: Tensor | None,
) -> Call:
    schedule = model.denoiser.schedule
    inp, skip, out = (c.item() for c in model.denoiser.prediction(*schedule(t)))
    log_snr, span, weight = schedule.log_snr(t), None, 1.0
    if model.denoiser.ahead and until is not None:
        span = (flow_time(log_snr) - flow_time(schedule.log_snr(until))).item()
    if isinstance(rule, ClassifierFree | LearnedGuidance):
        weight = weight_at(log_snr, rule.weight, rule.interval).item()
    heard = clock(log_snr.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT).float())
    return Call(inp, skip, out, heard.item(), span, weight)


def _without_clock(net: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """A network that hears what its clock makes of the log-SNR, and that clock.

    It looks numbers up in a table, for which programs that open graphs have no words.
    """
    clock = getattr(net, "clock", None)
    if clock is None:
        return net, _as_it_is
    bare = copy(net)
    bare.clock = _as_it_is
    return bare, clock


def _as_it_is(log_snr: Tensor) -> Tensor:
    return log_snr
