"""What a batch is made of depends on (seed, seen) alone."""

from dataclasses import replace

import pytest
import torch

from ornstein.core.noise import FlowSchedule
from ornstein.core.times import UniformTimes
from ornstein.data import DataOptions, open_data
from ornstein.data.captions import Captions
from ornstein.train.device import World
from ornstein.train.draws import Batch, draw, without
from train.tiny import labelled_points

SCHEDULE, TIMES = FlowSchedule(), UniformTimes()


def batch(seen: int = 64, count: int = 30, share: slice | None = None, **options) -> Batch:
    data = labelled_points()
    indices = data.order(options.get("seed", 3), range(seen, seen + count))
    arguments = {"seed": 3, "hide": 0.5, **options}
    return draw(data, indices, SCHEDULE, TIMES, seen=seen, share=share, **arguments)


def parts_of(b: Batch) -> list[torch.Tensor]:
    return [b.x, b.t, b.eps, b.cond["label"]]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_shares_of_any_number_of_processes_are_the_batch(size):
    shares = [batch(share=World(rank, size).share(30)) for rank in range(size)]
    for whole, *pieces in zip(parts_of(batch()), *map(parts_of, shares), strict=True):
        assert torch.equal(whole, torch.cat(pieces))


def test_pieces_are_the_batch():
    whole = batch()
    for size in (1, 7, 30, 100):
        pieces = [parts_of(part) for part in whole.parts(size)]
        assert all(len(p[0]) <= size for p in pieces)
        for a, *b in zip(parts_of(whole), *pieces, strict=True):
            assert torch.equal(a, torch.cat(b))


def test_nothing_is_drawn_from_the_global_state():
    first = batch()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for a, b in zip(parts_of(first), parts_of(batch()), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(state, torch.get_rng_state())


def test_other_seeds_and_other_positions_draw_other_noise():
    noises = [batch().eps, batch(seen=94).eps, batch(seed=4).eps]
    assert not any(torch.equal(a, b) for a, b in [noises[:2], noises[1:], noises[::2]])


def test_times_cover_their_distribution_evenly():
    t = batch(count=100).t.sort().values
    gaps = t.diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 0.01), rtol=0, atol=1e-9)


def test_conditions_are_hidden_at_the_rate_asked_for_and_change_nothing_else():
    plain, hidden = batch(count=2000, hide=0.0), batch(count=2000, hide=0.3)
    assert torch.equal(plain.eps, hidden.eps) and torch.equal(plain.t, hidden.t)
    assert (plain.cond["label"] >= 0).all()
    share = (hidden.cond["label"] == -1).double().mean().item()
    assert abs(share - 0.3) < 4 * (0.21 / 2000) ** 0.5
    kept = hidden.cond["label"] >= 0
    assert torch.equal(plain.cond["label"][kept], hidden.cond["label"][kept])


def test_a_text_is_hidden_with_all_else_or_at_a_share_of_its_own():
    data, count = labelled_points(), 2000
    captions = Captions.of([("some text",)] * len(data))
    data, indices = replace(data, captions=captions), data.order(3, range(count))
    shares = []
    for silent in (0.0, 0.5):
        how = {"seed": 3, "seen": 0, "hide": 0.3, "silent": silent}
        cond = draw(data, indices, SCHEDULE, TIMES, **how).cond
        untold, unlabelled = (cond["text"] == -1).all(1), cond["label"] == -1
        shares.append([part.double().mean() for part in (untold, unlabelled, untold & unlabelled)])
    assert shares[0][0] == shares[0][1] == shares[0][2] == shares[1][1]
    assert abs(shares[1][0] - 0.5) < 4 * (0.25 / count) ** 0.5
    assert abs(shares[1][2] - 0.15) < 4 * (0.1275 / count) ** 0.5  # neither knows of the other


def test_a_hidden_attribute_is_nan_and_an_augmentation_is_told():
    cond = {
        "label": torch.tensor([4, 5]),
        "attributes": torch.ones(2, 3),
        "augment": torch.ones(2, 1),
    }
    got = without(cond, torch.tensor([True, False]))
    assert got["label"].tolist() == [-1, 5]
    assert got["attributes"].isnan().tolist() == [[True] * 3, [False] * 3]
    assert torch.equal(got["augment"], cond["augment"])


def test_augmentation_follows_the_clock():
    data = open_data(torch.rand(20, 1, 6, 6), DataOptions(flip=True, shift=2))
    indices = torch.arange(20)

    def at(seen: int) -> Batch:
        return draw(data, indices, SCHEDULE, TIMES, seed=0, seen=seen)

    assert torch.equal(at(40).x, at(40).x)
    assert not torch.equal(at(40).x, at(60).x)  # the same pictures, varied in another way
    assert at(40).cond["augment"].shape == (20, 3)
    plain = replace(data, options=DataOptions())
    assert torch.equal(draw(plain, indices, SCHEDULE, TIMES, seed=0, seen=40).eps, at(40).eps)


def test_noise_in_what_is_given_is_told_and_keeps_its_variance():
    options = DataOptions(given="grey", given_noise=0.6, flip=True)
    data = open_data(torch.randn(400, 3, 4, 4), options)

    def at(share: slice | None = None) -> Batch:
        return draw(data, torch.arange(400), SCHEDULE, TIMES, seed=0, seen=0, share=share)

    whole, told = at(), at().cond["augment"]
    assert told.shape == (400, 2) and told[:, 1].min() >= 0 and 0.55 < told[:, 1].max() < 0.6
    plain = draw(
        replace(data, options=replace(options, given_noise=0.0)),
        torch.arange(400), SCHEDULE, TIMES, seed=0, seen=0,
    )  # fmt: skip
    share = told[:, 1, None, None, None]
    noise = (whole.cond["context"] - (1 - share**2).sqrt() * plain.cond["context"]) / share
    assert abs(noise.std() - 1) < 0.02 and abs(whole.cond["context"].std() - 1) < 0.03
    for name, value in at(slice(100, 200)).cond.items():
        assert torch.equal(value, whole.cond[name][100:200])
    assert torch.equal(plain.eps, whole.eps)
