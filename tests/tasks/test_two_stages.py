"""A prior before a decoder, and pictures changed by their embeddings."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from captioned import captioned_folder
from ornstein.data import open_data
from ornstein.errors import UsageError
from ornstein.rng import generator, normal
from ornstein.runs.config import (
    AutoencoderConfig,
    EmbeddingConfig,
    NetConfig,
    RunConfig,
    TrainConfig,
)
from ornstein.runs.embedding import encoder_of
from ornstein.runs.model import load
from ornstein.runs.provenance import read_stamp
from ornstein.tasks.asking import conditions
from ornstein.tasks.edit import between, edit
from ornstein.tasks.embedding import dealt, sphere, turned
from ornstein.tasks.examples import training_data
from ornstein.tasks.merge import merge
from ornstein.tasks.options import SampleOptions
from ornstein.tasks.sample import BEST_OF, drawn_by, sample
from ornstein.train import train
from ornstein.train.adapt import adaptation
from untrained import tiny_model

TRAIN = TrainConfig(seen=640, batch=32, precision="f32", ema=(0.05,), learning_rate=3e-3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two encoders, a prior of the first, a decoder of each."""
    folder = tmp_path_factory.mktemp("stages")
    pictures = captioned_folder(folder / "pictures")
    towers = RunConfig(
        net=NetConfig(kind="contrastive", size=8), embedding=EmbeddingConfig(numbers=6), train=TRAIN
    )
    train(pictures, out=folder / "encoder", config=towers)
    few = replace(TRAIN, seen=64)
    train(pictures, out=folder / "other", config=replace(towers, seed=1, train=few))
    mlp, unet = NetConfig(kind="mlp", size=32, depth=2), NetConfig(size=8, depth=1)
    for name, encoder, role, net, seen in (
        ("prior", "encoder", "prior", mlp, 6400),
        ("decoder", "encoder", "decoder", unet, 1280),
        ("stranger", "other", "decoder", unet, 32),
    ):
        by = EmbeddingConfig(encoder=str(folder / encoder), role=role)
        config = RunConfig(net=net, embedding=by, train=replace(TRAIN, seen=seen))
        train(pictures, out=folder / name, config=config)
    return folder


@pytest.fixture(scope="module")
def prior(runs):
    return load(runs / "prior")


@pytest.fixture(scope="module")
def decoder(runs):
    return load(runs / "decoder")


@pytest.fixture(scope="module")
def pictures(runs):
    return open_data(runs / "pictures").stored


# --- Sampling ------------------------------------------------------------------------------------


def test_an_example_of_two_stages_is_a_function_of_the_seed_and_its_number(prior, decoder):
    texts = ("red left", "blue right")
    every = sample(decoder, 5, prior=prior, text=texts, steps=2, guidance=2.0).x
    some = sample(decoder, prior=prior, text=texts, steps=2, guidance=2.0, examples="2-3").x
    other = sample(decoder, 5, prior=prior, text=texts, steps=2, guidance=2.0, seed=1).x
    assert torch.equal(every[2:4], some)
    assert not torch.equal(every, other)


def test_a_picture_says_which_prior_drew_its_embedding(prior, decoder, tmp_path):
    one, other = (
        sample(decoder, 1, text=("red left",), steps=1, **how).save(tmp_path / name)[0]
        for name, how in (("staged", {"prior": prior}), ("direct", {}))
    )
    facts = [read_stamp(path.read_bytes()) for path in (one, other)]
    assert [f["run"] for f in facts] == [decoder.run.identity["id"]] * 2
    assert facts[0]["prior"] == prior.run.identity["id"] and "prior" not in facts[1]


def test_the_prior_draws_what_the_text_says(prior, decoder):
    encoder, texts = prior.encoder, ("red left", "blue right", "green left")
    asked = SampleOptions(text=texts)
    heard = drawn_by(prior, decoder, asked)(range(60))
    e = encoder.of_x(heard)
    said = encoder.of_texts(texts)
    right = (e @ said.T).argmax(1) == torch.arange(60) % 3
    assert right.float().mean() > 0.7


def test_each_stage_hears_the_words_and_an_embedding(prior, decoder):
    asked = SampleOptions(text=("red left", "blue right"))
    heard = drawn_by(prior, decoder, asked)
    for model, told in (
        (prior, conditions(prior, asked, range(2))),
        (decoder, conditions(decoder, asked, range(2), heard=heard)),
    ):
        assert set(told) == {"text", "embedding"}
        x_t, t = normal((2, *model.shape), "x_t"), torch.full((2,), 0.5, dtype=torch.float64)
        both = model.denoiser(x_t, t, **told)
        for name, value in told.items():
            other = model.denoiser(x_t, t, **(told | {name: value.flip(0)}))
            assert (other - both).flatten(1).norm(dim=1).min() > 0.05


def test_a_decoder_hears_an_embedding_alone_or_a_text_alone(decoder, pictures):
    alone = conditions(decoder, SampleOptions(text=("red left",)), range(2))
    assert set(alone) == {"text"}
    heard = dealt(decoder.encoder, decoder.encoder.of_pictures(pictures[:2]))
    assert set(conditions(decoder, SampleOptions(), range(2), heard=heard)) == {"embedding"}


def test_of_two_that_the_prior_draws_the_nearer_one_is_taken(prior, decoder):
    asked = SampleOptions(text=("red left",))
    one = drawn_by(prior, decoder, asked)(range(8))
    said = prior.encoder.of_texts(["red left"])[0]
    near = prior.encoder.of_x(one) @ said
    seed = int(generator("prior", 0).integers(2**62))
    every = sample(prior, BEST_OF * 8, text=("red left",), seed=seed).x
    both = (prior.encoder.of_x(every) @ said).view(8, BEST_OF)
    assert_close(near, both.max(1).values)
    assert (both.max(1).values > both.min(1).values).all()


def test_a_decoder_needs_no_prior_and_a_prior_no_text(prior, decoder):
    direct = sample(decoder, 2, text=("red left",), steps=2).x
    staged = sample(decoder, 2, text=("red left",), prior=prior, steps=2).x
    free = sample(decoder, 2, prior=prior, steps=2).x
    none = sample(decoder, 2, steps=2).x
    for one, other in ((direct, staged), (staged, free), (free, none)):
        assert not torch.equal(one, other)


def test_runs_that_do_not_go_together_are_refused(runs, prior, decoder):
    with pytest.raises(UsageError, match=r"prior goes by the encoder .*encoder, but .*stranger by"):
        sample(load(runs / "stranger"), 1, prior=prior, text=("red left",))
    with pytest.raises(UsageError, match="decoder is no prior: train one"):
        sample(decoder, 1, prior=decoder)
    with pytest.raises(UsageError, match="prior is no decoder: train one"):
        sample(prior, 1, prior=prior)
    with pytest.raises(UsageError, match="hears of a text as a whole"):
        sample(decoder, 1, prior=prior, text=("red AND left",), steps=1)
    with pytest.raises(UsageError, match="hears of a text as a whole"):
        sample(decoder, 1, prior=prior, text=("(red:2) left",), steps=1)


# --- The sphere ----------------------------------------------------------------------------------


def unit(*key):
    return torch.nn.functional.normalize(normal((8,), *key).double(), dim=0)


def test_the_way_along_the_sphere_keeps_its_ends_its_length_and_its_pace():
    a, b, shares = unit("a"), unit("b"), torch.linspace(0, 1, 9).double()
    way = sphere(a, b, shares)
    assert_close(way[0], a, rtol=0, atol=1e-12)
    assert_close(way[-1], b, rtol=0, atol=1e-12)
    assert_close(way.norm(dim=1), torch.ones(9).double())
    pace = (way[1:] * way[:-1]).sum(1)
    assert_close(pace, pace[:1].expand(8))


def test_a_difference_of_texts_turns_by_its_share_and_equal_texts_not_at_all():
    e, a, b = torch.stack([unit("e"), unit("f")]), unit("a"), unit("b")
    assert torch.equal(turned(e, a, a.clone(), 0.7), e)
    assert_close(turned(e, a, b, 0.0), e, rtol=0, atol=1e-12)
    apart = (b - a) / (b - a).norm()
    assert_close(turned(e, a, b, 1.0), apart.expand(2, -1), rtol=0, atol=1e-12)
    whole, part = (
        (e * other).sum(1).acos() for other in (apart.expand(2, -1), turned(e, a, b, 0.3))
    )
    assert_close(part, 0.3 * whole)


# --- Editing -------------------------------------------------------------------------------------


def test_variations_are_drawn_from_noise_alone_and_told_the_embedding(decoder, pictures):
    options = {"how": "embedding", "steps": 8, "guidance": 1.0}
    found = edit(decoder, pictures[:6], draws=4, **options).samples.x
    encoder = decoder.encoder
    stored = torch.from_numpy(decoder.codec.stored(found))
    e = encoder.of_pictures(stored).unflatten(0, (6, 4))
    own = encoder.of_pictures(pictures[:6])
    near = torch.einsum("pde,qe->pdq", e, own)
    mine = near[torch.arange(6), :, torch.arange(6)].mean()
    assert mine > near.mean() + 0.1
    assert not torch.equal(found[0], found[1])
    # the picture itself is not begun from: another with the same embedding gives the same
    again = edit(decoder, pictures[:1], 0.3, draws=2, **options).samples.x
    assert_close(again, found[:2], rtol=0, atol=1e-3)


def test_texts_that_say_the_same_give_the_picture_back_and_others_do_not(decoder, pictures):
    options = {"how": "encode", "steps": 32}
    given = decoder.codec.pack(pictures[:2])
    back = edit(decoder, pictures[:2], 1.0, **options).samples.x
    same = {"from_text": "red left", "to_text": "red left"}
    assert torch.equal(edit(decoder, pictures[:2], 1.0, **options, **same).samples.x, back)
    assert (back - given).square().mean().sqrt() < 0.2
    other = {"from_text": "red left", "to_text": "blue right"}
    moved = edit(decoder, pictures[:2], 1.0, **options, **other).samples.x
    assert (moved - back).square().mean().sqrt() > 0.01  # in the latent is nearly all there is
    still = edit(decoder, pictures[:2], 1.0, **options, **other, turn=0.0).samples.x
    assert_close(still, back, rtol=0, atol=1e-3)


def test_what_is_drawn_anew_goes_the_way_from_one_text_to_the_other(decoder, pictures):
    encoder, way = decoder.encoder, {"from_text": "red left", "to_text": "blue right", "turn": 0.9}
    options = {"how": "embedding", "steps": 8, "draws": 4}
    apart = torch.diff(encoder.of_texts(["red left", "blue right"]), dim=0)[0]
    along = []
    for texts in ({}, way):
        found = edit(decoder, pictures[:1], **options, **texts).samples
        e = encoder.of_pictures(torch.from_numpy(found.codec.stored(found.x)))
        along.append((e @ apart).mean())
    assert along[1] > along[0] + 0.1


def test_between_two_pictures_the_ends_come_back(decoder, pictures):
    way = between(decoder, pictures[:1], pictures[3:4], 3, steps=32).x
    ends = decoder.codec.pack(torch.cat([pictures[:1], pictures[3:4]]))
    assert (way[[0, 2]] - ends).square().mean().sqrt() < 0.2


def test_a_decoder_of_latents_is_told_the_embeddings_of_the_pictures(runs, prior, pictures):
    coder, encoder = runs / "coder", encoder_of(runs / "encoder")
    learn = replace(TRAIN, seen=1920, optimizer="muon", learning_rate=2e-2)
    config = RunConfig(net=NetConfig(kind="autoencoder", size=8), train=learn)
    train(runs / "pictures", out=coder, config=replace(config, autoencoder=AutoencoderConfig()))
    by = EmbeddingConfig(encoder=str(runs / "encoder"))
    config = RunConfig(net=NetConfig(size=8, depth=1), embedding=by, latent=str(coder))
    place = runs / "of-latents"
    train(runs / "pictures", out=place, config=replace(config, train=replace(TRAIN, seen=1280)))
    shutil.rmtree(coder)  # it holds what it needs of the autoencoder
    decoder = load(place)
    assert decoder.encoder is not None
    assert decoder.shape == (4, 2, 2)
    data = training_data(decoder)[0]
    told = data.batch(torch.arange(4))[1]["embedding"]
    assert_close(told, encoder.pictures.standard(encoder.of_pictures(data.stored[:4])))
    drawn = sample(decoder, 2, prior=prior, text=("red left",), steps=2)
    assert drawn.arrays.shape == (2, 8, 8, 3)
    # there and back, told the same: what the autoencoder brings back
    known = decoder.codec.decoded(decoder.codec.pack(pictures[:2]))
    back = edit(decoder, pictures[:2], 1.0, how="encode", steps=32).samples.x
    assert (back - known).square().mean().sqrt() < 0.2
    moved = edit(decoder, pictures[:2], how="embedding", draws=1, steps=8).samples.x
    assert moved.shape == known.shape


def test_what_cannot_be_changed_by_embeddings_is_refused(decoder, pictures):
    plain, grey = tiny_model(), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(UsageError, match="is not told the embeddings of pictures: train one"):
        edit(plain, grey, how="embedding")
    with pytest.raises(UsageError, match="is not told the embeddings of pictures: train one"):
        edit(plain, grey, from_text="a", to_text="b")
    with pytest.raises(UsageError, match="belong together"):
        edit(decoder, pictures[:1], from_text="red left")


# --- Gone on from --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prior", "decoder"])
def test_a_prior_and_a_decoder_are_gone_on_from_by_additions(runs, name, tmp_path):
    config = adaptation(runs / name, rank=2)
    config = replace(config, train=replace(config.train, seen=64, learning_rate=3e-2))
    (runs / "encoder").rename(runs / "away")  # the base has all that it takes
    try:
        train(runs / "pictures", out=tmp_path / "style", config=config)
    finally:
        (runs / "away").rename(runs / "encoder")
    asked = {"text": ("red left",), "steps": 2}
    base = sample(runs / name, 2, **asked).x
    drawn = {
        strength: sample(load(runs / name, adapters=[(tmp_path / "style", strength)]), 2, **asked).x
        for strength in (0.0, 1.0)
    }
    assert torch.equal(drawn[0.0], base) and not torch.equal(drawn[1.0], base)
    merged = merge(runs / name, [tmp_path / "style"], out=tmp_path / "merged")
    for run in (tmp_path / "style", merged):
        assert torch.equal(drawn[1.0], sample(run, 2, **asked).x)


def test_all_weights_of_a_decoder_go_on_with_its_own_encoder(runs, tmp_path):
    config = adaptation(runs / "decoder", "all")
    config = replace(config, train=replace(config.train, seen=32, learning_rate=1e-9))
    run = train(runs / "pictures", out=tmp_path / "on", config=config)
    one, other = (sample(p, 2, text=("red left",), steps=2).x for p in (run.path, runs / "decoder"))
    assert_close(one, other, rtol=0, atol=1e-3)


@pytest.mark.parametrize("learn", ["words", "control"])
def test_what_hears_embeddings_alone_learns_no_words_and_no_control(runs, learn):
    with pytest.raises(UsageError, match="learns no new words, and takes no control"):
        adaptation(runs / "decoder", learn)
