"""One copy in a hundred is found, honest samples are not accused, and each figure is exact."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import fisher_exact, mannwhitneyu, norm
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from ornstein.evaluate.features.labelled import random_features
from ornstein.evaluate.measures import copies as c
from ornstein.rng import generator


def normal(n: int, dims: int, *key: int | str) -> np.ndarray:
    return generator("copies", *key).standard_normal((n, dims))


def look(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> c.Copies:
    data = (samples, train, held_out)
    features = random_features(samples.shape[1])
    seen, known, unseen = (features(x) for x in data)
    return c.look_for_copies(data, (seen, known, unseen))


# --- The power of the verdict


def digits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training data, held-out data, and an honest sampler: real digits nobody trained on."""
    x = load_digits().data
    x = (x - x.mean()) / x.std()
    x = x[generator("digits", seed).permutation(len(x))]
    return x[:900], x[900:1097], x[1097:]


def laws(name: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if name == "digits":
        return digits(seed)
    dims = {"plane": 2, "many dimensions": 40}[name]
    x = normal(4000, dims, name, seed)
    return x[:1600], x[1600:2000], x[2000:]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("law", ["digits", "plane", "many dimensions"])
def test_one_copy_in_a_hundred_is_found_and_an_honest_sampler_is_not_accused(law, seed):
    train, held_out, honest = laws(law, seed)
    assert not look(honest, train, held_out).found
    assert not look(honest, train, held_out).leaning
    planted = honest.copy()
    count = 20 if law != "digits" else 10  # of 700 digits 7 could be chance: see `noticed`
    planted[:count] = train[:count]
    assert look(planted, train, held_out).found


def test_the_tests_accuse_honest_samplers_as_seldom_as_they_say():
    accused = 0
    for seed in range(150):
        x = normal(400, 3, "honest", seed)
        found = c.suspects(x[:100], x[100:300], x[300:])
        lean = c.nearer(x[:100], x[100:300], x[300:])
        accused += found.found or lean.found
    assert accused <= 2  # of an expected 150 * 2 * ALARM = 0.3


def test_copies_with_a_little_noise_are_found_too():
    train, held_out, honest = digits(0)
    planted = honest.copy()
    planted[:20] = train[:20] + 0.02 * normal(20, 64, "noise")
    found = look(planted, train, held_out)
    assert found.found
    assert found.suspects["data"].count >= 20
    assert "It copies" in found.verdict


def test_near_copies_of_examples_that_are_in_the_data_twice_are_found():
    train, held_out, honest = digits(0)
    twice, planted = np.concatenate([train, train[:20]]), honest.copy()
    planted[:20] = train[:20] + 0.02 * normal(20, 64, "noise")
    assert look(planted, twice, held_out).found
    planted[:20] = train[:20]  # as a law that repeats itself would, too
    said = look(planted, twice, held_out)
    assert not said.found
    assert "exact copies of examples that occur more than once would not" in said.verdict


def repeating(law: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training and held-out data, equal examples on one side, and draws of the same law."""
    draw = generator(law, seed)
    if law == "whole numbers":
        x = np.stack([draw.poisson(4, 4000), draw.integers(0, 5, 4000)], 1).astype(float)
    elif law == "wide whole numbers":
        x = draw.integers(0, 30, (4000, 3)).astype(float)
    elif law == "no event":
        x = draw.standard_normal((4000, 4)) * (draw.random((4000, 1)) > 0.15)
    else:
        x = (draw.random((4000, 9)) < 0.2).astype(float)
    known, fresh = x[:2000], x[2000:]
    _, which = np.unique(known, axis=0, return_inverse=True)
    out = draw.random(len(known))[which.reshape(-1)] < 0.1
    return known[~out], known[out], fresh


@pytest.mark.parametrize(
    "law", ["whole numbers", "wide whole numbers", "no event", "coarse pictures"]
)
def test_an_honest_sampler_of_data_that_repeat_is_not_accused(law):
    for seed in range(4):
        train, held_out, fresh = repeating(law, seed)
        assert not c.suspects(fresh, train, held_out).found


@pytest.mark.parametrize("law", ["wide whole numbers", "no event"])
def test_a_sampler_of_the_training_data_is_found_though_some_of_them_repeat(law):
    train, held_out, _ = repeating(law, 0)
    assert c.suspects(train, train, held_out).found


def test_where_most_examples_repeat_the_verdict_is_that_it_cannot_be_told():
    train, held_out, fresh = repeating("whole numbers", 0)
    assert "cannot be told here" in look(fresh, train, held_out).verdict


def test_a_sampler_of_noisy_training_data_leans_on_them():
    x = normal(2000, 20, "leaning")
    train, held_out = x[:1000], x[1000:]
    near = (train[:500] + 0.6 * normal(500, 20, "near")) / 1.36**0.5  # of the right law
    found = look(near, train, held_out)
    assert found.leaning
    assert found.closeness is not None
    assert found.closeness.c_t < -3 * found.closeness.error
    assert not look(held_out[:500], train, held_out[500:]).leaning


def test_as_many_copies_as_the_verdict_says_are_noticed_and_one_less_is_not():
    train, held_out, honest = digits(1)
    clean = look(honest, train, held_out)
    assert "No sign of copying" in clean.verdict
    few = c.Suspects(count=0, n=800, control=0, controls=1000, ratio=0.1, p=1.0)
    least = c.noticed(few)
    for count, alarm in ((least, True), (least - 1, False)):
        table = [[count, 800 - count], [0, 1000]]
        p = fisher_exact(table, alternative="greater").pvalue * len(c.RATIOS)  # pyright: ignore
        assert bool(p < c.ALARM) is alarm


# --- Each figure by its definition


def test_the_two_nearest_are_exact_also_for_copies_and_across_pieces():
    b = 100 + normal(1300, 5, "b")
    a = np.concatenate([b[::-2], 100 + normal(100, 5, "a")])
    places, apart = c.two_nearest(a, b)
    every = cdist(a, b)
    assert np.allclose(apart, np.sort(every, 1)[:, :2], atol=1e-12)
    assert np.array_equal(places[:, 0], every.argmin(1))
    assert (apart[:650, 0] == 0).all()


def test_the_suspects_are_those_of_fishers_exact_test():
    train, held_out, samples = (normal(300, 2, i) for i in range(3))
    samples[:30] = train[:30] + 1e-6
    found = c.suspects(samples, train, held_out)
    table = [
        [found.count, found.n - found.count],
        [found.control, found.controls - found.control],
    ]
    p = fisher_exact(table, alternative="greater").pvalue  # pyright: ignore
    assert found.p == pytest.approx(min(1, p * len(c.RATIOS)), rel=1e-6)
    ratio = np.sort(cdist(samples, train), 1)[:, :2]
    assert found.count == (ratio[:, 0] / ratio[:, 1] < found.ratio).sum()
    assert found.controls == 600


def test_the_share_nearer_has_the_scatter_of_a_permutation():
    pool, samples = normal(60, 2, "pool"), normal(200, 2, "samples")
    shares, zs = [], []
    for i in range(400):
        order = generator("sides", i).permutation(60)
        found = c.nearer(samples, pool[order[:40]], pool[order[40:]])
        shares.append(found.share)
        zs.append(found.z)
        assert found.expected == pytest.approx(2 / 3)
    assert np.mean(shares) == pytest.approx(2 / 3, abs=0.02)
    assert np.std(zs) == pytest.approx(1, abs=0.1)


def test_a_tie_is_half_a_share():
    same = np.array([[0.0], [1.0], [2.0]])
    found = c.nearer(same, same, same)
    assert (found.share, found.z) == (0.5, 0.0)


def test_closeness_is_the_z_of_mann_and_whitney():
    a, b = normal(40, 1, "a")[:, 0], 0.5 + normal(50, 1, "b")[:, 0]
    u = mannwhitneyu(a, b, use_continuity=False, method="asymptotic")
    assert abs(c._rank_z(a, b)) == pytest.approx(norm.isf(u.pvalue / 2), rel=1e-6)


def test_closeness_has_the_scatter_it_says_and_needs_enough_in_a_cell():
    found = [
        c.closeness(normal(200, 2, i, "s"), normal(200, 2, i, "t"), normal(200, 2, i, "h"), 4)
        for i in range(40)
    ]
    zs = [f.c_t / f.error for f in found if f is not None]
    assert len(zs) == 40
    assert abs(np.mean(zs)) < 4 / 40**0.5
    assert np.std(zs) == pytest.approx(1, abs=0.35)
    few = normal(30, 2, "few")
    assert c.closeness(few, few + 1, few + 2, 10) is None


def test_membership_is_the_area_under_the_curve():
    train, held_out = normal(300, 1, "train")[:, 0], 0.7 + normal(200, 1, "held")[:, 0]
    found = c.membership(train, held_out)
    label = np.repeat([1, 0], [300, 200])
    expected = roc_auc_score(label, -np.concatenate([train, held_out]))
    assert found.auc == pytest.approx(expected, abs=1e-12)
    assert found.found
    assert not c.membership(train, normal(200, 1, "alike")[:, 0]).found


def test_those_most_alike_come_first():
    train, samples = normal(200, 3, "train"), normal(50, 3, "samples")
    samples[7], samples[31] = train[3] + 1e-4, train[9]
    which, near, ratio = c.most_alike(samples, train, 5)
    assert which[:2].tolist() == [31, 7]
    assert near[:2].tolist() == [9, 3]
    assert (np.diff(ratio) >= 0).all()


# --- Authenticity


def test_authenticity_is_that_of_its_definition():
    samples, train, held_out = (normal(n, 3, "authentic", n) for n in (60, 80, 50))
    found = c.authentic(samples, train, held_out)

    def share(x: np.ndarray) -> float:
        apart, between = cdist(x, train), cdist(train, train) + np.diag([np.inf] * len(train))
        return float(np.mean(apart.min(1) > between.min(1)[apart.argmin(1)]))

    assert found.share == share(samples)
    assert found.real == share(held_out)
    table = [[found.share * 60, 60 - found.share * 60], [found.real * 50, 50 - found.real * 50]]
    assert found.p == pytest.approx(fisher_exact(np.rint(table), "less").pvalue)


def test_copies_are_not_authentic_and_honest_samples_are_as_real_data():
    train, held_out, honest = digits(1)
    noise = 0.05 * normal(len(honest), 64, "noise")
    copies = c.authentic(train[: len(honest)] + noise, train, held_out)
    assert copies.share < 0.01 < 0.3 < copies.real
    assert copies.p < 1e-6
    fair = c.authentic(honest, train, held_out)
    assert fair.share == pytest.approx(fair.real, abs=0.15)
    assert fair.p > 1e-3


def test_of_few_examples_nothing_is_looked_for_nor_computed():
    x = generator("few").normal(size=(60, 4)).astype(np.float32)
    some, few = {"flat": x, "fixed": x}, {"flat": x[: c.FEWEST - 1], "fixed": x[: c.FEWEST - 1]}

    def losses():
        raise AssertionError

    assert c.copies_among(few, some, some, losses) is None
    found = c.copies_among(some, some, some)
    assert found is not None and found.membership is None
