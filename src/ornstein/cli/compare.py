"""`ornstein compare`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..data.options import DataOptions
from ..tasks.options import CompareOptions, checked
from .machine import FLAT, Folder, Machine, say

NETWORKS = ("diffusion", "gan", "vae", "flow")


def compare(
    data: str,
    /,
    options: Annotated[CompareOptions, FLAT] = CompareOptions(),
    *,
    out: Folder = None,
    read: Annotated[DataOptions, Parameter(name="data")] = DataOptions(),
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Train a diffusion model, a GAN, a VAE and a flow on DATA, and say which is better in what.

    All get the same data, time and number of weights; beside them stand real data, one Gaussian
    and a kernel density.

    Args:
        data: A folder, an archive, a table, or a built-in dataset; 25-gaussians and stacked-digits
            have known modes, which are counted.
        out: Folder for comparison.html and comparison.json; comparison/DATA if not given.
    """
    options = checked(CompareOptions, asdict(options))
    each = f"{options.seen:,} examples" if options.seen else f"{options.minutes:g} minutes"
    networks = [m for m in options.models or NETWORKS if m in NETWORKS]
    trainings = f"{len(networks)} networks, {options.seeds} times each, for {each}"
    machine.start(f"Comparing models on {data}: {trainings}")
    import torch

    from ..evaluate.comparison import compare as measure
    from ..evaluate.comparison import write
    from ..tasks.doctor import quickest_threads

    if machine.threads is None:
        torch.set_num_threads(quickest_threads())
    found = measure(data, read, device=machine.device, say=say, **asdict(options))
    report = write(found, out or Path("comparison") / Path(data).stem)
    values = {"report": report.resolve(), **found.facts}
    machine.result(values, [*found.lines(), f"Report: {report.resolve()}"])
