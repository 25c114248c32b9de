"""What a run says of itself, in plain values."""

import os
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..data.names import shown
from ..errors import StorageError, UsageError
from .disk import open_regular, strict_json
from .folder import RunFolder

FACTS = ("run", "id", "data", "kind", "created", "ornstein", "examples", "parameters", "seen")
FACTS += ("budget", "loss", "held_out_loss", "megabytes", "problem")


def describe(path: str | Path) -> dict[str, Any]:
    """What `ornstein show RUN` shows: plain values, safe to print.

    Raises:
        UsageError: If it is no run folder.
        StorageError: If it is damaged.
    """
    return facts(RunFolder.open(path))


def list_runs(folder: str | Path) -> list[dict[str, Any]]:
    """`describe` of each run in `folder`, by name; of a damaged one, its name and what is wrong."""
    rows = []
    for path in sorted(Path(folder).glob("*/run.json")):
        try:
            rows.append(describe(path.parent))
        except (StorageError, UsageError) as error:
            blank = dict.fromkeys(FACTS)
            rows.append(blank | {"run": shown(path.parent.name), "problem": str(error)})
    return rows


def facts(run: RunFolder) -> dict[str, Any]:
    """Plain facts of a run, the keys of `FACTS`; None for what is not known."""
    found: dict[str, Any] = dict.fromkeys(FACTS)
    known = run.identity
    codec = known.get("codec")
    try:
        config = tomllib.loads(run.config_toml)
    except (ValueError, RecursionError):  # also numbers too long, lists too deep
        config, found["problem"] = {}, "config.toml is not TOML"
    training = config.get("train")
    last = _last_values(run.metrics_path)
    found |= {name: known.get(name) for name in ("id", "created", "ornstein")}
    found |= {name: known.get(name) for name in ("examples", "parameters")}
    found |= {"run": run.path.name, "data": config.get("source")}
    found |= {"kind": codec.get("kind") if isinstance(codec, dict) else None}
    found |= {"seen": next(iter(run.saved()), 0)}
    found |= {"budget": training.get("seen") if isinstance(training, dict) else None}
    found |= {"loss": last.get("train/loss"), "held_out_loss": last.get("val/loss")}
    found["megabytes"] = round(_size(run.path) / 1e6, 1)
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value)
    return value if isinstance(value, (int, float)) else None


def _last_values(path: Path) -> dict[str, Any]:
    """Of each quantity in the log, the last value; a line that a kill cut short does not count."""
    values: dict[str, Any] = {}
    if path.exists():
        with os.fdopen(open_regular(path)[0], "rb") as file:
            while line := file.readline(2**20):
                with suppress(ValueError):
                    values |= strict_json(line)
    return values


def _size(folder: Path) -> int:
    """Bytes of all files in `folder`; links are not followed."""
    size, left = 0, [folder]
    while left:
        try:
            entries = list(os.scandir(left.pop()))
            size += sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
            left += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # pruned meanwhile
            continue
    return size
