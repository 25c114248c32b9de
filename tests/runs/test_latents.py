"""Runs of autoencoders, and runs on their latents."""

import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ornstein.cli import run_command
from ornstein.data import DataOptions, open_data, room
from ornstein.data.dataset import draws_at
from ornstein.errors import DataError, ModelFileError, UsageError
from ornstein.evaluate.evaluation import evaluate, write
from ornstein.evaluate.measures.bits import measure_bits, why_none
from ornstein.interop.hub import files_of
from ornstein.rng import normal
from ornstein.runs.config import AutoencoderConfig, NetConfig, RunConfig, TrainConfig
from ornstein.runs.folder import RunFolder
from ornstein.runs.latents import KEPT, encoded, latents_of, measured
from ornstein.runs.model import load
from ornstein.runs.sized import sized
from ornstein.tasks.augment import augment
from ornstein.tasks.detect import detect
from ornstein.tasks.edit import edit
from ornstein.tasks.merge import merge
from ornstein.tasks.restore import restore
from ornstein.tasks.sample import sample
from ornstein.train import train
from ornstein.train.adapt import adaptation
from ornstein.train.recipes import recipe
from ornstein.train.signals import Stop
from ornstein.train.training import Training
from train.tiny import resumed_and_whole

OPTIONS = DataOptions(size=16, limit=300)


def coder(**options):
    return RunConfig(
        source="digits",
        data=OPTIONS,
        net=NetConfig(kind="autoencoder", size=8),
        train=TrainConfig(
            seen=2560,
            batch=32,
            precision="f32",
            ema=(0.05,),
            optimizer="muon",
            learning_rate=2e-2,
        ),
        autoencoder=AutoencoderConfig(**options),
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """An autoencoder, and a run on its latents."""
    folder = tmp_path_factory.mktemp("latents")
    train("digits", out=folder / "coder", config=coder())
    config = RunConfig(
        source="digits",
        latent=str(folder / "coder"),
        data=OPTIONS,
        net=NetConfig(size=8),
        train=TrainConfig(seen=128, batch=32, precision="f32", ema=(0.05,)),
    )
    train("digits", out=folder / "run", config=config)
    return folder


@pytest.fixture(scope="module")
def sides():
    return open_data("digits", OPTIONS).split(0.1, 0)


def test_latents_of_held_out_data_have_mean_0_and_variance_1(places, sides):
    codec = latents_of(places / "coder")
    x = codec.pack(sides[1].stored)
    of_channels = x.transpose(0, 1).flatten(1)
    free = len(x)  # neighbours are alike: at least as many numbers as examples are independent
    assert of_channels.mean(1).abs().max() < 4 / free**0.5
    assert (of_channels.std(1) - 1).abs().max() < 4 / (2 * free) ** 0.5
    assert not all(abs(s - 1) < 0.02 for s in codec.std)  # it was measured, not assumed


def test_the_error_kept_is_that_of_the_training_data(places, sides):
    codec, stored = latents_of(places / "coder"), sides[0].stored
    gap = codec.decoded(codec.pack(stored)) - codec.data.pack(stored)
    assert_close(gap.square().mean().sqrt().item(), codec.error, rtol=1e-4, atol=0)


def test_a_dataset_encoded_once_is_what_would_be_encoded_each_time(places, sides):
    codec = latents_of(places / "coder")
    data = encoded(sides[1], codec)
    assert_close(data.batch(torch.arange(4))[0], codec.pack(sides[1].stored[:4]))
    assert data.stored.shape[1:] == codec.shape


def test_latents_that_memory_does_not_hold_are_mapped(places, sides, tmp_path, monkeypatch):
    codec = latents_of(places / "coder")
    held = encoded(sides[1], codec)
    monkeypatch.setenv("ORNSTEIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(room, "most_held", lambda: 0)
    assert torch.equal(encoded(sides[1], codec).stored, held.stored)
    assert (tmp_path / "cache").is_dir()


def test_the_recipe_of_a_run_on_latents_goes_by_their_size(places):
    large = open_data("digits", DataOptions(size=20, limit=4))
    assert recipe(large).train.batch == 32
    config = recipe(large, latent=places / "coder")
    assert config.train.batch == 64 and config.latent == str((places / "coder").resolve())


def test_a_run_on_latents_needs_its_autoencoder_no_more(places, tmp_path):
    before = sample(places / "run", 2, steps=2)
    shutil.copytree(places / "run", tmp_path / "moved")
    model = load(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(places / "coder", tmp_path / "elsewhere")
    try:
        after = sample(model, 2, steps=2)
        assert torch.equal(before.x, after.x)
        assert after.x.shape == (2, 1, 16, 16)
        assert after.arrays.dtype == "uint8"
        assert latents_of(tmp_path / "moved").std == latents_of(places / "run").std
    finally:
        shutil.move(tmp_path / "elsewhere" / "coder", places)


def test_what_is_pushed_is_all_that_it_takes(places, tmp_path):
    for name in ("coder", "run"):
        for file in files_of(RunFolder.open(places / name)):
            to = tmp_path / name / file
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(places / name / file, to)
    drawn = [sample(folder / "run", 2, steps=2).x for folder in (places, tmp_path)]
    assert torch.equal(*drawn)
    assert latents_of(tmp_path / "coder").std == latents_of(places / "coder").std


@pytest.fixture(scope="module")
def style(places):
    """An adapter of the run, which is stopped and goes on."""
    config = adaptation(places / "run", rank=2, like="3")
    config = replace(config, data=replace(config.data, limit=60, word="three"))
    config = replace(config, train=replace(config.train, seen=96, learning_rate=1e-2))
    (places / "coder").rename(places / "away")  # the base has all that it takes
    try:
        stop = Stop()
        stop.set()
        train("digits", out=places / "style", config=config, stop=stop)
        train(out=places / "style", resume=True)
    finally:
        (places / "away").rename(places / "coder")
    return places / "style"


def test_an_adapter_of_a_run_on_latents_adds_to_it_and_can_be_left_off(places, style):
    drawn = {
        strength: sample(load(places / "run", adapters=[(style, strength)]), 2, steps=2).x
        for strength in (0.0, 1.0)
    }
    base = sample(places / "run", 2, steps=2).x
    assert torch.equal(drawn[0.0], base) and base.shape == (2, 1, 16, 16)
    assert not torch.equal(drawn[1.0], base)
    assert torch.equal(drawn[1.0], sample(style, 2, steps=2).x)
    merged = merge(places / "run", [style], out=places / "merged")
    assert torch.equal(drawn[1.0], sample(merged, 2, steps=2).x)


def test_what_a_run_on_latents_is_not_to_forget_is_drawn_once_as_latents(places, style):
    folder = RunFolder.open(style)
    assert folder.kept("remembered")["stored"].shape[1:] == load(places / "run").shape
    assert load(style).vocabulary.classes[-1] == "three"


def test_all_weights_of_a_run_on_latents_go_on_from_where_they_stand(places, tmp_path):
    config = adaptation(places / "run", "all")
    config = replace(config, train=replace(config.train, seen=32, learning_rate=1e-9))
    after = train("digits", out=tmp_path / "on", config=config)
    assert load(after.path).codec.std == load(places / "run").codec.std
    found, base = (sample(place, 2, steps=2).x for place in (after, places / "run"))
    assert_close(found, base, rtol=0, atol=1e-3)


def test_no_bits_are_told_of_latents_and_it_is_said_why(places, sides):
    model = load(places / "run")
    assert measure_bits(model, *sides, count=4) is None
    assert "a density of latents is none of the data" in why_none(model)


def test_the_page_of_a_run_on_latents_shows_what_it_draws(places, tmp_path):
    found = evaluate(places / "run", steps=2, likely=0, count=60, device="cpu")
    assert write(found, tmp_path).read_text().count("<img") >= 4


def test_damaged_weights_of_the_autoencoder_are_refused(places, tmp_path):
    shutil.copytree(places / "run", tmp_path / "run")
    [file] = (tmp_path / "run" / "kept" / KEPT).glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelFileError):
        load(tmp_path / "run")


def test_known_pixels_are_kept_exactly(places, sides):
    pictures, hole = sides[1].stored[:2], torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    hole[..., 6:10] = True
    keep = ~hole.expand(2, 1, 16, 16)
    options = {"draws": 1, "steps": 2}
    for done in (
        restore(places / "run", pictures, hole, **options).samples,
        edit(places / "run", pictures, 0.5, mask=hole, **options).samples,
    ):
        found = torch.from_numpy(done.codec.stored(done.x))
        assert torch.equal(found[keep], pictures[keep])
        assert not torch.equal(found, pictures)


def test_what_was_measured_is_met_through_the_decoder(places, sides):
    """Pictures scaled down, as the decoder would have them, come back as such."""
    codec = latents_of(places / "run")
    pictures = torch.from_numpy(codec.stored(codec.pack(sides[1].stored[:2])))
    found = restore(places / "run", pictures, draws=1, steps=8, upscale=4, simulate=True)
    back = found.samples.x
    known = torch.nn.functional.avg_pool2d(codec.data.pack(pictures), 4)
    free = sample(places / "run", 2, steps=8).x
    error, chance = (
        (torch.nn.functional.avg_pool2d(x, 4) - known).square().mean() for x in (back, free)
    )
    assert error < 0.3 * chance
    assert back.shape == (2, 1, 16, 16)


def test_what_is_strange_is_shown_on_the_pictures_themselves(places, sides):
    found = detect(places / "run", sides[1].stored[:2])
    assert found.heat is not None
    assert found.heat.shape == (2, 16, 16)
    assert found.x.shape == (2, 1, 16, 16)


# --- Larger than the training's ------------------------------------------------------------------


def test_larger_pictures_are_drawn_in_windows_of_latents_and_decoded_in_tiles(places):
    model = sized(load(places / "run"), (20, 330))
    assert model.shape == (4, 5, 83)
    z = normal((1, *model.shape), "z")
    whole = model.codec.coder.decode(z, tile=10**6)
    tiled = model.codec.coder.decode(z)
    assert_close(tiled, whole, rtol=0, atol=1e-4)
    assert not torch.equal(tiled, whole)  # there were several
    drawn = sample(places / "run", 2, steps=1, size="20x330")
    assert drawn.x.shape == (2, 1, 20, 330)
    again = sample(places / "run", steps=1, size="20x330", examples="1")
    assert torch.equal(again.x, drawn.x[1:])
    with pytest.raises(UsageError, match="12 x 40 is smaller than what the run was trained on, 16"):
        sample(places / "run", 1, size="12x40")


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """A run on latents of patches."""
    folder = tmp_path_factory.mktemp("patches")
    options = DataOptions(patch=16, size=24, limit=40)
    short = TrainConfig(seen=64, batch=32, precision="f32", ema=(0.05,))
    net = NetConfig(kind="autoencoder", size=8)
    train("digits", out=folder / "coder", config=RunConfig(data=options, net=net, train=short))
    config = RunConfig(
        latent=str(folder / "coder"), data=options, net=NetConfig(size=8), train=short
    )
    return train("digits", out=folder / "run", config=config).path


def test_patches_are_cut_anew_each_time_before_they_are_encoded(patches):
    codec, data = (
        latents_of(patches),
        open_data("digits", RunConfig.from_toml(RunFolder.open(patches).config_toml).data),
    )
    learned, draws = encoded(data, codec), draws_at(0, range(8))
    x, _ = learned.batch(torch.arange(8), draws)
    assert_close(x, codec.pack(data.patches.drawn(torch.arange(8), draws[:, 1:3])))


def test_a_run_on_latents_of_patches_mends_and_changes_larger_pictures(patches):
    pictures = open_data("digits", DataOptions(size=24, limit=2)).stored
    hole = torch.zeros(1, 1, 24, 24, dtype=torch.bool)
    hole[..., 9:14, 9:14] = True
    keep = ~hole.expand(2, 1, 24, 24)
    for done in (
        restore(patches, pictures, hole, draws=1, steps=2).samples,
        edit(patches, pictures, 0.5, mask=hole, draws=1, steps=2).samples,
    ):
        assert torch.equal(torch.from_numpy(done.codec.stored(done.x))[keep], pictures[keep])


def test_the_last_bits_of_an_example_are_the_same_however_many_are_drawn(places):
    drawn = sample(places / "run", 7, steps=1).x
    for few in ("0", "2-3", "1-5"):
        first, _, last = few.partition("-")
        here = slice(int(first), int(last or first) + 1)
        assert torch.equal(sample(places / "run", steps=1, examples=few).x, drawn[here])


def test_a_grid_of_what_was_drawn_shows_pictures(places, tmp_path):
    options = ["-n", "2", "--steps", "1", "--out", str(tmp_path), "--grid"]
    assert run_command(["sample", str(places / "run"), *options, str(tmp_path / "a.png")]) == 0
    assert Image.open(tmp_path / "a.png").width >= 16


def test_examples_beside_the_real_ones_are_told_from_copies_in_their_own_units(places, tmp_path):
    found = augment(places / "run", 1, label=["0", "1"], seeds=0, steps=2)
    assert [d.stored.shape for d in found.drawn] == [(1, 16, 16)] * 2
    assert found.save(tmp_path / "set")


def test_a_resumed_autoencoder_is_the_same_to_the_bit(sides):
    config = replace(coder(), train=replace(coder().train, seen=192))
    resumed, whole = resumed_and_whole(config, sides[0], 3)
    assert resumed == whole


@pytest.mark.parametrize("levels", [0, 5])
def test_what_comes_back_is_nearer_than_the_mean(sides, levels):
    config = replace(coder(levels=levels), train=replace(coder().train, seen=1280))
    training = Training(config, sides[0])
    for _ in range(40):
        training.update()
    net = training.averages.learners[0].autoencoder
    assert measured(sides[1], net)["error"] < 0.8  # the mean has 1


def test_flags_say_what_the_latents_are(capsys):
    flags = ["--autoencoder.levels", "5", "--autoencoder.factor", "2", "--dry-run"]
    assert run_command(["train", "digits", "--recipe", "autoencoder", *flags]) == 0
    config = RunConfig.from_toml(capsys.readouterr().out)
    assert config.autoencoder == AutoencoderConfig(levels=5, factor=2)
    assert run_command(["train", "digits", *flags]) == 2
    assert "add --recipe autoencoder" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_in_a_sentence(places, sides):
    with pytest.raises(UsageError, match="is an autoencoder, which draws nothing"):
        load(places / "coder")
    with pytest.raises(UsageError, match="no autoencoder: make one"):
        train("swiss-roll", out=places / "points", seen=64)
        latents_of(places / "points")
    with pytest.raises(DataError, match="but the autoencoder was trained on"):
        encoded(open_data("flower", DataOptions(size=16, limit=4)), latents_of(places / "coder"))
    with pytest.raises(UsageError, match="autoencoder is"):
        Training(replace(coder(), source="swiss-roll"), open_data("swiss-roll"))
