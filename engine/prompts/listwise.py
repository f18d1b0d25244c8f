"""The prompt of listwise rerankers (jina-reranker-v3 and v3.5): many documents and the query in one text.

The text is cut where its special tokens stand, and each piece between two of them is tokenised by itself, which gives
the ids of the whole text tokenised at once. Nothing behind the token at which the query is read can change a score, so
the prompt ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SYSTEM = (
    "You are a search relevance expert who can determine a ranking of the passages based on how relevant they are to "
    "the query. If the query is a question, how relevant a passage is depends on how well it answers the question. If "
    "not, try to analyze the intent of the query and assess how well each passage satisfies the intent. If an "
    "instruction is provided, you should follow the instruction when determining the ranking."
)
START, END = "<|im_start|>", "<|im_end|>"
DOCUMENT_READ, QUERY_READ = "<|embed_token|>", "<|rerank_token|>"
"""Behind each document, and behind the query at the end: the tokens that are read."""
SPECIAL_TOKENS = (START, END, DOCUMENT_READ, QUERY_READ)


@dataclass(frozen=True, kw_only=True)
class ListwiseLimits:
    """How much a prompt takes, as published with the model."""

    query_tokens: int
    document_tokens: int
    documents: int = 125
    """Most documents of one prompt."""


V3_LIMITS = ListwiseLimits(query_tokens=512, document_tokens=2048)
V35_LIMITS = ListwiseLimits(query_tokens=1024, document_tokens=8192)
"""Of jina-reranker-v3, and of v3.5, which is the one with windows in some layers."""


def without_marks(text: str) -> str:
    """A caller's text without the two tokens that are read: one of them more would shift every document's score."""
    return text.replace(DOCUMENT_READ, "").replace(QUERY_READ, "")


def first_piece(count: int, query: str, instruction: str) -> str:
    """The text between the user's turn and the first document's text, of a prompt of ``count`` documents."""
    instructed = f"<instruct>\n{instruction}\n</instruct>\n" if instruction else ""
    return (
        f"user\nI will provide you with {count} passages, each indicated by a numerical identifier. Rank the passages "
        f"based on their relevance to query: {query}\n{instructed}"
    )


def document_pieces(documents: Sequence[str]) -> list[str]:
    """The text before each document's token, without what stands before the first passage."""
    opened = [f'<passage id="{number}">\n{document}' for number, document in enumerate(documents)]
    return [text if not number else f"\n</passage>\n{text}" for number, text in enumerate(opened)]


def last_piece(query: str) -> str:
    """The text between the last document's token and the query's."""
    return f"\n</passage>\n<query>\n{query}"
