"""Models compared: modes counted, memory measured, and verdicts that follow from the figures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ornstein.data import DataOptions, open_data
from ornstein.errors import DivergedError, UsageError
from ornstein.evaluate import comparison as made
from ornstein.evaluate.comparison import compare, write
from ornstein.evaluate.contest.cost import peak_memory
from ornstein.evaluate.contest.modes import GAUSSIANS, count_modes, judge_of, nearest_gaussian
from ornstein.evaluate.contest.rivals import GAN, Likelihood
from ornstein.evaluate.contest.trial import Entry, Trial
from ornstein.evaluate.contest.verdict import Contest, Values, contests, verdict
from ornstein.evaluate.measures.figures import Figure
from ornstein.evaluate.measures.metrics import Score

CPU = torch.device("cpu")
TINY = {"seen": 64, "size": 8, "seeds": 1, "count": 120, "likely": 2, "device": "cpu"}


# --- Modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1, 7, 25])
def test_collapsed_samples_have_as_many_modes_as_were_planted(kept):
    centres, std = GAUSSIANS["25-gaussians"]
    draw = np.random.default_rng(0)
    chosen = draw.permutation(25)[:kept]
    x = centres[chosen[np.arange(1000) % kept]] + std * draw.standard_normal((1000, 2))
    judge = judge_of(open_data("25-gaussians", DataOptions(limit=100)))
    assert judge is not None
    found = judge(x)
    assert (found.found, found.of, found.n) == (kept, 25, 1000)
    assert found.kl == pytest.approx(np.log(25 / kept), abs=0.02)
    # of a Gaussian in the plane, 1 - exp(-9 / 2) lies within three standard deviations
    assert found.good == pytest.approx(1 - np.exp(-4.5), abs=0.015)


def test_samples_between_the_modes_are_of_none():
    centres, std = GAUSSIANS["25-gaussians"]
    which = nearest_gaussian(centres + 1.0, centres, std)
    assert (which == -1).all()
    none = count_modes(which, np.full(25, 1 / 25))
    assert (none.found, none.good, none.kl) == (0, 0.0, None)


@pytest.mark.parametrize("name", GAUSSIANS)
def test_the_centres_are_those_of_the_built_in_data(name):
    data = open_data(name)
    judge = judge_of(data)
    assert judge is not None
    found = judge(data.stored.numpy())
    assert found.found == found.of == len(data.classes)
    assert found.good == pytest.approx(1 - np.exp(-4.5), abs=0.005)
    assert found.kl is not None and found.kl < 0.001


def test_uneven_modes_have_the_divergence_of_their_shares():
    which = np.array([0] * 75 + [1] * 25)
    found = count_modes(which, np.array([0.5, 0.5]))
    assert found.kl == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))


@pytest.mark.slow
def test_stacked_digits_are_read_channel_by_channel():
    data = open_data("stacked-digits", DataOptions(limit=600))
    judge = judge_of(data)
    assert judge is not None
    truth = {name[-3:] for name in data.ids}
    found = judge(data.stored.numpy())
    assert found.of == 1000 and found.good is None
    assert found.found == pytest.approx(len(truth), rel=0.05)
    assert judge(data.stored[:1].repeat(50, 1, 1, 1).numpy()).found == 1


def test_other_data_have_no_known_modes():
    assert judge_of(open_data("moons", DataOptions(limit=10))) is None


# --- Memory --------------------------------------------------------------------------------------


def test_memory_is_that_of_the_fullest_moment():
    def work() -> None:
        a = torch.empty(2**18)  # 1 MiB
        b = a * 2  # 2
        del a
        c = b + b
        del b
        assert len(c.view(2, -1)) == 2  # views take nothing
        _ = [torch.ones(2**17) for _ in range(4)]  # 1 + 2

    assert peak_memory(work, CPU) == 3 * 2**20


def test_what_was_there_before_does_not_count():
    before = torch.ones(2**18)
    assert peak_memory(lambda: before.mul_(2).view(2, -1), CPU) == 0


def test_what_waits_for_the_backward_pass_counts():
    x = torch.ones(2**18, requires_grad=True)
    kept = peak_memory(lambda: x.exp().exp().exp().sum().backward(), CPU)
    dropped = peak_memory(lambda: x.detach().exp().exp().exp().sum(), CPU)
    assert kept >= dropped + 2**20


# --- Contests ------------------------------------------------------------------------------------


def of(*each: float, spread: float = 0.0) -> Values:
    return Values(each=each, spread=spread)


def test_a_difference_that_chance_makes_is_none():
    contest = Contest(
        title="Fréchet distance",
        higher=False,
        cost=False,
        values={"a": of(1.0, 1.1, 0.9), "b": of(1.05, 1.15, 0.95), "c": of(3.0, 3.1, 2.9)},
    )
    assert not contest.better("a", "b") and not contest.better("b", "a")
    assert contest.better("a", "c") and not contest.better("c", "a")
    assert contest.best(["a", "b", "c"]) == "a"


def test_a_single_seed_is_judged_by_its_spread_over_samples():
    def contest(spread: float) -> Contest:
        values = {"a": of(2.0, spread=spread), "b": of(1.0, spread=spread)}
        return Contest(title="Coverage", higher=True, cost=False, values=values)

    assert contest(0.1).better("a", "b")
    assert not contest(1.0).better("a", "b")
    assert not contest(0.0).better("a", "b")  # nobody knows how far chance reaches


def test_costs_are_compared_as_ratios():
    values = {"a": of(1.0), "b": of(1.05), "c": of(2.0)}
    contest = Contest(title="Seconds", higher=False, cost=True, values=values)
    assert not contest.better("a", "b")
    assert contest.better("a", "c")


def entry(
    title: str, frechet: float, coverage: float, drawing: float, bits: float | None = None, **more
) -> Entry:
    """A model with these figures, of three seeds that hardly differ."""

    def figure(name: str, value: float, higher: bool, floor: float) -> Figure:
        score = Score(value=value, spread=0.01, floor=floor, floor_spread=0.01, n=200)
        return Figure(name=name, space="fixed", higher=higher, score=score, fewest=50, n=200)

    likelihood = bits and Likelihood(bits=bits, error=0.1, how="exact", n=10)
    trials = [
        Trial(
            seed=i,
            seconds=1.0,
            seen=100,
            drawing=drawing,
            figures=[
                figure("frechet", frechet * (1 + 0.001 * i), False, 0.1),
                *(figure(n, 1.0, False, 0.0) for n in ("energy", "told by a network")),
                *(figure(n, 0.5, True, 0.9) for n in ("precision", "recall")),
                figure("coverage", coverage, True, 0.9),
            ],
            likelihood=likelihood or None,
        )
        for i in range(3)
    ]
    return Entry(
        name=title.lower(),
        title=title,
        weights=1000,
        drawing_weights=500,
        calls=1,
        memory=1000,
        trials=more.get("trials", trials),
        x=torch.empty(0, 2),
    )


def said(*entries: Entry) -> str:
    return "\n".join(verdict(contests(entries), entries))


def test_the_verdict_changes_with_the_figures():
    slow = said(entry("Diffusion", 1.0, 0.8, 1.0), entry("GAN", 2.0, 0.4, 0.01))
    won, lost = slow.splitlines()[:2]
    assert won.startswith("Diffusion is better") and "Fréchet" in won and "coverage" in won
    assert lost.startswith("Diffusion loses") and "seconds to draw one" in lost
    assert "100 times as much" in lost

    worse = said(entry("Diffusion", 2.0, 0.4, 0.01), entry("GAN", 1.0, 0.8, 1.0))
    won, lost = worse.splitlines()[:2]
    assert "seconds to draw one" in won and "Fréchet" not in won
    assert "Fréchet" in lost and "coverage" in lost

    alike = said(entry("Diffusion", 1.0, 0.8, 1.0), entry("GAN", 1.0, 0.8, 1.0))
    assert "better" not in alike and "loses" not in alike
    assert alike.startswith("No clear difference")


def test_a_figure_that_a_model_lacks_is_no_win():
    both = said(entry("Diffusion", 1.0, 0.8, 1.0, bits=2.0), entry("GAN", 1.0, 0.8, 1.0))
    assert "bits" not in both
    three = said(
        entry("Diffusion", 1.0, 0.8, 1.0, bits=2.0),
        entry("GAN", 1.0, 0.8, 1.0),
        entry("Flow", 1.0, 0.8, 1.0, bits=1.0),
    )
    assert "loses in: bits per dimension (2; Flow: 1)" in three


def test_a_floor_that_does_better_is_named():
    words = said(entry("Diffusion", 2.0, 0.4, 1.0), entry("Kernel density", 1.0, 0.8, 0.1))
    assert "Kernel density, without a network, beats diffusion in: Fréchet distance" in words
    words = said(entry("Diffusion", 1.0, 0.8, 1.0), entry("Gaussian", 2.0, 0.4, 0.1))
    assert "beats" not in words


def test_collapse_and_failures_are_counted():
    bad = [Trial(seed=0, seconds=1.0, seen=10, failure="Not finite."), *entry("", 1, 0.1, 1).trials]
    words = said(entry("Diffusion", 1.0, 0.8, 1.0), entry("GAN", 1.0, 0.1, 1.0, trials=bad))
    assert "GAN: 1 of 4 failed (Not finite.), 3 of 4 collapsed" in words
    assert "Diffusion: 3 of 3 trainings ended well." in words


def test_a_model_that_always_fails_is_in_no_contest():
    bad = [Trial(seed=0, seconds=1.0, seen=10, failure="Not finite.")]
    entries = [entry("Diffusion", 1.0, 0.8, 1.0), entry("GAN", 1.0, 0.1, 1.0, trials=bad)]
    assert all("GAN" not in c.values for c in contests(entries) if not c.cost)
    assert "1 of 1 failed" in said(*entries)


# --- From end to end -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    heard: list[str] = []
    data = DataOptions(limit=600, validation=0.3)
    result = compare("25-gaussians", data, say=heard.append, **TINY)
    assert heard[0] == "Reading the data" and sum("seed 0" in line for line in heard) == 6
    return result


@pytest.mark.slow
def test_every_model_is_measured_alike(found):
    assert [e.name for e in found.entries] == [
        "diffusion", "gan", "vae", "flow", "gaussian", "kernel-density",
    ]  # fmt: skip
    networks = found.entries[:4]
    for one in networks:
        assert one.weights == pytest.approx(networks[0].weights, rel=0.2)
        assert one.memory > 4 * one.weights
    for one in found.entries:
        assert [t.seed for t in one.trials] == [0]
        for trial in one.trials:
            assert not trial.failure
            assert trial.drawing > 0 and trial.modes.n == 120
            assert (trial.likelihood is None) == (one.name == "gan")
            assert {f.key for f in trial.figures} == {
                f.key for f in found.entries[0].done[0].figures
            }
    assert networks[0].calls == 20 and networks[1].calls == 1


@pytest.mark.slow
def test_no_model_is_told_the_labels(found):
    assert found.train.label is None or len(found.train.classes) == 25  # they make features
    model = made._Ground(found.train, found.held_out, found.options, CPU).make("diffusion")
    assert model.config.net.kind == "mlp"
    untold = replace(found.train, label=None, classes=[])
    assert model.weights == made.Diffusion(model.config, untold).weights


@pytest.mark.slow
def test_the_kernel_density_finds_the_modes_of_which_it_has_examples(found):
    kernel = found.entries[-1]
    assert kernel.done[0].modes.found >= 20
    assert found.real_modes.found == 25


@pytest.mark.slow
def test_what_is_written_is_whole(found, tmp_path):
    page = write(found, tmp_path)
    text = page.read_text()
    for heading in ("Who wins where", "What each drew", "How diverse", "What it costs"):
        assert heading in text
    assert "<script" not in text and "nan" not in text.split("<main>")[1].split("data:")[0]
    for sentence in found.verdict:
        assert sentence.split(" (")[0] in text
    facts = json.loads((tmp_path / "comparison.json").read_text())
    assert facts["models"].keys() == {e.name for e in found.entries}
    figure = next(f for f in found.entries[0].done[0].figures if f.name == "energy")
    score, key = figure.score, figure.key
    assert facts["models"]["diffusion"]["trials"][0]["figures"][key]["value"] == score.value
    assert facts["verdict"] == found.verdict


def test_a_model_that_diverges_is_reported_and_the_others_go_on(monkeypatch):
    def diverge(self, *_):
        if _[1].seen > 1:  # not when its memory is measured
            raise DivergedError("The GAN diverged.")
        self._trained, self._average = 0, type("Average", (), {"net": torch.nn.Linear(1, 1)})()

    monkeypatch.setattr(GAN, "fit", diverge)
    options = TINY | {"models": ("gan", "gaussian")}
    result = compare("moons", DataOptions(limit=500, validation=0.2), **options)
    assert result.entries[0].trials[0].failure == "The GAN diverged."
    assert result.entries[1].done
    assert "GAN: 1 of 1 failed" in " ".join(result.verdict)


@pytest.mark.slow
def test_pictures_are_compared_too_and_the_page_shows_them(tmp_path):
    options = TINY | {"models": ("diffusion", "vae", "gaussian"), "likely": 0}
    result = compare("digits", DataOptions(limit=500), **options)
    text = write(result, tmp_path).read_text()
    assert text.count("<img") == 4  # and real ones
    assert all(t.likelihood is None for e in result.entries for t in e.trials)


@pytest.mark.parametrize(
    ("data", "words"),
    [(DataOptions(flip=True), "as they are"), (DataOptions(limit=5, validation=0.0), "held-out")],
)
def test_what_cannot_be_compared_is_refused(data, words):
    with pytest.raises(UsageError, match=words):
        compare("digits", data, **TINY)
