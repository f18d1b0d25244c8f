"""The tokens of long texts as an answer that is written while they are found, so that it is never in memory whole.

Finding and writing them is done in tokenizer threads, a part at a time: the event loop only sends.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator, Sequence

import msgspec
import numpy as np
from starlette.responses import StreamingResponse

from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.service import RerankService
from engine.inputs.windows import WINDOW

PART_BYTES = 2**16
"""An answer is sent in parts of about this size."""
STRINGS_AT_ONCE = 2**14
_encode = msgspec.json.Encoder().encode


def is_long(texts: Sequence[str]) -> bool:
    """Whether the tokens of the texts are better sent as they are found."""
    return sum(map(len, texts)) > WINDOW


class TokenStream:
    """Answers about texts, written in tokenizer threads; no part is begun once the client has gone."""

    def __init__(self, service: RerankService, engine: LoadedEngine, *, special: bool) -> None:
        self._service = service
        self._engine = engine
        self._special = special
        self._stop = threading.Event()

    async def tei(self, texts: Sequence[str]) -> StreamingResponse:
        """TEI's answer: a list of tokens for each text. Raises ``RequestError`` about the first text."""
        return await self._answer(self._tei(texts))

    async def vllm(self, text: str, *, with_strings: bool) -> StreamingResponse:
        """vLLM's answer: the ids of one text. Raises ``RequestError``."""
        return await self._answer(self._vllm(text, with_strings))

    async def _answer(self, pieces: Iterator[bytes]) -> StreamingResponse:
        parts = _of_some_size(pieces)
        first = await self._next(parts)
        return StreamingResponse(self._sent(first, parts), media_type="application/json")

    async def _next(self, parts: Iterator[bytes]) -> bytes | None:
        return await self._service.threads.run(next, parts, None)

    async def _sent(self, part: bytes | None, parts: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
        try:
            while part is not None:
                yield part
                part = await self._next(parts)
        finally:
            self._stop.set()

    def _tei(self, texts: Sequence[str]) -> Iterator[bytes]:
        windows = self._engine.processor.token_windows
        for number, text in enumerate(texts):
            yield b",[" if number else b"[["
            yield from _items(windows(text, add_special_tokens=self._special, stop=self._stop.is_set))
            yield b"]"
        yield b"]"

    def _vllm(self, text: str, with_strings: bool) -> Iterator[bytes]:
        total, kept = 0, [np.zeros(0, np.int32)]
        windows = self._engine.processor.id_windows(text, add_special_tokens=self._special, stop=self._stop.is_set)
        yield b'{"tokens":['
        separator = b""
        for ids in windows:
            if ids:
                yield separator + _encode(ids)[1:-1]
                separator, total = b",", total + len(ids)
            if with_strings:
                kept.append(np.array(ids, np.int32))
        yield b'],"token_strs":'
        if with_strings:
            yield b"["
            yield from _items(self._strings(np.concatenate(kept)))
            yield b"]"
        else:
            yield b"null"
        yield b',"count":%d,"max_model_len":%d}' % (total, self._engine.spec.max_model_len)

    def _strings(self, ids: np.ndarray) -> Iterator[list[str]]:
        """The tokens of ids as the vocabulary spells them. Ids are kept until then, since they are smaller."""
        for start in range(0, len(ids), STRINGS_AT_ONCE):
            yield self._engine.processor.token_strings(ids[start : start + STRINGS_AT_ONCE].tolist())


def _items(lists: Iterator[Sequence[object]]) -> Iterator[bytes]:
    """Lists one after the other as the inside of one JSON array."""
    separator = b""
    for items in lists:
        if items:
            yield separator + _encode(items)[1:-1]
            separator = b","


def _of_some_size(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer parts, since each part costs a turn of a thread."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= PART_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
