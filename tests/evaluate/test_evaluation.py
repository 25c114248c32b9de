"""A run measured from end to end, in miniature: honest where it should be, silent where it must."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import ornstein as ou
from captioned import captioned_folder
from ornstein.data import Dataset, open_data
from ornstein.data.captions import Captions
from ornstein.errors import DataError, LockedError, UsageError
from ornstein.evaluate import evaluation as made
from ornstein.evaluate.evaluation import evaluate, write
from ornstein.evaluate.features.unlabelled import SelfTaught
from ornstein.evaluate.measures.bits import told
from ornstein.runs.folder import RunFolder
from ornstein.runs.model import load
from ornstein.runs.prompt import Prompt, Term
from ornstein.tasks.examples import training_data
from ornstein.tasks.options import EvaluateOptions
from ornstein.tasks.sample import Samples
from ornstein.train.adapt import adaptation
from ornstein.train.start import read
from untrained import tiny_model

QUICK: dict[str, Any] = {"steps": 2, "likely": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has seen 64 digits."""
    place = tmp_path_factory.mktemp("evaluated") / "digits"
    config = ou.RunConfig.from_dict({"net": {"size": 8}, "train": {"batch": 64}})
    return ou.train("digits", out=place, seen=64, config=config, device="cpu")


@pytest.fixture(scope="module")
def found(run):
    said: list[str] = []
    result = evaluate(run, count=300, say=said.append, **{**QUICK, "likely": 2})
    assert len(said) == 4
    return result


def drawing(monkeypatch, x: torch.Tensor) -> None:
    """Let the sampler give `x`, whatever was asked."""

    def stream(model, options, context=None):
        names = tuple(options.label[i % len(options.label)] for i in range(options.count))
        yield Samples(x[: options.count], model.codec, labels=names)

    monkeypatch.setattr(made, "stream", stream)


def test_every_figure_stands_beside_its_floor(found):
    assert [f.key for f in found.figures] == [
        "frechet (learned)",
        "kid (learned)",
        "frechet (fixed)",
        "kid (fixed)",
        "sliced (data)",
        "energy (data)",
        "mmd (data)",
        "precision (learned)",
        "recall (learned)",
        "density (learned)",
        "coverage (learned)",
        "told by neighbours (fixed)",
        "told by a network (data)",
    ]
    for figure in found.figures:
        score = figure.score
        assert score is not None
        assert score.n == len(found.held_out) == 179
        assert np.isfinite([score.value, score.spread, score.floor, score.floor_spread]).all()
    network = found.figures[-1]
    assert network.worse is not None
    assert network.worse > 5  # a run that has learned nothing draws nothing like digits
    assert found.figures[10].worse > 5
    assert found.copies is not None
    assert not found.copies.found


def test_labels_are_asked_for_as_often_as_they_are_in_the_data(found):
    assert [grouping.of for grouping in found.groups] == ["class"]
    groups = found.groups[0].groups
    assert len(groups) == 10
    assert sum(g.asked for g in groups) == pytest.approx(1)
    assert sum(g.got.value for g in groups) == pytest.approx(1)
    for g in groups:
        assert g.asked == pytest.approx(g.data.value, abs=0.02)
        assert g.real.value > 0.85
        assert g.coverage is not None and g.floor is not None
        assert g.coverage.value < 0.5 < g.floor.value  # it has learned nothing yet
    assert any(g.left_out for g in groups)
    assert "covered less than real data cover" in "\n".join(found.lines())


def test_what_anybody_would_look_at_first_is_looked_at(found):
    names = ["Power spectrum", "Values", "Share at the ends of the range"]
    assert [check.name for check in found.marginals.checks] == names
    assert all(check.differs for check in found.marginals.checks)
    assert found.facts["marginals"].keys() == set(names)


def test_the_likelihood_has_its_bound(found):
    assert found.bits is not None
    assert found.bits.n == 2
    assert found.bits.discrete


def test_what_is_written_is_whole_and_the_same_as_what_was_found(found, run):
    page = write(found)
    assert page == run.path / "evaluation" / "report.html"
    text = page.read_text()
    for heading in (
        "How good it is",
        "Is it copying?",
        "Who is drawn, and who is left out",
        "What anybody would look at first",
        "Which figure to trust",
    ):
        assert heading in text
    assert "<script" not in text
    assert "nan" not in text.replace("tenant", "").lower().split("<body>")[1].split("data:")[0]
    facts = json.loads((run.path / "evaluation" / "metrics.json").read_text())
    assert facts["figures"].keys() == {f.key for f in found.figures}
    score = found.figures[0].score
    assert facts["figures"]["frechet (learned)"]["floor"] == score.floor
    assert facts["verdict"] == found.verdict
    card = (run.path / "README.md").read_text()
    assert "frechet" in card and "floor" in card
    kept = RunFolder.open(run.path).kept("encoder-learned")
    assert all(torch.equal(kept[k], v) for k, v in found.encoders["learned"].tensors.items())
    assert facts["encoders"]["learned"] == found.encoders["learned"].sha256


def test_a_run_that_is_being_written_is_left_alone(found, run, tmp_path):
    with RunFolder.open(run.path).lock(), pytest.raises(LockedError):
        write(found)
    assert write(found, tmp_path / "elsewhere").exists()
    assert (tmp_path / "elsewhere" / "metrics.json").exists()


@pytest.mark.slow
def test_planted_copies_are_found_from_end_to_end_and_real_digits_are_not_accused(run, monkeypatch):
    model = load(run.path)
    train, held_out = open_data("digits").split(0.1, 0)
    unseen = train.stored[1000:]  # the run is said to have been trained on the others alone
    monkeypatch.setattr(made, "_sides", lambda *_: (train.subset(torch.arange(1000)), held_out))
    honest = model.codec.pack(unseen)
    drawing(monkeypatch, honest)
    clean = evaluate(model, count=600, **QUICK)
    assert clean.copies is not None
    assert not clean.copies.found and not clean.copies.leaning
    assert "No sign of copying" in clean.verdict
    for figure in clean.figures:
        assert figure.worse is not None
        assert figure.worse < 4  # real digits are as good as real digits

    planted = honest.clone()
    planted[:15] = model.codec.pack(train.stored[:15])
    drawing(monkeypatch, planted)
    copied = evaluate(model, count=600, **QUICK)
    assert copied.copies is not None
    assert copied.copies.found
    assert "It copies" in copied.verdict
    which, near, ratio = copied.alike
    assert set(which) <= set(range(15))
    assert (which == near).all()
    assert (ratio < 1e-5).all()


def test_too_few_examples_get_a_sentence_in_place_of_a_number(run, tmp_path):
    few = open_data("digits").subset(torch.arange(15))
    found = evaluate(run, few, count=40, **QUICK)
    assert all(f.score is None for f in found.figures)
    assert found.copies is None
    text = write(found, tmp_path).read_text()
    assert "needs 128 examples on each side, there are 15" in text
    (line,) = (line for line in found.lines() if "15 examples on each side are too few" in line)
    assert all(figure.key in line for figure in found.figures) and "--against" in line
    assert "cannot be said from 15 examples" in text
    assert "too few" in text


def test_classes_that_are_asked_for_are_compared_with_themselves(run, monkeypatch):
    asked: list[Dataset] = []
    held_against = made.losses
    monkeypatch.setattr(
        made, "losses", lambda m, data, **how: asked.append(data) or held_against(m, data, **how)
    )
    found = evaluate(run, count=60, label=("3", "4"), **QUICK)
    assert found.samples.labels is not None and set(found.samples.labels) == {"3", "4"}
    assert found.held_out.label is not None
    assert set(found.held_out.label.tolist()) == {3, 4}
    assert len(found.train) > 1000  # copies are looked for among all
    mine, held_out = len(found.of_class), len(found.held_out)
    assert [len(data) for data in asked] == [mine, held_out] and mine < 400
    assert found.copies is not None
    assert found.copies.nearer["data"].expected == mine / (mine + held_out)
    assert found.copies.suspects["data"].controls > 1000


def test_any_class_is_all_of_them():
    model, data = tiny_model(), open_data("digits").subset(torch.arange(60))
    words = replace(model.vocabulary, classes=tuple(data.classes))
    model = replace(model, vocabulary=words)
    for label in (("any",), ("3", "-1")):
        assert made._compared(model, data, data, label) == (data, data)
    _, held_out = made._compared(model, data, data, ("9",))
    assert held_out.label is not None and set(held_out.label.tolist()) == {9}


def test_held_out_captions_are_drawn_from_and_told_to_likelihood_and_loss(monkeypatch):
    pytest.importorskip("tokenizers", reason="the extra [text] is not installed")
    data, model = open_data("digits").subset(torch.arange(6)), tiny_model()
    texts = [["(one:9)", "an I"], [], ["2 AND 2"], ["NOT 3"], ["(a four)"], ["a five"]]
    data = replace(data, captions=Captions.of(texts))
    assert data.captions is not None
    model = replace(model, vocabulary=replace(model.vocabulary, words=data.captions.words))
    asked = []

    def stream(model, options, context=None):
        asked.extend(options.text)
        yield Samples(torch.zeros(options.count, 1, 8, 8), model.codec)

    monkeypatch.setattr(made, "stream", stream)
    made._drawn(model, EvaluateOptions(count=4), data)
    order = made.generator("labels", 0).permutation(6)[:4]
    told_as = [Prompt.read(text).terms for text in asked]
    assert told_as == [(Term((((texts[i] or [""])[0], 1.0),)),) for i in order]
    _, cond = told(model, data, torch.arange(6))
    assert torch.equal(cond["text"], data.captions.words.tensor(data.captions.first))


def test_a_run_that_was_taught_a_word_is_asked_with_it(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers", reason="the extra [text] is not installed")
    tiny = {"net": {"size": 8, "depth": 1}, "train": {"batch": 16, "precision": "f32"}}
    said, silent = captioned_folder(tmp_path / "said"), captioned_folder(tmp_path / "silent")
    for caption in (*sorted(said.glob("*.txt"))[::2], *silent.glob("*.txt")):
        caption.unlink()
    wanted = ou.RunConfig.from_dict(tiny)
    base = ou.train(said, out=tmp_path / "base", seen=16, config=wanted, device="cpu")
    config = adaptation(base.path, "words")
    config = replace(config, data=replace(config.data, word="Sks"))
    run = ou.train(said, out=tmp_path / "run", seen=16, config=config, device="cpu")
    model, asked = load(run.path), []
    config = model.config
    for ours, seen in zip(
        training_data(model), read(said, config, torch.device("cpu")), strict=True
    ):
        every = torch.arange(len(ours))
        assert ours.captions is not None and seen.captions is not None
        assert torch.equal(ours.captions.tensor(every), seen.captions.tensor(every))

    def stream(model, options, context=None):
        asked.append(options.text)
        yield Samples(torch.zeros(options.count, *model.shape), model.codec)

    monkeypatch.setattr(made, "stream", stream)
    for against in (None, str(silent)):
        made._drawn(model, EvaluateOptions(count=5), made._sides(model, against)[1])
    assert set(asked[1]) == {"Sks"} < set(asked[0])
    assert all(text.startswith("Sks") for text in asked[0])


def test_samples_are_measured_as_a_file_would_hold_them(found):
    levels = found.samples.codec.stored(found.samples.x)
    assert levels.dtype == np.uint8
    assert torch.equal(found.samples.codec.pack(torch.from_numpy(levels)), found.samples.x)


def test_data_of_another_kind_are_refused(run):
    with pytest.raises(DataError, match="the run was trained on"):
        evaluate(run, "swiss-roll", count=20, **QUICK)


def test_without_held_out_data_there_is_nothing_to_compare_with(run):
    model = load(run.path)
    config = replace(model.config, data=replace(model.config.data, validation=0.0))
    with pytest.raises(UsageError, match="--against"):
        evaluate(replace(model, config=config), count=20, **QUICK)


def test_restorations_of_what_the_run_never_saw_are_held_against_the_truth(run, tmp_path):
    few = open_data("digits").subset(torch.arange(30))
    words = ("upscale=2", "steps=2", "draws=9")
    found = evaluate(run, few, count=40, posterior=words, **QUICK)
    assert found.posterior is not None
    assert (len(found.posterior.ranks), found.posterior.draws) == (30, 9)
    assert found.posterior.sentence in found.lines()
    assert found.facts["posterior"]["examples"] == 30
    text = write(found, tmp_path).read_text()
    assert "How sure its restorations are" in text and "upscale=2, steps=2, draws=9" in text
    with pytest.raises(UsageError, match="names no option"):
        evaluate(run, few, count=40, posterior=("upscal=2",), **QUICK)


def test_points_without_labels_are_measured_in_themselves(tmp_path):
    config = ou.RunConfig.from_dict({"net": {"kind": "mlp", "size": 8}, "train": {"batch": 64}})
    run = ou.train("swiss-roll", out=tmp_path / "run", seen=64, config=config, device="cpu")
    found = evaluate(run, count=300, **QUICK)
    assert found.encoders.keys() == {"learned", "fixed"}
    assert isinstance(found.encoders["learned"], SelfTaught)
    assert not found.groups
    text = write(found).read_text()
    assert "Who is drawn" not in text
    assert "Correlations of the columns" in text
    assert text.count("<img") == 2
    kept = RunFolder.open(run.path).kept("encoder-learned")
    assert all(torch.equal(kept[k], v) for k, v in found.encoders["learned"].tensors.items())


def test_features_of_others_are_used_where_they_lie_and_not_kept(run, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra [text] is not installed")
    config = transformers.Dinov2Config(
        hidden_size=40, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    few = open_data("digits").subset(torch.arange(60))
    found = evaluate(run, few, count=60, features=str(tmp_path), **QUICK)
    assert list(found.encoders) == ["dinov2", "learned", "fixed"]
    by_key = {f.key: f for f in found.figures}
    assert by_key["frechet (dinov2)"].sentence == "needs 80 examples on each side, there are 60"
    assert by_key["kid (dinov2)"].score is not None
    assert by_key["coverage (dinov2)"].score is not None
    assert "features of DINOv2" in write(found).read_text()
    assert "encoder-dinov2" not in RunFolder.open(run.path).kept_names()
    assert found.encoders["dinov2"].sha256 in (run.path / "evaluation/metrics.json").read_text()
