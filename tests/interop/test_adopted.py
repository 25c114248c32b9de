"""Pipelines of diffusers that runs go on from: the same network, the same weights, our verbs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import ornstein as ou
import pipelines
from ornstein.cli import run_command
from ornstein.errors import ModelFileError, UsageError
from ornstein.interop.adopted import adopted, layout_of
from ornstein.interop.place import open_model
from ornstein.interop.written import write_diffusers
from ornstein.nets import UNet2D
from ornstein.runs.building import build_denoiser
from ornstein.runs.config import NetConfig, RunConfig
from ornstein.runs.vocabulary import Vocabulary
from ornstein.train.adapt import adaptation, base_of, go_on_from

diffusers = pytest.importorskip("diffusers")

AS_OF_2020 = {  # google/ddpm-cifar10-32, google/ddpm-celebahq-256, ...: the weights of the paper
    "attention_head_dim": None,
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 2,
    "norm_eps": 1e-6,
    "norm_num_groups": 4,
}
AS_OF_2022 = {  # what the training script of diffusers builds
    "block_out_channels": (16, 16, 32, 32),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "norm_num_groups": 8,
}


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory):
    return pipelines.ddpm(tmp_path_factory.mktemp("ddpm"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(140):
        stripes = 40 * draw.integers(1, 6) + np.arange(64, dtype=np.uint8).reshape(8, 8) % 8
        Image.fromarray(stripes.astype(np.uint8)).save(folder / f"{i:03}.png")
    return folder


@pytest.mark.parametrize("published", [AS_OF_2020, AS_OF_2022], ids=["2020", "2022"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 24)])
def test_networks_as_they_are_published_are_ours_from_the_same_weights(published, shape):
    torch.manual_seed(0)
    options = {"sample_size": shape[1:], "in_channels": shape[0], "out_channels": shape[0]}
    theirs = diffusers.UNet2DModel(**options, **published)
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    size, depth, layout = layout_of(theirs.config)
    ours = UNet2D(shape, size=size, depth=depth, layout=layout, clock=lambda log_snr: log_snr)
    ours.load_state_dict(theirs.state_dict())
    x, step = torch.randn(2, *shape), torch.tensor([3.0, 700.0])
    expected = theirs(x, step).sample
    assert_close(ours(x, step), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    again = diffusers.UNet2DModel(**{k: v for k, v in ours.config.items() if k[0] != "_"})
    again.load_state_dict(theirs.state_dict())
    assert (again(x, step).sample == expected).all()


@pytest.mark.parametrize(
    "options",
    [
        {"act_fn": "gelu"},
        {"resnet_time_scale_shift": "scale_shift"},
        {"add_attention": False},
        {"downsample_type": "resnet"},
        {"out_channels": 2},
        {"block_out_channels": (12, 12)},
        {"num_class_embeds": 3},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_network_that_none_of_ours_is_stays_that_of_diffusers(ddpm, tmp_path, options):
    config = json.loads((ddpm / "unet" / "config.json").read_text())
    net = diffusers.UNet2DModel.from_config({**config, **options})
    assert layout_of(net.config) is None
    folder = pipelines.write(tmp_path, "DDPMPipeline", diffusers.DDPMScheduler(), unet=net)
    model = adopted(folder)
    same = {"steps": 3, "label": 1 if "num_class_embeds" in options else None}
    assert model.config.net.kind == "diffusers"
    ours, theirs = (ou.sample(m, 2, **same).x for m in (model, ou.load_diffusers(folder)))
    assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())


def test_a_run_begins_with_the_weights_of_the_pipeline_to_the_last_bit(ddpm):
    config = adaptation(ddpm, "all")
    assert RunConfig.from_toml(config.to_toml()) == config
    denoiser = build_denoiser(config, (1, 8, 8), Vocabulary())
    go_on_from(base_of(config), denoiser, config)
    theirs = diffusers.UNet2DModel.from_pretrained(ddpm / "unet").state_dict()
    ours = denoiser.net.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


@pytest.mark.parametrize(
    "told",
    [
        {"prediction_type": "epsilon", "beta_end": 0.01},
        {"prediction_type": "v_prediction", "beta_end": 0.01},
        {"prediction_type": "sample", "beta_end": 0.01},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
        {
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "sample",
            "num_train_timesteps": 100,
        },
    ],
    ids=lambda told: "-".join(map(str, told.values())),
)
def test_what_is_drawn_first_is_what_the_pipeline_draws_and_it_goes_back_as_it_came(tmp_path, told):
    folder = pipelines.ddpm(tmp_path / "theirs", diffusers.DDPMScheduler(**told))
    same, model = {"steps": 6, "seed": 1}, adopted(folder)
    ours, theirs = (ou.sample(m, 3, **same).x for m in (model, ou.load_diffusers(folder)))
    assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())
    write_diffusers(model, tmp_path / "ours")
    back = diffusers.DDPMScheduler.from_pretrained(tmp_path / "ours" / "scheduler")
    table = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod
    assert_close(back.alphas_cumprod, table)
    assert all(back.config[name] == value for name, value in told.items())


def of_few(config, seen, **train):
    few = {"seen": seen, "batch": 32, "precision": "f32", **train}
    return replace(config, train=replace(config.train, **few))


@pytest.mark.slow
def test_a_pipeline_is_gone_on_from_distilled_and_drawn_from(ddpm, pictures, tmp_path, capsys):
    run, few = tmp_path / "run", ["-n", "2", "--out", str(tmp_path / "drawn")]
    begin = ["train", str(pictures), "--from", str(ddpm), "--seen", "192", "--out", str(run)]
    assert run_command([*begin, "--predict", "velocity"]) == 0
    model = ou.load(run)
    assert model.config.denoiser.prediction == "velocity" and model.seen == 192
    assert model.codec.mean == (127.5,) and isinstance(model.denoiser.net, UNet2D)
    teach = ["distill", str(run), "--steps", "2", "--seen", "64", "--count", "100"]
    assert run_command(teach) == 0
    assert "2 steps" in capsys.readouterr().out
    assert run_command([*teach, "--method", "flow-map"]) == UsageError.exit_code
    assert "progressive alone" in capsys.readouterr().err
    assert run_command(["sample", str(run), "--steps", "3", *few]) == 0
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 2
    assert run_command(["export", str(run), "--to", "diffusers"]) == 0
    drawn = {"steps": 4, "seed": 1, "sampler": "ddim"}
    again = ou.load_diffusers(run / "exports" / "diffusers")
    assert_close(ou.sample(again, 2, **drawn).x, ou.sample(run, 2, **drawn).x, rtol=0, atol=1e-3)


def test_another_prediction_is_learned_from_the_weights_of_the_first(ddpm, pictures, tmp_path):
    """Noise taken for velocity is far off, and soon near."""
    config = of_few(adaptation(ddpm, "all", predict="velocity"), 3200, learning_rate=3e-3)
    assert (config.denoiser.prediction, config.denoiser.weighting) == ("velocity", "balanced")
    first = build_denoiser(config, (1, 8, 8), Vocabulary())
    go_on_from(base_of(config), first, config)
    after = ou.load(ou.train(pictures, config=config, out=tmp_path / "run").path)
    stored = [after.codec.read(path) for path in sorted(pictures.iterdir())[:64]]
    x, draw = after.codec.pack(torch.cat(stored)), torch.Generator().manual_seed(0)
    t, eps = torch.rand(64, generator=draw).double(), torch.randn(x.shape, generator=draw)
    with torch.no_grad():
        losses = [d.loss(x, t, eps).mean().item() for d in (first, after.denoiser)]
    assert losses[1] < 0.5 * losses[0], losses


def test_what_predicts_noise_still_does_not_teach_and_an_adapter_predicts_the_same(
    ddpm, pictures, tmp_path
):
    run = ou.train(pictures, config=of_few(adaptation(ddpm, "all"), 64), out=tmp_path / "run")
    with pytest.raises(UsageError, match="predicts noise says nothing"):
        ou.distill(run, (2,))
    with pytest.raises(UsageError, match="leave --predict out"):
        adaptation(run.path, "low-rank", predict="velocity")


def test_an_adapter_of_a_pipeline_opens_it_by_itself(ddpm, pictures, tmp_path):
    config = of_few(adaptation(ddpm, "low-rank", rank=2), 64, learning_rate=1e-2)
    style = ou.train(pictures, config=config, out=tmp_path / "style")
    base, same = adopted(ddpm), {"steps": 2, "sampler": "ddim"}
    alone, worn = (
        ou.sample(model, 2, **same).x for model in (style, open_model(ddpm, adapters=[style.path]))
    )
    assert torch.equal(alone, worn)
    assert (alone - ou.sample(base, 2, **same).x).abs().max() > 1e-3
    assert style.identity["base"]["pipeline"] == ddpm.name


def test_the_run_goes_on_only_while_its_pipeline_is_what_it_was(tmp_path, pictures):
    folder = pipelines.ddpm(tmp_path / "ddpm")
    run = ou.train(pictures, config=of_few(adaptation(folder, "all"), 64), out=tmp_path / "run")
    assert ou.train(out=run.path, resume=True).latest().seen == 64
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    net = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    torch.nn.init.ones_(net.conv_out.bias)
    net.save_pretrained(weights.parent)
    with pytest.raises(UsageError, match=r"is not what .* goes on from"):
        ou.train(out=run.path, resume=True)
    assert ou.sample(run, 1, steps=2).arrays.shape == (1, 8, 8)  # which needs no pipeline


# --- What is refused -----------------------------------------------------------------------------


def test_other_tables_are_refused_in_one_sentence(tmp_path):
    sigmoid = diffusers.DDPMScheduler(beta_schedule="sigmoid")
    with pytest.raises(ModelFileError, match=r"beta_schedule = sigmoid.*squaredcos_cap_v2"):
        adopted(pipelines.ddpm(tmp_path / "sigmoid", sigmoid))


def test_a_network_on_a_path_of_flow_matching_stays_that_of_diffusers(tmp_path):
    folder = pipelines.ddpm(tmp_path, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    model, same = adopted(folder), {"steps": 3}
    assert model.config.net.kind == "diffusers" and model.config.denoiser.prediction == "flow"
    ours, theirs = (ou.sample(m, 2, **same).x for m in (model, ou.load_diffusers(folder)))
    assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())


def test_what_is_loaded_lies_nowhere_and_is_not_gone_on_from(ddpm):
    with pytest.raises(UsageError, match="give the folder"):
        adaptation(ou.load_diffusers(ddpm), "all")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"wide": 3}, r"\[net\] options has no 'wide'; it has: widths, attended"),
        ({"groups": "many"}, r"\[net\] options: groups: .*integer"),
        ({"widths": (16, 8)}, r"expected widths from size = 8"),
        ({"widths": (8, 8, 8, 8, 8)}, r"expected sides that 5 levels can halve"),
        ({"head": 3}, r"expected widths that heads of 3 fill"),
        ({"attended": (7,)}, r"expected attended of 2 levels"),
        ({"shift": 4.0}, r"shift in \[0, size / 2\)"),
    ],
)
def test_options_of_the_network_that_are_none_are_refused(ddpm, options, sentence):
    config = adopted(ddpm).config
    net = replace(config.net, options=config.net.options | options)
    with pytest.raises(UsageError, match=sentence):
        build_denoiser(replace(config, net=net), (1, 8, 8), Vocabulary())


def test_other_networks_have_no_options():
    with pytest.raises(UsageError, match="options are of the kind unet2d, not unet"):
        net = NetConfig(kind="unet", options={"groups": 4})
        build_denoiser(RunConfig(net=net), (1, 8, 8), Vocabulary())
