"""``LLM`` and the server give the same results for the same call: both go through ``engine/scoring``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from engine import LLM
from engine.entrypoints.offline import llm as llm_module
from engine.errors import InvalidRequestError
from tests.e2e.server import ServerProcess
from tests.support.checkpoints import make_qwen3

QUERY = "What is the capital of China?"
FILLER = "Gravity is a force that attracts two bodies towards each other. " * 12
ANSWER = "The capital of China is Beijing."


@dataclass
class Both:
    """One model, behind the server and in this process."""

    server: ServerProcess
    llm: LLM
    takes_instruction: bool


@pytest.fixture(scope="module", params=["cross-encoder", "bi-encoder"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A decoder that reads a pair as one prompt, and the package's model, which embeds two texts."""
    is_pair = request.param == "cross-encoder"
    model = [make_qwen3(tmp_path_factory.mktemp("offline") / "Qwen3-Reranker")] if is_pair else []
    with ServerProcess(*model, "--max-model-len", "512") as server, LLM(*map(str, model), max_model_len=512) as llm:
        yield Both(server, llm, is_pair)


LONG_DOCUMENTS = [FILLER * 3 + ANSWER, FILLER * 3, "Berlin is the capital of Germany.", ANSWER + FILLER * 2, ""]


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_tokens": 24},
        {"chunk_tokens": 40, "chunk_overlap": 3, "max_chunks_per_doc": 4},
        {"long_document": "chunk", "truncate_prompt_tokens": 150},
        {"long_document": "chunk", "max_tokens_per_doc": 90, "instruction": "Find the capital"},
        {"long_document": "truncate", "chunk_tokens": 24},
        {},
    ],
)
@pytest.mark.parametrize("queries", [QUERY, [QUERY, "what is gravity?", "Berlin"]])
def test_offline_reads_calls_as_the_server_does(
    both: Both, queries: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long documents in chunks, several queries, and both: the same scores, order, spans and cuts."""
    server, llm = both.server, both.llm
    if not both.takes_instruction:
        options = {name: value for name, value in options.items() if name != "instruction"}
    monkeypatch.setattr(llm_module, "SLICE_PAIRS", 2)  # documents of a query come in several slices
    body = {"documents": LONG_DOCUMENTS, "top_n": 4, "return_documents": False, **options}
    if isinstance(queries, str):
        answer = server.post("/v1/rerank", {"query": queries, **body}).json()
        details = {detail["index"]: detail for detail in answer.get("details", [])}
        rankings = [[{**entry, **details.get(entry["index"], {})} for entry in answer["results"]]]
        ours = [llm.rerank(queries, LONG_DOCUMENTS, top_n=4, **options)]
    else:
        answer = server.post("/v1/rerank", {"queries": queries, **body}).json()
        rankings = [ranking["results"] for ranking in answer["queries"]]
        ours = llm.rerank(queries, LONG_DOCUMENTS, top_n=4, **options)
    assert len(ours) == len(rankings)
    for found, expected in zip(ours, rankings, strict=True):
        found = sorted(found, key=lambda one: (-round(one.score, 5), one.index))  # the same text in two documents
        expected.sort(key=lambda entry: (-round(entry["relevance_score"], 5), entry["index"]))
        assert [one.index for one in found] == [entry["index"] for entry in expected]
        assert [one.score for one in found] == pytest.approx([e["relevance_score"] for e in expected], abs=1e-6)
        assert [one.truncated for one in found] == [entry.get("truncated", False) for entry in expected]
        spans = [entry.get("span") for entry in expected]
        assert [{"start": o.spans[0].start, "end": o.spans[0].end} if o.spans else None for o in found] == spans
        assert all(one.document == LONG_DOCUMENTS[one.index] for one in found)


def test_offline_scores_of_chunked_documents(both: Both) -> None:
    server, llm = both.server, both.llm
    outputs = llm.score(QUERY, LONG_DOCUMENTS, chunk_tokens=24, use_tqdm=False)
    body = {"text_1": QUERY, "text_2": LONG_DOCUMENTS, "chunk_tokens": 24}
    expected = [entry["score"] for entry in server.post("/v1/score", body).json()["data"]]
    assert [output.outputs.score for output in outputs] == pytest.approx(expected, abs=1e-6)
    best = outputs[0].spans[0]
    assert best.score == outputs[0].outputs.score == max(span.score for span in outputs[0].spans)
    (alone,) = llm.score(QUERY, LONG_DOCUMENTS[0][best.start : best.end], use_tqdm=False)
    assert outputs[0].prompt_token_ids == alone.prompt_token_ids
    assert outputs[2].spans == ()


def test_offline_names_what_is_wrong_as_its_caller_counts(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = both.llm
    monkeypatch.setattr(llm_module, "SLICE_PAIRS", 2)
    with pytest.raises(InvalidRequestError, match=r"queries\[1\] is empty") as caught:
        llm.rerank(["a", " "], ["b"])
    assert caught.value.path == ("queries", 1)
    with pytest.raises(InvalidRequestError, match=r"^documents\[3\].* has") as caught:
        llm.rerank(["a", "b"], ["c", "d", "e", FILLER * 30], truncate=False)
    assert caught.value.path == ("documents", 3)
    with pytest.raises(InvalidRequestError, match="token ids"):
        llm.score([1, 2], [[3, 4]], chunk_tokens=24)
    with pytest.raises(ValueError, match="chunk_tokens must be a whole number of at least 16, got 3"):
        llm.rerank("a", ["b"], chunk_tokens=3)
    with pytest.raises(ValueError, match="long_document must be"):
        llm.rerank("a", ["b"], long_document="cut")
    with pytest.raises(TypeError, match="Did you mean 'chunk_tokens'"):
        llm.rerank("a", ["b"], chunk_token=30)
    with pytest.raises(ValueError, match="There is no query"):
        llm.rerank([], ["b"])
    assert llm.rerank(["a", "b"], []) == [[], []]
    scores = [one.score for one in llm.rerank(QUERY, [ANSWER, FILLER])]
    assert [one.score for one in llm.rerank(QUERY, [ANSWER, FILLER], min_score=scores[0])] == scores[:1]
