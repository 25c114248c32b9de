"""Runs of encoders, and the priors and decoders that go by them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from captioned import captioned_folder
from ornstein.data import DataOptions, open_data
from ornstein.data.embedded import Embedded
from ornstein.errors import DataError, ModelFileError, StorageError, UsageError
from ornstein.evaluate.retrieval import is_encoder, measure_retrieval
from ornstein.rng import normal
from ornstein.runs.config import EmbeddingConfig, NetConfig, RunConfig, TrainConfig
from ornstein.runs.embedding import KEPT, captioned, embedded, encoder_of
from ornstein.runs.model import load
from ornstein.tasks.examples import training_data
from ornstein.train import train
from ornstein.train.device import World
from ornstein.train.training import Training
from train.tiny import points, resumed_and_whole, tiny_config

TRAIN = TrainConfig(seen=64, batch=32, precision="f32", ema=(0.05,))


def towers(seen=640):
    config = RunConfig(net=NetConfig(kind="contrastive", size=8))
    schedule = replace(TRAIN, seen=seen, learning_rate=3e-3)
    return replace(config, embedding=EmbeddingConfig(numbers=6), train=schedule)


def going_by(encoder, role):
    nets = {"prior": NetConfig(kind="mlp", size=8, depth=1), "decoder": NetConfig(size=8, depth=1)}
    by = EmbeddingConfig(encoder=str(encoder), role=role)
    return RunConfig(net=nets[role], train=TRAIN, embedding=by)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Pictures, their encoder, a prior and a decoder."""
    folder = tmp_path_factory.mktemp("stages")
    pictures = captioned_folder(folder / "pictures")
    train(pictures, out=folder / "encoder", config=towers())
    for role in ("prior", "decoder"):
        train(pictures, out=folder / role, config=going_by(folder / "encoder", role))
    return folder


@pytest.fixture(scope="module")
def sides(places):
    return open_data(places / "pictures").split(0.1, 0)


def test_an_encoder_finds_pictures_by_their_captions(places):
    found = measure_retrieval(places / "encoder")
    assert is_encoder(places / "encoder") and not is_encoder(places / "prior")
    assert found.by_text.n == 6
    assert 1 / 6 < found.floor < 0.5  # some captions are alike
    assert found.by_text.value > found.floor + 0.3


def test_embeddings_have_length_1_and_what_networks_see_mean_0_and_variance_1(places, sides):
    encoder = encoder_of(places / "encoder")
    pictures = encoder.of_pictures(sides[0].stored)
    texts = encoder.of_texts(text for row in sides[0].captions.texts for text in row)
    for found, scale in ((pictures, encoder.pictures), (texts, encoder.texts)):
        assert_close(found.norm(dim=1), torch.ones(len(found)))
        seen = scale.standard(found)
        assert_close(seen.mean(0), torch.zeros(6), rtol=0, atol=1e-4)
        assert_close(seen.std(0, correction=0), torch.ones(6), rtol=1e-3, atol=0)
    assert_close(encoder.of_x(encoder.pictures.standard(pictures)), pictures)
    assert encoder.of_texts([""]).isnan().all()


def test_both_roles_hear_the_caption_beside_the_embedding_of_the_picture_or_of_it(places, sides):
    encoder, some = encoder_of(places / "encoder"), torch.arange(4)
    x, cond = embedded(sides[0], encoder, "decoder").batch(some)
    assert_close(x, sides[0].batch(some)[0])
    pictures = encoder.of_pictures(sides[0].stored[:4])
    first = [row[0] for row in sides[0].captions.texts[:4]]
    seen = encoder.pictures.standard(pictures)
    longest = cond["text"].shape[1]
    assert_close(cond, {"text": encoder.words.tensor(first)[:, :longest], "embedding": seen})
    prior = embedded(sides[0], encoder, "prior")
    x, cond = prior.batch(some, torch.full((4, 4), 0.9))
    assert_close(encoder.of_x(x), pictures)
    second = [row[1] for row in sides[0].captions.texts[:4]]
    said = encoder.texts.standard(encoder.of_texts(second))
    longest = cond["text"].shape[1]
    assert_close(cond, {"text": encoder.words.tensor(second)[:, :longest], "embedding": said})


def test_a_picture_without_caption_is_nothing_to_learn_from(places, sides):
    captions = replace(sides[0].captions, texts=((), *sides[0].captions.texts[1:]))
    data = replace(sides[0], captions=captions)
    assert captioned(data).ids == data.ids[1:]
    encoder = encoder_of(places / "encoder")
    assert len(embedded(data, encoder, "prior")) == len(data) - 1
    assert len(embedded(data, encoder, "decoder")) == len(data)


@pytest.mark.parametrize("role", ["prior", "decoder"])
def test_a_run_needs_its_encoder_no_more(places, tmp_path, role):
    shutil.copytree(places / role, tmp_path / role)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(places / "encoder", tmp_path / "elsewhere")
    try:
        model, again = load(places / role), encoder_of(tmp_path / role)
        assert model.encoder is not None
        said = [encoder.of_texts(["red left"]) for encoder in (model.encoder, again)]
        assert torch.equal(*said)
        assert len(training_data(model)[1]) == 6
        train(out=tmp_path / role, resume=True)
    finally:
        shutil.move(tmp_path / "elsewhere" / "encoder", places)
    assert torch.equal(encoder_of(places / "encoder").of_texts(["red left"]), said[0])


@pytest.mark.parametrize("role", [None, "prior", "decoder"])
def test_a_resumed_run_is_the_same_to_the_bit(places, sides, role):
    encoder = encoder_of(places / "encoder")
    data = sides[0] if role is None else embedded(sides[0], encoder, role)
    config = towers() if role is None else going_by(places / "encoder", role)
    resumed, whole = resumed_and_whole(config, data, 2)
    assert resumed == whole


@pytest.mark.slow
def test_a_prior_knows_the_mean_and_the_spread_that_a_text_leaves():
    """x = A c + s n: of x + sigma eps the mean is ``(sigma^2 A c + s^2 x_t) / (s^2 + sigma^2)``."""
    c, n, s = normal((2000, 2), "c"), normal((2000, 2), "n"), 0.5
    a, none = torch.tensor([[0.6, -0.6], [0.0, 0.8]]), torch.full((500, 2), torch.nan)
    data, told = points(2000), Embedded(values=c, count=torch.ones(2000, dtype=torch.int64))
    codec = replace(data.codec, mean=(0.0, 0.0), std=(1.0, 1.0), dtype="float32")
    data = replace(data, codec=codec, stored=c @ a.T + s * n, embedded=told)
    config = tiny_config(size=32, depth=2, seen=128 * 600, batch=128, condition_dropout=0.2)
    training = Training(config, data)
    for _ in range(600):
        training.update()
    denoiser, new = training.averages.learners[0], normal((500, 2), "new")
    clean, eps = new @ a.T + s * normal((500, 2), "own"), normal((500, 2), "eps")
    spread = a @ a.T + s**2 * torch.eye(2)
    for sigma in (0.5, 1.0):
        noisy, t = clean + sigma * eps, denoiser.schedule.time(-2 * torch.tensor(sigma).log())
        told_c = (sigma**2 * new @ a.T + s**2 * noisy) / (s**2 + sigma**2)
        untold = noisy @ torch.linalg.solve(spread + sigma**2 * torch.eye(2), spread)
        for cond, known in ((new, told_c), (none, untold)):
            with torch.no_grad():
                found = denoiser(noisy, t.double().expand(500), embedding=cond)
            assert (found - known).square().mean().sqrt() < 0.1
        assert (told_c - untold).square().mean().sqrt() > 0.2


# --- What is refused -----------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_in_a_sentence(places, sides):
    encoder = encoder_of(places / "encoder")
    with pytest.raises(UsageError, match="is an encoder, which draws nothing"):
        load(places / "encoder")
    train("swiss-roll", out=places / "points", seen=64)
    with pytest.raises(UsageError, match="is no encoder of pictures and texts: make one"):
        encoder_of(places / "points")
    with pytest.raises(DataError, match=r"holds \(1, 8, 8\) of uint8, but the encoder"):
        embedded(open_data("digits", DataOptions(limit=9)), encoder, "decoder")
    with pytest.raises(UsageError, match="leave flip"):
        varied = open_data(places / "pictures", DataOptions(flip=True))
        embedded(varied, encoder, "decoder")
    with pytest.raises(UsageError, match="has no captions, by which"):
        train("digits", out=places / "none", config=towers())
    with pytest.raises(UsageError, match="has no captions, by which"):
        embedded(replace(sides[0], captions=None), encoder, "prior")


def test_a_batch_that_is_told_apart_is_not_taken_in_pieces(sides):
    for changes in ({"micro_batch": 8}, {"memory": "low"}):
        config = towers()
        with pytest.raises(UsageError, match="micro_batch and memory out"):
            Training(replace(config, train=replace(config.train, **changes)), sides[0])
    with pytest.raises(UsageError, match="in one process"):
        Training(towers(), sides[0], world=World(rank=0, size=2))


def test_an_encoder_that_was_stopped_has_no_embeddings_yet(places, tmp_path):
    shutil.copytree(places / "encoder", tmp_path / "encoder")
    shutil.rmtree(tmp_path / "encoder" / "kept" / "embeddings")
    with pytest.raises(StorageError, match="was not trained to an end"):
        encoder_of(tmp_path / "encoder")


def test_damaged_weights_and_false_words_of_the_encoder_are_refused(places, tmp_path):
    shutil.copytree(places / "prior", tmp_path / "prior")
    place = tmp_path / "prior" / "run.json"
    identity = json.loads(place.read_text())
    for changes in ({"numbers": 7}, {"size": 2048}, {"size": -1}, {"words": None}, {"codec": {}}):
        facts = identity | {"encoder": identity["encoder"] | changes}
        place.write_text(json.dumps(facts))
        with pytest.raises(ModelFileError):
            load(tmp_path / "prior")
    place.write_text(json.dumps(identity))
    [file] = (tmp_path / "prior" / "kept" / KEPT).glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelFileError):
        load(tmp_path / "prior")
