"""Encoded pictures to pixels, in processes that may die (``decode_program.py``)."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from importlib.util import find_spec

import numpy as np

from engine.errors import PARAM, InvalidRequestError
from engine.extras import pip_install
from engine.model_spec import VisionSpec

PROGRAM = "engine.pictures.decode_program"
TIMEOUT_S = 20.0
"""On the clock; the program's own limit counts its computing."""


class Decoder:
    """One process, started when there is something to decode; a lock gives it to one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    def decode(self, data: bytes, vision: VisionSpec) -> np.ndarray:
        """(height, width, 3) uint8, scaled as the model reads it. Raises ``InvalidRequestError``, about no field."""
        if find_spec("PIL") is None:
            raise InvalidRequestError(
                f"{PARAM}: this server cannot decode pictures: Pillow is not installed there ({pip_install('images')})."
            )
        job = {
            "size": len(data),
            "block": vision.block,
            "min_pixels": vision.min_pixels,
            "max_pixels": vision.max_pixels,
        }
        message = json.dumps(job).encode() + b"\n" + data
        with self._lock:
            found = self._asked(message) if self._process is not None and self._process.poll() is None else None
            if found is None:  # none was running, or it ended when nothing came
                self._start()
                found = self._asked(message)
            if found is None:
                self._end()
        if found is None:
            raise InvalidRequestError(
                f"{PARAM}: the picture cannot be decoded: it takes too much time or memory, or breaks its decoder.",
                code="unreadable_image",
            )
        head, pixels = found
        if "error" in head:
            raise InvalidRequestError(f"{PARAM}: the picture cannot be read: {head['error']}.", code="unreadable_image")
        return np.frombuffer(pixels, np.uint8).reshape(int(head["height"]), int(head["width"]), 3)

    def _asked(self, message: bytes) -> tuple[dict[str, int | str], bytes] | None:
        """The answer to a job; None where the process has ended, or was ended because it took too long."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        alarm = threading.Timer(TIMEOUT_S, process.kill)
        alarm.start()
        try:
            process.stdin.write(message)
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                return None
            head: dict[str, int | str] = json.loads(line)
            size = 3 * int(head.get("height", 0)) * int(head.get("width", 0))
            pixels = process.stdout.read(size)
        except (OSError, ValueError):
            return None
        finally:
            alarm.cancel()
        return (head, pixels) if len(pixels) == size else None

    def _start(self) -> None:
        self._end()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(OSError):
                process.communicate()

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._end()
