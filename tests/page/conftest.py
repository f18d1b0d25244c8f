"""The application over the fake core on a real port, and a browser."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from engine.config import ServerConfig
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import RerankService
from engine.model_spec import ModelSpec
from engine.pictures.loader import PictureLoader
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor
from tests.support.browser import CHROMIUM, Browser


class PageServer:
    url: str
    core: FakeCore

    def __init__(self, core: FakeCore, spec: ModelSpec, settings: dict[str, Any]) -> None:
        self.core = core
        self.spec = spec
        self._settings = settings
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        service = RerankService(ServerConfig(**self._settings), ServerMetrics())
        loaded = LoadedEngine(self.spec, FakeProcessor(), self.core, ("fake",))
        service.attach(replace(loaded, pictures=PictureLoader(self.spec.vision, ())))
        config = uvicorn.Config(create_app(service), port=0, log_config=None, lifespan="off", ws="none")
        self._http = uvicorn.Server(config)
        serving = asyncio.create_task(self._http.serve())
        while not self._http.started:
            await asyncio.sleep(0.01)
        port = self._http.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        self._started.set()
        await serving
        await service.stop()

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(30)

    def stop(self) -> None:
        self._http.force_exit = self._http.should_exit = True
        self._thread.join(10)


@contextmanager
def page_server(core: FakeCore | None = None, spec: ModelSpec = SPEC, **settings: Any) -> Iterator[PageServer]:
    server = PageServer(core or FakeCore(), spec, settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: `apt-get install chromium` runs the tests of the page")
    profile: Path = tmp_path_factory.mktemp("browser")
    with Browser(profile) as running:
        yield running


def fill(page: Browser, query: str, documents: str) -> None:
    for field, text in (("query", query), ("documents", documents)):
        page.run(f"document.getElementById('{field}').focus()")
        page.run("document.activeElement.select()")
        page.type(text)


def results(page: Browser) -> list[tuple[str, str]]:
    script = "[...document.querySelectorAll('#results li')].map((row) => ['text', 'score'].map((c) => "
    return [(t, s) for t, s in page.run(script + "row.querySelector('.' + c).textContent))")]


def finished(page: Browser) -> None:
    page.wait_for("!document.getElementById('cost').hidden")
