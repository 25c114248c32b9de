"""What the recipe takes for latents that are asked for, beside what was measured."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from ornstein.data import DataOptions, open_data
from ornstein.data.embedded import Embedded
from ornstein.nets.autoencoder import Autoencoder
from ornstein.runs.config import EmbeddingConfig, RunConfig, SampleConfig
from ornstein.runs.latents import LatentCodec
from ornstein.train import recipes

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MEASURED, STAGES = RESULTS / "scenes.json", RESULTS / "prior.json"
TWENTY = RESULTS / "scenes_minutes.json"


@pytest.fixture
def scenes(monkeypatch):
    """Captioned scenes; any autoencoder is one that has learned nothing, any encoder says 0."""
    data = open_data("scenes", DataOptions(limit=2))
    codec = LatentCodec(
        shape=(4, 8, 8),
        dtype="float32",
        mean=(0.0,) * 4,
        std=(1.0,) * 4,
        inner=data.codec,
        coder=Autoencoder((3, 32, 32), size=8),
    )
    nothing = Embedded(values=torch.zeros(0, 6), count=torch.zeros(0, dtype=torch.int64))
    monkeypatch.setattr(recipes, "latents_of", lambda place: codec)
    monkeypatch.setattr(recipes, "encoder_of", lambda place: None)
    monkeypatch.setattr(recipes, "embedded", lambda data, *_: replace(data, embedded=nothing))
    return data


recipe = partial(recipes.recipe, latent="coder")
Tables = dict[str, dict[str, object]]


def config_of(results: Path, *parts: str) -> Tables:
    """What was measured, and of keys that there were not then, what is so by default."""
    found = json.loads(results.read_text())["config"]
    for part in parts:
        found = found[part]
    return {name: table | found[name] for name, table in tables(RunConfig(), found).items()}


def tables(config: RunConfig, like: Tables) -> Tables:
    return json.loads(json.dumps({name: asdict(config)[name] for name in like}))


def test_captioned_latents_are_trained_and_drawn_as_the_scenes_that_were_measured(scenes):
    config, measured = recipe(scenes), config_of(MEASURED)
    config = replace(config, train=replace(config.train, seen=measured["train"]["seen"]))
    assert tables(config, measured) == measured
    assert set(measured) == {"net", "schedule", "denoiser", "times", "train", "sample"}


def test_half_an_hour_is_spent_as_the_minutes_that_were_measured(scenes):
    config, measured = recipe(scenes, minutes=20), config_of(TWENTY)
    train = {name: measured["train"][name] for name in ("seen", "precision")}
    config = replace(config, train=replace(config.train, **train))
    assert tables(config, measured) == measured


def test_a_run_of_less_than_half_an_hour_is_smaller_on_larger_batches_and_nothing_else(scenes):
    short, long = (recipe(scenes, minutes=minutes) for minutes in (29, 30))
    assert short.net.size == 64 and short.train.batch == 128
    train = replace(short.train, batch=64)
    assert replace(short, net=long.net, train=train) == long == recipe(scenes)


@pytest.mark.parametrize("role", ["prior", "decoder"])
def test_two_stages_are_trained_as_those_that_were_measured(scenes, role, monkeypatch):
    by, latent = EmbeddingConfig(encoder="encoder", role=role), "coder"
    if role == "prior":
        told = Embedded(values=torch.zeros(1, 6), count=torch.ones(1, dtype=torch.int64))
        points = replace(open_data(torch.zeros(1, 6).numpy()), embedded=told)
        monkeypatch.setattr(recipes, "embedded", lambda *_: points)
        latent = ""
    config = recipes.recipe(scenes, minutes=10, latent=latent, embedding=by)
    measured = config_of(STAGES, role)
    train = {name: measured["train"][name] for name in ("seen", "precision")}
    config = replace(config, train=replace(config.train, **train))
    assert tables(config, measured) == measured


def test_a_decoder_of_latents_is_trained_so_too_and_not_guided(scenes):
    by, words = EmbeddingConfig(encoder="encoder"), recipe(scenes)
    decoder = recipe(scenes, embedding=by)
    assert replace(decoder, sample=words.sample, embedding=words.embedding) == words
    assert decoder.sample == SampleConfig()


def test_latents_of_which_nothing_is_said_are_trained_as_other_data_of_their_shape(scenes):
    unsaid, plain = replace(scenes, captions=None), open_data(torch.rand(1000, 4, 8, 8))
    found = recipe(unsaid)
    assert replace(found, latent="", data=plain.options) == recipes.recipe(plain)
