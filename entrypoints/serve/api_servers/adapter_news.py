"""Changes of a model's LoRA adapters on their way to the API servers, until each has confirmed them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import count

from engine.entrypoints.serve.api_servers.handle import ApiServerHandle
from engine.entrypoints.serve.api_servers.messages import AdaptersChanged


class AdapterNews:
    """Sends changes, and waits for what they are answered with."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._unconfirmed: dict[int, tuple[ApiServerHandle, asyncio.Future[None]]] = {}

    async def tell(self, servers: Iterable[ApiServerHandle], model: int, adapters: Mapping[str, str]) -> None:
        """Returns when each of these servers knows the adapters of a model, or has gone."""
        waiting = []
        for server in servers:
            number = next(self._numbers)
            known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._unconfirmed[number] = server, known
            waiting.append(known)
            server.send(AdaptersChanged(number, model, dict(adapters)))
        if waiting:
            await asyncio.wait(waiting)

    def confirm(self, number: int) -> None:
        """Takes the answer of a server to the change of that number."""
        _, known = self._unconfirmed.pop(number)
        known.set_result(None)

    def forget(self, gone: ApiServerHandle) -> None:
        """Waits no longer for a server that has ended."""
        for number in [number for number, (server, _) in self._unconfirmed.items() if server is gone]:
            self.confirm(number)
