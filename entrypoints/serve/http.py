"""uvicorn with our protocol and without its signal handlers: when to stop is decided elsewhere."""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from engine.config import ServerConfig
from engine.entrypoints.serve.protocol import SocketLimits, guarded_protocol
from engine.entrypoints.serve.tls import CertificateWatch, tls_settings

KEEP_ALIVE_S = 75
HARD_STOP_S = 2.0
"""Added to the drain deadline for answers that are still being written."""


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: the server's own decide when to stop."""

    def __init__(self, settings: uvicorn.Config, config: ServerConfig) -> None:
        super().__init__(settings)
        self._certificates = CertificateWatch(config)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: is the certificate another one?"""
        self._certificates.look(self.config.ssl)
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(app: ASGIApp, config: ServerConfig) -> HttpServer:
    """The HTTP server of one process, with the limits of ``config`` at its sockets."""
    return HttpServer(http_settings(app, config), config)


def http_settings(app: ASGIApp, config: ServerConfig) -> uvicorn.Config:
    """uvicorn's settings for this server."""
    connections = math.ceil(config.max_connections / config.api_server_count)
    return uvicorn.Config(
        app,
        http=guarded_protocol(SocketLimits(config.header_timeout_s, config.body_timeout_s, connections)),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=stop_timeout_s(config),
        root_path=config.root_path,
        **tls_settings(config),
        proxy_headers=False,
    )


def run_app(app: ASGIApp, listener: socket.socket) -> None:
    """Serves another application until a signal, with the usual limits at its sockets."""
    usual = ServerConfig()
    limits = SocketLimits(usual.header_timeout_s, usual.body_timeout_s, usual.max_connections)
    settings = uvicorn.Config(
        app, http=guarded_protocol(limits), ws="none", lifespan="on", log_config=None, server_header=False
    )
    uvicorn.Server(settings).run(sockets=[listener])


def stop_timeout_s(config: ServerConfig) -> int:
    """How long answers may take to be written once the server stops."""
    return math.ceil(config.shutdown_timeout_s + HARD_STOP_S)
