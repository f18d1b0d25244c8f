"""A server under load over HTTP: processor time of all its processes a call and a document."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.host.workloads import text_calls

TICKS = os.sysconf("SC_CLK_TCK")
BODIES = 64
"""Different calls, sent in turn."""


@dataclass(frozen=True)
class Load:
    """``callers`` connections, each with one call under way."""

    name: str
    documents: int
    callers: int


LOADS = (
    Load("1 document, 1 caller", 1, 1),
    Load("1 document, 16 callers", 1, 16),
    Load("100 documents, 1 caller", 100, 1),
    Load("100 documents, 4 callers", 100, 4),
)


@dataclass
class Server:
    """A server that was started for this, and is ended with it."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    path: str
    extra: dict[str, Any]
    """Fields of the body beside query and documents."""

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], port: int, path: str, ready: str, extra: dict[str, Any],
        environment: dict[str, str], log: Path,
    ) -> Server:  # fmt: skip
        with log.open("wb") as out:
            process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=out)
        server = cls(name, port, process, path, extra)
        deadline = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5) as answer:
                    if answer.status == 200:
                        return server
            except OSError:
                time.sleep(0.2)
        process.kill()
        raise RuntimeError(f"{name} did not start: {log.read_text()[-2000:]}")

    def processor_s(self) -> Counter[str]:
        """By what each process is."""
        spent: Counter[str] = Counter()
        todo = [self.process.pid]
        while todo:
            pid = todo.pop()
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                words = Path(f"/proc/{pid}/cmdline").read_text()
                todo += [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            except OSError:
                continue
            role = next((role for role in ("core", "worker") if f"host.{role}_process" in words), "api")
            spent[role] += (int(fields[11]) + int(fields[12])) / TICKS  # type: ignore[assignment]
        return spent

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def requests(self, documents: int) -> list[bytes]:
        made = []
        for call in text_calls(BODIES, documents, seed=documents):
            body = json.dumps({"query": call.query, "documents": call.documents, **self.extra}).encode()
            head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            made.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return made

    def load(self, load: Load, seconds: float) -> dict[str, Any]:
        requests = self.requests(load.documents)
        self._send(load, requests, min(1.0, seconds))
        before, began = self.processor_s(), time.perf_counter()
        times = self._send(load, requests, seconds)
        took, after = time.perf_counter() - began, self.processor_s()
        spent = {role: 1e3 * (after[role] - before[role]) / len(times) for role in after}
        times.sort()
        total_ms = sum(spent.values())
        return {
            "processor_ms_a_call": total_ms,
            "processor_us_a_document": 1e3 * total_ms / load.documents,
            "by_process_ms_a_call": spent,
            "documents_a_second_and_core": 1e3 * load.documents / total_ms,
            "calls_a_second": len(times) / took,
            "p50_ms": 1e3 * times[len(times) // 2],
            "calls": len(times),
        }

    def _send(self, load: Load, requests: list[bytes], seconds: float) -> list[float]:
        times: list[float] = []
        failures: list[BaseException] = []
        end = time.perf_counter() + seconds

        def caller(first: int) -> None:
            try:
                with socket.create_connection(("127.0.0.1", self.port)) as connection:
                    number = first
                    while (started := time.perf_counter()) < end:
                        connection.sendall(requests[number % len(requests)])
                        read_answer(connection)
                        times.append(time.perf_counter() - started)
                        number += 1
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=caller, args=(7 * i,)) for i in range(load.callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return times


def read_answer(connection: socket.socket) -> None:
    """One whole answer with status 200 and a length; raises what else comes."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1 << 16)
        if not part:
            raise RuntimeError(f"the connection was closed: {data[:200]!r}")
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < int(lengths[0]):
        body += connection.recv(1 << 16)
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError((head + body)[:1000].decode(errors="replace"))
