"""Where processor time goes: stacks sampled by the process's own profiling timer, as a table of our functions.

``ITIMER_PROF`` fires once per ``PERIOD_S`` of processor time of the whole process. At each signal, every thread that is
not waiting counts once: for the innermost function of this project on its stack, and for the outermost stage.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

PERIOD_S = 0.002
WAITING = {
    ("threading.py", "wait"),
    ("threading.py", "_wait_for_tstate_lock"),
    ("thread.py", "_worker"),
    ("selectors.py", "select"),
    ("poll.py", "poll"),
    ("garbage.py", "run"),  # the thread in which pyzmq frees what was sent
    ("runners.py", "run"),  # the event loop between two of its callbacks
    ("child_process.py", "_follow_parent"),
}
"""File and function of a thread that waits. A library that works in C without a Python frame of its own hides here."""
OURS = ("/engine/", "/backends/", "/kernels/", "/entrypoints/")
NOT_OURS = ("site-packages",)


class Samples:
    def __init__(self) -> None:
        self.inner: Counter[str] = Counter()
        """By the innermost function of this project."""
        self.total = 0

    def take(self, interrupted: FrameType | None, own_thread: int) -> None:
        for thread, frame in sys._current_frames().items():
            top = interrupted if thread == own_thread else frame
            if top is None or _is_waiting(top):
                continue
            self.total += 1
            self.inner[_innermost(top)] += 1

    def table(self, most: int = 25) -> list[dict[str, Any]]:
        total = max(1, self.total)
        return [{"function": name, "share": round(count / total, 4)} for name, count in self.inner.most_common(most)]


def _is_waiting(frame: FrameType) -> bool:
    code = frame.f_code
    return (code.co_filename.rpartition("/")[2], code.co_name) in WAITING


def _innermost(frame: FrameType) -> str:
    """``file: function`` of the nearest frame of this project; with the library's function that it is in, if any."""
    inside = None
    at: FrameType | None = frame
    while at is not None:
        path = at.f_code.co_filename
        if any(part in path for part in OURS) and not any(part in path for part in NOT_OURS):
            place = path.rpartition("/")[2].removesuffix(".py")
            return f"{place}.{at.f_code.co_qualname}" + (f" > {inside}" if inside else "")
        inside = inside or f"{path.rpartition('/')[2].removesuffix('.py')}.{at.f_code.co_name}"
        at = at.f_back
    return f"outside > {inside}"


@contextmanager
def sampling(only_while: Path | None = None) -> Iterator[Samples]:
    """Sample this process while the block runs (and ``only_while`` exists); only the main thread may use it."""
    samples, own = Samples(), threading.get_ident()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if only_while is None or only_while.exists():
            samples.take(frame, own)

    previous: Callable[..., Any] | int | None = signal.signal(signal.SIGPROF, on_signal)
    signal.setitimer(signal.ITIMER_PROF, PERIOD_S, PERIOD_S)
    try:
        yield samples
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
