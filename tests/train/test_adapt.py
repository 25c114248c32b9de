"""Going on from a run: what is learned, what stays, and what fits together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ornstein as ou
from ornstein.data import DataOptions, open_data
from ornstein.errors import DataError, UsageError
from ornstein.runs.adapters import parsed
from ornstein.runs.config import DistillConfig, NetConfig, RunConfig, TrainConfig
from ornstein.runs.folder import RunFolder
from ornstein.train.adapt import DRAWN, adaptation, drawn, in_words_of, options_of, recall
from ornstein.train.recipes import ahead
from ornstein.train.start import train
from ornstein.train.training import Training
from train.tiny import Looks, labelled_points, tiny_config

LEFT, RIGHT = -1.0, 1.0


def points(at=0.0, names=("left", "right"), count=200, seed=0):
    """Points in two heaps, each with a name."""
    rng = np.random.default_rng(seed)
    which = np.arange(count) % len(names)
    x = np.stack([3.0 * which + at, np.full(count, at)], 1) + 0.3 * rng.normal(size=(count, 2))
    return x, np.array(names)[which]


def learned(base, source, out, learn="low-rank", seen=1920, **options):
    config = adaptation(base.path, learn, **options)
    fields = {"learning_rate": 1e-2} if learn == "low-rank" else {}
    return train(
        source,
        out=out,
        seen=seen,
        config=replace(config, train=replace(config.train, **fields)),
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> RunFolder:
    out = tmp_path_factory.mktemp("base") / "heaps"
    return train(points(), out=out, config=tiny_config(size=32, depth=2, seen=9600))


@pytest.fixture(scope="module")
def moved(base, tmp_path_factory) -> RunFolder:
    """An adapter that moves both heaps by 2."""
    return learned(base, points(2.0), tmp_path_factory.mktemp("moved") / "moved", seen=4800)


def mean(model, **options):
    return ou.sample(model, 200, **options).arrays.mean(0)


# --- Low rank ------------------------------------------------------------------------------------


def test_an_adapter_draws_like_what_it_has_seen_and_half_of_it_half_way(base, moved):
    before, after = mean(base.path), mean(moved.path)
    assert np.abs(before - [1.5, 0.0]).max() < 0.4
    assert np.abs(after - [3.5, 2.0]).max() < 0.5
    half = mean(ou.load(base.path, adapters=[(moved.path, 0.5)]))
    assert (before + 0.2 < half).all() and (half < after - 0.2).all()


def test_an_adapter_holds_what_it_adds_and_no_more(base, moved):
    checkpoint = moved.latest()
    kinds = {name.rpartition(".")[2] for name in checkpoint.load("ema-0")}
    assert kinds == {"up", "down"} and set(checkpoint.parts) == {"model", "ema-0", "optimizer"}
    whole = ou.load(base.path).denoiser
    assert (
        moved.identity["parameters"]
        == sum(v.numel() for v in checkpoint.load("ema-0").values())
        < 2 * sum(p.numel() for p in whole.parameters())
    )
    assert moved.identity["base"]["run"] == base.identity["id"]


def test_strength_zero_is_the_base_to_the_last_bit(base, moved):
    none = ou.load(base.path, adapters=[f"{moved.path}:0"])
    want, got = ou.sample(base.path, 8), ou.sample(none, 8)
    assert torch.equal(want.x, got.x)
    assert not torch.equal(want.x, ou.sample(moved.path, 8).x)


def test_its_own_folder_the_base_with_it_on_and_the_merged_run_draw_the_same(base, moved, tmp_path):
    own, on = ou.load(moved.path), ou.load(base.path, adapters=[moved.path])
    assert own.run.path == moved.path and on.run.path == base.path
    merged = ou.merge(base.path, [moved.path], out=tmp_path / "merged")
    want = ou.sample(own, 8).x
    for other in (on, merged.path, ou.merge(moved.path, out=tmp_path / "other").path):
        assert torch.equal(ou.sample(other, 8).x, want)
    assert "base" not in merged.identity and merged.identity["merged"] == [
        [moved.identity["id"], 1.0]
    ]


def test_the_weights_that_were_trained_are_those_that_are_drawn_with(base, moved):
    config = RunConfig.from_toml(moved.config_toml)
    data = in_words_of(ou.load(base.path), open_data(points(2.0), config.data), config.adapt)
    training = Training(config, data)
    training.restore(moved.latest())
    x, t = torch.randn(8, 2), torch.rand(8).double()
    beside = training.averages.learners[0](x, t)
    assert (beside - ou.load(moved.path).denoiser(x, t)).abs().max() < 1e-6


def test_a_stopped_adapter_goes_on_to_the_same_bits(base, tmp_path):
    config = adaptation(base.path, rank=2)
    config = replace(config, train=replace(config.train, seen=1920))
    data = points(2.0)
    whole = train(data, out=tmp_path / "whole", config=config)
    part = train(data, out=tmp_path / "part", config=config, stop=Looks(60))
    assert 0 < part.latest().seen < 1920
    part = train(data, out=part.path, resume=True)
    for name in ("model", "ema-0", "optimizer"):
        one, other = whole.latest().load(name), part.latest().load(name)
        assert all(torch.equal(one[key], other[key]) for key in one)


# --- Words ---------------------------------------------------------------------------------------


def test_a_new_word_alone_leaves_all_that_was_drawn_before_to_the_last_bit(base, tmp_path):
    heap = points(0.0, ["left", "right"])[0][1::2], ["far"] * 100
    run = learned(base, heap, tmp_path / "far", "words", seen=4800, like="left")
    assert set(run.latest().load("ema-0")) == {"net.inputs.label.new"}
    model = ou.load(base.path, adapters=[run.path])
    assert model.vocabulary.classes == ("left", "right", "far")
    for label in ("left", "right", "any"):
        assert torch.equal(ou.sample(base.path, 8, label).x, ou.sample(model, 8, label).x)
    assert mean(model, label="far")[0] > mean(model, label="left")[0] + 1.5


def test_two_new_words_stand_side_by_side_and_the_same_one_twice_is_refused(base, tmp_path):
    runs = [
        learned(base, (points()[0], [name] * 200), tmp_path / name, "words", seen=64)
        for name in ("up", "down")
    ]
    both = ou.load(base.path, adapters=[run.path for run in runs])
    assert both.vocabulary.classes == ("left", "right", "up", "down")
    with pytest.raises(UsageError, match="brings the word 'up', which is there already"):
        ou.load(runs[0].path, adapters=[runs[0].path])


def test_what_is_not_to_be_forgotten_is_half_of_what_is_seen_and_drawn_once(base, tmp_path):
    config = adaptation(base.path, rank=2, like="left")
    five = (points(5.0)[0][:5], ["far"] * 5)
    run = train(five, out=tmp_path / "five", seen=320, config=config)
    kept = run.kept("remembered")["stored"]
    assert torch.equal(kept, drawn(ou.load(base.path), "left", config.seed))
    data = in_words_of(ou.load(base.path), open_data(five, config.data), config.adapt)
    data = recall(config, data, run)
    assert len(data) == 2 * DRAWN and torch.equal(data.stored[DRAWN:], kept)
    assert data.label.tolist() == [2] * DRAWN + [0] * DRAWN


def test_a_class_is_told_by_its_number_too_and_any_is_none(base):
    config = adaptation(base.path, like="1")
    assert config.adapt.like == "right"
    model = ou.load(base.path)
    both = recall(config, in_words_of(model, open_data(points(count=8)), config.adapt))
    assert (both.label[len(both) // 2 :] == 1).all()
    with pytest.raises(UsageError, match="--like any is no class: name one, as left"):
        adaptation(model, like="any")


def test_an_adapter_is_not_gone_on_from(base, moved):
    with pytest.raises(UsageError, match=r"moved is an adapter: go on from its base, .*heaps"):
        adaptation(moved.path)


def test_one_word_for_all_examples_makes_them_a_class():
    data = open_data(points(), DataOptions(word="sks"))
    assert data.classes == ["sks"] and not data.label.any()
    assert data.fingerprint != open_data(points()).fingerprint


# --- All weights ---------------------------------------------------------------------------------


def test_all_weights_go_on_from_the_base_with_classes_kept_by_name(base, tmp_path):
    data = points(0.0, ["right", "new"])
    config = adaptation(base.path, "all")
    training = Training(config, in_words_of(ou.load(base.path), open_data(data), config.adapt))
    assert training.data.classes == ["left", "right", "new"]
    assert training.data.label[:4].tolist() == [1, 2, 1, 2]
    was, now = ou.load(base.path).denoiser.state_dict(), training.denoiser.state_dict()
    table = "net.inputs.label.weight"
    assert all(torch.equal(was[name], now[name]) for name in was if name != table)
    assert torch.equal(now[table][:2], was[table])
    assert torch.allclose(now[table][2], was[table].mean(0))
    run = train(data, out=tmp_path / "on", seen=32, config=config)
    assert ou.load(run.path).vocabulary.classes == ("left", "right", "new")
    assert "base" in run.identity and "net.last.weight" in run.latest().load("ema-0")


def test_all_weights_can_learn_to_predict_something_else(base, tmp_path):
    """Begun as they are, though what they say means another thing; and back where they were."""
    config = adaptation(base.path, "all", predict="flow")
    assert (config.denoiser.prediction, config.denoiser.weighting) == ("flow", "flow")
    data = in_words_of(ou.load(base.path), open_data(points()), config.adapt)
    was, now = ou.load(base.path).denoiser.state_dict(), Training(config, data).denoiser
    assert all(torch.equal(was[name], value) for name, value in now.state_dict().items())
    run = learned(base, points(), tmp_path / "flow", "all", seen=6400, predict="flow")
    assert np.abs(mean(run.path) - [1.5, 0.0]).max() < 0.4
    with pytest.raises(UsageError, match=r"\[denoiser\] must be as in"):
        loss = replace(config.denoiser, uncertainty=True)
        Training(replace(config, denoiser=loss), data)


def test_a_student_of_a_run_that_went_on_begins_as_its_teacher(base, tmp_path):
    config = adaptation(base.path, "all")
    run = train(points(), out=tmp_path / "on", seen=32, config=config)
    teacher, distill = ou.load(run.path), DistillConfig(method="flow-map", teacher=str(run.path))
    student = replace(ahead(teacher.config, "flow-map"), distill=distill)
    data = in_words_of(ou.load(base.path), open_data(points()), config.adapt)
    own, was = Training(student, data).denoiser.state_dict(), teacher.denoiser.state_dict()
    assert own.keys() > was.keys() and all(torch.equal(own[name], was[name]) for name in was)


def test_new_data_are_seen_in_the_units_of_the_base(base):
    model, config = ou.load(base.path), adaptation(base.path)
    data = in_words_of(model, open_data(points(2.0)), config.adapt)
    assert data.codec == model.codec
    assert (data.batch(torch.arange(200))[0].mean(0) > 0.5).all()


# --- Texts ---------------------------------------------------------------------------------------


def test_a_new_word_of_texts_is_a_piece_of_its_own_and_all_that_is_learned(tmp_path):
    config = RunConfig(
        data=DataOptions(limit=32),
        net=NetConfig(size=8, depth=1),
        train=TrainConfig(seen=64, batch=32, precision="f32"),
    )
    base = train("scenes", out=tmp_path / "base", config=config)
    config = adaptation(base.path, "words", like="square")
    config = replace(config, data=replace(config.data, word="sks"))
    run = train(np.zeros((4, 32, 32, 3), np.uint8), out=tmp_path / "sks", seen=64, config=config)
    (table,) = run.latest().load("ema-0")
    assert table == "net.inputs.text.word.new"
    one, other = ou.load(base.path), ou.load(base.path, adapters=[run.path])
    words = other.vocabulary.words
    assert words.added == ("sks",) and words.pieces("sks") == [len(one.vocabulary.words)]
    for text in ("a small red square", ""):
        want, got = (ou.sample(model, 2, text=text).x for model in (one, other))
        assert torch.equal(want, got)
    assert not torch.equal(ou.sample(other, 2, text="sks").x, ou.sample(one, 2, text="sks").x)


# --- Refusals ------------------------------------------------------------------------------------


def test_an_adapter_of_another_run_is_refused_and_both_are_named(base, moved, tmp_path):
    other = train(points(), out=tmp_path / "other", config=tiny_config(32, 2, seed=1, seen=32))
    with pytest.raises(UsageError, match=f"{base.path} at 9600 .* not on {other.path} at 32"):
        ou.load(other.path, adapters=[moved.path])
    with pytest.raises(UsageError, match="is a whole run, no adapter"):
        ou.load(base.path, adapters=[other.path])


def test_a_base_that_is_gone_is_named(base, tmp_path):
    gone = tmp_path / "gone"
    other = train(points(), out=gone, config=tiny_config(8, seen=32))
    run = learned(other, points(), tmp_path / "adapter", seen=32)
    gone.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"gone, the base of .*adapter, is no longer there"):
        ou.load(run.path)
    assert ou.load(tmp_path / "elsewhere", adapters=[run.path]).seen == 32


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"targets": ["attention"]}, r"targets: expected .*blocks.*, got 'attention'"),
        ({"learn": "control"}, "draws points, not pictures: it takes no control branch"),
        ({"like": "middle"}, "no class 'middle' in this run; there are: left, right"),
        ({"learn": "words"}, "holds no class that .* does not know: name a new one with --word"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_what_can(base, tmp_path, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        learned(base, points(), tmp_path / "none", seen=32, **options)


def test_data_of_another_shape_are_refused_and_both_are_named(base):
    with pytest.raises(DataError, match=r"holds \(3,\) of float64, but .*heaps draws \(2,\)"):
        in_words_of(ou.load(base.path), open_data(np.zeros((8, 3))), adaptation(base.path).adapt)


def test_another_network_than_the_base_has_is_refused(base, tmp_path):
    config = replace(adaptation(base.path), net=NetConfig(kind="mlp", size=64))
    with pytest.raises(UsageError, match=r"\[net\] must be as in .*heaps: leave it out"):
        train(points(), out=tmp_path / "none", seen=32, config=config)


def test_a_run_without_labels_hears_no_words(tmp_path):
    run = train("swiss-roll", out=tmp_path / "plain", config=tiny_config(8, seen=32))
    config = adaptation(run.path)
    config = replace(config, data=replace(config.data, word="sks"))
    with pytest.raises(UsageError, match="trained without labels: it hears no new words"):
        train("swiss-roll", out=tmp_path / "none", seen=32, config=config)
    data = in_words_of(ou.load(run.path), labelled_points(), config.adapt)
    assert data.label is None and not data.classes


@pytest.mark.parametrize(
    "text, place, strength",
    [("a", "a", 1.0), ("a:0.5", "a", 0.5), ("a:-1", "a", -1.0), ("c:/a", "c:/a", 1.0)],
)
def test_an_adapter_is_named_with_its_strength(text, place, strength):
    assert parsed(text) == (type(parsed(text)[0])(place), strength)


@pytest.mark.parametrize("text", ["a:nan", "a:1000", ("a", float("inf"))])
def test_a_strength_beyond_all_use_is_refused(text):
    with pytest.raises(UsageError, match="must lie in"):
        parsed(text)


# --- Control -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> RunFolder:
    config = RunConfig(
        data=DataOptions(limit=200),
        net=NetConfig(size=8, depth=1),
        train=TrainConfig(seen=3200, batch=32, precision="f32"),
    )
    return train("digits", out=tmp_path_factory.mktemp("digits") / "digits", config=config)


def test_a_control_branch_leaves_the_base_alone_where_nothing_is_given(pictures, tmp_path):
    config = adaptation(pictures.path, "control")
    config = replace(config, data=replace(config.data, given="edges"))
    run = train("digits", out=tmp_path / "edges", seen=640, config=config)
    assert {name.split(".")[1] for name in run.latest().load("ema-0")} == {"branch", "out"}
    model = ou.load(pictures.path, adapters=[run.path])
    assert torch.equal(ou.sample(pictures.path, 4).x, ou.sample(model, 4).x)
    lines = open_data("digits", config.data).given
    x, t = torch.randn(4, *model.shape), torch.full((4,), 0.5).double()
    context = lines.context(torch.arange(4), model.shape[1:])
    alone, told = model.denoiser(x, t), model.denoiser(x, t, context=context)
    assert (alone - told).abs().max() > 1e-3
    none = ou.load(pictures.path, adapters=[(run.path, 0.0)])
    assert torch.equal(none.denoiser(x, t, context=context), alone)
    with pytest.raises(UsageError, match="second control branch"):
        ou.load(run.path, adapters=[run.path])
    with pytest.raises(UsageError, match="cannot be merged"):
        ou.merge(run.path, out=tmp_path / "merged")
    with pytest.raises(UsageError, match="is a control branch: go on from its base"):
        adaptation(run.path)


def test_new_pictures_are_read_as_those_of_the_base_were(pictures):
    options = options_of(ou.load(pictures.path), DataOptions(limit=3))
    assert (options.size, options.channels, options.limit) == (8, 1, 3)


def test_a_branch_and_low_rank_go_together_in_any_order_with_new_words(pictures, tmp_path):
    config = adaptation(pictures.path, "control")
    config = replace(config, data=replace(config.data, given="sketch"))
    control = train("digits", out=tmp_path / "sketch", seen=64, config=config)
    config = adaptation(pictures.path, rank=2, like="3")
    config = replace(config, data=replace(config.data, word="sks"))
    style = train("digits", out=tmp_path / "style", seen=64, config=config)
    one = ou.load(pictures.path, adapters=[control.path, style.path])
    other = ou.load(pictures.path, adapters=[style.path, control.path])
    x, t = torch.randn(2, *one.shape), torch.full((2,), 0.5).double()
    cond = {"label": torch.tensor([10, 3]), "context": torch.randn(2, 1, 8, 8)}
    assert torch.equal(one.denoiser(x, t, **cond), other.denoiser(x, t, **cond))
