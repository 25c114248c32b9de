"""How much memory training takes, as it is and with ``[train] memory = "low"``.

Two updates of a U-Net of 37 million weights on colour pictures of 64 x 64, in a process of its
own each: the most memory that the process ever held, PyTorch and all.

    python benchmarks/memory.py [--updates 3] [--out benchmarks/results/memory.json]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

SIZE, BATCH = 104, 32


def train(memory: str, updates: int) -> None:
    import time

    import torch

    from ornstein.data import open_data
    from ornstein.runs.config import NetConfig, RunConfig, TrainConfig
    from ornstein.train.memory import peak
    from ornstein.train.training import Training

    torch.set_num_threads(1)
    pictures = torch.randint(0, 256, (BATCH, 3, 64, 64), dtype=torch.uint8)
    plan = TrainConfig(batch=BATCH, seen=100 * BATCH, memory=memory, precision="bf16")
    config = RunConfig(net=NetConfig(kind="unet", size=SIZE), train=plan)
    training = Training(config, open_data(pictures))
    start = time.process_time()
    for _ in range(updates):
        training.update()
    row = {
        "memory": memory,
        "million parameters": round(sum(p.numel() for p in training.weights) / 1e6, 1),
        "batch": BATCH,
        "examples at once": training.micro,
        "peak GiB": round(peak(torch.device("cpu")) / 2**30, 2),
        "seconds per update": round((time.process_time() - start) / updates, 1),
    }
    print(json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of a training.")
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--only", choices=["plenty", "low"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/memory.json")
    args = parser.parse_args()
    if args.only:
        train(args.only, args.updates)
        return
    rows = []
    for memory in ("low", "plenty"):
        command = [sys.executable, __file__, "--only", memory, "--updates", str(args.updates)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(said))
        print(*rows[-1].values(), sep="\t", flush=True)
    result = {"machine": platform.processor() or platform.machine(), "rows": rows}
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
