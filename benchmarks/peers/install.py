"""Installs the peers, each into a virtual environment of its own under ``benchmarks/.envs``.

PyTorch and what else the project's environment holds is shared with it, by a line in a ``.pth``
file, so that all run on the same PyTorch and the environments stay small. What a peer asks for
and neither has nor loads to train or sample (torchvision, which does not load beside PyTorch for
processors; Weights & Biases; Inception networks) is left out: hence the lists.

    python benchmarks/peers/install.py          those that are not there
    python benchmarks/peers/install.py NAME     anew
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ENVS = Path(__file__).parents[1] / ".envs"

PEERS: dict[str, tuple[str, ...]] = {
    "diffusers": (
        "diffusers==0.42.1",
        "huggingface-hub",
        "importlib_metadata",
        "regex",
        "requests",
    ),
    "lucidrains": (
        "denoising-diffusion-pytorch==2.3.4",
        "accelerate",
        "einops",
        "ema-pytorch",
        "tqdm",
    ),
    "azula": ("azula==0.11.1", "einops", "tqdm"),
    "k-diffusion": ("k-diffusion==0.1.1.post1", "torchdiffeq", "torchsde", "tqdm"),
}
"""The package of each, without its dependencies, and which of these it needs here."""


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, whether it is there or not."""
    return ENVS / name / "bin" / "python"


def install(name: str) -> None:
    package, *needed = PEERS[name]
    folder = ENVS / name
    venv.create(folder, with_pip=True, clear=True)
    places = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=places))
    project = Path(__file__).parents[2] / "src"
    shared = [sysconfig.get_path("purelib"), str(project)]
    (site / "shared.pth").write_text("\n".join(shared) + "\n")
    pip = [python_of(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "torch==2.13.0", *needed], check=True)
    subprocess.run([*pip, "--no-deps", package], check=True)


def main() -> None:
    for name in sys.argv[1:] or [name for name in PEERS if not python_of(name).exists()]:
        install(name)
        print(f"{name}: {PEERS[name][0]} in {ENVS / name}")


if __name__ == "__main__":
    main()
