"""What both clients send: address, headers and bodies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypedDict

from engine.entrypoints.client.errors import RequestFailedError, failure_of
from engine.version import __version__

RERANK, MODELS, READY = "/v1/rerank", "/v1/models", "/ready"
JSON_LINES = "application/x-ndjson"
DIALECT = "rerank"
"""The common answer, whatever ``--dialect`` makes the server answer to others."""
DEFAULT_URL = "http://127.0.0.1:8000"


class Options(TypedDict, total=False):
    """Options of a call. Absent or None: the server's default. docs/compatibility.md says more of each."""

    top_n: int | None
    """Best documents to return; None: all."""
    model: str | None
    instruction: str | None
    """What counts as relevant, in words."""
    truncate: bool | None
    """False: a document that is too long has an error, instead of being cut."""
    long_document: Literal["chunk"] | None
    """Read one that is too long in overlapping chunks."""
    max_tokens_per_doc: int | None
    use_activation: bool | None
    """False: logits."""
    min_score: float | None
    timeout_ms: int | None
    """Answer after this time with what is scored."""
    priority: int | None
    """Lower runs earlier."""
    request_id: str | None
    cache_salt: str | None
    """Share nothing that is kept with calls that have another."""


def listed(documents: Iterable[Any]) -> list[Any]:
    """The documents of a list, a generator or a column of a table. Raises ``TypeError`` where they are one text."""
    if isinstance(documents, str | bytes | Mapping):
        raise TypeError(f"documents is a list of documents, not one {type(documents).__name__}")
    return list(documents)


def body_of(query: Any, documents: list[Any], options: Mapping[str, Any], model: str | None) -> bytes:
    """The JSON of a call. Raises ``TypeError`` for an unknown option, and for what JSON cannot hold.

    Half a surrogate pair is sent as an escape: the server then says which document it is in, and scores the others.
    """
    given = {"model": model} | {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(given.keys() - Options.__annotations__.keys()):
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"no such option: {', '.join(unknown)}; there are {known}")
    fields = {name: value for name, value in given.items() if value is not None}
    body = {"query": query, "documents": documents, "return_documents": False, **fields}
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(body, allow_nan=False).encode()


def headers_of(api_key: str | None) -> dict[str, str]:
    key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    own = {"User-Agent": f"rerank-engine/{__version__}", "Content-Type": "application/json", "X-Dialect": DIALECT}
    return own | key


def base_url_of(url: str) -> str:
    """The address without the slash, version and path that people copy along; the client appends its own."""
    url = url.rstrip("/")
    for path in (RERANK, "/rerank", "/v1"):
        url = url.removesuffix(path)
    return url if "://" in url else f"http://{url}"


def json_of(status: int, content: bytes, headers: Mapping[str, str]) -> Any:
    """The answer's JSON. Raises ``RequestFailedError`` for an error, and for an answer that is no JSON.

    An answer with both results and an error is one of which some documents failed: it is returned.
    """
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if status >= 400 and not (isinstance(body, Mapping) and "results" in body):
        raise failure_of(status, body, headers)
    if body is None:
        raise RequestFailedError("the answer is no JSON: is this an engine's address?", status=status)
    return body


@contextmanager
def readable(status: int) -> Iterator[None]:
    """Raises ``RequestFailedError`` where the answer that is read inside is not the engine's."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise RequestFailedError(
            f"the answer cannot be read ({type(error).__name__}: {error}): is this an engine's address?", status=status
        ) from error
