"""What scoring asks of the way from texts to token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from engine.inputs.spans import Span
from engine.inputs.windows import never
from engine.request import ChunkOptions, Encoded, PairOptions, PairPictures


class PairProcessor(Protocol):
    """The part of ``engine.inputs.processor.InputProcessor`` that scoring uses; any thread may call it.

    All three raise ``RequestError`` about a field of what they were given, e.g. ``("queries", 3)``. What is wrong with
    one pair alone stands in its place.
    """

    @property
    def reads_lists(self) -> bool:
        """The documents of a query are read together, so ``encode_each`` must get all of them at once."""
        ...

    def encode_each(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        options: PairOptions,
        instructions: Sequence[str | None] | None = None,
        pictures: Sequence[PairPictures | None] | None = None,
    ) -> Sequence[Encoded]: ...

    def encode_prompts_each(self, prompts: Sequence[str | list[int]], options: PairOptions) -> Sequence[Encoded]: ...

    def chunk_spans(
        self,
        documents: Sequence[str],
        queries: Sequence[str],
        chunks: ChunkOptions,
        options: PairOptions,
        instructions: Sequence[str | None] | None = None,
        stop: Callable[[], bool] = never,
    ) -> list[list[Span]]: ...
