"""What a sampler costs beside its denoiser, which here returns its argument: microseconds a step.

Fifty steps, ten times over, in PyTorch's inference mode, in which `ornstein sample` draws; what
does not depend on x is worked out before. A step of Heun's rule is two calls.

    python benchmarks/overhead.py [--quick] [--peers ornstein diffusers ...]
"""

from collections.abc import Callable

from measure import Claim, Options, Result, figure, grid, in_turn, main, pick, told
from peers.pipe import NAMES, Peer, peers

STEPS, RUNS = 50, 10
SHAPES = ((1, 3, 32, 32), (64, 3, 32, 32))


def measure(options: Options) -> Result:
    with peers(options.peers, "samplers", options.threads) as found:
        runs = {
            (name, rule, shape): microseconds(peer, rule, shape, options.threads)
            for name, peer in found.items()
            for rule in peer.ask("hello")["samplers"]
            for shape in SHAPES
        }
        times = in_turn(runs, options.rounds(15))
    rows = Result()
    for (name, rule, shape), values in times.items():
        row = rows.setdefault(f"{name}, {rule}", {"peer": name, "rule": rule})
        row[f"batch {shape[0]}"] = figure(values)
    return rows


def microseconds(
    peer: Peer, rule: str, shape: tuple[int, ...], threads: int
) -> Callable[[], float]:
    def run() -> float:
        asked = {"name": rule, "shape": shape, "steps": STEPS, "runs": RUNS}
        return pick(peer.ask("sampler", **asked), threads) / STEPS / RUNS * 1e6

    return run


def table(result: Result) -> str:
    rows, batches = result["rows"].values(), [f"batch {shape[0]}" for shape in SHAPES]
    names = [name for name in NAMES if any(row["peer"] == name for row in rows)]
    shown = list[list[str]]()
    for rule in dict.fromkeys(row["rule"] for row in rows):
        for batch in batches:
            of = {row["peer"]: told(row[batch]) for row in rows if row["rule"] == rule}
            shown.append([rule, batch, *(of.get(name, "") for name in names)])
    return grid(("rule", "of 3x32x32", *names), shown)


OVERHEAD = Claim("overhead", measure, table)

if __name__ == "__main__":
    main(OVERHEAD, __doc__)
