"""A real ``engine serve`` with its processes and sockets."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

PYTHON = os.environ.get("ENGINE_PYTHON", sys.executable)
COMMAND = [PYTHON, "-P", "-c", "from engine.entrypoints.cli import main; main()"]
_READY = re.compile(r"ready on (http://\S+?):(\d+)")
_LISTENING = re.compile(r"listening on (http://\S+?):(\d+)")
START_TIMEOUT_S = 120.0


class ServerProcess:
    """Use as a context manager; ``url`` and ``port`` are known once it is entered."""

    def __init__(
        self,
        *arguments: str | Path,
        wait: str = "ready",
        environment: dict[str, str] | None = None,
        before: tuple[str, ...] = (),
        limits_wait: bool = False,
    ) -> None:
        """``before``: words of a command that runs the server. ``limits_wait``: calls that would wait too long are
        refused, as by default; in most tests they are not, since how long one waits depends on the machine."""
        self._limits_wait = limits_wait
        self._before = before
        self._environment = environment or {}
        self._arguments = [str(argument) for argument in arguments]
        self._pattern = _READY if wait == "ready" else _LISTENING
        self.log: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> Self:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ENGINE_")} | {"PYTHONSAFEPATH": "1"}
        if not self._limits_wait:
            environment["ENGINE_MAX_QUEUE_SECONDS"] = "0"
        environment |= self._environment
        port = [] if "--port" in self._arguments else ["--port", "0"]
        threads = [] if "--cpu-threads" in self._arguments else ["--cpu-threads", "1"]
        self.process = subprocess.Popen(
            [*self._before, *COMMAND, "serve", *self._arguments, *port, *threads],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._wait()
        return self

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.log.append(line.rstrip())
                self._lines.put(line)
        self._lines.put(None)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
            assert line is not None, "the server ended:\n" + "\n".join(self.log)
            if match := self._pattern.search(line):
                self.port = int(match[2])
                self.url = f"{match[1]}:{self.port}"
                return

    def post(self, path: str, body: object, **options: object) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=60, **options)  # type: ignore[arg-type]

    def metric(self, name: str) -> float:
        text = requests.get(self.url + "/metrics", timeout=10).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}(\{{| )", line))

    def wait_for(self, name: str, value: float, timeout_s: float = 20.0) -> None:
        """Until a metric has reached ``value``."""
        deadline = time.monotonic() + timeout_s
        while (now := self.metric(name)) < value:
            assert time.monotonic() < deadline, f"{name} is {now} and never reached {value}"
            time.sleep(0.02)

    def family(self) -> list[int]:
        """The processes of this server, children and grandchildren included."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, task.read_text().split())
        return found

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        return self.process.wait(timeout_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.signal()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def all_gone(pids: list[int], timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
