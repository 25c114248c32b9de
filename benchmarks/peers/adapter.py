"""The side of a peer: a process of its own that does as it is asked, in lines of JSON.

A request is ``{"verb": ..., ...}`` on standard input, an answer one line on standard output; what
the peer itself prints goes to standard error. An adapter is a `Trainer` and a few samplers, with
the package's own default settings; `serve` does the rest.
"""

import json
import os
import resource
import sys
import time
import types
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

Run = Callable[[], object]
Denoise = Callable[[Tensor, float, float], Tensor]
"""Of ``(x, alpha, sigma)``: ``E[data | alpha data + sigma noise = x]``."""
Solver = Callable[[Denoise, Tensor, int], tuple[Tensor, float, float, Tensor]]
"""Of unit noise and so many calls: where it began, alpha and sigma there, and where it ended."""
TRIAL = 0.04  # of a budget, to find how many updates fit into it; not counted


class Trainer(ABC):
    """A training as the peer's own script does it, on pictures held in memory.

    Args:
        x: Pictures ``(N, C, H, W)`` in [-1, 1].
        batch: Of an update; None for the peer's default.
        updates: How many there will be: decides what depends on the end of training.
        flips: Mirror half of the pictures.
        seconds: The budget, for those who choose by it; None for plenty.
        seed: Of everything random.
    """

    settings: str
    net: nn.Module
    batch: int

    @abstractmethod
    def __init__(
        self,
        x: Tensor,
        batch: int | None,
        updates: int,
        flips: bool = False,
        seconds: float | None = None,
        seed: int = 0,
    ) -> None: ...

    @abstractmethod
    def update(self) -> None:
        """All of one step: batch, noise, loss, gradient, optimiser, average."""

    @abstractmethod
    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """``E[data | data + sigma noise = x]``, by the weights one would sample with."""


def drawn(x: Tensor, batch: int, flips: bool) -> Tensor:
    """A batch of pictures, half of them mirrored if that is asked for."""
    part = x[torch.randint(len(x), (batch,))]
    if not flips:
        return part
    return torch.where(torch.rand(batch, 1, 1, 1) < 0.5, part.flip(-1), part)


def time_of(sigma: float, alphas_cumprod: Tensor) -> Tensor:
    """Where in the table the noise is ``sigma`` times the data, between its rows."""
    logs = ((1 - alphas_cumprod) / alphas_cumprod.clamp_min(1e-12)).log() / 2
    at = torch.tensor(sigma).log()
    i = int(torch.searchsorted(logs, at).clamp(1, len(logs) - 1))
    return i - 1 + ((at - logs[i - 1]) / (logs[i] - logs[i - 1])).clamp(0, 1)


class Hollow(types.ModuleType):
    """A module of which any public name can be had, and none does anything."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return types.SimpleNamespace()


def without(*names: str) -> None:
    """Put hollow modules in the place of those that are imported, but not used, here."""
    for name in names:
        sys.modules[name] = Hollow(name)


@dataclass
class Adapter:
    """What a peer can be asked for.

    Args:
        package: Whose version is told.
        trainer: If it trains.
        samplers: By name, of (x, steps): all steps with a denoiser that returns its argument,
            ready to run.
        solvers: Deterministic samplers on grids of their own default, by name.
        save: Writes an untrained network of ``(C, H, W)`` to a folder, to sample from.
        first_picture: From such a folder, in a new process, to a PNG: ten steps.
    """

    package: str
    trainer: type[Trainer] | None = None
    samplers: dict[str, Callable[[Tensor, int], Run]] = field(default_factory=dict)
    solvers: dict[str, Solver] = field(default_factory=dict)
    save: Callable[[tuple[int, ...], Path], object] | None = None
    first_picture: Callable[[Path, Path], object] | None = None
    training: Trainer | None = None

    # --- Requests

    def hello(self) -> dict[str, Any]:
        verbs = [v for v in ("trainer", "save", "samplers", "solvers") if getattr(self, v)]
        rules = {"samplers": list(self.samplers), "solvers": list(self.solvers)}
        return {"version": version(self.package), "verbs": verbs} | rules

    def build(self, shape: list[int], batch: int | None, **more: Any) -> dict[str, Any]:
        """A training on 256 pictures of noise, and what its first update took."""
        assert self.trainer is not None
        torch.manual_seed(0)
        x = torch.randint(256, (256, *shape)).float() / 127.5 - 1
        self.training = self.trainer(x, batch, updates=1000, **more)
        parameters = sum(p.numel() for p in self.training.net.parameters())
        with FlopCounterMode(display=False) as counter:
            self.training.update()
        modules = [sum(c.values()) for k, c in counter.get_flop_counts().items() if k != "Global"]
        flops = max(modules) / self.training.batch  # of the network, without its optimiser
        told = {"settings": self.training.settings, "parameters": parameters}
        return told | {"flops_per_image": flops}

    def steps(self, count: int) -> dict[str, float]:
        assert self.training is not None
        return timed(lambda: [self.training.update() for _ in range(count)])  # type: ignore

    def fit(self, task: str, seconds: float, seed: int, out: str) -> dict[str, Any]:
        """Train on a task for `seconds` of this process's time; write its samples."""
        import numpy as np

        from tasks import load

        assert self.trainer is not None
        chosen = load(task)
        given = {"flips": chosen.flips, "seconds": seconds, "seed": seed}
        torch.manual_seed(seed)
        x = chosen.train_x.to(torch.get_default_device())
        trial = self.trainer(x, None, updates=1000, **given)
        pace = time_of_update(trial, TRIAL * seconds)
        updates = max(1, int(seconds / pace))
        training = self.trainer(x, None, updates=updates, **given)
        begin, done = time.process_time(), 0
        while done < updates and time.process_time() - begin < seconds:
            training.update()
            done += 1
        spent = time.process_time() - begin
        np.save(out, chosen.sample(training.denoise).float().cpu().numpy())
        parameters = sum(p.numel() for p in training.net.parameters())
        told = {"settings": training.settings, "parameters": parameters, "spent": spent}
        return told | {"updates": done, "images": done * training.batch}

    def sampler(self, name: str, shape: list[int], steps: int, runs: int) -> dict[str, float]:
        """All of so many runs, after one that warms up; in inference mode, as one draws."""
        run = self.samplers[name](torch.randn(shape), steps)
        with torch.inference_mode():
            run()
            return timed(lambda: [run() for _ in range(runs)])

    def solve(self, name: str, calls: int) -> dict[str, float]:
        """The error of a solver on data whose denoiser is exact."""
        from errors import Exact

        exact = Exact()
        with torch.no_grad():
            path = self.solvers[name](exact.denoise, exact.noise, calls)
        return {"distance": exact.error(*path), "calls": exact.calls}

    def peak(self) -> dict[str, int]:
        """Bytes that this process has held at most."""
        with suppress(OSError, StopIteration):  # Linux counts what its parent held, too
            lines = Path("/proc/self/status").read_text().splitlines()
            found = next(line for line in lines if line.startswith("VmHWM"))
            return {"bytes": 1024 * int(found.split()[1])}
        unit = 1 if sys.platform == "darwin" else 1024
        return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}

    def keep(self, shape: list[int], folder: str) -> dict[str, Any]:
        assert self.save is not None
        self.save(tuple(shape), Path(folder))
        return {}


VERBS = ("hello", "build", "steps", "fit", "sampler", "solve", "peak", "keep")


def timed(run: Run) -> dict[str, float]:
    """Seconds of the wall clock, and of all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def time_of_update(training: Trainer, seconds: float) -> float:
    for _ in range(3):
        training.update()
    begin, count = time.process_time(), 0
    while count < 3 or time.process_time() - begin < seconds:
        training.update()
        count += 1
    return (time.process_time() - begin) / count


def serve(adapter: Adapter) -> None:
    """Answer requests until the pipe is closed; or make a first picture, if so called."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    if (device := os.environ.get("ORNSTEIN_BENCH_DEVICE", "cpu")) != "cpu":
        torch.set_default_device(device)
    if len(sys.argv) == 3 and adapter.first_picture:
        adapter.first_picture(Path(sys.argv[1]), Path(sys.argv[2]))
        return
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        verb = request.pop("verb")
        try:
            if verb not in VERBS:
                raise ValueError(f"expected one of {VERBS}, got {verb!r}")
            answer = getattr(adapter, verb)(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
