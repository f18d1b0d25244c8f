"""Pictures through the server: bodies, processes, and errors that cost one document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import LLM
from tests.e2e.server import ServerProcess
from tests.support.pictures import data_url, encoded, make_qwen3_vl, picture

WIDE, SMALL = data_url(picture(40, 64, 1)), data_url(picture(24, 24, 3))
QUERY = {"content": [{"type": "text", "text": "is it this?"}, {"type": "image_url", "image_url": {"url": SMALL}}]}
DOCUMENTS: list[Any] = [
    "a cat on a mat",
    {"image": WIDE},
    {"text": "with a text", "image": {"url": WIDE}},
    {"content": [{"type": "image_url", "image_url": SMALL}, {"type": "text", "text": "parts"}]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("vl") / "model")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    flags = ("--max-model-len", "512", "--distributed-executor-backend", "mp", "--allowed-media-domains", "localhost")
    with ServerProcess(folder, *flags) as running:
        yield running


def scores_of(answer: dict[str, Any]) -> list[float]:
    return [entry["relevance_score"] for entry in sorted(answer["results"], key=lambda entry: entry["index"])]


def test_every_form_on_every_path(server: ServerProcess, folder: Path) -> None:
    with LLM(str(folder), device="cpu", max_model_len=512) as llm:
        outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
        expected = [output.outputs.score for output in outputs]
        assert not any(output.error for output in outputs)
    body = {"query": QUERY, "documents": DOCUMENTS, "return_documents": True}
    answer = server.post("/v1/rerank", body).json()
    assert scores_of(answer) == pytest.approx(expected, abs=1e-6)
    assert [entry["document"]["image"] for entry in answer["results"] if entry["index"] == 1] == [WIDE]
    scored = server.post("/v1/score", {"data_1": QUERY, "data_2": DOCUMENTS}).json()["data"]
    assert [entry["score"] for entry in scored] == pytest.approx(expected, abs=1e-6)
    pairs = server.post("/score", {"queries": [QUERY] * 4, "documents": DOCUMENTS}).json()["data"]
    assert [entry["score"] for entry in pairs] == pytest.approx(expected, abs=1e-6)
    several = server.post("/v1/rerank", {"queries": ["x", QUERY], "documents": DOCUMENTS}).json()["queries"]
    assert scores_of(several[1]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("data:image/svg+xml;base64,PHN2Zy8+", "this says image/svg+xml"),
        ("data:image/gif;base64,R0lGODlh", "this says image/gif"),
        (data_url(b"\x89PNG\r\n\x1a\n" + bytes(40)), "cannot be read"),
        (data_url(encoded(picture(40, 40))[:-60]), "cannot be read"),
        ("data:image/png;base64,%%%", "nor base64"),
        ("file:///etc/passwd", "file: is never read"),
        ("https://example.org/cat.png", "does not fetch pictures from that host"),
        ("http://localhost/cat.png", "has an address that is not public"),
        ("http://localhost:8000/cat.png", "from the usual port only"),
    ],
)
def test_what_cannot_be_read_costs_its_document(server: ServerProcess, source: str, named: str) -> None:
    documents = ["a cat", {"text": "a dog", "image": source}, {"image": SMALL}]
    answer = server.post("/v1/rerank", {"query": "what is it?", "documents": documents})
    assert answer.status_code == 400
    found = answer.json()
    assert found["error"]["param"] == "documents[1]"
    assert named in found["error"]["message"]
    assert found["failed"] == [1]
    assert {entry["index"] for entry in found["results"]} == {0, 2}
    assert not [line for line in server.log if "cat.png" in line or "PHN2" in line], "payloads are not logged"


def test_a_query_whose_picture_cannot_be_read_costs_the_call(server: ServerProcess) -> None:
    query = {"content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:,x"}}]}
    answer = server.post("/v1/rerank", {"query": query, "documents": ["a"]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "query.content[1]"


def test_a_wrong_picture_of_a_pair_costs_that_pair(server: ServerProcess) -> None:
    """N:N calls: the error names the side, its number and the part; more pairs than one slice of the encoding has."""
    wrong = {"content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:,x"}}]}
    sides: dict[str, list[Any]] = {name: [f"{name} {i}" for i in range(150)] for name in ("text_1", "text_2")}
    sides["text_1"][140], sides["text_2"][149] = wrong, {"image": "data:,x"}
    answer = server.post("/v1/score", sides)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "text_1[140].content[1]"
    assert answer.json()["failed"] == [140, 149]
    assert len(answer.json()["data"]) == 148


def test_what_is_no_picture_is_said(server: ServerProcess) -> None:
    for document, param in (
        ({"video": "x"}, "documents[0]"),
        ({"image": 3}, "documents[0]"),
        ({"image": []}, "documents[0]"),
        ({"image": SMALL, "text": 4}, "documents[0].text"),
        ({"content": [{"type": "video_url", "video_url": {"url": "x"}}]}, "documents[0].content[0]"),
        ({"content": [{"type": "image_url"}]}, "documents[0].content[0]"),
    ):
        answer = server.post("/v1/rerank", {"query": "x", "documents": [document]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    chunked = {"query": "x", "documents": [{"image": SMALL, "text": "a " * 900}, "b"], "long_document": "chunk"}
    answer = server.post("/v1/rerank", chunked)
    assert answer.json()["error"]["param"] == "documents[0]"
    assert "not in chunks" in answer.json()["error"]["message"]
    chunked["query"] = {"image": SMALL}
    assert server.post("/v1/rerank", chunked).json()["error"]["param"] == "query"


def test_several_workers_and_api_servers_score_alike(server: ServerProcess, folder: Path) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS}
    expected = scores_of(server.post("/v1/rerank", body).json())
    flags = ("--max-model-len", "512", "-tp", "2", "--api-server-count", "2", "--cpu-threads", "1")
    with ServerProcess(folder, *flags) as several:
        for _ in range(4):  # each API server gets its turn
            assert scores_of(several.post("/v1/rerank", body).json()) == pytest.approx(expected, abs=1e-6)
        answer = several.post("/v1/rerank", {"query": "x", "documents": [{"image": "data:,x"}, {"image": WIDE}]})
        assert answer.json()["failed"] == [0]
