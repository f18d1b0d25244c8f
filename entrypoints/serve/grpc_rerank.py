"""The gRPC services ``tei.v1.Rerank`` and ``tei.v1.Info`` of text-embeddings-inference over the same scoring service
(extra ``grpc``).

The messages are built from their field numbers when the server starts, so no generated code has to match the installed
protobuf. (https://github.com/huggingface/text-embeddings-inference/blob/main/proto/tei.proto)
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from engine.config import ServerConfig
from engine.entrypoints.serve.dialects.base import CallResult
from engine.entrypoints.serve.errors import for_clients
from engine.entrypoints.serve.service import RerankService
from engine.errors import (
    AuthenticationError,
    ConfigError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    StartupError,
    TooLargeError,
)
from engine.request import PairOptions, RerankCall
from engine.version import __version__

SERVICE, INFO = "tei.v1.Rerank", "tei.v1.Info"
RERANKER = 2
"""``MODEL_TYPE_RERANKER``."""
_TYPES = {"string": 9, "bool": 8, "float": 2, "uint32": 13, "uint64": 4, "int32": 5}
_MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "RerankRequest": (
        ("query", 1, "string"),
        ("texts", 2, "repeated string"),
        ("truncate", 3, "bool"),
        ("raw_scores", 4, "bool"),
        ("return_text", 5, "bool"),
    ),
    "RerankStreamRequest": (
        ("query", 1, "string"),
        ("text", 2, "string"),
        ("truncate", 3, "bool"),
        ("raw_scores", 4, "bool"),
        ("return_text", 5, "bool"),
    ),
    "InfoRequest": (),
    "InfoResponse": (
        ("version", 1, "string"),
        ("sha", 2, "optional string"),
        ("docker_label", 3, "optional string"),
        ("model_id", 4, "string"),
        ("model_sha", 5, "optional string"),
        ("model_dtype", 6, "string"),
        ("model_type", 7, "int32"),  # on the wire, an enum is its number
        ("max_concurrent_requests", 8, "uint32"),
        ("max_input_length", 9, "uint32"),
        ("max_batch_tokens", 10, "uint32"),
        ("max_batch_requests", 11, "optional uint32"),
        ("max_client_batch_size", 12, "uint32"),
        ("tokenization_workers", 13, "uint32"),
    ),
    "Rank": (("index", 1, "uint32"), ("text", 2, "optional string"), ("score", 3, "float")),
    "Metadata": (
        ("compute_chars", 1, "uint32"),
        ("compute_tokens", 2, "uint32"),
        ("total_time_ns", 3, "uint64"),
        ("tokenization_time_ns", 4, "uint64"),
        ("queue_time_ns", 5, "uint64"),
        ("inference_time_ns", 6, "uint64"),
    ),
    "RerankResponse": (("ranks", 1, "repeated Rank"), ("metadata", 2, "Metadata")),
}
"""Name -> fields: name, number and type, which are what the protocol is."""


def _build() -> dict[str, Any]:
    """Message classes by their names."""
    file = descriptor_pb2.FileDescriptorProto(name="engine_tei.proto", package="tei.v1", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            words = kind.split()
            field = message.field.add(name=field_name, number=number, label=3 if words[0] == "repeated" else 1)
            if words[-1] in _TYPES:
                field.type = _TYPES[words[-1]]
            else:
                field.type, field.type_name = 11, f".tei.v1.{words[-1]}"
            if words[0] == "optional":
                field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field_name}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tei.v1.{name}")) for name in _MESSAGES}


def _status_of(error: EngineError) -> Any:
    by_status = {401: "UNAUTHENTICATED", 404: "NOT_FOUND", 503: "UNAVAILABLE", 429: "RESOURCE_EXHAUSTED"}
    if isinstance(error, OverloadedError):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    usual = "INVALID_ARGUMENT" if 400 <= error.status < 500 else "INTERNAL"
    return getattr(grpc.StatusCode, by_status.get(error.status, usual))


class GrpcServer:
    """Use ``start`` and ``stop`` on the loop of the service."""

    def __init__(self, service: RerankService) -> None:
        """Raises ``StartupError`` where the port cannot be had."""
        self._service = service
        self._messages = _build()
        self._server: Any = grpc.aio.server(
            options=(("grpc.max_receive_message_length", service.config.max_body_bytes),)
        )
        answer = self._messages["RerankResponse"].SerializeToString
        rerank = grpc.unary_unary_rpc_method_handler(
            self._rerank,
            request_deserializer=self._messages["RerankRequest"].FromString,
            response_serializer=answer,
        )
        stream = grpc.stream_unary_rpc_method_handler(
            self._rerank_stream,
            request_deserializer=self._messages["RerankStreamRequest"].FromString,
            response_serializer=answer,
        )
        info = grpc.unary_unary_rpc_method_handler(
            self._info,
            request_deserializer=self._messages["InfoRequest"].FromString,
            response_serializer=self._messages["InfoResponse"].SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, {"Rerank": rerank, "RerankStream": stream}),
                grpc.method_handlers_generic_handler(INFO, {"Info": info}),
            )
        )
        host = service.config.host
        address = f"[{host}]" if ":" in host else host
        try:
            self.port: int = self._server.add_insecure_port(f"{address}:{service.config.grpc_port}")
        except RuntimeError as error:
            raise StartupError(f"--grpc-port {service.config.grpc_port}: {error}", param="grpc_port") from error

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        """Calls in flight get a moment to end."""
        await self._server.stop(1.0)

    async def _rerank(self, request: Any, context: Any) -> Any:
        async def scored() -> Any:
            caller = self._caller(context)
            return await self._scored(request, list(request.texts), caller)

        return await self._told(scored, "Rerank", context)

    async def _rerank_stream(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """One call whose texts come one by one; its options are those of the first."""

        async def scored() -> Any:
            caller = self._caller(context)
            first: Any = None
            texts: list[str] = []
            num_bytes = 0
            async for request in requests:
                first = first or request
                if request.query != first.query:
                    raise InvalidRequestError("A stream has one query.", param="query")
                texts.append(request.text)
                num_bytes += len(request.text.encode())
                self._check_size(len(texts), num_bytes)
            return await self._scored(first or self._messages["RerankStreamRequest"](), texts, caller)

        return await self._told(scored, "RerankStream", context)

    def _check_size(self, num_texts: int, num_bytes: int) -> None:
        config = self._service.config
        if num_texts > config.max_documents or num_bytes > config.max_body_bytes:
            raise TooLargeError(
                f"The stream has more than {config.max_documents} texts, or {config.max_body_bytes} bytes of them."
            )

    async def _scored(self, request: Any, texts: list[str], caller: str) -> Any:
        if not texts:
            raise InvalidRequestError("At least one text is needed.", param="texts")
        if not request.query.strip():
            raise InvalidRequestError("The query must not be empty.", param="query")
        call = RerankCall(
            queries=[request.query],
            documents=texts,
            options=PairOptions(truncate=request.truncate),
            raw_scores=request.raw_scores,
            probabilities=not request.raw_scores,
            caller=caller,
        )
        result = await self._service.score(call, uuid.uuid4().hex)
        if result.errors:
            raise result.errors[min(result.errors)]
        return self._answer(result, request.return_text)

    async def _info(self, request: Any, context: Any) -> Any:
        async def described() -> Any:
            self._caller(context)
            engine, config = self._service.engine, self._service.config
            return self._messages["InfoResponse"](
                version=__version__,
                model_id=engine.spec.name,
                model_dtype=engine.client.info.dtype,
                model_type=RERANKER,
                max_concurrent_requests=config.max_queued_pairs,
                max_input_length=engine.spec.max_model_len,
                max_batch_tokens=engine.client.info.max_num_batched_tokens,
                max_client_batch_size=config.max_documents,
                tokenization_workers=config.tokenizer_threads,
            )

        return await self._told(described, "Info", context, INFO)

    def _caller(self, context: Any) -> str:
        return _caller(self._service.config.api_key, dict(context.invocation_metadata() or ()), context.peer())

    async def _told(self, work: Callable[[], Awaitable[Any]], method: str, context: Any, service: str = SERVICE) -> Any:
        """The answer, or the error as a status; both are counted."""
        metrics, path = self._service.metrics, f"/{service}/{method}"
        try:
            answer = await work()
        except EngineError as error:
            metrics.errors.labels(error.type).inc()
            metrics.calls.labels(path, "grpc", str(error.status)).inc()
            return await context.abort(_status_of(error), str(for_clients(error)))
        metrics.calls.labels(path, "grpc", "200").inc()
        return answer

    def _answer(self, result: CallResult, return_text: bool) -> Any:
        texts = result.call.documents
        ranks = [
            self._messages["Rank"](
                index=pair.index, score=pair.score, **({"text": texts[pair.index]} if return_text else {})
            )
            for pair in result.pairs
        ]
        metadata = self._messages["Metadata"](
            compute_chars=sum(map(len, texts)) + len(result.call.queries[0]),
            compute_tokens=result.prompt_tokens,
            total_time_ns=int(1e9 * result.total_s),
            tokenization_time_ns=int(1e9 * result.encode_s),
            queue_time_ns=int(1e9 * result.queue_s),
            inference_time_ns=int(1e9 * result.compute_s),
        )
        return self._messages["RerankResponse"](ranks=ranks, metadata=metadata)


def _caller(keys: tuple[str, ...], metadata: dict[str, Any], peer: str) -> str:
    """Who calls. Raises ``AuthenticationError`` without a known key, where there are keys."""
    if not keys:
        return peer.rpartition(":")[0]
    value = str(metadata.get("authorization") or metadata.get("x-api-key") or "")
    scheme, _, rest = value.partition(" ")
    key = rest.strip() if scheme.lower() == "bearer" else value
    digest = hashlib.sha256(key.encode()).digest()
    # Every digest is compared, so that the time says nothing about which one was close.
    matches = [hmac.compare_digest(digest, hashlib.sha256(known.encode()).digest()) for known in keys]
    if not key or not any(matches):
        raise AuthenticationError("An API key is needed, and a known one: metadata authorization: Bearer KEY.")
    return digest.hex()[:16]


def check_grpc(config: ServerConfig) -> None:
    """Raises ``ConfigError`` for what gRPC cannot be combined with."""
    if config.api_server_count > 1 or config.uds or config.ssl_certfile:
        raise ConfigError(
            "--grpc-port is for one API server on an address without TLS: leave out --api-server-count, --uds and "
            "--ssl-certfile, or put a proxy in front.",
            param="grpc_port",
        )
