"""Classes told by a run that was only trained to draw: exact runs give the posterior of Bayes."""

import csv

import numpy as np
import pytest
import torch

from exactly import exact_model, standard
from ornstein.core.exact import MixtureDenoiser
from ornstein.core.noise import CosineSchedule
from ornstein.core.shares import Share
from ornstein.data.dataset import Dataset
from ornstein.errors import UsageError
from ornstein.tasks.classify import classify, measure_lengths
from ornstein.tasks.options import ClassifyOptions
from truths import F64
from untrained import tiny_model

NAMES = ("ant", "bee", "cat")
MEANS = torch.tensor([[-1.5, 0.0], [1.5, 0.0], [0.0, 2.0]], dtype=F64)
COVS = 0.4 * torch.eye(2, dtype=F64).expand(3, 2, 2)
WEIGHTS = torch.full((3,), 1 / 3, dtype=F64)


def mixture(means, covs):
    return MixtureDenoiser(WEIGHTS, means, covs, CosineSchedule())


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 3
    noise = torch.randn(count, 2, dtype=F64, generator=draw)
    return MEANS[label] + 0.4**0.5 * noise, label


@pytest.fixture(scope="module")
def run():
    x, label = drawn(600, 0)
    data = standard(x, [NAMES[c] for c in label.tolist()], validation=0.3)
    mean, std = (torch.tensor(v, dtype=F64) for v in (data.codec.mean, data.codec.std))
    scaled = COVS / std / std[:, None]
    return exact_model(mixture((MEANS - mean) / std, scaled), data), data


def bayes(x):
    return mixture(MEANS, COVS).responsibilities(x, torch.zeros((), dtype=F64)).numpy()


@pytest.mark.slow
def test_an_exact_run_classifies_as_bayes_does(run):
    model, data = run
    x, _ = drawn(90, 1)
    found = classify(model, x, data=data, device="cpu", noises=48)
    best = bayes(x)
    agree = found.probabilities.argmax(1) == best.argmax(1)
    unclear = best.max(1) < 0.8
    assert agree[~unclear].all()
    assert abs(found.probabilities - best).mean() < 0.06
    assert found.trust.right.value > 0.85
    assert found.trust.error_after < 0.08
    assert found.labels[0] == NAMES[int(found.probabilities[0].argmax())]


@pytest.mark.slow
def test_with_many_levels_and_noises_nothing_is_left_to_calibrate(run):
    """Weights near 1 at every level: the bound of an exact denoiser is the likelihood."""
    from ornstein.core.calibrate import LevelWeights

    model, _ = run
    x, _ = drawn(24, 2)
    levels = tuple(np.linspace(-9, 9, 37).tolist())
    how = ClassifyOptions(levels=levels, noises=150)
    lengths = measure_lengths(model, model.codec.pack(x), how)
    p = LevelWeights.bound(len(levels))(lengths.nats).numpy()
    assert abs(p - bayes(x)).mean() < 0.05


def test_classes_that_fall_behind_are_given_up(run):
    model, _ = run
    x = model.codec.pack(torch.cat([MEANS, MEANS.mean(0, keepdim=True)]))
    how = ClassifyOptions(noises=32)
    sure, unsure = (measure_lengths(model, part, how).calls for part in (x[:3], x[3:]))
    most = 3 * 32 * len(how.levels)
    assert sure / 3 < 0.7 * most
    assert unsure > sure / 3


def test_an_example_is_judged_alone(run):
    model, _ = run
    x = model.codec.pack(drawn(6, 3)[0])
    all_of_them = measure_lengths(model, x, ClassifyOptions(noises=6)).nats
    one = measure_lengths(model, x[4:5], ClassifyOptions(noises=6)).nats
    assert torch.allclose(one[0], all_of_them[4], rtol=1e-5)


def test_probabilities_are_written_beside_their_files(run, tmp_path):
    model, data = run
    np.save(tmp_path / "new.npy", drawn(4, 4)[0].numpy())
    found = classify(model, tmp_path / "new.npy", data=data, device="cpu", noises=4)
    (path,) = found.save(tmp_path)
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["class"] for row in table] == found.labels
    for row in table:
        assert sum(float(row[f"p_{name}"]) for name in NAMES) == pytest.approx(1, abs=1e-4)
    assert any("nearest neighbour" in line for line in found.lines())
    assert found.facts["results"][0]["class"] == found.labels[0]


def test_an_interval_of_a_share_is_that_of_wilson():
    """8 of 10: (.490, .943), as in Brown, Cai & DasGupta (2001)."""
    assert Share(hits=8, n=10).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_what_cannot_be_classified_is_refused(run):
    model, data = run
    x = drawn(3, 5)[0]
    with pytest.raises(UsageError, match="must rise"):
        classify(model, x, data=data, levels=(1.0, 0.0))
    with pytest.raises(UsageError, match="no option 'labels'"):
        classify(model, x, data=data, labels=3)
    plain = exact_model(mixture(MEANS, COVS), standard(x))
    with pytest.raises(UsageError, match="knows no classes"):
        classify(plain, x)
    few = Dataset(codec=data.codec, stored=x, ids=["a"] * 3, label=torch.arange(3))
    with pytest.raises(UsageError, match="20 are needed to calibrate"):
        classify(model, x, data=few)
    with pytest.raises(UsageError, match="have shape"):
        classify(tiny_model(), torch.zeros(1, 1, 9, 9))
