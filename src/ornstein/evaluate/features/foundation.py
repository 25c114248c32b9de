"""Features of networks that others trained on the world's pictures, where their weights lie here.

Nothing is downloaded and nothing but safetensors is read. A figure is named for its network.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.codec import Codec
from ...data.image import ImageCodec
from ...data.names import shown
from ...errors import ModelFileError, UsageError
from .inception import Inception
from .labelled import Encoder

PIECE = 32  # pictures seen at once

REPOSITORIES = {
    "dinov2": "facebook/dinov2-base",
    "clip": "openai/clip-vit-large-patch14",
}
"""Where the weights that are called by name come from, if a Hugging Face cache holds them."""

SIDE = 224  # of the pictures that DINOv2 is shown; CLIP and Inception know theirs
COLOURS = {  # mean and standard deviation of red, green and blue in each one's training
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass(frozen=True, eq=False)
class Foundation(Encoder):
    """A network that others trained, shown pictures as a screen would show them.

    Args:
        kind: Which: one of `COLOURS`.
        net: From colours ``(N, 3, side, side)`` to features ``(N, D)``.
        side: Of the pictures that it sees.
        codec: Of the pictures.
    """

    kind: str
    net: nn.Module
    side: int
    codec: ImageCodec

    @torch.no_grad()
    def __call__(self, x: np.ndarray) -> np.ndarray:
        return torch.cat([self._encode(part) for part in torch.from_numpy(x).split(PIECE)]).numpy()

    def _encode(self, x: Tensor) -> Tensor:
        seen = torch.from_numpy(self.codec.screen(x)).movedim(3, 1).float() / 255
        smooth = self.kind != "inception"  # whose published figures are of plain bilinear pictures
        mode = "bicubic" if smooth else "bilinear"
        seen = F.interpolate(seen, (self.side, self.side), mode=mode, antialias=smooth).clamp(0, 1)
        mean, std = (torch.tensor(c).view(3, 1, 1) for c in COLOURS[self.kind])
        return self.net((seen - mean) / std).double()

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.net.state_dict().items()}


def open_foundation(name: str, codec: Codec) -> Foundation:
    """The network of that name, or in that folder.

    Args:
        name: A key of `REPOSITORIES`, or a folder with ``config.json`` and ``model.safetensors``
            as `transformers` writes them; of Inception, with ``model.safetensors`` alone.
        codec: Of the pictures it will be shown.

    Raises:
        UsageError: If it is not here, or the data are no pictures.
        ModelFileError: If it is none of the networks known.
    """
    if not isinstance(codec, ImageCodec):
        raise UsageError(f"--features {shown(name)} is for pictures, and these data are not.")
    folder = Path(name)
    if not folder.is_dir():
        folder = _cached(name)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UsageError(
            f"{shown(folder)} holds no model.safetensors: put the network's there; pickled "
            "weights are not read."
        )
    if not (folder / "config.json").is_file():
        return Foundation("inception", Inception.load(weights), 299, codec)
    return _transformer(folder, codec)


def _cached(name: str) -> Path:
    """The folder of a named network in the Hugging Face cache."""
    repository = REPOSITORIES.get(name)
    if repository is None:
        known = ", ".join(REPOSITORIES)
        raise UsageError(
            f"--features {shown(name)} is no folder, nor one of {known}; the Inception of the FID "
            "has no name here: give the folder that holds its model.safetensors."
        )
    missing = UsageError(
        f"The weights of {name} are not on this machine: put config.json and model.safetensors of "
        f"huggingface.co/{repository} into a folder, and give --features FOLDER."
    )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise missing from None
    try:
        wanted = ["config.json", "model.safetensors"]
        return Path(snapshot_download(repository, local_files_only=True, allow_patterns=wanted))
    except FileNotFoundError:
        raise missing from None


def _transformer(folder: Path, codec: ImageCodec) -> Foundation:
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "These features need the package transformers: pip install 'ornstein[text]'."
        ) from None
    place = shown(folder / "config.json")
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{place} does not say which network it is of ({error}).") from None
    if kind not in ("dinov2", "clip", "clip_vision_model"):
        raise ModelFileError(f"{place} is of {shown(repr(kind))}; known are dinov2 and clip.")
    network = {
        "dinov2": transformers.Dinov2Model,
        "clip": transformers.CLIPModel,
        "clip_vision_model": transformers.CLIPVisionModelWithProjection,
    }[kind]
    transformers.logging.set_verbosity_error()
    try:
        net, report = network.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = shown(" ".join(str(error).split()), 300)
        raise ModelFileError(f"{shown(folder)} cannot be loaded: {reason}.") from None
    if absent := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise ModelFileError(
            f"{shown(folder)} does not hold {shown(absent[0])} as its config.json describes it: "
            "it would be random."
        )
    if kind == "dinov2":
        patch, side = net.config.patch_size, min(net.config.image_size, SIDE)
        return Foundation("dinov2", _Dinov2(net), side // patch * patch, codec)
    return Foundation(
        "clip",
        _Clip(net.vision_model, net.visual_projection),
        net.vision_model.config.image_size,
        codec,
    )


class _Dinov2(nn.Module):
    """The summary token after the last layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.float().eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net(pixel_values=pictures).pooler_output


class _Clip(nn.Module):
    """Where the picture lies in the space that CLIP shares with texts; its half for texts goes."""

    def __init__(self, vision_model: nn.Module, visual_projection: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model.float().eval().requires_grad_(False)
        self.visual_projection = visual_projection.float().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.visual_projection(self.vision_model(pixel_values=pictures).pooler_output)
