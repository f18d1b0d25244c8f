"""Listwise and late-interaction models through the server: processes, admission, metrics, the store of vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import LLM
from engine.entrypoints.offline.arguments import pair_stream
from engine.errors import ConfigError
from engine.scoring.document_store import DocumentStore
from tests.e2e.server import ServerProcess
from tests.support.late_interaction import make_stanford
from tests.support.listwise import Reference, make_listwise
from tests.support.texts import TEXTS

QUERY = "What is the capital of China?"
DOCUMENTS = [" ".join(text.split()[:10]) for text in TEXTS[:6]]


@pytest.fixture(scope="module")
def listwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_listwise(tmp_path_factory.mktemp("listwise") / "model")


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stanford(tmp_path_factory.mktemp("late") / "model")


@pytest.fixture(scope="module")
def lists(listwise: Path) -> Iterator[ServerProcess]:
    with ServerProcess(listwise, "--max-model-len", "4096", "--max-docs-per-block", "4") as running:
        yield running


def by_index(answer: dict[str, Any]) -> list[float]:
    return [entry["relevance_score"] for entry in sorted(answer["results"], key=lambda entry: entry["index"])]


def test_a_list_is_one_call(lists: ServerProcess, listwise: Path) -> None:
    reference = Reference(listwise)
    answer = lists.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}).json()
    expected = reference.rerank(QUERY, DOCUMENTS, max_length=4096, block_size=4)
    assert np.abs(np.subtract(by_index(answer), expected)).max() < 1e-5
    blocks = [reference.ids(QUERY, DOCUMENTS[:4]), reference.ids(QUERY, DOCUMENTS[4:])]
    tokens = sum(ids.index(reference.rerank_id) + 1 for ids in blocks)
    assert answer["usage"]["prompt_tokens"] == tokens
    several = lists.post("/v1/rerank", {"queries": [QUERY, "other"], "documents": DOCUMENTS}).json()
    assert by_index(several["queries"][0]) == pytest.approx(by_index(answer), abs=1e-6)
    scored = lists.post("/v1/score", {"text_1": QUERY, "text_2": DOCUMENTS}).json()["data"]
    assert [entry["score"] for entry in scored] == pytest.approx(by_index(answer), abs=1e-6)


def test_what_a_list_does_not_have_is_said(lists: ServerProcess) -> None:
    body = {"query": QUERY, "documents": ["short", " ".join(TEXTS) * 3], "long_document": "chunk", "chunk_tokens": 64}
    answer = lists.post("/v1/rerank", body)
    assert answer.status_code == 422 or answer.status_code == 400
    assert "documents[1]" in answer.text
    body["documents"] = ["short", "also short"]
    assert lists.post("/v1/rerank", body).status_code == 200  # nothing is too long, so there is nothing to cut


@pytest.mark.parametrize(
    "picture",
    [
        {"image": "data:image/png;base64,iVBORw0KGgo="},
        {"text": "a cat", "image": "https://example.org/cat.png"},
        {"content": [{"type": "text", "text": "a cat", "image_url": {"url": "https://example.org/cat.png"}}]},
        {"content": [{"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}]},
    ],
)
def test_a_picture_is_refused_on_every_path(lists: ServerProcess, picture: dict[str, Any]) -> None:
    for path, body in (
        ("/v1/rerank", {"query": QUERY, "documents": ["x", picture]}),
        ("/v1/rerank", {"query": picture, "documents": ["x"]}),
        ("/v1/rerank", {"queries": [QUERY, picture], "documents": ["x"]}),
        ("/v1/score", {"text_1": QUERY, "text_2": [picture]}),
        ("/v1/score", {"text_1": QUERY, "text_2": picture}),
    ):
        answer = lists.post(path, body)
        assert answer.status_code == 400, (path, body, answer.text)
        assert "text" in answer.text
        assert "scored" in answer.text or "query is a text" in answer.text
    for sides in ((QUERY, ["x", {"video": "x"}]), (QUERY, {"video": "x"}), ({"audio": "x"}, ["x"])):
        with pytest.raises(TypeError, match="only text can be scored"):
            list(pair_stream(*sides)[0])


def test_documents_are_kept_within_one_caller_and_salt(late: Path) -> None:
    with ServerProcess(late, "--document-store-bytes", "1MB") as server:
        body = {"query": QUERY, "documents": [*DOCUMENTS, DOCUMENTS[0]]}
        first = server.post("/v1/rerank", body).json()
        assert server.metric("engine_document_lookups_total") == len(DOCUMENTS)
        assert server.metric("engine_document_hits_total") == 0
        computed = server.metric("engine_computed_tokens_total")
        again = server.post("/v1/rerank", body).json()
        assert server.metric("engine_document_hits_total") == len(DOCUMENTS)
        assert server.metric("engine_computed_tokens_total") - computed == 32  # the query alone
        assert by_index(again) == pytest.approx(by_index(first), abs=1e-5)
        assert server.metric("engine_document_store_bytes") > 0
        salted = server.post("/v1/rerank", {**body, "cache_salt": "mine"}).json()
        assert server.metric("engine_document_hits_total") == len(DOCUMENTS)
        assert by_index(salted) == pytest.approx(by_index(first), abs=1e-5)


def test_nothing_is_kept_unless_asked(late: Path, listwise: Path) -> None:
    with LLM(str(late)) as llm:
        before = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
    with LLM(str(late), document_store_bytes=100_000) as llm:
        for _ in range(2):
            outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
            assert [one.outputs.score for one in outputs] == pytest.approx(
                [one.outputs.score for one in before], abs=1e-5
            )
    with pytest.raises(ConfigError, match="no late-interaction model"):
        LLM(str(listwise), document_store_bytes=1000)


def test_the_store_is_bounded_in_bytes() -> None:
    store = DocumentStore(3000)
    one, other = store.scoped("a"), store.scoped("b")
    assert one is not None
    assert other is not None
    ids = [np.array([number], np.int32) for number in range(5)]
    vectors = np.ones((20, 10), np.float32)
    for each in ids:
        one.put(each, vectors)
        assert one.get(ids[0]) is not None  # asked for again and again, so it stays
    assert store.num_bytes <= 3000
    assert [one.get(each) is not None for each in ids] == [True, False, False, True, True]
    assert other.get(ids[0]) is None
    one.put(np.array([9], np.int32), np.ones((1000, 10), np.float32))  # larger than everything
    assert one.get(ids[0]) is not None
    store.clear()
    assert (store.num_bytes, one.get(ids[0])) == (0, None)
