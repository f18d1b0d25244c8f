"""What the client raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RequestFailedError(Exception):
    """The server refused a call, or could not do it, and trying again did not help."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str = "",
        param: str | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        """``status`` is HTTP's; ``type`` and ``param``, the field it is about, are as in the server's error object;
        ``request_id`` is what the server's log calls it by."""
        super().__init__(message)
        self.status = status
        self.type = type
        self.param = param
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class ConnectionFailedError(Exception):
    """No server answered at that address in the time that was given."""


def no_answer(url: str, error: Exception) -> ConnectionFailedError:
    """``error``, which is httpx's, as what it means."""
    return ConnectionFailedError(f"no answer from {url}: {error or type(error).__name__}")


def failure_of(status: int, body: Any, headers: Mapping[str, str]) -> RequestFailedError:
    """The server's error object as an exception, or the status alone where something else answered, such as a proxy."""
    error = body.get("error") if isinstance(body, Mapping) else None
    found: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    message = found.get("message")
    if message is None and isinstance(body, Mapping):  # of what stands between, or in front of another server
        message = next((body[name] for name in ("detail", "message", "error") if isinstance(body.get(name), str)), None)
    message = str(message or f"HTTP status {status}, and no error that this client can read")
    return RequestFailedError(
        message,
        status=status,
        type=str(found.get("type") or ""),
        param=found.get("param"),
        request_id=str(found.get("request_id") or headers.get("x-request-id", "")),
        retry_after_s=seconds_of(headers.get("retry-after")),
    )


def seconds_of(header: str | None) -> float | None:
    """``Retry-After`` in seconds; dates, which no server of this engine sends, count as absent."""
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None
