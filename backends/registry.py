"""Which backend runs: by name, imported only when asked for; or ``auto``, the first device that is really there."""

from __future__ import annotations

import importlib

from engine.backends.base import Backend
from engine.devices import DEVICES, device_row
from engine.errors import DeviceError


def load_backend(name: str) -> Backend:
    """The backend of that name, without asking whether its device is there. Raises ``DeviceError`` for other names."""
    backend: Backend = importlib.import_module(f"engine.backends.{device_row(name).name}.backend").backend()
    return backend


def choose_backend(name: str) -> tuple[Backend, str]:
    """The backend for ``--device name`` and the reason for it, as one line for the log.

    Raises ``DeviceError`` where the device is not usable, with what to install or set.
    """
    if name != "auto":
        backend = load_backend(name)
        if reason := backend.why_unavailable():
            raise DeviceError(f"device {name!r} was asked for but is not usable: {reason}")
        return backend, f"device {name}, as asked"
    reasons: list[str] = []
    for candidate in DEVICES:
        backend = load_backend(candidate.name)
        reason = backend.why_unavailable()
        if reason is None:
            return backend, f"device {candidate.name}, chosen automatically" + "".join(f"; {line}" for line in reasons)
        reasons.append(f"not {candidate.name}: {reason}")
    raise DeviceError("no device is usable: " + "; ".join(reasons))
