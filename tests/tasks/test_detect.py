"""Anomalies: the false-alarm rate that is promised, and faults where they were planted."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import betabinom

from exactly import exact_model, standard
from ornstein.core.exact import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from ornstein.core.noise import CosineSchedule
from ornstein.data.dataset import Dataset
from ornstein.errors import DataError, UsageError
from ornstein.tasks.anomaly import Evidence, Scale
from ornstein.tasks.detect import detect
from truths import F64, covariances, normal
from untrained import tiny_model

COV = covariances(1, 4)[0]


def rows(count: int, seed: int) -> torch.Tensor:
    """Normal rows ``(count, 4)``."""
    return normal(count, 4, seed=seed) @ torch.linalg.cholesky(COV).T


@pytest.fixture(scope="module")
def gaussian_run():
    data = standard(rows(1200, 1), validation=0.25)
    std = torch.tensor(data.codec.std, dtype=F64)
    mean = -torch.tensor(data.codec.mean, dtype=F64) / std
    cov = COV / std / std[:, None]
    return exact_model(GaussianDenoiser(mean, cov, CosineSchedule()), data), data


def look(run, x, **options):
    model, data = run
    return detect(model, x, data=data, device="cpu", **options)


# --- What is promised ----------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_fresh_normals_are_flagged_as_often_as_promised(gaussian_run, alpha):
    """Their number is beta-binomial, exactly: within its central 99.9 %, ours and the others'."""
    count = 2000
    found = look(gaussian_run, rows(count, 2), alpha=alpha)
    k = int(np.floor(alpha * (found.normals + 1) + 1e-9))
    law = betabinom(count, k, found.normals + 1 - k)
    for judged in (found, *found.baselines.values()):
        assert law.ppf(0.0005) <= judged.flagged.sum() <= law.ppf(0.9995)
    assert found.normals == 200  # of 300 held out, a third set the scale
    assert found.alarms.rate == k / 201


def test_what_is_further_off_is_stranger_and_more_of_it_is_flagged(gaussian_run):
    shifts = [0.0, 0.5, 1.0, 8.0]
    shares = [look(gaussian_run, rows(200, 3) + s).flagged.mean() for s in shifts]
    assert (np.diff(shares) > 0).all()
    assert shares[-1] == 1


def test_the_share_of_false_alarms_can_be_held_instead(gaussian_run):
    """Of 100 normals and 100 anomalies; the same flags would be far too many of normals alone."""
    x = torch.cat([rows(100, 4), rows(100, 5) + 8])
    found = look(gaussian_run, x, alpha=0.1, control="share")
    assert found.flagged[100:].all()
    assert found.flagged[:100].sum() <= 0.1 * found.flagged.sum() + 4
    none = look(gaussian_run, rows(100, 4), alpha=0.1, control="share")
    assert none.flagged.sum() <= look(gaussian_run, rows(100, 4), alpha=0.1).flagged.sum()


def test_a_score_depends_on_the_example_alone(gaussian_run):
    x = rows(70, 6)
    found = look(gaussian_run, x)
    alone = look(gaussian_run, x[65:66])
    assert alone.score[0] == pytest.approx(found.score[65], rel=1e-5)
    turned = look(gaussian_run, x.flip(0))
    assert turned.score[::-1] == pytest.approx(found.score, rel=1e-5)


@pytest.mark.slow
def test_likelihood_can_be_a_part(gaussian_run):
    """Under a Gaussian, ``-log p`` is a quadratic form: it orders rows by Mahalanobis' distance."""
    model, data = gaussian_run
    few = Dataset(codec=data.codec, stored=rows(24, 7), ids=[str(i) for i in range(24)])
    x = torch.linspace(0, 4, 3, dtype=F64)[:, None] * torch.ones(4, dtype=F64)
    found = detect(model, x, data=data, normal=few, likelihood=True, device="cpu")
    assert (np.diff(found.parts["unlikely"]) > 0).all()


# --- Which class, which pixel --------------------------------------------------------------------


def test_an_example_is_scored_under_the_class_that_fits_best():
    means = torch.tensor([[-3.0, -3.0], [3.0, 3.0]], dtype=F64)
    covs = 0.1 * torch.eye(2, dtype=F64).expand(2, 2, 2)
    weights = torch.full((2,), 0.5, dtype=F64)
    exact = MixtureDenoiser(weights, means, covs, CosineSchedule())
    x = exact.draw(400, torch.Generator().manual_seed(0))
    labels = (x[:, 0] > 0).long().tolist()
    data = standard(x, [("left", "right")[c] for c in labels])
    mean, std = (torch.tensor(v, dtype=F64) for v in (data.codec.mean, data.codec.std))
    scaled = covs / std / std[:, None]
    exact = MixtureDenoiser(weights, (means - mean) / std, scaled, CosineSchedule())
    run = exact_model(exact, data), data
    strange = torch.tensor([[-3.0, -3.0], [3.0, 3.1], [3.0, -3.0]], dtype=F64)
    found = look(run, strange)
    assert found.classes is not None
    assert found.classes[:2] == ["left", "right"]
    assert found.flagged.tolist() == [False, False, True]
    assert found.calls == 2 * look(run, strange, under="any").calls


def waves(count: int, seed: int) -> torch.Tensor:
    """Pictures ``(count, 1, 12, 12)`` of a wave of any phase, with a little noise."""
    phase = torch.rand(count, 1, 1, 1, generator=torch.Generator().manual_seed(seed)) * 6.3
    wave = torch.sin(torch.arange(12.0)[None, None, None] / 2 + phase)
    return (wave + 0.05 * normal(count, 1, 12, 12, seed=seed).float()).expand(-1, 1, 12, 12)


@pytest.fixture(scope="module")
def wave_run():
    data = standard(waves(300, 1))
    train, _ = data.split(0.2, 0)
    exact = EmpiricalDenoiser(data.codec.pack(train.stored).flatten(1), CosineSchedule())
    return exact_model(exact, data), data


def test_the_heat_is_where_the_fault_is(wave_run):
    x = waves(6, 2).clone()
    for i in range(6):
        x[i, 0, 2 * i : 2 * i + 2, 3:5] += 2
    found = look(wave_run, x)
    assert found.flagged.all()
    assert found.heat is not None
    hottest = found.heat.reshape(6, -1).argmax(1)
    assert (abs(hottest // 12 - (2 * np.arange(6) + 0.5)) <= 1.5).all()
    assert (abs(hottest % 12 - 3.5) <= 1.5).all()


def test_what_is_covered_is_filled_in_and_held_against_what_was_there(wave_run):
    x = waves(4, 3).clone()
    x[2:, 0, 4:7, 4:7] += 2
    found = look(wave_run, x, refills=2, refill_steps=4)
    filled = found.parts["refilled"]
    assert filled[2:].min() > filled[:2].max() + 2


# --- The rule ------------------------------------------------------------------------------------


def test_the_parts_are_standard_on_what_set_the_scale_and_fused_as_is_said():
    draw = np.random.default_rng(0)
    errors = draw.gamma(2.0, size=(3, 40, 6, 6))
    evidence = Evidence(errors, np.full(40, -1), 1)
    scale = Scale.of(evidence)
    score, parts = scale.score(evidence)
    for z in parts.values():
        assert z.mean() == pytest.approx(0, abs=1e-9)
        assert z.std(ddof=1) == pytest.approx(1)
    assert score == pytest.approx(parts["whole"] + np.maximum(parts["peak"] - 5, 0))


# --- Files ---------------------------------------------------------------------------------------


def test_scores_and_overlays_are_written(wave_run, tmp_path):
    found = look(wave_run, waves(3, 4))
    paths = found.save(tmp_path)
    with paths[0].open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["path"] for row in table] == found.ids
    assert [float(row["p"]) for row in table] == pytest.approx(found.p, rel=1e-5)
    names = {"score", "flagged", "whole", "peak", "neighbours_p", "components_p", "forest_score"}
    assert names <= table[0].keys()
    assert len(paths) == 4
    wide, high = Image.open(paths[1]).size
    assert high == 2 * wide + 4
    assert json.loads(json.dumps(found.facts))["flagged"] == int(found.flagged.sum())
    assert any("neighbours" in line for line in found.lines())
    assert found._repr_png_() is not None


def test_rows_of_a_table_are_named_by_their_place(gaussian_run, tmp_path):
    model, data = gaussian_run
    np.save(tmp_path / "new.npy", rows(3, 8).numpy())
    found = detect(model, tmp_path / "new.npy", data=data, device="cpu")
    assert [i.rpartition("#")[2] for i in found.ids] == ["0", "1", "2"]
    assert found.save(tmp_path) == [tmp_path / "scores.csv"]
    assert found._repr_png_() is None


def test_folders_and_patterns_are_read(tmp_path):
    from ornstein.tasks.examples import read_examples

    model = tiny_model()
    x = torch.randint(0, 17, (3, 1, 8, 8), dtype=torch.uint8)
    paths = list(model.codec.save(model.codec.pack(x), tmp_path / "in"))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    for places in (tmp_path / "in", str(tmp_path / "in" / "*.png"), paths):
        found = read_examples(model, places)
        assert torch.equal(found.stored, x)
        assert found.ids == [str(p) for p in paths]


# --- What is refused -----------------------------------------------------------------------------


def test_what_does_not_fit_the_run_is_named(gaussian_run, wave_run, tmp_path):
    model = tiny_model()
    Image.new("L", (9, 11)).save(tmp_path / "big.png")
    with pytest.raises(DataError, match=r"9 x 11, but the run was trained on pictures of 8 x 8"):
        detect(model, tmp_path / "big.png")
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is a table, but the run was trained on pictures"):
        detect(model, tmp_path / "rows.csv")
    with pytest.raises(DataError, match="is no table"):
        look(gaussian_run, tmp_path / "big.png")
    with pytest.raises(UsageError, match="have shape"):
        look(gaussian_run, rows(2, 1)[:, :3])
    with pytest.raises(UsageError, match="holds no examples"):
        (tmp_path / "empty").mkdir()
        look(wave_run, tmp_path / "empty")
    with pytest.raises(UsageError, match="alpha = 2"):
        look(gaussian_run, rows(2, 1), alpha=2)
    with pytest.raises(UsageError, match="trained on an array"):
        detect(gaussian_run[0], rows(2, 1))
    with pytest.raises(UsageError, match="Only pictures can be covered"):
        look(gaussian_run, rows(2, 1), refills=1)


def test_too_few_normals_are_refused_and_too_small_an_alpha_is_said(gaussian_run):
    model, data = gaussian_run

    def of(count):
        return Dataset(codec=data.codec, stored=rows(count, 9), ids=["n"] * count)

    with pytest.raises(UsageError, match="There are 20 normal examples"):
        detect(model, rows(2, 1), data=data, normal=of(20))
    found = detect(model, rows(2, 1) + 50, data=data, normal=of(24))
    assert not found.flagged.any()
    assert "19 are needed" in found.promise
