"""The rows of OpenAI's batch files: a call in, its answer out."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from engine.entrypoints.files.reading import first_line
from engine.errors import ConfigError, InvalidRequestError


class InputRow(msgspec.Struct):
    """One line of the input."""

    custom_id: str
    url: str
    body: dict[str, Any]
    method: str = "POST"


class RowResponse(msgspec.Struct):
    status_code: int
    request_id: str
    body: Any = None


class OutputRow(msgspec.Struct):
    """One line of the output; a failed row has its status and an error instead of a body."""

    id: str
    custom_id: str | None
    response: RowResponse
    error: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer that the server would have given."""

    status: int
    body: Any


def read_row(line: bytes, number: int) -> InputRow:
    """A line of the input as a row. Raises ``InvalidRequestError`` for a line that is none."""
    try:
        row = msgspec.json.decode(line, type=InputRow)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError(f"Line {number} is no batch row: {error}.") from error
    if row.method.upper() != "POST":
        raise InvalidRequestError(f"Line {number}: the method is {row.method!r}, and only POST is possible.")
    return row


def custom_id_of(line: bytes) -> str | None:
    """The id of a row that may be damaged otherwise."""

    class OnlyId(msgspec.Struct):
        custom_id: str | None = None

    try:
        return msgspec.json.decode(line, type=OnlyId).custom_id
    except (msgspec.DecodeError, RecursionError):
        return None


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1, without a byte-order mark. Raises as ``first_line``."""
    for number, line in enumerate(file, 1):
        if number == 1:
            line = first_line(line, file.name)
        if line.strip():
            yield number, line


def check_ids(source: Path) -> int:
    """The number of rows.

    Raises ``ConfigError`` where two have the same ``custom_id``: their answers could not be told apart.
    """
    seen: dict[str, int] = {}
    num_rows = 0
    with source.open("rb") as file:
        for number, line in lines_of(file):
            num_rows += 1
            custom_id = custom_id_of(line)
            if custom_id is None:
                continue
            if custom_id in seen:
                raise ConfigError(
                    f"Lines {seen[custom_id]} and {number} of {source} have the same custom_id, {custom_id[:200]!r}. "
                    "Give each row its own.",
                    param="input",
                )
            seen[custom_id] = number
    return num_rows


def path_of(url: str) -> str:
    """Whatever stands before them, ``.../rerank`` and ``.../score`` mean those two, as in vLLM."""
    for ending in ("/rerank", "/score"):
        if url.endswith(ending) and not url.endswith("/text-rerank"):
            return f"/v1{ending}"
    return url if url.startswith("/") else f"/{url}"


def output_row(custom_id: str | None, answer: Answer) -> OutputRow:
    request_id = f"engine-batch-{uuid.uuid4().hex}"
    if answer.status == 200:
        response = RowResponse(200, request_id, answer.body)
        return OutputRow(f"engine-{uuid.uuid4().hex}", custom_id, response)
    body = answer.body if isinstance(answer.body, dict) else {}
    error = body.get("error", body)
    if not isinstance(error, dict):
        error = {"message": str(error), **{k: v for k, v in body.items() if k != "error"}}
    return OutputRow(f"engine-{uuid.uuid4().hex}", custom_id, RowResponse(answer.status, request_id), error)
