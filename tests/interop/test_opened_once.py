"""A pipeline is opened once by a training that goes on from it, and by whoever draws from that."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ornstein as ou
import pipelines
from ornstein.interop.pipeline import Pipeline
from ornstein.interop.place import open_model
from ornstein.runs.folder import RunFolder
from ornstein.runs.lent import apart, lender, opened_once
from ornstein.train import Sequel, start

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def stable(tmp_path_factory) -> Path:
    return pipelines.stable(tmp_path_factory.mktemp("stable"))


@pytest.fixture(scope="module")
def cats(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("cats"), np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("red cat")
    return folder


@pytest.fixture
def loads(monkeypatch) -> Counter[str]:
    """How often each part of a pipeline was read."""
    found, load = Counter[str](), Pipeline.load

    def counted(self, part):
        found[part] += 1
        return load(self, part)

    monkeypatch.setattr(Pipeline, "load", counted)
    return found


def trained(stable: Path, cats: Path, out: Path, learn) -> RunFolder:
    small = {"train": {"batch": 4, "seen": 8, "precision": "f32", "learning_rate": 1e-2}}
    wanted = Sequel(base=str(stable), learn=learn, rank=2, changes=small)
    return ou.train(cats, config=wanted, out=out, device="cpu")


@pytest.mark.parametrize("learn", [pytest.param("all", marks=pytest.mark.slow), "low-rank"])
def test_a_run_from_a_pipeline_opens_it_once_and_is_the_same_run(
    learn, stable, cats, loads, tmp_path, monkeypatch
):
    run = trained(stable, cats, tmp_path / "run", learn)
    assert loads["unet"] == loads["vae"] == 1
    loads.clear()
    ou.train(out=run.path, resume=True, device="cpu")
    assert loads["unet"] == loads["vae"] == 1
    loads.clear()
    model = ou.load(run.path)
    assert loads["unet"] == loads["vae"] == 1
    if learn == "low-rank":
        loads.clear()
        worn = open_model(stable, adapters=[run.path]).denoiser.state_dict()
        assert loads["unet"] == loads["vae"] == 1
        assert all(torch.equal(worn[k], v) for k, v in model.denoiser.state_dict().items())
    loads.clear()
    monkeypatch.setattr(start, "opened_once", nullcontext)
    other = trained(stable, cats, tmp_path / "other", learn)
    assert loads["unet"] > 3
    one, two = run.latest(), other.latest()
    assert one is not None and two is not None
    weights, others = one.load("model"), two.load("model")
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_what_is_lent_is_changed_by_nobody_and_let_go_of(stable):
    with opened_once():
        first = lender("diffusers", stable)
        with opened_once():
            assert lender("diffusers", f"{stable}/.") is first
        own = apart(first.denoiser.net)
        with torch.no_grad():
            for weight in own.parameters():
                weight.zero_()
        assert lender("diffusers", stable) is first
        assert any(weight.any() for weight in first.denoiser.net.parameters())
    assert lender("diffusers", stable) is not first
    assert apart(first.denoiser.net) is first.denoiser.net
