"""The most memory that a process holds while it trains, PyTorch itself and the data included.

python benchmarks/memory.py [--quick] [--peers ornstein diffusers ...]
"""

from typing import Any

from measure import Claim, Options, Result, grid, main
from peers.pipe import OURS, Peer, peers

LARGE = {"shape": (3, 64, 64), "batch": 32, "size": 104}  # some 35 million weights


def measure(options: Options) -> Result:
    case = {"shape": (3, 32, 32), "batch": 32}
    if options.quick:
        case = {"shape": (1, 8, 8), "batch": 4}
    with peers(options.peers, "trainer", options.threads) as found:
        cases = [(name, case) for name in found]
    if OURS in found:
        cases.append((OURS, case | {"memory": "low"}))
        if not options.quick:
            cases.append((OURS, LARGE | {"memory": "low"}))
    return {label(name, case): peak(name, case, options.threads) for name, case in cases}


def label(name: str, case: dict[str, Any]) -> str:
    low = ", memory low" if case.get("memory") == "low" else ""
    return f"{name}, {'x'.join(map(str, case['shape']))}, batch {case['batch']}{low}"


def peak(name: str, case: dict[str, Any], threads: int) -> Result:
    """In a process of its own: what was once held counts for ever."""
    peer = Peer(name, threads)
    built = peer.ask("build", **case)
    peer.ask("steps", count=1)  # now the optimiser's memory is there from the beginning
    held = peer.ask("peak")["bytes"]
    peer.close()
    return {"bytes": held, "parameters": built["parameters"], "settings": built["settings"]}


def table(result: Result) -> str:
    rows = [
        (name, f"{row['parameters'] / 1e6:.1f} M", f"{row['bytes'] / 2**30:.2f}")
        for name, row in result["rows"].items()
    ]
    return grid(("", "weights", "GiB"), rows)


MEMORY = Claim("memory", measure, table)

if __name__ == "__main__":
    main(MEMORY, __doc__)
