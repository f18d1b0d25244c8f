"""Several queries in one call, long documents in chunks: pairs out of places, and places out of pairs."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from engine.inputs.spans import Chunking, Span, chunk_spans
from engine.request import RerankCall
from engine.scoring.expansion import PairTexts, Places
from engine.scoring.result_assembler import PairScore
from tests.serve.conftest import running_server
from tests.serve.fakes import FakeCore, expected_logit, expected_score

LONG = " ".join(f"w{i}" for i in range(50))


async def test_every_query_meets_every_document() -> None:
    queries, documents = ["p", "q r", "s"], ["a", "b c", "d", "b c"]
    body = {"queries": queries, "documents": documents, "top_n": 3, "return_documents": False}
    async with running_server() as server:
        answer = (await server.client.post("/v1/rerank", json=body)).json()
        stream = await server.client.post("/v1/rerank", json=body | {"stream": True})
    assert len(server.core.requests) == 2
    for index, query in enumerate(queries):
        order = sorted(range(4), key=lambda i: (-expected_logit(query, documents[i]), i))
        ranking = answer["queries"][index]
        assert (ranking["index"], [entry["index"] for entry in ranking["results"]]) == (index, order[:3])
        for entry in ranking["results"]:
            assert entry["relevance_score"] == pytest.approx(expected_score(query, documents[entry["index"]]))
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert {(event["query_index"], event["index"]) for event in events[:-1]} == {
        (q, d) for q in range(3) for d in range(4)
    }
    assert events[-1]["queries"] == answer["queries"]


async def test_every_query_when_time_runs_out() -> None:
    core = FakeCore(pairs_per_step=1, step_s=0.05)
    body = {"queries": ["p", "q"], "documents": ["a", "b", "c"], "timeout_ms": 180}
    async with running_server(core) as server:
        answer = await server.client.post("/v1/rerank", json=body)
    body = answer.json()
    assert (answer.status_code, body["partial"]) == (200, True)
    first, second = body["queries"]
    # The stand-in works from the last pair to the first.
    assert first["unscored"] == [0, 1, 2]
    assert 1 <= len(second["results"]) == 3 - len(second.get("unscored", []))


async def test_a_chunked_document_scores_like_its_best_chunk() -> None:
    documents = ["short one", LONG, "w1 w2"]
    body = {"query": "q", "documents": documents, "long_document": "chunk", "chunk_tokens": 16}
    core = FakeCore(pairs_per_step=1)
    async with running_server(core) as server:
        answer = (await server.client.post("/v1/rerank", json=body)).json()
        cut = (await server.client.post("/v1/rerank", json={**body, "long_document": "truncate"})).json()
        few = (await server.client.post("/v1/rerank", json={**body, "max_chunks_per_doc": 2})).json()
        stream = await server.client.post("/v1/rerank", json=body | {"stream": True})
        assert server.service.admission.num_pairs == 0
    spans = server.processor._spans(LONG, 16)
    assert len(spans) == len(core.requests[0].pair_lens) - 2 == 4
    scores = [expected_score("q", LONG[span.start : span.end]) for span in spans]
    best = max(range(4), key=scores.__getitem__)
    (entry,) = [entry for entry in answer["results"] if entry["index"] == 1]
    assert entry["relevance_score"] == pytest.approx(scores[best])
    assert entry["span"] == {"start": spans[best].start, "end": spans[best].end}
    assert "truncated" not in entry
    assert all("span" not in other for other in answer["results"] if other["index"] != 1)
    (whole,) = [entry for entry in cut["results"] if entry["index"] == 1]
    assert whole["relevance_score"] == pytest.approx(expected_score("q", LONG))
    (partly,) = [entry for entry in few["results"] if entry["index"] == 1]
    assert (partly["relevance_score"], partly["truncated"]) == (pytest.approx(max(scores[:2])), True)
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert sorted(event["index"] for event in events[:-1]) == [0, 1, 2]  # one score a document, when it is final


async def test_a_failed_chunk_fails_its_document_alone() -> None:
    core = FakeCore()
    core.nan_pairs = {2}
    body = {"query": "q", "documents": ["short", LONG, "w"], "long_document": "chunk", "chunk_tokens": 16}
    async with running_server(core) as server:
        answer = await server.client.post("/v1/rerank", json=body)
    assert (answer.status_code, answer.json()["failed"]) == (500, [1])
    assert answer.json()["error"]["param"] == "documents[1]"
    assert [entry["index"] for entry in answer.json()["results"]] != []


async def test_too_many_chunks() -> None:
    async with running_server(max_documents=10) as server:
        body = {"query": "q", "documents": [" ".join(["w"] * 400)], "chunk_tokens": 16}
        answer = await server.client.post("/v1/rerank", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (413, "documents")
        assert "max_chunks_per_doc" in answer.json()["message"]
        assert (await server.client.post("/v1/rerank", json={**body, "max_chunks_per_doc": 5})).status_code == 200


@pytest.mark.parametrize("fields", [{"chunk_tokens": 15}, {"chunk_overlap": -1}, {"long_document": "cut"}])
async def test_wrong_chunks(fields: dict[str, Any]) -> None:
    async with running_server() as server:
        answer = await server.client.post("/v1/rerank", json={"query": "q", "documents": ["a"], **fields})
    (name,) = fields
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


async def test_chunks_and_several_queries() -> None:
    body = {"queries": ["p", "q"], "documents": [LONG, "short"], "chunk_tokens": 20, "return_documents": False}
    async with running_server() as server:
        answer = (await server.client.post("/v1/rerank", json=body)).json()
    spans = server.processor._spans(LONG, 20)
    for ranking, query in zip(answer["queries"], ("p", "q"), strict=True):
        by_index = {entry["index"]: entry["relevance_score"] for entry in ranking["results"]}
        best = max(expected_score(query, LONG[span.start : span.end]) for span in spans)
        assert by_index == {0: pytest.approx(best), 1: pytest.approx(expected_score(query, "short"))}


async def test_many_calls_at_once_keep_their_chunks_apart() -> None:
    async with running_server(FakeCore(step_s=0.001)) as server:

        async def ask(i: int) -> float:
            body = {"query": f"q{i}", "documents": [LONG], "chunk_tokens": 16 + i}
            return float((await server.client.post("/v1/rerank", json=body)).json()["results"][0]["relevance_score"])

        scores = await asyncio.gather(*map(ask, range(10)))
    for i, score in enumerate(scores):
        spans = server.processor._spans(LONG, 16 + i)
        assert score == pytest.approx(max(expected_score(f"q{i}", LONG[s.start : s.end]) for s in spans))


@given(st.data())
def test_places_are_settled_once_in_any_order(data: st.DataObject) -> None:
    num_queries = data.draw(st.integers(1, 3))
    chunks = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    documents = ["x" * 10 for _ in chunks]
    call = RerankCall(queries=["q"] * num_queries, documents=documents, every_query=True)
    texts = PairTexts.of(call).cut([[Span(i, i + 7) for i in range(n)] for _ in range(num_queries) for n in chunks], 99)
    num_pairs = sum(chunks) * num_queries
    assert len(texts.documents) == num_pairs
    logits = data.draw(st.lists(st.floats(-9, 9), min_size=num_pairs, max_size=num_pairs))
    order = data.draw(st.permutations(range(num_pairs)))
    places, settled = Places(call, texts), []
    for pair in order:
        settled += places.add([PairScore(pair, logits[pair], logits[pair], False)])
    assert sorted((one.query_index, one.index) for one in settled) == [
        (q, d) for q in range(num_queries) for d in range(len(chunks))
    ]
    assert places.missing() == []
    starts = [sum((chunks * num_queries)[:place]) for place in range(num_queries * len(chunks) + 1)]
    for one, (start, end) in zip(places.in_order(), pairwise(starts), strict=True):
        assert one.logit == max(logits[start:end])


def words(count: int) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(count)} | {"?": count}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


@given(
    st.integers(0, 60),
    st.integers(16, 40),
    st.integers(0, 60),
    st.integers(0, 4),
    st.integers(0, 50),
    st.sampled_from(["left", "right"]),
)
def test_chunks_cover_the_text(length: int, size: int, overlap: int, most: int, limit: int, side: Any) -> None:
    text = " ".join(f"w{i}" for i in range(length))
    how = Chunking.of(100, size, overlap, most=most, limit=limit, side=side)
    (spans,) = chunk_spans(words(60), [text], [how])
    covered = [text[span.start : span.end].split() for span in spans]
    expected = text.split()
    if limit and length > limit:
        expected = expected[:limit] if side == "right" else expected[-limit:]
    assert all(len(part) <= size for part in covered)
    assert not most or len(spans) <= max(1, most)
    seen = list(dict.fromkeys(word for part in covered for word in part))
    if not most or len(spans) < most:
        assert seen == expected
    else:
        assert seen == expected[: len(seen)]
    if len(spans) > 1:
        assert all(len(part) == size for part in covered)
        for left, right in pairwise(covered):
            assert len(set(left) & set(right)) >= how.overlap


def test_a_chunk_fits_what_the_model_can_read() -> None:
    assert Chunking.of(1000, None, None).size < 1000
    assert Chunking.of(1000, 5000, None).size < 1000
    assert Chunking.of(1000, 100, None).overlap == 12
    assert Chunking.of(1000, 100, 99).overlap == 50
    assert Chunking.of(1, None, None).size == 16
