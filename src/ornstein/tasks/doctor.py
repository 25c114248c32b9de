"""What this machine has, and what stands in the way."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "numpy", "safetensors", "scikit-learn", "scipy", "pillow", "tensorboard")


def examine(folder: Path = Path()) -> dict[str, str]:
    """The facts a report of a problem should begin with, each with its name.

    Args:
        folder: Where runs would be written: its disk is looked at.
    """
    disk = shutil.disk_usage(folder)
    free, total = disk.free / 2**30, disk.total / 2**30
    return {
        "ornstein": version("ornstein"),
        "python": f"{platform.python_version()} on {platform.platform()}",
        **{name: _version(name) for name in PACKAGES},
        "devices": ", ".join(_devices()),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "compiler": shutil.which("c++") or "none: torch.compile stays off",
        "disk": f"{free:,.1f} GiB free of {total:,.1f} in {folder.resolve()}",
        "advice": " ".join(_advice(free)) or "nothing stands in the way",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [*(f"cuda:{i} {name}" for i, name in enumerate(found)), "cpu"]


def _advice(free: float) -> list[str]:
    advice = []
    if free < 1:
        advice.append("The disk is nearly full: make room before training.")
    vision = _version("torchvision")
    if vision != "not installed" and not _fits(vision, _version("torch")):
        advice.append(
            f"torchvision {vision} was not built for torch {_version('torch')}, and breaks other "
            "packages when they import it: `pip uninstall torchvision` (Ornstein needs none)."
        )
    return advice


def _fits(vision: str, torch_version: str) -> bool:
    """torchvision 0.(n + 15) goes with torch 2.n."""
    try:
        return int(vision.split(".")[1]) == int(torch_version.split(".")[1]) + 15
    except (IndexError, ValueError):
        return False
