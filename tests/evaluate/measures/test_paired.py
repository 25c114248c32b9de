"""Runs of pairs: each draw is given what belongs to a held-out example, and compared with it."""

import numpy as np
import pytest
import torch

import ornstein as ou
from ornstein.data import DataOptions, open_data
from ornstein.data.codec import Codec
from ornstein.errors import DataError, UsageError
from ornstein.evaluate import evaluation as made
from ornstein.evaluate.evaluation import evaluate, write
from ornstein.evaluate.measures.bits import told
from ornstein.evaluate.measures.paired import context_of_pairs, measure_pairs
from ornstein.runs.model import load
from ornstein.tasks.sample import Samples

DATA = open_data("digits", DataOptions(given="small-4", limit=300))
ORDER = list(range(50, 10, -1))


def distances(codec: Codec, stored: torch.Tensor):
    found = measure_pairs(codec, codec.pack(stored), DATA, ORDER)
    assert found is not None and found.n == len(ORDER)
    return found


def test_the_truth_is_at_no_distance_and_a_known_error_is_measured():
    truth = DATA.stored[ORDER]
    exact = distances(DATA.codec, truth)
    assert exact.drawn.mae == 0 and exact.drawn.psnr > 200
    off = distances(DATA.codec, torch.where(truth > 8, truth - 2, truth + 2))
    assert off.drawn.mae == 2 and off.drawn.mae_error == 0
    assert off.drawn.psnr == pytest.approx(20 * np.log10(16 / 2))
    assert "nearer to what belongs to the given" in exact.sentence


def test_a_copy_of_the_given_is_scaled_and_beside_it_stands_another_s_answer():
    found = distances(DATA.codec, DATA.stored[ORDER])
    assert found.copy is not None
    assert 0 < found.copy.mae < found.another.mae  # a small picture says much of a large one
    worse = distances(DATA.codec, DATA.stored[ORDER].roll(1, 0))
    assert worse.drawn == found.another
    assert "no nearer to what belongs to the given than the given, scaled" in worse.sentence


def test_what_is_given_of_another_kind_is_no_answer():
    cells = open_data("cells", DataOptions(given="image", make="mask", limit=12))
    found = measure_pairs(cells.codec, cells.codec.pack(cells.stored), cells, list(range(12)))
    assert found is not None
    assert found.copy is None or cells.given.codec.levels == cells.codec.levels  # pyright: ignore


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has seen 64 pairs of digits."""
    place = tmp_path_factory.mktemp("pairs") / "run"
    given = {"given": "small-4", "limit": 300, "validation": 0.2}
    config = {"net": {"size": 8}, "train": {"batch": 64}, "data": given}
    config = ou.RunConfig.from_dict(config)
    return ou.train("digits", out=place, seen=64, config=config, device="cpu")


def test_draws_are_given_what_belongs_to_held_out_examples(run, monkeypatch, tmp_path):
    model, seen = load(run.path), []

    def stream(model, options, context=None):
        assert context is not None
        seen.append(context(range(options.count)))
        yield Samples(model.codec.pack(truth[: options.count]), model.codec)

    _, held_out = made.training_data(model)
    order = made.generator("labels", 0).permutation(len(held_out)).copy()
    truth = held_out.stored[order]
    monkeypatch.setattr(made, "stream", stream)
    found = evaluate(model, count=55, likely=0)
    mine = held_out.given.context(torch.from_numpy(order), (8, 8))  # pyright: ignore
    assert torch.allclose(seen[0], mine[:55], atol=1e-5)
    assert found.pairs is not None and found.pairs.drawn.mae == 0
    text = write(found, tmp_path).read_text()
    assert "How near to what belongs to the given" in text and "The given, scaled" in text
    assert found.facts["pairs"]["copy"]["mae"] > 0


def test_a_run_of_pairs_is_measured_from_end_to_end(run):
    found = evaluate(run, count=40, steps=2, likely=0, device="cpu")
    assert found.pairs is not None and found.pairs.n == 40
    assert found.pairs.sentence in found.lines()


def test_likelihood_and_loss_are_of_examples_with_what_belongs_to_them(run):
    model = load(run.path)
    _, cond = told(model, DATA, torch.arange(3))
    assert torch.allclose(cond["context"], DATA.given.context(torch.arange(3), (8, 8)), atol=0.1)  # pyright: ignore


def test_pairs_must_be_of_the_kind_the_run_was_trained_on(run):
    model = load(run.path)
    with pytest.raises(DataError, match="holds no pairs"):
        context_of_pairs(model, open_data("digits"), [0, 1])
    with pytest.raises(UsageError, match="leave --given out"):
        evaluate(run, count=20, given="a.png", likely=0)
