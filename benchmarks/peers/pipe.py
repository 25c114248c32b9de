"""The side of the suite: each peer in its own process, asked over a pipe."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .install import PEERS, python_of

OURS = "ornstein"
NAMES = (OURS, *PEERS)


class PeerError(RuntimeError):
    """A peer could not do what it was asked."""


def command(name: str) -> list[str]:
    """How to start a peer's adapter: its own interpreter, its own script."""
    python = sys.executable if name == OURS else str(python_of(name))
    script = Path(__file__).with_name(f"of_{name.replace('-', '_')}.py")
    return [python, "-W", "ignore", str(script)]


def is_installed(name: str) -> bool:
    return Path(command(name)[0]).exists()


class Peer:
    """A peer's process.

    Args:
        name: One of `NAMES`.
        threads: For PyTorch.
        **environment: Further variables.
    """

    def __init__(self, name: str, threads: int = 1, **environment: str) -> None:
        self.name = name
        count = {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "TQDM_DISABLE": "1",
        }
        self.process = subprocess.Popen(
            command(name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | count | environment,
        )

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """One request and its answer. Raises `PeerError`."""
        self.send(verb, **arguments)
        return self.answer()

    def send(self, verb: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise PeerError(f"{self.name} ended with code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        self.process.communicate()


@contextmanager
def peers(names: Sequence[str], verb: str, threads: int = 1) -> Iterator[dict[str, Peer]]:
    """Processes of the peers that are installed and know the verb; says who is left out."""
    with ExitStack() as stack:
        found = dict[str, Peer]()
        for name in names:
            if not is_installed(name):
                print(f"{name}: skipped, not installed; python benchmarks/peers/install.py {name}")
                continue
            peer = Peer(name, threads)
            stack.callback(peer.close)
            if verb in peer.ask("hello")["verbs"]:
                found[name] = peer
        yield found
