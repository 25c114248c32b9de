"""A run as one graph: what it draws is what the run draws, and what no graph can be is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import ornstein as ou
import pipelines
from ornstein.core.guide import ClassifierFree, LearnedGuidance
from ornstein.core.sample import start
from ornstein.data.captions import Words
from ornstein.data.reader import Reader
from ornstein.errors import ModelFileError, UsageError
from ornstein.nets.autoencoder import Autoencoder
from ornstein.rng import Streams
from ornstein.runs.building import build_denoiser
from ornstein.runs.config import DenoiserConfig, NetConfig, SampleConfig, ScheduleConfig
from ornstein.runs.latents import LatentCodec
from ornstein.runs.vocabulary import Vocabulary
from ornstein.tasks import export as exporting
from ornstein.tasks.export import asked_of, export
from ornstein.tasks.graph import Graph
from ornstein.tasks.options import DrawOptions, ExportOptions
from ornstein.tasks.sample import plan
from untrained import grey_codec, of_random_weights, tiny_model, tiny_student

GUIDANCE = 2.5
WORDS = Words.learned(["a red 7", "a blue 7"])


def graph_of(model, **options):
    return Graph(model, asked_of(model, ExportOptions(**options))).eval()


def in_units(model, x):
    """x, decoded, in the units of the data."""
    wide = (-1, *(1 for _ in model.shape[1:]))
    codec = model.codec.data
    return torch.tensor(codec.mean).view(wide) + torch.tensor(codec.std).view(wide) * x


def unit_noise(model, count):
    """The noise that sampling begins with."""
    return Streams(0, range(count))(torch.empty(count, *model.shape))


def drawn(model, options, noise, label, attributes):
    """What the tasks draw of this noise, in the units of the data."""
    kept = {"sampler": options.sampler, "steps": options.steps}
    steps = plan(model, DrawOptions(**kept))[1]
    words = model.vocabulary
    age = (attributes - torch.tensor(words.means)) / torch.tensor(words.stds)
    denoiser = ClassifierFree(model.denoiser, GUIDANCE).given(label=label, attributes=age)
    x = steps(denoiser, start(denoiser.schedule, steps.times[0], noise))
    return in_units(model, x)


def inputs(model, count=3):
    noise = torch.randn(count, *model.shape, generator=torch.Generator().manual_seed(count))
    attributes = torch.tensor([[30.0], [torch.nan], [50.0], [40.0], [35.0]])[:count]
    return noise, torch.tensor([0, -1, 2, 1, 0])[:count], attributes


@pytest.mark.parametrize("sampler", ["ddim", "heun", "edm", "dpm++2m", "unipc", "adams-bashforth"])
def test_a_graph_is_the_sampler_with_its_guidance_and_units(sampler):
    model = tiny_model("mlp")
    options = ExportOptions(sampler=sampler, steps=4, guidance=GUIDANCE)
    with torch.no_grad():
        found = graph_of(model, **vars(options))(*inputs(model))
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
        found = graph_of(model, **vars(options))(*inputs(model))
    expected = drawn(model, options, *inputs(model))
    assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("method", ["flow-map", "mean-flow"])
def test_a_graph_of_a_student_looks_ahead_and_guides_at_one_call(method):
    model, weight = tiny_student("mlp", method=method), 2.0
    noise, label, attributes = inputs(model)
    graph, calls = graph_of(model, guidance=weight), []
    graph.net.register_forward_hook(lambda *a: calls.append(1))
    with torch.no_grad():
        found = graph(noise, label, attributes)
    assert len(calls) == len(graph.calls) == 2
    steps, age = plan(model, DrawOptions())[1], (attributes - 40) / 10
    denoiser = LearnedGuidance(model.denoiser, weight).given(label=label, attributes=age)
    x = steps(denoiser, start(denoiser.schedule, steps.times[0], noise))
    assert_close(found, torch.tensor([1.0, -1.0]) + torch.tensor([2.0, 0.5]) * x)


@pytest.fixture(scope="module")
def reads():
    """A model of pictures that reads, and knows classes too."""
    model = tiny_model()
    return of_random_weights(model.config, model.codec, replace(model.vocabulary, words=WORDS))


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_parallel": 0.0},
        {"guidance_rescale": 0.7},
        {"guidance_interval": (-3.0, 3.0)},
        {"negative": "a (blue:2) 7"},
        {"threshold": 0.9},
        {
            "guidance_parallel": 0.3,
            "guidance_rescale": 0.5,
            "guidance_interval": (-6.0, 6.0),
            "negative": "a 7",
            "threshold": 0.995,
        },
    ],
    ids=lambda options: "-".join(options),
)
def test_a_graph_guides_as_the_run_is_told_to(reads, options):
    same = {"sampler": "ddim", "steps": 3, "guidance": 7.0}
    told = {"label": "bee", "text": ("a red 7", "a blue 7")}
    told_graph = [
        torch.tensor([1, 1]),
        torch.full((2, 1), torch.nan),
        reads.words.tensor(["a red 7", "a blue 7"]),
    ]
    plain, expected = (
        in_units(reads, ou.sample(reads, 2, **told, **same, **more).x) for more in ({}, options)
    )
    assert (plain - expected).abs().max() > 1e-2
    with torch.no_grad():
        found = graph_of(reads, **same, **options)(unit_noise(reads, 2), *told_graph)
    assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_a_graph_guides_as_the_run_itself_says_if_nothing_is_said(reads):
    own = SampleConfig(steps=3, guidance=7.0, guidance_parallel=0.0)
    model = replace(reads, config=replace(reads.config, sample=own))
    expected = in_units(model, ou.sample(model, 2, text="a red 7").x)
    graph = graph_of(model)
    assert (graph.weight, graph.parallel) == (7.0, 0.0)
    label, age = torch.full((2,), -1), torch.full((2, 1), torch.nan)
    with torch.no_grad():
        found = graph(unit_noise(model, 2), label, age, model.words.tensor(["a red 7"] * 2))
    assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_a_graph_of_a_run_with_an_encoder_of_others_is_told_what_that_says(monkeypatch):
    """In floats, NaN behind the last piece."""
    said = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0)).half()
    said[0, 4:], said[1] = torch.nan, torch.nan
    known = dict(zip(("a red 7", "", "blue"), said, strict=True))
    monkeypatch.setattr(Reader, "tensor", lambda self, texts: torch.stack([*map(known.get, texts)]))
    monkeypatch.setattr(Reader, "unread", lambda self, text: "")
    monkeypatch.setattr(Reader, "emphasis", lambda self, spans: torch.ones(6))
    words = Vocabulary(words=Reader(encoder="clip", mark="0", width=5, length=6))
    model = of_random_weights(tiny_model("mlp").config, tiny_model("mlp").codec, words)
    same = {"sampler": "ddim", "steps": 2, "guidance": GUIDANCE}
    expected = in_units(model, ou.sample(model, 3, text=list(known), **same).x)
    graph = graph_of(model, **same)
    assert graph.inputs == ["noise", "text"]
    with torch.no_grad():
        found = graph(unit_noise(model, 3), said.float())
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    pytest.importorskip("diffusers")
    return ou.load_diffusers(pipelines.stable(tmp_path_factory.mktemp("sd")))


def test_a_graph_of_stable_diffusion_is_told_what_its_encoder_says(stable):
    """And is guided by its 7.5: with a text to go away from, into pictures of its VAE."""
    texts, same = ["red cat", "blue"], {"sampler": "ddim", "steps": 2, "negative": "cat"}
    drawn = ou.sample(stable, 2, text=texts, **same)
    graph = graph_of(stable, **same)
    assert (graph.inputs, graph.weight, len(graph.calls)) == (["noise", "text"], 7.5, 2)
    with torch.no_grad():
        found = graph(unit_noise(stable, 2), stable.words.tensor(texts))
    expected = in_units(stable, drawn.x)
    assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.slow
def test_a_file_of_stable_diffusion_draws_what_the_pipeline_draws_for_any_batch(stable, tmp_path):
    done = export(stable, tmp_path / "sd.pt2", to="torch", sampler="ddim", steps=1, guidance=3)
    assert done.inputs == ("noise", "text") and done.difference <= 1e-4
    told = {"ornstein.json": ""}
    graph = torch.export.load(done.path, extra_files=told).module()
    with torch.no_grad():
        found = graph(unit_noise(stable, 1), stable.words.tensor(["blue"]))
    expected = in_units(stable, ou.sample(stable, 1, text="blue", steps=1, guidance=3).x)
    assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert json.loads(told["ornstein.json"])["text"] == {"length": 12, "width": 8}


def test_a_graph_of_a_network_of_diffusers_hears_the_numbers_of_its_steps(tmp_path):
    """Its clock looks them up in a table, which ONNX cannot: they are in the graph."""
    pytest.importorskip("diffusers")
    model = ou.load_diffusers(pipelines.ddpm(tmp_path, num_class_embeds=3))
    same = {"sampler": "ddim", "steps": 3}
    expected = in_units(model, ou.sample(model, 2, label=2, **same).x)
    graph = graph_of(model, **same)
    assert [round(call.heard) for call in graph.calls] == [999, 666, 332]
    with torch.no_grad():
        found = graph(unit_noise(model, 2), torch.tensor([2, 2]))
    assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert asked_of(model, ExportOptions()).label == ("0", "1")  # it knows no example of none
    with pytest.raises(UsageError, match="give a label"):
        export(model, tmp_path / "a.pt2", to="torch", guidance=2, **same)


def test_a_graph_of_the_recipe_for_diffusers_hears_them_too():
    config = replace(
        tiny_model().config,
        net=NetConfig(kind="unet2d", size=8, depth=1),
        schedule=ScheduleConfig(name="ddpm"),
        denoiser=DenoiserConfig(prediction="noise", weighting="simple"),
    )
    model = of_random_weights(config, grey_codec((1, 8, 8)), Vocabulary())
    expected = in_units(model, ou.sample(model, 2, sampler="ddim", steps=3).x)
    with torch.no_grad():
        found = graph_of(model, sampler="ddim", steps=3)(unit_noise(model, 2))
    assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


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
        found = graph_of(on_latents, **vars(options))(noise, label, attributes)
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
@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_a_file_of_a_run_that_is_told_nothing_draws_what_the_run_draws(tmp_path, to):
    if to == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    model = of_random_weights((known := tiny_model("mlp")).config, known.codec, Vocabulary())
    done = export(model, tmp_path / f"sampler{exporting.SUFFIX[to]}", to=to, steps=2)
    assert done.inputs == ("noise",) and done.difference <= 1e-4


def nodes(graph):
    """Of a graph of ONNX, those of its loops included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from nodes(attribute.g)


@pytest.mark.slow
def test_a_file_of_many_guided_steps_holds_the_network_twice_and_draws_any_batch(reads, tmp_path):
    """Once with its text and once without, in one loop: as few steps do."""
    pytest.importorskip("onnxscript")
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    how = {"guidance": 7.0, "guidance_parallel": 0.0, "sampler": "dpm++2m", "negative": "a 7"}
    net = replace(reads.config.net, levels=((1, 1),))
    model = of_random_weights(replace(reads.config, net=net), reads.codec, reads.vocabulary)
    done = export(model, tmp_path / "a.onnx", steps=32, **how)
    assert (done.calls, done.difference <= 1e-4) == (32, True)
    session = runtime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    asked = asked_of(model, ExportOptions(steps=32, **how))
    for count in (1, 5):
        with torch.no_grad():
            given = (graph := Graph(model, asked).eval()).examples(model, asked, count)
            expected = graph(*given).numpy()
        named = {k: v.numpy() for k, v in zip(done.inputs, given, strict=True)}
        assert np.abs(session.run(None, named)[0] - expected).max() <= 1e-4 * max(model.codec.std)
    graph, called = graph_of(model, steps=1, **how), []
    for part in graph.net.modules():
        if isinstance(part, (torch.nn.Conv1d, torch.nn.Conv2d)):
            part.register_forward_hook(lambda *a: called.append(1))
    with torch.no_grad():
        graph(*graph.examples(model, asked_of(model, ExportOptions(steps=1, **how)), 1))
    kinds = [node.op_type for node in nodes(onnx.load(done.path).graph)]
    assert (kinds.count("Scan"), kinds.count("Conv")) == (1, len(called))
    assert done.size < 2**20  # no lines of code, of which each node would have its own
    assert __file__.rpartition("/tests/")[0].encode() not in done.path.read_bytes()


def test_a_file_that_draws_something_else_than_the_run_is_not_left(tmp_path, monkeypatch):
    """As what a file draws is compared with sampling, a graph that guides otherwise is no copy."""
    model = tiny_model("mlp")

    def write(graph, inputs, path, about):
        path.touch()

    def run_again(path, inputs):
        with torch.no_grad():
            return graph_of(model, guidance=GUIDANCE + 0.1)(*inputs).numpy()

    monkeypatch.setitem(exporting.FORMATS, "torch", (write, run_again))
    with pytest.raises(ModelFileError, match=r"something else than the run, by 0\."):
        export(model, tmp_path / "a.pt2", to="torch", guidance=GUIDANCE)
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
