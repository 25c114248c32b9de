"""From a new process to a picture: 3x32x32, untrained, ten steps; and what imports take of it.

Of ours, the command ``ornstein sample``; of a peer, its own pipeline, loaded from its own files.

    python benchmarks/coldstart.py [--quick] [--peers ornstein diffusers ...]
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from measure import Claim, Options, Result, figure, grid, in_turn, main, pick, told
from peers.install import python_of
from peers.pipe import OURS, command, peers

SHAPE = (3, 32, 32)
IMPORTS = {
    "Python": (sys.executable, "pass"),
    "PyTorch": (sys.executable, "import torch"),
    OURS: (sys.executable, "import ornstein"),
    f"{OURS}, all that sampling needs": (sys.executable, "import ornstein.tasks.sample"),
    "diffusers": (python_of("diffusers"), "from diffusers import DDIMPipeline, UNet2DModel"),
    "azula": (python_of("azula"), "import azula.sample, azula.denoise, azula.nn.unet"),
}


def measure(options: Options) -> Result:
    runs = {
        f"import {name}": seconds([str(python), "-c", code], options.threads)
        for name, (python, code) in IMPORTS.items()
        if Path(python).exists()
    }
    with tempfile.TemporaryDirectory() as place:
        for name, peer in saved(options, Path(place)).items():
            runs[f"first picture, {name}"] = seconds(peer, options.threads)
        rounds = in_turn(runs, options.rounds(3))
    return {name: {"seconds": figure(values)} for name, values in rounds.items()}


def saved(options: Options, place: Path) -> dict[str, list[str]]:
    """Networks on disk, and the commands that make a picture with them."""
    commands = dict[str, list[str]]()
    with peers(options.peers, "save", options.threads) as found:
        for name, peer in found.items():
            folder = place / name
            folder.mkdir()
            peer.ask("keep", shape=SHAPE, folder=str(folder))
            commands[name] = [*command(name), str(folder), str(folder / "picture.png")]
    if OURS in commands:
        program = [str(Path(sys.executable).with_name("ornstein")), "sample"]
        run, out = str(place / OURS / "run"), str(place / OURS / "picture.png")
        commands[OURS] = [*program, run, "-n", "1", "--steps", "10", "--grid", out]
    return commands


def seconds(line: Sequence[str], threads: int) -> Callable[[], float]:
    """A process from start to end: the time of its processor, or of the clock."""

    def run() -> float:
        count = {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(line, check=True, capture_output=True, env=os.environ | count)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return pick({"cpu": cpu, "wall": wall}, threads)

    return run


def table(result: Result) -> str:
    rows = [(name, told(row["seconds"])) for name, row in result["rows"].items()]
    return grid(("", "seconds"), rows)


COLDSTART = Claim("coldstart", measure, table)

if __name__ == "__main__":
    main(COLDSTART, __doc__)
