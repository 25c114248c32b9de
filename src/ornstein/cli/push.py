"""`ornstein push`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from .machine import FLAT, Flag, Machine


def push(
    run: Path,
    name: str,
    /,
    *,
    private: Flag = False,
    whole: Flag = False,
    license: str | None = None,
    dry_run: Flag = False,
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Write RUN to the Hugging Face Hub as NAME, its model card first.

    The averaged weights go, the log, and the configuration, which names the data by their path.
    Log in before with `hf auth login`.

    Args:
        run: The run folder.
        name: Of the repository, as user/name; it is made if it is not there.
        private: Make it private, if it is new.
        whole: Also what training needs to go on.
        license: For the model card, as the Hub calls it: cc-by-4.0, apache-2.0.
        dry_run: List what would go, and stop.
    """
    machine.start(f"Pushing {run} to {name}")
    from ..interop import hub
    from ..runs.folder import RunFolder

    folder = RunFolder.open(run)
    if dry_run:
        files = hub.files_of(folder, whole)
        machine.result({"files": files}, files)
        return
    pushed = hub.push(folder, name, private=private, whole=whole, license=license)
    lines = [pushed.url, f"Draw from anywhere: ornstein sample {hub.MARK}{name}"]
    machine.result(asdict(pushed), lines)
