"""Training speed at 3x32x32, batch 32: whole steps, from the batch to the averaged weights.

Each as its own script trains, in its own precision, the network about as large as the peers'. All
take turns, in processes of their own.

    python benchmarks/throughput.py [--threads 1] [--quick] [--peers ornstein diffusers ...]
"""

from collections.abc import Callable
from typing import Any

from limits import LIMITS
from limits import best as limit
from measure import Claim, Options, Result, figure, grid, in_turn, main, pick, told
from measure import newest as newest_results
from peers.pipe import OURS, Peer, peers

SHAPE, BATCH = (3, 32, 32), 32


def measure(options: Options) -> Result:
    shape, batch = ((1, 8, 8), 8) if options.quick else (SHAPE, BATCH)
    with peers(options.peers, "trainer", options.threads) as found:
        rows = Result()
        for name, peer in found.items():
            rows[name] = peer.ask("build", shape=shape, batch=batch)
        runs = {name: speed(peer, batch, options.threads) for name, peer in found.items()}
        for name, speeds in in_turn(runs, options.rounds(7)).items():
            rows[name]["images_per_s"] = figure(speeds)
            rows[name]["peak_bytes"] = found[name].ask("peak")["bytes"]
    return rows


def speed(peer: Peer, batch: int, threads: int) -> Callable[[], float]:
    """Images a second of one update."""
    return lambda: batch / pick(peer.ask("steps", count=1), threads)


def table(result: Result) -> str:
    rows, threads = result["rows"], result["place"]["threads"]
    shown = list[tuple[object, ...]]()
    for name, row in sorted(rows.items(), key=lambda r: -r[1]["images_per_s"]["median"]):
        flops, speed = row["flops_per_image"], row["images_per_s"]["median"]
        share = share_of_limit(row, threads)
        shown.append(
            (
                name,
                f"{row['parameters'] / 1e6:.1f} M",
                f"{flops / 1e9:.2f}",
                told(row["images_per_s"]),
                f"{flops * speed / 1e9:.0f}" + (f" ({share:.0%})" if share else ""),
                row["settings"],
            )
        )
    head = ("", "weights", "GFLOP an image", "images/s", "GFLOP/s (of the limit)", "settings")
    return grid(head, shown)


def share_of_limit(row: dict[str, Any], threads: int) -> float | None:
    """Of the fastest convolution in its precision, if that was measured with so many threads."""
    for found in newest_results(LIMITS.name):
        if found["place"]["threads"] == threads and not found["quick"]:
            dtype = "bfloat16" if "bf16" in row["settings"] else "float32"
            speed = row["flops_per_image"] * row["images_per_s"]["median"] / 1e9
            return speed / limit(found["rows"], dtype)
    return None


def ratios(rows: Result) -> dict[str, float]:
    """How many times a peer's images a second ours are."""
    speed = {name: row["images_per_s"]["median"] for name, row in rows.items()}
    return {name: speed[OURS] / speed[name] for name in speed if name != OURS}


THROUGHPUT = Claim("throughput", measure, table)

if __name__ == "__main__":
    main(THROUGHPUT, __doc__)
