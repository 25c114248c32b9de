"""Asking a run in words."""

import re
import warnings

import pytest
import torch

import ornstein as ou
from ornstein.data import DataOptions
from ornstein.data.captions import Words
from ornstein.errors import Notice, UsageError
from ornstein.runs.config import NetConfig, RunConfig, SampleConfig, TrainConfig
from ornstein.runs.vocabulary import Vocabulary
from ornstein.tasks.asking import guided, warn_of_texts
from ornstein.tasks.options import DrawOptions, EditOptions
from ornstein.train.signals import Stop
from untrained import grey_codec, of_random_weights, tiny_model

WORDS = Words.learned(["a red 7 left of a blue square", "a green circle"] * 3)

LONG = "a red 7 left of a blue square, a green circle, a red 7"


@pytest.fixture(scope="module")
def model():
    config = RunConfig(net=NetConfig(size=8), sample=SampleConfig(steps=3))
    return of_random_weights(config, grey_codec((1, 8, 8)), Vocabulary(words=WORDS))


def test_texts_are_dealt_out_in_turn_and_each_is_heard(model):
    both = ou.sample(model, 4, text=["a red 7", "a green circle"]).x
    red, green, none = (
        ou.sample(model, 4, text=text).x for text in ("a red 7", "a green circle", None)
    )
    assert torch.equal(both[::2], red[::2]) and torch.equal(both[1::2], green[1::2])
    for a, b in ((red, green), (red, none)):
        assert (a - b).flatten(1).abs().amax(1).min() > 1e-3


def test_an_example_does_not_depend_on_which_others_are_drawn(model):
    texts = ["a red 7", "a (red:2) 7 AND a square", "a green circle AND NOT a 7"]
    all_ = ou.sample(model, 6, text=texts, guidance=2).x
    one = ou.sample(model, text=texts, guidance=2, examples="4-4").x
    assert torch.equal(all_[4:5], one)


def test_guidance_emphasis_negatives_and_composition_each_change_what_is_drawn(model):
    plain = ou.sample(model, 2, text="a red 7").x
    others = [
        {"text": "a red 7", "guidance": 3},
        {"text": "a (red:3) 7"},
        {"text": "a red 7", "guidance": 3, "negative": "a green circle"},
        {"text": "a red 7", "guidance": 3, "guidance_parallel": 0.0},
        {"text": "a red 7", "guidance": 3, "guidance_rescale": 1.0},
        {"text": "a red 7 AND a green circle"},
        {"text": "a red 7 AND NOT a green circle"},
        {"text": "a red 7 AND a green circle", "guidance": 3},
        {"text": "a red 7 AND a green circle", "guidance": 3, "guidance_parallel": 0.0},
    ]
    drawn = [plain] + [ou.sample(model, 2, **options).x for options in others]
    for i, a in enumerate(drawn):
        assert all((a - b).abs().max() > 1e-4 for b in drawn[:i])


def test_a_text_with_itself_as_the_negative_is_not_guided(model):
    plain = ou.sample(model, 2, text="a red 7").x
    same = ou.sample(model, 2, text="a red 7", negative="a red 7", guidance=5).x
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"text": ("a",), "negative": "a AND b"}, "--negative is one text"),
        ({"guidance": 2.0}, "needs a label, a text"),
        ({"text": ("a",), "negative": "a 7"}, "a weight of 1 is no guidance"),
        ({"text": ("a",), "guidance_rescale": 0.5}, "there is none: say --guidance 3 too"),
        ({"text": ("a",), "guidance": 1.0, "guidance_interval": (0.0, 1.0)}, "say --guidance 3"),
        ({"guidance_parallel": 0.0}, "say what to go to by --label"),
    ],
)
def test_what_does_not_go_together_is_refused(model, options, said):
    with pytest.raises(UsageError, match=said):
        guided(model, DrawOptions(**options))


def test_a_label_that_is_any_gives_guidance_nothing_to_go_to():
    model = tiny_model()
    with pytest.raises(UsageError, match="needs a label"):
        guided(model, DrawOptions(label=("any",), guidance=2.0))
    assert guided(model, DrawOptions(label=("any", "bee"), guidance=2.0)) is not model.denoiser
    assert guided(model, DrawOptions(label=("any",))) is model.denoiser


def test_a_run_without_captions_refuses_texts():
    with pytest.raises(UsageError, match="without captions"):
        ou.sample(tiny_model(), 1, text="a 7")


@pytest.mark.parametrize(
    "options",
    [
        DrawOptions(text=("a 7", LONG)),
        DrawOptions(text=("a 7",), negative=LONG),
        DrawOptions(text=(f"a 7 AND NOT {LONG}",)),
        EditOptions(text=("a 7",), source=LONG, how="encode"),
        EditOptions(from_text="a 7", to_text=LONG),
        EditOptions(from_text=LONG, to_text="a 7"),
    ],
)
def test_what_is_left_unread_of_any_text_is_said(model, options):
    rest = WORDS.unread(LONG)
    assert LONG.endswith(rest)
    with pytest.warns(Notice, match=re.escape(f"left out: {rest!r}.")) as said:
        warn_of_texts(model, options)
    assert len(said) == 1


def test_words_that_no_caption_had_are_named_once(model):
    options = EditOptions(text=("a cyan 7 AND NOT a (7:1.4) of teal",), source="a red 7")
    with pytest.warns(Notice) as said:
        warn_of_texts(model, options)
    told = [str(warning.message).partition(":")[0] for warning in said]
    assert told == [f"No two captions of the run had {word}" for word in ("'cyan'", "'teal'")]


def test_every_verb_that_draws_says_it_and_is_silent_of_what_is_read(model):
    stored = torch.randint(0, 17, (1, 1, 8, 8), dtype=torch.uint8)
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[2:5] = True
    verbs = [
        lambda text: ou.sample(model, 1, text="a 7", guidance=2, negative=text),
        lambda text: ou.edit(model, stored, text=text, steps=2),
        lambda text: ou.edit(model, stored, how="encode", source=text, steps=2, guidance=1),
        lambda text: ou.restore(model, stored, hole, text=text, draws=1, steps=1),
    ]
    for verb in verbs:
        with pytest.warns(Notice, match="longer than what is read of it"):
            verb(LONG)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Notice)
            verb("a red 7")


@pytest.mark.slow
def test_a_training_on_captions_goes_on_as_if_it_had_never_stopped(tmp_path):
    data = DataOptions(limit=16)
    train = TrainConfig(seen=24, batch=4, precision="f32", ema=(0.1,))
    config = RunConfig(source="scenes", data=data, net=NetConfig(size=8, depth=1), train=train)
    whole = ou.train("scenes", out=tmp_path / "whole", config=config)
    stop = Stop()

    def halfway(progress):
        if progress.seen >= 8:
            stop.set()

    ou.train("scenes", out=tmp_path / "twice", config=config, report=halfway, stop=stop)
    twice = ou.train(out=tmp_path / "twice", resume=True)
    ends = [run.latest().load("model") for run in (whole, twice)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert ou.load(twice.path).vocabulary.words == ou.load(whole.path).vocabulary.words
    assert ou.sample(twice.path, 2, text="a red 7", steps=2).x.isfinite().all()
