"""Scores as their steps finish, the ordered answer at the end, and clients that do not wait for it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message

from engine.entrypoints.serve.streaming import while_connected
from engine.messages import WireError
from tests.serve.conftest import running_server
from tests.serve.fakes import FakeCore, expected_score
from tests.serve.raw_client import RawClient

DOCUMENTS = [f"document number {i}" for i in range(10)]
BODY = {"query": "q", "documents": DOCUMENTS, "top_n": 3}


def read_sse(text: str) -> list[tuple[str, Any]]:
    events = []
    for block in text.strip().split("\n\n"):
        event, data = block.split("\n")
        events.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def read_ndjson(text: str) -> list[tuple[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [("result" if "results" in line else "score", line) for line in lines]


@pytest.mark.parametrize(
    ("body", "headers", "media_type", "read"),
    [
        ({**BODY, "stream": True}, {}, "text/event-stream", read_sse),
        (BODY, {"Accept": "application/x-ndjson"}, "application/x-ndjson", read_ndjson),
    ],
    ids=["sse", "ndjson"],
)
async def test_stream(body: dict[str, Any], headers: dict[str, str], media_type: str, read: Callable[..., Any]) -> None:
    async with running_server(FakeCore(pairs_per_step=3)) as server:
        plain = (await server.client.post("/v1/rerank", json=BODY)).json()
        answer = await server.client.post("/v1/rerank", json=body, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(media_type)
    events = read(answer.text)
    assert [name for name, _ in events] == ["score"] * 10 + ["result"]
    # The fake core answers the last pair first, in steps of three.
    assert [entry["index"] for _, entry in events[:-1]] == [*range(9, -1, -1)]
    for _, entry in events[:-1]:
        assert entry["relevance_score"] == pytest.approx(expected_score("q", DOCUMENTS[entry["index"]]))
        assert entry["document"]["text"] == DOCUMENTS[entry["index"]]
    final = events[-1][1]
    assert final["results"] == plain["results"]
    assert final["usage"] == plain["usage"]
    assert final["id"].removeprefix("rerank-") == answer.headers["x-request-id"]


async def test_scores_leave_before_the_call_ends() -> None:
    async with running_server(FakeCore(pairs_per_step=1, step_s=0.05)) as server:
        client = RawClient(server, {**BODY, "stream": True})
        assert (await client.next())["status"] == 200
        first = await client.next()
        assert read_sse(first["body"].decode())[0][1]["index"] == 9
        assert not client.task.done()
        while (await client.next())["more_body"]:
            pass
        await client.task
    assert server.core.aborted == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels(stream: bool) -> None:
    async with running_server(FakeCore(pairs_per_step=1, step_s=0.02)) as server:
        client = RawClient(server, {**BODY, "stream": stream})
        while not server.core.requests:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        client.leave()
        await asyncio.wait_for(client.task, 1)
        assert len(server.core.aborted) == 1
        assert server.service.admission.num_pairs == server.service.admission.num_tokens == 0
        assert server.service.admission.idle.is_set()
        metrics = (await server.client.get("/metrics")).text
        assert "engine_cancelled_total 1.0" in metrics
        assert (await server.client.post("/v1/rerank", json=BODY)).status_code == 200


async def test_wrong_calls_keep_their_status() -> None:
    async with running_server() as server:
        for change in ({"documents": []}, {"truncate": False, "max_tokens_per_doc": 1}):
            answer = await server.client.post("/v1/rerank", json={**BODY, **change, "stream": True})
            assert answer.status_code == 400
            assert answer.headers["content-type"] == "application/json"


async def test_an_engine_that_dies_in_the_middle() -> None:
    core = FakeCore(pairs_per_step=1, step_s=0.02)
    async with running_server(core) as server:
        client = RawClient(server, {**BODY, "stream": True})
        await client.next()
        await client.next()
        core.dead = True
        last = b""
        while (message := await client.next())["more_body"]:
            last = message["body"]
        (event,) = read_sse(last.decode())
        assert event[0] == "error"
        assert event[1]["error"]["type"] == "engine_dead"


async def test_one_bad_pair_fails_alone() -> None:
    core = FakeCore()
    core.nan_pairs = {4}
    async with running_server(core) as server:
        stream = await server.client.post("/v1/rerank", json={**BODY, "top_n": 0, "stream": True})
        plain = await server.client.post("/v1/rerank", json={**BODY, "top_n": 0})
        other = await server.client.post("/v1/rerank", json={"query": "q", "documents": ["a"]})
    events = read_sse(stream.text)
    (failed,) = [data for name, data in events if name == "error"]
    assert (failed["index"], failed["error"]["type"]) == (4, "non_finite_score")
    assert len(events[-1][1]["results"]) == 9
    body = plain.json()
    assert plain.status_code == 500
    assert (body["error"]["type"], body["error"]["param"]) == ("non_finite_score", "documents[4]")
    assert (len(body["results"]), body["failed"]) == (9, [4])
    assert "null" not in plain.text.replace('"multi_modal":null', "").replace('"param":null', "")
    assert other.status_code == 200


async def test_deadline_answers_with_what_is_scored() -> None:
    core = FakeCore()
    core.failing = {0: WireError("deadline_exceeded", "the deadline passed")}
    async with running_server(core) as server:
        answer = await server.client.post("/v1/rerank", json={**BODY, "top_n": 0, "timeout_ms": 5000})
        listed = await server.client.post("/rerank?dialect=sglang", json={**BODY, "top_n": 0, "timeout_ms": 5000})
    (request, _) = core.requests
    assert request.deadline_s is not None
    assert request.deadline_s - request.arrival_s == pytest.approx(5)
    body = answer.json()
    assert (answer.status_code, body["partial"], body["unscored"]) == (200, True, [0])
    assert sorted(entry["index"] for entry in body["results"]) == list(range(1, len(BODY["documents"])))
    assert (answer.headers["x-partial"], answer.headers["x-unscored"]) == ("true", "1")
    assert (len(listed.json()), listed.headers["x-partial"]) == (len(BODY["documents"]) - 1, "true")


@pytest.mark.parametrize("stream", [False, True])
async def test_deadline_does_not_wait_for_a_slow_step(stream: bool) -> None:
    core = FakeCore(pairs_per_step=4, step_s=0.1)
    async with running_server(core) as server:
        started = time.monotonic()
        body = {"query": "q", "documents": ["a"] * 400, "timeout_ms": 250, "stream": stream}
        answer = await server.client.post("/v1/rerank", json=body)
        took = time.monotonic() - started
        assert server.service.admission.num_pairs == 0
    last = read_sse(answer.text)[-1][1] if stream else answer.json()
    assert answer.status_code == 200
    assert took < 2
    assert last["partial"] is True
    assert 1 <= len(last["results"]) <= 12
    assert sorted([*last["unscored"], *(entry["index"] for entry in last["results"])]) == list(range(400))
    assert len(core.aborted) == 1


async def test_deadline_during_tokenisation() -> None:
    async with running_server() as server:
        encode = server.processor.encode_each
        server.processor.encode_each = lambda *args: time.sleep(0.1) or encode(*args)  # type: ignore[method-assign,func-returns-value]
        answer = await server.client.post("/v1/rerank", json={**BODY, "timeout_ms": 10})
    assert (answer.status_code, answer.json()["partial"], answer.json()["results"]) == (200, True, [])
    assert server.core.requests == []


async def test_a_caller_that_is_cancelled_again_and_again_still_ends_the_work_first() -> None:
    """A cancel scope of anyio cancels at every wait; a client for tests closes one from inside ``send``."""
    ended, started = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            ended.set()

    async def receive() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    caller = asyncio.create_task(while_connected(work(), receive, asyncio.Event()))
    await started.wait()
    while not caller.done():
        caller.cancel()
        await asyncio.sleep(0)
    assert caller.cancelled()
    assert ended.is_set()
