"""A model quicker to draw from: its network in bfloat16, or compiled. Its states stay float32."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.denoise import Denoiser, NetDenoiser
from ..core.residual import Residual
from ..errors import UsageError
from ..nets.blocks import Convolution, Linear
from ..nets.conditions import Inputs
from .model import Model, load
from .posthoc import kept_averages


class Quick(nn.Module):
    """A network that computes in another precision, or compiled, and answers in float32.

    Args:
        net: As trained.
        bf16: Whether products are of bfloat16; sums are not, nor the weights of `net`.
        compiler: Of `torch.compile`; None for none.
    """

    def __init__(self, net: nn.Module, *, bf16: bool, compiler: str | None) -> None:
        super().__init__()
        self.net, self.bf16, self.compiler = net, bf16, compiler
        self.run: Any = with_halves(net) if bf16 else net
        if compiler is not None:
            # Graphs of CUDA launch a whole network at once; sizes are few, so each has its own
            graphs = "reduce-overhead" if compiler == "inductor" else None
            self.run = torch.compile(self.run, backend=compiler, mode=graphs, dynamic=False)

    def forward(self, x: Tensor, log_snr: Tensor, **cond: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.run(x, log_snr, **cond)
        # A graph writes over its last answer
        return out.to(x.dtype, copy=self.compiler is not None)


def with_halves(net: nn.Module) -> nn.Module:
    """The same network, with a bfloat16 copy of what it multiplies by; the rest is shared.

    Autocast makes that copy anew at each call: of one example, up to a tenth of the time. What is
    told comes in as it is, so its layers stay as they are.
    """
    inputs = (part for part in net.modules() if isinstance(part, Inputs))
    shared = (*net.parameters(), *net.buffers(), *inputs)
    halved, kept = deepcopy(net, {id(one): one for one in shared}), set(net.modules())
    for part in halved.modules():
        if isinstance(part, (Linear, Convolution)) and part not in kept:
            for name, p in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(p.bfloat16(), requires_grad=False))
    return halved


def quick(
    model: Model, precision: Literal["auto", "f32", "bf16"] = "auto", compiled: bool = False
) -> Model:
    """The same model, quicker to draw from; as it is if nothing is asked, or it is quick already.

    Every task takes a model, and so a quick one.

    Args:
        model: As loaded.
        precision: Of products in the network: ``auto`` is bf16 where the hardware has it.
        compiled: Compile the network when it is first called, with graphs, on a GPU.

    Raises:
        UsageError: If it is to be compiled, and there is no GPU.
    """
    if compiled and model.device.type != "cuda":
        raise UsageError(
            "--compile is for GPUs: on a processor it takes a minute and gains little; leave it "
            "out, and try --precision auto."
        )
    bf16 = precision == "bf16" or (precision == "auto" and has_bf16(model.device))
    if not (bf16 or compiled) or is_quick(model):
        return model
    return rewired(model, bf16=bf16, compiler="inductor" if compiled else None)


def is_quick(model: Model) -> bool:
    """Whether a network of the model is in a `Quick`."""
    return any(isinstance(part, Quick) for part in model.denoiser.modules())


def rewired(model: Model, *, bf16: bool, compiler: str | None) -> Model:
    """The same model with its networks in a `Quick`."""
    return _with_nets(model, lambda net: Quick(net, bf16=bf16, compiler=compiler))


def early(model: Model) -> Model:
    """The model of the same run early in its training, as quick as `model` is.

    It is the first average of its weights that the run kept: weak, as `core.guide.Autoguidance`
    wants it.

    Raises:
        UsageError: If there is none, or the model is an adapter's or has any on.
    """
    config = model.config
    worn = model.adapters or config.adapt.is_adapter
    if model.run is None or config.net.pipeline or worn:
        raise UsageError(
            "--autoguidance goes away from what the run was early in its training, which of a "
            "pipeline or an adapter, and with adapters on, is not known: leave it out."
        )
    kept = kept_averages(model.run)
    if not kept:
        raise UsageError(f"{model.run.path} has kept no averages yet: train on.")
    _, width, place = min(kept, key=lambda average: (average[2], average[1]))
    if place >= model.seen:
        raise UsageError(
            f"{model.run.path} has kept no average from before {model.seen:,} examples: leave "
            "--autoguidance out, or train on."
        )
    found = load(model.run.path, seen=place, sigma_rel=width, device=model.device)
    for part in model.denoiser.modules():
        if isinstance(part, Quick):
            return rewired(found, bf16=part.bf16, compiler=part.compiler)
    return found


def plain(model: Model) -> Model:
    """The same model as it was before it was made quick: for what the last digits matter to."""
    return _with_nets(model, lambda net: net.net) if is_quick(model) else model


def _with_nets(model: Model, change: Callable[[Any], nn.Module]) -> Model:
    def changed(was: Denoiser) -> Denoiser:
        if isinstance(was, Residual):
            return Residual(changed(was.mean), changed(was.residual), was.scale)
        assert isinstance(was, NetDenoiser)
        return was.around(change(was.net))

    # what draws from a model asks of its denoiser no more than any has
    return replace(model, denoiser=changed(model.denoiser).eval())  # pyright: ignore[reportArgumentType]


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16, rather than pretends to."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    names = ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "arm_bf16")
    return device.type == "cpu" and any(capabilities.get(name, False) for name in names)
