"""The tokens of long texts as an answer that is written while they are found, so that it is never in memory whole."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import astuple
from itertools import count

import msgspec
from starlette.responses import StreamingResponse

from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.service import RerankService
from engine.inputs.spans import TextToken
from engine.inputs.windows import WINDOW

Found = tuple[int, list[TextToken]]
"""The number of a text, and some of its tokens."""
_encode = msgspec.json.Encoder().encode


def is_long(texts: Sequence[str]) -> bool:
    """Whether the tokens of the texts are better sent as they are found."""
    return sum(map(len, texts)) > WINDOW


class TokenStream:
    """The windows of the texts, found in tokenizer threads; none begins once the client has gone."""

    def __init__(self, service: RerankService, engine: LoadedEngine, texts: Sequence[str], *, special: bool) -> None:
        self._service = service
        self._engine = engine
        self._stop = threading.Event()
        self._windows = self._found(texts, special)

    def _found(self, texts: Sequence[str], special: bool) -> Iterator[Found]:
        for number, text in enumerate(texts):
            windows = self._engine.processor.token_windows(text, add_special_tokens=special, stop=self._stop.is_set)
            for window in windows:
                yield number, window

    async def _next(self) -> Found | None:
        return await self._service.threads.run(next, self._windows, None)

    async def tei(self) -> StreamingResponse:
        """TEI's answer: a list of tokens for each text. Raises ``RequestError`` about the first text."""
        return StreamingResponse(self._tei(await self._next()), media_type="application/json")

    async def vllm(self, *, with_strings: bool) -> StreamingResponse:
        """vLLM's answer: the ids of one text. Raises ``RequestError``."""
        return StreamingResponse(self._vllm(await self._next(), with_strings), media_type="application/json")

    async def _tei(self, found: Found | None) -> AsyncGenerator[bytes, None]:
        try:
            yield b"["
            last = 0
            separator = b"["
            while found is not None:
                number, tokens = found
                if number != last:
                    yield (b"[]" if separator == b"[" else b"]") + b","
                    last, separator = number, b"["
                if tokens:
                    yield separator + b",".join(_encode(_simple(token)) for token in tokens)
                    separator = b","
                found = await self._next()
            yield b"[]]" if separator == b"[" else b"]]"
        finally:
            self._stop.set()

    async def _vllm(self, found: Found | None, with_strings: bool) -> AsyncGenerator[bytes, None]:
        try:
            strings: list[bytes] = []
            total, separator = 0, b""
            yield b'{"tokens":['
            while found is not None:
                ids = [token.id for token in found[1]]
                if ids:
                    yield separator + _encode(ids)[1:-1]
                    separator = b","
                if ids and with_strings:
                    strings.append(_encode(self._engine.processor.token_strings(ids))[1:-1])
                total += len(ids)
                found = await self._next()
            yield b'],"token_strs":'
            if with_strings:
                yield b"["
                for number, part in zip(count(), strings):
                    yield b"," + part if number else part
                yield b"]"
            else:
                yield b"null"
            yield b',"count":%d,"max_model_len":%d}' % (total, self._engine.spec.max_model_len)
        finally:
            self._stop.set()


def _simple(token: TextToken) -> dict[str, object]:
    return dict(zip(("id", "text", "special", "start", "stop"), astuple(token), strict=True))
