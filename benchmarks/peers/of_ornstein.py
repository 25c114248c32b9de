"""Ornstein itself, asked as the others are: the recipe is ``auto``, all else as it trains a run."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from adapter import Adapter, Denoise, Run, Solver, Trainer, serve
from torch import Tensor

from ornstein.core.denoise import Denoiser
from ornstein.core.noise import FlowSchedule
from ornstein.core.sample import SAMPLERS, start
from ornstein.core.times import LogSNRGrid
from ornstein.data import DataOptions, open_data
from ornstein.runs.building import GRIDS
from ornstein.runs.config import RunConfig, SampleConfig
from ornstein.train import recipe
from ornstein.train import train as train_run
from ornstein.train.budget import settle
from ornstein.train.device import World, autocast, choose_device
from ornstein.train.memory import memory_kept
from ornstein.train.training import Training as Updates


class Training(Trainer):
    def __init__(
        self,
        x,
        batch,
        updates,
        flips=False,
        seconds=None,
        seed=0,
        memory="plenty",
        size=None,
        levels=None,
    ) -> None:
        self.kept = ExitStack()
        self.kept.enter_context(memory_kept())  # as `ornstein train` does
        data = open_data(x.cpu().numpy(), DataOptions(validation=0.0, flip=flips))
        config = recipe(data, minutes=None if seconds is None else seconds / 60)
        batch = batch or config.train.batch
        options = replace(config.train, batch=batch, seen=batch * updates, memory=memory)
        net = replace(config.net, size=size or config.net.size, levels=levels or config.net.levels)
        device = choose_device(torch.get_default_device().type)
        world = World.join(device)
        config = replace(config, seed=seed, train=options, net=net)
        config, _ = settle(config, data, device=device, world=world, seconds=None)
        self.batch, self.config, self.settings = batch, config, words(config)
        self.training = Updates(config, data.to(device), device=device, world=world)
        self.net = self.training.denoiser

    def update(self) -> None:
        self.training.update()

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        codec, denoiser = self.training.data.codec, self.training.averages.learners[0]
        ones = (1,) * (x.ndim - 2)
        mean, std = (torch.tensor(v).view(-1, *ones) for v in (codec.mean, codec.std))
        log_snr = 2 * torch.tensor(codec.std[0] / sigma, dtype=torch.float64).log()
        t = denoiser.schedule.time(log_snr)
        alpha, _ = denoiser.schedule(t)
        with autocast(self.training.device, self.training.precision):
            x_hat = denoiser((alpha * (x - mean) / std).float(), t.expand(len(x)))
        return x_hat.float() * std + mean


def words(config: RunConfig) -> str:
    t, net = config.train, config.net
    return (
        f"{net.kind} of size {net.size}; {config.denoiser.prediction} prediction, "
        f"{config.schedule.name} schedule; {t.optimizer} {t.learning_rate:g}; {t.precision}"
    )


# --- Samplers ------------------------------------------------------------------------------------


class Identity(Denoiser):
    """Costs nothing."""

    schedule = FlowSchedule()

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return x_t

    forward = __call__


def sampler(name: str):
    def prepare(x: Tensor, steps: int) -> Run:
        times = LogSNRGrid()(Identity.schedule, steps)
        plan, denoiser = SAMPLERS[name].plan(Identity.schedule, times), Identity()
        return lambda: plan(denoiser, x)

    return prepare


class Given(Denoiser):
    """One that is told alpha and sigma."""

    schedule = FlowSchedule()

    def __init__(self, denoise: Denoise) -> None:
        super().__init__()
        self.denoise = denoise

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.denoise(x_t, *(float(v) for v in self.schedule(t)))


def solver(name: str) -> Solver:
    """On the grid a run samples on unless told otherwise."""

    def solve(denoise: Denoise, noise: Tensor, calls: int) -> tuple[Tensor, float, float, Tensor]:
        rule, schedule = SAMPLERS[name], Given.schedule
        steps = max(n for n in range(1, calls + 1) if (rule.calls(n) or 0) <= calls)
        times = GRIDS[SampleConfig().grid](schedule, steps)
        alpha, sigma = (float(v) for v in schedule(times[0]))
        begin = start(schedule, times[0], noise)
        return begin, alpha, sigma, rule(Given(denoise), begin, times)

    return solve


# --- First picture: by the command `ornstein sample` ---------------------------------------------


def save(shape: tuple[int, ...], folder: Path) -> None:
    """A run of one update."""
    x = torch.randint(256, (64, *shape[1:], shape[0]), dtype=torch.uint8).numpy()
    config = recipe(open_data(x))
    train_run(x, out=folder / "run", seen=32, config=config)


RULES = {
    "DDIM": "ddim",
    "Euler": "euler",
    "Heun": "heun",
    "DPM-Solver++ 2M": "dpm++2m",
    "UniPC": "unipc",
    "Adams-Bashforth": "adams-bashforth",
    "DDPM": "ddpm",
}

if __name__ == "__main__":
    samplers = {rule: sampler(name) for rule, name in RULES.items()}
    solvers = {rule: solver(name) for rule, name in RULES.items() if rule != "DDPM"}
    serve(Adapter("ornstein", Training, samplers, solvers, save))
