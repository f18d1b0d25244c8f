"""The event loop of every process that serves."""

from __future__ import annotations

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop where it is installed, else asyncio's."""
    import uvloop

    return uvloop.new_event_loop()
