"""Encoders of texts that others trained, here small ones of random weights."""

import json

import pytest
import torch
from PIL import Image

import ornstein as ou
from ornstein.data import prepared
from ornstein.data.captions import Captions
from ornstein.data.reader import Reader, _parts
from ornstein.errors import DataError, ModelFileError
from ornstein.runs.config import NetConfig, RunConfig, SampleConfig
from ornstein.runs.prompt import Prompt, told_by
from ornstein.runs.vocabulary import Vocabulary
from untrained import grey_codec, of_random_weights

transformers = pytest.importorskip("transformers", reason="the extra [text] is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "7", "square", "left", "of"]
TEXTS = ["a red 7", "a blue square left of a red 7", "a 7"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A BERT of two layers that knows eleven words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("bert")
    words = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORNSTEIN_CACHE", str(tmp_path))
    return tmp_path / "texts"


@pytest.fixture(scope="module")
def reader(place):
    return Reader.opened(str(place), TEXTS)


def test_a_text_is_what_the_encoder_says_of_it_piece_by_piece(reader, place):
    net = transformers.BertModel.from_pretrained(place)
    with torch.no_grad():
        want = net(torch.tensor([[2, 4, 5, 7, 3]])).last_hidden_state[0]
    told = reader.tensor(["a red 7"])[0]
    torch.testing.assert_close(told[:5].float(), want, rtol=0, atol=2e-3)
    assert told[5:].isnan().all() and reader.nothing.isnan().all()
    assert (reader.length, reader.width) == (16, 12)


MANY = [f"{'a ' * n}{colour} {thing}" for n in range(7) for colour in WORDS[4:9] for thing in "7a"]


def listened(monkeypatch):
    """How many texts the encoder is asked for, from now on."""
    asked, read = [], Reader._read

    def count(self, every):
        asked.extend(dict.fromkeys(every))
        return read(self, every)

    monkeypatch.setattr(Reader, "_read", count)
    return asked


def test_of_many_texts_each_is_read_once_whichever_others_there_are(reader, monkeypatch):
    asked = listened(monkeypatch)
    first = reader.tensor(MANY)
    assert len(asked) == len(set(MANY)) == 70
    asked.clear()
    more = reader.tensor([*MANY[::-1], "blue of red"])
    assert len(asked) == 1  # the one that is new
    assert torch.equal(more[:-1].flip(0).nan_to_num(9), first.nan_to_num(9))


def test_what_is_said_of_a_text_is_the_same_to_the_last_bit_whoever_is_read_with_it(
    reader, cache, tmp_path, monkeypatch
):
    first = dict(zip(MANY, reader.tensor(MANY), strict=True))
    monkeypatch.setenv("ORNSTEIN_CACHE", str(tmp_path / "elsewhere"))
    others = [f"{text} of" for text in MANY]
    again = reader.tensor([*others, *MANY[::7]])[len(others) :]
    expected = torch.stack([first[text] for text in MANY[::7]])
    assert torch.equal(again.nan_to_num(9), expected.nan_to_num(9))


@pytest.mark.parametrize("broken", [b"no table", b"SQLite format 3\0" + bytes(4000)])
def test_a_broken_copy_is_made_anew(reader, cache, monkeypatch, broken):
    first = reader.tensor(MANY)
    (kept,) = cache.iterdir()
    kept.write_bytes(broken)
    assert torch.equal(reader.tensor(MANY).nan_to_num(9), first.nan_to_num(9))
    reader.tensor(MANY)  # what was broken is gone
    asked = listened(monkeypatch)
    reader.tensor(MANY)
    assert asked == []


def test_without_room_for_copies_texts_are_read_all_the_same(reader, tmp_path, monkeypatch):
    first = reader.tensor(MANY)
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORNSTEIN_CACHE", str(tmp_path / "file"))
    assert torch.equal(reader.tensor(MANY).nan_to_num(9), first.nan_to_num(9))


def test_few_texts_such_as_are_asked_for_are_not_kept(reader, cache):
    assert reader.tensor([]).shape == (0, 16, 12)
    reader.tensor(TEXTS)
    assert not cache.exists()


def test_emphasis_lies_on_the_words_and_what_is_too_long_is_said(reader):
    (term,) = Prompt.read("a (red:1.5) 7").terms
    assert reader.emphasis(term.spans)[:5].tolist() == [1, 1, 1.5, 1, 1]
    assert reader.unread("a red 7") == ""
    assert reader.unread(" ".join(["a"] * 20)) == " ".join(["a"] * 6)  # two of 16 are its ends


def test_a_run_is_asked_through_the_encoder_and_is_itself_again_after_json(reader):
    config = RunConfig(net=NetConfig(size=8), sample=SampleConfig(steps=2))
    words = Vocabulary(words=reader)
    model = of_random_weights(config, grey_codec((1, 8, 8)), words)
    red, blue = (ou.sample(model, 2, text=text).x for text in ("a red 7", "a blue 7"))
    assert (red - blue).abs().max() > 1e-4
    both = ou.sample(model, 2, text="a (red:2) 7 AND a square", guidance=2).x
    assert both.isfinite().all()
    plain = json.loads(json.dumps(vars(reader)))
    assert Reader(**plain) == reader
    assert set(told_by([Prompt.read("a 7")], reader)) == {"text"}


def test_captions_are_read_by_the_encoder_and_none_is_nothing(place):
    captions = Captions.of([["a red 7", "a 7"], []], str(place))
    told = captions.tensor(torch.tensor([0, 1]))
    assert told[0].isfinite().any() and told[1].isnan().all()


@pytest.mark.filterwarnings("ignore:Reading")
def test_data_that_are_prepared_are_read_by_the_encoder_that_is_there_now(
    place, tmp_path, monkeypatch
):
    monkeypatch.setattr(prepared, "PATIENCE", 0.0)
    rows = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate(TEXTS)]
    (tmp_path / "a").mkdir()
    for i in range(len(TEXTS)):
        Image.new("L", (4, 4), 9 * i).save(tmp_path / "a" / f"{i}.png")
    (tmp_path / "a" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ou.DataOptions(text_encoder=str(place))
    first = ou.open_data(tmp_path / "a", options).captions
    monkeypatch.setattr("ornstein.data.open._read", lambda *_: pytest.fail("read once more"))
    again = ou.open_data(tmp_path / "a", options).captions
    assert first is not None and again is not None
    assert (again.words, again.texts) == (first.words, first.texts)


def test_another_encoder_in_its_place_is_refused(reader):
    other = Reader(encoder=reader.encoder, mark="0" * 32, width=12, length=8)
    with pytest.raises(ModelFileError, match="not the encoder that the run was trained with"):
        other.tensor(["a 7"])


def test_what_is_not_there_and_what_holds_no_safetensors_is_refused(tmp_path):
    with pytest.raises(DataError, match="hf download nobody/nothing"):
        Reader.opened("nobody/nothing", TEXTS)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelFileError, match="no weights in safetensors"):
        Reader.opened(str(tmp_path), TEXTS)
    _parts.cache_clear()


@pytest.mark.parametrize("bounds", [{"length": 0}, {"length": 1000}, {"width": 0}])
def test_a_reader_from_a_stranger_is_checked(bounds):
    with pytest.raises(ValueError, match="expected 1 to"):
        Reader(**{"encoder": "a", "mark": "b", "width": 8, "length": 8, **bounds})
