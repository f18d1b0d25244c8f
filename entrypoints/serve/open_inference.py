"""The Open Inference Protocol v2 (KServe, Triton, MLServer): inputs ``query`` and ``documents``, output ``scores``.

``query`` has one text for all documents or one for each; ``instruction``, one text, is optional. Scores are in the
order of the documents. (https://github.com/kserve/open-inference-protocol)
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any

import msgspec
from fastapi import Request
from msgspec import Meta
from starlette.responses import Response

from engine.entrypoints.serve.counted import counted
from engine.entrypoints.serve.errors import error_headers, for_clients, json_response
from engine.entrypoints.serve.limits import check_media_type
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.streaming import while_connected
from engine.errors import EngineError, InvalidRequestError
from engine.request import PairOptions, RerankCall
from engine.version import __version__

NAME = "open-inference"
INPUTS = ("query", "documents", "instruction")
SCORES = "scores"


class InputTensor(msgspec.Struct):
    """One input: texts in the order of their shape, flat or nested."""

    name: str
    shape: list[Annotated[int, Meta(ge=0)]]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class InferBody(msgspec.Struct):
    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[dict[str, Any]] | None = None


class OutputTensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferAnswer(msgspec.Struct, omit_defaults=True):
    model_name: str
    outputs: list[OutputTensor]
    id: str | None = None


class OpenInferenceRoutes:
    """Handlers of the paths under /v2."""

    def __init__(self, service: RerankService) -> None:
        self._service = service

    async def server(self, request: Request) -> Response:
        """Describes this server."""
        return json_response({"name": "engine", "version": __version__, "extensions": []})

    async def live(self, request: Request) -> Response:
        """200 while the event loop runs."""
        return json_response({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 while calls are answered. Raises ``ServiceError`` with the reason where they are not."""
        self._service.check_ready()
        return json_response({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        """200 while calls to that model are answered. Raises ``NotFoundError`` or ``ServiceError``."""
        self._service.check_ready()
        return json_response({"name": self._service.served_name(request.path_params["model"]), "ready": True})

    async def model(self, request: Request) -> Response:
        """Inputs and outputs of that model. Raises ``NotFoundError``."""
        inputs = [{"name": name, "datatype": "BYTES", "shape": [1 if name == "instruction" else -1]} for name in INPUTS]
        return json_response(
            {
                "name": self._service.served_name(request.path_params["model"]),
                "platform": "engine",
                "inputs": inputs,
                "outputs": [{"name": SCORES, "datatype": "FP32", "shape": [-1]}],
            }
        )

    async def infer(self, request: Request) -> Response:
        """The scores of a query and its documents."""
        return await counted(self._service, request, NAME, self._infer(request), _failed)

    async def _infer(self, request: Request) -> InferAnswer:
        check_media_type(request.headers)
        try:
            body = msgspec.json.decode(await request.body(), type=InferBody)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequestError(f"The body is no inference request: {error}.") from error
        caller = getattr(request.state, "caller", "") or (request.client.host if request.client else "")
        call = call_of(body, request.path_params["model"], caller, truncate=self._service.config.auto_truncate)
        work = self._service.score(call, request.state.request_id)
        result = await while_connected(work, request.receive, self._service.cut_off)
        if result.errors:
            raise result.errors[min(result.errors)]
        scores = [pair.score for pair in result.in_order]
        return InferAnswer(result.model, [OutputTensor(SCORES, [len(scores)], "FP32", scores)], body.id)


def call_of(body: InferBody, model: str, caller: str, *, truncate: bool) -> RerankCall:
    """The call of a request. Raises ``InvalidRequestError`` about the input that is wrong."""
    texts: dict[str, list[str]] = {}
    for position, tensor in enumerate(body.inputs):
        if tensor.name not in INPUTS or tensor.name in texts:
            raise InvalidRequestError(
                f"inputs[{position}] is {tensor.name[:100]!r}; this model reads {', '.join(INPUTS)}, each once.",
                param=("inputs", position),
            )
        texts[tensor.name] = _texts(tensor, position)
    for output in body.outputs or ():
        if output.get("name") != SCORES:
            raise InvalidRequestError(f"The one output is {SCORES}.", param="outputs")
    for name in ("query", "documents"):
        if name not in texts:
            raise InvalidRequestError(f"The input {name!r} is missing.", param="inputs")
    instructions = texts.get("instruction") or []
    if len(texts["query"]) not in (1, len(texts["documents"])) or len(instructions) > 1:
        raise InvalidRequestError(
            f"There are {len(texts['query'])} queries for {len(texts['documents'])} documents and {len(instructions)} "
            "instructions: one query for all documents or one for each, and one instruction at most.",
            param="inputs",
        )
    return RerankCall(
        queries=texts["query"],
        documents=texts["documents"],
        model=model,
        caller=caller,
        options=PairOptions(instruction="".join(instructions) or None, truncate=truncate),
    )


def _texts(tensor: InputTensor, position: int) -> list[str]:
    where = f"inputs[{position}] ({tensor.name})"
    if tensor.datatype != "BYTES":
        raise InvalidRequestError(
            f"{where} has the datatype {tensor.datatype[:20]!r}; texts are BYTES.", param="inputs"
        )
    flat = tensor.data
    for _ in range(len(tensor.shape)):
        if flat and all(isinstance(item, list) for item in flat):
            flat = [item for inner in flat for item in inner]
    if not all(isinstance(item, str) for item in flat):
        raise InvalidRequestError(f"{where}: its data are texts (strings).", param="inputs")
    if prod(tensor.shape) != len(flat):
        raise InvalidRequestError(f"{where} has the shape {tensor.shape} and {len(flat)} texts.", param="inputs")
    return flat


def _failed(error: EngineError, request: Request) -> Response:
    """The protocol's one field, without paths of this machine like any other error."""
    error = for_clients(error)
    return json_response({"error": str(error)}, error.status, error_headers(error))
