"""The threads in which calls are tokenised and their pictures read, so that the event loop stays free for others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from engine.entrypoints.serve.deadline import passed
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.errors import InvalidRequestError, RequestError, is_panic
from engine.pictures.loader import num_rows
from engine.request import Picture, RerankCall
from engine.scoring.call_encoding import CallEncoding
from engine.scoring.pictures import LoadedPictures

logger = logging.getLogger(__name__)
ENCODE_SLICE = 256
"""Documents tokenised per turn of a thread, so that a long call does not keep a short one waiting."""
DEADLINE_SLICE = 32
"""``ENCODE_SLICE`` for a call with a deadline."""
PICTURE_THREADS = 8
"""Pictures that are fetched or decoded at a time."""
INLINE_PAIRS, INLINE_CHARS = 4, 2048
"""A call of at most so many is tokenised on the event loop, in well under a millisecond."""
T = TypeVar("T")


class CallThreads:
    """Two pools: one that tokenises, and one for pictures, which mostly wait for the network or another process."""

    def __init__(self, tokenizer_threads: int) -> None:
        self._tokenizers = ThreadPoolExecutor(tokenizer_threads, thread_name_prefix="tokenizer")
        self._pictures = ThreadPoolExecutor(PICTURE_THREADS, thread_name_prefix="pictures")

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """``function(*args)`` in a tokenizer thread. Raises ``InvalidRequestError`` where the tokenizer gives up."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, tokenizing, function, *args)

    async def encode(
        self, call: RerankCall, engine: LoadedEngine, *, max_pairs: int, deadline_s: float | None
    ) -> CallEncoding:
        """The token ids of a call, as many as its deadline allows; ``max_pairs`` as for ``CallEncoding``.

        Raises ``RequestError`` about a field of the call.
        """
        pictures = await self._load_pictures(call, engine, deadline_s)
        encoding = CallEncoding(call, engine.processor, max_pairs=max_pairs, pictures=pictures)
        try:
            await self._take_slices(encoding, deadline_s)
        finally:
            encoding.give_up()  # the step that may still run, where the client has gone
        return encoding

    def shutdown(self) -> None:
        """Ends the threads that are idle; the others end with what they do."""
        self._tokenizers.shutdown(wait=False, cancel_futures=True)
        self._pictures.shutdown(wait=False, cancel_futures=True)

    async def _take_slices(self, encoding: CallEncoding, deadline_s: float | None) -> None:
        """Tokenises in threads, a slice at a time; after the call's deadline, no other slice is begun.

        The first one always is: a wrong call is told so, however little time it gave itself. A call of few characters
        is tokenised where it stands: a thread would cost more, and nobody waits long for it.
        """
        slices = encoding.slices(ENCODE_SLICE if deadline_s is None else DEADLINE_SLICE)
        if _is_small(encoding.call):
            while tokenizing(next, slices, None) is not None:
                pass
            return
        while await self.run(next, slices, None) is not None:
            if encoding.pairs and passed(deadline_s):
                return

    async def _load_pictures(
        self, call: RerankCall, engine: LoadedEngine, deadline_s: float | None
    ) -> LoadedPictures | None:
        """The pictures of a call, one after the other; none is begun after its deadline."""
        if not (wanted := call.image_data):
            return None
        loop, found = asyncio.get_running_loop(), dict[str, Picture | RequestError]()
        for data in wanted:
            if found and passed(deadline_s):
                break
            before = num_rows(found.values())
            found[data] = await loop.run_in_executor(self._pictures, engine.pictures.load, data, before)
        return found


def tokenizing(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)``. Raises ``InvalidRequestError`` where the tokenizer's library gives up, as at a pattern that
    would take too long for this text."""
    try:
        return function(*args)
    except BaseException as error:
        if not is_panic(error):
            raise
        logger.warning("the tokenizer gave up on a text: %s", error)
        raise InvalidRequestError("The tokenizer of this model cannot read a text of this call.") from error


def _is_small(call: RerankCall) -> bool:
    """Whether tokenising the call costs less than handing it to a thread."""
    if call.num_pairs > INLINE_PAIRS or call.prompts is not None or call.chunks is not None:
        return False
    texts = (*call.queries, *call.documents, call.options.instruction or "", *filter(None, call.instructions or ()))
    return sum(map(len, texts)) <= INLINE_CHARS
