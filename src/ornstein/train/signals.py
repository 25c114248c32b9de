"""SIGINT, SIGTERM and SIGUSR1 ask training to stop after a checkpoint; a second one just stops."""

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """While entered, true once one of `SIGNALS` has arrived.

    The first signal only sets the flag, which every loop of training looks at. It also restores
    what the system does by itself on the second: end the process at once, with exit code 128 +
    number in a shell. Outside of the main thread there are no signals to catch.
    """

    def __init__(self) -> None:
        self._flag = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return self._flag.is_set()

    def set(self) -> None:
        self._flag.set()

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._on_signal) for s in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._flag.set()
        for s in SIGNALS:
            signal.signal(s, signal.SIG_DFL)
