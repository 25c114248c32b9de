"""Runs that go on from pipelines of flow matching: Stable Diffusion 3 and Flux."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

import ornstein as ou
import pipelines
from ornstein.cli import run_command
from ornstein.core.denoise import NetDenoiser
from ornstein.core.noise import FlowSchedule
from ornstein.core.predict import predict_velocity
from ornstein.errors import UsageError
from ornstein.interop.adopted import adopted
from ornstein.interop.diffusers import load_diffusers
from ornstein.interop.foreign import FAMILIES
from ornstein.interop.pipeline import Pipeline
from ornstein.runs.building import build_times
from ornstein.runs.folder import RunFolder
from ornstein.train.adapt import adaptation, base_of, go_on_from
from ornstein.train.start import read
from ornstein.train.training import Training
from train.tiny import resumed_and_whole

diffusers = pytest.importorskip("diffusers")

SAME = {"text": "red cat", "sampler": "ddim", "steps": 2}


def nearly(found, expected):
    assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small pipelines of small pictures: Flux does not say of what size, and means 128 points."""
    joint = pipelines.joint(tmp_path_factory.mktemp("joint"), read_on=False)
    flux = pipelines.flux(tmp_path_factory.mktemp("flux"))
    return {"joint": joint, "flux": flux}


@pytest.fixture(autouse=True)
def of_few_points_and_pieces(monkeypatch):
    small = replace(FAMILIES["FluxTransformer2DModel"], side=4)
    monkeypatch.setitem(FAMILIES, "FluxTransformer2DModel", small)
    asked = Pipeline.default
    short = {"max_sequence_length": 12}
    monkeypatch.setattr(Pipeline, "default", lambda self, k: short.get(k) or asked(self, k))


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("cats"), np.random.default_rng(0)
    for i in range(40):
        picture = draw.integers(0, 200, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text("red cat")
    return folder


def going_on(place, learn="all", seen=8, **options):
    config = adaptation(place, learn, **options)
    few = {"seen": seen, "batch": 4, "learning_rate": 1e-3, "precision": "f32"}
    return replace(config, train=replace(config.train, **few))


@pytest.mark.parametrize("name", ["joint", "flux"])
def test_a_run_begins_as_the_pipeline_on_its_path_and_at_its_noise_levels(folders, name):
    config = going_on(folders[name])
    assert type(config).from_toml(config.to_toml()) == config
    assert (config.denoiser.prediction, config.denoiser.weighting) == ("flow", "flow")
    base, theirs = base_of(config), load_diffusers(folders[name])
    assert isinstance(base.denoiser.schedule, FlowSchedule)
    assert base.denoiser.schedule == theirs.denoiser.schedule
    shift = -base.denoiser.schedule.shift / 2
    if name == "joint":
        assert shift == pytest.approx(log(3))
    times = build_times(config.times)(torch.tensor([0.5], dtype=torch.float64), FlowSchedule())
    assert times.item() == pytest.approx(1 / (1 + np.exp(-shift)))  # the middle one, shifted
    denoiser = load_diffusers(folders[name]).denoiser
    go_on_from(base, denoiser, config)
    nearly(*(ou.sample(model, 1, **SAME).x for model in (base, theirs)))


def test_what_is_learned_is_the_error_of_the_flow_itself(folders):
    """As the pipeline is told it: x_t as it is, and T times the share of noise in it."""
    model = adopted(folders["joint"])
    draw = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 2, 4, 4, 4, generator=draw)
    text = model.words.tensor(["red cat", "blue"])
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    sigma = model.denoiser.schedule(t)[1]
    mix = sigma.float().view(-1, 1, 1, 1)
    said = model.words.layout.said(text)
    told = {"encoder_hidden_states": said.pieces, "pooled_projections": said.whole}
    with torch.no_grad():
        found = model.denoiser.loss(x, t, eps, text=text)
        flow = model.denoiser.net.net(
            (1 - mix) * x + mix * eps, timestep=1000 * sigma.float(), **told
        ).sample
    assert_close(found, (flow - (eps - x)).square().flatten(1).mean(1), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def whole(folders, cats, tmp_path_factory) -> RunFolder:
    out = tmp_path_factory.mktemp("whole") / "run"
    return ou.train(cats, config=going_on(folders["joint"]), out=out)


def test_all_weights_are_learned_stopped_and_given_back(folders, cats, whole, tmp_path):
    config = going_on(folders["joint"])
    data, _ = read(cats, config, torch.device("cpu"))
    resumed, once = resumed_and_whole(config, data, 1)
    assert resumed == once
    done = ou.export(whole, tmp_path / "back", to="diffusers")
    theirs = diffusers.SD3Transformer2DModel.from_pretrained(done.path / "transformer")
    before = load_file(folders["joint"] / "transformer/diffusion_pytorch_model.safetensors")
    name = "proj_out.weight"
    assert (theirs.state_dict()[name] - before[name]).abs().max() > 1e-5
    again = ou.load_diffusers(done.path)
    nearly(ou.sample(again, 1, **SAME).x, ou.sample(whole, 1, **SAME).x)


def test_additions_to_a_network_of_squares_are_learned(folders, cats):
    config = going_on(folders["flux"], "low-rank", rank=1)
    data, _ = read(cats, config, torch.device("cpu"))
    training = Training(config, data)
    before = {name: value.clone() for name, value in training.parts()["model"].items()}
    assert {name.rpartition(".")[2] for name in before} == {"up", "down"}
    training.update()
    after = training.parts()["model"]
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) == sum(name.endswith(".up") for name in before)  # as these are zero at first


@pytest.mark.slow
def test_a_run_of_flow_teaches_a_student_of_few_steps(whole, tmp_path, capsys):
    teach = ["distill", str(whole.path), "--steps", "2", "--seen", "8", "--count", "100"]
    assert run_command([*teach, "--out", str(tmp_path)]) == 0
    assert "2 steps" in capsys.readouterr().out


def test_another_prediction_cannot_be_said_to_diffusers(whole, tmp_path):
    model = ou.load(whole.path)
    one = model.denoiser
    other = replace(model, denoiser=NetDenoiser(one.net, one.schedule, predict_velocity))
    with pytest.raises(UsageError, match="on a path of flow matching only flow"):
        ou.export(other, tmp_path / "back", to="diffusers")
