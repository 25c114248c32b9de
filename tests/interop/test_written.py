"""Runs that diffusers opens, and what it draws from them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import ornstein as ou
from ornstein.cli import run_command
from ornstein.core.sample import SAMPLERS
from ornstein.data import DataOptions, open_data
from ornstein.errors import DataError, ModelFileError, UsageError
from ornstein.interop import written
from ornstein.interop.written import as_published, write_diffusers
from ornstein.nets import UNet2D
from ornstein.runs.building import build_denoiser
from ornstein.runs.config import NetConfig
from ornstein.runs.vocabulary import Vocabulary
from ornstein.tasks.export import export
from ornstein.train import recipe
from ornstein.train.signals import Stop
from untrained import grey_codec, of_random_weights, tiny_model

diffusers = pytest.importorskip("diffusers")


def small(**options):
    config = recipe(open_data("digits", DataOptions(limit=40)), "diffusers")
    train = replace(config.train, seen=64, batch=32, precision="f32", ema=(0.1,), **options)
    return replace(config, net=replace(config.net, size=8, depth=1), train=train)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the recipe, stopped and gone on with; its weights far from where they began."""
    place = tmp_path_factory.mktemp("written") / "run"
    stop = Stop()
    stop.set()
    ou.train("digits", config=small(learning_rate=1e-2), out=place, stop=stop)
    return ou.train(out=place, resume=True)


@pytest.fixture(scope="module")
def folder(run):
    """The run as a folder of diffusers, by the command."""
    assert run_command(["export", str(run.path), "--to", "diffusers"]) == 0
    return run.path / "exports" / "diffusers"


@pytest.mark.parametrize(
    ("shape", "size", "depth"), [((1, 8, 8), 8, 2), ((3, 16, 24), 16, 1), ((3, 32, 32), 8, 1)]
)
def test_the_network_is_that_of_diffusers_from_the_same_weights(shape, size, depth):
    net = UNet2D(shape, size=size, depth=depth, clock=lambda log_snr: log_snr)
    for weight in net.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.3)
    theirs = diffusers.UNet2DModel(**{k: v for k, v in net.config.items() if k[0] != "_"})
    theirs.load_state_dict(net.state_dict())
    x, step = torch.randn(2, *shape), torch.tensor([3.0, 700.0])
    expected = theirs(x, step).sample
    assert_close(net(x, step), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_trained_run_ends_by_the_schedulers_of_diffusers_where_it_ends_by_ours(run, folder):
    """From the same noise and the same times: to 1e-4 of half the range of the data."""
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    assert isinstance(pipeline.unet, diffusers.UNet2DModel)
    model = ou.load(run.path)
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(3))
    scheduler = diffusers.DDIMScheduler.from_config(
        pipeline.scheduler.config, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(5)
    theirs = x
    with torch.no_grad():
        for t in scheduler.timesteps:
            theirs = scheduler.step(pipeline.unet(theirs, t).sample, t, theirs).prev_sample
    times = torch.cat([(scheduler.timesteps.double() + 1) / 1000, torch.zeros(1).double()])
    ours = SAMPLERS["ddim"](model.denoiser, x, times)
    assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())


def test_the_pipeline_draws_pictures_by_itself(folder):
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    assert drawn.shape == (2, 8, 8, 1) and 0 <= drawn.min() < drawn.max() <= 1


def test_one_step_of_the_ancestral_sampler_has_their_mean_and_variance(run, folder):
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    schedule, step = ou.load(run.path).denoiser.schedule, 400
    t, s = ((step + 1) / 1000, step / 1000)
    (alpha, sigma), (alpha_s, sigma_s) = (schedule(torch.tensor(one).double()) for one in (t, s))
    lost = 1 - (alpha * sigma_s / (alpha_s * sigma)) ** 2
    assert_close(scheduler._get_variance(step).double(), sigma_s**2 * lost, rtol=1e-4, atol=0)


def test_the_folder_comes_back_as_a_model_that_draws_the_same(run, folder):
    again = ou.load_diffusers(folder)
    same = {"sampler": "ddim", "steps": 4, "seed": 1}
    drawn = ou.sample(run, 3, **same)
    assert_close(ou.sample(again, 3, **same).x, drawn.x, rtol=0, atol=1e-3)
    assert drawn.arrays.max() <= 16  # and in the units of the data


def test_pictures_are_seen_from_minus_one_to_one_and_without_their_labels(run):
    model = ou.load(run.path)
    assert model.codec.mean == model.codec.std == (8.0,)
    assert not model.vocabulary.classes
    data = as_published(open_data("digits", DataOptions(limit=40)))
    x, cond = data.batch(torch.arange(40))
    assert (x.min(), x.max()) == (-1, 1) and not cond
    with pytest.raises(DataError, match=r"pictures of 8 bits, .*: take another recipe"):
        as_published(open_data("swiss-roll", DataOptions(limit=40)))


def test_what_diffusers_cannot_be_given_is_refused(run, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--recipe diffusers"):
        write_diffusers(tiny_model(), tmp_path)
    with pytest.raises(UsageError, match="leave all but --to out"):
        export(run, to="diffusers", steps=5)
    config = small()
    with pytest.raises(UsageError, match=r"set \[schedule\] name = 'ddpm'"):
        flow = replace(tiny_model().config, net=NetConfig(kind="unet2d", size=8))
        build_denoiser(flow, (1, 8, 8), Vocabulary())
    with pytest.raises(UsageError, match="hears of nothing but the noise"):
        build_denoiser(config, (1, 8, 8), Vocabulary(classes=("a",)))
    model = of_random_weights(config, grey_codec((1, 8, 8)), Vocabulary())
    monkeypatch.setattr(written, "_difference", lambda model, again: np.nan)
    with pytest.raises(ModelFileError, match="draws something else"):
        write_diffusers(model, tmp_path / "off")
    assert not list(tmp_path.rglob("*.safetensors"))
    assert json.loads((tmp_path / "off" / "unet" / "config.json").read_text())["sample_size"]
