"""Runs that go on with a network of diffusers, its autoencoder and its encoder of texts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import ornstein as ou
import pipelines
from ornstein.cli import run_command
from ornstein.errors import DataError, UsageError
from ornstein.interop.adopted import adopted
from ornstein.interop.hub import files_of
from ornstein.runs.folder import RunFolder
from ornstein.runs.latents import LatentCodec
from ornstein.train.adapt import adaptation, base_of, go_on_from
from ornstein.train.start import read
from train.tiny import resumed_and_whole

diffusers = pytest.importorskip("diffusers")

SAME = {"text": ["red cat", "blue"], "sampler": "ddim", "steps": 3, "guidance": 3.0}


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    return pipelines.stable(tmp_path_factory.mktemp("stable"))


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """Pictures of 8 x 8, red or blue, most of them captioned."""
    folder, draw = tmp_path_factory.mktemp("cats"), np.random.default_rng(0)
    for i in range(40):
        picture = draw.integers(0, 60, (8, 8, 3))
        picture[..., 2 * (i % 2)] += 150
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i:02}.png")
        if i % 5:
            (folder / f"{i:02}.txt").write_text(("red cat", "blue cat")[i % 2])
    return folder


def going_on(place, learn="all", seen=64, rate=1e-3, **options):
    config = adaptation(place, learn, **options)
    train = replace(config.train, seen=seen, batch=16, learning_rate=rate, precision="f32")
    return replace(config, train=train)


def nearly(found, expected):
    assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_a_run_begins_as_the_pipeline_and_draws_what_that_draws(stable):
    config = going_on(stable)
    assert (config.net.kind, config.latent) == ("diffusers", str(stable.resolve()))
    assert type(config).from_toml(config.to_toml()) == config
    base = base_of(config)
    denoiser = ou.load_diffusers(stable).denoiser
    assert torch.equal(
        denoiser.state_dict()["net.net.conv_in.weight"],
        base.denoiser.state_dict()["net.net.conv_in.weight"],
    )
    go_on_from(base, denoiser, config)
    drawn = (ou.sample(model, 2, **SAME).x for model in (base, ou.load_diffusers(stable)))
    nearly(*drawn)


@pytest.fixture(scope="module")
def whole(stable, cats, tmp_path_factory) -> RunFolder:
    """All weights of the network, learned for a little."""
    config = going_on(stable, predict="velocity")
    return ou.train(cats, config=config, out=tmp_path_factory.mktemp("whole") / "run")


def test_all_weights_are_learned_in_the_latents_by_captions_and_nothing_else_is_kept(
    stable, cats, whole
):
    model = ou.load(whole.path)
    assert isinstance(model.codec, LatentCodec) and model.words.length == 12
    weights = whole.latest().load("ema-0")
    assert all(name.startswith("net.net.") for name in weights)
    begun = ou.load_diffusers(stable)
    assert {k: v.shape for k, v in begun.denoiser.state_dict().items()} == {
        k: v.shape for k, v in weights.items()
    }
    moved = (weights["net.net.conv_in.weight"] - begun.denoiser.net.net.conv_in.weight).abs().max()
    assert 0 < moved < 0.1
    quick = {"steps": 2, "seed": 1}
    told, untold = (ou.sample(model, 2, **(text | quick)).x for text in (SAME, {}))
    assert told.shape == (2, 3, 8, 8) and not torch.equal(told, untold)


def test_what_is_hidden_of_captions_is_the_empty_text(stable, cats):
    data, _ = read(cats, going_on(stable), torch.device("cpu"))
    net = base_of(going_on(stable)).denoiser.net
    text = data.batch(torch.arange(3))[1]["text"]
    x, level = torch.randn(3, 4, 4, 4), torch.zeros(3)
    with torch.no_grad():
        hidden, empty = (net(x, level, text=t) for t in (torch.full_like(text, torch.nan), None))
        heard = net(x, level, text=text)
    assert torch.equal(hidden, empty) and not torch.equal(heard, empty)


def test_a_stopped_run_ends_as_one_that_was_never_stopped(stable, cats, whole):
    data, _ = read(cats, going_on(stable), torch.device("cpu"))
    resumed, once = resumed_and_whole(going_on(stable), data, 2)
    assert resumed == once
    assert ou.train(out=whole.path, resume=True).latest().seen == 64


def test_adapters_of_a_pipeline_are_small_and_stack(stable, cats, tmp_path):
    styles = [
        ou.train(
            cats,
            config=going_on(stable, "low-rank", 32, rate=1e-2, rank=rank, targets=targets),
            out=tmp_path / f"style-{rank}",
        ).path
        for rank, targets in ((2, ()), (1, ("to_q", "to_v")))
    ]
    weights = RunFolder.open(styles[0]).latest().load("ema-0")
    assert {name.rpartition(".")[2] for name in weights} == {"up", "down"}
    size = {p: sum(f.stat().st_size for f in p.rglob("ema-0.safetensors")) for p in styles}
    bare, (small, smaller) = adopted(stable), size.values()
    assert smaller < small
    drawn = {
        strengths: ou.sample(
            ou.tasks.sample.opened(
                stable, "cpu", [(p, s) for p, s in zip(styles, strengths, strict=True) if s]
            ),
            2,
            **SAME,
        ).x
        for strengths in ((1, 0), (1, 1))
    }
    alone = ou.sample(styles[0], 2, **SAME).x
    assert torch.equal(drawn[1, 0], alone)
    before = ou.sample(bare, 2, **SAME).x
    assert all((x - before).abs().max() > 1e-3 for x in drawn.values())
    assert (drawn[1, 1] - drawn[1, 0]).abs().max() > 1e-4
    merged = ou.merge(styles[0], out=tmp_path / "merged")
    nearly(ou.sample(merged, 2, **SAME).x, alone)


@pytest.mark.slow
def test_a_run_from_a_pipeline_teaches_a_student_of_few_steps(whole, tmp_path, capsys):
    teach = ["distill", str(whole.path), "--steps", "2", "--seen", "32", "--count", "100"]
    assert run_command([*teach, "--guidance", "1", "4", "--out", str(tmp_path)]) == 0
    assert "2 steps" in capsys.readouterr().out
    assert run_command([*teach, "--method", "flow-map"]) == UsageError.exit_code
    assert "progressive alone" in capsys.readouterr().err


def test_a_run_that_goes_by_a_pipeline_is_not_pushed_without_it(whole):
    with pytest.raises(UsageError, match=r"would stay here: .* --to diffusers"):
        files_of(whole)


def test_a_run_goes_back_into_a_pipeline_that_diffusers_opens(whole, cats, tmp_path):
    done = ou.export(whole, tmp_path / "back", to="diffusers")
    assert done.difference < 1e-3
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(done.path, safety_checker=None)
    assert theirs.scheduler.config.prediction_type == "v_prediction"
    weights = whole.latest().load("ema-0")
    assert torch.equal(theirs.unet.conv_in.weight, weights["net.net.conv_in.weight"])
    drawn = (ou.sample(model, 2, **SAME).x for model in (whole, ou.load_diffusers(done.path)))
    nearly(*drawn)


# --- Classes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sorted_pictures(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("sorted"), np.random.default_rng(0)
    for i in range(30):
        (folder / str(i % 3)).mkdir(exist_ok=True)
        picture = draw.integers(0, 200, (8, 8), dtype=np.uint8)
        Image.fromarray(picture).save(folder / str(i % 3) / f"{i:02}.png")
    return folder


def test_classes_go_by_the_numbers_that_the_network_knows(sorted_pictures, tmp_path):
    place = pipelines.ddpm(tmp_path / "ddpm", num_class_embeds=3)
    config = going_on(place, seen=32)
    assert config.train.condition_dropout == 0
    run = ou.train(sorted_pictures, config=config, out=tmp_path / "run")
    same = {"steps": 2, "sampler": "ddim"}
    one, two = (ou.sample(run, 1, label=label, **same).x for label in (0, 2))
    assert not torch.equal(one, two)
    with pytest.raises(UsageError, match="give a label"):
        ou.sample(run, 1, **same)
    (sorted_pictures / "2").rename(sorted_pictures / "seven")
    with pytest.raises(DataError, match=r"the class 'seven', but .* knows '0' to '2' and no"):
        read(sorted_pictures, config, torch.device("cpu"))
    (sorted_pictures / "seven").rename(sorted_pictures / "2")


# --- What is refused -----------------------------------------------------------------------------


def test_a_network_of_others_takes_no_branch(stable):
    with pytest.raises(UsageError, match="has a network of another library"):
        adaptation(stable, "control")


def test_a_run_whose_pipeline_is_gone_says_so(cats, tmp_path):
    place = pipelines.stable(tmp_path / "stable")
    run = ou.train(cats, config=going_on(place, seen=16), out=tmp_path / "run")
    place.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"stable is no longer there.*put it back"):
        ou.load(run.path)
