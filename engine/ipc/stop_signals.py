"""Signals that ask a long-running command to end in order."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def stop_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP (the terminal closed) unless it is ignored, as under ``nohup``."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


@contextmanager
def end_on_stop_signals() -> Iterator[None]:
    """Lets such a signal end the process in order, exit code 0, until the command has handlers of its own.

    At the end the caller's process has the handlers that it had.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    before = {number: signal.getsignal(number) for number in stop_signals()}
    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set by Python
