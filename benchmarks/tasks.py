"""The yardstick of `quality per compute`: data, a budget, one sampler, one way to measure.

    task = load("digits")
    task.train_x                        # (N, C, *S), float32: what a trainer may see
    samples = task.sample(denoise)      # denoise(x, sigma) -> E[data | data + sigma noise = x]
    task.measure(samples)               # {"frechet": ..., "above_floor": ..., "energy": ..., ...}

A budget is CPU seconds of one core, `time.process_time`, with everything inside a step. All
trainers draw with the same probability-flow sampler from the same noise, so that what is compared
is training. A task comes with a twin of other data, to tune on; nothing is ever chosen by the
figures of the task itself.

CIFAR-10 and MNIST are read from the folder that the environment variable ORNSTEIN_DATA names
(``cifar10-train.tar.gz``, ``mnist-train.tar.gz``: one folder of pictures for each class).

    python benchmarks/tasks.py [NAME ...]     floors, and how far noise and a Gaussian are
"""

import hashlib
import io
import os
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ornstein.evaluate.measures.distances import (
    energy_distance,
    frechet_distance,
    kernel_distance,
    nearest,
    sliced_wasserstein,
)
from ornstein.rng import generator, normal

Denoise = Callable[[Tensor, float], Tensor]
"""``E[data | data + sigma noise = x]`` of x ``(B, C, *S)``, in the units of `Task.train_x`; or in
those of the trainer, if data then have about variance 1 and samples are brought back."""

CACHE = Path(__file__).parent / ".cache"
SAMPLES = 1000
BOOTSTRAPS = 8
DRAWS = 2  # of training data, for a floor


class Absent(Exception):
    """The data of a task are not on this machine."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What to learn, for how long, and how well it was learned.

    Args:
        name: Of the task.
        seconds: Budgets, in CPU seconds of one core.
        train_x: ``(N, C, *S)``, float32; pictures lie in [-1, 1], points have variance 1.
        test_x: Likewise, never to be trained on.
        features: Of examples, ``(N, D)`` float64, of mean variance 1 over the training data.
        flips: Whether a mirrored example is as good as another.
        heun: Solve the flow with Heun's rule, else with DPM-Solver++(2M).
        steps: Of the solver.
        samples: How many to draw.
    """

    name: str
    seconds: tuple[float, ...]
    train_x: Tensor
    test_x: Tensor
    features: Callable[[Tensor], np.ndarray]
    flips: bool = False
    heun: bool = True
    steps: int = 18
    samples: int = SAMPLES

    @torch.no_grad()
    def sample(self, denoise: Denoise, seed: int = 0) -> Tensor:
        """Samples ``(samples, C, *S)`` along the probability flow, sigma from 80 to 0.002."""
        noise = normal((self.samples, *self.train_x.shape[1:]), "yardstick", seed)
        rule = heun if self.heun else dpm_solver
        return torch.cat([rule(denoise, part, karras(self.steps)) for part in noise.split(250)])

    def measure(self, samples: Tensor) -> dict[str, float]:
        """How far `samples` ``(N, C, *S)`` are from the test data.

        Returns:
            frechet, kid, energy: On features; of points, on the points themselves.
            frechet_error: Its standard error, by the bootstrap of the samples.
            frechet_floor, energy_floor: Of as many real training data.
            above_floor: ``frechet - frechet_floor``: what the trainer is to blame for.
            swd: Sliced Wasserstein distance of the numbers themselves.
            nearer_train: Share of samples nearer to a training example than to any of as many
                test examples: 0.5 in the mean for what copies nothing.
        """
        if tuple(samples.shape[1:]) != tuple(self.train_x.shape[1:]):
            raise ValueError(
                f"expected samples (N, {', '.join(map(str, self.train_x.shape[1:]))}), "
                f"got {tuple(samples.shape)}"
            )
        samples = samples.float().nan_to_num(0.0, 1e3, -1e3)
        real, made = self.features(self.test_x), self.features(samples)
        draw = generator("bootstrap", self.name)
        again = [
            frechet_distance(made[draw.integers(len(made), size=len(made))], real)
            for _ in range(BOOTSTRAPS)
        ]
        n = min(len(samples), len(self.test_x))
        flat, test = flatten(samples[:n]), flatten(self.test_x[:n])
        frechet = frechet_distance(made, real)
        return {
            "frechet": frechet,
            "frechet_error": float(np.std(again, ddof=1)),
            "frechet_floor": self.floors["frechet"],
            "above_floor": frechet - self.floors["frechet"],
            "kid": kernel_distance(made, real),
            "energy": energy_distance(made, real),
            "energy_floor": self.floors["energy"],
            "swd": sliced_wasserstein(flat, test),
            "nearer_train": self.nearer_train(samples),
        }

    @cached_property
    def floors(self) -> dict[str, float]:
        """Mean distances of `DRAWS` subsets of the training data to the test data."""
        real, n = self.features(self.test_x), min(self.samples, len(self.train_x))
        found = dict[str, list[float]]()
        for i in range(DRAWS):
            rows = generator("floor", self.name, i).permutation(len(self.train_x))[:n]
            features = self.features(self.train_x[rows])
            found.setdefault("frechet", []).append(frechet_distance(features, real))
            found.setdefault("energy", []).append(energy_distance(features, real))
        return {name: float(np.mean(values)) for name, values in found.items()}

    def nearer_train(self, samples: Tensor) -> float:
        """Share of samples nearer to one of n training examples than to any of n test examples."""
        n = min(len(self.train_x), len(self.test_x))
        rows = generator("nearer", self.name).permutation(len(self.train_x))[:n]
        to_train = nearest(flatten(samples), flatten(self.train_x[rows]))[1]
        to_test = nearest(flatten(samples), flatten(self.test_x[:n]))[1]
        return float((to_train < to_test).mean())


def flatten(x: Tensor) -> np.ndarray:
    return x.flatten(1).double().numpy()


# --- The sampler of all --------------------------------------------------------------------------


def karras(steps: int, rho: float = 7.0, low: float = 0.002, high: float = 80.0) -> list[float]:
    """Noise levels, ``steps + 1`` of them, the last one 0 (Karras et al., 2022, equation 5)."""
    ends = high ** (1 / rho), low ** (1 / rho)
    parts = [i / (steps - 1) for i in range(steps)]
    return [((1 - p) * ends[0] + p * ends[1]) ** rho for p in parts] + [0.0]


def heun(denoise: Denoise, noise: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Karras et al. (2022), algorithm 1: ``2 steps - 1`` calls."""
    x = sigmas[0] * noise
    for now, then in pairwise(sigmas):
        slope = (x - denoise(x, now)) / now
        ahead = x + (then - now) * slope
        if then > 0:
            slope = (slope + (ahead - denoise(ahead, then)) / then) / 2
            ahead = x + (then - now) * slope
        x = ahead
    return x


def dpm_solver(denoise: Denoise, noise: Tensor, sigmas: Sequence[float]) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2): ``steps`` calls."""
    x, before, last = sigmas[0] * noise, None, 0.0
    for now, then in pairwise(sigmas):
        x_hat = denoise(x, now)
        if then == 0:
            return x_hat
        ahead = x_hat
        h = np.log(now / then)
        if before is not None:
            ahead = x_hat + h / (2 * last) * (x_hat - before)
        x = then / now * x + (1 - then / now) * ahead
        before, last = x_hat, h
    return x


# --- Features ------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A small classifier; its features are the 64 numbers before the last layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers = list[nn.Module]()
        for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (64, 2)):
            layers += [nn.Conv2d(channels, width, 3, stride, 1), nn.BatchNorm2d(width), nn.GELU()]
            channels = width
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


def encoder(
    name: str, x: Tensor, label: Tensor, *, epochs: int, flips: bool
) -> Callable[[Tensor], np.ndarray]:
    """Features of a classifier of `x` ``(N, C, H, W)``, trained once and kept in `CACHE`."""
    from safetensors.torch import load_file, save_file

    key = hashlib.sha256(x.numpy().tobytes() + label.numpy().tobytes()).hexdigest()[:16]
    path = CACHE / f"{name}-{key}-{epochs}.safetensors"
    torch.manual_seed(0)
    net = Encoder(x.shape[1], int(label.max()) + 1).to(memory_format=torch.channels_last)
    if path.exists():
        net.load_state_dict(load_file(path))
    else:
        fit(net, x, label, epochs, flips)
        CACHE.mkdir(exist_ok=True)
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    body = net.eval().body

    def features(x: Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([body(part.float()) for part in x.split(500)]).double().numpy()

    return of_unit_variance(features, x)


def fit(net: nn.Module, x: Tensor, label: Tensor, epochs: int, flips: bool) -> None:
    """AdamW with a rate that rises and falls; batches of 128, a little turned and moved."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.02, fused=True)
    batches = len(x) // 128
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128)[:batches]:
            output = net(turned(x[rows], flips))
            loss = F.cross_entropy(output, label[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()


def turned(x: Tensor, flips: bool) -> Tensor:
    """Pictures turned by some 7 degrees, scaled by some 8 %, moved by some 6 % of their side."""
    turn, scale = 0.12 * torch.randn(len(x)), 1 + 0.08 * torch.randn(len(x))
    mirror = torch.where(torch.rand(len(x)) < 0.5 * flips, -1.0, 1.0)
    rows = [scale * mirror * turn.cos(), -scale * turn.sin(), 0.12 * torch.randn(len(x))]
    rows += [scale * mirror * turn.sin(), scale * turn.cos(), 0.12 * torch.randn(len(x))]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1  # beyond the border it is dark


def of_unit_variance(
    features: Callable[[Tensor], np.ndarray], x: Tensor
) -> Callable[[Tensor], np.ndarray]:
    """`features` divided by one number, so that their mean variance over `x` is 1."""
    size = float(np.sqrt(features(x[:10_000]).var(0).mean()))
    return lambda x: features(x) / size


# --- The tasks -----------------------------------------------------------------------------------


def digits() -> Task:
    """The 1,797 scans of scikit-learn, 8 x 8 in 17 greys: 1200 to train on, 597 to test."""
    from sklearn.datasets import load_digits

    flat, label = (torch.from_numpy(np.asarray(a)) for a in load_digits(return_X_y=True))
    order = torch.from_numpy(generator("digits").permutation(len(flat)))
    x, label = flat[order].float().view(-1, 1, 8, 8) / 8 - 1, label[order]
    features = encoder("digits", x[:1200], label[:1200], epochs=60, flips=False)
    return Task(
        name="digits",
        seconds=(25.0, 100.0),
        train_x=x[:1200],
        test_x=x[1200:],
        features=features,
    )


def mnist8() -> Task:
    """To tune on for `digits`: as many digits of MNIST, scaled to 8 x 8."""
    x, label = pictures("mnist-train.tar.gz", 8)
    x, label = x[:3200], label[:3200]
    features = encoder("mnist8", x[:1200], label[:1200], epochs=60, flips=False)
    return Task(
        name="mnist8",
        seconds=(25.0, 100.0),
        train_x=x[:1200],
        test_x=x[1200:1800],
        features=features,
    )


def of_cifar(name: str, kinds: tuple[int, ...]) -> Task:
    """Three classes of CIFAR-10 at 16 x 16: 12,000 to train on, 3,000 to test.

    The features are of a classifier of all ten classes, less what is tested on.
    """
    x, label = pictures("cifar10-train.tar.gz", 16)
    mine = torch.isin(label, torch.tensor(kinds))
    rows, others = mine.nonzero()[:, 0], (~mine).nonzero()[:, 0]
    train, test = rows[:-3000], rows[-3000:]
    seen = torch.cat([train, others])
    features = encoder(name, x[seen], label[seen], epochs=10, flips=True)
    return Task(
        name=name,
        seconds=(240.0, 720.0),
        train_x=x[train],
        test_x=x[test],
        features=features,
        flips=True,
        heun=False,
        steps=20,
    )


def of_points(name: str) -> Task:
    """20,000 points in the plane of a built-in dataset, 40,000 to test; they are features.

    So many, as the energy distance of 10,000 real ones is off by some tenths of a thousandth.
    """
    from ornstein.data import DataOptions, open_data

    data = open_data(name, DataOptions(limit=60_000, seed=7)).stored.float()
    data = (data - data.mean(0)) / data.std()
    return Task(
        name=name,
        seconds=(7.0,),
        train_x=data[:20_000],
        test_x=data[20_000:],
        features=flatten,
        steps=40,  # in 20, samples of the exact denoiser spread wider than data by 1.4 %
        samples=40_000,
    )


TASKS: dict[str, Callable[[], Task]] = {
    "digits": digits,
    "mnist8": mnist8,
    "cifar3": lambda: of_cifar("cifar3", (1, 7, 8)),  # automobile, horse, ship
    "cifar3-twin": lambda: of_cifar("cifar3-twin", (0, 4, 9)),  # airplane, deer, truck
    "swiss-roll": lambda: of_points("swiss-roll"),
    "moons": lambda: of_points("moons"),
    "checkerboard": lambda: of_points("checkerboard"),
}


@cache
def load(name: str) -> Task:
    """The task of that name. Raises `Absent` if its data are not on this machine."""
    return TASKS[name]()


def pictures(archive: str, size: int) -> tuple[Tensor, Tensor]:
    """Pictures ``(N, C, size, size)`` in [-1, 1] and their classes, in random order."""
    kept = CACHE / f"{archive.split('.')[0]}-{size}.npz"
    if not kept.exists():
        folder = os.environ.get("ORNSTEIN_DATA")
        if not folder or not (Path(folder) / archive).exists():
            raise Absent(f"there is no {archive}: set ORNSTEIN_DATA to the folder that holds it")
        x, names = [], []
        with tarfile.open(Path(folder) / archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is None or not member.name.endswith((".jpg", ".png")):
                    continue
                picture = Image.open(io.BytesIO(file.read()))
                x.append(np.asarray(picture.resize((size, size), Image.Resampling.BOX)))
                names.append(Path(member.name).parent.name)
        CACHE.mkdir(exist_ok=True)
        np.savez(kept, x=np.stack(x), label=np.unique(names, return_inverse=True)[1])
    held = np.load(kept)
    x = held["x"] if held["x"].ndim == 4 else held["x"][..., None]
    order = generator(archive).permutation(len(x))
    scaled = torch.from_numpy(x[order].astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    return scaled.contiguous(), torch.from_numpy(held["label"][order])


# --- What knows nothing --------------------------------------------------------------------------


def gaussian(task: Task) -> Tensor:
    """Samples of the Gaussian fitted to the training data."""
    flat = flatten(task.train_x)
    draw = generator("gaussian", task.name)
    drawn = draw.multivariate_normal(flat.mean(0), np.cov(flat.T), size=task.samples)
    return torch.from_numpy(drawn).float().view(-1, *task.train_x.shape[1:])


def white(task: Task) -> Tensor:
    """Noise of variance 1, as good as no training at all."""
    return normal((task.samples, *task.train_x.shape[1:]), "noise", task.name)


def main() -> None:
    for name in sys.argv[1:] or ["digits", "mnist8", "swiss-roll"]:
        start = time.process_time()
        task = load(name)
        rows = {"train": task.train_x[: task.samples], "gaussian": gaussian(task)}
        for what, x in (rows | {"noise": white(task)}).items():
            figures = {k: round(v, 4) for k, v in task.measure(x).items()}
            print(name, what, figures, flush=True)
        print(f"{name}: {time.process_time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
