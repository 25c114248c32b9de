"""Augmenting: even classes, no copies, files that are read again as they were written."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from exactly import exact_model, standard
from ornstein.core.exact import EmpiricalDenoiser, MixtureDenoiser
from ornstein.core.noise import CosineSchedule
from ornstein.data import DataOptions, open_data
from ornstein.data.captions import Captions
from ornstein.data.dataset import Attributes
from ornstein.errors import StorageError, UsageError
from ornstein.tasks.augment import augment
from ornstein.tasks.gain import Labelled, measure_gain, paired_interval
from truths import F64

MEANS = torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=F64)
NAMES = ("left", "right")


def drawn(count: int, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    """Four in five are left."""
    label = (torch.arange(count) % 5 == 0).long()
    noise = torch.randn(count, 2, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return MEANS[label] + 0.5 * noise, [NAMES[c] for c in label.tolist()]


def exact_run(data):
    mean, std = (torch.tensor(v, dtype=F64) for v in (data.codec.mean, data.codec.std))
    covs = 0.25 * torch.eye(2, dtype=F64).expand(2, 2, 2) / std / std[:, None]
    weights = torch.tensor([0.8, 0.2], dtype=F64)
    return exact_model(MixtureDenoiser(weights, (MEANS - mean) / std, covs, CosineSchedule()), data)


@pytest.fixture(scope="module")
def run():
    data = standard(*drawn(300))
    return exact_run(data), data


def test_classes_are_evened_out_by_what_the_run_draws(run):
    model, data = run
    made = augment(model, data=data, device="cpu", seeds=0)
    rows = made.facts["classes"]
    assert rows["left"]["drawn"] == 0
    assert rows["left"]["real"] == rows["right"]["real"] + rows["right"]["drawn"]
    x = torch.from_numpy(np.stack([d.stored for d in made.drawn]))
    error = 0.5 / len(x) ** 0.5
    assert ((x.mean(0) - MEANS[1]).abs() < 4 * error).all()


def test_so_many_of_each_class_or_of_those_named(run):
    model, data = run
    made = augment(model, 20, data=data, device="cpu", seeds=0)
    assert [made.facts["classes"][n]["drawn"] for n in NAMES] == [20, 20]
    one = augment(model, 20, data=data, device="cpu", seeds=0, label="left")
    assert [one.facts["classes"][n]["drawn"] for n in NAMES] == [20, 0]
    assert all(
        np.array_equal(a.stored, b.stored) for a, b in zip(one.drawn, made.drawn, strict=False)
    )


def noisy_pictures():
    """40 pictures of noise ``(3, 6, 6)``, one in four a cat."""
    pictures = torch.randint(0, 255, (40, 3, 6, 6), generator=torch.Generator().manual_seed(0))
    return standard(pictures.byte(), ["cat/dog" if i % 4 == 0 else "ant" for i in range(40)])


def test_a_run_that_learned_by_heart_adds_nothing():
    """The exact denoiser of the training data draws them again: all are refused."""
    data = noisy_pictures()
    train, _ = data.split(0.2, 0)
    copier = EmpiricalDenoiser(data.codec.pack(train.stored).flatten(1), CosineSchedule())
    made = augment(exact_model(copier, data), data=data, device="cpu", seeds=0)
    assert not made.drawn
    assert made.refused["cat/dog"] == 3 * made.missing["cat/dog"] > 0
    assert "without copying" in made.lines()[-1]


def test_no_draw_that_is_taken_is_a_near_copy(run):
    model, data = run
    made = augment(model, 200, data=data, device="cpu", seeds=0)
    train, held_out = data.split(data.options.validation, 0)
    x = torch.from_numpy(np.stack([d.stored for d in made.drawn]))

    def nearest(rows):
        rows, known = data.codec.pack(rows).double(), data.codec.pack(train.stored).double()
        return torch.cdist(rows, known).min(1).values

    assert (nearest(x) > made.edge).all()
    assert float(nearest(x).min()) == pytest.approx(min(d.distance for d in made.drawn), rel=1e-4)
    assert (nearest(held_out.stored) <= made.edge).float().mean() <= 0.05
    honest = sum(made.refused.values()) / (len(made.drawn) + sum(made.refused.values()))
    assert honest < 0.1


# --- What it is worth ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_gain_and_a_loss_are_both_said():
    """One rare class: true examples of it help; examples of the other, called so, harm."""
    draw = np.random.default_rng(0)

    def of(left: int, right: int, shift: float = 0.0) -> Labelled:
        x = draw.normal(size=(left + right, 2))
        label = np.repeat([0, 1], [left, right])
        x[:, 0] += 2 * label + shift
        return Labelled(x=x, label=label)

    real, held_out = of(100, 4), of(300, 300)
    good = measure_gain(real, of(0, 96), held_out, 2)
    assert good.interval[0] > 0
    assert good.lines()[0].startswith("A gain")
    bad = measure_gain(of(100, 100), of(0, 200, shift=-2.0), held_out, 2)
    assert bad.interval[1] < 0
    assert bad.lines()[0].startswith("A loss")


def test_the_paired_interval_is_that_of_a_mean():
    """Of one seed, the bootstrap of a mean: 1.96 standard errors on each side, near enough."""
    draw = np.random.default_rng(1)
    difference, label = draw.normal(0.3, 1, (1, 400)), np.repeat([0, 1], 200)
    low, high = paired_interval(difference, label)
    width = 2 * 1.96 * difference.std() / 400**0.5
    assert high - low == pytest.approx(width, rel=0.1)
    assert (low + high) / 2 == pytest.approx(difference.mean(), abs=0.02)


# --- Files ---------------------------------------------------------------------------------------


def test_pictures_are_written_as_folders_and_read_again(tmp_path):
    data = noisy_pictures()
    train, _ = data.split(0.2, 0)
    eye = torch.eye(108).double().expand(2, 108, 108)
    noise = MixtureDenoiser(torch.full((2,), 0.5), 0 * eye[:, 0], eye, CosineSchedule())
    made = augment(exact_model(noise, data), data=data, device="cpu", seeds=0)
    made.save(tmp_path / "set")
    again = open_data(tmp_path / "set", DataOptions())
    assert len(again) == len(made) == len(train) + len(made.drawn)
    assert again.classes == ["ant", "cat/dog"]
    assert again.attributes is None
    assert again.label is not None
    assert again.label.bincount().tolist() == [len(made) // 2] * 2
    real = {i: row for i, row in zip(again.ids, again.stored, strict=True) if "real-" in i}
    assert sorted(r.sum().item() for r in real.values()) == sorted(
        r.sum().item() for r in train.stored
    )
    facts = [json.loads(x) for x in (tmp_path / "set/provenance.jsonl").read_text().splitlines()]
    assert len(facts) == len(made.drawn)
    assert {f["class"] for f in facts} == {"cat/dog"}
    assert {f["nearest"] for f in facts} <= set(train.ids)
    assert all((tmp_path / "set" / f["path"]).is_file() for f in facts)
    with pytest.raises(StorageError, match="not empty"):
        made.save(tmp_path / "set")


def test_what_is_known_of_real_pictures_goes_with_them(tmp_path):
    data = noisy_pictures()
    eye = torch.eye(108).double().expand(2, 108, 108)
    noise = MixtureDenoiser(torch.full((2,), 0.5), 0 * eye[:, 0], eye, CosineSchedule())
    made = augment(exact_model(noise, data), data=data, device="cpu", seeds=0)
    ages = np.where(np.arange(len(made.real)) % 3, -np.arange(len(made.real)) / 8, np.nan)
    known = replace(made.real, attributes=Attributes.measured(["age"], ages[:, None]))
    replace(made, real=known).save(tmp_path / "aged")
    again = open_data(tmp_path / "aged", DataOptions())
    assert again.attributes is not None and again.attributes.names == ("age",)
    found = dict(zip(again.ids, again.attributes.values[:, 0].tolist(), strict=True))
    real = [found[name] for name in sorted(found) if "real-" in name]
    np.testing.assert_array_equal(sorted(real, key=str), sorted(ages.tolist(), key=str))
    assert all(value != value for name, value in found.items() if "drawn-" in name)

    told = Captions.of([(f"an ant {i}", "one") for i in range(len(known))])
    replace(made, real=replace(known, captions=told)).save(tmp_path / "told")
    text = (tmp_path / "told/train/metadata.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["text"] for line in lines[: len(known)]] == [list(t) for t in told.texts]
    assert all(line["text"] == [] and line["age"] is None for line in lines[len(known) :])
    assert open_data(tmp_path / "told", DataOptions()).captions is not None


def test_a_table_stays_a_table(tmp_path):
    x, names = drawn(200)
    with (tmp_path / "in.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["a", "b", "label"], *([*r, n] for r, n in zip(x.tolist(), names, strict=True))]
        )
    data = open_data(tmp_path / "in.csv", DataOptions(validation=0.2))
    made = augment(exact_run(data), data=data, device="cpu", seeds=0)
    made.save(tmp_path / "set")
    again = open_data(tmp_path / "set" / "train.csv")
    assert again.codec.columns == ("a", "b")  # pyright: ignore
    assert again.label is not None
    assert again.label.bincount().tolist() == [len(made) // 2] * 2
    real, _ = data.split(0.2, 0)
    assert torch.allclose(again.stored[: len(real)], real.stored, rtol=1e-5)
    line = json.loads((tmp_path / "set/provenance.jsonl").read_text().splitlines()[0])["path"]
    assert again.ids[len(real)] == line.partition("#")[2]


def test_arrays_stay_arrays(run, tmp_path):
    model, data = run
    made = augment(model, 5, data=data, device="cpu", seeds=0)
    assert [p.name for p in made.save(tmp_path / "set")] == ["train.npz", "provenance.jsonl"]
    again = open_data(tmp_path / "set" / "train.npz")
    assert len(again) == len(made)
    assert again.classes == ["0", "1"]  # names are text, which arrays of numbers do not hold


# --- What is refused -----------------------------------------------------------------------------


def test_what_cannot_be_augmented_is_refused(run):
    model, data = run
    with pytest.raises(UsageError, match="per_class = 0"):
        augment(model, 0, data=data)
    with pytest.raises(UsageError, match="no class 'up'"):
        augment(model, data=data, label="up")
    even = standard(drawn(40)[0], ["a", "b"] * 20)
    with pytest.raises(UsageError, match="as many examples already"):
        augment(exact_run(even), data=even)
    plain = standard(drawn(40)[0])
    with pytest.raises(UsageError, match="no classes to even out"):
        augment(exact_run(plain), data=plain)
    nothing = standard(*drawn(40), validation=0.0)
    with pytest.raises(UsageError, match="left out nothing"):
        augment(exact_run(nothing), data=nothing)
