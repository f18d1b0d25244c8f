"""A client of the engine's own server: ``engine.Client`` and ``engine.AsyncClient``, over HTTP with httpx.

It imports nothing of the engine but its version: where only the client is used,
``pip install --no-deps rerank-engine && pip install httpx`` is enough.
"""

from __future__ import annotations

from engine.entrypoints.client.answers import DocumentError, RankedDocument, Ranking
from engine.entrypoints.client.asynchronous import AsyncClient
from engine.entrypoints.client.errors import ConnectionFailedError, RequestFailedError
from engine.entrypoints.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionFailedError",
    "DocumentError",
    "RankedDocument",
    "Ranking",
    "RequestFailedError",
]
