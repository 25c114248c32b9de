"""Sampling: what an example depends on, and what the options mean."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein.errors import UsageError
from ornstein.runs.config import RunConfig
from ornstein.runs.folder import RunFolder
from ornstein.runs.provenance import read_stamp
from ornstein.tasks.asking import label_names
from ornstein.tasks.options import AdaptOptions, SampleOptions, checked
from ornstein.tasks.picture import write_picture
from ornstein.tasks.sample import block, sample, stream
from untrained import CLASSES, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("kind", ["unet", "dit", "mlp"])
@pytest.mark.parametrize("sampler", ["adams-bashforth", "ddpm"])
def test_an_example_does_not_depend_on_how_many_are_drawn(kind, sampler):
    model = tiny_model(kind)
    one, seven, many = (
        sample(model, n, CLASSES, sampler=sampler, guidance=2.0).x for n in (1, 7, 64 + 7)
    )
    assert many.std() > 0.1
    assert torch.equal(one, many[:1])
    assert torch.equal(seven, many[:7])
    last = sample(model, label=CLASSES, sampler=sampler, guidance=2.0, examples="64-70")
    assert torch.equal(last.x, many[64:])


def test_nothing_is_kept_for_gradients_while_drawing_and_what_is_drawn_may_have_some(model):
    seen = list[bool]()
    look = model.denoiser.register_forward_hook(
        lambda *_: seen.append(torch.is_inference_mode_enabled())
    )
    try:
        drawn = sample(model, 2, steps=3).x
    finally:
        look.remove()
    assert seen == [True] * 3
    weight = torch.ones((), requires_grad=True)
    (weight * drawn).sum().backward()
    assert weight.grad == drawn.sum()


@pytest.mark.parametrize(("size", "expected"), [(8, 64), (32, 8), (128, 1)])
def test_large_examples_are_drawn_one_by_one_and_small_ones_together(size, expected):
    assert block(tiny_model(shape=(1, size, size))) == expected


def test_a_range_of_examples_is_that_part_of_the_whole(model):
    whole = sample(model, 16, CLASSES)
    part = sample(model, label=CLASSES, examples="8-15")
    assert torch.equal(part.x, whole.x[8:])
    assert part.labels == whole.labels[8:]
    assert part.first == 8


def test_examples_and_seeds_differ(model):
    x = sample(model, 4).x
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(x, sample(model, 4, seed=1).x)
    assert torch.equal(x, sample(model, 4, seed=0).x)


def test_labels_are_dealt_out_in_turn(model):
    dealt = sample(model, 5, ["bee", 0])
    assert dealt.labels == ("bee", "ant", "bee", "ant", "bee")
    assert torch.equal(dealt.x[2], sample(model, 5, "bee").x[2])
    assert not torch.equal(dealt.x[1], sample(model, 5, "bee").x[1])


def test_any_label_is_no_label(model):
    assert torch.equal(sample(model, 2, "any").x, sample(model, 2).x)
    options = checked(SampleOptions, {"label": "any"})
    assert label_names(model, options, range(2)) == ("any", "any")


@pytest.mark.parametrize(
    ("kind", "option", "value", "words"),
    [
        (SampleOptions, "count", 0, r"count \(-n\) = 0: it must be greater"),
        (SampleOptions, "steps", 0, r"steps = 0: it must be greater"),
        (AdaptOptions, "base", "", r"base \(--from\) = ''"),
    ],
)
def test_an_option_out_of_bounds_is_called_what_one_may_have_typed(kind, option, value, words):
    with pytest.raises(UsageError, match=words):
        checked(kind, {option: value})


def test_attributes_are_in_their_own_units(model):
    old, young = (sample(model, 2, attributes={"age": a}).x for a in (60.0, 20.0))
    assert not torch.equal(old, young)
    with pytest.raises(UsageError, match="no attribute 'height'"):
        sample(model, 2, attributes={"height": 1.0})


def test_guidance_acts_between_its_bounds_and_one_is_none(model):
    plain = sample(model, 2, "ant", guidance=1.0).x
    assert torch.equal(plain, sample(model, 2, "ant").x)
    assert not torch.equal(plain, sample(model, 2, "ant", guidance=3.0).x)
    nowhere = sample(model, 2, "ant", guidance=3.0, guidance_interval=(50.0, 51.0)).x
    assert torch.equal(plain, nowhere)


def test_steps_grid_and_sampler_are_the_runs_unless_given(model):
    seen = []
    sample(model, 3, on_step=lambda x, s: seen.append((x.shape, float(s))))
    assert [s for _, s in seen] == [0.75, 0.5, 0.25, 0.0]
    assert {shape for shape, _ in seen} == {(3, 1, 8, 8)}
    other = replace(model.config.sample, sampler="heun", steps=4)
    elsewhere = replace(model, config=replace(model.config, sample=other))
    assert torch.equal(sample(elsewhere, 2).x, sample(model, 2, sampler="heun").x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": "many"}, r"count \(-n\) = 'many'"),
        ({"seed": -1}, "seed = -1"),
        ({"steps": 0}, "steps = 0"),
        ({"guidance": float("nan"), "label": "ant"}, "guidance = nan"),
        ({"guidnce": 2}, "did you mean 'guidance'"),
        ({"sampler": "huen"}, "did you mean 'heun'"),
        ({"time_grid": "log"}, "time_grid = 'log'"),
        ({"time_grid": "stride", "steps": 2000}, r"\[1, 1000\]"),
        ({"guidance": 2.0}, "needs a label"),
        ({"guidance_interval": (1.0, 1.0)}, "from low to high"),
        ({"guidance_interval": (0.0, 1.0)}, "there is none: say what to go to"),
        ({"given_noise": 0.1}, "--given-noise is for what is --given"),
        ({"label": "dog"}, "ant, bee, cat"),
        ({"label": []}, "label"),
        ({"examples": "15-8"}, "8-15"),
        ({"examples": "all"}, "8-15"),
    ],
)
def test_a_mistake_is_named(model, options, words):
    with pytest.raises(UsageError, match=words):
        sample(model, **options)


def test_samples_come_in_the_units_and_the_format_of_the_data(model, tmp_path):
    samples = sample(model, 3, "bee")
    assert samples.arrays.shape == (3, 8, 8)
    assert samples.arrays.dtype == np.uint8
    assert samples.arrays.max() <= 16
    paths = samples.save(tmp_path / "out")
    assert [p.name for p in paths] == ["000000-bee.png", "000001-bee.png", "000002-bee.png"]
    stored = model.codec.read(paths[1])
    assert np.array_equal(stored[0, 0].numpy(), samples.arrays[1])


def test_a_notebook_shows_a_grid(model):
    samples = sample(model, 6)
    shown = Image.open(io.BytesIO(samples._repr_png_()))
    assert shown.size == samples.grid().size
    assert samples.grid(columns=6).width > samples.grid(columns=2).width


def test_a_stream_comes_in_pieces(model, monkeypatch):
    monkeypatch.setattr("ornstein.tasks.sample.CHUNK", 0)
    sizes = [(part.first, len(part)) for part in stream(model, SampleOptions(examples="3-70"))]
    assert sizes == [(3, 64), (67, 4)]


def test_a_picture_is_written_in_the_format_of_its_name(tmp_path):
    picture = Image.new("RGB", (4, 3))
    assert Image.open(write_picture(picture, tmp_path / "a" / "x.webp")).format == "WEBP"
    with pytest.raises(UsageError, match=r"x\.png"):
        write_picture(picture, tmp_path / "x.doc")


def test_pictures_say_what_made_them_and_are_drawn_again_from_it(model, tmp_path):
    run = RunFolder.create(tmp_path / "run", config_toml=RunConfig().to_toml(), identity={})
    drawn = sample(replace(model, run=run, seen=5), examples="3-4", seed=9).save(tmp_path / "out")
    facts = [read_stamp(path.read_bytes()) for path in drawn]
    assert [(f["run"], f["seen"], f["seed"], f["index"]) for f in facts] == [
        (run.identity["id"], 5, 9, 3),
        (run.identity["id"], 5, 9, 4),
    ]
    plain = sample(model, examples="3-4", seed=9).save(tmp_path / "plain")
    assert read_stamp(plain[0].read_bytes()) is None
    for stamped, path in zip(drawn, plain, strict=True):
        assert Image.open(stamped).tobytes() == Image.open(path).tobytes()
