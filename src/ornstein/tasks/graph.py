"""A sampler as one graph with one loop: noise and conditions in, data in their own units out."""

from collections.abc import Callable
from copy import copy
from itertools import groupby
from math import hypot
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan

from ..core.denoise import Denoiser
from ..core.guide import (
    ClassifierFree,
    LearnedGuidance,
    Thresholded,
    away,
    limited,
    steered,
    weight_at,
)
from ..core.predict import flow_time
from ..core.recurrence import recurrence
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
    network makes of it; `span` is how far to look, 0 for networks that know no such thing;
    `weight` is that of guidance.
    """

    inp: float
    skip: float
    out: float
    heard: float
    span: float
    weight: float


class Stretch(NamedTuple):
    """Calls one after the other that are all guided, at two calls of the network, or all not."""

    guided: bool
    calls: slice


class Graph(nn.Module):
    """A deterministic sampler of a fixed number of calls, as a function of noise and conditions.

    Its loop is one of the graph, which holds the network once, or twice where it is guided; so
    are those of guidance within an interval, one for each stretch.

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
    low: Tensor
    high: Tensor
    told: Tensor
    read: Tensor
    keep: Tensor
    add: Tensor

    def __init__(self, model: Model, asked: DrawOptions) -> None:
        super().__init__()
        words, codec, denoiser = model.vocabulary, model.codec, model.denoiser
        if model.given is not None or model.encoder is not None or words.embedding:
            told = "given pictures beside the noise" if model.given else "told embeddings"
            raise UsageError(f"A run that is {told} cannot be exported.")
        rule, self.plan = plan(model, asked)
        if isinstance(rule, Thresholded):
            rule = rule.denoiser
        self.shape, self.threshold = model.shape, asked.threshold
        self.inputs = ["noise"]
        self.inputs += ["label"] if words.classes else []
        self.inputs += ["attributes"] if words.attributes else []
        self.inputs += ["text"] if model.words else []
        self.variance = denoiser.variance_steps is not None
        self.told_weight = model.config.distill.told_guidance
        self.weight, self.parallel, self.rescale, negative = _guidance(rule)
        self.differ = None if negative is None else tuple(negative)
        self.net, clock = _without_clock(denoiser.net)
        loop = recurrence(self.plan, denoiser.schedule)
        self.looks = denoiser.ahead and loop.until[0] is not None
        self.calls = [
            _call(model, clock, rule, t, until)
            for t, until in zip(loop.times, loop.until, strict=True)
        ]
        self.stretches = _stretches([c.weight != 1 and not self.told_weight for c in self.calls])
        [first] = instants(denoiser.schedule, self.plan.times[:1])
        self.first = hypot(first.alpha, first.sigma)
        wide = (-1, *(1 for _ in model.shape[1:]))
        self.decoder = Decoder(codec) if isinstance(codec, LatentCodec) else nn.Identity()
        numbers = {
            "mean": torch.tensor(codec.data.mean).view(wide),
            "std": torch.tensor(codec.data.std).view(wide),
            "centre": torch.tensor(words.means),
            "width": torch.tensor(words.stds),
            "told": torch.tensor(self.calls),
            **{name: getattr(loop, name).float() for name in ("read", "keep", "add")},
        }
        numbers |= dict(zip(("low", "high"), codec.range or (), strict=False))
        numbers |= {f"negative_{name}": values for name, values in (negative or {}).items()}
        for name, values in numbers.items():
            self.register_buffer(name, None if values is None else values.to(model.device))
        foreign = any(isinstance(part, Foreign | ForeignAutoencoder) for part in self.modules())
        self.most = MOST_FOREIGN if foreign else MOST

    def forward(self, noise: Tensor, *told: Tensor) -> Tensor:
        cond = dict(zip(self.inputs[1:], told, strict=True))
        if "attributes" in cond:
            cond["attributes"] = (cond["attributes"] - self.centre) / self.width
        nothing = [torch.zeros_like(noise)] * (self.read.shape[1] - 1)
        state = torch.stack([self.first * noise, *nothing])
        for stretch in self.stretches:
            state = self._through(stretch, state, cond)
        return self.mean + self.std * self.decoder(state[0])

    @property
    def negative(self) -> dict[str, Tensor | None] | None:
        """The conditions that differ in the reference; buffers, which a loop of a graph reads."""
        if self.differ is None:
            return None
        return {name: getattr(self, f"negative_{name}") for name in self.differ}

    def _through(self, stretch: Stretch, state: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The state ``(R, B, C, *S)`` after the calls of a stretch; see `core.recurrence`."""

        def call(state: Tensor, row: tuple[Tensor, ...]) -> tuple[Tensor, tuple[()]]:
            read, keep, add, told = row
            x_hat = self._x_hat(torch.tensordot(read, state, 1), told, cond, stretch.guided)
            return torch.tensordot(keep, state, 1) + add.view(-1, *(1,) * x_hat.ndim) * x_hat, ()

        rows = tuple(each[stretch.calls] for each in (self.read, self.keep, self.add, self.told))
        if torch.compiler.is_exporting():
            return scan(call, state, rows)[0]
        for row in zip(*rows, strict=True):
            state = call(state, row)[0]
        return state

    def _x_hat(self, x_t: Tensor, told: Tensor, cond: dict[str, Tensor], guided: bool) -> Tensor:
        """What the guided network answers, all in all."""
        x_hat = self._answer(x_t, told, cond)
        if guided:
            reference = self._answer(x_t, told, steered(cond, self.negative, x_t.shape[0]))
            weight = told[-1].view((1,) * x_t.ndim)
            x_hat = away(x_hat, reference, weight, self.parallel, self.rescale)
        if self.threshold is None:
            return x_hat
        return limited(x_hat, self.low, self.high, self.threshold)

    def _answer(self, x_t: Tensor, told: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """What the network answers to conditions, by the numbers of a `Call`."""
        inp, skip, out, heard, span, weight = told.unbind()
        more = {"span": span} if self.looks else {}
        more |= {"guidance": weight} if self.told_weight else {}
        more = {name: value.expand(x_t.shape[0]) for name, value in more.items()}
        F = self.net(inp * x_t, heard.expand(x_t.shape[0]), **cond, **more)
        return skip * x_t + out * (F.chunk(2, 1)[0] if self.variance else F)

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


# --- What is known beforehand --------------------------------------------------------------------

Guidance = tuple[float, float, float, Any]
"""Weight, parallel share, rescaling, and the conditions that differ in the reference."""


def _guidance(rule: Denoiser) -> Guidance:
    match rule:
        case ClassifierFree():
            return rule.weight.item(), rule.parallel, rule.rescale, rule.negative
        case LearnedGuidance():
            return rule.weight.item(), 1.0, 0.0, None
    return 1.0, 1.0, 0.0, None


def _stretches(guided: list[bool]) -> list[Stretch]:
    found, last = list[Stretch](), 0
    for kind, calls in groupby(guided):
        first, last = last, last + len(list(calls))
        found.append(Stretch(kind, slice(first, last)))
    return found


def _call(
    model: Model,
    clock: Callable[[Tensor], Tensor],
    rule: Denoiser,
    t: Tensor,
    until: Tensor | None,
) -> Call:
    schedule, t = model.denoiser.schedule, t[None]
    inp, skip, out = (c.item() for c in model.denoiser.prediction(*schedule(t)))
    log_snr, span, weight = schedule.log_snr(t), 0.0, 1.0
    if model.denoiser.ahead and until is not None:
        span = (flow_time(log_snr) - flow_time(schedule.log_snr(until))).item()
    if isinstance(rule, ClassifierFree | LearnedGuidance):
        weight = weight_at(log_snr, rule.weight, rule.interval).item()
    heard = clock(model.denoiser.hearing(log_snr).float())
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
