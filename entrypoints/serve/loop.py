"""The event loop of every process that serves."""

from __future__ import annotations

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
