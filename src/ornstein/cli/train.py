"""`ornstein train`."""

# ruff: noqa: B008 (frozen dataclasses are fit to be defaults)

import os
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ..data.options import DataOptions
from ..errors import UsageError
from ..runs.config import AutoencoderConfig
from ..tasks.options import AdaptOptions, checked
from .machine import FLAT, Flag, Machine, training, watching

if TYPE_CHECKING:
    from typing import Self

    from ..runs.folder import RunFolder
    from ..train import Draft, Sequel


class Said:
    """Options that know which of them were said, though it be what they are by default."""

    said: dict[str, Any]

    def __new__(cls, **said: Any) -> "Self":
        made = super().__new__(cls)
        object.__setattr__(made, "said", said)
        return made


@dataclass(frozen=True, kw_only=True)
class SaidOfData(Said, DataOptions):
    """How the data are read."""


@dataclass(frozen=True, kw_only=True)
class SaidOfLatents(Said, AutoencoderConfig):
    """What the latents of an autoencoder are."""


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
    memory: Literal["plenty", "low"] | None = None,
    given: str | None = None,
    make: str | None = None,
    latent: Path | None = None,
    prior: Path | None = None,
    embedding: Path | None = None,
    mean: Path | None = None,
    seed: int | None = None,
    resume: Flag = False,
    allow_data_change: Flag = False,
    track: Flag = False,
    dry_run: Flag = False,
    adapt: Annotated[AdaptOptions, FLAT] = AdaptOptions(),
    options: Annotated[SaidOfData, Parameter(name="data")] = SaidOfData(),
    autoencoder: Annotated[SaidOfLatents, Parameter(name="autoencoder")] = SaidOfLatents(),
    machine: Annotated[Machine, FLAT] = Machine(),
) -> None:
    """Train a model of DATA in the time you have.

    Args:
        data: A folder, an archive, a table, or a built-in dataset: digits, swiss-roll, flower...
            With --resume and no --out, the run to go on with.
        minutes: How long to train; turned into a number of examples by a short trial.
        seen: How long to train, in examples seen.
        out: The run folder to write; the first free place in runs/ if not given.
        recipe: Where to start from: what suits DATA (auto), autoencoder, contrastive, points, ddpm
            or diffusers; flow-map or mean-flow, for few steps without a teacher.
        config: A TOML file of what shall differ from the recipe.
        size: Width of the network, its one dial; the recipe's learning rate goes with it.
        memory: Low trains large networks and pictures in little memory, for more time.
        given: Learn to make one picture from another: the folder or metadata column of what is
            given; small-8 for the picture itself scaled to 8 pixels; grey. See --data.given.
        make: The folder or column of what to make from it.
        latent: The run of an autoencoder, in whose latents to train: make it first, by --recipe
            autoencoder.
        prior: The run of an encoder of pictures and texts, made by --recipe contrastive: learn to
            draw the embeddings of pictures, told a text.
        embedding: The run of such an encoder: learn to draw pictures, told their embedding.
        mean: A run of the same pairs. Its mean of all answers is added to what this one draws,
            which learns what the mean leaves.
        seed: Same seed, same run.
        resume: Go on where a run stopped, as if it never had.
        allow_data_change: Go on although DATA are not what they were.
        track: Log to TensorBoard too.
        dry_run: Print the configuration that the run would have, and stop.
    """
    if resume and out is None and data is not None:
        data, out = None, Path(data)
    if (place := out if resume else data) is not None:
        machine.start(f"Opening {place}")
    from ..runs.facts import describe
    from ..train import train as fit
    from ..train.start import refuse

    adapt = checked(AdaptOptions, asdict(adapt))
    read_as = options.said | _said({"given": given, "make": make, "word": adapt.word})
    flags = {"net": {"size": size}, "train": {"memory": memory}, "seed": seed}
    flags |= {"data": read_as, "autoencoder": autoencoder.said}
    changes = _changes(config, flags | _runs_beside(mean, latent, prior, embedding))
    kind = changes.get("net", {}).get("kind", recipe)
    if autoencoder.said and data is not None and kind != "autoencoder":
        raise UsageError("--autoencoder says what its latents are: add --recipe autoencoder.")
    wanted = _wanted(data, recipe, adapt, changes, str(config or "the command line"), dry_run)
    if dry_run:
        refuse(data, out, minutes, seen, wanted, resume)
        print(_planned(data, out, wanted, minutes, seen, machine.device))
        return
    with training() as report:
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
    machine.result({"run": run.path, "seen": facts["seen"]}, _what_next(run, facts, data))


def _changes(file: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """What shall differ from the recipe: what the file says, and above it the flags."""
    from ..train.draft import merged

    changes: dict[str, Any] = {}
    if file is not None:
        try:
            changes = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise UsageError(f"{file} cannot be read ({error.strerror}).") from None
        except ValueError as error:
            raise UsageError(f"{file} is not TOML: {error}. Mend or remove the line.") from None
    return merged(changes, _said(flags))


def _said(flags: dict[str, Any]) -> dict[str, Any]:
    """Those of `flags` that were given, table by table."""
    tables = {k: _said(v) if isinstance(v, dict) else v for k, v in flags.items()}
    return {k: v for k, v in tables.items() if v not in (None, {})}


def _as_flags(options: DataOptions) -> str:
    """What of them is not so by default, as one types it; how far to move, each recipe decides."""
    plain, flags = asdict(DataOptions(shift=options.shift)), ""
    for name, value in asdict(options).items():
        if value != plain[name]:
            flags += f" --data.{name.replace('_', '-')}"
            flags += "" if value is True else f" {quote(str(value))}"
    return flags


def _runs_beside(
    mean: Path | None, latent: Path | None, prior: Path | None, embedding: Path | None
) -> dict[str, Any]:
    """What of the configuration names the runs that this one goes by."""
    if prior is not None and embedding is not None:
        raise UsageError(
            "A prior draws embeddings and a decoder pictures: train one with --prior, then the "
            "other with --embedding."
        )
    named = {"mean": mean, "latent": latent}
    changes: dict[str, Any] = {k: str(run.resolve()) for k, run in named.items() if run}
    for role, encoder in {"prior": prior, "decoder": embedding}.items():
        if encoder is not None:
            changes["embedding"] = {"encoder": str(encoder.resolve()), "role": role}
    return changes


def _wanted(
    data: str | None,
    recipe: str,
    adapt: AdaptOptions,
    changes: dict[str, Any],
    place: str,
    dry_run: bool,
) -> "Draft | Sequel | None":
    """What is said of the run, by changes that came from `place`; None if nothing is."""
    from ..train import Draft, Sequel

    if adapt.learn == "all" and adapt.base is None:
        said = changes or recipe != "auto" or (dry_run and data is not None)
        return Draft(recipe=recipe, changes=changes, place=place) if said else None
    if recipe != "auto":
        raise UsageError("A run that goes on from another has its recipe: leave --recipe out.")
    return Sequel(
        base=adapt.base or "",
        learn=adapt.learn,
        rank=adapt.lora or 8,
        targets=adapt.targets,
        like=adapt.like or "",
        predict=adapt.predict,
        changes=changes,
        place=place,
    )


def _planned(
    data: str | None,
    out: Path | None,
    wanted: "Draft | Sequel | None",
    minutes: float | None,
    seen: int | None,
    device: str,
) -> str:
    """The configuration that the run would have, or has."""
    from ..runs.folder import RunFolder
    from ..train.device import choose_device
    from ..train.start import planned

    if data is None:
        return RunFolder.open(out or "").config_toml
    with watching():
        return planned(data, wanted, seen, minutes, choose_device(device))[0].to_toml()


def _what_next(run: "RunFolder", facts: dict[str, Any], data: str | None) -> list[object]:
    """Where the run lies, how good it is if it is a part of others, and what to do with it."""
    from ..runs.config import RunConfig

    config = RunConfig.from_toml(run.config_toml)
    again = f"ornstein train {data or config.source}{_as_flags(config.data)} --minutes 20"
    lies = f"Run: {run.path}"
    if facts["seen"] < facts["budget"]:
        stopped = f"Stopped at {facts['seen']:,} of {facts['budget']:,} examples"
        resume = f"{stopped}; go on with: ornstein train --resume {run.path}"
        return [resume, lies, f"Sample it: ornstein sample {run.path}"]
    if config.net.kind == "autoencoder":
        from .evaluate import reconstructions

        latents = f"Train on its latents: {again} --latent {run.path}"
        return [lies, *reconstructions(run.path)[1], latents]
    if config.net.kind == "contrastive":
        from .evaluate import retrievals

        stages = (f"{again} --{role} {run.path}" for role in ("prior", "embedding"))
        return [lies, *retrievals(run.path)[1], "Go on with:", *stages]
    return [lies, f"Sample it: ornstein sample {run.path}"]
