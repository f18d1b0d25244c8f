"""Child processes that cannot outlive their parent.

A child is ``python -m MODULE`` in a session of its own (Ctrl-C in the terminal reaches only the front end). Its set-up
struct arrives on stdin, which then stays open as a **life line**: when the parent ends, however it ends, the child
reads end-of-file and leaves. On Linux the kernel is asked to kill it as well, for the case that the child is stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from engine import messages
from engine.ipc.channel import process_handle
from engine.ipc.private_folder import sweep_all

Setup = TypeVar("Setup")
_PR_SET_PDEATHSIG = 1
NO_NUMPY_BLAS = {"OPENBLAS_NUM_THREADS": "1"}
"""For processes that multiply no matrices with numpy: its threads would cost time at the start."""


class Child:
    """A running child and its life line."""

    def __init__(
        self, module: str, setup: Any, *, pass_fds: Sequence[int] = (), environment: Mapping[str, str] = NO_NUMPY_BLAS
    ) -> None:
        """``pass_fds``: descriptors that the child has too, under the same numbers; ``environment``: variables that it
        gets unless they are set already."""
        command = [sys.executable, "-m", module]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            start_new_session=True,
            pass_fds=pass_fds,
            env={**environment, **os.environ},
        )
        payload = messages.encoder().encode(setup)
        # The kernel's parent-death signal follows the *thread* that started the child.
        by_main_thread = threading.current_thread() is threading.main_thread()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; whoever waits for it will see that
            self._process.stdin.write(struct.pack("<?I", by_main_thread, len(payload)) + payload)
            self._process.stdin.flush()
        self.handle = process_handle(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait(self) -> int:
        """Waits until it has ended; returns its exit code. Another thread may kill it meanwhile."""
        return self._process.wait()

    def stop(self, timeout_s: float) -> int:
        """Wait for a child that was asked to end, kill it if it does not; returns the exit code."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return self._process.wait()

    def release(self) -> None:
        """Close the life line and the process handle, and remove the temporary folders that the child had if it was
        killed; call it when nobody waits on it any more."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1
        if self.exit_code:
            sweep_all()


def receive_setup(type_: type[Setup]) -> Setup:
    """Reads the set-up from stdin, in the child, which from then on dies with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stdin = sys.stdin.buffer
    head = stdin.read(struct.calcsize("<?I"))
    by_main_thread, length = struct.unpack("<?I", head)
    setup: Setup = messages.decoder(type_).decode(stdin.read(length))
    if by_main_thread and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_follow_parent, name="life-line", daemon=True).start()
    return setup


def _follow_parent() -> None:
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    # Not sys.exit: the main thread may be inside a long kernel.
    os._exit(0)
