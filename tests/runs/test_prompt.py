"""What may be written in a prompt, and what the network is told then."""

import pytest
import torch

from ornstein.data.captions import Words
from ornstein.errors import UsageError
from ornstein.runs.prompt import Prompt, Term, quoted, terms_of, told_by
from ornstein.tasks.asking import texts
from untrained import tiny_model

WORDS = Words.learned(["a red 7 left of a blue square"] * 3)


def test_a_prompt_in_plain_words_is_one_text():
    (term,) = Prompt.read("a red 7").terms
    assert term == Term((("a red 7", 1.0),)) and term.text == "a red 7"


def test_and_puts_texts_together_and_not_turns_one_away():
    terms = Prompt.read("a 7 AND a square AND NOT a (red:2) circle").terms
    assert [(t.text, t.share) for t in terms] == [
        ("a 7", 1),
        ("a square", 1),
        ("a red circle", -1),
    ]
    assert Prompt.read("black and white").terms == (Term((("black and white", 1.0),)),)


def test_emphasis_is_read_and_leaves_the_text_as_it_is():
    (term,) = Prompt.read("(a red:1.5) 7 (square)").terms
    assert term.spans == (("a red", 1.5), (" 7 (square)", 1.0))
    told = told_by([Prompt.read("a (red:1.5) 7"), Prompt.read("a red 7")], WORDS)
    assert torch.equal(told["text"][0], told["text"][1])
    assert told["emphasis"][0, :3].tolist() == [1, 1.5, 1] and (told["emphasis"][1] == 1).all()


@pytest.mark.parametrize(
    "text",
    ["at (12:30) sharp", "NOT for sale", "cats AND dogs AND NOT birds", r"a \(b:2) c", "(a (b:c))"],
)
def test_a_text_in_quotes_is_read_as_it_stands(text):
    assert Prompt.read(quoted(text)).terms == (Term(((text, 1.0),)),)


def test_a_backslash_keeps_brackets_inside_an_emphasis():
    (term,) = Prompt.read(r"a (cat \(old\):2) \AND a dog").terms
    assert term.spans == (("a ", 1.0), ("cat (old)", 2.0), (" AND a dog", 1.0))


@pytest.mark.parametrize("bad", ["(red:)", "(red:x)", "(red:0)", "(red:-1)", "(red:1e9)"])
def test_an_emphasis_that_is_no_number_in_bounds_is_refused(bad):
    with pytest.raises(UsageError, match="must be a number from"):
        Prompt.read(f"a {bad} 7")


def test_texts_put_together_have_an_axis_and_shares():
    prompts = [Prompt.read("a 7 AND NOT a square"), Prompt.read("a 7")]
    told = told_by(prompts, WORDS, terms_of(prompts))
    assert told["text"].shape == (2, 2, WORDS.length)
    assert told["shares"].tolist() == [[1, -1], [1, 0]]
    assert terms_of(prompts[1:]) == 0
    assert set(told_by(prompts[1:], WORDS)) == {"text"}


def test_a_run_without_captions_refuses_texts():
    with pytest.raises(UsageError, match="without captions"):
        texts(tiny_model(), [Prompt.read("a 7")])
