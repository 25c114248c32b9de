"""`ornstein sample`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..errors import UsageError
from ..tasks.options import DrawOptions, SampleOptions, checked
from .machine import (
    FLAT,
    Flag,
    Folder,
    Machine,
    Opening,
    PictureFile,
    pairs,
    say,
    summary,
    watching,
)

if TYPE_CHECKING:
    from ..runs.model import Model

MOST_IN_A_GRID = 1024  # examples in one picture
MOST_PATHS = 1024  # that are remembered, to be printed


def sample(
    run: Path,
    /,
    *cascade: Path,
    options: Annotated[SampleOptions, FLAT] = SampleOptions(),
    prior: Path | None = None,
    out: Folder = None,
    grid: PictureFile = None,
    page: Path | None = None,
    dry_run: Flag = False,
    machine: Annotated[Opening, FLAT] = Opening(),
) -> None:
    """Draw new examples from the trained RUN.

    Args:
        run: The run folder; or a pipeline of diffusers, or hf:user/name.
        cascade: Runs trained on pairs, each of which is given what the one before drew. Texts go
            to all that read, guidance is of the first.
        prior: A run that draws, for each text, the embedding of the picture that RUN then draws.
        out: Folder for the examples, in the format of the data; samples/ of the last run if not
            given.
        grid: One picture of all of them, as in grid.png.
        page: In place of files, a page as in texts.html: a row of COUNT examples for each text
            or label, from the same noise in each row.
        dry_run: Say what would be drawn, and stop.
    """
    options = checked(SampleOptions, asdict(options))
    count = len(options.indices)
    runs = [run, *cascade]
    stray = next((r for r in runs if _is_word(r)), None)
    if stray and options.text:
        raise UsageError(f'{stray} is no run; put texts in quotes, as in --text "a red {stray}".')
    if stray and options.label:
        raise UsageError(
            f"{stray} is no run; name several classes as in --label 1 --label {stray}."
        )
    names = ", then ".join(map(str, runs))
    machine.start(f"Drawing {count:,} example{'s' * (count > 1)} from {names}")
    import torch

    from ..tasks import sample as task
    from ..tasks.picture import write_picture

    models = [machine.opened(run)]
    models += [machine.beside(after) for after in cascade]
    model, first = models[-1], prior and machine.beside(prior)
    if dry_run:
        weight, _ = task.weights_of(options, len(models))
        show_plan(models[0], replace(options, guidance=weight), machine)
        return
    if page is not None:
        machine.result({"page": page}, summary([write_page(models, options, page, first)]))
        return
    written, shown = Written(count), []
    with written, watching():
        for part in task.cascade(models, options, prior=first):
            written.add(part.save(out or model.samples), part.first, len(part))
            if grid is not None and sum(map(len, shown)) < MOST_IN_A_GRID:
                shown.append(part)
    if grid is not None:
        x = torch.cat([part.x for part in shown])
        picture = shown[0].codec.preview(x[:MOST_IN_A_GRID])
        written.remember([write_picture(picture, grid)])
    machine.result({"paths": written.paths, "files": written.files}, written.lines())


def write_page(
    models: "list[Model]", options: SampleOptions, page: Path, prior: "Model | None" = None
) -> Path:
    """A page with a row for each text or label."""
    from ..evaluate.pages.asked import asked_page
    from ..tasks.sample import sample as draw

    kind = "text" if options.text else "label"
    asked = options.text or options.label
    if not asked:
        raise UsageError("--page has a row for each --text or --label: name some.")
    with watching():
        rows = [
            (one, draw(models, prior=prior, **asdict(replace(options, **{kind: (one,)}))))
            for one in asked
        ]
    return asked_page(page, Path(models[-1].place).name, rows, in_a_few_words(models, options))


def in_a_few_words(models: "list[Model]", options: SampleOptions) -> str:
    """How the first of the runs draws."""
    from ..tasks.sample import weights_of

    config, (weight, _) = models[0].config.sample, weights_of(options, len(models))
    words = [f"guidance {config.guidance if weight is None else weight:g}"]
    words += [f"autoguidance {options.autoguidance:g}"] if options.autoguidance != 1 else []
    steps = options.steps or config.steps
    words += [f"{steps:,} step{'s' * (steps > 1)}", f"seed {options.seed}"]
    words += [f"away from “{options.negative}”"] if options.negative else []
    return ", ".join(words)


def _is_word(run: Path) -> bool:
    """Whether it is there only because a text of several words was not put in quotes."""
    return not run.exists() and str(run).isalnum()


class Written:
    """What has been written so far, in memory that does not grow with it.

    Every file is whole. If it is stopped, it says which examples are left.

    Args:
        total: Examples to write.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.next, self.files = total, 0, 0, 0
        self.paths: list[Path] = []

    def add(self, paths: list[Path], first: int, count: int) -> None:
        """`count` examples from number `first` on are written, in `paths`."""
        self.done, self.next = self.done + count, first + count
        self.remember(paths)

    def remember(self, paths: list[Path]) -> None:
        """Of many paths, the first ones and the last."""
        self.files += len(paths)
        self.paths += paths
        del self.paths[MOST_PATHS - 1 : -1]

    def lines(self) -> list[object]:
        """What to print of them."""
        if self.files == len(self.paths):
            return summary(self.paths)
        return [self.paths[0], f"... {self.files - 2:,} more", self.paths[-1]]

    def __enter__(self) -> "Written":
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        if kind is not None and self.done:
            last = self.next + self.total - self.done - 1
            say(f"{self.done:,} examples are written; go on with --examples {self.next}-{last}.")


def show_plan(model: "Model", options: DrawOptions, machine: Machine) -> None:
    """Print what would be drawn, and how."""
    from ..tasks.sample import fitted_rule, plan

    _, steps = plan(model, options)
    config, fitted = model.config.sample, fitted_rule(model, options) is not None
    facts = {
        "run": model.run and model.run.path,
        "seen": model.seen,
        "sampler": "fitted to this run" if fitted else options.sampler or config.sampler,
        "time_grid": "fitted to this run" if fitted else options.time_grid or config.grid,
        "steps": len(steps.times) - 1,
        "denoiser_calls": steps.calls,
        "guidance": config.guidance if options.guidance is None else options.guidance,
        "autoguidance": options.autoguidance,
        "label": options.label,
        "seed": options.seed,
    }
    machine.result(facts, pairs(facts))
