"""Quality for equal compute: each trains on the same data for the same seconds of one core.

Samples of all are drawn by the same solver from the same noise, and measured as `tasks.py` says:
what is compared is training. Figures are Frechet distances above the floor of real data. What is
not measured again keeps the figures it had, on the same machine.

    python benchmarks/quality.py [--tasks digits ...] [--budgets 25 ...] [--seeds 3] [--peers ...]
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import RESULTS, Claim, Options, Result, environment, figure, grid, main, newest, told
from peers.pipe import PeerError, peers

from tasks import Absent, load

LEFT_OUT = {"azula": "it has no default settings of training"}


def measure(options: Options) -> Result:
    rows = Result()
    for name in options.tasks:
        try:
            task = load(name)
        except Absent as absent:
            print(f"{name}: skipped, {absent}")
            continue
        for seconds in (0.5,) if options.quick else options.budgets or task.seconds[:1]:
            rows |= on_task(name, seconds, options)
    return rows if options.quick else kept(options) | rows


def kept(options: Options, folder: Path = RESULTS) -> Result:
    """The rows measured before on this machine."""
    here = environment(options.threads)
    for result in newest("quality", folder):
        if all(result["place"][key] == here[key] for key in ("processor", "threads")):
            return result["rows"]
    return Result()


def on_task(name: str, seconds: float, options: Options) -> Result:
    """The rows of one task: seed by seed, all in turn."""
    found = dict[str, list[Result]]()
    names = [peer for peer in options.peers if peer not in LEFT_OUT]
    with peers(names, "trainer") as asked, tempfile.TemporaryDirectory() as folder:
        for seed in range(options.rounds(options.seeds)):
            for who, peer in asked.items():
                out = str(Path(folder) / "samples.npy")
                try:
                    answer = peer.ask("fit", task=name, seconds=seconds, seed=seed, out=out)
                except PeerError as error:
                    print(f"{name}: skipped, {error}")
                    continue
                answer |= load(name).measure(torch.from_numpy(np.load(out)))
                found.setdefault(who, []).append(answer)
    return {
        f"{name}, {seconds:g} s, {who}": {"task": name, "seconds": seconds, "peer": who}
        | {"date": environment(options.threads)["date"]}
        | {key: figure([run[key] for run in runs]) for key in runs[0] if key != "settings"}
        | {"settings": runs[0]["settings"]}
        for who, runs in found.items()
    }


def table(result: Result) -> str:
    shown = list[tuple[str, ...]]()
    for row in result["rows"].values():
        shown.append(
            (
                f"{row['task']}, {row['seconds']:g} s",
                row["peer"],
                f"{row['parameters']['median'] / 1e6:.2f} M",
                told(row["images"]),
                told(row["above_floor"]),
                told(row["energy"]),
                told(row["swd"]),
                f"{row['nearer_train']['median']:.2f}",
                row["settings"],
            )
        )
    head = ("task", "", "weights", "images seen", "Fréchet above floor", "energy", "sliced")
    return grid((*head, "nearer to training data", "settings"), shown)


QUALITY = Claim("quality", measure, table)

if __name__ == "__main__":
    main(QUALITY, __doc__)
