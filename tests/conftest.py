"""What holds for every test: an environment as in a pipe, and a root logger that no test leaves changed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.commands import logging_restored

os.environ.pop("COLUMNS", None)
"""pytest-xdist gives its workers 80; commands have a width of their own where no terminal says one."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so, and they hand it down; the tests of Ctrl-C need an interrupt that arrives.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # nohup starts its command so; a server that inherits this does not end on the signal, as it should. With a handler
    # that does nothing, the tests still outlive their terminal, and the programs they start have the default.
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    """Else a handler goes on writing to the captured stream of a test that is over."""
    with logging_restored():
        yield
