"""Every error this project raises on purpose, and what each one means to whom.

::

    EngineError
    |-- RequestError            the caller's fault; an HTTP status and the path of the field
    |   |-- InvalidRequestError     400  malformed or impossible value
    |   |-- AuthenticationError     401  no key or a wrong one
    |   |-- ForbiddenError          403  sent by a web page of another site
    |   |-- NotFoundError           404  unknown model or route
    |   |-- MethodNotAllowedError   405  the route exists, the method does not
    |   |-- RequestTimeoutError     408  the body came too slowly
    |   |-- TooLargeError           413  more bytes, documents or tokens than the limits allow
    |   |-- UnsupportedMediaError   415  not JSON
    |   |-- MisdirectedRequestError 421  for a host name that this server has not
    |   `-- HeadersTooLargeError    431  too many headers, or too many bytes of them
    |-- ServiceError            our fault or our limits; the call may be sent again
    |   |-- NotReadyError           503  the model is still loading
    |   |-- OverloadedError         503  the queue is full; says when to come back
    |   |-- ShuttingDownError       503  draining
    |   |-- EngineDeadError         503  the core process is gone
    |   |-- NonFiniteScoreError     500  the model produced NaN or infinity for one pair
    |   |-- StepFailedError         500  a step failed twice for this pair
    |   |-- OutOfMemoryError        503  the device's memory did not hold a step; a smaller one may
    |   `-- DeadlineExceededError   504  the call's own deadline passed
    `-- StartupError            nothing was served yet; the process ends
        |-- ConfigError             exit 2  a flag or a config value is wrong
        |-- ModelLoadError          exit 1  files missing, damaged or of the wrong shape
        `-- DeviceError             exit 2  no such device, too little memory, unsupported dtype

Errors that cross a process border travel as ``messages.WireError``, made by ``WireError.of`` and turned back by
``WireError.rebuilt``; nothing else takes one apart.
"""

from __future__ import annotations

from typing import ClassVar, Self

FieldPath = tuple[str | int, ...]
"""A field of a request, from the outside in: ``("documents", 3)`` is ``documents[3]``."""
PARAM = "{param}"
"""Stands in a message for the field that the error is about: at its very beginning, or for the last time."""


def path_text(path: FieldPath) -> str:
    """``("input", "documents", 3)`` -> ``input.documents[3]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


class EngineError(Exception):
    """Root of the tree. ``str(error)`` is a sentence meant for a person.

    The field that an error is about is a value of it, ``path``, and the sentence names it by ``PARAM``: so whoever
    counts or names fields in another way (a slice of a call, a dialect) says ``at`` and changes no text.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | FieldPath | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
    ) -> None:
        self.template = message
        """The sentence, with ``PARAM`` where the field is named."""
        self.path: FieldPath = (param,) if isinstance(param, str) else param or ()
        """The field that the error is about; empty where it is about none."""
        self.retry_after_s = retry_after_s
        """Seconds after which the caller may try again."""
        self.code = code
        """Narrower than ``type`` where a client can act on it, e.g. ``invalid_json``."""
        super().__init__(_sentence(message, self.param))

    @property
    def param(self) -> str | None:
        """The field as text, the way OpenAI's error objects have it; None where the error is about no field."""
        return path_text(self.path) or None

    def at(self, path: FieldPath) -> Self:
        """The same error about a field of another path."""
        return type(self)(self.template, param=path, retry_after_s=self.retry_after_s, code=self.code)


def _sentence(template: str, param: str | None) -> str:
    # What a caller sent may be part of the sentence, and may hold the same characters as the mark.
    before, mark, after = template.partition(PARAM) if template.startswith(PARAM) else template.rpartition(PARAM)
    return before + (param or "the request" if mark else "") + after


class RequestError(EngineError):
    """The caller's fault. The same call will fail again."""

    status = 400
    type = "invalid_request_error"


class InvalidRequestError(RequestError, ValueError):
    """A malformed or impossible value. Also a ``ValueError``, which callers of the offline API expect."""


class AuthenticationError(RequestError):
    """No key, or a wrong one."""

    status = 401
    type = "authentication_error"


class ForbiddenError(RequestError):
    """Sent by a web page of another site."""

    status = 403
    type = "forbidden"


class MisdirectedRequestError(RequestError):
    """Sent for a host name that this server does not have."""

    status = 421
    type = "misdirected_request"


class NotFoundError(RequestError):
    """An unknown model or route."""

    status = 404
    type = "not_found_error"


class MethodNotAllowedError(RequestError):
    """The route exists, but not with this method."""

    status = 405
    type = "method_not_allowed"


class RequestTimeoutError(RequestError):
    """The body came too slowly."""

    status = 408
    type = "request_timeout"


class TooLargeError(RequestError):
    """More bytes, documents or tokens than the limits allow."""

    status = 413
    type = "request_too_large"


class UnsupportedMediaError(RequestError):
    """The body is not JSON, or it is compressed."""

    status = 415
    type = "unsupported_media_type"


class HeadersTooLargeError(RequestError):
    """Too many headers, or too many bytes of them."""

    status = 431
    type = "headers_too_large"


class ServiceError(EngineError):
    """Our fault, or our limits. The same call may be sent again."""


class NotReadyError(ServiceError):
    """The model is still loading."""

    status = 503
    type = "not_ready"


class OverloadedError(ServiceError):
    """The queue is full; ``retry_after_s`` says when to come back."""

    status = 503
    type = "overloaded"


class ShuttingDownError(ServiceError):
    """The server takes no more calls."""

    status = 503
    type = "shutting_down"


class EngineDeadError(ServiceError):
    """The core process is gone, or does not answer."""

    status = 503
    type = "engine_dead"


class NonFiniteScoreError(ServiceError):
    """The model produced NaN or infinity for one pair."""

    type = "non_finite_score"


class StepFailedError(ServiceError):
    """A step failed twice for this pair."""

    type = "step_failed"


class OutOfMemoryError(ServiceError):
    """The device's memory did not hold a step; a smaller one may fit."""

    status = 503
    type = "out_of_memory"


class DeadlineExceededError(ServiceError):
    """The call's own deadline passed."""

    status = 504
    type = "deadline_exceeded"


class StartupError(EngineError):
    """The start failed before anything was served; the process ends with ``exit_code``."""

    exit_code: ClassVar[int] = 1
    type = "startup_error"


class ConfigError(StartupError):
    """A flag or a configuration value is wrong."""

    exit_code = 2
    type = "config_error"


class ModelLoadError(StartupError):
    """Files of the model are missing, damaged or of the wrong shape."""

    type = "model_load_error"


class DeviceError(StartupError):
    """No such device, too little memory, or a dtype that it cannot compute."""

    exit_code = 2
    type = "device_error"


def error_class(type_: str) -> type[EngineError]:
    """The class whose ``type`` this is, the narrowest that has it; ``EngineError`` for one that this version lacks."""
    classes = [EngineError]
    for cls in classes:  # grows while it is read: the whole tree, root first
        classes += cls.__subclasses__()
    return {cls.type: cls for cls in classes}.get(type_, EngineError)


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust gave up: it raises no ``Exception``, and a type that nobody can import."""
    return type(error).__name__ == "PanicException"
