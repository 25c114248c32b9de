"""Runs of pairs: what they are given, and runs in a row."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein.cli import run_command
from ornstein.data.captions import Words
from ornstein.data.given import fitted
from ornstein.errors import UsageError
from ornstein.rng import generator
from ornstein.runs.checkpoint import WEIGHTS
from ornstein.runs.folder import RunFolder
from ornstein.runs.vocabulary import Vocabulary
from ornstein.tasks.options import SampleOptions
from ornstein.tasks.sample import cascade, sample, stream
from untrained import CLASSES, of_random_weights, tiny_model

BASE = tiny_model(shape=(1, 4, 4))
FINE = tiny_model(shape=(1, 8, 8), given=(1, 4, 4), given_noise=0.5)
FINER = tiny_model(shape=(1, 12, 12), given=(1, 8, 8))


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of 4 x 4, dark and bright."""
    for name, value in (("a", 0), ("b", 255)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_what_is_given_is_dealt_out_in_turn_and_counts(pictures):
    both = sample(FINE, 4, given=pictures).x
    dark = sample(FINE, 4, given=[pictures / "a.png"]).x
    bright = sample(FINE, 4, given=pictures / "b.png").x
    assert torch.equal(both[0::2], dark[0::2]) and torch.equal(both[1::2], bright[1::2])
    assert not torch.equal(dark, bright)
    assert not torch.equal(dark, sample(FINE, 4).x)


def test_a_cascade_gives_to_each_run_what_the_one_before_drew():
    options = SampleOptions(count=70, label=CLASSES)
    drawn = torch.cat([part.x for part in cascade([BASE, FINE], options)])
    low = sample(BASE, 70, CLASSES)
    told = fitted(FINE.given.pack(torch.from_numpy(low.codec.stored(low.x))), (8, 8))
    [*parts] = cascade([BASE, FINE], SampleOptions(examples="66-67", label=CLASSES))
    assert torch.equal(torch.cat([p.x for p in parts]), drawn[66:68])
    assert parts[0].first == 66
    changed = told.clone()
    changed[3] += 1

    def again(context):
        given = SampleOptions(count=70, label=CLASSES, seed=5)
        return next(stream(FINE, given, context=lambda i: context[torch.tensor(i)])).x

    differ = (again(told) != again(changed)).flatten(1).any(1)
    assert differ.nonzero().flatten().tolist() == [3]


def test_a_cascade_may_be_longer_and_each_run_draws_noise_of_its_own():
    [part] = cascade([BASE, FINE, FINER], SampleOptions(count=2))
    assert part.x.shape == (2, 1, 12, 12)
    same = tiny_model(shape=(1, 8, 8), given=(1, 8, 8))
    alone = sample(tiny_model(), 2, steps=1, sampler="euler").x
    [part] = cascade([tiny_model(), same], SampleOptions(count=2, steps=1, sampler="euler"))
    assert not torch.equal(part.x, alone)


def test_python_takes_a_list_of_runs():
    drawn = sample([BASE, FINE], 3, label="bee", attributes={"age": 30.0})
    assert drawn.x.shape == (3, 1, 8, 8) and drawn.labels == ("bee",) * 3


def reader(shape, given=None, text="a red 7 left of a blue square"):
    """A model that reads texts, and nothing else but what it is given."""
    model = tiny_model(shape=shape, given=given, given_noise=0.5 if given else 0.0)
    words = Vocabulary(words=Words.learned([text] * 3), context=given[0] if given else 0)
    return of_random_weights(model.config, model.codec, words, model.given)


FIRST, SECOND = reader((1, 4, 4)), reader((1, 8, 8), (1, 4, 4))
ASKED = {"text": ["a red 7", "a blue square"], "seed": 7}


def test_a_text_goes_to_every_run_of_a_cascade_that_reads():
    """Each run alone, asked the same, of the noise that the cascade gives it."""
    drawn = sample([FIRST, SECOND], 4, **ASKED)
    low = sample(FIRST, 4, **ASKED)
    told = fitted(SECOND.given.pack(torch.from_numpy(low.codec.stored(low.x))), (8, 8))

    def second(seed, **asked):
        options = SampleOptions(count=4, seed=seed, **asked)
        return next(stream(SECOND, options, context=lambda i: told[torch.tensor(i)])).x

    seed = int(generator("cascade", 7).integers(2**62))
    texts = tuple(ASKED["text"])
    assert torch.equal(drawn.x, second(seed, text=texts))
    assert not torch.equal(drawn.x, second(seed))
    assert not torch.equal(drawn.x, second(seed, text=texts[::-1]))
    one = sample([FIRST, SECOND], examples="3-3", **ASKED)
    torch.testing.assert_close(one.x, drawn.x[3:], rtol=0, atol=1e-5)


def test_a_run_that_does_not_read_follows_one_that_does():
    drawn = sample([FIRST, FINE], 2, text="a red 7", guidance=3.0)
    other = sample([FIRST, FINE], 2, text="a blue square", guidance=3.0)
    assert drawn.x.shape == (2, 1, 8, 8) and not torch.equal(drawn.x, other.x)


def test_guidance_is_of_the_first_run_of_a_cascade():
    guided = {"guidance": 3.0, "negative": "a blue square", "guidance_rescale": 0.5}
    low = sample(FIRST, 2, text="a red 7", **guided)
    given = SECOND.given.pack(torch.from_numpy(low.codec.stored(low.x)))
    options = SampleOptions(
        count=2, text=("a red 7",), seed=int(generator("cascade", 0).integers(2**62))
    )
    context = fitted(given, (8, 8))
    alone = next(stream(SECOND, options, context=lambda i: context[torch.tensor(i)])).x
    assert torch.equal(sample([FIRST, SECOND], 2, text="a red 7", **guided).x, alone)


def test_with_a_weight_for_each_run_all_that_is_said_of_guidance_goes_to_each():
    shaped = {"negative": "a blue square", "guidance_rescale": 0.5}
    low = sample(FIRST, 2, text="a red 7", guidance=5.0, **shaped)
    given = fitted(SECOND.given.pack(torch.from_numpy(low.codec.stored(low.x))), (8, 8))
    options = SampleOptions(
        count=2,
        text=("a red 7",),
        seed=int(generator("cascade", 0).integers(2**62)),
        guidance=2.0,
        **shaped,
    )
    alone = next(stream(SECOND, options, context=lambda i: given[torch.tensor(i)])).x
    drawn = sample([FIRST, SECOND], 2, text="a red 7", guidance=[5, 2], **shaped).x
    assert torch.equal(drawn, alone)
    with pytest.raises(UsageError, match=r"guidance = 5 2 1: give one weight, .* or 2"):
        sample([FIRST, SECOND], 2, text="a red 7", guidance=(5, 2, 1))
    with pytest.raises(UsageError, match=r"give one weight\.$"):
        sample(FIRST, 2, text="a red 7", guidance=(5, 2))


def test_what_shapes_guidance_passes_by_the_runs_that_have_none():
    asked = {"text": "a red 7", "steps": 1, "sampler": "euler"}
    shaped = {"guidance_rescale": 0.5, "guidance_parallel": 0.5, "guidance_interval": (-9.0, 9.0)}
    for weights in ((1, 3), (3, 1)):
        plain = sample([FIRST, SECOND], 1, guidance=weights, **asked).x
        assert not torch.equal(
            plain, sample([FIRST, SECOND], 1, guidance=weights, **asked, **shaped).x
        )


def test_weights_go_down_a_row_of_three_and_the_negative_text_to_those_that_read():
    asked = {"text": "a red 7", "steps": 1, "sampler": "euler"}
    runs = [FIRST, SECOND, FINER]
    plain, first, third = (
        sample(runs, 1, guidance=weights, **asked).x for weights in (1.0, (1, 1, 1), (1, 1, 3))
    )
    assert torch.equal(plain, first) and not torch.equal(plain, third)
    one, other = (
        sample(runs, 1, guidance=(1, 1, 3), negative=text, **asked).x for text in (None, "a red")
    )
    assert torch.equal(one, other)  # the last does not read, and of the others none is guided


def test_a_cascade_of_texts_takes_noise_in_what_is_given_and_thresholds():
    options = {"given_noise": 0.3, "threshold": 0.95, "guidance": 30.0, "text": "a red 7"}
    options |= {"steps": 2, "sampler": "euler"}
    drawn = sample([FIRST, SECOND], 4, **options).x
    low, high = SECOND.codec.range
    assert low.min() - 1e-5 <= drawn.min() and drawn.max() <= high.max() + 1e-5
    assert not torch.equal(drawn, sample([FIRST, SECOND], 4, **options | {"given_noise": 0.0}).x)


def kept(model, place):
    """A run folder of a model, as a training would leave it."""
    identity = {
        "codec": model.codec.to_dict(),
        "given": model.given and model.given.to_dict(),
        "vocabulary": asdict(model.vocabulary),
    }
    folder = RunFolder.create(place, config_toml=model.config.to_toml(), identity=identity)
    with folder.lock():
        folder.save(1, {WEIGHTS: model.denoiser.state_dict()}, {})
    return str(place)


def test_one_command_draws_a_cascade_of_texts_and_says_what_was_not_read(tmp_path, capsys):
    short = reader((1, 8, 8), (1, 4, 4), text="a 7")
    base, sharp = kept(FIRST, tmp_path / "base"), kept(short, tmp_path / "sharp")
    text = "a red 7 left of a blue square"
    command = ["sample", base, sharp, "--guidance", "5", "2", "--text", text, "-n", "2"]
    assert run_command([*command, "--seed", "3", "--out", str(tmp_path / "drawn")]) == 0
    assert capsys.readouterr().err.count("longer than what is read of it; left out") == 1
    drawn = sample([FIRST, short], 2, text=text, seed=3, guidance=(5, 2)).save(tmp_path / "again")
    for path in drawn:
        one, other = (np.asarray(Image.open(tmp_path / f / path.name)) for f in ("drawn", "again"))
        assert np.array_equal(one, other)


def test_a_cascade_whose_sizes_do_not_chain_is_refused_and_both_are_named(tmp_path, capsys):
    base, finer = kept(FIRST, tmp_path / "base"), kept(FINER, tmp_path / "finer")
    assert run_command(["sample", base, finer, "--text", "a red 7"]) == 2
    said = capsys.readouterr().err
    assert "base draws (1, 4, 4) of uint8, but " in said
    assert "finer is given (1, 8, 8) of uint8" in said


def test_noise_in_what_is_given_is_told_and_belongs_to_the_example():
    options = {"given_noise": 0.4, "label": "ant"}
    whole = sample([BASE, FINE], 6, **options).x
    assert torch.equal(whole[4:], sample([BASE, FINE], examples="4-5", **options).x)
    assert not torch.equal(whole, sample([BASE, FINE], 6, label="ant").x)


@pytest.mark.parametrize(
    ("runs", "options", "words"),
    [
        ([BASE, BASE], {}, "not trained on pairs"),
        ([FINE, FINE], {}, r"draws \(1, 8, 8\) of uint8, but .* is given \(1, 4, 4\)"),
        ([BASE], {"given": "x.png"}, "not trained on pairs"),
        ([tiny_model(), FINER], {"given_noise": 0.1}, "not trained with noise"),
    ],
)
def test_what_does_not_chain_is_refused(runs, options, words):
    with pytest.raises(UsageError, match=words):
        sample(runs, 2, **options)


def test_thresholding_keeps_estimates_in_the_range_of_the_data():
    model = tiny_model()
    low, high = model.codec.range
    wild = sample(model, 8, "bee", guidance=50, steps=2, sampler="euler").x
    tame = sample(model, 8, "bee", guidance=50, steps=2, sampler="euler", threshold=0.99).x
    assert wild.min() < low.min() and wild.max() > high.max()
    assert low.min() - 1e-5 <= tame.min() and tame.max() <= high.max() + 1e-5
    with pytest.raises(UsageError, match="range is known"):
        sample(tiny_model("mlp"), 2, threshold=0.9)
