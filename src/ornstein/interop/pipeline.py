"""A folder that diffusers has written: what is in it, and what of it is refused."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch

from ..data.names import shown
from ..errors import ModelFileError, UsageError
from ..runs.disk import read_object

MOST = 8 * 2**20  # bytes of a JSON file
INDEX = "model_index.json"
SAFE = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
BESIDE = ("scheduler", *TOKENIZERS, "feature_extractor", "safety_checker", "image_encoder")

CONVERT = (
    'convert it, in a place that holds nothing you would miss: python -c "from diffusers import '
    "DiffusionPipeline as P; P.from_pretrained('{0}', use_safetensors=False)"
    ".save_pretrained('{0}-safe')\""
)


@dataclass(frozen=True)
class Pipeline:
    """A folder with a ``model_index.json``, and one folder for each of its parts.

    Args:
        path: Of the folder.
    """

    path: Path

    @cached_property
    def index(self) -> dict[str, Any]:
        """Of each part the library and the class."""
        return read_object(self.path / INDEX, MOST)

    @property
    def name(self) -> str:
        """The class of the whole."""
        return str(self.index.get("_class_name"))

    @cached_property
    def parts(self) -> dict[str, str]:
        """The class of each part that is there, by the name of the part."""
        pairs = {k: v for k, v in self.index.items() if isinstance(v, list) and len(v) == 2}
        return {k: str(kind) for k, (library, kind) in pairs.items() if library and kind}

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of one part."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_object(self.path / part / name, MOST)

    def part(self, known: Collection[str], *, needed: bool = True) -> str | None:
        """The name of the one part that is of a `known` class.

        Raises:
            ModelFileError: If it is needed and not there, or there are several.
        """
        found = [name for name, kind in self.parts.items() if kind in known]
        if len(found) > 1 or (needed and not found):
            there = ", ".join(f"{name} ({kind})" for name, kind in self.parts.items())
            raise ModelFileError(
                f"{shown(self.path)} is a {shown(self.name)}, which cannot be mapped: of its parts "
                f"({shown(there, 300)}) one must be a {' or '.join(known)}."
            )
        return found[0] if found else None

    def every(self, known: Collection[str]) -> list[str]:
        """The names of all parts that are of a `known` class, in the order of their names."""
        return sorted(name for name, kind in self.parts.items() if kind in known)

    def default(self, argument: str) -> Any:
        """What the class of the whole takes in diffusers for an argument; None if it has none."""
        diffusers = needed("diffusers")
        whole = getattr(diffusers, self.name, None)
        if not (isinstance(whole, type) and issubclass(whole, diffusers.DiffusionPipeline)):
            return None
        known = signature(whole.__call__).parameters.get(argument)
        return None if known is None or known.default is Parameter.empty else known.default

    def refuse_others(self, mapped: Collection[str | None]) -> None:
        """Refuse a pipeline with parts that are neither `mapped` nor beside the point."""
        if others := [name for name in self.parts if name not in (*mapped, *BESIDE)]:
            kind = self.parts[others[0]]
            raise ModelFileError(
                f"{shown(self.path)} is a {shown(self.name)}, which cannot be mapped: nothing is "
                f"known of its part {shown(others[0])} ({shown(kind)}). Mapped are pipelines of "
                "one network, with a VAE and text encoders (CLIP, T5, LDMBert) if they have them."
            )

    def load(self, part: str) -> Any:
        """The network of one part, in float32, from safetensors.

        Raises:
            ModelFileError: If it holds pickled weights only, or its weights do not fit.
        """
        folder = self.path / part
        files = sorted(f.name for f in folder.iterdir()) if folder.is_dir() else []
        weights = [name for name in files if name.endswith(SAFE)]
        if not weights:
            if able_to_run := [name for name in files if name.endswith(PICKLES)]:
                raise ModelFileError(
                    f"{shown(folder / able_to_run[0])}"
                    " is a pickle, which can run code, and there are no safetensors beside it: "
                    f"{CONVERT.format(shown(self.path))}."
                )
            raise ModelFileError(f"{shown(folder)} holds no weights (*.safetensors).")
        library = str(self.index[part][0])
        kind = getattr(needed(library), self.parts[part])
        quiet = {"low_cpu_mem_usage": False}  # it asks for accelerate, at each call
        options = quiet if library == "diffusers" and find_spec("accelerate") is None else {}
        options |= {"dtype": torch.float32, "variant": variant_of(weights)}
        try:
            return kind.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, **options
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = shown(" ".join(str(error).split()), 200)
            raise ModelFileError(f"{shown(folder)} cannot be loaded: {reason}.") from None


def variant_of(files: Collection[str]) -> str | None:
    """The variant in which weights are there, as ``fp16``; None if they are there as they are.

    >>> variant_of(["model.fp16-00001-of-00002.safetensors"])
    'fp16'
    """
    names = [file.removesuffix(SAFE).partition(".")[2].partition("-")[0] for file in files]
    return min(names) or None


def find(place: str | Path) -> Pipeline:
    """The pipeline in a folder, or one of the Hub that is in the cache of this machine.

    Raises:
        UsageError: If it is neither.
    """
    path = Path(place)
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise UsageError(f"{shown(path)} holds no {INDEX}: give the folder that has it.")
        return Pipeline(path)
    try:
        from huggingface_hub import snapshot_download

        return Pipeline(Path(snapshot_download(str(place), local_files_only=True)))
    except (ImportError, ValueError, OSError):  # all that says "not in the cache"
        raise UsageError(
            f"{shown(place)} is no folder, and no repository in the cache of this machine: fetch "
            f"it with `hf download {shown(place)}`."
        ) from None


def needed(library: str) -> Any:
    """The module of an optional `library`.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        if library == "diffusers":
            import diffusers  # pyright: ignore[reportMissingImports]

            return diffusers
        if library == "transformers":
            import transformers

            return transformers
        if library == "latent_diffusion":  # a folder of diffusers, with an encoder of its own
            from diffusers.pipelines import (  # pyright: ignore[reportMissingImports]
                latent_diffusion,
            )

            return latent_diffusion
    except ImportError as error:
        raise UsageError(
            f"{library} cannot be imported ({shown(error)}): pip install 'ornstein[hub]'."
        ) from None
    raise ModelFileError(f"A part of {shown(library)} is not opened: it would run its code.")
