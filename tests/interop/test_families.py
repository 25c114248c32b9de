"""Pipelines told texts by several encoders: sampled as diffusers does, and taken by every task."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import pixel_unshuffle
from torch.testing import assert_close

import ornstein as ou
import pipelines
from ornstein.cli import run_command
from ornstein.errors import ModelFileError, UsageError
from ornstein.interop.adopted import adopted
from ornstein.interop.diffusers import load_diffusers, schedule_of, shift_of
from ornstein.interop.pipeline import Pipeline
from ornstein.interop.texts import Layout, Said
from ornstein.rng import Streams
from ornstein.tasks.edit import edit
from ornstein.tasks.restore import restore

diffusers = pytest.importorskip("diffusers")

STEPS, SIZE = 5, 8
EVEN = np.linspace(1, 1 / STEPS, STEPS).tolist()  # the times of our grid, before any shift
BUILT = {
    "large": pipelines.large,
    "joint": pipelines.joint,
    "pixart": pipelines.pixart,
    "latent": pipelines.latent,
    "flux": pipelines.flux,
    "consistent": pipelines.consistent,
}
OPTIONS = {  # that make diffusers take the steps that we take, and of no other size
    "joint": {"sigmas": EVEN},
    "pixart": {"use_resolution_binning": False},
    "latent": {"height": 32, "width": 32},  # it takes every VAE to make pictures 8 times smaller
}
LEFT_OUT = {
    "joint": {"text_encoder_3": None, "tokenizer_3": None},
    "consistent": {"safety_checker": None, "feature_extractor": None, "image_encoder": None},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of each family, made when it is asked for."""
    made = {}

    def folder(name, **options):
        key = (name, *options.items())
        if key not in made:
            made[key] = BUILT[name](tmp_path_factory.mktemp(name), **options)
        return made[key]

    return folder


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch):
    """These networks see hundreds of pieces of texts of a picture of a few points."""
    for task in ("sample", "edit", "restore"):
        monkeypatch.setattr(f"ornstein.tasks.{task}.block", lambda model: 1)


def theirs(folder, name, noise, **asked):
    """What the pipeline of diffusers draws from a noise, in [0, 1]."""
    left_out = {} if (folder / "text_encoder_3").is_dir() else LEFT_OUT.get(name, {})
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **left_out)
    pipe.set_progress_bar_config(disable=True)
    if name == "flux":
        noise = pixel_unshuffle(noise, 2).flatten(2).mT
    size = {"height": SIZE, "width": SIZE} | OPTIONS.get(name, {})
    steps = {"num_inference_steps": STEPS, "latents": noise, "output_type": "pt"}
    return pipe(**asked, **size, **steps).images


def ours(model, **asked):
    drawn = ou.sample(model, 1, sampler="ddim", steps=STEPS, **asked)
    return (drawn.x / 2 + 0.5).clamp(0, 1)


def noise_of(model):
    return Streams(0, [0])(torch.empty(1, *model.shape))


CASES = [
    ("large", {"negative": "blue"}),
    ("large", {}),
    ("joint", {"negative": "blue"}),
    ("pixart", {"negative": "blue"}),
    ("latent", {}),
    ("flux", {"negative": "blue"}),
]


@pytest.mark.parametrize(("name", "away"), CASES, ids=lambda case: "".join(case))
def test_a_text_leads_where_it_leads_in_diffusers(folders, name, away):
    folder = folders(name)
    model = load_diffusers(folder, size=SIZE)
    weight = "true_cfg_scale" if name == "flux" else "guidance_scale"
    asked = {"prompt": "red cat", weight: 3.0}
    if away:
        asked["negative_prompt"] = away["negative"]
    expected = theirs(folder, name, noise_of(model), **asked)
    found = ours(model, text="red cat", guidance=3.0, **away)
    assert_close(found, expected, rtol=0, atol=5e-5)  # of a range of 1
    other = ours(model, text="a blue cat", guidance=3.0, **away)
    assert (other - expected).abs().max() > 1e-3


def test_without_its_third_encoder_a_network_hears_zeros_in_its_place(folders):
    folder = folders("joint", read_on=False)
    model = load_diffusers(folder)
    expected = theirs(folder, "joint", noise_of(model), prompt="red cat", guidance_scale=1.0)
    assert_close(ours(model, text="red cat", guidance=1.0), expected, rtol=0, atol=5e-5)


def test_a_network_that_guides_itself_is_told_the_weight(folders):
    folder = folders("flux", guided=True)
    model = load_diffusers(folder, size=SIZE)
    assert model.config.sample.guidance == 3.5  # as diffusers has it
    expected = theirs(folder, "flux", noise_of(model), prompt="red cat", guidance_scale=6.0)
    found = ours(model, text="red cat", guidance=6.0)
    assert_close(found, expected, rtol=0, atol=5e-5)
    assert (ours(model, text="red cat") - found).abs().max() > 1e-3
    with pytest.raises(UsageError, match="learned its guidance"):
        sample_one(model, text="red cat", negative="blue")


def test_latent_consistency_is_drawn_as_its_pipeline_draws(folders, monkeypatch):
    """With the same noise after each step; its times have to be ours, which lie elsewhere."""
    folder = folders("consistent")
    model = load_diffusers(folder)
    own = model.config.sample
    assert (own.sampler, own.steps, own.guidance) == ("consistency", 4, 8.5)
    draws = Streams(0, [0])
    noise = draws(torch.empty(1, *model.shape))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_lcm.randn_tensor",
        lambda shape, **how: draws(torch.empty(shape)),
    )
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **LEFT_OUT["consistent"])
    pipe.set_progress_bar_config(disable=True)
    asked = {"prompt": "red cat", "guidance_scale": 6.0, "height": SIZE, "width": SIZE}
    steps = {"timesteps": [999, 749, 499, 249], "latents": noise, "output_type": "pt"}
    expected = pipe(**asked, **steps, num_inference_steps=None).images

    def drawn(**asked):
        return (ou.sample(model, 1, **asked).x / 2 + 0.5).clamp(0, 1)

    assert_close(drawn(text="red cat", guidance=6.0), expected, rtol=0, atol=1e-4)
    for other in ({"guidance": 7.0}, {"text": "a blue cat"}):
        asked = {"text": "red cat", "guidance": 6.0} | other
        assert (drawn(**asked) - expected).abs().max() > 1e-3, other
    with pytest.raises(UsageError, match="learned its guidance"):
        sample_one(model, text="red cat", negative="blue")
    picture = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    with pytest.raises(UsageError, match="takes a sampler that draws no noise"):
        edit(model, picture, how="encode", source="red cat", text="a cat")
    with pytest.raises(ModelFileError, match="go on from the pipeline that taught it"):
        adopted(folder)


@pytest.mark.parametrize("weight", [1.0, 2.5, 8.5])
def test_a_network_of_latent_consistency_answers_as_in_diffusers(folders, weight):
    model = load_diffusers(folders("consistent"))
    foreign, x, told = model.denoiser.net, noise_of(model), model.words.tensor(["red cat"])
    log_snr = model.denoiser.schedule.log_snr(torch.tensor([500 / 1000], dtype=torch.float64))
    as_theirs = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding
    expected = foreign.net(
        x,
        torch.tensor([499.0]),
        encoder_hidden_states=told,
        timestep_cond=as_theirs(None, torch.tensor([weight - 1]), 16),
    ).sample
    found = foreign(x, log_snr, text=told, guidance=torch.tensor([weight]))
    assert_close(found, expected, rtol=0, atol=1e-4)
    unsaid = foreign(x, log_snr, text=told)
    assert torch.allclose(unsaid, expected, atol=1e-4) == (weight == 1)


def test_the_table_of_latent_consistency_is_its_own(folders, tmp_path):
    """Its scheduler means other betas than the rest of them by what it leaves out."""
    table = schedule_of(Pipeline(folders("consistent")))[0].alpha_bar
    assert table == tuple(diffusers.LCMScheduler().alphas_cumprod.double().tolist())
    folder = pipelines.ddpm(tmp_path, diffusers.LCMScheduler())
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "LCMScheduler"}))
    assert schedule_of(Pipeline(folder))[0].alpha_bar == table


def sample_one(model, **asked):
    return ou.sample(model, 1, steps=1, **asked)


GUIDANCE = {"large": 5.0, "joint": 7.0, "pixart": 4.5, "latent": 1.0, "flux": 1.0}


@pytest.mark.parametrize("name", GUIDANCE)
def test_every_task_takes_each(folders, tmp_path, name):
    """Known pixels are kept, through the decoder; an edit goes where its text leads."""
    model = load_diffusers(folders(name), size=SIZE)
    assert model.config.sample.guidance == GUIDANCE[name]  # as diffusers has it
    path = tmp_path / "picture.png"
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(path)
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[:4, :4] = True
    filled = restore(model, path, hole, draws=1, steps=2, text="a cat").samples
    x, known = torch.from_numpy(filled.codec.stored(filled.x)), model.codec.read(path)
    assert (x[:, :, ~hole] == known[:, :, ~hole]).all()
    assert not (x[:, :, hole] == known[:, :, hole]).all()
    how = {"how": "encode", "source": "red cat", "steps": 2}
    same, other = (edit(model, path, text=text, **how).samples.x for text in ("red cat", "a cat"))
    assert same.shape == (1, 3, 8, 8) and not torch.allclose(same, other, atol=1e-3)


def test_the_commands_take_a_pipeline_of_several_encoders(folders, tmp_path):
    asked = ["--text", "a red cat", "--negative", "blue", "--steps", "2", "-n", "1"]
    assert run_command(["sample", str(folders("large")), *asked, "--out", str(tmp_path)]) == 0
    [drawn] = tmp_path.glob("*.png")
    model = load_diffusers(folders("large"))
    expected = ou.sample(model, 1, text="a red cat", negative="blue", steps=2)
    assert (np.asarray(Image.open(drawn)) == expected.arrays[0]).all()


# --- Texts ---------------------------------------------------------------------------------------


def test_what_is_said_of_texts_comes_back_from_its_table():
    draw = torch.Generator().manual_seed(0)
    for length, width, whole in ((3, 4, 0), (3, 4, 4), (2, 4, 6), (1, 5, 1)):
        said = Said(torch.randn(2, length, width, generator=draw), torch.randn(2, whole))
        layout = Layout.of(said)
        again = layout.said(layout.laid_out(said))
        assert torch.equal(again.pieces, said.pieces) and torch.equal(again.whole, said.whole)


def test_emphasis_counts_a_piece_as_if_it_were_there_so_often_where_the_rest_is_hidden(folders):
    model = load_diffusers(folders("pixart"), size=SIZE)
    foreign, x = model.denoiser.net, noise_of(model)
    said = foreign.layout.said(model.words.tensor(["red cat"]))
    there = 1 - said.pieces[..., 0].isnan().float()
    assert there.sum() == 3  # red, cat, and the end
    emphasis = model.words.emphasis((("red ", 1.0), ("cat", 3.0)))
    assert emphasis[:4].tolist() == [1, 3, 1, 1]
    pieces = said.pieces.nan_to_num()
    often, twice = (torch.cat([both, both[:, 1:2], both[:, 1:2]], 1) for both in (pieces, there))
    log_snr = model.denoiser.schedule.log_snr(torch.tensor([301 / 1000], dtype=torch.float64))
    added = {"resolution": torch.tensor([[8.0, 8.0]]), "aspect_ratio": torch.ones(1, 1)}
    expected = foreign.net(
        x,
        often,
        foreign.clock(log_snr).float(),
        encoder_attention_mask=twice,
        added_cond_kwargs=added,
    ).sample[:, :4]
    table = model.words.tensor(["red cat"])
    found = foreign(x, log_snr, text=table, emphasis=emphasis[None])
    assert_close(found, expected, rtol=0, atol=1e-3)
    assert not torch.allclose(foreign(x, log_snr, text=table), expected, atol=3e-3)


@pytest.mark.parametrize("name", ["joint", "flux"])
def test_a_network_that_knows_no_emphasis_says_so(folders, name):
    model = load_diffusers(folders(name), size=SIZE)
    with pytest.raises(UsageError, match="knows no emphasis"):
        sample_one(model, text="a (red:1.4) cat")


def test_who_cuts_a_text_is_said_where_others_read_on(folders):
    words = load_diffusers(folders("joint")).words
    assert words.unread("red cat") == ""
    assert words.unread("red cat red cat") == "at (by text_encoder, text_encoder_2)"
    assert load_diffusers(folders("large")).words.unread("red cat red cat") == "at"


def test_weights_of_half_precision_are_taken_to_float32_under_whichever_name(tmp_path):
    folder = pipelines.large(tmp_path)
    whole = load_diffusers(folder)
    for part in ("unet", "vae", "text_encoder"):
        [path] = (folder / part).glob("*.safetensors")
        half = {name: value.half() for name, value in load_file(path).items()}
        path.unlink()
        save_file(half, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    changed(folder, "text_encoder", dtype="float16")
    model = load_diffusers(folder)
    for net in (model.denoiser.net.net, model.codec.coder.net, model.words.encoders[0].net):
        assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert_close(ours(model, text="red cat"), ours(whole, text="red cat"), rtol=0, atol=0.05)


# --- What the scheduler says ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("squares", [256, 1024, 4096])
def test_a_shift_that_grows_with_pictures_is_that_of_diffusers(tmp_path, kind, squares):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, time_shift_type=kind
    )
    folder = pipelines.ddpm(tmp_path, scheduler)
    schedule = schedule_of(Pipeline(folder), squares)[0]
    scheduler.set_timesteps(sigmas=EVEN, mu=calculate_shift(squares))
    _, sigma = schedule(torch.tensor([*EVEN, 0.0], dtype=torch.float64))
    assert_close(sigma, scheduler.sigmas.double(), rtol=0, atol=1e-6)


def test_the_default_line_of_shifts_is_that_of_flux():
    assert shift_of({}, 256) == pytest.approx(np.exp(0.5))
    assert shift_of({}, 4096) == pytest.approx(np.exp(1.15))


# --- What is refused -----------------------------------------------------------------------------


def changed(folder, part=None, **changes):
    """The folder with another configuration, of the whole or of a part."""
    path = folder / "model_index.json" if part is None else folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_encoders_that_a_network_does_not_hear_together_are_refused(tmp_path):
    folder = changed(pipelines.large(tmp_path), text_encoder_2=[None, None])
    with pytest.raises(ModelFileError, match=r"not told what .* text_encoder \(CLIPTextModel\)"):
        load_diffusers(folder)
    changed(folder, text_encoder=[None, None])
    with pytest.raises(ModelFileError, match="hears texts, and it has no text encoders"):
        load_diffusers(folder)


def test_an_encoder_of_another_width_is_refused(tmp_path):
    folder = pipelines.large(tmp_path)
    changed(
        folder,
        text_encoder=[None, None],
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
    )
    with pytest.raises(ModelFileError, match="hears 20 numbers of each piece"):
        load_diffusers(folder)


def test_a_tokenizer_that_is_not_known_is_named(tmp_path):
    folder = changed(pipelines.stable(tmp_path), tokenizer=["transformers", "AutoTokenizer"])
    with pytest.raises(ModelFileError, match="AutoTokenizer of its text_encoder is not one of"):
        load_diffusers(folder)


def test_a_tokenizer_without_its_words_is_refused(tmp_path):
    """Transformers makes one of nothing, which knows no word."""
    folder = pipelines.pixart(tmp_path, side=4)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match="tokenizer holds no vocabulary"):
        load_diffusers(folder)
    (folder / "tokenizer" / "spiece.model").write_bytes(b"")
    if find_spec("sentencepiece") is None:
        with pytest.raises(UsageError, match="pip install sentencepiece"):
            load_diffusers(folder)


def test_a_transformer_is_of_the_family_that_its_norm_says(tmp_path):
    folder = pipelines.pixart(tmp_path, side=4)
    changed(folder, transformer=["diffusers", "Transformer2DModel"])  # as it was published
    model = load_diffusers(folder)
    assert model.shape == (4, 4, 4) and model.words.length == 120
    other = diffusers.Transformer2DModel(2, 4, in_channels=4, norm_num_groups=2)
    other.save_pretrained(folder / "transformer")
    with pytest.raises(ModelFileError, match="ada_norm_zero or ada_norm_single, not layer_norm"):
        load_diffusers(folder)


def test_latents_have_the_mean_and_the_deviation_that_their_autoencoder_says(tmp_path):
    mean, std = [0.1, -0.2, 0.3, 0.0], [2.0, 1.0, 0.5, 1.5]
    folder = changed(pipelines.large(tmp_path), "vae", latents_mean=mean, latents_std=std)
    codec = load_diffusers(folder).codec
    assert codec.mean == tuple(mean)
    assert codec.std == tuple(2 * one for one in std)  # over a scaling_factor of 1 / 2


def test_sizes_that_squares_do_not_fill_are_refused(folders):
    with pytest.raises(UsageError, match="must be a multiple of 4"):
        load_diffusers(folders("flux"), size=6)
