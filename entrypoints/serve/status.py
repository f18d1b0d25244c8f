"""Routes about the server itself: is it alive, is it ready, what does it serve."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from engine import __version__
from engine.entrypoints.serve.errors import json_response
from engine.entrypoints.serve.metrics import CONTENT_TYPE
from engine.entrypoints.serve.service import RerankService


class StatusRoutes:
    def __init__(self, service: RerankService) -> None:
        self._service = service

    async def live(self, request: Request) -> Response:
        return json_response({"status": "live"})

    async def ready(self, request: Request) -> Response:
        self._service.check_ready()
        return json_response({"status": "ready"})

    async def version(self, request: Request) -> Response:
        return json_response({"version": __version__})

    async def models(self, request: Request) -> Response:
        engine = self._service.engine
        cards: list[dict[str, Any]] = [
            {
                "id": name,
                "object": "model",
                "created": self._service.started_at,
                "owned_by": "engine",
                "root": engine.spec.name,
                "parent": None,
                "max_model_len": engine.spec.max_model_len,
                "permission": [],
            }
            for name in engine.names
        ]
        return json_response({"object": "list", "data": cards})

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.render(), media_type=CONTENT_TYPE)
