"""How training speed goes with the batch, the resolution, and the number of processes.

python benchmarks/scaling.py [--threads 1] [--quick] [--peers ornstein diffusers ...]
"""

import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

from measure import Claim, Options, Result, cores, figure, grid, in_turn, main, told
from peers.pipe import NAMES, OURS, Peer, peers
from throughput import speed

CASES = (((3, 16, 16), 4), ((3, 16, 16), 16), ((3, 16, 16), 64), ((3, 32, 32), 16))
LARGEST = ((3, 64, 64), 16)
PROCESSES = (1, 2)
SHARED = 64  # examples of a batch, over all processes


def measure(options: Options) -> Result:
    rows = Result()
    with peers(options.peers, "trainer", options.threads) as found:
        for shape, batch in (((1, 8, 8), 4),) if options.quick else (*CASES, LARGEST):
            for peer in found.values():
                peer.ask("build", shape=shape, batch=batch)
            runs = {who: speed(peer, batch, options.threads) for who, peer in found.items()}
            case = f"{'x'.join(map(str, shape))}, batch {batch}"
            for who, speeds in in_turn(runs, options.rounds(3)).items():
                row = {"case": case, "peer": who, "images_per_s": figure(speeds)}
                rows[f"{case}, {who}"] = row
    if OURS in found and not options.quick:
        rows |= over_processes(options)
    return rows


def over_processes(options: Options) -> Result:
    """Of ours, by the clock on the wall: a batch of the same size, shared."""
    with ExitStack() as stack:
        runs = dict[str, Callable[[], float]]()
        for count in PROCESSES:
            case = f"3x16x16, batch {SHARED}, {count} process" + "es" * (count > 1)
            if cores() < count * options.threads:
                print(f"{case}: skipped, {cores()} cores for {count * options.threads} threads")
                continue
            world = stack.enter_context(closing(World(count, options.threads)))
            world.ask("build", shape=(3, 16, 16), batch=SHARED)
            runs[case] = world.speed(SHARED)
        return Result(
            (f"{case}, {OURS}", {"case": case, "peer": OURS, "images_per_s": figure(speeds)})
            for case, speeds in in_turn(runs, 9).items()
        )


class World:
    """Processes that share each batch, as ``torchrun`` would start them."""

    def __init__(self, count: int, threads: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self.peers = [Peer(OURS, threads, RANK=str(rank), **place) for rank in range(count)]

    def ask(self, verb: str, **arguments: Any) -> list[dict[str, Any]]:
        for peer in self.peers:
            peer.send(verb, **arguments)
        return [peer.answer() for peer in self.peers]

    def speed(self, batch: int) -> Callable[[], float]:
        return lambda: 2 * batch / max(a["wall"] for a in self.ask("steps", count=2))

    def close(self) -> None:
        for peer in self.peers:
            peer.close()


def table(result: Result) -> str:
    rows = result["rows"].values()
    names = [name for name in NAMES if any(row["peer"] == name for row in rows)]
    shown = list[list[str]]()
    for case in dict.fromkeys(row["case"] for row in rows):
        of = {row["peer"]: told(row["images_per_s"]) for row in rows if row["case"] == case}
        shown.append([case, *(of.get(name, "") for name in names)])
    return grid(("images/s", *names), shown)


SCALING = Claim("scaling", measure, table)

if __name__ == "__main__":
    main(SCALING, __doc__)
