"""A run as one graph: what it draws is what the run draws, and what no graph can be is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ornstein.core.guide import ClassifierFree, LearnedGuidance
from ornstein.core.sample import start
from ornstein.data.captions import Words
from ornstein.errors import ModelFileError, UsageError
from ornstein.nets.autoencoder import Autoencoder
from ornstein.runs.config import DenoiserConfig, ScheduleConfig
from ornstein.runs.latents import LatentCodec
from ornstein.runs.model import Vocabulary, build_denoiser
from ornstein.tasks import export as exporting
from ornstein.tasks.export import Unrolled, export
from ornstein.tasks.options import DrawOptions, ExportOptions
from ornstein.tasks.sample import plan
from untrained import grey_codec, of_random_weights, tiny_model, tiny_student

GUIDANCE = 2.5


def drawn(model, options, noise, label, attributes):
    """What the tasks draw of this noise, in the units of the data."""
    kept = {"sampler": options.sampler, "steps": options.steps}
    steps = plan(model, DrawOptions(**kept))[1]
    words = model.vocabulary
    age = (attributes - torch.tensor(words.means)) / torch.tensor(words.stds)
    denoiser = ClassifierFree(model.denoiser, GUIDANCE).given(label=label, attributes=age)
    x = steps(denoiser, start(denoiser.schedule, steps.times[0], noise))
    wide = (-1, *(1 for _ in model.shape[1:]))
    return torch.tensor(model.codec.mean).view(wide) + torch.tensor(model.codec.std).view(wide) * x


def inputs(model, count=3):
    noise = torch.randn(count, *model.shape, generator=torch.Generator().manual_seed(count))
    attributes = torch.tensor([[30.0], [torch.nan], [50.0], [40.0], [35.0]])[:count]
    return noise, torch.tensor([0, -1, 2, 1, 0])[:count], attributes


@pytest.mark.parametrize("sampler", ["ddim", "heun", "edm", "dpm++2m", "unipc", "adams-bashforth"])
def test_a_graph_is_the_sampler_with_its_guidance_and_units(sampler):
    model = tiny_model("mlp")
    options = ExportOptions(sampler=sampler, steps=4, guidance=GUIDANCE)
    with torch.no_grad():
        found = Unrolled(model, options)(*inputs(model))
    expected = drawn(model, options, *inputs(model))
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_graph_knows_every_schedule_and_prediction_and_leaves_a_variance_out():
    model = tiny_model("mlp")
    config = replace(
        model.config,
        schedule=ScheduleConfig(name="ddpm"),
        denoiser=DenoiserConfig(prediction="noise", weighting="simple", variance_steps=1000),
    )
    denoiser = build_denoiser(config, model.shape, model.vocabulary).eval()
    model = replace(model, config=config, denoiser=denoiser)
    options = ExportOptions(sampler="ddim", steps=3, guidance=GUIDANCE)
    with torch.no_grad():
        found = Unrolled(model, options)(*inputs(model))
    expected = drawn(model, options, *inputs(model))
    assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_a_graph_of_a_student_looks_ahead_and_guides_at_one_call():
    model, weight = tiny_student("mlp"), 2.0
    noise, label, attributes = inputs(model)
    graph, calls = Unrolled(model, ExportOptions(guidance=weight)), []
    graph.net.register_forward_hook(lambda *a: calls.append(1))
    with torch.no_grad():
        found = graph(noise, label, attributes)
    assert len(calls) == len(graph.calls) == 2
    steps, age = plan(model, DrawOptions())[1], (attributes - 40) / 10
    denoiser = LearnedGuidance(model.denoiser, weight).given(label=label, attributes=age)
    x = steps(denoiser, start(denoiser.schedule, steps.times[0], noise))
    assert_close(found, torch.tensor([1.0, -1.0]) + torch.tensor([2.0, 0.5]) * x)


def test_a_graph_of_a_run_that_reads_is_told_a_text():
    words = replace(Vocabulary(), words=Words.learned(["a red 7", "a blue 7"]))
    model = tiny_model("mlp")
    model = of_random_weights(model.config, model.codec, words)
    graph = Unrolled(model, ExportOptions(sampler="ddim", steps=2, guidance=GUIDANCE))
    assert graph.inputs == ["noise", "text"]
    noise, text = inputs(model, 2)[0], words.words.tensor(["a red 7", "a blue 7"])
    denoiser = ClassifierFree(model.denoiser, GUIDANCE).given(text=text)
    steps = plan(model, DrawOptions(sampler="ddim", steps=2))[1]
    x = steps(denoiser, start(denoiser.schedule, steps.times[0], noise))
    with torch.no_grad():
        assert_close(graph(noise, text), torch.tensor([1.0, -1.0]) + torch.tensor([2.0, 0.5]) * x)
        assert not torch.equal(graph(noise, text), graph(noise, text.flip(0)))


@pytest.fixture
def on_latents():
    """A model on the latents of pictures, whose sides are no multiples of the factor."""
    inner, coder = grey_codec((1, 7, 6)), Autoencoder((1, 7, 6), size=8, factor=2, channels=2)
    model = tiny_model()
    codec = LatentCodec(
        shape=(2, 4, 3),
        dtype="float32",
        mean=(0.5, -0.5),
        std=(2.0, 3.0),
        inner=inner,
        coder=coder.eval().requires_grad_(False),
    )
    return of_random_weights(model.config, codec, model.vocabulary)


def test_a_graph_of_a_run_on_latents_ends_in_the_pictures(on_latents):
    codec, options = on_latents.codec, ExportOptions(sampler="ddim", steps=2, guidance=GUIDANCE)
    noise, label, attributes = inputs(on_latents, 2)
    steps, age = plan(on_latents, DrawOptions(sampler="ddim", steps=2))[1], (attributes - 40) / 10
    denoiser = ClassifierFree(on_latents.denoiser, GUIDANCE).given(label=label, attributes=age)
    x = steps(denoiser, start(denoiser.schedule, steps.times[0], noise))
    with torch.no_grad():
        found = Unrolled(on_latents, options)(noise, label, attributes)
    assert found.shape == (2, 1, 7, 6)
    assert_close(found, 5 + 6 * codec.decoded(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_a_file_of_a_run_on_latents_draws_what_the_run_draws(tmp_path, on_latents, to):
    if to == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"sampler{exporting.SUFFIX[to]}"
    assert export(on_latents, path, to=to, steps=1).difference <= 1e-4


@pytest.mark.slow
def test_a_file_of_torch_draws_what_the_run_draws_for_any_batch(tmp_path):
    model = tiny_model("mlp")
    done = export(model, tmp_path / "sampler.pt2", to="torch", steps=2, guidance=GUIDANCE)
    assert done.inputs == ("noise", "label", "attributes")
    assert (done.calls, done.difference <= 1e-4) == (2, True)
    told = {"ornstein.json": ""}
    graph = torch.export.load(done.path, extra_files=told).module()
    for count in (1, 5):
        expected = drawn(model, ExportOptions(steps=2), *inputs(model, count))
        assert_close(graph(*inputs(model, count)), expected, rtol=1e-4, atol=1e-4)
    assert json.loads(told["ornstein.json"])["classes"] == ["ant", "bee", "cat"]


@pytest.mark.slow
def test_a_file_of_onnx_draws_what_the_run_draws_for_any_batch(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = tiny_model("mlp")
    done = export(model, tmp_path / "sampler.onnx", steps=1, guidance=GUIDANCE)
    assert done.difference <= 1e-4
    session = runtime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        given = inputs(model, count)
        named = {k: v.numpy() for k, v in zip(done.inputs, given, strict=True)}
        expected = drawn(model, ExportOptions(steps=1), *given).numpy()
        scale = max(model.codec.std)
        assert np.abs(session.run(None, named)[0] - expected).max() <= 1e-4 * scale


def test_a_file_that_draws_something_else_is_not_left(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_write_torch", lambda graph, path, about: path.touch())
    monkeypatch.setattr(exporting, "_difference", lambda graph, path, to: 0.1)
    with pytest.raises(ModelFileError, match=r"draws something else than the run, by 0\.1"):
        export(tiny_model("mlp"), tmp_path / "a.pt2", to="torch")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sampler": "ddpm"}, "draws noise"),
        ({"sampler": "rk45"}, "adapts its steps"),
        ({"sampler": "dddim"}, "did you mean 'ddim'"),
        ({"steps": 0}, "steps = 0"),
    ],
)
def test_what_no_graph_can_be_is_refused(tmp_path, options, reason):
    with pytest.raises(UsageError, match=reason):
        export(tiny_model("mlp"), tmp_path / "a.pt2", to="torch", **options)


def test_places_and_runs_that_do_not_suit_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"must end in \.pt2"):
        export(tiny_model("mlp"), tmp_path / "a.onnx", to="torch")
    with pytest.raises(UsageError, match="say where, with `out`"):
        export(tiny_model("mlp"), to="torch")
    with pytest.raises(UsageError, match="given pictures"):
        export(tiny_model("unet", given=(1, 8, 8)), tmp_path / "a.pt2", to="torch")
    with pytest.raises(UsageError, match="a network that diffusers has built in"):
        export(tiny_model("unet"), tmp_path / "folder", to="diffusers")
