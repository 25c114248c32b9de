"""What a training reports while it runs, and how a terminal shows it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

from ..errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands.

    Args:
        seen: Examples seen.
        budget: Examples to see.
        loss: Mean training loss of late; NaN before the first.
        val: Last validation loss; NaN before the first, or without held-out examples.
        learning_rate: Now.
        examples_per_s: Of late.
        seconds: Since this process began to train.
        seconds_left: At that rate.
        verdict: The training doctor's last line.
        skipped: Updates skipped because they were not finite.
        event: What has just happened, if anything: ``checkpoint``, ``finished``, ``stopped``...
        peak: The most bytes of memory held so far; 0 if not known.
    """

    seen: int
    budget: int
    loss: float = nan
    val: float = nan
    learning_rate: float = 0.0
    examples_per_s: float = 0.0
    seconds: float = 0.0
    seconds_left: float = nan
    verdict: str = ""
    skipped: int = 0
    event: str = ""
    peak: int = 0

    def __str__(self) -> str:
        parts = [f"{self.seen / self.budget:4.0%}", f"{self.seen:,} of {self.budget:,} examples"]
        if not isnan(self.loss):
            parts.append(f"loss {self.loss:.4f}")
        if not isnan(self.val):
            parts.append(f"held-out {self.val:.4f}")
        if self.examples_per_s:
            parts.append(f"{self.examples_per_s:,.0f}/s")
        if not isnan(self.seconds_left) and self.seen < self.budget:
            parts.append(f"{duration(self.seconds_left)} left")
        if self.skipped:
            parts.append(f"{self.skipped} updates skipped")
        if self.peak and self.event == "finished":
            parts.append(f"at most {self.peak / 2**30:.1f} GiB of memory")
        return "  ".join([*parts, self.verdict]).rstrip()


Report = Callable[[Progress], None]


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``.

    >>> duration(42.4), duration(185), duration(7620)
    ('42 s', '3 min 05 s', '2 h 07 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def shown(every: float = 10.0) -> Iterator[Report]:
    """A report for people: one live line in a terminal, else a plain line every few seconds."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(), refresh_per_second=4) as live:
            yield lambda progress: live.update(Text(str(progress)))
        return
    last = -every

    def line(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every or progress.event in ("finished", "stopped"):
            last = now
            print(progress, flush=True)

    yield line


def tensorboard(folder: Path, stack: ExitStack) -> Callable[[dict[str, Any]], None]:
    """A writer of the rows of the log for TensorBoard, closed with `stack`.

    Raises:
        UsageError: If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("TensorBoard is not installed: pip install 'ornstein[track]'.") from None
    writer = SummaryWriter(str(folder / "tensorboard"))
    stack.callback(writer.close)

    def track(row: dict[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "seen":
                writer.add_scalar(name, value, row["seen"])

    return track
