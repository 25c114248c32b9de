"""What is said of a dataset before training: each finding is planted, and found."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from ornstein.data import DataOptions, open_data, profile_data


@pytest.fixture(scope="module")
def planted():
    draw = np.random.default_rng(0)
    values = draw.normal(100, 20, (200, 8, 8, 3)).clip(0, 255).astype(np.uint8)
    values[10] = values[150]  # an exact copy
    values[20] = values[160]
    values[20, 0, 0, 0] ^= 1  # a near copy
    values[30] = 255 * (np.indices((8, 8)).sum(0) % 2)[..., None]  # an outlier
    values[40] = 7  # one value throughout, and an outlier too
    labels = ["rare"] * 10 + ["common"] * 188 + [None] * 2
    return profile_data(open_data((values, labels)))


def test_copies_are_found(planted):
    assert planted.duplicates == [["row-000010", "row-000150"]]


def test_near_copies_are_found_and_exact_ones_are_not_among_them(planted):
    assert planted.near_duplicates == [("row-000020", "row-000160")]


def test_outliers_are_found_and_nothing_else(planted):
    assert set(planted.outliers) == {"row-000030", "row-000040"}


def test_constant_pictures_are_found(planted):
    assert planted.constant == ["row-000040"]


def test_classes_and_their_imbalance(planted):
    assert planted.classes == {"common": 188, "rare": 10} and planted.unlabelled == 2
    assert planted.imbalance == 18.8
    assert any("--data.balance" in line for line in planted.lines())


def test_ranges_are_in_the_units_of_the_source():
    values = np.array([[1.0, -5.0], [3.0, 7.0], [2.0, 1.0]])
    profile = profile_data(open_data(values))
    assert [(c.low, c.high, c.mean) for c in profile.channels] == [(1, 3, 2), (-5, 7, 1)]


def test_clean_data_have_no_findings():
    values = np.random.default_rng(1).normal(100, 20, (300, 8, 8)).clip(0, 255).astype(np.uint8)
    profile = profile_data(open_data(values))
    assert not profile.duplicates and not profile.near_duplicates and not profile.outliers
    assert not profile.constant and not profile.problems


@pytest.mark.parametrize("count", [1, 2, 7])
def test_small_datasets_have_a_profile(count):
    values = np.arange(count * 9, dtype=np.uint8).reshape(count, 3, 3)
    profile = profile_data(open_data(values))
    assert profile.count == count
    assert ("One example is too few" in " ".join(profile.advice)) == (count == 1)


def test_lines_are_safe_to_print(tmp_path):
    folder = tmp_path / "red\x1b[31m"
    folder.mkdir()
    (folder / "bad\u202egnp.png").write_bytes(b"\x1b]0;owned\x07")
    values = np.zeros((4, 4), np.uint8)
    from PIL import Image

    for name in ("a", "b"):
        (folder / name).mkdir()
        Image.fromarray(values).save(folder / name / "1.png")
    dataset = open_data(folder, DataOptions(on_bad="skip"))
    lines = profile_data(dataset).lines()
    assert any("gnp.png" in line for line in lines)
    assert all(c.isprintable() for line in lines for c in line)


def test_the_sizes_that_pictures_had_are_counted(tmp_path):
    from PIL import Image

    for i, size in enumerate([(20, 30), (20, 30), (4, 9)]):
        Image.new("L", size, i).save(tmp_path / f"{i}.png")
    profile = profile_data(open_data(tmp_path, DataOptions(size=8)))
    assert profile.sizes == {"20 x 30": 2, "4 x 9": 1}
    assert "of 2 sizes: 20 x 30 (2), 4 x 9 (1)" in profile.lines()
    assert any(line.startswith("1 pictures were smaller") for line in profile.lines())


def test_left_out_files_are_listed_with_reasons(tmp_path):
    from PIL import Image

    Image.new("L", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    profile = profile_data(open_data(tmp_path, DataOptions(on_bad="skip")))
    assert profile.problems == [("empty.png", "it is empty")]
    assert "  empty.png: it is empty" in profile.lines()


def test_a_profile_is_plain_data(planted):
    assert json.loads(json.dumps(asdict(planted)))["count"] == 200
