"""The training doctor: is it learning, and is it learning by heart?

At a few noise levels, each with examples of its own, the error ``E|x - x_hat|^2`` of the network on
training and on held-out examples stands between two errors that are known without training:

- that of the best *linear* denoiser, from the covariance of the data. A network that has learned
  anything about the shape of the data is below it;
- that of the *memorising* denoiser, the exact posterior mean if the training examples were all
  there is. On training examples it is far below what any honest denoiser reaches. A network that
  comes near it there, and not on held-out examples, has memorised.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, isfinite
from typing import Literal

import torch
from torch import Tensor

from ..core.denoise import Denoiser, NetDenoiser, align, noisy
from ..core.exact import EmpiricalDenoiser, GaussianDenoiser
from ..core.noise import Schedule
from ..core.times import TimeDistribution
from ..data.dataset import Dataset
from ..rng import generator, normal
from .device import Precision, autocast
from .signals import Stop

LEVELS = 8
MEMORY = 4096  # training examples of the memorising denoiser
DIMENSIONS = 1024  # largest covariance matrix
HIGH = 0.05  # no network of this package learns at such a learning rate
EARLY = 0.1  # share of the budget before which nothing is said
FEWEST = 50  # updates, likewise
SURE = 0.01  # spread of the error, in parts of it, up to which it may be said not to fall
PIECE = 64  # examples at once, and between two looks at the flag
BEGINS = 0.25  # of the way to learning by heart, from which on it is told

Kind = Literal["early", "learning", "not learning", "memorising"]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the doctor found.

    Args:
        kind: In a word.
        verdict: In a line.
        log_snr: The noise levels, in nats.
        train: Error at each level on training examples, over that of the linear denoiser.
        held: Likewise, on held-out examples; empty if there are none.
        memorised: 0 if both are alike, 1 if the one on training examples is the memorising
            denoiser's.
    """

    kind: Kind
    verdict: str
    log_snr: tuple[float, ...]
    train: tuple[float, ...]
    held: tuple[float, ...]
    memorised: float


@dataclass(frozen=True)
class _Side:
    """Fixed examples, fixed noise, and the errors known in advance.

    Args:
        data: That the examples are of.
        indices: Of the examples ``(LEVELS * count,)``, level by level.
        eps: The noise ``(LEVELS * count, C, *S)``.
        untrained: Errors of each example, ``(LEVELS, count)``.
        linear: Mean errors of each level ``(LEVELS,)``.
        memory: Likewise.
    """

    data: Dataset
    indices: Tensor
    eps: Tensor
    untrained: Tensor
    linear: Tensor
    memory: Tensor


class Doctor:
    """Compares a denoiser in training with the two references.

    Args:
        train: The training examples.
        held: The held-out examples; may be empty.
        denoiser: For its schedule and prediction, not its weights.
        times: The time distribution of training: its octiles are the noise levels.
        count: Examples of each side at each level, others at each; if there are too few, they are
            used again with other noise.
        seed: Of the run.
        precision: Of the network's products.
        own_units: Whether the data have mean 0 and variance 1, not those of the run's base.
    """

    def __init__(
        self,
        train: Dataset,
        held: Dataset,
        denoiser: NetDenoiser,
        times: TimeDistribution,
        *,
        count: int,
        seed: int,
        precision: Precision = "f32",
        own_units: bool = True,
    ) -> None:
        schedule = denoiser.schedule
        self._precision: Precision = precision
        picked = torch.from_numpy(generator(seed, "doctor").permutation(len(train))[:MEMORY])
        data = train.batch(picked)[0]
        self._objection = objection(data) if own_units else ""
        self._alike = own_units and bool((data == data[:1]).all())
        with torch.no_grad():
            self.t = times((torch.arange(LEVELS).double() + 0.5) / LEVELS, schedule).to(data.device)
            self.log_snr = schedule.log_snr(self.t)
            references = linear_denoiser(data, schedule), EmpiricalDenoiser(data, schedule)
            # the examples that the memorising denoiser knows, and those it does not
            self._train = self._side(train, picked, count, denoiser, references, seed)
            self._held = None
            if len(held):
                every = torch.arange(len(held))
                every = every[torch.from_numpy(generator(seed, "held").permutation(len(held)))]
                self._held = self._side(held, every, count, denoiser, references, seed)

    def _side(
        self,
        data: Dataset,
        indices: Tensor,
        count: int,
        denoiser: NetDenoiser,
        references: Sequence[Denoiser],
        seed: int,
    ) -> _Side:
        indices = indices[torch.arange(LEVELS * count) % len(indices)]
        eps = normal((len(indices), *data.codec.shape), seed, "doctor").to(self.t.device)
        skip = denoiser.prediction(*denoiser.schedule(self.t))[1]
        linear, memory, untrained = list[Tensor](), list[Tensor](), list[Tensor]()
        for level, (i, e) in enumerate(zip(indices.split(count), eps.split(count), strict=True)):
            x, t = data.batch(i)[0], self.t[level]
            x_t = noisy(denoiser.schedule, x, t, e)
            linear.append(_error(x, references[0](x_t, t)).mean())
            memory.append(_error(x, references[1](x_t, t)).mean())
            untrained.append(_error(x, skip[level].to(x) * x_t))
        tiny = 1e-9  # data that are all alike leave nothing to err about
        floor = torch.stack(linear).clamp_min(tiny)
        return _Side(data, indices, eps, torch.stack(untrained), floor, torch.stack(memory))

    def _errors(self, denoiser: NetDenoiser, side: _Side, stop: Stop) -> Tensor | None:
        """Of each example ``(LEVELS, count)``; None if `stop` was set meanwhile."""
        errors, count = list[Tensor](), side.untrained.shape[1]
        for place in torch.arange(len(side.indices)).split(PIECE):
            if stop:
                return None
            x, cond = side.data.batch(side.indices[place])
            t, eps = self.t[place // count], side.eps[place]
            with autocast(x.device, self._precision):
                errors.append(_error(x, denoiser(noisy(denoiser.schedule, x, t, eps), t, **cond)))
        return torch.cat(errors).view(LEVELS, count)

    @torch.no_grad()
    def __call__(
        self,
        raw: NetDenoiser,
        average: NetDenoiser,
        *,
        part: float,
        updates: int,
        rate: float,
        stop: Stop,
    ) -> Diagnosis | None:
        """Examine a training; None if `stop` was set meanwhile.

        Args:
            raw: With the weights that are trained.
            average: With their average, which is what the user gets.
            part: Of the budget that is over, in [0, 1].
            updates: That were made.
            rate: The learning rate at its peak, to name it.
            stop: Looked at before each call of the network.
        """
        each = self._errors(average, self._train, stop)
        others = None if self._held is None else self._errors(average, self._held, stop)
        if each is None or (others is None and self._held is not None):
            return None
        train, held = each.mean(1), None if others is None else others.mean(1)
        side, shown = (self._train, train) if held is None else (self._held, held)
        assert side is not None
        memorised = 0.0 if held is None else self._memorised(train, held)
        kind, verdict = self._judge(
            ratio=_geometric(shown / side.linear),
            grown=_geometric(train / self._train.untrained.mean(1)),
            spread=_spread(each, self._train.untrained),
            memorised=memorised,
            moved=movement(raw.parameters(), average.parameters()),
            early=part < EARLY or updates < FEWEST,
            part=part,
            rate=rate,
        )
        return Diagnosis(
            kind=kind,
            verdict=verdict,
            log_snr=tuple(self.log_snr.tolist()),
            train=tuple((train / self._train.linear).tolist()),
            held=() if self._held is None or held is None else tuple((held / side.linear).tolist()),
            memorised=memorised,
        )

    def _memorised(self, train: Tensor, held: Tensor) -> float:
        """How far the error on training examples has come, from that on held-out ones, to the
        memorising denoiser's: 0 at the start of that way, 1 at its end.

        All in units of the linear error, summed over the levels at which the way is not short.
        """
        unknown = self._held
        assert unknown is not None
        train, memory = train / self._train.linear, self._train.memory / self._train.linear
        held = held / unknown.linear
        far = memory < 0.9 * held  # else even the memorising denoiser is honest
        full = (held - memory)[far].sum()
        return ((held - train)[far].sum() / full).item() if full > 0.05 * LEVELS else 0.0

    def _judge(
        self,
        *,
        ratio: float,
        grown: float,
        spread: float,
        memorised: float,
        moved: float,
        early: bool,
        part: float,
        rate: float,
    ) -> tuple[Kind, str]:
        """The verdict, from the errors over those of the linear and of the untrained denoiser.

        That over the untrained one's is known but for its spread: it has fallen if it is three of
        these below 1.
        """
        below = f"its error is {abs(1 - ratio):.0%} {'below' if ratio < 1 else 'above'} that of "
        below += "the best linear denoiser"
        stands = grown > exp(-3 * spread)
        if self._objection:
            return "not learning", f"not learning (because {self._objection})"
        if self._alike:
            return "memorising", (
                "memorising (one example is all there is to learn, and all that a model of it can "
                "do is repeat it; give more, or go on from a run that has seen others)"
            )
        if not isfinite(grown):
            reason = f"the network's output is not finite; try a learning rate of {rate / 10:g}"
        elif grown > 1.5 or (stands and rate > HIGH):
            reason = (
                f"its error is {grown:.3g} times that of an untrained network: the learning rate "
                f"{rate:g} is too high; try {rate / 10:g}"
            )
        elif early:
            return "early", f"too early to say ({below})"
        elif memorised > 0.5:
            return "memorising", (
                f"memorising ({memorised:.0%} of the way to learning its examples by heart); "
                "move pictures (shift), stop earlier or take more data"
            )
        elif moved < 1e-6:
            reason = f"the weights do not move: the learning rate {rate:g} is too small"
        elif stands and spread > SURE:
            return "early", f"too early to say ({below})"
        elif stands:
            reason = (
                "the weights move and the error does not fall: what the network sees does not "
                "tell what it is asked, or the data are plain noise"
            )
        elif ratio < 1.02:
            way = f"; {memorised:.0%} of the way to learning its examples by heart"
            return "learning", f"learning ({below}{way if memorised > BEGINS else ''})"
        elif part < 0.5:
            return "early", f"too early to say ({below})"
        else:  # it has fallen, and not far enough
            said = f"{below}; train longer, or try another learning rate than {rate:g}"
            return "not learning", f"not learned yet ({said})"
        return "not learning", f"not learning (because {reason})"


# --- References ----------------------------------------------------------------------------------


class StationaryDenoiser(Denoiser):
    """The best denoiser that is linear and commutes with shifts, channel by channel.

    In the Fourier basis with the power spectrum P of the data, ``x_hat = mean + alpha P /
    (alpha^2 P + sigma^2) (x_t - alpha mean)``. For data without space, P is the variance.

    Args:
        data: ``(N, C, *S)``.
        schedule: The noise schedule.

    Source: Wiener (1949).
    """

    def __init__(self, data: Tensor, schedule: Schedule) -> None:
        super().__init__()
        self.schedule, self.axes = schedule, tuple(range(2, data.ndim))
        self.mean = data.mean((0, *self.axes), keepdim=True)
        self.power = self._transform(data - self.mean).abs().square().mean(0)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        alpha, sigma = (align(c.expand(len(x_t)), x_t).to(x_t) for c in self.schedule(t))
        gain = alpha * self.power / (alpha**2 * self.power + sigma**2)
        waves = gain * self._transform(x_t - alpha * self.mean)
        if not self.axes:
            return self.mean + waves
        return self.mean + torch.fft.ifftn(waves, dim=self.axes, norm="ortho").real

    def _transform(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=self.axes, norm="ortho") if self.axes else x


class FlatDenoiser(Denoiser):
    """A denoiser of vectors ``(B, D)``, for examples of another shape."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        flat = x_t.flatten(1).double()
        return self.denoiser(flat, t, **cond).view_as(x_t).to(x_t)


def linear_denoiser(data: Tensor, schedule: Schedule) -> Denoiser:
    """The best linear denoiser of `data` ``(N, C, *S)``.

    By the full covariance matrix where there are data enough to know it, else by the spectrum:
    too few examples would make the reference one that memorises.
    """
    flat = data.flatten(1).double()
    count, dimensions = flat.shape
    if dimensions > DIMENSIONS or count < 4 * dimensions:
        return StationaryDenoiser(data, schedule)
    mean = flat.mean(0)
    cov = (flat - mean).T @ (flat - mean) / count
    return FlatDenoiser(GaussianDenoiser(mean, cov, schedule))


def objection(data: Tensor) -> str:
    """Why no training can go well on `data` as the network sees them; empty if it can."""
    mean, var = data.double().mean().item(), data.double().var(correction=0).item()
    if abs(mean) > 1 or var > 4 or 0 < var < 0.01:
        return (
            f"the data have mean {mean:.3g} and variance {var:.3g} where 0 and 1 are expected: "
            "they are not standardised"
        )
    return ""


def movement(weights: Iterable[Tensor], averages: Iterable[Tensor]) -> float:
    """Distance of the weights from their average, over their size."""
    apart = size = 0.0
    for p, q in zip(weights, averages, strict=True):
        apart += (p - q).double().square().sum().item()
        size += p.double().square().sum().item()
    return (apart / max(size, 1e-30)) ** 0.5


def _error(x: Tensor, x_hat: Tensor) -> Tensor:
    """``|x - x_hat|^2`` of each example ``(B,)``, in parts of its numbers."""
    return (x - x_hat).square().flatten(1).mean(1)


def _spread(errors: Tensor, others: Tensor) -> float:
    """Standard error of the logarithm of the geometric mean of ratios of means, of pairs.

    By the delta method: of one level, ``log(mean e / mean o)`` varies as the mean of
    ``e / mean e - o / mean o`` does.

    Args:
        errors: ``(LEVELS, n)``.
        others: Of the same examples, with the same noise.
    """
    apart = errors / errors.mean(1, keepdim=True) - others / others.mean(1, keepdim=True)
    var = apart.double().var(1) / errors.shape[1]
    return (var.sum().sqrt() / len(var)).item()


def _geometric(ratios: Tensor) -> float:
    """Geometric mean; not finite if one of them is not."""
    mean = ratios.double().clamp_min(1e-12).log().mean().item()
    return exp(min(mean, 700)) if isfinite(mean) else mean
