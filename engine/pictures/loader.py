"""Pictures of calls, from what the caller sent to what the model reads. One loader serves any number of threads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from queue import Empty, LifoQueue

from engine.errors import PARAM, InvalidRequestError, RequestError, TooLargeError
from engine.model_spec import VisionSpec
from engine.pictures.decoder import Decoder
from engine.pictures.fetch import Fetcher
from engine.pictures.source import picture_bytes
from engine.request import Picture, RerankCall

MAX_CALL_ROWS = 2**16
"""Rows of all pictures of a call: of 2B's, 200 MB of pixels."""


NUM_DECODERS = 2
"""Processes that decode, so that one that takes long does not stop all others."""
TEXT_ONLY = f"{PARAM} shows a picture, and only text can be scored by this model."


class PictureLoader:
    """``vision`` None: the model reads texts only."""

    def __init__(self, vision: VisionSpec | None, hosts: Sequence[str]) -> None:
        self._vision = vision
        self._fetch = Fetcher(hosts)
        self._decoders: LifoQueue[Decoder] = LifoQueue()
        for _ in range(NUM_DECODERS):
            self._decoders.put(Decoder())

    def load(self, data: str, rows_before: int = 0) -> Picture | RequestError:
        """A picture, or why it cannot be read; the error is about no field. ``rows_before``: of the call's others."""
        try:
            return self._loaded(data, rows_before)
        except RequestError as error:
            return error

    def load_all(self, call: RerankCall) -> dict[str, Picture | RequestError] | None:
        """The pictures of a call, one after the other, by ``ImageSource.data``; None where it has none."""
        found: dict[str, Picture | RequestError] = {}
        for data in call.image_data:
            found[data] = self.load(data, num_rows(found.values()))
        return found or None

    def close(self) -> None:
        """Ends the processes that decode and are not at work."""
        idle = []
        with suppress(Empty):
            while True:
                idle.append(self._decoders.get_nowait())
        for decoder in idle:
            decoder.close()
            self._decoders.put(decoder)

    def _loaded(self, data: str, rows_before: int) -> Picture:
        vision = self._vision
        if vision is None:
            raise InvalidRequestError(TEXT_ONLY)
        encoded = picture_bytes(data, self._fetch)
        decoder = self._decoders.get()
        try:
            pixels = decoder.decode(encoded, vision)
        finally:
            self._decoders.put(decoder)
        height, width = pixels.shape[0] // vision.block, pixels.shape[1] // vision.block
        if rows_before + height * width > MAX_CALL_ROWS:
            raise TooLargeError(
                f"{PARAM}: the pictures of the call take more than {MAX_CALL_ROWS} tokens together. Send them in "
                "several calls."
            )
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        return Picture(pixels, height, width, digest)


def num_rows(pictures: Iterable[Picture | RequestError]) -> int:
    """Rows of those that could be read."""
    return sum(one.num_rows for one in pictures if isinstance(one, Picture))
