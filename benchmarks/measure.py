"""How things are timed, on what, and where the figures are kept: the same for every claim.

With one thread a time is that of the processor, which other programs on the machine disturb
least; with more, or on a GPU, that of the clock. All that is compared takes turns, round after
round.
"""

import argparse
import json
import os
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

RESULTS = Path(__file__).parent / "results"
DEVICE = "ORNSTEIN_BENCH_DEVICE"  # tells all processes where to compute
Result = dict[str, Any]
K = TypeVar("K")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        threads: Of PyTorch, in each process.
        quick: So little that it takes seconds, and says nothing.
        peers: Whom to ask.
        seeds: Of trainings.
        tasks: To train on.
        budgets: Seconds of each training; none for the first that the task has.
        device: Where all of them compute.
    """

    threads: int = 1
    quick: bool = False
    peers: tuple[str, ...] = ()
    seeds: int = 3
    tasks: tuple[str, ...] = ("digits",)
    budgets: tuple[float, ...] = ()
    device: str = "cpu"

    def rounds(self, count: int) -> int:
        return 1 if self.quick else count


@dataclass(frozen=True)
class Claim:
    """Something said of speed: how it is measured, and how it is told.

    Args:
        name: Of its file.
        measure: The figures, by row.
        table: Of a result, in Markdown.
    """

    name: str
    measure: Callable[[Options], Result]
    table: Callable[[Result], str]


# --- Time ----------------------------------------------------------------------------------------


def on_processor() -> bool:
    """Whether nothing is computed elsewhere."""
    return os.environ.get(DEVICE, "cpu") == "cpu"


def seconds_of(run: Callable[[], object], threads: int = 1) -> float:
    """How long a run takes, in the clock that goes with so many threads."""
    clock = time.process_time if threads == 1 and on_processor() else time.perf_counter
    begin = clock()
    run()
    if not on_processor():
        import torch

        torch.cuda.synchronize()
    return clock() - begin


def pick(answer: dict[str, float], threads: int) -> float:
    """The same, of a peer's answer."""
    return answer["cpu" if threads == 1 and on_processor() else "wall"]


def in_turn(runs: dict[K, Callable[[], float]], rounds: int) -> dict[K, list[float]]:
    """What each run returns, round after round."""
    found: dict[K, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    return found


def figure(values: Sequence[float]) -> dict[str, Any]:
    """Median, and the quartiles as spread."""
    low, middle, high = statistics.quantiles([*values, *values], n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "rounds": len(values)}


def told(figure: dict[str, Any], digits: int = 3) -> str:
    """A figure in a table: its median and, if it was measured several times, its quartiles."""
    texts = [f"{float(f'{figure[k]:.{digits}g}'):,g}" for k in ("median", "low", "high")]
    return texts[0] if figure["rounds"] == 1 else f"{texts[0]} ({texts[1]}–{texts[2]})"


def grid(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


# --- Place ---------------------------------------------------------------------------------------


def processor() -> str:
    """The model of the processor, or of the GPU if that is what computes."""
    if not on_processor():
        import torch

        return torch.cuda.get_device_name()
    path = Path("/proc/cpuinfo")
    known = model_of(path.read_text()) if path.exists() else ""
    return known or platform.processor() or platform.machine()


def model_of(text: str) -> str:
    """The name that ``/proc/cpuinfo`` gives; one without a number with its family and model.

    Machines that are lent hide the number, and one may be twice as fast as another.
    """
    known = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", text, re.MULTILINE))
    name, told = known.get("model name", ""), {"cpu family", "model"} <= known.keys()
    if not name or re.search(r"\d", name) or not told:
        return name
    return f"{name} (family {known['cpu family']}, model {known['model']})"


def cores() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(threads: int) -> Result:
    """What the figures depend on; nothing that says whose machine it is."""
    import torch

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "cores used": cores(),
        "threads": threads,
        "clock": "processor" if threads == 1 and on_processor() else "wall",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
    }


class Others:
    """How many cores other programs keep busy, from here on; None where that cannot be known."""

    def __init__(self) -> None:
        self.begun, self.busy, self.own = time.monotonic(), machine_time(), own_time()

    def __call__(self) -> float | None:
        if self.busy is None or (busy := machine_time()) is None:
            return None
        spent = busy - self.busy - (own_time() - self.own)
        return round(max(0.0, spent / (time.monotonic() - self.begun)), 2)


def machine_time() -> float | None:
    """Seconds that all cores have worked, in this system's own account of them."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _, _, irq, soft = map(int, path.read_text().split()[1:8])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def own_time() -> float:
    """Seconds of them that were this process's, and its children's that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def is_quiet(place: Result) -> bool:
    """Whether little else ran: only then a clock on the wall measures what it should."""
    if "load" in place:  # as files of before have it: of the minute before, all programs together
        return (
            place["load"] is not None and place["load"] + place["threads"] <= place["cores"] + 0.5
        )
    return place["others"] is not None and place["others"] <= 0.1 * place["cores"]


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def path_of(name: str, place: Result, folder: Path = RESULTS) -> Path:
    """``NAME_hardware_date.json``."""
    hardware = slug(f"{place['processor']} {place['threads']} thread")
    return folder / f"{name}_{hardware}_{place['date'][:10]}.json"


def write(claim: Claim, options: Options, folder: Path = RESULTS) -> Path:
    """Measure a claim, and keep the figures."""
    import torch

    torch.set_num_threads(options.threads)
    os.environ[DEVICE] = options.device
    if not on_processor():  # what is the default costs a microsecond a call where it is set
        torch.set_default_device(options.device)
    place = environment(options.threads)
    began, others = time.monotonic(), Others()
    rows = claim.measure(options)
    place |= {"others": others()}
    spent = round(time.monotonic() - began, 1)
    result = {"claim": claim.name, "quick": options.quick, "seconds": spent} | {"place": place}
    path = path_of(claim.name, place, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"rows": rows}, indent=1, ensure_ascii=False) + "\n")
    return path


def newest(name: str, folder: Path = RESULTS) -> list[Result]:
    """The last result of a claim on each kind of machine, the latest of them first."""
    last = dict[str, Result]()
    for path in folder.glob(f"{name}_*_????-??-??.json"):
        result = json.loads(path.read_text())
        hardware = path.name.rsplit("_", 1)[0]
        if hardware not in last or result["place"]["date"] > last[hardware]["place"]["date"]:
            last[hardware] = result
    return sorted(last.values(), key=lambda r: r["place"]["date"], reverse=True)


# --- Command -------------------------------------------------------------------------------------


def parser(text: str | None) -> argparse.ArgumentParser:
    from peers.pipe import NAMES

    found = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--threads", type=int, default=1)
    found.add_argument("--quick", action="store_true", help="in seconds, to see that it works")
    found.add_argument("--peers", nargs="*", default=NAMES, choices=NAMES)
    found.add_argument("--seeds", type=int, default=3)
    found.add_argument("--tasks", nargs="*", default=("digits",))
    found.add_argument("--budgets", nargs="*", type=float, default=(), metavar="SECONDS")
    found.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    found.add_argument("--out", type=Path, default=RESULTS)
    return found


def options_of(arguments: argparse.Namespace) -> Options:
    return Options(
        threads=arguments.threads,
        quick=arguments.quick,
        peers=tuple(arguments.peers),
        seeds=arguments.seeds,
        tasks=tuple(arguments.tasks),
        budgets=tuple(arguments.budgets),
        device=arguments.device,
    )


def main(claim: Claim, text: str | None) -> None:
    """The program of one claim."""
    arguments = parser(text).parse_args()
    path = write(claim, options_of(arguments), arguments.out)
    print(claim.table(json.loads(path.read_text())), f"\n{path}")
