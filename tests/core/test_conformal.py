"""Conformal p-values and bands: exact for what could be swapped with the calibration."""

from itertools import permutations
from math import floor

import numpy as np
import pytest
from scipy.stats import binom

from ornstein.core.conformal import band, discoveries, false_alarms, p_values, reach, widening
from ornstein.rng import generator


def test_under_exchange_every_p_value_is_equally_likely():
    """All orders of n + 1 scores, each as likely: p is uniform on 1/(n + 1), ..., 1, exactly."""
    found = [p_values(np.array(s[:1]), np.array(s[1:]))[0] for s in permutations(range(5))]
    values, counts = np.unique(found, return_counts=True)
    assert values == pytest.approx(np.arange(1, 6) / 5, abs=0)
    assert (counts == 24).all()


def test_ties_make_a_p_value_larger_never_smaller():
    ordered = [(1, 2, 2, 3)[i] for i in range(4)]
    found = np.array([p_values(np.array(s[:1]), np.array(s[1:]))[0] for s in permutations(ordered)])
    for level in (0.25, 0.5, 0.75):
        assert (found <= level).mean() <= level


def test_a_stranger_score_never_has_a_larger_p_value():
    draw = generator("strange")
    normal, scores = draw.normal(size=50), np.sort(draw.normal(size=200) * 3)
    p = p_values(scores, normal)
    assert (np.diff(p) <= 0).all()
    assert p.min() == pytest.approx(1 / 51)
    assert p.max() == 1


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 99), (0.05, 120), (0.1, 30), (0.3, 9)])
def test_the_false_alarms_are_those_that_are_said(alpha, n):
    """Over fresh calibrations: the mean rate, and the share of calibrations within the band."""
    draw, said = generator("alarms", n), false_alarms(alpha, n)
    assert said.rate == floor(alpha * (n + 1) + 1e-9) / (n + 1)
    rounds, fresh = 2000, 50
    normal = np.sort(draw.random((rounds, n)), 1)
    k = floor(alpha * (n + 1) + 1e-9)
    true_rate = 1 - normal[:, -k]  # of uniform scores, the chance to exceed the k-th largest
    assert abs(true_rate.mean() - said.rate) < 4 * true_rate.std() / rounds**0.5
    within = ((true_rate >= said.low) & (true_rate <= said.high)).sum()
    assert binom.cdf(within, rounds, 0.9) > 1e-4
    assert binom.sf(within, rounds, 0.9) > 1e-4
    hits = sum((p_values(draw.random(fresh), row) <= alpha).sum() for row in normal)
    tolerance = 4 * (fresh * said.rate + fresh**2 * true_rate.var()) ** 0.5 * rounds**0.5
    assert abs(hits - rounds * fresh * said.rate) < tolerance


def test_no_alarm_is_possible_with_too_few_normals():
    assert false_alarms(0.05, 18).rate == 0
    assert false_alarms(0.05, 19).rate == pytest.approx(0.05)


def test_false_discoveries_are_a_share_of_what_is_flagged():
    """Of 200 examples 40 are strange; the mean share of false ones among the flagged is at most
    alpha times the share that is normal, and power grows with the distance."""
    draw, alpha = generator("discoveries"), 0.2
    false, power = [], {2.0: [], 4.0: []}
    for _ in range(300):
        normal = draw.normal(size=300)
        for shift, found in power.items():
            scores = np.concatenate([draw.normal(size=160), draw.normal(size=40) + shift])
            flagged = discoveries(p_values(scores, normal), alpha)
            found.append(flagged[160:].mean())
            if shift == 4.0:
                false.append(flagged[:160].sum() / max(1, flagged.sum()))
    assert np.mean(false) < alpha * 0.8 + 4 * np.std(false) / len(false) ** 0.5
    assert np.mean(false) > alpha * 0.8 / 2  # a rule that flags next to nothing would pass else
    assert np.mean(power[4.0]) > 0.9 > np.mean(power[2.0])


def test_flags_follow_the_steps_of_benjamini_and_hochberg():
    p = np.array([0.01, 0.04, 0.03, 0.9, 0.02])
    assert discoveries(p, 0.05).tolist() == [True, True, True, False, True]
    assert discoveries(p, 0.03).tolist() == [False] * 5
    assert not len(discoveries(p[:0], 0.05))


@pytest.mark.parametrize("draws", [19, 39])
def test_a_band_of_few_draws_holds_its_share_of_truths_that_could_be_swapped_with_them(draws):
    """Each of K + 1 numbers as the truth: nine in ten lie within, exactly."""
    numbers = np.exp(np.arange(draws + 1) / 7)
    rest = np.stack([np.delete(numbers, i) for i in range(draws + 1)])
    low, high = band(rest, 0.9)
    inside = (low <= numbers) & (numbers <= high)
    assert inside.mean() == pytest.approx(0.9, abs=1e-12)
    assert ((reach(numbers, rest, 0.9) <= 1) == inside).all()


def test_eighteen_draws_are_too_few_for_a_band_of_nine_tenths():
    with pytest.raises(ValueError, match="expected 19 draws or more, got 18"):
        band(np.zeros((1, 18)), 0.9)


def test_a_band_widened_by_its_reach_ends_at_the_truth():
    draw = generator("reach")
    truth, drawn = 3 * draw.standard_normal(50), draw.standard_normal((50, 19))
    factor = reach(truth, drawn, 0.9)
    for i in range(50):
        ends = np.stack(band(drawn[i : i + 1], 0.9, factor[i]))
        assert np.abs(ends - truth[i]).min() < 1e-12


def test_widened_bands_hold_their_share_of_a_fresh_example_in_the_mean():
    """Each of n + 1 examples as the fresh one: what the others ask for misses at most a tenth."""
    draw = generator("widening")
    for n in (9, 25, 60):
        scale = np.exp(draw.standard_normal(n + 1))  # some are far harder than others
        all_of_them = [s * np.abs(draw.standard_t(3, 5 + i % 7)) for i, s in enumerate(scale)]
        missed = []
        for i, fresh in enumerate(all_of_them):
            factor = widening([*all_of_them[:i], *all_of_them[i + 1 :]], 0.9)
            missed.append((fresh > factor).mean())
        assert 0.1 - 2.5 / (n + 1) <= np.mean(missed) <= 0.1 + 1e-9


def test_eight_examples_cannot_say_how_wide_a_band_must_be():
    assert widening([np.zeros(3)] * 8, 0.9) == np.inf
    assert widening([np.ones(3)] * 9, 0.9) == 1
