"""``make demo``: the main job once, end to end, on this machine.

Starts the server with the model that the package carries, sends real questions over HTTP, prints each score when it
arrives and then the ranking, and stops the server. Everything goes through the same doors that users have: the
command line, a socket, streamed JSON lines.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.errors import StartupError

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
BAR_WIDTH = 30

QUESTIONS = {
    "How do I undo the last git commit but keep my changes?": [
        "git reset --soft HEAD~1 moves the branch back by one commit and leaves your changes staged.",
        "git push uploads the commits of a branch to a remote repository.",
        "A commit message should say in one line what was changed and why.",
        "git clone copies a repository to your machine together with its whole history.",
        "The undo button of an editor restores the text before the last keystroke.",
    ],
    "Why is the sky blue?": [
        "Air molecules scatter short wavelengths of sunlight much more than long ones, so blue light reaches us from "
        "every part of the sky.",
        "The sea is salty because rivers carry dissolved minerals into it.",
        "At sunset the light crosses more air, which leaves the red and orange colours.",
        "Blue is the favourite colour of many people.",
        "The Moon is seen because it reflects the light of the Sun.",
    ],
    "What is the capital of China?": [
        "The capital of China is Beijing.",
        "Shanghai is the largest city of China by population.",
        "Gravity attracts two bodies towards each other and gives weight to physical objects.",
        "Venture capital pays for young companies in exchange for a share of them.",
        "The Great Wall of China was built over many centuries.",
    ],
}


def main() -> int:
    started = time.monotonic()
    port = free_port()
    with running_server(port) as ready_s:
        print(f"Server ready on http://127.0.0.1:{port} after {ready_s:.1f} s\n")
        for query, documents in QUESTIONS.items():
            rerank(port, query, documents)
    print(f"Server stopped. The whole demo took {time.monotonic() - started:.1f} s.")
    print("Go on with: engine serve MODEL, or engine serve alone for the model used here.")
    return 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(port: int) -> Iterator[float]:
    """``engine serve`` in a process of its own; yields how long it took to become ready."""
    begin = "from engine.entrypoints.cli import main; main()"
    command = [sys.executable, "-c", begin, "serve", "--port", str(port), "--log-level", "warning"]
    print("$ engine serve --port", port)
    process = subprocess.Popen(command, env={**os.environ, "PYTHONSAFEPATH": "1"})
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
    """The JSON lines of a streamed answer."""
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
