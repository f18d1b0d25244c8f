"""A time limit for a call that has none of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def within(timeout_s: float, action: Callable[[], _Result], *, keep_thread: bool = False) -> _Result:
    """The result of ``action``, which runs in a thread of its own.

    ``keep_thread``: the thread stays for good. Processes that Ray starts die with the thread that started them.

    Raises ``TimeoutError`` after ``timeout_s`` seconds (``action`` is left running), or whatever ``action`` raised.
    """
    outcome: list[_Result] = []
    failure: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            outcome.append(action())
        except BaseException as error:  # handed to the caller's thread
            failure.append(error)
        done.set()
        if keep_thread and outcome:
            threading.Event().wait()

    threading.Thread(target=run, name="time-limited", daemon=True).start()
    if not done.wait(timeout_s):
        raise TimeoutError(f"no answer within {timeout_s:.0f} s")
    if failure:
        raise failure[0]
    return outcome[0]
