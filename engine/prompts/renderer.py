"""Templates are rendered in a process of their own (``render_program.py``), within its limits on time and memory."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

PROGRAM = "engine.prompts.render_program"
TIMEOUT_S = 30.0
"""On the clock; the program's own limit counts its computing."""
MAX_TEMPLATE_CHARS = 2**20


class RenderError(Exception):
    """A template that does not work: its own error."""


class RenderLimitError(RenderError):
    """A template that costs more than any prompt may."""


class _Program:
    """The process, started when there is something to render; it ends by itself when nothing comes."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, job: bytes) -> dict[str, str]:
        """The answer to a job. Raises ``RenderLimitError`` where none comes."""
        with self._lock:
            found = self._asked(job) if self._process is not None else b""
            if not found:  # none was running, or it went to sleep just now
                self.end()
                self._process = self._started()
                found = self._asked(job)
            if not found:
                self.end()
                raise RenderLimitError("more time than any prompt takes")
            answer: dict[str, str] = json.loads(found)
            return answer

    def _asked(self, job: bytes) -> bytes:
        """The line that answers ``job``; empty where the process has ended, or does not answer."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(job + b"\n")
            process.stdin.flush()
        except OSError:
            return b""
        ready, _, _ = select.select([process.stdout], [], [], TIMEOUT_S)
        return process.stdout.readline() if ready else b""

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )

    def end(self) -> None:
        """Ends the process, if there is one."""
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process = None


_program = _Program()
atexit.register(_program.end)


def render(text: str, values: Mapping[str, Any], *, keep_newline: bool) -> str:
    """A template's text. Raises ``RenderError``, and ``RenderLimitError`` for a template that is too long."""
    if len(text) > MAX_TEMPLATE_CHARS:
        raise RenderLimitError(f"{len(text)} characters of template, and at most {MAX_TEMPLATE_CHARS} are read")
    return _rendered(json.dumps({"text": text, "values": values, "keep_newline": keep_newline}).encode())


@lru_cache(maxsize=256)
def _rendered(job: bytes) -> str:
    answer = _program.ask(job)
    if "limit" in answer:
        raise RenderLimitError(answer["limit"])
    if "error" in answer:
        raise RenderError(answer["error"])
    return answer["text"]
