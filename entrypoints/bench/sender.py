"""The sending of calls to one server, and what comes back as samples."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from engine.entrypoints.bench.call import BenchCall
from engine.entrypoints.bench.dialects import Answer, BadAnswerError
from engine.entrypoints.bench.samples import Sample
from engine.entrypoints.bench.target import KEY_VARIABLES, Target
from engine.errors import StartupError

if TYPE_CHECKING:
    import aiohttp


class Sender:
    """Sends calls to one target and times them with the clock that it is given."""

    def __init__(self, session: aiohttp.ClientSession, target: Target, model: str, id_prefix: str) -> None:
        self._session = session
        self._target = target
        self._model = model
        self._id_prefix = id_prefix
        self._headers = {"Content-Type": "application/json"}
        if target.stream:
            self._headers["Accept"] = "application/x-ndjson"

    def encode(self, call: BenchCall) -> bytes:
        body = self._target.dialect.build(call, self._model)
        if self._target.stream:
            body["stream"] = True
        return msgspec.json.encode({**body, **self._target.extra_body})

    async def send(self, index: int, call: BenchCall, planned_s: float, clock: Callable[[], float]) -> Sample:
        """One call; whatever goes wrong is in the sample's ``error``."""
        import aiohttp

        body = self.encode(call)
        status, first_score_s, error, answer = None, None, None, None
        sent_s = clock()
        try:
            headers = {**self._headers, "X-Request-Id": f"{self._id_prefix}{index}"}
            async with self._session.post(self._target.url, data=body, headers=headers) as response:
                status = response.status
                if status == 200 and self._target.stream:
                    raw, first_score_s = await _last_line(response, clock)
                else:
                    raw = await response.read()
                done_s = clock()
            if status == 200:
                answer = self._target.dialect.read(_decoded(raw), response.headers, len(call.documents))
            else:
                error = f"HTTP {status}: {error_text(raw)}"
        except BadAnswerError as problem:
            error = f"bad answer: {problem}"
        except TimeoutError:
            done_s, error = clock(), f"no answer within {self._target.timeout_s:g} s"
        except (aiohttp.ClientError, OSError) as problem:
            done_s, error = clock(), f"{type(problem).__name__}: {problem}"
        return _sample(index, call, planned_s, sent_s, done_s, first_score_s, status, error, answer)


def _sample(
    index: int,
    call: BenchCall,
    planned_s: float,
    sent_s: float,
    done_s: float,
    first_score_s: float | None,
    status: int | None,
    error: str | None,
    answer: Answer | None,
) -> Sample:
    told = answer.num_tokens if answer is not None else None
    return Sample(
        index=index,
        planned_s=planned_s,
        sent_s=sent_s,
        done_s=done_s,
        num_documents=len(call.documents),
        num_tokens=call.num_tokens if told is None else told,
        tokens_counted_here=told is None,
        first_score_s=first_score_s,
        status=status,
        error=error,
    )


async def _last_line(response: aiohttp.ClientResponse, clock: Callable[[], float]) -> tuple[bytes, float | None]:
    """The final object of a stream of JSON lines, and when its first line was here."""
    first_s, last = None, b""
    buffer = b""
    async for chunk in response.content.iter_any():
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                first_s = clock() if first_s is None else first_s
                last = line
    return (buffer if buffer.strip() else last), first_s


def _decoded(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadAnswerError(f"not JSON: {raw[:100]!r}") from None


def error_text(raw: bytes) -> str:
    """The message of an error answer in any of the usual shapes, shortened."""
    try:
        payload = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw.decode(errors="replace")[:200] or "no body"
    for key in ("error", "message", "detail"):
        found = payload.get(key) if isinstance(payload, dict) else None
        if isinstance(found, dict) and "message" in found:
            found = found["message"]
        if isinstance(found, str):
            return found[:200]
    return str(payload)[:200]


async def first_call(sender: Sender, target: Target, call: BenchCall, wait_s: float) -> None:
    """One call before the run, repeated until ``wait_s`` is over; raises ``StartupError`` with what was wrong."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        sample = await sender.send(0, call, loop.time(), loop.time)
        if sample.ok:
            return
        if loop.time() >= deadline or sample.status in (400, 401, 403, 404, 405, 413, 415, 422):
            raise StartupError(_first_call_failed(target, sample, wait_s))
        await asyncio.sleep(min(1.0, max(0.05, deadline - loop.time())))


def _first_call_failed(target: Target, sample: Sample, wait_s: float) -> str:
    what = f"The first call to {target.url} failed: {sample.error}."
    waited = f" (waited {wait_s:g} s)" if wait_s else ""
    if sample.status is None:
        return f"{what} Is the server running there{waited}? See --base-url, --host, --port, --ready-check-timeout-sec."
    if sample.status in (401, 403):
        return f"{what} Put the key into {KEY_VARIABLES[0]} or give --header Authorization='Bearer KEY'."
    if sample.status in (404, 405):
        return f"{what} Check --endpoint, --model and --backend ({target.dialect.name})."
    if sample.status == 503:
        return f"{what} The server is not ready{waited}; --ready-check-timeout-sec waits for it."
    return f"{what} Check that the server speaks the dialect {target.dialect.name} (--backend)."
