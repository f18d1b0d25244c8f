"""Signals that ask a long-running command to end in order."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def stop_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP (the terminal closed) unless it is ignored, as under ``nohup``."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def end_on_stop_signals() -> None:
    """Until the command has its own handlers, such a signal ends the process in order, with exit code 0."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    for number in stop_signals():
        signal.signal(number, end)
