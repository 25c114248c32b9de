"""A run as one graph for other programs: from unit noise to data in their own units."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.denoise import Denoiser
from ..core.sample import start
from ..errors import ModelFileError, StorageError, UsageError
from ..interop.diffusers import Foreign
from ..interop.written import write_diffusers
from ..runs.model import Model
from ..runs.quick import plain
from .asking import conditions
from .graph import Graph
from .options import DrawOptions, ExportOptions, checked
from .sample import Run, draw, opened, plan

TOLERANCE = 1e-4  # of the data's standard deviation: what differs by more is no copy
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
TEXTS = ("red", "", "blue")  # that a graph is tried on
TRACED, TRIED = 2, 3  # examples


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A sampler in a file.

    Args:
        path: Of the file, or of the folder.
        inputs: What the graph takes, in order.
        calls: Of the network, one after the other, in it.
        size: Bytes.
        difference: The largest between what the file and the run draw from the same noise, over
            the standard deviation of the data; on another batch than it was traced with.
    """

    path: Path
    inputs: tuple[str, ...]
    calls: int
    size: int
    difference: float


def export(
    run: Run,
    out: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    **options: Any,
) -> Exported:
    """Write the whole sampler as one graph: loop, guidance, and the data's units at the end.

    It takes unit noise ``(B, C, *S)`` for any B, then ``label`` ``(B,)``, int64, -1 for any, if
    the run knows classes, ``attributes`` ``(B, A)`` in their own units, NaN for any, if it knows
    those, and ``text``, if it reads texts: ``(B, L)``, int64, of pieces as `Words.tensor` numbers
    them; where an encoder of another library reads them, ``(B, L, D)``, float32, what that says
    of each. It gives floats ``(B, C, *S)`` in the units of the data, not yet rounded; of a run on
    latents through the decoder, in another shape than the noise. The loop is one of the graph,
    which takes no longer to trace for more steps.

    Args:
        run: The run, or its folder.
        out: The file; by default in the run folder.
        device: Where to compute while tracing.
        **options: Those of `ExportOptions`.

    Raises:
        UsageError: If the sampler draws noise or adapts its steps, the run is given pictures or
            embeddings or adds to a mean, it knows nothing of what it is to be guided away from,
            or ONNX is asked for and not installed.
        ModelFileError: If what was written does not draw what the run draws.
    """
    chosen = checked(ExportOptions, options)
    if chosen.to == "onnx":
        _onnx()
    model = plain(opened(run, device))
    if model.config.mean:
        raise UsageError(
            "A run that adds to a mean is two networks, and what is written holds one: train one "
            "without --mean to export it."
        )
    if chosen.to == "diffusers":
        return _as_folder(model, out, chosen)
    asked = asked_of(model, chosen)
    graph = Graph(model, asked).eval()
    if out is None:
        if model.run is None:
            raise UsageError("This model has no run folder to write to: say where, with `out`.")
        out = model.run.path / "exports" / f"sampler-{len(graph.plan.times) - 1}{SUFFIX[chosen.to]}"
    path = Path(out)
    if path.suffix != SUFFIX[chosen.to]:
        raise UsageError(f"{path} must end in {SUFFIX[chosen.to]}: it is for {chosen.to}.")
    write, run_again = FORMATS[chosen.to]
    expected = _drawn(model, graph, asked)  # first, as it says at once what cannot be asked
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            inputs = graph.examples(model, asked, TRACED)
            write(graph, inputs, path, json.dumps(_about(model, graph, chosen)))
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error}).") from None
    found = run_again(path, graph.examples(model, asked, TRIED))
    difference = float(np.abs(found - expected).max()) / max(graph.std.max().item(), 1e-12)
    if not difference <= TOLERANCE:
        path.unlink()
        raise ModelFileError(
            f"What was written draws something else than the run, by {difference:.2g} of the "
            "data's standard deviation, and was removed: take fewer steps, or the other format."
        )
    return Exported(
        path=path,
        inputs=tuple(graph.inputs),
        calls=len(graph.calls),
        size=path.stat().st_size,
        difference=difference,
    )


def _as_folder(model: Model, out: str | Path | None, chosen: ExportOptions) -> Exported:
    """As `export`, for diffusers, whose folder holds a network and leaves the sampler to others."""
    if chosen != ExportOptions(to="diffusers"):
        raise UsageError("A folder of diffusers holds no sampler: leave all but --to out.")
    if out is None:
        out = model.folder.path / "exports" / "diffusers"
    size, difference = write_diffusers(model, Path(out))
    steps = model.config.sample.steps
    return Exported(
        path=Path(out), inputs=("noise",), calls=steps, size=size, difference=difference
    )


# --- What it is compared with --------------------------------------------------------------------


def asked_of(model: Model, options: ExportOptions) -> DrawOptions:
    """What the options say, and something of each condition that the run knows."""
    words = model.vocabulary
    net = model.denoiser.net
    numbers = [str(i) for i in range(min(2, len(words.classes)))]
    knows_none = not isinstance(net, Foreign) or net.none is not None
    shared = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "to"}
    centres = zip(words.attributes, words.means, words.stds, strict=True)
    return DrawOptions(
        label=(*(["any"] if knows_none else []), *numbers) if numbers else None,
        text=TEXTS if model.words else None,
        attributes={name: mean + std / 2 for name, mean, std in centres} or None,
        **shared,
    )


def _drawn(model: Model, graph: Graph, asked: DrawOptions) -> np.ndarray:
    """What the run draws from the noise that the graph will be tried on, in units of the data."""
    (denoiser, steps), noise = plan(model, asked), graph.examples(model, asked, TRIED)[0]

    def told(examples: Sequence[int]) -> Denoiser:
        return denoiser.given(**conditions(model, asked, examples))

    def begin(examples: Sequence[int], eps: Tensor) -> Tensor:
        return start(denoiser.schedule, steps.times[0], noise[list(examples)])

    x = draw(model, told, steps, 0, range(TRIED), begin=begin, at_once=TRIED)
    return (graph.mean.cpu() + graph.std.cpu() * model.codec.decoded(x)).numpy()


# --- Files ---------------------------------------------------------------------------------------


def _dynamic(graph: Graph) -> dict[str, Any]:
    """That the batch may be of any size."""
    batch = torch.export.Dim("batch", max=graph.most)
    noise, *told = ({0: batch} for _ in graph.inputs)
    return {"noise": noise} | ({"told": tuple(told)} if told else {})


def _traced(graph: Graph, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    traced = torch.export.export(graph, inputs, dynamic_shapes=_dynamic(graph), strict=False)
    for part in traced.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:  # of this machine, as long as the network for each
                node.meta.pop("stack_trace", None)
    return traced


def _write_torch(graph: Graph, inputs: tuple[Tensor, ...], path: Path, about: str) -> None:
    program = _traced(graph, inputs)
    for name, value in program.state_dict.items():  # kernels lie otherwise in networks that answer
        plain = value.detach().contiguous()
        is_weight = isinstance(value, nn.Parameter)
        program.state_dict[name] = nn.Parameter(plain, requires_grad=False) if is_weight else plain
    torch.export.save(program, path, extra_files={"ornstein.json": about})


def _run_torch(path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
    with torch.no_grad():
        return torch.export.load(path).module()(*inputs).cpu().numpy()


def _write_onnx(graph: Graph, inputs: tuple[Tensor, ...], path: Path, about: str) -> None:
    program = torch.onnx.export(
        _traced(graph, inputs),
        (),
        dynamo=True,
        input_names=graph.inputs,
        output_names=["examples"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["ornstein"] = about
    program.save(path)


def _run_onnx(path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
    session = _onnx().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    values = {name: value.cpu().numpy() for name, value in zip(names, inputs, strict=True)}
    return session.run(None, values)[0]


FORMATS = {"onnx": (_write_onnx, _run_onnx), "torch": (_write_torch, _run_torch)}
"""How a graph is written, and what is in the file run again."""


def _about(model: Model, graph: Graph, options: ExportOptions) -> dict[str, Any]:
    """What a program that opens the file has to know."""
    return {
        "run": None if model.run is None else str(model.run.identity.get("id", "")),
        "seen": model.seen,
        "shape": model.shape,
        "dtype": model.codec.dtype,
        "inputs": graph.inputs,
        "classes": model.vocabulary.classes,
        "attributes": model.vocabulary.attributes,
        "text": _read_by(model),
        "calls": len(graph.calls),
        "guidance": graph.weight,
        "guidance_parallel": graph.parallel,
        "guidance_rescale": graph.rescale,
        "guidance_interval": options.guidance_interval,
        "negative": options.negative,
        "threshold": options.threshold,
    }


def _read_by(model: Model) -> dict[str, Any] | None:
    """What makes of a text the input of that name."""
    if (words := model.vocabulary.words) is not None:
        return asdict(words)
    if (reader := model.reader) is not None:
        return dict(zip(("length", "width"), reader.nothing.shape[1:], strict=True))
    return None


def _onnx() -> Any:
    """ONNX Runtime, if all that ONNX needs is installed."""
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            f"{error.name} is not installed: pip install 'ornstein[export]', or --to torch."
        ) from None
    return onnxruntime
