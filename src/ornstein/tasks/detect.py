"""Find what is unlike the data of a run, with a false-alarm rate that is kept."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.conformal import FalseAlarms, discoveries, false_alarms, p_values
from ..data import Dataset
from ..data.codec import Codec, write_bytes
from ..data.image import ImageCodec
from ..data.table import safe_cell
from ..errors import UsageError
from ..rng import generator
from ..runs.model import Model
from .anomaly import Evidence, Say, Scale, baselines, gather
from .examples import Examples, Places, flat, other_data, read_examples, training_data
from .options import DetectOptions, checked
from .picture import png
from .sample import Run, opened

if TYPE_CHECKING:
    from PIL import Image

NORMALS = 2000  # that set the scale and the p-values, at most
SCALE_SHARE = 1 / 3  # of the normals: these set the scale, the others the p-values
FEWEST = 8  # normals on each side
WARM, HOT = 3.0, 12.0  # standard deviations: the ends of the colours
SHOWN = 8
GAP = 4  # screen pixels between pictures


@dataclass(frozen=True, eq=False)
class Judged:
    """What one method says of each example.

    Args:
        score: Larger is stranger ``(N,)``.
        p: How often a normal example would look as strange ``(N,)``.
        flagged: ``(N,)``, bool.
    """

    score: np.ndarray
    p: np.ndarray
    flagged: np.ndarray

    @classmethod
    def of(cls, score: np.ndarray, normal: np.ndarray, options: DetectOptions) -> "Judged":
        p = p_values(score, normal)
        each = options.control == "each"
        return cls(score, p, p <= options.alpha if each else discoveries(p, options.alpha))


@dataclass(frozen=True, eq=False)
class Detected(Judged):
    """How strange each example is, and why.

    Args:
        ids: The file of each example.
        x: The examples ``(N, C, *S)``.
        codec: To show them.
        parts: What the score is made of, in standard deviations of normal examples.
        heat: How many standard deviations each pixel errs above normal ``(N, *S)``; of pictures.
        classes: The class under which each looks most normal; None without labels.
        baselines: What other methods say, learned from the same data, judged by the same normals.
        options: How.
        normals: Normal examples that set the p-values.
        calls: Denoiser calls for each example.
    """

    ids: list[str]
    x: Tensor
    codec: Codec
    parts: dict[str, np.ndarray]
    heat: np.ndarray | None
    classes: list[str] | None
    baselines: dict[str, Judged]
    options: DetectOptions
    normals: int
    calls: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def alarms(self) -> FalseAlarms:
        """How often fresh normal examples are flagged, each on its own."""
        return false_alarms(self.options.alpha, self.normals)

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values, for programs."""
        found = {"ornstein": self, **self.baselines}
        return {
            "examples": len(self),
            "flagged": int(self.flagged.sum()),
            "alpha": self.options.alpha,
            "control": self.options.control,
            "false_alarms": self.alarms._asdict(),
            "normals": self.normals,
            "denoiser_calls": self.calls,
            "methods": {name: int(judged.flagged.sum()) for name, judged in found.items()},
            "results": [
                {"path": row[0], "score": float(row[1]), "p": float(row[2]), "flagged": bool(f)}
                for row, f in zip(self._rows(), self.flagged, strict=True)
            ],
        }

    def lines(self) -> list[str]:
        """What the command prints: the strangest, the promise, and what other methods say."""
        order = np.argsort(-self.score, kind="stable")[:SHOWN]
        out = [
            f"{self.ids[i]}  score {self.score[i]:.2f}  p {self.p[i]:.3g}"
            f"{'  flagged' if self.flagged[i] else ''}"
            for i in order
        ]
        if len(self) > SHOWN:
            out.append(f"... {len(self) - SHOWN:,} more, less strange")
        out.append(f"{int(self.flagged.sum()):,} of {len(self):,} flagged. {self.promise}")
        said = [f"{name} {int(b.flagged.sum()):,}" for name, b in self.baselines.items()]
        out.append(f"Other methods, by the same normals, flag: {', '.join(said)}.")
        out.append(f"Denoiser calls for each example: {self.calls:,}.")
        return out

    @property
    def promise(self) -> str:
        """What is held, in words."""
        alpha, alarms = self.options.alpha, self.alarms
        if alarms.rate == 0:
            need = int(np.ceil(1 / alpha)) - 1
            return (
                f"Nothing can be flagged at alpha = {alpha:g} by {self.normals} normal examples: "
                f"{need:,} are needed; give more by --normal."
            )
        if self.options.control == "share":
            return f"Of what is flagged, at most {alpha:.1%} on average are normal."
        return (
            f"Of normal examples {alarms.rate:.1%} are flagged on average; with the "
            f"{self.normals:,} normals here, {alarms.low:.1%} to {alarms.high:.1%}."
        )

    def _header(self) -> list[str]:
        names = ["path", "score", "p", "flagged", *self.parts]
        if self.classes is not None:
            names.append("class")
        return names + [f"{name}_{what}" for name in self.baselines for what in ("score", "p")]

    def _rows(self) -> list[list[str]]:
        rows = []
        for i, name in enumerate(self.ids):
            row = [safe_cell(name), f"{self.score[i]:.6g}", f"{self.p[i]:.6g}"]
            row.append(str(int(self.flagged[i])))
            row += [f"{z[i]:.6g}" for z in self.parts.values()]
            if self.classes is not None:
                row.append(safe_cell(self.classes[i]))
            for judged in self.baselines.values():
                row += [f"{judged.score[i]:.6g}", f"{judged.p[i]:.6g}"]
            rows.append(row)
        return rows

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``scores.csv``, and of pictures an overlay each; return the paths."""
        folder, text = Path(folder), io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._header())
        writer.writerows(self._rows())
        paths = [write_bytes(folder / "scores.csv", text.getvalue().encode())]
        if self.heat is None:
            return paths
        width = len(str(len(self)))
        for i, name in enumerate(self.ids):
            path, _, page = name.partition("#")
            stem = f"{i:0{width}d}-{Path(path).stem[:60]}{page and '-'}{page}.png"
            paths.append(write_bytes(folder / "overlays" / stem, png(self.overlay([i]))))
        return paths

    def overlay(self, rows: Sequence[int], scale: int | None = None) -> "Image.Image":
        """Pictures above the same under their heat: clear up to `WARM` standard deviations."""
        from PIL import Image

        assert self.heat is not None
        assert isinstance(self.codec, ImageCodec)
        screen = self.codec.screen(self.x[list(rows)])
        heat = self.heat[list(rows)]
        scale = scale or max(1, 192 // max(screen.shape[1:3]))
        shade = np.clip((heat - WARM) / (HOT - WARM), 0, 1)[..., None]
        hot = np.concatenate([np.full_like(shade, 255), 170 * (1 - shade), 0 * shade], -1)
        cover = np.where(shade > 0, 0.35 + 0.5 * shade, 0)
        grey = screen.mean(-1, keepdims=True).repeat(3, -1)
        mixed = np.rint(grey * (1 - cover) + hot * cover).astype(np.uint8)
        large = [part.repeat(scale, 1).repeat(scale, 2) for part in (screen, mixed)]
        between = np.full_like(large[0][:, :GAP], 255)
        both = np.concatenate([large[0], between, large[1]], 1)
        gap = np.full((both.shape[1], GAP, 3), 255, np.uint8)
        strip = [part for picture in both for part in (picture, gap)][:-1]
        return Image.fromarray(np.concatenate(strip, 1))

    def _repr_png_(self) -> bytes | None:
        order = np.argsort(-self.score, kind="stable")[:SHOWN].tolist()
        return None if self.heat is None else png(self.overlay(order))


def detect(
    run: Run,
    examples: Places,
    *,
    normal: Dataset | str | None = None,
    data: Dataset | None = None,
    device: str | torch.device = "auto",
    say: Say = lambda line: None,
    **options: Any,
) -> Detected:
    """Say of each example how unlike the data of a run it is, and which part of it.

    The score: noise of several levels is added and taken off again, and what does not come back
    is held against normal examples that the run never saw (see `anomaly.Scale.score`). A third of
    these sets the scale; the others, which are to the run and the scale as a fresh normal example
    is, turn the score into a p-value.

    Args:
        run: The run, or its folder.
        examples: Files, folders, patterns; or a stored batch ``(N, C, *S)`` in the data's units.
        normal: Normal examples that the run never saw; what its training left out by default.
        data: What the run was trained on, if that was an array.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        say: Told how it goes.
        **options: Those of `DetectOptions`.

    Raises:
        UsageError: If an option is out of its bounds, or there are too few normal examples.
        DataError: If a file cannot be read, or is of another kind or size than the run's data.
    """
    place = normal if isinstance(normal, str) else None
    chosen = checked(DetectOptions, {**({"normal": place} if place else {}), **options})
    model = opened(run, device)
    _refuse_pairs(model)
    given = read_examples(model, examples)
    train, normals = training_data(model, data)
    if isinstance(normal, Dataset):
        normals = normal
    elif chosen.normal is not None:
        normals = other_data(model, chosen.normal)
    order = torch.from_numpy(generator("normals").permutation(len(normals))[:NORMALS].copy())
    if min(split := _split(len(order))) < FEWEST:
        raise UsageError(
            f"There are {len(order)} normal examples that the run never saw, {3 * FEWEST} are "
            "needed: give more by --normal, or train with a larger --data.validation."
        )
    stored = normals.stored[order]
    say(f"Scoring {len(stored):,} normal examples, then {len(given):,}")
    every = torch.cat([model.codec.pack(part) for part in (stored, given.stored)])
    evidence = gather(model, every, chosen, say)
    known, x = (model.codec.data.pack(part) for part in (stored, given.stored))
    return _judged(model, chosen, given, x, known, train, evidence, split[0])


def _as_large(heat: np.ndarray, space: Sequence[int]) -> np.ndarray:
    """Heat ``(N, *s)`` at each of the points `space`: that of the latent one it lies in."""
    for axis, n in enumerate(space, 1):
        factor = -(-n // heat.shape[axis])
        heat = heat.repeat(factor, axis).take(range(n), axis)
    return heat


def _refuse_pairs(model: Model) -> None:
    if model.given is not None:
        raise UsageError(
            "This run was trained on pairs: it says what is unlikely given a picture, not what is "
            "strange. Train one on the pictures alone."
        )


def _split(count: int) -> tuple[int, int]:
    """How many normals set the scale, and how many the p-values."""
    first = round(count * SCALE_SHARE)
    return first, count - first


def _judged(
    model: Model,
    options: DetectOptions,
    given: Examples,
    x: Tensor,
    known: Tensor,
    train: Dataset,
    evidence: Evidence,
    first: int,
) -> Detected:
    """The scores of ours and of the others, and the p-values of both."""
    count = len(known)
    scale = Scale.of(evidence[:first])
    normal_score, _ = scale.score(evidence[first:count])
    ours = evidence[count:]
    score, parts = scale.score(ours)
    judged = Judged.of(score, normal_score, options)
    others = {
        name: Judged.of(judge(flat(x)), judge(flat(known[first:])), options)
        for name, judge in baselines(flat(model.codec.data.pack(train.stored))).items()
    }
    words = model.vocabulary.classes
    labelled = bool(words) and (ours.label >= 0).any()
    return Detected(
        judged.score,
        judged.p,
        judged.flagged,
        ids=given.ids,
        x=x,
        codec=model.codec.data,
        parts=parts,
        heat=None if scale.pixels is None else _as_large(scale.heat(ours), x.shape[2:]),
        classes=[words[c] for c in ours.label] if labelled else None,
        baselines=others,
        options=options,
        normals=count - first,
        calls=evidence.calls,
    )
