"""What networks read of a text."""

import pytest
import torch
from torch.testing import assert_close

from ornstein.nets import Conditions, UNet
from ornstein.nets.blocks import Reading, Told
from ornstein.nets.text import TextEncoder, TextFeatures
from ornstein.runs.config import TrainConfig
from ornstein.train.optimise import build_optimizers

WORDS, LENGTH, WIDTH = 20, 6, 16


@pytest.fixture
def encode():
    torch.manual_seed(0)
    return TextEncoder(WORDS, LENGTH, WIDTH, WIDTH).double()


def text(*pieces):
    return torch.tensor([[*pieces, *[-1] * (LENGTH - len(pieces))]])


def ones():
    return torch.ones(1, LENGTH, dtype=torch.float64)


def test_no_text_says_nothing_as_a_whole(encode):
    whole, heard = encode(text(), ones())
    assert not whole.any()
    assert heard.bias.isfinite().sum() == 1  # the piece that is always there


def test_the_room_behind_a_text_says_nothing(encode):
    """A longer text in the same batch changes nothing."""
    both = torch.cat([text(3, 1), text(3, 1, 4, 1, 5, 9)])
    whole, heard = encode(both, ones().expand(2, -1))
    alone, heard_alone = encode(both[:1], ones())
    assert_close(whole[:1], alone)
    assert_close(heard.pieces[:1, :3], heard_alone.pieces[:, :3])


@pytest.mark.parametrize("reads", ["words", "read"])
def test_a_network_hears_the_same_of_texts_without_the_room_behind_them(reads):
    """As they come in training, cut behind the longest of a batch."""
    torch.manual_seed(0)
    told = Conditions(
        length=LENGTH, words=WORDS if reads == "words" else 0, read=5 * (reads == "read")
    )
    net = UNet((1, 8, 8), size=8, depth=1, conditions=told).double()
    for p in net.parameters():
        p.data = torch.randn_like(p) / 4  # it begins as one that answers nothing
    whole = torch.cat([text(3, 1), text(), text(5)])
    if reads == "read":
        whole = torch.randn(3, LENGTH, 5).masked_fill((whole < 0)[..., None], torch.nan).double()
    x, log_snr = torch.randn(3, 1, 8, 8).double(), torch.zeros(3).double()
    answers = [net(x, log_snr, text=one) for one in (whole, whole[:, :2])]
    assert_close(*answers)
    silent = net(x, log_snr)
    assert not torch.allclose(answers[0][0], silent[0])
    assert_close(answers[0][1], silent[1])
    with pytest.raises(ValueError, match="expected text"):
        net(x, log_snr, text=torch.cat([whole, whole[:, :1]], 1))


def test_the_order_of_words_is_heard(encode):
    assert (encode(text(3, 1), ones())[0] - encode(text(1, 3), ones())[0]).abs().max() > 0.01


def test_emphasis_multiplies_the_attention_to_a_piece(encode):
    """With ``softmax(scores + log w)``, a piece of weight w counts as w pieces like it."""
    weight = torch.tensor([[1.0, 2.5, 1, 1, 1, 1]]).double()
    _, heard = encode(text(3, 1, 4), weight)
    scores = torch.randn(1, 1, 1, LENGTH + 1, dtype=torch.float64)
    share = torch.softmax(scores + heard.bias, -1)[0, 0, 0]
    plain = torch.softmax(scores + encode(text(3, 1, 4), ones())[1].bias, -1)[0, 0, 0]
    assert_close(share[2] / share[1], 2.5 * plain[2] / plain[1])
    assert share[4:].sum() == 0


def test_features_of_another_encoder_are_heard_as_far_as_they_go():
    torch.manual_seed(0)
    encode = TextFeatures(5, WIDTH, WIDTH).double()
    features = torch.randn(2, LENGTH, 5, dtype=torch.float64)
    features[0, 3:], features[1] = torch.nan, torch.nan
    whole, heard = encode(features, ones().expand(2, -1))
    assert not whole[1].any() and heard.bias[1].isfinite().sum() == 1
    assert heard.pieces.isfinite().all() and heard.bias[0].isfinite().sum() == 4


def test_a_network_hears_features_and_takes_none_for_not_given():
    torch.manual_seed(0)
    net = UNet((1, 8, 8), size=8, conditions=Conditions(read=5, length=LENGTH))
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    x, log_snr, text = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.randn(2, LENGTH, 5)
    without = net(x, log_snr)
    assert (net(x, log_snr, text=text) - without).abs().max() > 1e-4
    assert torch.equal(net(x, log_snr, text=torch.full_like(text, torch.nan)), without)
    with pytest.raises(ValueError, match="expected text"):
        net(x, log_snr, text=text[..., :3])


@pytest.mark.parametrize(
    "told", [{"words": 3}, {"length": 3}, {"words": 3, "read": 3, "length": 3}]
)
def test_texts_come_in_one_way_and_with_a_length(told):
    with pytest.raises(ValueError, match="words or read"):
        Conditions(**told)


def test_to_which_thing_a_colour_belongs_is_soon_learned():
    """Of "red 7 blue 4", asked for the colour of 4. One that hears all words alike would guess."""
    torch.manual_seed(0)
    colours, kinds, width = 4, 6, 32
    encode, ask = TextEncoder(colours + kinds, 4, width, width), torch.nn.Embedding(kinds, width)
    read, answer = Reading(width, width), torch.nn.Linear(width, colours)
    modules = torch.nn.ModuleList([encode, ask, read, answer])
    optimizers = build_optimizers(modules, TrainConfig(optimizer="muon"))
    right = list[float]()
    for _ in range(80):
        kind = torch.rand(64, kinds).argsort(1)[:, :2]
        colour = torch.randint(colours, (64, 2))
        asked = torch.randint(2, (64, 1))
        pieces = torch.stack([colour, kind + colours], 2).flatten(1)
        whole, heard = encode(pieces, torch.ones(64, 4))
        points = read(ask(kind.gather(1, asked)), Told(whole, heard))
        scores, truth = answer(points[:, 0]), colour.gather(1, asked)[:, 0]
        modules.zero_grad()
        torch.nn.functional.cross_entropy(scores, truth).backward()
        for optimizer in optimizers:
            optimizer.step(8e-3)
        right.append((scores.argmax(1) == truth).float().mean().item())
    assert sum(right[-10:]) / 10 > 0.95
