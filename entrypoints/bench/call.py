"""One call to send: a query and its documents."""

from __future__ import annotations

from dataclasses import dataclass

from engine.entrypoints.bench.texts import TextMaker


@dataclass(frozen=True, slots=True)
class BenchCall:
    """One call to send."""

    query: str
    documents: list[str]
    num_tokens: int
    """Tokens of the texts by our own count, without template; used where a server does not say."""
    instruction: str | None = None

    @classmethod
    def of(cls, query: str, documents: list[str], texts: TextMaker, instruction: str | None = None) -> BenchCall:
        """A call whose tokens are counted with ``texts``."""
        count = sum(texts.count(document) for document in documents) + texts.count(query) * len(documents)
        return cls(query, documents, count, instruction)
