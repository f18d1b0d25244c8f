"""``/vertex``: the form of custom containers on Vertex AI, as text-embeddings-inference has it.

A body is a list of calls, each what ``/invocations`` takes, and the answer is the list of their answers. They are
scored one after the other, and one that is wrong fails the whole, with its number.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from engine.entrypoints.serve.calls import CallHandler
from engine.entrypoints.serve.counted import counted
from engine.entrypoints.serve.limits import check_media_type
from engine.entrypoints.serve.service import RerankService
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
        return await counted(self._service, request, NAME, self._predictions(request))

    async def _predictions(self, request: Request) -> dict[str, list[Any]]:
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
        return {"predictions": answers}
