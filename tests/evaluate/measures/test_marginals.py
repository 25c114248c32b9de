"""Spectra, histograms, columns: each held to its definition, and each sees its own fault."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp, wasserstein_distance

from ornstein.data.image import ImageCodec
from ornstein.data.points import PointsCodec
from ornstein.evaluate.measures import marginals as m
from ornstein.rng import generator

GREY = ImageCodec(shape=(1, 12, 12), dtype="uint8", mean=(128.0,), std=(40.0,), layout="HW")
TABLE = PointsCodec(shape=(3,), dtype="float32", mean=(0.0,) * 3, std=(1.0,) * 3)


def pictures(count: int, *key: int | str) -> np.ndarray:
    """Smooth noise in the levels of `GREY`, standardised."""
    noise = generator("smooth", *key).standard_normal((count, 1, 12, 12))
    smooth = gaussian_filter(noise, (0, 0, 1, 1), mode="wrap")
    levels = np.clip(np.rint(128 + 40 * smooth / smooth.std()), 0, 255)
    return (levels - 128) / 40


def checked(codec, samples: np.ndarray) -> dict[str, m.Check]:
    if codec is GREY:
        train, held_out = pictures(400, "train"), pictures(200, "held out")
    else:
        train, held_out = table(400, "train"), table(200, "held out")
    sides = (torch.from_numpy(x) for x in (samples, train, held_out))
    return {check.name: check for check in m.measure_marginals(codec, *sides).checks}


def table(count: int, *key: int | str) -> np.ndarray:
    x = generator("table", *key).standard_normal((count, 3))
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    return x


def excess(check: m.Check) -> float:
    assert check.score is not None
    return check.score.excess


@pytest.mark.parametrize("shape", [(2, 40), (1, 12, 12), (3, 9, 14), (1, 8, 6, 7)])
def test_a_spectrum_shares_out_the_variance(shape):
    x = generator("spectrum").standard_normal((5, *shape))
    axes = tuple(range(2, x.ndim))
    assert np.allclose(m.spectrum(x).sum(1), x.var(axes).mean(1))


def test_a_wave_is_found_at_its_frequency():
    wave = np.sin(2 * np.pi * 3 * np.arange(32) / 32)
    power = m.spectrum(np.tile(wave, (1, 1, 32, 1)))[0]
    assert power.argmax() == 2  # the first is one cycle in 32 pixels
    assert power[2] == pytest.approx(0.5)  # the variance of a sine
    assert m.decibels(10 * power[None] + 1, power[None] + 0.1) == pytest.approx(10)


def test_histograms_and_their_transport_are_those_of_the_values():
    a, b = (generator(side).integers(0, 8, (40, 2, 5, 5)) for side in "ab")
    edges = np.linspace(-0.5, 7.5, 9)
    counts = m.histograms(a, edges), m.histograms(b, edges)
    assert np.allclose(counts[0][3, 1], np.bincount(a[3, 1].ravel(), minlength=8) / 25)
    expected = wasserstein_distance(a[:, 0].ravel(), b[:, 0].ravel())
    assert m.transport(counts[0][:, 0], counts[1][:, 0], 1.0) == pytest.approx(expected)


def test_columns_are_compared_as_by_kolmogorov_and_smirnov():
    a, b = table(50, "a")[:, 0], table(70, "b")[:, 0] + 0.2
    assert m.furthest(a, b) == pytest.approx(ks_2samp(a, b).statistic)
    assert m.correlation_gap(table(5000, "a"), table(5000, "b")) < 0.03
    line, constant = np.arange(9.0), np.ones(9)
    assert m.correlation_gap(np.c_[constant, line], np.c_[line, line]) == pytest.approx(1)


def test_equal_laws_pass_every_check():
    for codec, samples in ((GREY, pictures(200, "same")), (TABLE, table(200, "same"))):
        found = checked(codec, samples)
        assert len(found) == {GREY: 3, TABLE: 4}[codec]
        for check in found.values():
            assert excess(check) < m.CLEAR
            assert check.sentence.endswith("no more than chance allows.")


def test_each_check_sees_its_own_fault():
    blurred = gaussian_filter(pictures(200, "blurred"), (0, 0, 0.4, 0.4), mode="wrap")
    found = checked(GREY, blurred / blurred.std())
    assert excess(found["Power spectrum"]) > m.CLEAR
    pale = checked(GREY, pictures(200, "pale") + 0.3)
    assert excess(pale["Values"]) > m.CLEAR > excess(pale["Power spectrum"])
    clipped = checked(
        GREY, np.where(pictures(200, "clipped") > 2, 127 / 40, pictures(200, "clipped"))
    )
    ends = clipped["Share at the ends of the range"]
    assert excess(ends) > m.CLEAR
    assert ends.sentence.endswith(": more than chance allows.")
    alone = generator("alone").standard_normal((200, 3))
    found = checked(TABLE, alone)
    assert excess(found["Correlations of the columns"]) > m.CLEAR
    assert all(excess(found[f"Distribution of column {i}"]) < m.CLEAR for i in (1, 2, 3))
    moved = checked(TABLE, table(200, "moved") + np.array([0, 0, 1.0]))
    assert excess(moved["Distribution of column 3"]) > m.CLEAR
    assert excess(moved["Distribution of column 1"]) < m.CLEAR


def test_too_few_examples_are_not_judged():
    few = [torch.from_numpy(pictures(count, "few")) for count in (300, 300, 30)]
    for check in m.measure_marginals(GREY, *few).checks:
        assert check.score is None
        assert "needs 50 examples on each side, there are 30" in check.sentence


def test_the_band_holds_real_data_about_as_often_as_it_says():
    sides = [torch.from_numpy(pictures(n, "band", n)) for n in (200, 400, 201)]
    traces = m.measure_marginals(GREY, *sides).traces
    assert [trace.title for trace in traces] == ["Power spectrum", "Values"]
    levels = torch.arange(256.0).repeat(60, 1).reshape(60, 1, 16, 16)
    flat = m.measure_marginals(replace(GREY, shape=(1, 16, 16)), *3 * [(levels - 128) / 40]).traces[
        1
    ]
    assert np.allclose(flat.samples, 1 / 32)  # each of 32 bins holds eight of the levels
    trace = traces[0]
    assert trace.x.shape == trace.samples.shape == trace.band[0].shape
    wide = 1.5 * (trace.band[1] - trace.band[0])  # both sides scatter
    assert (np.abs(trace.samples - trace.real) < wide).mean() > 0.8
