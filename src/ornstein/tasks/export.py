"""A run as one graph for other programs: from unit noise to data in their own units."""

import json
from collections import deque
from dataclasses import asdict, dataclass
from math import hypot
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..core.denoise import LOG_SNR_LIMIT, Denoiser, flow_time
from ..core.noise import Schedule
from ..core.sample import Plan
from ..core.trajectory import instants
from ..errors import ModelFileError, StorageError, UsageError
from ..interop.written import write_diffusers
from ..rng import normal
from ..runs.latents import LatentCodec
from ..runs.model import Model
from .options import DrawOptions, ExportOptions, checked
from .sample import Run, opened, plan

TOLERANCE = 1e-3  # of the data's standard deviation: what differs by more is no copy
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}


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
    those, and ``text`` ``(B, L)``, int64, of pieces as `Words.tensor` numbers them, if it reads
    texts. It gives floats ``(B, C, *S)`` in the units of the data, not yet rounded; of a run on
    latents through the decoder, in another shape than the noise. Steps are laid one after the
    other, so that tracing takes as long as so many calls, and more.

    Args:
        run: The run, or its folder.
        out: The file; by default in the run folder.
        device: Where to compute while tracing.
        **options: Those of `ExportOptions`.

    Raises:
        UsageError: If the sampler draws noise or adapts its steps, the run is given pictures or
            embeddings, or ONNX is asked for and not installed.
        ModelFileError: If what was written does not draw what the run draws.
    """
    chosen = checked(ExportOptions, options)
    if chosen.to == "onnx":
        _onnx()
    model = opened(run, device)
    if chosen.to == "diffusers":
        return _as_folder(model, out, chosen)
    graph = Unrolled(model, chosen).eval()
    if out is None:
        if model.run is None:
            raise UsageError("This model has no run folder to write to: say where, with `out`.")
        out = model.run.path / "exports" / f"sampler-{graph.steps}{SUFFIX[chosen.to]}"
    path = Path(out)
    if path.suffix != SUFFIX[chosen.to]:
        raise UsageError(f"{path} must end in {SUFFIX[chosen.to]}: it is for {chosen.to}.")
    write = _write_onnx if chosen.to == "onnx" else _write_torch
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            write(graph, path, json.dumps(_about(model, graph, chosen)))
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error}).") from None
    difference = _difference(graph, path, chosen.to)
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


# --- The graph -----------------------------------------------------------------------------------


class Call(NamedTuple):
    """All that one call of the network needs to know of its time, as numbers.

    ``x_hat = skip x_t + out F(inp x_t, log_snr)``; `span` is how far to look, None for networks
    that know no such thing.
    """

    inp: float
    skip: float
    out: float
    log_snr: float
    span: float | None


class Unrolled(nn.Module):
    """A deterministic sampler of a fixed number of calls, as a function of noise and conditions.

    Args:
        model: The run.
        options: The sampler, and its guidance.

    Raises:
        UsageError: If there is no such graph; see `export`.
    """

    mean: Tensor
    std: Tensor
    centre: Tensor
    width: Tensor

    def __init__(self, model: Model, options: ExportOptions) -> None:
        super().__init__()
        words, codec, denoiser = model.vocabulary, model.codec, model.denoiser
        if model.given is not None or words.embedding:
            told = "told embeddings" if words.embedding else "given pictures beside the noise"
            raise UsageError(f"A run that is {told} cannot be exported.")
        draw = DrawOptions(
            sampler=options.sampler, steps=options.steps, time_grid=options.time_grid
        )
        self.shape, self.net, self.plan = model.shape, denoiser.net, plan(model, draw)[1]
        self.inputs = ["noise"]
        self.inputs += ["label"] if words.classes else []
        self.inputs += ["attributes"] if words.attributes else []
        self.inputs += ["text"] if words.words else []
        self.nothing = words.words.nothing if words.words else torch.zeros(1, 0)
        weight = model.config.sample.guidance if options.guidance is None else options.guidance
        if len(self.inputs) == 1:
            if options.guidance not in (None, 1.0):
                raise UsageError(f"guidance = {weight}: this run has no condition to go to.")
            weight = 1.0
        self.steps, self.variance = len(self.plan.times) - 1, denoiser.variance_steps is not None
        self.weight, self.told_weight = weight, model.config.distill.told_guidance
        self.calls = [_call(model, *call) for call in called(self.plan, denoiser.schedule)]
        [first] = instants(denoiser.schedule, self.plan.times[:1])
        self.first = hypot(first.alpha, first.sigma)
        wide = (-1, *(1 for _ in model.shape[1:]))
        self.decoder = Decoder(codec) if isinstance(codec, LatentCodec) else nn.Identity()
        numbers = {"mean": codec.data.mean, "std": codec.data.std}
        for name, values in numbers.items():
            self.register_buffer(name, torch.tensor(values).view(wide).to(model.device))
        self.register_buffer("centre", torch.tensor(words.means, device=model.device))
        self.register_buffer("width", torch.tensor(words.stds, device=model.device))

    def forward(self, noise: Tensor, *told: Tensor) -> Tensor:
        cond = dict(zip(self.inputs[1:], told, strict=True))
        if "attributes" in cond:
            cond["attributes"] = (cond["attributes"] - self.centre) / self.width
        denoiser, past, x = Placed(self, cond), deque(maxlen=self.plan.memory), self.first * noise
        for step in self.plan.transitions:  # the loop of `Plan`, which would switch gradients off
            x = step(denoiser, x, past, refuse_noise)
        return self.mean + self.std * self.decoder(x)

    def examples(self, count: int) -> tuple[Tensor, ...]:
        """Inputs to trace with, and to try it on."""
        device = self.mean.device
        known = {
            "noise": normal((count, *self.shape), "export", count).float(),
            "label": torch.arange(count) % 2 - 1,
            "attributes": self.centre.cpu().expand(count, -1).contiguous(),
            "text": self.nothing.repeat(count, *(1 for _ in self.nothing.shape[1:])),
        }
        return tuple(known[name].to(device) for name in self.inputs)


class Decoder(nn.Module):
    """`LatentCodec.decode`, with its numbers in the graph: from latents to data as packed."""

    mean: Tensor
    std: Tensor

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        assert isinstance(codec.coder, nn.Module)
        wide = (-1, *(1 for _ in codec.shape[1:]))
        self.coder, self.space = codec.coder, codec.inner.shape[1:]
        for name, values in {"mean": codec.mean, "std": codec.std}.items():
            self.register_buffer(name, torch.tensor(values).view(wide).to(codec.coder.device))

    def forward(self, x: Tensor) -> Tensor:
        whole = self.coder.decode(self.mean + self.std * x)
        return whole[(..., *(slice(n) for n in self.space))]


class Placed(Denoiser):
    """The network of an `Unrolled`, which knows a call by its place: a graph has no times."""

    def __init__(self, graph: Unrolled, cond: dict[str, Tensor]) -> None:
        super().__init__()
        self.graph, self.cond, self.calls = [graph], cond, iter(graph.calls)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        call = next(self.calls)
        [graph] = self.graph
        F = self._net(x_t, call, self.cond)
        if graph.weight != 1 and not graph.told_weight:
            reference = self._net(x_t, call, {})
            F = reference + graph.weight * (F - reference)
        return call.skip * x_t + call.out * F

    def _net(self, x_t: Tensor, call: Call, cond: dict[str, Tensor]) -> Tensor:
        [graph] = self.graph

        def each(value: float) -> Tensor:
            return x_t.new_full((x_t.shape[0],), value)

        told = {} if call.span is None else {"span": each(call.span)}
        told |= {"guidance": each(graph.weight)} if graph.told_weight else {}
        F = graph.net(call.inp * x_t, each(call.log_snr), **cond, **told)
        return F.chunk(2, 1)[0] if graph.variance else F


def called(steps: Plan, schedule: Schedule) -> list[tuple[Tensor, Tensor | None]]:
    """The times at which a plan calls its denoiser, one after the other; and how far to look.

    Raises:
        UsageError: If it adapts them to what it sees, or draws noise.
    """
    if steps.calls is None:
        raise UsageError("A sampler that adapts its steps cannot be exported: take another.")
    watch, past = Watch(schedule), deque(maxlen=steps.memory)
    x = torch.zeros(1, 1, device=steps.times.device)
    for step in steps.transitions:
        x = step(watch, x, past, refuse_noise)
    return watch.calls


class Watch(Denoiser):
    """Remembers at which times it was called, and to look until when."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule, self.calls = schedule, list[tuple[Tensor, Tensor | None]]()

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        self.calls.append((t.reshape(-1)[:1], cond.get("until")))
        return x_t


def refuse_noise(like: Tensor) -> Tensor:
    """The noise of a sampler that must draw none."""
    raise UsageError("The sampler draws noise, which a graph cannot: take ddim or dpm++2m.")


def _call(model: Model, t: Tensor, until: Tensor | None) -> Call:
    schedule = model.denoiser.schedule
    inp, skip, out = (c.item() for c in model.denoiser.prediction(*schedule(t)))
    log_snr, span = schedule.log_snr(t), None
    if model.denoiser.ahead and until is not None:
        span = (flow_time(log_snr) - flow_time(schedule.log_snr(until))).item()
    return Call(inp, skip, out, log_snr.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT).item(), span)


# --- Files ---------------------------------------------------------------------------------------


def _dynamic(graph: Unrolled) -> dict[str, Any]:
    """That the batch may be of any size."""
    batch = torch.export.Dim("batch", max=65536)
    noise, *told = ({0: batch} for _ in graph.inputs)
    return {"noise": noise, "told": tuple(told)}


def _write_torch(graph: Unrolled, path: Path, about: str) -> None:
    traced = torch.export.export(
        graph, graph.examples(2), dynamic_shapes=_dynamic(graph), strict=False
    )
    torch.export.save(traced, path, extra_files={"ornstein.json": about})


def _write_onnx(graph: Unrolled, path: Path, about: str) -> None:
    program = torch.onnx.export(
        graph,
        graph.examples(2),
        dynamo=True,
        dynamic_shapes=_dynamic(graph),
        input_names=graph.inputs,
        output_names=["examples"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["ornstein"] = about
    program.save(path)


def _difference(graph: Unrolled, path: Path, to: str) -> float:
    inputs = graph.examples(3)
    with torch.no_grad():
        expected = graph(*inputs).cpu().numpy()
    if to == "torch":
        again = torch.export.load(path).module()
        with torch.no_grad():
            found = again(*inputs).cpu().numpy()
    else:
        session = _onnx().InferenceSession(str(path), providers=["CPUExecutionProvider"])
        values = {k: v.cpu().numpy() for k, v in zip(graph.inputs, inputs, strict=True)}
        [found] = session.run(None, values)
    scale = max(graph.std.max().item(), 1e-12)
    return float(np.abs(found - expected).max()) / scale


def _about(model: Model, graph: Unrolled, options: ExportOptions) -> dict[str, Any]:
    """What a program that opens the file has to know."""
    return {
        "run": None if model.run is None else str(model.run.identity.get("id", "")),
        "seen": model.seen,
        "shape": model.shape,
        "dtype": model.codec.dtype,
        "inputs": graph.inputs,
        "classes": model.vocabulary.classes,
        "attributes": model.vocabulary.attributes,
        "text": asdict(model.vocabulary.words) if model.vocabulary.words else None,
        "calls": len(graph.calls),
        "guidance": graph.weight,
    }


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
