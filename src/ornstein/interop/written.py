"""Runs that diffusers opens: of a network that it has built in, in a folder of its kind."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..core.noise import CosineTableSchedule, DDPMSchedule, FlowSchedule
from ..core.predict import predict_flow
from ..core.sample import SAMPLERS
from ..data.codec import write_bytes
from ..data.dataset import Dataset
from ..data.image import ImageCodec
from ..data.names import shown
from ..errors import DataError, ModelFileError, StorageError, UsageError
from ..nets import UNet2D
from ..rng import normal
from ..runs.model import Model
from .diffusers import PREDICTIONS, load_diffusers
from .foreign import NETWORKS, Foreign
from .pipeline import INDEX, PICKLES, Pipeline, needed
from .texts import PipelineReader
from .words import write_words

Table = DDPMSchedule | CosineTableSchedule

WEIGHTS = "diffusion_pytorch_model.safetensors"
CANNOT = "What this run predicts cannot be said to diffusers, by which networks predict"
STEPS = 5  # of the comparison
TOLERANCE = 1e-3  # of half the range of the data: what differs by more is no copy


def as_published(data: Dataset) -> Dataset:
    """Pictures from -1 to 1, as networks of diffusers see them; of nothing else they hear.

    Raises:
        DataError: If they are no pictures of 8 bits, grey or in colour.
    """
    codec = data.codec
    if not (isinstance(codec, ImageCodec) and codec.dtype == "uint8" and codec.shape[0] in (1, 3)):
        raise DataError(
            f"{shown(data.source)} holds {codec.shape} of {codec.dtype}, but [net] kind = 'unet2d' "
            "is for pictures of 8 bits, grey or in colour: take another recipe."
        )
    half = (((codec.levels or 256) - 1) / 2,) * codec.shape[0]
    return replace(
        data,
        codec=replace(codec, mean=half, std=half),
        label=None,
        classes=[],
        attributes=None,
        captions=None,
    )


def write_diffusers(model: Model, folder: Path) -> tuple[int, float]:
    """Write a run as a folder that diffusers opens, and open it again.

    A run that goes on with a network of diffusers becomes its pipeline, with the network as it is
    now, and the words that were learned as files beside it; one of ours a `DDPMPipeline`. Of an
    adapter that learned a word alone, the file is all that is written.

    Returns:
        Its bytes; and the largest difference between where a few steps of DDIM end by the run and
        by the folder, over half the range of the data.

    Raises:
        UsageError: If its network is another, or diffusers is not installed.
        StorageError: If the disk refuses.
        ModelFileError: If diffusers makes something else of it.
    """
    net, schedule = model.denoiser.net, model.denoiser.schedule
    if isinstance(net, Foreign):
        return _given_back(model, net, folder)
    if not (isinstance(net, UNet2D) and isinstance(schedule, Table)):
        raise UsageError(
            "Only a network that diffusers has built in can be written for it, as it opens no "
            "others without running their code: train one by `ornstein train DATA --recipe "
            "diffusers`, or write --to onnx or --to torch, which other programs run as they are."
        )
    needed("diffusers")
    objects = {
        INDEX: {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        },
        "scheduler/scheduler_config.json": _scheduler(model, schedule),
        "unet/config.json": net.config,
    }
    size = _write(folder, objects, {f"unet/{WEIGHTS}": net.state_dict()})
    return size, _compared(model, folder, "unet")


def _given_back(model: Model, net: Foreign, folder: Path) -> tuple[int, float]:
    """The pipeline that a run goes by, with the network as it is now, and what that predicts."""
    if not model.config.net.pipeline:
        raise UsageError("This is a pipeline of diffusers already: copy its folder.")
    words = write_words(model.reader, folder) if isinstance(model.reader, PipelineReader) else []
    if model.config.adapt.learn == "words" and not model.adapters:
        return sum(path.stat().st_size for path in words), 0.0
    pipeline = Pipeline(Path(model.config.net.pipeline))
    part = pipeline.part(NETWORKS)
    assert part is not None
    config, scheduler = pipeline.config("scheduler"), "scheduler/scheduler_config.json"
    if not isinstance(model.denoiser.schedule, FlowSchedule):
        config |= {"prediction_type": _prediction(model)}
    elif model.denoiser.prediction is not predict_flow:
        raise UsageError(f"{CANNOT} on a path of flow matching only flow, as the pipeline did.")
    try:
        left_out = shutil.ignore_patterns(part, ".*", *(f"*{kind}" for kind in PICKLES))
        shutil.copytree(pipeline.path, folder, ignore=left_out, dirs_exist_ok=True)
        net.net.save_pretrained(folder / part, max_shard_size="1TB")
        write_bytes(folder / scheduler, json.dumps(config, indent=2).encode())
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({error.strerror or error}).") from None
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return size, _compared(model, folder, part)


def _compared(model: Model, folder: Path, part: str) -> float:
    """By how much diffusers draws something else from a folder; not by more than `TOLERANCE`."""
    difference = _difference(model, load_diffusers(folder, device=model.device))
    if not difference <= TOLERANCE:
        (folder / part / WEIGHTS).unlink()
        raise ModelFileError(
            f"By diffusers the run draws something else, by {difference:.2g} of half the range of "
            "the data: its weights were removed again from what was written."
        )
    return difference


def _scheduler(model: Model, schedule: Table) -> dict[str, Any]:
    """The table of betas; nothing is clipped, as by our samplers."""
    betas: dict[str, Any] = {"beta_schedule": "squaredcos_cap_v2"}
    if isinstance(schedule, DDPMSchedule):
        kind = "linear" if schedule.power == 1 else "scaled_linear"
        ends = {"beta_start": schedule.beta_first, "beta_end": schedule.beta_last}
        betas = {"beta_schedule": kind, **ends}
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": schedule.steps,
        **betas,
        "prediction_type": _prediction(model),
        "variance_type": "fixed_small",
        "clip_sample": False,
    }


def _prediction(model: Model) -> str:
    """What the network predicts, in the words of diffusers."""
    for name, prediction in PREDICTIONS.items():
        if prediction is model.denoiser.prediction:
            return name
    raise UsageError(f"{CANNOT} on a table of betas noise, data or velocity: --predict velocity.")


def _write(
    folder: Path, objects: Mapping[str, Any], weights: Mapping[str, dict[str, Tensor]]
) -> int:
    files = {name: json.dumps(value, indent=2).encode() for name, value in objects.items()}
    for name, tensors in weights.items():
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        files[name] = save(plain, metadata={"format": "pt"})
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / name, content)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({error.strerror or error}).") from None
    return sum(map(len, files.values()))


@torch.no_grad()
def _difference(model: Model, again: Model) -> float:
    x = normal((2, *model.shape), "written").float().to(model.device)
    times = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64, device=model.device)
    told = model.vocabulary.tensors(2, "0" if model.vocabulary.classes else None)
    told = {name: value.to(model.device) for name, value in told.items()}
    denoisers = (each.denoiser.given(**told) for each in (model, again))
    one, other = (SAMPLERS["ddim"](denoiser, x, times) for denoiser in denoisers)
    return float((one - other).abs().max())
