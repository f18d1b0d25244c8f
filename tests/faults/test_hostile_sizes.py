"""Ordinary fields at unusual sizes, sent to a running server with its default flags: each call gets an answer, the
server neither grows nor stands still, and another client's calls go on being answered meanwhile.

How well they go on is counted, not timed: while a hostile call runs, a client that sends one call after the other must
have got at least ``MIN_ANSWERS``, unless the hostile call was over before.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.server import ServerProcess
from tests.support.checkpoints import make_qwen3

MIN_ANSWERS = 3
MAX_BYTES = 700 * 2**20
"""Of the API process at most, over all of these calls."""
MEGABYTE = 2**20
ENDED = "engine_(?:cancelled|errors)_total"
"""Calls that the server is done with: their clients had left, or got an error."""
PLAIN = {"query": "q", "documents": ["a", "b"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = make_qwen3(tmp_path_factory.mktemp("m") / "m", hidden=16, layers=1, head_dim=8, intermediate=16)
    with ServerProcess(folder, "--device", "cpu", "--max-model-len", "512") as running:
        yield running


class Neighbour:
    """Another client: one small call after the other, each with its answer checked."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers = 0
        self.problems: list[str] = []

    def _run(self) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                try:
                    answer = session.post(self._server.url + "/v1/rerank", json=PLAIN, timeout=30)
                    live = session.get(self._server.url + "/live", timeout=30)
                except requests.RequestException as error:
                    self.problems.append(repr(error))
                    return
                if answer.status_code != 200 or live.status_code != 200 or len(answer.json()["results"]) != 2:
                    self.problems.append(answer.text[:500])
                self.answers += 1

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def rerank(**fields: Any) -> tuple[str, bytes]:
    body = {name: value for name, value in (PLAIN | fields).items() if value is not ...}
    return "/v1/rerank", json.dumps(body).encode()


def raw(text: str) -> tuple[str, bytes]:
    return "/v1/rerank", text.encode("utf-8", "surrogatepass")


LONG = 12 * MEGABYTE
WORDS = LONG // 5
CALLS: dict[str, tuple[Callable[[], tuple[str, bytes]], set[int]]] = {
    "one document of words": (lambda: rerank(documents=["word " * WORDS]), {200}),
    "one document of one letter": (lambda: rerank(documents=["a" * LONG]), {200}),
    "one document of spaces": (lambda: rerank(documents=[" " * LONG]), {200}),
    "one document of line ends": (lambda: rerank(documents=["\n" * (LONG // 2)]), {200}),
    "one document of Chinese": (
        lambda: ("/v1/rerank", json.dumps(PLAIN | {"documents": ["中文" * (LONG // 6)]}, ensure_ascii=False).encode()),
        {200},
    ),
    "one document of combining marks": (
        lambda: (
            "/v1/rerank",
            json.dumps(PLAIN | {"documents": ["e" + "\u0301" * WORDS]}, ensure_ascii=False).encode(),
        ),
        {200},
    ),
    "a long document that must not be cut": (lambda: rerank(documents=["word " * WORDS, "b"], truncate=False), {400}),
    "cut at the front": (lambda: rerank(documents=["word " * WORDS], truncation_side="left"), {200}),
    "its own limit": (lambda: rerank(documents=["word " * WORDS], max_tokens_per_doc=7), {200}),
    "a long query": (lambda: rerank(query="word " * WORDS), {200}),
    "a long instruction": (lambda: rerank(instruction="word " * WORDS), {400}),
    "a long model name": (lambda: rerank(model="m" * MEGABYTE), {404}),
    "a long salt": (lambda: rerank(cache_salt="s" * MEGABYTE), {400}),
    "100,000 documents": (lambda: rerank(documents=["a"] * 100_000), {413}),
    "10,000 empty documents": (lambda: rerank(documents=[""] * 10_000), {200, 503}),
    "many queries and documents": (lambda: rerank(query=..., queries=["q"] * 1000, documents=["a"] * 1000), {413}),
    "a body over the limit": (lambda: rerank(documents=["a" * (33 * MEGABYTE)]), {413}),
    "deep lists": (lambda: raw('{"query": "q", "documents": ' + "[" * 200_000 + "]" * 200_000 + "}"), {400}),
    "deep objects in an unknown field": (
        lambda: raw('{"query": "q", "documents": ["a"], "x": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}"),
        {400},
    ),
    "100 unknown fields": (lambda: rerank(**{f"x{i}": i for i in range(100)}), {200}),
    "a million unknown fields": (lambda: rerank(**{f"x{i}": i for i in range(10**6)}), {400}),
    "millions of empty documents": (lambda: rerank(documents=[""] * (3 * 10**6)), {413}),
    "a million digits": (lambda: raw('{"query": "q", "documents": ["a"], "top_n": ' + "9" * MEGABYTE + "}"), {400}),
    "a huge exponent": (lambda: raw('{"query": "q", "documents": ["a"], "min_score": 1e999999999}'), {400}),
    "10**30": (lambda: raw('{"query": "q", "documents": ["a"], "max_tokens_per_doc": 1' + "0" * 30 + "}"), {200}),
    "negative zero": (lambda: raw('{"query": "q", "documents": ["a"], "top_n": -0.0}'), {200, 400}),
    "half of a surrogate pair": (lambda: raw('{"query": "q", "documents": ["a\\ud800"]}'), {400}),
    "a raw surrogate": (lambda: raw('{"query": "q", "documents": ["a\ud800"]}'), {400}),
    "NULs": (lambda: rerank(documents=["\0" * MEGABYTE, "\0"]), {200}),
    "right to left": (lambda: rerank(documents=["\u202e" * 10_000 + "אבג" * 10_000]), {200}),
    "nothing that can be seen": (lambda: rerank(documents=["\u200b\u200d\ufeff\u2060" * 10_000, "\u200b"]), {200}),
    "a query of nothing that can be seen": (lambda: rerank(query="\u200b"), {200, 400}),
    "chunks of a long document": (
        lambda: rerank(documents=["word " * MEGABYTE], chunk_tokens=64, max_chunks_per_doc=3),
        {200},
    ),
    "chunks without end": (lambda: rerank(documents=["word " * WORDS], chunk_tokens=16), {413}),
    "tokens of a long text": (lambda: ("/tokenize", json.dumps({"prompt": "word " * 40_000}).encode()), {200}),
    "TEI's tokens of a long text": (lambda: ("/tokenize", json.dumps({"inputs": "word " * 40_000}).encode()), {200}),
    "many ids": (lambda: ("/detokenize", json.dumps({"tokens": [5] * 200_000}).encode()), {200}),
    "millions of ids": (lambda: ("/detokenize", json.dumps({"tokens": [5] * (3 * MEGABYTE)}).encode()), {413}),
    "millions of ids in lists": (lambda: ("/decode", json.dumps({"ids": [[5] * MEGABYTE] * 3}).encode()), {413}),
    "long pairs of a score": (
        lambda: (
            "/v1/score",
            json.dumps({"text_1": "word " * (LONG // 10), "text_2": ["word " * (LONG // 10)] * 2}).encode(),
        ),
        {200},
    ),
    "a long prompt": (lambda: ("/classify", json.dumps({"input": "word " * WORDS}).encode()), {200}),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_unusual_size_costs_nobody_else(name: str, server: ServerProcess) -> None:
    make, statuses = CALLS[name]
    path, body = make()
    with Neighbour(server) as neighbour:
        answer = requests.post(server.url + path, data=body, headers={"Content-Type": "application/json"}, timeout=120)
        seen = neighbour.answers
        slow = answer.elapsed.total_seconds() > 5
    assert answer.status_code in statuses, answer.text[:500]
    if answer.status_code >= 400:
        assert len(answer.content) < 20_000
        assert json.loads(answer.content)
    assert not neighbour.problems
    assert not slow or seen >= MIN_ANSWERS


def test_clients_that_leave_cost_little(server: ServerProcess) -> None:
    """Calls with a long document each, read in chunks, whose clients leave before the answer.

    Each client has half the patience of the one before, until two have left in time, however quick the machine is.
    """
    body = json.dumps(PLAIN | {"documents": ["word " * WORDS], "chunk_tokens": 16}).encode()
    headers = {"Content-Type": "application/json"}
    left_before, ended = server.metric("engine_cancelled_total"), server.metric(ENDED)
    client_timeout_s = 0.5
    with Neighbour(server) as neighbour:
        while server.metric("engine_cancelled_total") < left_before + 2:
            assert client_timeout_s > 0.001, "clients left, and the server did not see it"
            with contextlib.suppress(requests.RequestException):
                requests.post(server.url + "/v1/rerank", data=body, headers=headers, timeout=(5, client_timeout_s))
            ended += 1
            server.wait_for(ENDED, ended)
            client_timeout_s /= 2
        before = neighbour.answers
        for _ in range(20):
            assert server.post("/v1/rerank", PLAIN).status_code == 200
        assert neighbour.answers > before
    assert not neighbour.problems


def test_the_server_has_not_grown(server: ServerProcess) -> None:
    """Last: what all calls of this file together took at most."""
    status = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak_kib * 1024 < MAX_BYTES
    assert server.metric("engine_queued_pairs") == 0
