"""Killed anywhere, any number of times: a resumed run is the same run, to the last bit."""

import os
import random
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ornstein.data import DataOptions
from ornstein.runs.config import RunConfig
from ornstein.runs.folder import RunFolder
from ornstein.train.progress import Progress
from ornstein.train.start import read, train
from ornstein.train.training import Training
from train.tiny import Looks, digest, tiny_config, trained

# About half a megabyte; and accumulation, bfloat16, warm-up, averages, two optimisers at once
PLAIN = tiny_config(64, 4, seen=32 * 400)
SHORT = replace(PLAIN, train=replace(PLAIN.train, seen=32 * 100))
MIXED = tiny_config(
    32,
    2,
    seen=32 * 120,
    micro_batch=11,
    precision="bf16",
    warmup=0.2,
    ema=(0.05, 0.1),
    ema_snapshots=6,
    optimizer="muon",
    condition_dropout=0.3,
)


def labelled(path: Path) -> Path:
    """Points with a class and a number, 130 to an epoch, so that kills fall inside of one."""
    draw = random.Random(0)
    rows = ["x,y,label"]
    for _ in range(150):
        x, y = draw.gauss(0, 1), draw.gauss(0, 1)
        rows.append(f"{x:.5f},{x * y:.5f},{'left' if x < 0 else 'right'}")
    path.write_text("\n".join(rows) + "\n")
    return path


POINTS = ("after_write", "after_fsync", "after_manifest", "after_replace", "after_prune")


def child(source: str, out: str, config: str, resume: bool, save_every: float, kill: str) -> None:
    """Train, and write each position of the clock that was reported as saved.

    With `kill`, ``point:n``, the process kills itself the n-th time that the writer is there.
    """
    torch.set_num_threads(1)
    if kill:
        os.environ["ORNSTEIN_KILL_AT"] = kill
    told = os.open(f"{out}.saved", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def report(progress: Progress) -> None:
        if progress.event == "checkpoint":
            os.write(told, f"{progress.seen}\n".encode())

    if resume:
        train(out=out, resume=True, report=report, save_every=save_every)
    else:
        c = RunConfig.from_toml(config)
        train(source, out=out, config=c, report=report, save_every=save_every)


def saved(out: Path) -> list[int]:
    told = Path(f"{out}.saved")
    return [int(n) for n in told.read_text().split()] if told.exists() else []


def wait_for(condition, process, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.002)


def contents(out: Path) -> tuple[str, str]:
    """The digest of the newest checkpoint, and the log as text."""
    folder = RunFolder.open(out)
    config = RunConfig.from_toml(folder.config_toml)
    data, _ = read(config.source, config, torch.device("cpu"))
    training, latest = Training(config, data), folder.latest()
    assert latest is not None
    training.restore(latest)
    return digest(training), (out / "metrics.jsonl").read_text()


def kept(out: Path) -> dict[str, bytes]:
    """The averages that were kept on the way."""
    return {p.parent.name: p.read_bytes() for p in sorted(out.glob("kept/*/*.safetensors"))}


class Kills:
    """Starts a child that trains `out`, again and again, and sees to it that it dies."""

    def __init__(self, children, source: Path | str, out: Path, config: RunConfig) -> None:
        self.children, self.source, self.out, self.config = children, source, out, config
        self.begun, self.count = False, 0

    def start(self, kill: str = "", save_every: float = 0.0):
        config = self.config.to_toml()
        arguments = (str(self.source), str(self.out), config, self.begun, save_every, kill)
        process = self.children.Process(target=child, args=arguments)
        before = len(saved(self.out))
        process.start()
        wait_for(lambda: len(saved(self.out)) > before, process)
        self.begun = self.begun or len(saved(self.out)) > 0
        return process

    def after(self, seconds: float, number: int = signal.SIGKILL) -> int | None:
        """One more kill, so many seconds after the first save; the exit code."""
        process = self.start()
        time.sleep(seconds)
        os.kill(process.pid, number)
        process.join(30)
        self.check()
        return process.exitcode

    def inside(self, point: str, n: int) -> None:
        """One more kill, inside of the writer."""
        process = self.start(f"{point}:{n}")
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, (point, n, process.exitcode)
        self.check()

    def check(self) -> None:
        """The newest checkpoint verifies and is no older than the last one reported."""
        self.count += 1
        latest = RunFolder.open(self.out).latest()
        assert latest is not None and latest.seen >= max(saved(self.out))

    def finish(self) -> None:
        process = self.start(save_every=1e9)
        process.join(120)
        assert process.exitcode == 0


def whole(source: Path | str, out: Path, config: RunConfig) -> tuple[str, str]:
    """The run that nobody disturbs, saved at its beginning and end alone."""
    train(source, out=out, config=config, save_every=1e9)
    return contents(out)


def kill_at_random(
    children, memory_path: Path, config: RunConfig, kills: int, longest: float
) -> None:
    source, draw = labelled(memory_path / "points.csv"), random.Random(1)
    config = replace(config, data=DataOptions())
    victim = Kills(children, source, memory_path / "killed", config)
    for _ in range(kills):
        victim.after(draw.uniform(0, longest))
    assert victim.count == kills
    victim.finish()
    assert contents(memory_path / "killed") == whole(source, memory_path / "whole", config)
    assert kept(memory_path / "killed") == kept(memory_path / "whole")
    leftovers = [p for p in (memory_path / "killed").rglob("*") if "tmp" in p.name]
    assert not leftovers


@pytest.mark.slow
def test_forty_kills_at_any_time_leave_no_trace(memory_path, children):
    kill_at_random(children, memory_path, PLAIN, kills=40, longest=0.15)


@pytest.mark.slow
def test_kills_inside_of_the_writer_leave_no_trace(memory_path, children):
    source, draw = labelled(memory_path / "points.csv"), random.Random(2)
    config = replace(PLAIN, data=DataOptions())
    victim = Kills(children, source, memory_path / "killed", config)
    victim.after(0.05)  # so that there is a checkpoint to go back to
    for point in POINTS:
        for _ in range(4):
            victim.inside(point, draw.randint(1, 9))
    victim.finish()
    assert contents(memory_path / "killed") == whole(source, memory_path / "whole", config)
    assert kept(memory_path / "killed") == kept(memory_path / "whole")


@pytest.mark.torture
def test_two_hundred_kills_at_any_time_leave_no_trace(memory_path, children):
    long = replace(PLAIN, train=replace(PLAIN.train, seen=32 * 8000))
    kill_at_random(children, memory_path, long, kills=200, longest=0.6)


@pytest.mark.slow
def test_kills_within_accumulation_bf16_muon_and_averages_leave_no_trace(memory_path, children):
    kill_at_random(children, memory_path, MIXED, kills=8, longest=0.2)


def test_stops_inside_an_epoch_twice_in_the_same_one_leave_no_trace(memory_path):
    """135 examples are 4.2 batches of 32: every epoch is entered and left in the middle."""
    source = labelled(memory_path / "points.csv")
    config = replace(MIXED, data=DataOptions(), train=replace(MIXED.train, seen=32 * 40))
    draw = random.Random(0)
    out = memory_path / "stopped"
    folder = train(source, out=out, config=config, stop=Looks(5))
    places = [folder.latest().seen]
    for _ in range(12):
        folder = train(out=out, resume=True, stop=Looks(draw.randint(4, 40)))
        places.append(folder.latest().seen)
        if places[-1] >= config.train.seen:
            break
    train(out=out, resume=True)
    epochs = [seen // 135 for seen in places if seen % 135 and seen < config.train.seen]
    assert len(epochs) > len(set(epochs))  # at least two stops in one epoch
    assert contents(out) == whole(source, memory_path / "whole", config)
    assert kept(out) == kept(memory_path / "whole")


@pytest.mark.parametrize(("split", "other"), [(8, 4), (4, 8)])
def test_going_on_with_another_split_of_the_batch_changes_rounding_alone(split, other):
    config = tiny_config(seen=32 * 60, micro_batch=split)
    data, _ = read("swiss-roll", config, torch.device("cpu"))
    first = trained(config, data, 10)
    second = Training(config, data)
    second.restore(Taken(first.seen, first.state(), first.parts()))
    second.micro = other
    for _ in range(50):
        losses = []
        for training in (first, second):
            before = training.tally.loss
            training.update()
            losses.append(training.tally.loss - before)
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert first.tally.order == second.tally.order


@dataclass
class Taken:
    """A checkpoint in memory."""

    seen: int
    state: dict[str, Any]
    parts: dict[str, dict[str, torch.Tensor]]

    def load(self, part: str) -> dict[str, torch.Tensor]:
        return self.parts[part]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_at_any_time_ends_well_and_soon(memory_path, children, number):
    source, draw = labelled(memory_path / "points.csv"), random.Random(int(number))
    config = replace(SHORT, data=DataOptions())
    victim = Kills(children, source, memory_path / "killed", config)
    for _ in range(4):
        start = time.monotonic()
        seconds = draw.uniform(0, 0.15)
        assert victim.after(seconds, number) == 0
        assert time.monotonic() - start - seconds < 5 + 30  # the start of a child on a busy machine
    victim.finish()
    assert contents(memory_path / "killed") == whole(source, memory_path / "whole", config)


def stubborn(source: str, out: str, config: str, ready: str) -> None:
    """A training that is stuck between two looks at the flag."""
    torch.set_num_threads(1)

    def report(progress: Progress) -> None:
        Path(ready).touch()
        while True:
            time.sleep(0.01)

    train(source, out=out, config=RunConfig.from_toml(config), report=report)


def test_a_second_interrupt_ends_at_once(memory_path, children):
    ready = memory_path / "ready"
    arguments = ("swiss-roll", str(memory_path / "run"), tiny_config().to_toml(), str(ready))
    process = children.Process(target=stubborn, args=arguments)
    process.start()
    wait_for(ready.exists, process)
    os.kill(process.pid, signal.SIGINT)
    process.join(0.3)
    assert process.is_alive()  # the first one is for the loop to see
    os.kill(process.pid, signal.SIGINT)
    process.join(5)
    assert process.exitcode == -signal.SIGINT
