"""New words of the texts of a pipeline: learned, worn, and read by diffusers as by us."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import ornstein as ou
import pipelines
from ornstein.cli import run_command
from ornstein.errors import ModelFileError, UsageError
from ornstein.interop.adopted import adopted
from ornstein.interop.diffusers import load_diffusers
from ornstein.interop.place import open_model
from ornstein.interop.words import Reading, Spelling, introduced, write_words
from ornstein.runs.folder import RunFolder
from ornstein.tasks.examples import training_data
from ornstein.train import adapt
from ornstein.train.adapt import adaptation
from ornstein.train.start import read
from ornstein.train.training import Training
from train.tiny import resumed_and_whole

diffusers = pytest.importorskip("diffusers")

WORD, OTHER = "<thing>", "<other>"
VECTORS = "net.reading.new.text_encoder"
TOLD = {"text": [f"red {WORD}", WORD], "sampler": "ddim", "steps": 3, "guidance": 3.0}
UNTOLD = TOLD | {"text": ["red cat", "blue"]}


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    return pipelines.stable(tmp_path_factory.mktemp("stable"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return pipelines.large(tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Pictures of 8 x 8 that are all green; some have captions."""
    folder, draw = tmp_path_factory.mktemp("things"), np.random.default_rng(0)
    for i in range(12):
        picture = draw.integers(0, 60, (8, 8, 3))
        picture[..., 1] += 150
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i:02}.png")
        if i % 2:
            (folder / f"{i:02}.txt").write_text("red")
    return folder


def learning(place, learn="words", seen=32, rate=1e-2, **options):
    config = adaptation(place, learn, **options)
    train = replace(config.train, seen=seen, batch=8, learning_rate=rate, precision="f32")
    return replace(config, train=train, data=replace(config.data, word=WORD))


@pytest.fixture(scope="module")
def worded(stable, things, tmp_path_factory) -> RunFolder:
    out = tmp_path_factory.mktemp("worded") / "run"
    return ou.train(things, config=learning(stable), out=out)


# --- Read as diffusers reads them ----------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_a_word_in_a_file_is_heard_as_in_diffusers(stable, tmp_path, count):
    vectors = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    save_file({WORD: vectors if count > 1 else vectors[0]}, tmp_path / "word.safetensors")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(stable, safety_checker=None)
    pipe.load_textual_inversion(tmp_path / "word.safetensors")
    reader = open_model(stable, adapters=[tmp_path / "word.safetensors"]).words
    for text in (f"red {WORD} blue", WORD, f"{WORD}, {WORD} a", "red cat blue cat red"):
        theirs = pipe.encode_prompt(text, "cpu", 1, False)[0]
        assert_close(reader.tensor([text]), theirs, rtol=0, atol=1e-5)
    assert torch.equal(reader.tensor([WORD.upper()]), reader.tensor([WORD]))
    plain = load_diffusers(stable).words
    assert torch.equal(plain.tensor(["red cat"]), reader.tensor(["red cat"]))
    assert not torch.allclose(plain.tensor([WORD]), reader.tensor([WORD]), atol=1e-2)


def test_a_word_to_two_encoders_is_heard_as_in_diffusers(large, tmp_path):
    draw = torch.Generator().manual_seed(0)
    file = tmp_path / f"{WORD}.safetensors"
    save_file({"clip_l": torch.randn(1, 8, generator=draw), "clip_g": torch.randn(1, 12)}, file)
    pipe, both = diffusers.StableDiffusionXLPipeline.from_pretrained(large), load_file(file)
    pipe.load_textual_inversion(both["clip_l"], token=WORD)
    second = {"tokenizer": pipe.tokenizer_2, "text_encoder": pipe.text_encoder_2}
    pipe.load_textual_inversion(both["clip_g"], token=WORD, **second)
    reader = open_model(large, adapters=[file]).words
    pieces, _, whole, _ = pipe.encode_prompt(f"red {WORD}", None, "cpu", 1, False)
    said = reader.layout.said(reader.tensor([f"red {WORD}"]))
    assert_close(said.pieces, pieces, rtol=0, atol=1e-5)
    assert_close(said.whole, whole, rtol=0, atol=1e-5)


def test_the_whole_of_a_text_is_read_at_its_end_and_not_at_a_new_word(stable, monkeypatch):
    """Encoders of old configurations look for the piece of the highest number."""
    [encoder] = load_diffusers(stable).words.encoders
    monkeypatch.setattr(encoder.net, "eos_token_id", 2)
    place = int(encoder.pieces(["red cat"]).argmax())
    taught = encoder.taught(WORD, encoder.mean("cat"))
    pieces = taught.pieces([f"red cat {WORD}"])
    heard = taught(pieces)
    assert int(pieces.argmax()) > place
    assert torch.equal(heard.whole[0], heard.pieces[0, place])


def test_emphasis_and_what_is_cut_count_all_pieces_of_a_word(stable):
    reader = load_diffusers(stable).words.taught(WORD, {"text_encoder": torch.randn(3, 8)})
    emphasis = reader.emphasis((("a ", 1.0), (WORD, 2.0)))
    assert emphasis.tolist() == [1, 1, 2, 2, 2, *[1] * 7]
    assert reader.unread(f"a a a a a a a {WORD}") == ""
    assert reader.unread(f"a a a a a a a a {WORD}") == f"{WORD}_2"


def test_a_word_that_is_learned_is_heard_as_one_that_was_learned(large):
    reader = introduced(load_diffusers(large).words, WORD, "cat")
    texts = [f"red {WORD}", "blue", WORD]
    pieces, reading = Spelling(reader).tensor(texts), Reading(reader, WORD)
    hidden = torch.cat([pieces, Spelling(reader).nothing])
    table = reading(hidden)
    assert_close(table[:3], reader.tensor(texts), rtol=0, atol=1e-5)
    assert table[3].isnan().all()
    table[:3].square().sum().backward()
    assert all(vector.grad.abs().max() > 0 for vector in reading.new.values())
    first = reader.encoders[1].table[reader.encoders[1].pieces(["cat"])[0, 1:4]].mean(0)
    assert_close(reading.new["text_encoder_2"][0], first)


# --- Learned -------------------------------------------------------------------------------------


def test_a_word_alone_is_all_that_is_learned_and_all_else_stays_to_the_last_bit(stable, worded):
    weights = worded.latest().load("ema-0")
    assert {name: value.shape for name, value in weights.items()} == {VECTORS: (1, 8)}
    bare, worn = adopted(stable), open_model(stable, adapters=[worded.path])
    assert worn.adapters == ((worded.identity["id"], 1.0),)
    assert torch.equal(ou.sample(worn, 2, **UNTOLD).x, ou.sample(bare, 2, **UNTOLD).x)
    told, before = (ou.sample(model, 2, **TOLD).x for model in (worn, bare))
    assert (told - before).abs().max() > 1e-3
    assert torch.equal(ou.sample(worded, 2, **TOLD).x, told)  # which opens its base by itself


def test_a_run_of_a_word_is_measured_by_the_captions_that_it_learned_from(things, worded):
    model = open_model(worded.path)
    ours, held = training_data(model)
    (seen, _), texts = read(things, model.config, torch.device("cpu")), {WORD, f"{WORD} red"}
    assert ours.captions is not None and seen.captions is not None and held.captions is not None
    assert ours.captions.texts == seen.captions.texts
    assert {text for side in (ours, held) for (text,) in side.captions.texts} == texts
    assert ours.captions.words is model.reader and WORD in model.reader.words


def test_a_word_comes_to_mean_what_its_pictures_are(stable, things):
    config = learning(stable, seen=160, rate=0.1)
    data, _ = read(things, config, torch.device("cpu"))
    training = Training(config, data)
    assert [name for name, _ in training.denoiser.named_parameters()] == [VECTORS]
    x, cond = data.batch(torch.arange(len(data)))
    t, draw = torch.linspace(0.3, 1, len(data)).double(), torch.Generator().manual_seed(0)
    eps = torch.randn(x.shape, generator=draw)

    def loss():
        with torch.no_grad():
            return training.denoiser.loss(x, t, eps, **cond).mean().item()

    before = loss()
    for _ in range(config.train.seen // config.train.batch):
        training.update()
    assert loss() < before - 1e-3, (before, loss())


def test_a_stopped_training_of_a_word_ends_as_one_that_was_never_stopped(stable, things):
    config = learning(stable, "low-rank", rank=2)
    data, _ = read(things, config, torch.device("cpu"))
    resumed, once = resumed_and_whole(config, data, 1)
    assert resumed == once


@pytest.fixture(scope="module")
def subject(stable, things, tmp_path_factory) -> RunFolder:
    """A kind of cat, by another word and additions; half of what it sees are cats as they were."""
    config = learning(stable, "low-rank", seen=16, rank=2, like="cat")
    config = replace(config, data=replace(config.data, word=OTHER))
    with pytest.MonkeyPatch.context() as few:
        few.setattr(adapt, "DRAWN", 8)
        few.setattr(adapt, "ROOM", 8)
        return ou.train(things, config=config, out=tmp_path_factory.mktemp("subject") / "run")


def test_a_subject_is_bound_to_its_word_beside_additions_and_its_kind_is_kept(stable, subject):
    assert subject.kept("remembered")["stored"].shape[0] == 8
    weights = subject.latest().load("ema-0")
    assert {name.rpartition(".")[2] for name in weights} == {"up", "down", "text_encoder"}
    [encoder] = load_diffusers(stable).words.encoders
    assert 0 < (weights[VECTORS] - encoder.mean("cat")).abs().max() < 0.05
    assert ou.train(out=subject.path, resume=True).latest().seen == 16


def test_words_stack_with_additions_and_with_each_other(stable, worded, subject, tmp_path):
    save_file({"<third>": torch.randn(2, 8)}, tmp_path / "third.safetensors")
    on = [worded.path, f"{subject.path}:0.5", tmp_path / "third.safetensors"]
    model = open_model(stable, adapters=on)
    assert list(model.words.words) == [WORD, OTHER, "<third>"] and len(model.adapters) == 2
    again = open_model(worded.path, adapters=on[1:])
    asked = TOLD | {"text": [f"{WORD} <third>", OTHER]}
    both, same = (ou.sample(each, 2, **asked).x for each in (model, again))
    assert torch.equal(both, same)
    alone = ou.sample(open_model(stable, adapters=on[:1]), 2, **asked).x
    assert (both - alone).abs().max() > 1e-4
    with pytest.raises(UsageError, match="brings the word '<thing>', which is there already"):
        open_model(stable, adapters=[worded.path, worded.path])


def test_a_learned_word_is_written_for_diffusers_and_read_again(stable, worded, tmp_path, capsys):
    assert run_command(["export", str(worded.path), "--to", "diffusers"]) == 0
    [file] = (worded.path / "exports" / "diffusers").iterdir()
    assert file.name == "learned_embeds.safetensors" and file.stat().st_size < 4096
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(stable, safety_checker=None)
    pipe.load_textual_inversion(file.parent)
    text = TOLD["text"][0]
    heard = ou.load(worded.path).words.tensor([text])
    assert_close(heard, pipe.encode_prompt(text, "cpu", 1, False)[0], rtol=0, atol=1e-5)
    few = ["-n", "1", "--steps", "2", "--text", text, "--out", str(tmp_path)]
    assert run_command(["sample", str(stable), "--adapter", str(file), *few]) == 0
    alone, run = (ou.sample(m, 2, **TOLD).x for m in (open_model(stable, adapters=[file]), worded))
    assert_close(alone, run, rtol=0, atol=1e-4 * run.abs().max().item())


def test_the_words_of_a_whole_pipeline_are_written_beside_it(subject, tmp_path):
    done = ou.export(subject, tmp_path / "back", to="diffusers")
    again = open_model(done.path, adapters=[done.path / "learned_embeds.safetensors"])
    asked = TOLD | {"text": OTHER}
    theirs, ours = (ou.sample(model, 1, **asked).x for model in (again, subject))
    assert_close(theirs, ours, rtol=0, atol=1e-4 * ours.abs().max().item())


def test_words_to_two_encoders_are_written_by_the_names_of_these(large, tmp_path):
    reader = introduced(introduced(load_diffusers(large).words, WORD, "cat"), OTHER)
    first, second = write_words(reader, tmp_path)
    assert {name: value.shape for name, value in load_file(second).items()} == {
        "clip_l": (1, 8),
        "clip_g": (1, 12),
    }
    again = open_model(large, adapters=[first, second]).words
    texts = [f"red {WORD}", OTHER]
    assert torch.equal(again.tensor(texts), reader.tensor(texts))


# --- What is refused -----------------------------------------------------------------------------


def test_what_is_no_new_word_is_refused_in_one_sentence(stable, things, worded, tmp_path):
    reader = load_diffusers(stable).words
    with pytest.raises(UsageError, match="'c' is one that the text_encoder knows already"):
        introduced(reader, "c")
    with pytest.raises(UsageError, match="'a cat' must have no spaces"):
        introduced(reader, "a cat")
    with pytest.raises(UsageError, match="say --lora 8 too, or the word alone"):
        read(things, learning(stable, "all"), torch.device("cpu"))
    config = learning(stable)
    with pytest.raises(UsageError, match="name a new one with --word"):
        nameless = replace(config, data=replace(config.data, word=None))
        read(things, nameless, torch.device("cpu"))
    with pytest.raises(UsageError, match="export --to diffusers"):
        ou.merge(worded.path, out=tmp_path / "merged")


def test_files_that_hold_no_word_for_a_pipeline_are_refused(stable, tmp_path):
    wrong = tmp_path / "wrong.safetensors"
    save_file({WORD: torch.randn(9)}, wrong)
    with pytest.raises(ModelFileError, match=r"holds no word for the encoders .* <thing> \(9,\)"):
        open_model(stable, adapters=[wrong])
    able_to_run = tmp_path / "word.pt"
    torch.save({WORD: torch.randn(8)}, able_to_run)
    with pytest.raises(ModelFileError, match="is not a safetensors file"):
        open_model(stable, adapters=[able_to_run])
    save_file({WORD: torch.full((8,), torch.nan)}, wrong)
    with pytest.raises(ModelFileError, match="not finite"):
        open_model(stable, adapters=[wrong])
    pixels = pipelines.ddpm(tmp_path / "ddpm")
    with pytest.raises(UsageError, match="reads texts by none"):
        open_model(pixels, adapters=[wrong])
    assert adopted(stable).reader.words == {}
