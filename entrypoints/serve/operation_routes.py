"""Routes that change what is served: adapters in the words of vLLM and SGLang, sleep in those of both.

They need a key like every other route, and do nothing that the operator has not allowed with a flag of its own
(``operations.py``).
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Request
from msgspec import Meta
from starlette.responses import PlainTextResponse, Response

from engine.entrypoints.serve.errors import error_headers, error_object, for_clients, json_response
from engine.entrypoints.serve.limits import check_media_type
from engine.entrypoints.serve.operations import LoadLora, OperationsControl, UnloadLora
from engine.entrypoints.serve.service import RerankService
from engine.errors import EngineError, InvalidRequestError
from engine.messages import Sleep, WakeUp

T = TypeVar("T")
LEVELS = ("1", "2")


class LoadBody(msgspec.Struct, kw_only=True):
    """A body of vLLM or of SGLang, whose ``pinned`` changes nothing: all adapters stay."""

    lora_name: Annotated[str, Meta(description="The name that calls then give as model.")] = ""
    lora_path: Annotated[str, Meta(description="Its folder, in one of the folders of --runtime-lora-folders.")] = ""
    load_inplace: Annotated[bool, Meta(description="Replace an adapter of the same name.")] = False
    base_model_name: Annotated[str | None, Meta(description="The model that it belongs to, where there are more.")] = (
        None
    )
    pinned: bool = False


class UnloadBody(msgspec.Struct, kw_only=True):
    lora_name: str = ""


class OperationRoutes:
    """Handlers that ask for an operation and say how it went."""

    def __init__(self, service: RerankService, operations: OperationsControl) -> None:
        self._service, self._operations = service, operations

    async def load(self, request: Request) -> Response:
        """Answers as vLLM does, with a line of text. Raises ``EngineError``."""
        body = await _read(request, LoadBody)
        await self._load(body)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """The same."""
        body = await _read(request, UnloadBody)
        await self._unload(body)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    async def load_sglang(self, request: Request) -> Response:
        """Answers as SGLang does: what is loaded now, also where it went wrong."""
        try:
            await self._load(await _read(request, LoadBody))
        except EngineError as error:
            return self._update(error, request)
        return self._update(None, request)

    async def unload_sglang(self, request: Request) -> Response:
        """The same."""
        try:
            await self._unload(await _read(request, UnloadBody))
        except EngineError as error:
            return self._update(error, request)
        return self._update(None, request)

    async def _load(self, body: LoadBody) -> None:
        if not body.lora_name or not body.lora_path:
            raise InvalidRequestError("Both 'lora_name' and 'lora_path' must be provided.")
        await self._operations.perform(
            LoadLora(body.lora_name, body.lora_path, body.load_inplace, body.base_model_name)
        )

    async def _unload(self, body: UnloadBody) -> None:
        if not body.lora_name:
            raise InvalidRequestError("'lora_name' needs to be provided to unload a LoRA adapter.", param="lora_name")
        await self._operations.perform(UnloadLora(body.lora_name))

    def _update(self, error: EngineError | None, request: Request) -> Response:
        """SGLang tells where each adapter lies; paths of this machine are told to nobody, so it is a fingerprint."""
        loaded = {name: mark for engine in self._service.models for name, mark in engine.adapters.items()}
        answer: dict[str, Any] = {"success": error is None, "error_message": "", "loaded_adapters": loaded}
        if error is None:
            return json_response(answer)
        error = for_clients(error)
        answer |= {"error_message": str(error)} | error_object(error, request.state.request_id)
        return json_response(answer, error.status, error_headers(error))

    async def sleep(self, request: Request) -> Response:
        """Sleeps as vLLM does (``?level=``). Returns when the memory is free. Raises ``EngineError``."""
        level = request.query_params.get("level", "1")
        if level not in LEVELS:
            raise InvalidRequestError(
                f"level is {level[:20]!r}; possible are 1 and 2, which are the same here: weights are given back, and "
                "read from their files again.",
                param="level",
            )
        await self._operations.perform(Sleep())
        return Response()

    async def wake_up(self, request: Request) -> Response:
        """Wakes up as vLLM does. Returns when calls are answered again. Raises ``EngineError``."""
        await self._operations.perform(WakeUp())
        return Response()

    async def is_sleeping(self, request: Request) -> Response:
        """Answers as vLLM does."""
        return json_response({"is_sleeping": self._service.asleep})

    async def release_memory(self, request: Request) -> Response:
        """Sleeps, as SGLang's route. Its ``tags`` name parts of the memory; here all of it goes and comes."""
        await _read(request, dict)
        await self._operations.perform(Sleep())
        return Response()

    async def resume_memory(self, request: Request) -> Response:
        """Does what ``/wake_up`` does, as SGLang."""
        await _read(request, dict)
        await self._operations.perform(WakeUp())
        return Response()


async def _read(request: Request, type_: type[T]) -> T:
    """The body; none is an empty object. Raises ``InvalidRequestError``."""
    raw = await request.body()
    if raw:
        check_media_type(request.headers)
    try:
        return msgspec.json.decode(raw or b"{}", type=type_)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError(f"The body cannot be read: {error}.") from error
