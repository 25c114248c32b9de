"""What this machine has, and what stands in the way."""

import os
import platform
import shutil
import time
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


def quickest_threads() -> int:
    """1, or as many as there are: whichever convolves small pictures faster at this moment.

    Two threads on processors that other programs use too can be twenty times slower than one.
    """
    several = torch.get_num_threads()
    if several == 1:
        return 1
    x, weight = torch.randn(64, 64, 8, 8), torch.randn(64, 64, 3, 3)

    def pace() -> float:
        """Seconds of twenty, all told: threads that wait for each other do so now and then."""
        torch.conv2d(x, weight, padding=1)
        start = time.perf_counter()
        for _ in range(20):
            torch.conv2d(x, weight, padding=1)
        return time.perf_counter() - start

    try:
        together = max(pace() for _ in range(3))
        torch.set_num_threads(1)
        alone = min(pace() for _ in range(3))
    finally:
        torch.set_num_threads(several)
    return several if together < alone else 1


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
