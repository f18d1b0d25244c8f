"""Speaks ASGI itself: httpx's transport only shows answers that are complete, and tidies up odd paths."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.serve.conftest import Server


class RawClient:
    """One request, message by message."""

    def __init__(
        self, server: Server, body: dict[str, Any], headers: dict[str, str] | None = None, path: str = "/v1/rerank"
    ) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._gone = asyncio.Event()
        sent = {"content-type": "application/json", **(headers or {})}
        self._parts = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
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
            "headers": [(k.lower().encode(), v.encode()) for k, v in sent.items()],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
            "state": {},
        }
        app = server.client._transport.app  # type: ignore[attr-defined]
        self.task = asyncio.create_task(app(scope, self._receive, self.messages.put))

    async def _receive(self) -> dict[str, Any]:
        if self._parts:
            return self._parts.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        self._gone.set()

    async def next(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.messages.get(), 5)

    async def status(self) -> int:
        status: int = (await self.next())["status"]
        await self.task
        return status
