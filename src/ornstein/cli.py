"""The command line: each command parses, makes one call, and prints.

Results go to standard output, all else to standard error. Nothing here imports torch before a
command has said what it is about to do.
"""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

import os
import sys
import tomllib
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from . import __version__
from .data.options import DataOptions
from .errors import OrnsteinError, UsageError
from .tasks.options import DrawOptions, EvaluateOptions, RestoreOptions, SampleOptions, checked

if TYPE_CHECKING:
    from .runs.config import RunConfig
    from .runs.model import Model

app = App(
    name="ornstein",
    version=__version__,
    help="A diffusion model of your own data, and everything you can do with it.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)

FLAT = Parameter(name="*")
Flag = Annotated[bool, Parameter(show_default=False)]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How to compute and how to speak.

    Args:
        device: Where to compute: cpu, cuda, cuda:1; auto takes a GPU if there is one.
        threads: Of the processor; fewer are often faster when other programs are busy.
        json: Print the result as one JSON object, for programs.
        debug: Show where an error comes from.
    """

    device: str = "auto"
    threads: int | None = None
    json: Flag = False
    debug: Flag = False

    def start(self, line: str) -> None:
        """Say what is about to happen, then wait for torch."""
        if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun, one speaks
            say(line)
        if self.threads is not None:
            if self.threads < 1:
                raise UsageError(f"--threads {self.threads} must be at least 1.")
            os.environ["OMP_NUM_THREADS"] = str(self.threads)
            import torch

            torch.set_num_threads(self.threads)

    def result(self, values: dict[str, Any], lines: Sequence[object]) -> None:
        """Print `values` as JSON if that was asked for, else the lines."""
        if self.json:
            import json

            print(json.dumps(values, default=str))
        else:
            for line in lines:
                print(line)


def say(line: str) -> None:
    """A line for the person who waits."""
    print(line, file=sys.stderr, flush=True)


# --- Commands ------------------------------------------------------------------------------------


@app.command
def train(
    data: str | None = None,
    /,
    *,
    minutes: float | None = None,
    seen: int | None = None,
    out: Path | None = None,
    recipe: str = "auto",
    config: Path | None = None,
    size: int | None = None,
    seed: int | None = None,
    resume: Flag = False,
    allow_data_change: Flag = False,
    track: Flag = False,
    dry_run: Flag = False,
    options: Annotated[DataOptions, Parameter(name="data")] = DataOptions(),
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Train a model of DATA in the time you have.

    Args:
        data: A folder, an archive, a table, or a built-in dataset: digits, swiss-roll, flower...
            With --resume and no --out, the run to go on with.
        minutes: How long to train; turned into a number of examples by a short trial.
        seen: How long to train, in examples seen.
        out: The run folder to write; the first free place in runs/ if not given.
        recipe: Where to start from: what suits DATA, or a paper's.
        config: A TOML file of what shall differ from the recipe.
        size: Width of the network, its one dial.
        seed: Same seed, same run.
        resume: Go on where a run stopped, as if it never had.
        allow_data_change: Go on although DATA are not what they were.
        track: Log to TensorBoard too.
        dry_run: Print the configuration that the run would have, and stop.
    """
    if resume and out is None and data is not None:
        data, out = None, Path(data)
    machine.start(f"Opening {out if resume else data}")
    from .runs.folder import describe
    from .train import shown
    from .train import train as fit

    changes = _changes(config, size, seed, options)
    wanted = None
    if data is not None and (changes or recipe != "auto" or dry_run):
        wanted = _configure(data, recipe, minutes, changes, str(config or "the command line"))
    if dry_run:
        from .runs.folder import RunFolder

        print(wanted.to_toml() if wanted else RunFolder.open(out or "").config_toml)
        return
    with redirect_stdout(sys.stderr), shown() as report:
        run = fit(
            data,
            out=out,
            minutes=minutes,
            seen=seen,
            config=wanted,
            resume=resume,
            allow_data_change=allow_data_change,
            device=machine.device,
            report=report,
            track=track,
        )
    if os.environ.get("RANK", "0") != "0":  # under torchrun, the first process speaks for all
        return
    facts = describe(run.path)
    lines = [f"Run: {run.path}", f"Sample it: ornstein sample {run.path}"]
    if facts["seen"] < facts["budget"]:
        stopped = f"Stopped at {facts['seen']:,} of {facts['budget']:,} examples"
        lines.insert(0, f"{stopped}; go on with: ornstein train --resume {run.path}")
    machine.result({"run": run.path, "seen": facts["seen"]}, lines)


@app.command
def sample(
    run: Path,
    /,
    options: Annotated[SampleOptions, FLAT] = SampleOptions(),
    *,
    out: Path | None = None,
    grid: Path | None = None,
    dry_run: Flag = False,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Draw new examples from the trained RUN.

    Args:
        run: The run folder.
        out: Folder for the examples, in the format of the data; RUN/samples if not given.
        grid: One picture of all of them, as in grid.png.
        dry_run: Say what would be drawn, and stop.
    """
    options = checked(SampleOptions, asdict(options))
    count = len(options.indices)
    machine.start(f"Drawing {count:,} example{'s' * (count > 1)} from {run}")
    import torch

    from .tasks.sample import opened, stream, write_picture

    model = opened(run, machine.device)
    if dry_run:
        _show_plan(model, options, machine)
        return
    assert model.run is not None
    folder, paths, shown = out or model.run.samples, [], []
    for part in stream(model, options):
        paths += part.save(folder)
        if grid is not None and sum(map(len, shown)) < MOST_IN_A_GRID:
            shown.append(part.x)
    if grid is not None:
        picture = model.codec.preview(torch.cat(shown)[:MOST_IN_A_GRID])
        paths.append(write_picture(picture, grid))
    machine.result({"paths": paths}, _summary(paths))


@app.command
def restore(
    run: Path,
    pictures: list[Path],
    /,
    options: Annotated[RestoreOptions, FLAT] = RestoreOptions(),
    *,
    mask: Path,
    out: Path | None = None,
    grid: Path | None = None,
    dry_run: Flag = False,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Fill in the masked part of PICTURES, several times over; the rest is kept exactly.

    Args:
        run: The run folder.
        pictures: One or several files.
        mask: A picture that is white where to fill in.
        out: Folder for the restorations; RUN/samples/restored if not given.
        grid: One picture of what was given, what was kept, and the restorations.
        dry_run: Say what would be drawn, and stop.
    """
    options = checked(RestoreOptions, asdict(options))
    machine.start(f"Restoring {', '.join(str(p) for p in pictures[:3])} with {run}")
    from .tasks.restore import restore as fill_in
    from .tasks.sample import opened, write_picture

    model = opened(run, machine.device)
    if dry_run:
        _show_plan(model, options, machine)
        return
    assert model.run is not None
    restored = fill_in(model, pictures, mask, **asdict(options))
    paths = restored.save(out or model.run.samples / "restored")
    if grid is not None:
        paths.append(write_picture(restored.panel(), grid))
    machine.result({"paths": paths}, _summary(paths))


@app.command
def evaluate(
    run: Path,
    /,
    options: Annotated[EvaluateOptions, FLAT] = EvaluateOptions(),
    *,
    out: Path | None = None,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Measure how good the RUN is, how diverse, and whether it copies its training data.

    Each figure stands beside what real data reach; where examples are too few, there is none.

    Args:
        run: The run folder.
        out: Folder for report.html and metrics.json; RUN/evaluation if not given.
    """
    options = checked(EvaluateOptions, asdict(options))
    machine.start(f"Measuring {run} on {options.count:,} examples")
    from .evaluate.evaluation import evaluate as measure
    from .evaluate.evaluation import write

    found = measure(run, device=machine.device, say=say, **asdict(options))
    report = write(found, out)
    values = {"report": report.resolve(), **found.facts}
    machine.result(values, [*found.lines(), f"Report: {report.resolve()}"])


@app.command
def show(
    what: Path,
    /,
    *,
    options: Annotated[DataOptions, Parameter(name="data")] = DataOptions(),
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Look at DATA before training, at a RUN, or at a folder of runs.

    Args:
        what: A dataset, a run folder, or a folder that holds run folders.
    """
    if (what / "run.json").is_file():
        machine.start(f"Opening the run {what}")
        from .runs.folder import describe

        facts = describe(what)
        machine.result(facts, _pairs(facts))
        return
    if what.is_dir() and any(what.glob("*/run.json")):
        machine.start(f"Opening the runs in {what}")
        from .runs.folder import list_runs

        runs = list_runs(what)
        machine.result({"runs": runs}, [] if machine.json else _table(runs))
        return
    machine.start(f"Reading {what}")
    from .data import open_data, profile_data

    options = replace(options, on_bad="skip")  # what cannot be read is part of the picture
    profile = profile_data(open_data(str(what), options))
    machine.result(asdict(profile), profile.lines())


@app.command
def doctor(*, machine: Annotated[Machine, FLAT] = Machine()) -> None:
    """Say what this machine has: versions, devices, threads, compiler, disk."""
    machine.start("Looking at this machine")
    from .tasks.doctor import examine

    facts = examine()
    machine.result(facts, _pairs(facts))


@app.command
def demo(
    *,
    minutes: float = 1.5,
    out: Path = Path("demo"),
    seed: int = 0,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Train on real scanned digits, sample, mend pictures, and write one report to look at.

    Args:
        minutes: How long to train.
        out: Folder for the run and the report.
        seed: Same seed, same digits.
    """
    machine.start(f"Training on 1,797 scanned digits for {minutes:g} minutes, into {out}")
    import torch

    from .evaluate.demo import run_demo
    from .tasks.doctor import quickest_threads
    from .train import shown

    if machine.threads is None:
        torch.set_num_threads(quickest_threads())
    with redirect_stdout(sys.stderr), shown() as report:
        done, path = run_demo(
            out, minutes=minutes, seed=seed, device=machine.device, say=say, report=report
        )
    facts = {"report": path.resolve(), "run": done.run.path.resolve(), **done.facts}
    machine.result(facts, [*_pairs(done.facts), f"Report: {path.resolve()}"])


# --- Configuration -------------------------------------------------------------------------------


def _changes(
    file: Path | None, size: int | None, seed: int | None, options: DataOptions
) -> dict[str, Any]:
    """What shall differ from the recipe: the file first, then the flags."""
    changes: dict[str, Any] = {}
    if file is not None:
        try:
            changes = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise UsageError(f"{file} cannot be read ({error.strerror}).") from None
        except ValueError as error:
            raise UsageError(f"{file} is not TOML: {error}. Mend or remove the line.") from None
    default, given = asdict(DataOptions()), asdict(options)
    flags: dict[str, Any] = {"data": {k: v for k, v in given.items() if v != default[k]}}
    if size is not None:
        flags["net"] = {"size": size}
    if seed is not None:
        flags["seed"] = seed
    return _merged(changes, {k: v for k, v in flags.items() if v != {}})


def _configure(
    data: str, recipe: str, minutes: float | None, changes: dict[str, Any], place: str
) -> "RunConfig":
    """The recipe for these data, with the changes, which came from `place`."""
    from .data import open_data
    from .runs.config import RunConfig
    from .train import recipe as recipe_for

    read_as = RunConfig.from_dict({"data": changes.get("data", {})}, place).data
    base = recipe_for(open_data(data, read_as), recipe, minutes)
    return RunConfig.from_dict(_merged(asdict(base), {"source": data} | changes), place)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, table by table."""
    both = dict(base)
    for key, value in changes.items():
        old = both.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            value = _merged(old, value)
        both[key] = value
    return both


# --- What they print -----------------------------------------------------------------------------

MOST_IN_A_GRID = 1024  # examples in one picture
COLUMNS = ("run", "data", "seen", "budget", "loss", "held_out_loss", "megabytes", "problem")


def _summary(paths: Sequence[Path]) -> list[object]:
    """Each path if there are few, else the first and the last."""
    if len(paths) <= 20:
        return list(paths)
    return [paths[0], f"... {len(paths) - 2:,} more", paths[-1]]


def _show_plan(model: "Model", options: DrawOptions, machine: Machine) -> None:
    from .tasks.sample import plan

    _, sampler, times = plan(model, options)
    steps = len(times) - 1
    config = model.config.sample
    facts = {
        "run": model.run and model.run.path,
        "seen": model.seen,
        "sampler": options.sampler or config.sampler,
        "steps": steps,
        "denoiser_calls": sampler.calls(steps),
        "guidance": config.guidance if options.guidance is None else options.guidance,
        "label": options.label,
        "seed": options.seed,
    }
    machine.result(facts, _pairs(facts))


def _pairs(facts: dict[str, Any]) -> list[str]:
    """Names and values in two columns."""
    width = max(map(len, facts), default=0)
    return [f"{k:<{width}}  {_cell(v)}" for k, v in facts.items() if v is not None]


def _cell(value: object) -> str:
    """Four digits of a float are enough to look at."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[dict[str, Any]]) -> list[object]:
    """A table for a person if this is a terminal, else plain columns for a program."""
    names = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    if not sys.stdout.isatty():
        return ["\t".join(names), *("\t".join(_cell(row[n]) for n in names) for row in rows)]
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_cell(row[n])) for n in names))
    Console().print(table)
    return []


# --- The program ---------------------------------------------------------------------------------


def main() -> None:
    """The program `ornstein`."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    0 done, 1 a bug, 2 bad arguments, 3 storage, 4 locked, 5 diverged, 6 data, 7 a model file
    refused, 130 interrupted. What the user can mend is one line; only `--debug` shows more.
    """
    try:
        app(list(tokens), exit_on_error=False, print_error=False)
        return 0
    except BrokenPipeError:  # whoever read our output has stopped, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in tokens:
            traceback.print_exc()
        code, line = _verdict(error)
    say(f"ornstein: {line}")
    return code


def _verdict(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and the line that tells a person what to do."""
    match error:
        case OrnsteinError():
            return error.exit_code, str(error)
        case CycloptsError():
            return UsageError.exit_code, " ".join(str(error).split())
        case KeyboardInterrupt():
            return 130, "Interrupted."
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return 1, f"This is a bug ({reason}); run the command again with --debug and report it."
