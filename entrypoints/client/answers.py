"""What the client returns, and how it is read from the server's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.entrypoints.client.errors import failure_of


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document with its score."""

    index: int
    """Its number in the list that was sent."""
    score: float
    document: Any = None
    """As it was sent: text, or a mapping with one."""
    truncated: bool = False
    """The model read only its beginning."""
    span: tuple[int, int] | None = None
    """Characters of the best chunk, start and end, of a document that was read in chunks."""


@dataclass(frozen=True, slots=True)
class DocumentError:
    """Why one document has no score; the others have theirs."""

    index: int
    message: str


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[RankedDocument]):
    """The documents of a call, best first. A sequence of ``RankedDocument``."""

    results: tuple[RankedDocument, ...]
    model: str
    request_id: str
    prompt_tokens: int
    """Of all pairs, as they were asked for; ``computed_tokens`` is less where they share."""
    computed_tokens: int
    errors: tuple[DocumentError, ...] = ()
    """Documents that could not be read."""
    unscored: tuple[int, ...] = ()
    """Documents without a score, since ``timeout_ms`` had passed."""

    @property
    def is_partial(self) -> bool:
        """Whether a document has no score."""
        return bool(self.unscored or self.errors)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def scores(self, num_documents: int) -> list[float]:
        """A score for each of ``num_documents`` documents in the order in which they were sent; NaN: none."""
        found = [float("nan")] * num_documents
        for result in self.results:
            found[result.index] = result.score
        return found


def ranking_of(answer: Mapping[str, Any], documents: Sequence[Any]) -> Ranking:
    """The common rerank answer (docs/compatibility.md) as a ``Ranking``."""
    details = {detail["index"]: detail for detail in answer.get("details", ())}
    usage, cost = answer.get("usage", {}), answer.get("cost", {})
    return Ranking(
        results=tuple(ranked(details.get(entry["index"], {}) | entry, documents) for entry in answer["results"]),
        model=str(answer.get("model", "")),
        request_id=str(answer.get("id", "")).removeprefix("rerank-"),
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        computed_tokens=int(cost.get("computed_tokens", 0)),
        errors=tuple(DocumentError(error["index"], str(error["message"])) for error in answer.get("errors", ())),
        unscored=tuple(answer.get("unscored", ())),
    )


def ranked(entry: Mapping[str, Any], documents: Sequence[Any]) -> RankedDocument:
    """One entry of an answer or of a stream, with the document that was sent."""
    span, index = entry.get("span"), int(entry["index"])
    return RankedDocument(
        index=index,
        score=float(entry["relevance_score"]),
        document=documents[index],
        truncated=bool(entry.get("truncated", False)),
        span=(int(span["start"]), int(span["end"])) if span else None,
    )


def from_stream(message: Mapping[str, Any], documents: Sequence[Any]) -> RankedDocument | DocumentError | Ranking:
    """Reads one line of a stream: a document's score, why it has none, or last the whole answer.

    Raises ``RequestFailedError`` where the line says that the whole call failed after its answer had begun.
    """
    if "results" in message:
        return ranking_of(message, documents)
    if "relevance_score" in message:
        return ranked(message, documents)
    if "index" in message:
        return DocumentError(int(message["index"]), str(message["error"]["message"]))
    code = str(message.get("error", {}).get("code"))
    raise failure_of(int(code) if code.isdigit() else 500, message, {})
