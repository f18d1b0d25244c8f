"""``/vertex``: the form of custom containers on Vertex AI, as text-embeddings-inference has it.

A body is a list of calls, each what ``/invocations`` takes, and the answer is the list of their answers. They are
scored one after the other, and one that is wrong fails the whole, with its number.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from engine.entrypoints.serve.calls import CallHandler
from engine.entrypoints.serve.errors import error_response, json_response
from engine.entrypoints.serve.limits import check_media_type
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.streaming import ClientGoneError
from engine.errors import EngineError, InvalidRequestError

NAME = "vertex instances"
MAX_INSTANCES = 256


class InstancesBody(msgspec.Struct):
    instances: list[msgspec.Raw]


class InstanceRoutes:
    """The handler of the path."""

    def __init__(self, service: RerankService, calls: CallHandler) -> None:
        self._service, self._calls = service, calls

    async def predict(self, request: Request) -> Response:
        """The answers in the order of the instances."""
        try:
            answer, status = json_response({"predictions": await self._predictions(request)}), 200
        except (ClientGoneError, ClientDisconnect):
            self._service.metrics.cancelled.inc()
            return Response(status_code=499)
        except EngineError as error:
            answer, status = error_response(error, request.scope), error.status
            self._service.metrics.errors.labels(error.type).inc()
        self._service.metrics.calls.labels(request.scope["route"].path, NAME, str(status)).inc()
        return answer

    async def _predictions(self, request: Request) -> list[Any]:
        check_media_type(request.headers)
        try:
            instances = msgspec.json.decode(await request.body(), type=InstancesBody).instances
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequestError(f'The body is no {{"instances": [...]}}: {error}.') from error
        if not 1 <= len(instances) <= MAX_INSTANCES:
            raise InvalidRequestError(
                f"instances has {len(instances)} entries; possible are 1 to {MAX_INSTANCES}.", param="instances"
            )
        answers = []
        for number, instance in enumerate(instances):
            try:
                answers.append(await self._calls.answer_to(request, bytes(instance)))
            except EngineError as error:
                raise error.at(("instances", number, *error.path)) from error
        return answers
