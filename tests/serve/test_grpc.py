"""The gRPC ``Rerank`` of text-embeddings-inference, asked by grpcio's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from engine.config import ServerConfig
from engine.entrypoints.serve.grpc_rerank import GrpcServer, _build, check_grpc
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import RerankService
from engine.errors import ConfigError
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor, expected_logit, expected_score

MESSAGES = _build()


@asynccontextmanager
async def channel(**settings: Any) -> AsyncIterator[Any]:
    """The method Rerank of a server."""
    async with opened(**settings) as channel:
        yield channel.unary_unary(
            "/tei.v1.Rerank/Rerank",
            request_serializer=MESSAGES["RerankRequest"].SerializeToString,
            response_deserializer=MESSAGES["RerankResponse"].FromString,
        )


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Any]:
    service = RerankService(ServerConfig(grpc_port=0, **settings), ServerMetrics())
    service.attach(LoadedEngine(SPEC, FakeProcessor(), FakeCore(), ("fake",)))
    server = GrpcServer(service)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
    await server.stop()
    await service.stop()


async def test_ranks() -> None:
    async with channel() as rerank:
        answer = await rerank(MESSAGES["RerankRequest"](query="a", texts=["b", "c"], return_text=True))
        scores = {rank.index: rank.score for rank in answer.ranks}
        assert scores == pytest.approx({0: expected_score("a", "b"), 1: expected_score("a", "c")}, abs=1e-6)
        assert [rank.score for rank in answer.ranks] == sorted(scores.values(), reverse=True)
        assert {rank.index: rank.text for rank in answer.ranks} == {0: "b", 1: "c"}
        assert answer.metadata.compute_tokens > 0
        raw = await rerank(MESSAGES["RerankRequest"](query="a", texts=["b"], raw_scores=True))
        assert raw.ranks[0].score == pytest.approx(expected_logit("a", "b"), abs=1e-5)
        assert not raw.ranks[0].HasField("text")


async def test_errors_and_keys() -> None:
    async with channel(api_key=("k",)) as rerank:
        request = MESSAGES["RerankRequest"](query="a", texts=["b"])
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await rerank(request, metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        key = (("authorization", "Bearer k"),)
        assert len((await rerank(request, metadata=key)).ranks) == 1
        with pytest.raises(grpc.aio.AioRpcError) as wrong:
            await rerank(MESSAGES["RerankRequest"](query="a", texts=["word " * 5000]), metadata=key)
        assert wrong.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError, match="At least one text"):
            await rerank(MESSAGES["RerankRequest"](query="a"), metadata=key)


async def test_a_stream_of_texts() -> None:
    async with opened(max_documents=2, api_key=("k",)) as channel:
        rerank = channel.stream_unary(
            "/tei.v1.Rerank/RerankStream",
            request_serializer=MESSAGES["RerankStreamRequest"].SerializeToString,
            response_deserializer=MESSAGES["RerankResponse"].FromString,
        )
        key = (("authorization", "Bearer k"),)

        async def ask(*pairs: tuple[str, str], metadata: Any = key) -> Any:
            parts = [MESSAGES["RerankStreamRequest"](query=q, text=t, return_text=True) for q, t in pairs]
            return await rerank(iter(parts), metadata=metadata)

        answer = await ask(("a", "b"), ("a", "c"))
        scores = {rank.index: rank.score for rank in answer.ranks}
        assert scores == pytest.approx({0: expected_score("a", "b"), 1: expected_score("a", "c")}, abs=1e-6)
        assert {rank.index: rank.text for rank in answer.ranks} == {0: "b", 1: "c"}
        for pairs, says in (
            ((), "At least one text"),
            ((("a", "b"), ("z", "c")), "one query"),
            ((("a", "b"),) * 3, "more than 2 texts"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=says):
                await ask(*pairs)
        with pytest.raises(grpc.aio.AioRpcError, match="API key"):
            await ask(("a", "b"), metadata=())


async def test_info() -> None:
    async with opened() as channel:
        info = channel.unary_unary(
            "/tei.v1.Info/Info",
            request_serializer=MESSAGES["InfoRequest"].SerializeToString,
            response_deserializer=MESSAGES["InfoResponse"].FromString,
        )
        answer = await info(MESSAGES["InfoRequest"]())
        assert (answer.model_id, answer.model_dtype, answer.model_type) == (SPEC.name, "float32", 2)
        assert answer.max_input_length == SPEC.max_model_len
        assert not answer.HasField("sha")


def test_what_it_cannot_be_combined_with() -> None:
    with pytest.raises(ConfigError, match="--api-server-count"):
        check_grpc(ServerConfig(grpc_port=1, api_server_count=2))
