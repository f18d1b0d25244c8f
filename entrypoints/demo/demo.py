"""``make demo``: the main job once, end to end, on this machine.

First the model that the package carries: real questions over HTTP, each score when it arrives, then the ranking. Then a
Qwen3-Reranker in the published layout, made on the spot: that it is converted while it loads, that what its documents
share is computed once, and that its scores are those of transformers. Everything goes through the same doors that users
have: the command line, a socket, streamed JSON lines.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from engine.entrypoints.demo.questions import QUESTIONS, SHOWN
from engine.entrypoints.demo.random_checkpoint import write_random_reranker
from engine.errors import StartupError

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
BAR_WIDTH = 30
ENGINE = [sys.executable, "-c", "from engine.entrypoints.cli import main; main()"]
ENV = {**os.environ, "PYTHONSAFEPATH": "1"}

OVERRIDES = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
"""What the usual tutorials pass for an original Qwen3-Reranker."""


def main() -> int:
    started = time.monotonic()
    rank_with_the_packaged_model()
    serve_a_published_layout()
    print(f"Both servers stopped. The whole demo took {time.monotonic() - started:.1f} s.")
    print("Go on with: engine serve MODEL, or engine serve alone for the model of the first part.")
    return 0


def rank_with_the_packaged_model() -> None:
    port = free_port()
    with running_server(port) as ready_s:
        print(f"Server ready on http://127.0.0.1:{port} after {ready_s:.1f} s\n")
        for query, documents in islice(QUESTIONS.items(), SHOWN):
            rerank(port, query, documents)


def serve_a_published_layout() -> None:
    """A ``Qwen3ForCausalLM`` with random weights: converted while it loads, its shared prefix computed once."""
    query, documents = next(iter(QUESTIONS.items()))
    texts = [text for question, passages in QUESTIONS.items() for text in (question, *passages)]
    with tempfile.TemporaryDirectory() as parent:
        folder = write_random_reranker(Path(parent) / "Qwen3-Reranker-random", texts)
        print("A small Qwen3-Reranker in the published layout, with random weights: its order means nothing, but its")
        print("scores must be those of transformers, and all documents share the prompt up to the query.\n")
        scores: list[list[float]] = []
        for words in ([], ["--hf_overrides", json.dumps(OVERRIDES)]):
            port = free_port()
            with running_server(port, str(folder), *words):
                (answer,) = (m for m in stream(port, {"query": query, "documents": documents}) if "results" in m)
            scores.append([r["relevance_score"] for r in sorted(answer["results"], key=lambda r: int(r["index"]))])
            logical, computed = answer["usage"]["prompt_tokens"], answer["cost"]["computed_tokens"]
            print(f"  {logical} logical tokens, {computed} computed: the rest was shared")
            print(f"  scores {' '.join(f'{score:.6f}' for score in scores[-1])}")
        print(f"  with and without the overrides: {largest_difference(*scores):.1e} apart")
        print(f"  {compare(folder, query, documents, scores[0])}\n")


def compare(folder: Path, query: str, documents: list[str], scores: list[float]) -> str:
    """How far the scores are from those of transformers, as ``engine check`` has them, or why that cannot be said.

    Raises ``StartupError`` where that command fails.
    """
    words = ["--query", query, "--json", *(word for document in documents for word in ("--document", document))]
    done = subprocess.run([*ENGINE, "check", str(folder), *words], capture_output=True, text=True, check=False, env=ENV)
    if done.returncode:
        raise StartupError(f"engine check ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    report = json.loads(done.stdout)
    expected = [pair["reference_score"] for pair in report["pairs"]]
    if None in expected:
        return f"not compared with transformers: {report['reference']}"
    return f"largest difference to {report['reference']}: {largest_difference(scores, expected):.1e}"


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(port: int, *words: str) -> Iterator[float]:
    """``engine serve WORDS`` in a process of its own; yields how long it took to become ready.

    Raises ``StartupError`` where it does not start, or does not stop.
    """
    command = [*ENGINE, "serve", *words, "--port", str(port), "--log-level", "warning"]
    print("$", shlex.join(["engine", "serve", *words, "--port", str(port)]))
    process = subprocess.Popen(command, env=ENV)
    start = time.monotonic()
    try:
        while not is_ready(port):
            if process.poll() is not None:
                raise StartupError(f"The server ended with status {process.returncode} before it was ready.")
            if time.monotonic() - start > START_TIMEOUT_S:
                raise StartupError(f"The server was not ready within {START_TIMEOUT_S:g} s.")
            time.sleep(0.1)
        yield time.monotonic() - start
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise StartupError(f"The server did not stop within {STOP_TIMEOUT_S:g} s and was killed.") from None
    if status != 0:
        raise StartupError(f"The server ended with status {status}.")


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def rerank(port: int, query: str, documents: list[str]) -> None:
    """One streamed call: scores as they arrive, then the ordered answer."""
    print(f"Query: {query}")
    begin = time.perf_counter()
    for message in stream(port, {"query": query, "documents": documents, "stream": True}):
        elapsed_ms = (time.perf_counter() - begin) * 1000.0
        if "results" not in message:
            print(f"  {elapsed_ms:7.1f} ms  document {message['index']} scored {message['relevance_score']:.4f}")
            continue
        print(f"  {elapsed_ms:7.1f} ms  ranking, {message['usage']['total_tokens']} tokens:")
        for place, result in enumerate(message["results"], 1):
            score = result["relevance_score"]
            bar = "#" * round(score * BAR_WIDTH)
            print(f"    {place}. {score:.4f} {bar:<{BAR_WIDTH}} {documents[result['index']][:90]}")
    print()


def stream(port: int, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The JSON lines of a streamed answer. Raises ``StartupError`` for an answer that is an error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
    try:
        connection.request("POST", "/v1/rerank", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise StartupError(f"The server answered {response.status}: {response.read(500).decode(errors='replace')}")
        for line in response:
            message = json.loads(line)
            if "error" in message:
                raise StartupError(f"The server answered with an error: {message['error']}")
            yield message
    finally:
        connection.close()
