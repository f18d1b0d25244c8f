"""Calls the server's application without a socket: a row gets exactly the answer that HTTP would give."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message

from engine.entrypoints.batch.rows import Answer


async def post(app: ASGIApp, path: str, body: dict[str, Any]) -> Answer:
    sent = asyncio.Event()
    status, parts = 500, []

    async def receive() -> Message:
        if not sent.is_set():
            sent.set()
            return {"type": "http.request", "body": msgspec.json.encode(body), "more_body": False}
        await asyncio.Event().wait()  # this client never leaves
        raise AssertionError

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": ("batch", 0),
        "server": ("batch", 0),
        "state": {},
    }
    await app(scope, receive, send)
    return Answer(status, msgspec.json.decode(b"".join(parts)))
