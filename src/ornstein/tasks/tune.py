"""Fit a sampler of few denoiser calls to a trained run. Its weights stay as they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from ..core.denoise import Denoiser
from ..core.fit import FittedRule, fit, unfitted
from ..core.sample import SAMPLERS, Sampler
from ..core.times import LogSNRGrid, TimeGrid
from ..core.trajectory import Plan
from ..errors import UsageError
from ..rng import generator
from ..runs.building import GRIDS
from ..runs.fitted import keep_rule
from ..runs.model import Model
from .asking import Context, Heard, conditions, context_from, context_of
from .examples import training_data
from .options import TuneOptions, checked
from .sample import Run, block, draw, opened, plan

NUMBERS = 2**14  # of end points to fit to, at least
FIXED: dict[str, TimeGrid] = {**GRIDS, "log-snr ±5": LogSNRGrid(log_snr_min=-5, log_snr_max=5)}


@dataclass(frozen=True, kw_only=True)
class Error:
    """How far few steps end from where many do, root mean square, in standard deviations of x.

    Args:
        value: Over all examples.
        spread: Its standard error.
    """

    value: float
    spread: float

    @classmethod
    def of(cls, ends: Tensor, target: Tensor) -> "Error":
        """Between two sets of end points ``(B, *S)``."""
        squares = (ends - target).double().square().flatten(1).mean(1)
        value = sqrt(squares.mean().item())
        spread = squares.std().item() / sqrt(len(squares)) / (2 * value) if value > 0 else 0.0
        return cls(value=value, spread=spread)

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.spread:.4f}"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What was fitted, and how good it is on noise that it was not fitted to.

    Args:
        calls: Of the denoiser.
        rule: What was fitted.
        fitted: Its error.
        fixed: That of each grid of the list, with the sampler of the run.
        kept: Whether the rule was stored: if it is better than all of those.
    """

    calls: int
    rule: FittedRule
    fitted: Error
    fixed: dict[str, Error]
    kept: bool

    @property
    def best(self) -> str:
        """The name of the best of the fixed grids."""
        return min(self.fixed, key=lambda name: self.fixed[name].value)

    def lines(self) -> list[str]:
        """What the command prints."""
        ratio = self.fixed[self.best].value / max(self.fitted.value, 1e-12)
        lines = [f"{name:<12}  {error}" for name, error in self.fixed.items()]
        lines.append(f"{'fitted':<12}  {self.fitted}   {ratio:.2f} times nearer than {self.best}")
        if not self.kept:
            lines.append(f"Not kept: {self.best} is no worse.")
        return lines


def tune(
    run: Run,
    calls: int = 6,
    *,
    device: str | torch.device = "auto",
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Tuned:
    """Fit a time grid, and the weights of its steps, to a run; `sample` then uses them.

    Where few steps end is compared with where many do, from the same noise: on some noise to fit,
    on other noise to judge. What is no better than every fixed grid is not kept. A run of pairs
    is given what belongs to examples that training left out, unless the options say what; so is
    one that hears embeddings told those of such pictures.

    Args:
        run: The run, or its folder; without a folder nothing is kept.
        calls: Denoiser calls, and steps.
        device: Where to compute.
        say: Told what is being done.
        **options: Those of `TuneOptions`.

    Raises:
        UsageError: If an option is out of its bounds, the solution to fit to is not
            deterministic, or the weights are not the run's own: adapters are on, or they are
            another average.
    """
    chosen = checked(TuneOptions, {"calls": calls, **options})
    model = opened(run, device)
    if not model.is_plain:
        raise UsageError(
            "A rule belongs to the weights it was fitted to, and a run keeps those to its own: "
            "tune it without sigma_rel and adapters; `ornstein merge` makes a run of these."
        )
    rule = SAMPLERS.get(chosen.sampler or model.config.sample.sampler)
    if rule is None or not rule.deterministic or rule.calls(calls) != calls:
        rule = SAMPLERS["adams-bashforth"]
    solver = checked(TuneOptions, {**_given(chosen), "sampler": chosen.sampler or "unipc"})
    context, heard = _told_beside(model, chosen)
    denoiser, many = plan(model, solver, heard=heard is not None)
    if not SAMPLERS[solver.sampler or ""].deterministic:
        raise UsageError(f"{solver.sampler} draws noise: fit to a deterministic sampler.")
    size = block(model)
    count = chosen.examples or min(2048, max(128, NUMBERS // prod(model.shape)))
    count = -(-count // size) * size

    def ends(part: str, first: int) -> Callable[[Plan], Tensor]:
        seed = int(generator("tune", part, chosen.seed).integers(2**62))

        def told(examples: Sequence[int]) -> Denoiser:
            shown = [first + i for i in examples]
            return denoiser.given(**conditions(model, chosen, shown, context, heard))

        return lambda steps: draw(model, told, steps, seed, range(count))

    say(f"Solving for the ends of {2 * count:,} examples in {many.calls} calls")
    known, unseen = ends("fit", 0), ends("judge", count)
    target, there = known(many), unseen(many)
    plans = _fixed(model, rule, calls, float(many.times[0]))
    first = min(plans, key=lambda name: Error.of(known(plans[name]), target).value)
    begin = unfitted(denoiser.schedule, plans[first].times.cpu())
    say(f"Fitting, from the grid {first}")
    found = fit(known, target, denoiser.schedule, begin, chosen.rounds)
    fixed = {name: Error.of(unseen(steps), there) for name, steps in plans.items()}
    fitted = Error.of(unseen(found.plan(denoiser.schedule, model.device)), there)
    better = fitted.value < min(error.value for error in fixed.values())
    if better and model.run is not None:
        keep_rule(model.run, model.seen, found)
    return Tuned(calls=calls, rule=found, fitted=fitted, fixed=fixed, kept=better)


def _told_beside(model: Model, options: TuneOptions) -> tuple[Context | None, Heard | None]:
    """What a run of pairs is given, and a decoder hears, if the options do not say it.

    It is what belongs to the examples that training left out, or to all if it left none out.
    """
    pairs, decodes = model.given is not None, model.config.embedding.role == "decoder"
    hears = model.encoder is not None and decodes and options.text is None
    if options.given is not None or not (pairs or hears):
        return context_of(model, options), None
    if model.config.source == "array":
        say = "--given PICTURES" if pairs else "--text"
        raise UsageError(f"This run was trained on an array: say by {say} what it is to be told.")
    every, held = training_data(model)
    data = held if len(held) else every

    def rows(indices: Sequence[int]) -> Tensor:
        return torch.tensor(indices) % len(data)

    given, embedded = data.given, data.embedded
    context = (
        None if given is None else lambda i: context_from(model, given.stored[rows(i)].numpy())
    )
    return context, None if embedded is None else lambda i: embedded.tensor(rows(i))


def _given(options: TuneOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


def _fixed(model: Model, rule: Sampler, calls: int, first: float) -> dict[str, Plan]:
    """The rule on each fixed grid that has so many steps, all begun at the `first` time."""
    schedule, found = model.denoiser.schedule, dict[str, Plan]()
    for name, grid in FIXED.items():
        times = grid(schedule, calls)
        times[0] = first
        if (times[:-1] > times[1:]).all():
            found[name] = rule.plan(schedule, times.to(model.device))
    return found
