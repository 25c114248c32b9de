"""Captions: from the files of people to the numbers that networks read, and which of several."""

import io
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from ornstein.data import open_data, profile_data
from ornstein.data.captions import MERGES, Captions, Words
from ornstein.data.dataset import draws_at
from ornstein.errors import DataError, ModelFileError, Notice
from ornstein.runs.config import RunConfig
from ornstein.train.start import read

TEXTS = ["a small red 7 left of a blue square", "a red circle above a green 3", "a blue 7"]


def picture(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (6, 4), value).save(out, "PNG")
    return out.getvalue()


def folder(root, files):
    for name, data in files.items():
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


@pytest.fixture(scope="module")
def words():
    return Words.learned(TEXTS * 3)


# --- Pieces --------------------------------------------------------------------------------------


def test_the_same_texts_give_the_same_words_and_their_plain_values_give_them_back(words):
    again = Words.learned(TEXTS * 3)
    assert again == words
    plain = json.loads(json.dumps({"merges": words.merges, "length": words.length}))
    back = Words(merges=tuple(plain["merges"]), length=plain["length"])
    assert torch.equal(back.tensor(TEXTS), words.tensor(TEXTS))


def test_words_that_are_often_there_become_one_piece_and_no_text_lacks_pieces(words):
    assert len(words.pieces("red")) == 1
    strange = words.pieces("Ünder 火 🙂")
    assert strange and max(strange) < len(words)


def test_case_is_not_heard_and_order_is(words):
    assert words.pieces("A RED 7") == words.pieces("a red 7")
    assert words.pieces("a 7 red") != words.pieces("a red 7")


def test_a_text_ends_in_nothing_and_one_too_long_is_cut_where_it_is_said_to_be(words):
    assert words.length % 8 == 0
    numbers = words.tensor(["a red 7", "", TEXTS[0] + ", and " + TEXTS[1]])
    assert (numbers[0] >= 0).sum() == 3 and (numbers[1] == -1).all() and (numbers[2] >= 0).all()
    long = TEXTS[0] + ", and " + TEXTS[1]
    rest = words.unread(long)
    assert rest and long.endswith(rest) and words.unread(TEXTS[0]) == ""
    assert torch.equal(words.tensor([long.removesuffix(rest)]), words.tensor([long]))


def test_emphasis_lies_on_the_pieces_of_its_words(words):
    spans = [("a small ", 1.0), ("red", 1.4), (" 7", 1.0)]
    weights = words.emphasis(spans)
    assert weights[:5].tolist() == pytest.approx([1, 1, 1.4, 1, 1])


def test_unknown_is_what_the_captions_had_once_or_never():
    words = Words.learned([*TEXTS * 2, "a lonely 7"])
    found = words.unknown("A cyan 7, left of a LONELY square: cyan as red")
    assert found == ["cyan", "LONELY", "as"]
    assert words.unknown("") == [] and all(words.unknown(text) == [] for text in TEXTS)
    full = words.merges * (MERGES // len(words.merges) + 1)
    assert replace(words, merges=full[:MERGES]).unknown("a cyan square") == []
    assert replace(words, added=("sks",)).unknown("a red sks") == []


def test_words_from_a_stranger_are_checked():
    with pytest.raises(ValueError, match="merges"):
        Words(merges=("abc",), length=8)
    with pytest.raises(ValueError, match="pieces"):
        Words(merges=(), length=0)
    with pytest.raises(ModelFileError, match="no two pieces"):
        Words(merges=("nothing ofthis",), length=8).pieces("a")


def test_who_has_no_caption_and_what_is_cut_is_said_before_training(words):
    long = TEXTS[0] + ", and " + TEXTS[1]
    captions = Captions(words=words, texts=(("a red 7",), (), (long, "a blue 7"), ()))
    silent, cut = captions.notices(["a.png", "b.png", "c.png", "d.png"])
    assert silent == "Without a caption, and learned so, are 2: b.png, d.png."
    assert f"are 1: of {long!r}, {words.unread(long)!r} is left out" in cut
    assert captions[torch.tensor([0])].notices(["a.png"]) == []
    many = Captions(words=words, texts=(("a",), *[()] * 14)).notices([f"{i}" for i in range(15)])
    assert many == [
        "Without a caption, and learned so, are 14: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 4 more."
    ]


# --- Which caption -------------------------------------------------------------------------------


def test_each_of_several_captions_is_told_about_as_often():
    captions = Captions.of([["red", "blue", "green"], [], ["one"]])
    draws = draws_at(0, torch.arange(3000))[:, 3]
    told = captions.tensor(torch.zeros(3000, dtype=torch.int64), draws)
    first = captions.words.tensor(["red", "blue", "green"])
    shares = torch.stack([(told == f[: told.shape[1]]).all(1).double().mean() for f in first])
    assert shares.sum() == 1 and (shares - 1 / 3).abs().max() < 0.04
    assert (captions.tensor(torch.tensor([1])) == -1).all()
    both = captions.words.tensor(["one", "red"])
    told = captions.tensor(torch.tensor([2, 0]))
    assert torch.equal(told, both[:, : told.shape[1]])


def test_a_batch_has_room_for_its_longest_caption_and_no_more():
    """In multiples of 8."""
    captions = Captions.of([["red"], [], ["red", "blue and green and all that is between"], []])
    every = captions.tensor(torch.arange(3), torch.full((3,), 0.9))
    assert every.shape == (3, captions.words.length) and captions.words.length > 8
    short = captions.tensor(torch.arange(2))
    assert torch.equal(short, every[:2, :8]) and (every[:2, 8:] == -1).all()
    assert captions.tensor(torch.tensor([1])).shape == (1, 8)
    assert captions.longest == 2
    assert captions[torch.tensor([1, 2, 0])].longest == 1


def test_which_caption_is_a_function_of_seed_and_position_alone():
    draws = draws_at(3, torch.arange(5000, 5100))
    assert torch.equal(draws_at(3, torch.arange(5050, 5060)), draws[50:60])
    assert not torch.equal(draws[:, 3], draws[:, 0])


# --- Files ---------------------------------------------------------------------------------------


def test_captions_are_read_from_metadata_and_from_files_beside_the_pictures(tmp_path):
    rows = [{"file_name": "a.png", "text": "a red 7"}, {"file_name": "b.png", "text": ["x", "y"]}]
    data = open_data(
        folder(
            tmp_path,
            {
                "a.png": picture(1),
                "b.png": picture(2),
                "c.png": picture(3),
                "d.png": picture(4),
                "c.txt": "first line\n\n second line \n",
                "README.txt": "nothing of a picture",
                "metadata.jsonl": "\n".join(map(json.dumps, rows)),
            },
        )
    )
    assert data.captions is not None
    said = dict(zip(data.ids, data.captions.texts, strict=True))
    assert said == {
        "a.png": ("a red 7",),
        "b.png": ("x", "y"),
        "c.png": ("first line", "second line"),
        "d.png": (),
    }
    _, cond = data.batch(torch.tensor([0, 3]))
    assert (cond["text"][0] >= 0).any() and (cond["text"][1] == -1).all()
    with pytest.warns(Notice, match=r"learned so, are 1: d\.png"):
        read(tmp_path, RunConfig(), torch.device("cpu"))
    profile = profile_data(data)
    assert profile.silent == ["d.png"] and profile.captions.count == 5
    assert any("without a caption" in line and "d.png" in line for line in profile.lines())


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_several_rows_of_a_picture_are_several_captions_of_it(tmp_path, form):
    rows = [("a.png", "a red 7", "x"), ("b.png", "a blue 1", "y"), ("a.png", "a seven, red", "x")]
    if form == "csv":
        text = "file_name,text,label\n" + "".join(f'{n},"{t}",{c}\n' for n, t, c in rows)
    else:
        keys = ("file_name", "text", "label")
        text = "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows)
    files = {"a.png": picture(1), "b.png": picture(2), f"metadata.{form}": text}
    data = open_data(folder(tmp_path, files))
    assert data.captions is not None and data.classes == ["x", "y"]
    assert [*data.captions.texts] == [("a red 7", "a seven, red"), ("a blue 1",)]


def test_rows_that_do_not_agree_on_a_picture_are_refused(tmp_path):
    text = "file_name,text,label\na.png,one,cat\na.png,two,dog\n"
    files = {"a.png": picture(1), "metadata.csv": text}
    with pytest.raises(DataError, match=r"two rows of a\.png, whose label is 'cat' and 'dog'"):
        open_data(folder(tmp_path, files))


@pytest.mark.parametrize("row", ["a.png,a red, round thing,cat", "a.png,a red thing"])
def test_a_row_of_metadata_with_too_many_or_few_cells_is_refused(tmp_path, row):
    files = {"a.png": picture(1), "metadata.csv": f"file_name,text,label\n{row}\n"}
    message = r"metadata\.csv, line 2 has [24] cells where there should be 3; put texts"
    with pytest.raises(DataError, match=message):
        open_data(folder(tmp_path, files))


def test_a_text_is_of_every_picture_of_its_name_however_it_is_written(tmp_path):
    files = {"a.png": picture(1), "b.png": picture(2), "b.bmp": picture(2), "c.png": picture(3)}
    files |= {"a.TXT": "one", "b.txt": "two"}
    data = open_data(folder(tmp_path, files))
    assert data.captions is not None
    said = dict(zip(data.ids, data.captions.texts, strict=True))
    assert said == {"a.png": ("one",), "b.png": ("two",), "b.bmp": ("two",), "c.png": ()}


def test_captions_in_a_table_are_no_attributes_and_change_the_fingerprint(tmp_path):
    files = {"a.png": picture(1), "b.png": picture(2)}
    marks = set()
    for text in ("7", "8"):
        files["metadata.csv"] = f"file_name,text\na.png,{text}\nb.png,9\n"
        data = open_data(folder(tmp_path, files))
        assert data.attributes is None and data.captions is not None
        marks.add(data.fingerprint)
    assert len(marks) == 2


def test_captions_under_another_name_are_not_passed_over_in_silence(tmp_path):
    rows = ({"file_name": f"{n}.png", "caption": "a 7", "year": 1, "label": n} for n in "ab")
    metadata = "\n".join(map(json.dumps, rows))
    files = {"a.png": picture(1), "b.png": picture(2), "metadata.jsonl": metadata}
    data = open_data(folder(tmp_path, files))
    assert data.captions is None and data.unread == ["caption"]
    assert any("not read of the metadata: caption;" in line for line in profile_data(data).lines())
    with pytest.warns(Notice, match=r"caption\. Captions are read from the column text"):
        read(tmp_path, RunConfig(), torch.device("cpu"))


def test_pictures_alike_with_other_captions_are_no_copies():
    from dataclasses import replace

    data = open_data("digits").subset(torch.tensor([0, 0, 0]))
    data = replace(data, captions=Captions.of([["a zero"], ["an oval"], ["a zero"]]))
    assert len(data.without_copies()) == 2


@pytest.mark.parametrize("text", [7, {"a": 1}, ["x", 3]])
def test_a_caption_that_is_no_text_is_refused_by_name(tmp_path, text):
    rows = json.dumps({"file_name": "a.png", "text": text})
    with pytest.raises(DataError, match=r"text of a\.png is .*; write words in quotes"):
        open_data(folder(tmp_path, {"a.png": picture(1), "metadata.jsonl": rows}))


@pytest.mark.parametrize("text", ["a \ud800 b", ["x", "\udfff"]])
def test_a_caption_with_half_a_letter_is_refused_by_name(tmp_path, text):
    rows = json.dumps({"file_name": "a.png", "text": text})
    with pytest.raises(DataError, match=r"text of a\.png.*half of a letter"):
        open_data(folder(tmp_path, {"a.png": picture(1), "metadata.jsonl": rows}))


def test_a_caption_file_that_is_no_text_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt is no text in UTF-8"):
        open_data(folder(tmp_path, {"a.png": picture(1), "a.txt": b"\xff\xfe\x00"}))
