"""Runs on latents that are given pictures: pairs, cascades, masks, a control branch; and moved."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ornstein.data import DataOptions, open_data
from ornstein.data.dataset import draws_at, vary
from ornstein.data.given import fitted
from ornstein.errors import UsageError
from ornstein.evaluate.evaluation import evaluate
from ornstein.runs.config import AutoencoderConfig, NetConfig, RunConfig, TrainConfig
from ornstein.runs.latents import encoded, latents_of
from ornstein.runs.model import load
from ornstein.tasks.edit import edit
from ornstein.tasks.restore import restore
from ornstein.tasks.sample import sample
from ornstein.tasks.segment import segment
from ornstein.train import train
from ornstein.train.adapt import adaptation
from ornstein.train.signals import Stop
from untrained import tiny_model

OPTIONS = DataOptions(size=16, limit=120)
SHORT = TrainConfig(seen=64, batch=32, precision="f32", ema=(0.05,), learning_rate=1e-2)
NET = NetConfig(size=8, depth=1)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """An autoencoder of digits; a run on its latents; one that is given small digits beside."""
    folder = tmp_path_factory.mktemp("pairs")
    coder = RunConfig(
        data=OPTIONS,
        net=NetConfig(kind="autoencoder", size=8),
        train=replace(SHORT, seen=640, optimizer="muon", learning_rate=2e-2),
    )
    train("digits", out=folder / "coder", config=coder)
    plain = RunConfig(latent=str(folder / "coder"), data=OPTIONS, net=NET, train=SHORT)
    train("digits", out=folder / "run", config=plain)
    given = replace(OPTIONS, given="small-8", given_noise=0.2)
    train("digits", out=folder / "sharp", config=replace(plain, data=given))
    return folder


def controlled(places, name, **changes):
    """The configuration of a control branch on the run on latents."""
    config = adaptation(places / name, "control")
    return replace(config, data=replace(config.data, given="edges", **changes), train=SHORT)


@pytest.fixture(scope="module")
def branch(places):
    """A control branch, whose training was stopped and went on; the autoencoder is gone."""
    (places / "coder").rename(places / "away")
    try:
        stop = Stop()
        stop.set()
        train("digits", out=places / "branch", config=controlled(places, "run"), stop=stop)
        train(out=places / "branch", resume=True)
    finally:
        (places / "away").rename(places / "coder")
    return places / "branch"


# --- What a latent point is given ----------------------------------------------------------------


def test_each_latent_point_is_given_all_the_pixels_that_it_stands_for(places):
    data = open_data("digits", replace(OPTIONS, given="edges"))
    learned = encoded(data, latents_of(places / "coder"))
    _, cond = learned.batch(torch.arange(8))
    assert cond["context"].shape == (8, 16, 4, 4) and learned.given.channels == 16
    pixels = torch.nn.functional.pixel_shuffle(cond["context"], 4)
    assert torch.equal(pixels, data.given.codec.pack(data.given.stored[:8]))


@pytest.mark.parametrize(("given", "block"), [("small-4", 1), ("small-8", 2), ("grey", 4)])
def test_what_is_coarser_than_the_data_is_given_in_as_small_blocks(tmp_path, given, block):
    from ornstein.nets.autoencoder import Autoencoder
    from ornstein.runs.latents import LatentCodec

    data = open_data("flower", DataOptions(size=16, limit=4, given=given))
    net = Autoencoder(data.codec.shape, size=8)
    codec = LatentCodec(
        shape=(4, 4, 4),
        dtype="float32",
        mean=(0.0,) * 4,
        std=(1.0,) * 4,
        inner=data.codec,
        coder=net,
    )
    found = encoded(data, codec)
    assert found.given.block == block
    channels = data.given.codec.shape[0] * block**2
    assert found.batch(torch.arange(4))[1]["context"].shape == (4, channels, 4, 4)


def test_pictures_that_are_no_whole_blocks_end_in_their_last_pixels():
    """As an autoencoder continues what it encodes: block by block, the two are about one place."""
    x = torch.arange(2 * 10.0).view(1, 1, 2, 10)
    seen = torch.nn.functional.pixel_shuffle(fitted(x, (1, 3), 4), 4)
    assert torch.equal(seen[..., :2, :10], x)
    assert torch.equal(seen[..., 3, :10], x[..., 1, :]) and (seen[..., 0, 10:] == 9).all()


# --- Pairs ---------------------------------------------------------------------------------------


def test_a_run_of_pairs_on_latents_draws_from_what_it_is_given(places):
    model = load(places / "sharp")
    assert (model.vocabulary.context, model.vocabulary.block) == (4, 2)
    small = open_data("digits", DataOptions(size=8, limit=2))
    base = tiny_model(shape=(1, 8, 8))
    drawn = sample([base, model], 3, label="any", steps=2)
    again = sample([base, model], examples="1-2", label="any", steps=2)
    assert drawn.x.shape == (3, 1, 16, 16) and torch.equal(drawn.x[1:], again.x)
    other = sample([replace(base, codec=replace(base.codec, mean=(9.0,))), model], 3, steps=2)
    assert not torch.equal(drawn.x, other.x)
    assert small.codec.shape == model.given.shape


def test_a_run_of_pairs_on_latents_is_measured_against_its_pairs(places):
    found = evaluate(places / "sharp", steps=2, likely=0, count=12, device="cpu")
    assert found.pairs is not None and found.pairs.n > 2


def test_masks_are_drawn_through_an_autoencoder_of_masks(tmp_path):
    options = DataOptions(limit=40, size=16, given="image", make="mask")
    coder = RunConfig(
        data=options,
        net=NetConfig(kind="autoencoder", size=8),
        train=SHORT,
        autoencoder=AutoencoderConfig(factor=2),
    )
    train("cells", out=tmp_path / "coder", config=coder)
    config = RunConfig(latent=str(tmp_path / "coder"), data=options, net=NET, train=SHORT)
    run = train("cells", out=tmp_path / "masks", config=config)
    pictures = open_data("cells", options).given.stored[:2]
    found = segment(run.path, pictures, draws=3, steps=2)
    assert found.masks.shape == (2, 1, 16, 16) and set(found.masks.ravel()) <= {0, 255}
    assert_close(found.shares.sum(1), torch.ones(2, 1, 16, 16))


# --- Control -------------------------------------------------------------------------------------


def test_a_branch_on_latents_leaves_the_run_alone_where_nothing_is_given(places, branch):
    model = load(places / "run", adapters=[branch])
    assert torch.equal(sample(places / "run", 2, steps=2).x, sample(model, 2, steps=2).x)
    assert torch.equal(sample(branch, 2, steps=2).x, sample(model, 2, steps=2).x)
    lines = open_data("digits", replace(OPTIONS, given="edges")).given
    x, t = torch.randn(2, *model.shape), torch.full((2,), 0.5).double()
    told = replace(lines, block=4).context(torch.arange(2), model.shape[1:])
    alone = model.denoiser(x, t)
    assert (model.denoiser(x, t, context=told) - alone).abs().max() > 1e-4
    none = load(places / "run", adapters=[(branch, 0.0)])
    assert torch.equal(none.denoiser(x, t, context=told), alone)


def test_a_branch_on_latents_is_given_files_and_every_pixel_of_them_counts(
    places, branch, tmp_path
):
    model = load(branch)
    lines = open_data("digits", replace(OPTIONS, given="edges")).given
    changed = lines.stored[:1].clone()
    changed[..., 5, 7] = 255 - changed[..., 5, 7]
    for name, stored in (("a", lines.stored[:1]), ("b", changed)):
        x = model.given.pack(stored)
        [path] = model.given.save(x, tmp_path / name)
        path.rename(tmp_path / f"{name}.png")
    one, other = (sample(model, 1, given=tmp_path / f"{n}.png", steps=2).x for n in "ab")
    assert not torch.equal(one, other)
    free = sample(model, 1, steps=2).x
    assert not torch.equal(one, free)


def test_other_verbs_take_a_run_with_a_branch(branch):
    pictures, hole = open_data("digits", OPTIONS).stored[:1], torch.zeros(1, 1, 16, 16).bool()
    hole[..., 6:10] = True
    for done in (
        restore(branch, pictures, hole, draws=1, steps=2).samples,
        edit(branch, pictures, 0.5, mask=hole, draws=1, steps=2).samples,
    ):
        found = torch.from_numpy(done.codec.stored(done.x))
        assert torch.equal(found[~hole], pictures[~hole])


# --- Moved and cut -------------------------------------------------------------------------------


def test_pictures_are_mirrored_and_moved_before_they_are_encoded(places):
    codec = latents_of(places / "coder")
    options = replace(OPTIONS, flip=True, shift=2, given="edges")
    data = open_data("digits", options)
    learned, draws, rows = encoded(data, codec), draws_at(0, range(8)), torch.arange(8)
    x, cond = learned.batch(rows, draws)
    moved, _ = vary(data.stored[rows], draws, options)
    assert_close(x, codec.pack(moved))
    lines, _ = vary(data.given.stored[rows], draws, options)
    assert_close(
        torch.nn.functional.pixel_shuffle(cond["context"], 4), data.given.codec.pack(lines)
    )
    still, _ = learned.batch(rows)
    assert_close(still, codec.pack(data.stored[rows]))
    assert cond["augment"].shape == (8, 3) and not torch.equal(still, x)


def test_a_branch_goes_on_from_a_run_whose_pictures_were_mirrored(places, tmp_path):
    config = RunConfig(
        latent=str(places / "coder"),
        data=replace(OPTIONS, flip=True),
        net=NET,
        train=replace(SHORT, seen=32),
    )
    train("digits", out=tmp_path / "flipped", config=config)
    run = train("digits", out=tmp_path / "lines", config=controlled(tmp_path, "flipped"))
    assert load(run.path).vocabulary.block == 4
    assert sample(run.path, 1, steps=1).x.shape == (1, 1, 16, 16)


def test_a_mean_is_not_added_to_latents(places, tmp_path):
    config = RunConfig(latent=str(places / "coder"), mean=str(places / "sharp"), data=OPTIONS)
    with pytest.raises(UsageError, match="A mean is added to the data themselves"):
        train("digits", out=tmp_path / "no", config=config)
