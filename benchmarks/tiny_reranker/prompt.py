"""The official Qwen3-Reranker prompt, and how its parts are tokenised: each by itself, joined as ids.

The body is tokenised with special-token parsing off, so that text cannot close its own turn.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple

from tokenizers import Tokenizer

JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
PREFIX = f"<|im_start|>system\n{JUDGE}<|im_end|>\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
# A server may be given a template without the think block; a model in the box should survive it.
SHORT_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"

# Added tokens. The special ones can only come from a template, the others are plain text that costs one token.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN_TOKENS = ("<think>", "</think>", "<Instruct>:", "<Query>:", "<Document>:", JUDGE, f" {INSTRUCTION}")

OTHER_INSTRUCTIONS = (
    INSTRUCTION + ".",
    "Given a question, find the passage that answers it",
    "Retrieve documentation that is relevant to the query",
    "Given a query, find matching texts",
)


class Encoded(NamedTuple):
    """Token ids of a pair, as the part that all documents of a query share and the part of the document."""

    head: list[int]
    tail: list[int]


def body(query: str, document: str, instruction: str = INSTRUCTION) -> str:
    return f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"


@dataclass
class PromptEncoder:
    """Encodes pairs in the official form; documents are cut to ``max_document`` tokens."""

    tokenizer: Tokenizer
    max_document: int = 512
    max_query: int = 64

    def __post_init__(self) -> None:
        self.tokenizer.encode_special_tokens = False
        self._prefix = self.tokenizer.encode(PREFIX).ids
        self._suffixes = [self.tokenizer.encode(text).ids for text in (SUFFIX, SHORT_SUFFIX)]
        self.tokenizer.encode_special_tokens = True
        self._document_id = self.tokenizer.encode("<Document>:").ids[0]

    def text_ids(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]

    def encode(
        self, query: str, documents: list[str], *, instruction: str = INSTRUCTION, short: bool = False
    ) -> list[Encoded]:
        """All pairs of one query. They have the same head: the body is cut before ``<Document>:``."""
        suffix = self._suffixes[short]
        bodies = self.text_ids([body(query, document, instruction) for document in documents])
        pairs = []
        for ids in bodies:
            start = ids.index(self._document_id)
            head = self._prefix + ids[: min(start, self.max_query + 16)]
            pairs.append(Encoded(head, ids[start : start + 1 + self.max_document] + suffix))
        return pairs


def vary_prompt(rng: random.Random) -> tuple[str, bool]:
    """(instruction, short suffix) for a training query: mostly the official prompt, now and then a variant."""
    instruction = INSTRUCTION if rng.random() < 0.85 else rng.choice(OTHER_INSTRUCTIONS)
    return instruction, rng.random() < 0.04
