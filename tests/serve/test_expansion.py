"""Several queries in one call, long documents in chunks: pairs for the core, and results out of their scores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from engine.errors import PARAM, InvalidRequestError
from engine.inputs.checks import check_query, query_path
from engine.inputs.spans import Chunking, Span, chunk_spans
from engine.messages import EngineCoreOutput
from engine.request import ChunkOptions, Encoded, EncodedPair, RerankCall
from engine.scoring.call_encoding import CallEncoding
from engine.scoring.expansion import PairTexts
from engine.scoring.result_assembler import ResultAssembler
from tests.serve.conftest import running_server
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor, expected_logit, expected_score

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
    span = {"start": spans[best].start, "end": spans[best].end}
    assert set(entry) == {"index", "relevance_score", "document"}  # strict clients take no other key
    assert answer["details"] == [{"index": 1, "span": span}]
    (whole,) = [entry for entry in cut["results"] if entry["index"] == 1]
    assert whole["relevance_score"] == pytest.approx(expected_score("q", LONG))
    (partly,) = [entry for entry in few["results"] if entry["index"] == 1]
    assert partly["relevance_score"] == pytest.approx(max(scores[:2]))
    assert [(detail["index"], detail["truncated"]) for detail in few["details"]] == [(1, True)]
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert sorted(event["index"] for event in events[:-1]) == [0, 1, 2]  # one score a document, when it is final
    assert [event["span"] for event in events[:-1] if event["index"] == 1] == [span]  # alone, it speaks for itself


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
        assert "max_chunks_per_doc" in answer.json()["error"]["message"]
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
def test_results_are_settled_once_in_any_order(data: st.DataObject) -> None:
    num_queries = data.draw(st.integers(1, 3))
    chunks = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    documents = ["x" * 10 for _ in chunks]
    call = RerankCall(queries=["q"] * num_queries, documents=documents, every_query=True, raw_scores=True)
    texts = PairTexts.of(call).cut([[Span(i, i + 7) for i in range(n)] for _ in range(num_queries) for n in chunks], 99)
    num_pairs = sum(chunks) * num_queries
    assert texts.num_pairs == num_pairs
    logits = data.draw(st.lists(st.floats(-9, 9, width=32), min_size=num_pairs, max_size=num_pairs))
    failing = data.draw(st.sets(st.integers(0, num_pairs - 1), max_size=2))
    order = data.draw(st.permutations(range(num_pairs)))
    pairs = [EncodedPair(np.array([1], np.int32)) for _ in range(num_pairs)]
    results = ResultAssembler(SPEC.head, texts, pairs)
    settled = []
    for pair in order:
        values = np.array([[np.inf if pair in failing else logits[pair]]], np.float32)
        settled += results.add(EngineCoreOutput("c", np.array([pair]), values))
    starts = [sum((chunks * num_queries)[:number]) for number in range(num_queries * len(chunks) + 1)]
    members = [range(start, end) for start, end in pairwise(starts)]
    good = [number for number, own in enumerate(members) if failing.isdisjoint(own)]
    assert sorted((one.query_index, one.index) for one in settled) == [divmod(i, len(chunks)) for i in good]
    for one, number in zip(results.in_order(), good, strict=True):
        assert one.logit == max(logits[pair] for pair in members[number])
        assert one.pair in members[number]
        assert logits[one.pair] == one.logit
    failed = results.failed()
    assert sorted(failed) == [number for number in range(len(members)) if number not in good]
    assert all(error.path == ("documents", number % len(chunks)) for number, error in failed.items())
    assert results.unscored() == []


@pytest.mark.parametrize("prompts", [False, True])
def test_what_was_not_encoded_in_time_has_no_score(prompts: bool) -> None:
    texts = ["a", "b", "c"]
    call = RerankCall(queries=["q"], documents=texts, chunks=None)
    if prompts:
        call = RerankCall(queries=[], documents=[], prompts=list(texts))
    encoding = CallEncoding(call, FakeProcessor())
    slices = encoding.slices(2)
    assert next(slices) == 2
    results = ResultAssembler(SPEC.head, encoding.texts, encoding.pairs)
    results.add(EngineCoreOutput("c", np.array([0, 1]), np.array([[1.0], [2.0]], np.float32)))
    assert ([one.index for one in results.in_order()], results.unscored()) == ([0, 1], [2])
    assert [one.index for one in results.rankings()[0]] == [1, 0]


class _Refusing(FakeProcessor):
    """Refuses the queries that are blank, and documents that say so, under the name they have in the slice."""

    def encode_each(self, queries: Sequence[str], documents: Sequence[str], *args: Any) -> list[Encoded]:
        for i, query in enumerate(queries):
            check_query(query, query_path(i, len(queries)))
        for i, document in enumerate(documents):
            if "bad" in document:
                raise InvalidRequestError(f"{PARAM} is bad.", param=("documents", i))
        return super().encode_each(queries, documents, *args)


@pytest.mark.parametrize(
    ("call", "path"),
    [
        ({"queries": ["q"], "documents": ["a"] * 5 + ["bad"]}, ("documents", 5)),
        ({"queries": ["q"] * 5 + [" "], "documents": ["a"] * 6}, ("queries", 5)),
        ({"queries": ["q"] * 4 + [" "], "documents": ["a"] * 5}, ("queries", 4)),
        ({"queries": [" "], "documents": ["a"] * 5}, ("query",)),
        ({"queries": ["q", " "], "documents": ["a", "b", "c"], "every_query": True}, ("queries", 1)),
        ({"queries": ["q", "r"], "documents": ["a", "b", "bad"], "every_query": True}, ("documents", 2)),
        ({"queries": ["q"], "documents": ["a b c d", "e bad f g"], "chunks": ChunkOptions(tokens=2)}, ("documents", 1)),
    ],
)
def test_an_error_in_a_slice_names_the_field_of_the_call(call: dict[str, Any], path: tuple[Any, ...]) -> None:
    encoding = CallEncoding(RerankCall(**call), _Refusing())
    with pytest.raises(InvalidRequestError) as caught:
        list(encoding.slices(4))
    assert caught.value.path == path


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
