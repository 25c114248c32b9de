"""The model card: ``README.md`` of a run, with the front matter that the Hugging Face Hub reads.

Source: https://huggingface.co/docs/hub/model-cards.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isfinite
from typing import Any

from ..data.names import shown

MARK = "<!-- Written by ornstein. Remove this line to keep what you write here. -->"
TASKS = {"image": "unconditional-image-generation"}  # the Hub's names, by the kind of codec
ROWS = {
    "data": "Data",
    "examples": "Training examples",
    "parameters": "Parameters",
    "seen": "Examples seen",
    "loss": "Training loss",
    "held_out_loss": "Loss on held-out examples",
    "fitted": "Steps that a sampler was fitted to",
    "created": "Begun",
    "ornstein": "Made with ornstein",
    "id": "Run",
}


def write(
    facts: Mapping[str, Any],
    *,
    license: str | None = None,
    datasets: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> str:
    """The text of the card.

    Args:
        facts: Of the run: the keys of `ROWS`, ``run``, and ``kind`` of its codec.
        license: An identifier that the Hub knows, as ``cc-by-4.0``.
        datasets: Names on the Hub of the datasets it was trained on.
        metrics: What was measured, by name.
    """
    table = [_row(key, facts) for key in ROWS if facts.get(key) is not None]
    if metrics:
        table += [f"| {escape(name)} | {value:.6g} |" for name, value in metrics.items()]
    title = escape(facts.get("run") or "A run")
    return "\n".join(
        [
            "---",
            *_front_matter(facts, license, datasets, metrics or {}),
            "---",
            "",
            MARK,
            "",
            f"# {title}",
            "",
            "A diffusion model made with ornstein. What it draws is made by a machine, not found:",
            "pictures in PNG say so in their metadata, with the run, the seed and the index.",
            "",
            "| | |",
            "|---|---|",
            *table,
            "",
            "## Use",
            "",
            "```sh",
            "pip install ornstein",
            "ornstein sample . --count 16",
            "```",
            "",
        ]
    )


def told(text: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier card was told beside the facts, as `write` takes it.

    The license, and what was measured, if the run has seen no more since. A card may come from a
    stranger: what is not as `write` writes it is passed by.
    """
    lines, found = text.splitlines(), dict[str, Any]()
    for line in lines:
        name, _, value = line.partition(": ")
        with suppress(ValueError, LookupError, TypeError, OverflowError, RecursionError):
            if name == "license":
                found["license"] = str(json.loads(value))
            if name == "model-index" and _row("seen", facts) in lines:
                rows = json.loads(value)[0]["results"][0]["metrics"]
                metrics = {str(row["name"]): float(row["value"]) for row in rows}
                found["metrics"] = {name: v for name, v in metrics.items() if isfinite(v)}
    return found


def escape(text: object, limit: int = 200) -> str:
    """`text` in one line that means nothing in Markdown or HTML but itself."""
    if isinstance(text, float):
        text = f"{text:.4g}"
    line = shown(f"{text:,}" if isinstance(text, int) else text, limit)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def _front_matter(
    facts: Mapping[str, Any],
    license: str | None,
    datasets: Sequence[str],
    metrics: Mapping[str, float],
) -> list[str]:
    """Lines of YAML; every value is quoted as in JSON, which YAML reads alike."""
    kind = str(facts.get("kind"))
    lines = ["library_name: ornstein"]
    if license is not None:
        lines.append(f"license: {_quote(license)}")
    if kind in TASKS:
        lines.append(f"pipeline_tag: {TASKS[kind]}")
    tags = ["diffusion", "ornstein", *([kind] if kind != "None" else [])]
    lines += ["tags:", *(f"- {_quote(tag)}" for tag in tags)]
    if datasets:
        lines += ["datasets:", *(f"- {_quote(name)}" for name in datasets)]
    if metrics:
        task = {"type": TASKS.get(kind, "other")}
        data = {"name": _plain(facts.get("data")), "type": "custom"}
        found = [{"name": _plain(n), "type": _plain(n), "value": v} for n, v in metrics.items()]
        result = {"task": task, "dataset": data, "metrics": found}
        index = [{"name": _plain(facts.get("run")), "results": [result]}]
        lines.append(f"model-index: {json.dumps(index, ensure_ascii=False, allow_nan=False)}")
    return lines


def _row(key: str, facts: Mapping[str, Any]) -> str:
    return f"| {ROWS[key]} | {escape(facts.get(key))} |"


def _plain(text: object) -> str:
    return shown(text, 200)


def _quote(text: str) -> str:
    return json.dumps(_plain(text), ensure_ascii=False)
