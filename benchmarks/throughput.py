"""Training speed at 3x32x32, batch 32: whole steps, from the batch to the averaged weights.

Each as its own script trains, in its own precision; ours once more with a network about as large
as the peers', whose further weights lie where points are few. All take turns, in processes of
their own.

    python benchmarks/throughput.py [--threads 1] [--quick] [--peers ornstein diffusers ...]
"""

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from limits import DTYPES, reached
from measure import Claim, Options, Result, figure, grid, in_turn, main, pick, told
from peers.pipe import OURS, Peer, peers

SHAPE, BATCH = (3, 32, 32), 32
LARGER = f"{OURS}, larger"
LEVELS = ((1, 1), (2, 2), (2, 5), (4, 2))  # of it


def measure(options: Options) -> Result:
    shape, batch = ((1, 8, 8), 8) if options.quick else (SHAPE, BATCH)
    with ExitStack() as stack:
        found = stack.enter_context(peers(options.peers, "trainer", options.threads))
        rows = Result()
        if OURS in found and not options.quick:
            found[LARGER] = stack.enter_context(closing(Peer(OURS, options.threads)))
        for name, peer in found.items():
            more = {"levels": LEVELS} if name == LARGER else {}
            rows[name] = peer.ask("build", shape=shape, batch=batch, **more)
        runs = {name: speed(peer, batch, options.threads) for name, peer in found.items()}
        runs |= {dtype: partial(reached, dtype, options.threads) for dtype in DTYPES}
        speeds = in_turn(runs, options.rounds(9))
        for name, peer in found.items():
            dtype = "bfloat16" if "bf16" in rows[name]["settings"] else "float32"
            rows[name]["images_per_s"] = figure(speeds[name])
            rows[name]["limit_gflops_per_s"] = figure(speeds[dtype])
            rows[name]["peak_bytes"] = peer.ask("peak")["bytes"]
    return rows


def speed(peer: Peer, batch: int, threads: int) -> Callable[[], float]:
    """Images a second of one update."""
    return lambda: batch / pick(peer.ask("steps", count=1), threads)


def table(result: Result) -> str:
    shown = list[tuple[object, ...]]()
    for name, row in sorted(result["rows"].items(), key=lambda r: -r[1]["images_per_s"]["median"]):
        flops, speed = row["flops_per_image"], row["images_per_s"]["median"]
        shown.append(
            (
                name,
                f"{row['parameters'] / 1e6:.1f} M",
                f"{flops / 1e9:.2f}",
                told(row["images_per_s"]),
                f"{flops * speed / 1e9:.0f} ({share_of_limit(row):.0%})",
                row["settings"],
            )
        )
    head = ("", "weights", "GFLOP an image", "images/s", "GFLOP/s (of the limit)", "settings")
    return grid(head, shown)


def share_of_limit(row: dict[str, Any]) -> float:
    """Of the fastest convolution in its precision, measured in turn with it."""
    speed = row["flops_per_image"] * row["images_per_s"]["median"] / 1e9
    return speed / row["limit_gflops_per_s"]["median"]


def ratios(rows: Result, ours: str = OURS) -> dict[str, float]:
    """How many times a peer's images a second ours are."""
    speed = {name: row["images_per_s"]["median"] for name, row in rows.items()}
    return {name: speed[ours] / speed[name] for name in speed if not name.startswith(OURS)}


THROUGHPUT = Claim("throughput", measure, table)

if __name__ == "__main__":
    main(THROUGHPUT, __doc__)
