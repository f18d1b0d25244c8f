"""Works through a batch: many rows at once inside, one after the other in the output, none of them lost.

A window of rows is in work; the oldest is written as soon as it is answered. A row that cannot be answered keeps its
place with its error. An engine that is gone ends the run instead, and the next run goes on where this one stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from starlette.types import ASGIApp

from engine.config import EngineConfig, ServerConfig
from engine.entrypoints.batch.in_process import post
from engine.entrypoints.batch.output import OutputFile
from engine.entrypoints.batch.rows import Answer, OutputRow, custom_id_of, lines_of, output_row, path_of, read_row
from engine.entrypoints.progress import LONG_PERIOD_S, Progress
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.loading import load_engine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import RerankService
from engine.errors import ConfigError, EngineDeadError, EngineError, InvalidRequestError

logger = logging.getLogger(__name__)
NO_LIMIT = 2**62
FATAL = ("engine_dead", "shutting_down")


@dataclass(frozen=True, slots=True)
class BatchReport:
    """How a run ended."""

    num_rows: int
    num_failed: int
    num_resumed: int


@asynccontextmanager
async def loaded_app(engine_config: EngineConfig, server_config: ServerConfig) -> AsyncGenerator[ASGIApp, None]:
    """The server's application around a loaded model; the window limits what is inside, not the server's own limits."""
    config = replace(
        server_config,
        max_queue_seconds=0,
        max_queued_pairs=NO_LIMIT,
        max_queued_tokens=NO_LIMIT,
        max_body_bytes=NO_LIMIT,
    )
    service = RerankService(replace(config, api_key=()), ServerMetrics())
    service.attach(await load_engine(engine_config))
    try:
        yield create_app(service)
    finally:
        await service.stop()


async def run_batch(
    app: ASGIApp, source: Path, output: OutputFile, max_inflight: int, total: int | None = None
) -> BatchReport:
    """``output`` is open; it gets its name when the last row is written. ``total``: rows, where they were counted."""
    window: deque[asyncio.Task[OutputRow]] = deque()
    num_rows = len(output.done_ids)
    try:
        with source.open("rb") as file, Progress(total, "row", initial=num_rows, period_s=LONG_PERIOD_S) as progress:

            async def write_oldest() -> None:
                output.write(await window.popleft())
                progress.tick()

            for number, line in _remaining(file, output):
                num_rows += 1
                window.append(asyncio.create_task(_answered(app, line, number)))
                if len(window) >= max_inflight:
                    await write_oldest()
            while window:
                await write_oldest()
    finally:
        for task in window:
            task.cancel()
        await asyncio.gather(*window, return_exceptions=True)
    output.finish()
    return BatchReport(num_rows, output.num_failed, len(output.done_ids))


def _remaining(file: BinaryIO, output: OutputFile) -> Iterator[tuple[int, bytes]]:
    """Lines without an answer so far, numbered from 1; blank ones do not count."""
    lines = lines_of(file)
    for index, known in enumerate(output.done_ids):
        number, line = next(lines, (0, b""))
        if not number or custom_id_of(line) != known:
            raise ConfigError(
                f"{output.part} does not belong to this input: its row {index + 1} answers {known!r}. "
                "Delete it to start anew, or name another output.",
                param="output",
            )
    if output.done_ids:
        logger.info("going on after %d rows of an earlier run", len(output.done_ids))
    yield from lines


async def _answered(app: ASGIApp, line: bytes, number: int) -> OutputRow:
    try:
        row = read_row(line, number)
        body = {name: value for name, value in row.body.items() if name != "stream"}
        answer = await post(app, path_of(row.url), body)
    except InvalidRequestError as error:
        return output_row(custom_id_of(line), _error_answer(error))
    error_type = answer.body["error"].get("type") if _has_error_object(answer) else None
    if error_type in FATAL:
        raise EngineDeadError(f"Line {number} could not be answered: {answer.body['error']['message']}")
    return output_row(row.custom_id, answer)


def _has_error_object(answer: Answer) -> bool:
    return isinstance(answer.body, dict) and isinstance(answer.body.get("error"), dict)


def _error_answer(error: EngineError) -> Answer:
    return Answer(error.status, {"error": {"message": str(error), "type": error.type, "param": None, "code": 400}})
