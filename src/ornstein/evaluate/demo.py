"""From nothing to a report: train on real scanned digits, sample, mend, measure, show."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.shares import Share
from ..data import Dataset, open_data
from ..runs.folder import RunFolder
from ..runs.model import Model
from ..tasks.edit import edit
from ..tasks.examples import flat
from ..tasks.picture import write_picture
from ..tasks.restore import restore
from ..tasks.restored import Restored
from ..tasks.sample import Samples, opened, sample
from ..train import Progress, recipe, train
from ..train.progress import Report
from .features.labelled import agreement, train_labeller
from .measures.distances import energy_distance, frechet_distance, nearest
from .measures.metrics import Score, score
from .pages.demo import demo_report

SETS = 4  # of samples, each as large as the held-out set: a distance is their mean
FRAMES = 40  # of the animation
TRIED = 3  # the class of the digit that is varied
GUIDANCE = 1.25
"""At 1, 1.25, 1.5 and 2, after a minute and a half, the Frechet distance was 4.9, 5.3, 5.8 and 7.1
(real digits: 5.7), and 98, 99, 100 and 100 % of the digits were read as asked (real: 99 %)."""


@dataclass
class Clock:
    """Seconds of each part of the work, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What was measured of the samples.

    Args:
        frechet: Frechet distance on features of a classifier trained on the real digits.
        energy: Energy distance in pixels.
        agreement: How often another classifier, an SVM, sees the digit that was asked for.
        accuracy: How often it is right on real held-out digits.
        to_train: Median distance from a sample to the nearest training digit.
        held_to_train: Likewise, from a real held-out digit.
    """

    frechet: Score
    energy: Score
    agreement: Share
    accuracy: Share
    to_train: float
    held_to_train: float


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The samples that lie closest to a training digit, beside it.

    Args:
        samples: As x ``(N, C, *S)``.
        nearest: The training digit nearest to each.
    """

    samples: Tensor
    nearest: Tensor


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What else the run can do, tried on one held-out digit.

    Args:
        scans: Files of held-out digits, one of each class.
        mask: A picture that is white over the lower half.
        label: The class of the digit.
        varied: Variations of it ``(N, C, *S)``, itself first.
        as_others: The same hand, writing each class ``(N, C, *S)``.
    """

    scans: list[Path]
    mask: Path
    label: str
    varied: Tensor
    as_others: Tensor


@dataclass(frozen=True, kw_only=True)
class Demo:
    """All that the report shows.

    Args:
        run: The run folder.
        model: As trained.
        train: What it was trained on.
        held_out: What it never saw.
        samples: Class by class in turn, ten classes: sample i was asked to be an ``i % 10``.
        frames: A few samples on their way from noise to data, each ``(N, C, *S)``.
        restored: Held-out digits with a part masked.
        tried: What else the run can do.
        neighbours: Is it copying?
        quality: Figures.
        log: The rows of the run's log.
        seconds: Of each part.
        verdict: The training doctor's last line.
    """

    run: RunFolder
    model: Model
    train: Dataset
    held_out: Dataset
    samples: Samples
    frames: list[Tensor]
    restored: Restored
    tried: Tried
    neighbours: Neighbours
    quality: Quality
    log: list[dict[str, Any]]
    seconds: dict[str, float]
    verdict: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """The figures, for programs."""
        quality = self.quality
        return {
            "seen": self.model.seen,
            "agreement": quality.agreement.value,
            "accuracy_on_real": quality.accuracy.value,
            "frechet_distance": quality.frechet.value,
            "frechet_floor": quality.frechet.floor,
            "seconds": round(sum(self.seconds.values()), 1),
            "verdict": self.verdict,
        }


def run_demo(
    out: Path,
    *,
    minutes: float = 1.5,
    seed: int = 0,
    device: str = "auto",
    say: Callable[[str], None] = print,
    report: Report = lambda progress: None,
) -> tuple[Demo, Path]:
    """Train on the digits that come with scikit-learn, and write ``report.html`` in `out`.

    Args:
        out: Folder for the run and the report.
        minutes: How long to train.
        seed: Of the run.
        device: Where to compute.
        say: Told what is being done.
        report: Told how training goes.

    Returns:
        What was made, and the path of the report.
    """
    clock, last = Clock(), Progress(seen=0, budget=1)

    def watch(progress: Progress) -> None:
        nonlocal last
        last = progress
        report(progress)

    with clock("training"):
        config = recipe(open_data("digits"), minutes=minutes)
        config = replace(config, seed=seed, sample=replace(config.sample, guidance=GUIDANCE))
        free = (out / f"run-{n}" for n in count(1))
        place = next(path for path in free if not path.exists())
        run = train(
            "digits", out=place, minutes=minutes, config=config, device=device, report=watch
        )
    demo = replace(look(run, device=device, say=say, clock=clock), verdict=last.verdict)
    return demo, demo_report(demo, out / "report.html")


def look(run: RunFolder, *, device: str, say: Callable[[str], None], clock: Clock) -> Demo:
    """Sample, animate, mend and measure a run that was trained on labelled pictures."""
    model = opened(run, device)
    config = model.config
    data = open_data(config.source, config.data)
    seen, held_out = data.split(config.data.validation, config.seed)
    classes = len(data.classes)

    say(f"Drawing {SETS * len(held_out)} digits")
    with clock("sampling"):
        samples = sample(model, SETS * len(held_out), range(classes), seed=1)
    with clock("animation"):
        frames = animate(model, classes)
    say("Mending digits of which a part is masked")
    with clock("mending"):
        restored = mend(model, held_out)
    say("Varying a digit")
    with clock("editing"):
        tried = vary(model, held_out, run.path.parent)
    say("Measuring")
    with clock("measuring"):
        quality, neighbours = measure(samples, seen, held_out)
    return Demo(
        run=run,
        model=model,
        train=seen,
        held_out=held_out,
        samples=samples,
        frames=frames,
        restored=restored,
        tried=tried,
        neighbours=neighbours,
        quality=quality,
        log=run.logged(),
        seconds=clock.seconds,
    )


def animate(model: Model, classes: int) -> list[Tensor]:
    """x_t of one sample of each class, at unit variance, from almost pure noise to data."""
    frames: list[Tensor] = []
    schedule = model.denoiser.schedule

    def keep(x: Tensor, s: Tensor) -> None:
        frames.append((x / torch.hypot(*schedule(s)).to(x)).cpu())

    sample(model, classes, range(classes), seed=2, steps=FRAMES, on_step=keep)
    return frames


def mend(model: Model, held_out: Dataset) -> Restored:
    """Four held-out digits of different classes, each with another part masked, mended thrice."""
    assert held_out.label is not None
    _, height, width = model.shape
    masks = torch.zeros(4, 1, height, width, dtype=torch.bool)
    masks[0, :, height // 2 :] = True  # the lower half
    masks[1, :, :, width // 2 :] = True  # the right half
    masks[2, :, height // 4 : -(height // 4), width // 4 : -(width // 4)] = True  # the middle
    masks[3, :, ::2] = True  # every other line
    picked = [int((held_out.label == c).nonzero()[0]) for c in (3, 5, 8, 2)]
    return restore(model, held_out.stored[picked], masks, draws=3, seed=3)


def vary(model: Model, held_out: Dataset, folder: Path) -> Tried:
    """A held-out digit, varied and written as each other; and files to try the commands on."""
    assert held_out.label is not None
    classes = held_out.classes
    first = [int((held_out.label == c).nonzero()[0]) for c in range(len(classes))]
    scans = model.codec.pack(held_out.stored[first])
    paths = list(model.codec.save(scans, folder / "scans", 0, classes))
    hole = np.zeros(model.shape[1:], np.uint8)
    hole[len(hole) // 2 :] = 255
    mask = write_picture(Image.fromarray(hole), folder / "mask.png")
    one, label = held_out.stored[[first[TRIED]]], classes[TRIED]
    varied = edit(model, one, 0.6, draws=len(classes) - 1)
    same_hand = edit(
        model,
        one.repeat_interleave(len(classes), 0),
        1.0,
        how="encode",
        source=label,
        label=classes,
    )
    return Tried(
        scans=paths,
        mask=mask,
        label=label,
        varied=torch.cat([varied.given, varied.samples.x]),
        as_others=same_hand.samples.x,
    )


def measure(samples: Samples, seen: Dataset, held_out: Dataset) -> tuple[Quality, Neighbours]:
    """Distances with their floors, agreement with the labels asked for, nearest neighbours."""
    from sklearn.svm import SVC

    assert seen.label is not None and held_out.label is not None and samples.labels is not None
    x, real, unseen = (flat(v) for v in (samples.x, _all(seen), _all(held_out)))
    asked = np.array([seen.classes.index(name) for name in samples.labels])
    label, unseen_label = seen.label.numpy(), held_out.label.numpy()
    features = train_labeller(real, label, unseen, unseen_label).features
    judge = SVC(C=10).fit(real, label)
    place, distance = nearest(x, real)
    closest = np.argsort(distance)[:10]
    quality = Quality(
        frechet=score(frechet_distance, features(x), features(real), features(unseen)),
        energy=score(energy_distance, x, real, unseen),
        agreement=agreement(judge.predict(x), asked),
        accuracy=agreement(judge.predict(unseen), unseen_label),
        to_train=float(np.median(distance)),
        held_to_train=float(np.median(nearest(unseen, real)[1])),
    )
    neighbours = Neighbours(
        samples=samples.x[closest.tolist()], nearest=_all(seen)[place[closest].tolist()]
    )
    return quality, neighbours


def _all(data: Dataset) -> Tensor:
    return data.codec.pack(data.stored)
