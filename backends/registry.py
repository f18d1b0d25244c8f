"""Which backend runs: by name, imported only when asked for; or ``auto``, the first device that is really there."""

from __future__ import annotations

import importlib
import importlib.util

from engine.backends.base import Backend
from engine.errors import DeviceError

NAMES = ("npu", "cuda", "cpu")
"""In the order in which ``auto`` tries them."""


def load_backend(name: str) -> Backend:
    """The backend of that name, without asking whether its device is there."""
    if name not in NAMES or not _exists(name):
        raise DeviceError(f"there is no backend named {name!r}; known are {', '.join(sorted(NAMES))} and auto")
    backend: Backend = importlib.import_module(f"engine.backends.{name}.backend").backend()
    return backend


def _exists(name: str) -> bool:
    return importlib.util.find_spec(f"engine.backends.{name}.backend") is not None


def choose_backend(name: str) -> tuple[Backend, str]:
    """The backend for ``--device name`` and the reason for it, as one line for the log."""
    if name != "auto":
        backend = load_backend(name)
        if reason := backend.why_unavailable():
            raise DeviceError(f"device {name!r} was asked for but is not usable: {reason}")
        return backend, f"device {name}, as asked"
    reasons: list[str] = []
    for candidate in NAMES:
        if not _exists(candidate):
            continue
        backend = load_backend(candidate)
        reason = backend.why_unavailable()
        if reason is None:
            return backend, f"device {candidate}, chosen automatically" + "".join(f"; {line}" for line in reasons)
        reasons.append(f"not {candidate}: {reason}")
    raise DeviceError("no device is usable: " + "; ".join(reasons))
