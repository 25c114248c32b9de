"""Pipelines of diffusers: sampled as diffusers does, and taken by every task."""

import json
from math import log

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import pipelines
from ornstein.cli import run_command
from ornstein.core.guide import ClassifierFree
from ornstein.core.noise import FlowSchedule, TableSchedule
from ornstein.core.sample import SAMPLERS
from ornstein.errors import DataError, ModelFileError, UsageError
from ornstein.interop.diffusers import load_diffusers
from ornstein.tasks.asking import conditions, guided
from ornstein.tasks.edit import between, edit
from ornstein.tasks.options import DrawOptions
from ornstein.tasks.restore import restore
from ornstein.tasks.sample import sample

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    return pipelines.stable(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    return pipelines.dit(tmp_path_factory.mktemp("dit"))


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory):
    return pipelines.ddpm(tmp_path_factory.mktemp("ddpm"))


def theirs(scheduler, told, x, steps):
    """Where the scheduler of diffusers leads x, told by a network what is to be told."""
    scheduler.set_timesteps(steps)
    prepared = getattr(scheduler, "scale_model_input", lambda x, t: x)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(told(prepared(x, t), t.expand(len(x))), t, x).prev_sample
    return x


def times_of(scheduler, steps):
    """The times of ours at which the scheduler calls its network, and the data."""
    scheduler.set_timesteps(steps)
    t = (scheduler.timesteps.double() + 1) / scheduler.config.num_train_timesteps
    return torch.cat([t, t.new_zeros(1)])


def close(ours, others):
    """To 1e-4 of how large they are."""
    assert_close(ours, others, rtol=0, atol=1e-4 * max(1.0, others.abs().max().item()))


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


TABLES = [
    {},
    {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear"},
    {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"},
    {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    {"trained_betas": np.linspace(1e-3, 0.3, 40).tolist(), "num_train_timesteps": 40},
]


@pytest.mark.parametrize("config", TABLES, ids=lambda c: "-".join(map(str, c)) or "default")
def test_ddim_ends_where_that_of_diffusers_does(tmp_path, config):
    scheduler = diffusers.DDIMScheduler(
        clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing", **config
    )
    model = load_diffusers(pipelines.ddpm(tmp_path, scheduler))
    x, net = noise(2, 1, 8, 8), model.denoiser.net.net
    expected = theirs(scheduler, lambda x, t: net(x, t).sample, x, 5)
    close(SAMPLERS["ddim"](model.denoiser, x, times_of(scheduler, 5)), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_of_diffusers_is_ddim_along_another_path(tmp_path, prediction):
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type=prediction, timestep_spacing="trailing"
    )
    model = load_diffusers(pipelines.ddpm(tmp_path, scheduler))
    net, times = model.denoiser.net.net, times_of(scheduler, 5)
    x = noise(2, 1, 8, 8)
    large = x * (1 + scheduler.sigmas[0] ** 2).sqrt()  # alpha = 1 on its path
    expected = theirs(scheduler, lambda x, t: net(x, t).sample, large, 5)
    close(SAMPLERS["ddim"](model.denoiser, x, times), expected)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_ends_where_that_of_diffusers_does(tmp_path, shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    model = load_diffusers(pipelines.ddpm(tmp_path, scheduler))
    assert model.denoiser.schedule == FlowSchedule(shift=-2 * log(shift))
    scheduler.set_timesteps(5)
    sigma = scheduler.sigmas.double()
    times = model.denoiser.schedule.time(2 * (torch.log1p(-sigma) - sigma.log()))
    assert_close(model.denoiser.schedule(times)[1], sigma, rtol=0, atol=1e-6)
    x, net = noise(2, 1, 8, 8), model.denoiser.net.net
    expected = theirs(scheduler, lambda x, t: net(x, t).sample, x, 5)
    for name in ("euler", "ddim"):
        close(SAMPLERS[name](model.denoiser, x, times), expected)


def test_the_table_of_signal_is_that_of_diffusers_to_the_last_bit(stable):
    schedule = load_diffusers(stable).denoiser.schedule
    scheduler = diffusers.DDIMScheduler.from_pretrained(stable / "scheduler")
    assert isinstance(schedule, TableSchedule)
    assert schedule.alpha_bar == tuple(scheduler.alphas_cumprod.double().tolist())


def their_pipeline(folder, scheduler):
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=scheduler,
        text_encoder=read_encoder(folder),
        tokenizer=read_tokenizer(folder),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def asked_of(model, **options):
    """The denoiser with its guidance, told what is asked, as every task has it."""
    chosen = DrawOptions(**options)
    return guided(model, chosen).given(**conditions(model, chosen, [0]))


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("text", ["red cat", "red cat blue cat a red cat"], ids=["short", "cut"])
def test_texts_with_guidance_end_where_stable_diffusion_does(stable, kind, text):
    model = load_diffusers(stable)
    scheduler = getattr(diffusers, kind).from_pretrained(
        stable / "scheduler", clip_sample=False, steps_offset=1, timestep_spacing="trailing"
    )
    pipe = their_pipeline(stable, scheduler)
    x, times, far = noise(1, 4, 4, 4), times_of(scheduler, 5), 1.0
    if kind == "EulerDiscreteScheduler":  # alpha = 1 on its path
        far = (1 + scheduler.sigmas[0] ** 2).sqrt() / scheduler.init_noise_sigma
    options = {"guidance_scale": 3.0, "num_inference_steps": 5, "height": 8, "width": 8}
    options |= {"negative_prompt": "blue", "latents": far * x}
    latents = pipe(text, output_type="latent", **options)
    denoiser = asked_of(model, text=(text,), negative="blue", guidance=3.0)
    ours = SAMPLERS["ddim"](denoiser, x, times)
    close(ours, latents.images)
    pictures = pipe(text, output_type="np", **options)
    drawn = model.codec.unpack(ours)[0].astype(int)
    assert abs(drawn - np.rint(pictures.images[0] * 255)).max() <= 1


def test_no_text_is_the_empty_one_as_in_stable_diffusion(stable):
    model = load_diffusers(stable)
    x, t = noise(1, 4, 4, 4), torch.tensor([0.7], dtype=torch.float64)
    assert (asked_of(model)(x, t) == asked_of(model, text=("",), guidance=1.0)(x, t)).all()
    away = asked_of(model, text=("",), negative="blue", guidance=3.0)(x, t)
    assert_close(asked_of(model, negative="blue", guidance=3.0)(x, t), away)
    assert not torch.allclose(asked_of(model)(x, t), away, atol=1e-3)


def test_texts_put_together_are_the_sum_of_their_denoisers(stable):
    model = load_diffusers(stable)
    x, t = noise(1, 4, 4, 4), torch.tensor([0.7], dtype=torch.float64)
    none, red, blue = (
        asked_of(model, text=(text,), guidance=1.0)(x, t) for text in ("", "red cat", "blue")
    )
    both = asked_of(model, text=("red cat AND NOT blue",), guidance=2.0)(x, t)
    assert_close(both, none + 2 * (red - none) - 2 * (blue - none), rtol=0, atol=1e-5)


def test_emphasis_counts_a_piece_as_if_it_were_there_so_often(stable):
    """Attention to a piece times 3 is attention to three of it, wherever they stand."""
    model, x = load_diffusers(stable), noise(1, 4, 4, 4)
    net, h = model.denoiser.net.net, model.words.tensor(["a cat"])
    emphasis = model.words.emphasis((("a ", 1.0), ("cat", 3.0)))
    assert emphasis.tolist() == [1, 1, 3, 3, 3, *[1] * 7]  # <start> a c a t <end> ...
    step = torch.tensor([300.0])
    often = net(x, step, encoder_hidden_states=torch.cat([h, *[h[:, 2:5]] * 2], 1)).sample
    schedule, forward = model.denoiser.schedule, model.denoiser.net
    log_snr = schedule.log_snr(torch.tensor([301 / 1000], dtype=torch.float64))
    assert_close(forward(x, log_snr, text=h, emphasis=emphasis[None]), often, rtol=0, atol=1e-3)
    assert not torch.allclose(forward(x, log_snr, text=h), often, atol=3e-3)


def test_what_is_encoded_under_its_text_comes_back_under_it_alone(stable):
    model, stored = load_diffusers(stable), torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    how = {"how": "encode", "strength": 0.2, "steps": 60, "guidance": 1.0, "text": "red cat"}
    same, other = (edit(model, stored, source=source, **how) for source in ("red cat", "blue"))
    kept = model.codec.decoded(model.codec.pack(stored))
    off = [float((each.samples.x - kept).abs().max()) for each in (same, other)]
    assert 2 * off[0] < off[1], off


def read_encoder(folder):
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(folder / "text_encoder")


def read_tokenizer(folder):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder / "tokenizer")


def test_classes_with_guidance_end_where_a_transformer_of_diffusers_does(dit):
    model = load_diffusers(dit)
    assert model.vocabulary.classes == ("ant", "bee", "cat")
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    x, net = noise(2, 4, 4, 4), model.denoiser.net.net
    label, none = torch.tensor([1, 2]), torch.tensor([3, 3])

    def told(x, t):
        said = [net(x, t, class_labels=c).sample[:, :4] for c in (label, none)]
        return said[1] + 2.0 * (said[0] - said[1])

    ours = ClassifierFree(model.denoiser, 2.0).given(label=label)
    close(SAMPLERS["ddim"](ours, x, times_of(scheduler, 5)), theirs(scheduler, told, x, 5))


def test_a_transformer_that_matches_a_flow_is_mapped_by_its_scheduler(tmp_path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    model = load_diffusers(pipelines.dit(tmp_path, scheduler, latent=False))
    assert model.denoiser.schedule == FlowSchedule()
    assert sample(model, 2, label="bee", steps=3).arrays.shape == (2, 4, 4)


def test_latents_of_pictures_are_scaled_as_the_autoencoder_says(stable):
    model, vae = load_diffusers(stable), diffusers.AutoencoderKL.from_pretrained(stable / "vae")
    stored = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        z = vae.encode(stored / 127.5 - 1).latent_dist.mode()
        expected = vae.decode(z).sample.numpy()
    x = model.codec.pack(stored)
    assert_close(x, (z - 0.1) * 0.5, rtol=1e-4, atol=1e-5)
    back = model.codec.stored(x)
    assert abs(back - np.clip(np.rint((expected + 1) * 127.5), 0, 255)).max() <= 1


def test_every_task_takes_one(ddpm, stable, tmp_path, monkeypatch):
    for task in ("sample", "edit", "restore"):  # as fast as a few need
        monkeypatch.setattr(f"ornstein.tasks.{task}.block", lambda model: 4)
    pixels, latents = load_diffusers(ddpm), load_diffusers(stable)
    drawn = sample(latents, 3, text=["red cat", "a cat"], negative="blue", steps=2)
    assert drawn.arrays.shape == (3, 8, 8, 3)
    alone = sample(latents, examples="1-1", text=["red cat", "a cat"], negative="blue", steps=2)
    assert (alone.arrays[0] == drawn.arrays[1]).all()
    assert len(drawn.save(tmp_path / "drawn")) == 3
    torn = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8)
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[2:5, 2:5] = True
    mended = restore(pixels, torn, hole, draws=2, steps=3).samples.arrays
    kept = ~hole.numpy()
    assert (mended[:, kept] == torn[0, 0].numpy()[kept]).all()
    assert not (mended[:, ~kept] == torn[0, 0].numpy()[~kept]).all()
    path = tmp_path / "picture.png"
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(path)
    changed = edit(latents, path, how="encode", source="red cat", text="a cat", steps=2)
    assert changed.samples.arrays.shape == (1, 8, 8, 3)
    assert between(latents, path, path, 3, steps=2).arrays.shape == (3, 8, 8, 3)
    quarter = torch.zeros(8, 8, dtype=torch.bool)  # of the picture, seen through the decoder
    quarter[:4, :4] = True
    filled = restore(latents, path, quarter, draws=2, steps=2, text="a cat")
    x, keep = torch.from_numpy(filled.samples.codec.stored(filled.samples.x)), ~quarter
    assert (x[:, :, keep] == latents.codec.read(path)[:, :, keep]).all()
    assert filled.samples.arrays.shape == (2, 8, 8, 3)


def test_an_unconditional_latent_pipeline_is_mapped_too(tmp_path):
    torch.manual_seed(0)
    coder = diffusers.VQModel(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        num_vq_embeddings=4,
        norm_num_groups=4,
        latent_channels=3,
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    net = pipelines.unet(channels=3)
    folder = pipelines.write(tmp_path, "LDMPipeline", scheduler, unet=net, vqvae=coder)
    model, x = load_diffusers(folder), noise(2, 3, 8, 8)
    drawn = SAMPLERS["ddim"](model.denoiser, x, times_of(scheduler, 5))
    with torch.no_grad():
        latents = theirs(scheduler, lambda x, t: net(x, t).sample, x, 5)
        expected = coder.decode(latents / coder.config.scaling_factor).sample
    close(model.codec.decoded(drawn), expected)
    assert sample(model, 2, steps=2).arrays.shape == (2, 8, 8, 3)


# --- What is refused -----------------------------------------------------------------------------


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path):
    folder = pipelines.ddpm(tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelFileError, match=r"\.bin is a pickle.*save_pretrained"):
        load_diffusers(folder)


def renamed(folder, **changes):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **changes}))
    return folder


def test_what_cannot_be_mapped_is_named_beside_what_can(tmp_path):
    folder = pipelines.ddpm(tmp_path)
    renamed(folder, _class_name="WuerstchenPipeline", unet=["diffusers", "WuerstchenPrior"])
    with pytest.raises(ModelFileError, match=r"WuerstchenPipeline.*WuerstchenPrior.*UNet2DModel"):
        load_diffusers(folder)
    renamed(folder, unet=["diffusers", "UNet2DModel"], prior=["diffusers", "PriorTransformer"])
    with pytest.raises(ModelFileError, match=r"prior .PriorTransformer"):
        load_diffusers(folder)
    renamed(folder, prior=[None, None], scheduler=["diffusers", "ScoreSdeVeScheduler"])
    with pytest.raises(ModelFileError, match="ScoreSdeVeScheduler cannot be mapped"):
        load_diffusers(folder)


def test_code_beside_the_weights_is_not_run(tmp_path):
    folder = renamed(pipelines.ddpm(tmp_path), unet=["mine", "UNet2DModel"])
    (folder / "unet" / "mine.py").write_text("raise SystemExit")
    with pytest.raises(ModelFileError, match="mine is not opened"):
        load_diffusers(folder)


def test_noise_is_not_predicted_where_there_is_no_signal(tmp_path):
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ModelFileError, match="rescale_betas_zero_snr"):
        load_diffusers(pipelines.ddpm(tmp_path, scheduler))


def test_a_text_longer_than_the_encoder_is_not_cut_in_silence(stable, tmp_path, capsys):
    long, few = "red cat red cat", ["--steps", "1", "-n", "1", "--out", str(tmp_path)]
    for said in (["--text", long], ["--text", "red", "--negative", long]):
        assert run_command(["sample", str(stable), *said, *few]) == 0
        line = f"The text {long!r} is longer than what is read of it; left out: 'at'."
        assert capsys.readouterr().err.splitlines().count(line) == 1


def test_what_reads_no_texts_or_no_labels_says_so(ddpm, stable):
    with pytest.raises(UsageError, match="leave texts out"):
        sample(load_diffusers(ddpm), 1, text="a cat")
    with pytest.raises(UsageError, match="leave --label out"):
        sample(load_diffusers(stable), 1, label="a cat")


def test_what_is_not_there_is_asked_for_by_name(tmp_path):
    with pytest.raises(UsageError, match="hf download nobody/nothing"):
        load_diffusers("nobody/nothing")
    with pytest.raises(UsageError, match=r"holds no model_index\.json"):
        load_diffusers(tmp_path)


def test_a_label_is_asked_for_where_no_class_is_not_known(tmp_path):
    model = load_diffusers(pipelines.ddpm(tmp_path, num_class_embeds=3))
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    x, net, label = noise(2, 1, 8, 8), model.denoiser.net.net, torch.tensor([2, 0])
    expected = theirs(scheduler, lambda x, t: net(x, t, class_labels=label).sample, x, 5)
    ours = model.denoiser.given(label=label)
    close(SAMPLERS["ddim"](ours, x, times_of(scheduler, 5)), expected)
    with pytest.raises(UsageError, match="give a label"):
        sample(model, 2, steps=2)


def test_the_commands_open_a_pipeline_as_they_open_a_run(stable, ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--steps", "2", "-n", "1"]
    assert run_command(["sample", str(stable), "--text", "a red cat", *few]) == 0
    (drawn,) = (tmp_path / "samples").glob("*.png")
    assert Image.open(drawn).size == (8, 8)
    expected = sample(load_diffusers(stable), 1, text="a red cat", steps=2)
    assert (np.asarray(Image.open(drawn)) == expected.arrays[0]).all()
    edited = ["edit", str(stable), str(drawn), "--how", "encode", "--source", "a red cat"]
    assert run_command([*edited, "--text", "a blue cat", "--negative", "a", *few]) == 0
    assert list((tmp_path / "samples" / "edited").glob("*.png"))
    grey, mask = tmp_path / "grey.png", tmp_path / "mask.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(grey)
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(mask)
    assert run_command(["restore", str(ddpm), str(grey), "--mask", str(mask), *few]) == 0
    (mended,) = (tmp_path / "samples" / "restored").glob("*.png")
    known = np.eye(8) == 0
    assert (np.asarray(Image.open(mended))[known] == np.asarray(Image.open(grey))[known]).all()


@pytest.mark.parametrize("command", ["classify", "detect", "evaluate", "distill"])
def test_what_needs_a_runs_data_says_so_of_a_pipeline(ddpm, tmp_path, command):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    pictures = [str(tmp_path / "a.png")] if command in ("classify", "detect") else []
    code = run_command([command, str(ddpm), *pictures])
    assert code in (UsageError.exit_code, DataError.exit_code)


def test_pictures_larger_than_a_vae_was_trained_on_are_taken_in_its_tiles(stable):
    model = load_diffusers(stable)
    net = model.codec.coder.net  # trained on 32 x 32, it says
    own, large = noise(1, 4, 16, 16), noise(1, 4, 24, 20)
    net.disable_tiling()
    whole = [net.decode(z).sample for z in (own, large)]
    net.enable_tiling()
    assert_close(model.codec.coder.decode(own), whole[0])
    tiled = model.codec.coder.decode(large)
    assert_close(tiled, net.tiled_decode(large).sample)
    assert tiled.shape == whole[1].shape and not torch.equal(tiled, whole[1])
    drawn = sample(model, 1, text="a cat", steps=1, size="48x40")
    assert drawn.arrays.shape == (1, 48, 40, 3)
