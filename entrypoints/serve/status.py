"""Routes about the server itself: is it alive, is it ready, what does it serve."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from engine import __version__
from engine.entrypoints.serve.dialects.tei import LABEL
from engine.entrypoints.serve.errors import json_response
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import CONTENT_TYPE
from engine.entrypoints.serve.service import RerankService


class StatusRoutes:
    """Probes, lists and descriptions: routes that score nothing."""

    def __init__(self, service: RerankService) -> None:
        self._service = service

    async def live(self, request: Request) -> Response:
        """200 while the event loop runs."""
        return json_response({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """200 while calls are answered. Raises ``ServiceError`` with the reason where they are not."""
        self._service.check_ready()
        return json_response({"status": "ready"})

    async def reset_prefix_cache(self, request: Request) -> Response:
        """Drops keys and values that are kept between calls; what runs keeps its own."""
        _ = self._service.engine  # or 503
        for engine in self._service.models:
            engine.client.reset_prefix_cache()
        return json_response({"status": "reset"})

    async def version(self, request: Request) -> Response:
        """The version of the engine."""
        return json_response({"version": __version__})

    async def load(self, request: Request) -> Response:
        """The number of calls in flight, the way vLLM reports it."""
        return json_response({"server_load": self._service.admission.num_calls})

    async def models(self, request: Request) -> Response:
        """The list of models in OpenAI's form."""
        _ = self._service.engine  # or 503
        served = [(engine, name) for engine in self._service.models for name in (*engine.names, *engine.adapters)]
        answer: dict[str, Any] = {"object": "list", "data": [self._card(engine, name) for engine, name in served]}
        if "type" in request.query_params:  # Pinecone's clients ask for models of type rerank
            answer["models"] = [{"model": name, "type": "rerank"} for _, name in served]
        return json_response(answer)

    async def model(self, request: Request) -> Response:
        """One model, in OpenAI's form and with what Xinference's client looks for. Raises ``NotFoundError``."""
        chosen = self._service.models.choose(request.path_params["model"])
        engine, name = chosen.engine, chosen.name
        xinference = {
            "model_type": "rerank",
            "model_name": name,
            "model_uid": name,
            "max_tokens": engine.spec.max_model_len,
            "type": "normal",
            "language": [],
        }
        return json_response(self._card(engine, name) | xinference)

    def _card(self, engine: LoadedEngine, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._service.started_at,
            "owned_by": "engine",
            "root": engine.spec.name,
            "parent": engine.names[0] if name in engine.adapters else None,
            "max_model_len": engine.spec.max_model_len,
            "fingerprint": engine.adapters.get(name) or engine.spec.fingerprint,
            "permission": [],
        }

    async def cluster_auth(self, request: Request) -> Response:
        """Whether a key is needed: Xinference's client asks before it has sent one."""
        return json_response({"auth": bool(self._service.config.api_key)})

    async def meta(self, request: Request) -> Response:
        """Answers what Weaviate asks its reranker when it starts: an object."""
        return json_response({"model": self._service.engine.names[0], "version": __version__})

    async def info(self, request: Request) -> Response:
        """TEI's description: clients read from it that this is a reranker, and how much they may send."""
        engine, config = self._service.engine, self._service.config
        worker = engine.client.info
        return json_response(
            {
                "model_id": engine.spec.name,
                "model_sha": None,
                "model_dtype": worker.dtype,
                "served_model_name": engine.names[0],
                "model_type": {"reranker": {"id2label": {"0": LABEL}, "label2id": {LABEL: 0}}},
                "max_concurrent_requests": config.max_queued_pairs,
                "max_input_length": engine.spec.max_model_len,
                "max_batch_tokens": worker.max_num_batched_tokens,
                "max_batch_requests": None,
                "max_client_batch_size": config.max_documents,
                "max_images_per_pair": engine.spec.vision.max_images if engine.spec.vision else 0,
                "auto_truncate": config.auto_truncate,
                "tokenization_workers": config.tokenizer_threads,
                "version": __version__,
                "sha": None,
                "docker_label": None,
            }
        )

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return Response(self._service.metrics.render(), media_type=CONTENT_TYPE)
