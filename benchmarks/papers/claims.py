"""A claim of a paper at the size of a small machine: what must hold, what was measured, whether.

Every script of this folder has a function `measure` that gives plain values, a function `judge`
that makes a `Claim` of them, and ends with ``main(measure, judge)``, which takes

    --quick        the smallest form, in seconds: it shows that the script works, not the claim
    --judge        judge again what was measured before
    --data NAME    digits, or mnist or cifar10 from the archives in the folder $ORNSTEIN_DATA
    --out FILE     by default benchmarks/results/papers_<script>.json
    --cache DIR    where trainings are kept, for all scripts, by default benchmarks/.cache
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from ornstein.data.codec import write_bytes

BENCHMARKS = Path(__file__).resolve().parents[1]
RESULTS = BENCHMARKS / "results"
ARCHIVES = {"mnist": "mnist-train.tar.gz", "cifar10": "cifar10-train.tar.gz"}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that must hold.

    Args:
        text: What.
        ours: What was measured, in a few words.
        each: Whether it held, seed by seed. The line holds if it did in all of them.
        because: Why it does not hold, as far as known; shown only then.
    """

    text: str
    ours: str
    each: tuple[bool, ...]
    because: str = ""

    @property
    def holds(self) -> bool:
        return bool(self.each) and all(self.each)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper says, and what became of it here.

    Args:
        paper: Authors, year and name.
        url: Of the paper.
        says: The claim, in a sentence.
        published: The published values.
        setting: What was done here instead.
        lines: What must hold.
        floor: What real data would reach, or another yardstick, in a few words.
    """

    paper: str
    url: str
    says: str
    published: str
    setting: str
    lines: Sequence[Line]
    floor: str

    @property
    def holds(self) -> bool:
        return all(line.holds for line in self.lines)

    @property
    def facts(self) -> dict[str, Any]:
        lines = [asdict(line) | {"holds": line.holds} for line in self.lines]
        return asdict(self) | {"lines": lines, "holds": self.holds}


Values = dict[str, Any]
"""What was measured, as JSON holds it: the keys are text."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large to measure.

    Args:
        quick: The smallest form, to see that it works.
        data: ``digits``, or a key of `ARCHIVES`.
        cache: Where trainings are kept.
    """

    quick: bool
    data: str
    cache: Path

    def __call__(self, full: T, quick: T) -> T:
        """`full`, or `quick` in the quick form."""
        return quick if self.quick else full

    @property
    def seeds(self) -> range:
        return range(self(3, 1))

    @property
    def source(self) -> str:
        """What to open: the name of a built-in dataset, or the path of an archive."""
        if self.data not in ARCHIVES:
            return self.data
        return str(Path(os.environ["ORNSTEIN_DATA"]) / ARCHIVES[self.data])

    @property
    def absent(self) -> str:
        """Why the data are not there; empty if they are."""
        if self.data not in ARCHIVES:
            return ""
        folder = os.environ.get("ORNSTEIN_DATA")
        if folder is None:
            return f"{self.data} is skipped: set ORNSTEIN_DATA to the folder of its archive."
        place = Path(folder) / ARCHIVES[self.data]
        return "" if place.exists() else f"{self.data} is skipped: there is no {place}."


Measure = Callable[[Scale], Values]
Judge = Callable[[Values], Claim]

SPACES = ("learned", "fixed")
"""The features that Frechet distances are measured on."""


def spread(values: Sequence[float], digits: int = 3) -> str:
    """``mean ± standard deviation`` over the seeds."""
    mean = f"{statistics.fmean(values):#.{digits}g}".rstrip(".")
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2g}"


def rising(*columns: Sequence[float]) -> tuple[bool, ...]:
    """For each seed, whether its values rise from column to column."""
    return tuple(all(a < b for a, b in pairwise(row)) for row in zip(*columns, strict=True))


# --- Running a script ----------------------------------------------------------------------------


def main(measure: Measure, judge: Judge, arguments: Sequence[str] | None = None) -> int:
    """Measure, judge, print and write; 0 whether or not the claim holds: both are results."""
    module = sys.modules[measure.__module__]
    name = Path(str(module.__file__)).stem
    parser = argparse.ArgumentParser(
        description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--data", choices=["digits", *ARCHIVES], default="digits")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cache", type=Path, default=BENCHMARKS / ".cache")
    given = parser.parse_args(arguments)
    scale = Scale(quick=given.quick, data=given.data, cache=given.cache)
    if scale.absent:
        print(scale.absent)
        return 0
    suffix = "" if given.data == "digits" else f"_{given.data}"
    usual = (given.cache / "quick" if given.quick else RESULTS) / f"papers_{name}{suffix}.json"
    place = given.out or usual
    facts = json.loads(place.read_text()) if given.judge else measured(measure, scale)
    claim = judge(facts["values"])
    said = claim.facts
    rest = {key: value for key, value in facts.items() if key not in said}
    write_bytes(place, text_of(said | rest).encode())
    show(claim)
    print(f"  {place}")
    return 0


def measured(measure: Measure, scale: Scale) -> dict[str, Any]:
    """What was measured, and of what and for how long, as JSON gives it back."""
    torch.set_num_threads(1)
    began = time.process_time()
    values = measure(scale)
    seconds = round(time.process_time() - began)
    facts = {"data": scale.data, "quick": scale.quick, "seeds": len(scale.seeds)}
    facts |= {"cpu_seconds": seconds, "torch": torch.__version__, "values": values}
    return json.loads(text_of(facts))


def text_of(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def show(claim: Claim) -> None:
    print(f"{claim.paper}: {claim.says}\n  published: {claim.published}\n  floor: {claim.floor}")
    for line in claim.lines:
        verdict = "holds" if line.holds else "does not hold"
        print(f"  {verdict}: {line.text}\n    ours: {line.ours}; by seed {line.each}")
