"""What transformers, or the model's authors, say of a pair: ids of the published prompts, and logits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

Oracle = Callable[[Path, str, Sequence[str]], list[float]]
"""(checkpoint, query, documents) -> logits."""


@lru_cache(maxsize=2)
def loaded(folder: Path) -> tuple[Any, Any]:
    import transformers

    folder = folder / "twin" if (folder / "twin").is_dir() else folder
    config = json.loads((folder / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(folder, dtype=torch.float32).eval()
    return transformers.AutoTokenizer.from_pretrained(folder), model


@torch.inference_mode()
def pair_logits(folder: Path, query: str, documents: Sequence[str]) -> list[float]:
    """A cross-encoder on the tokenizer's own pair form, one unpadded pair at a time."""
    tokenizer, model = loaded(folder)
    return [model(**tokenizer([query], [text], return_tensors="pt")).logits[0, 0].item() for text in documents]


@torch.inference_mode()
def logits_of_ids(folder: Path, prompts: Sequence[list[int]], tokens: Sequence[str]) -> list[float]:
    """Of a decoder's next token: the first token's logit, or the second's over the first's."""
    tokenizer, model = loaded(folder)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    rows = [model(input_ids=torch.tensor([prompt])).logits for prompt in prompts]
    if rows[0].ndim == 2:
        return [row[0, 0].item() for row in rows]
    last = [row[0, -1, ids] for row in rows]
    return [(row[1] - row[0]).item() if len(ids) == 2 else row[0].item() for row in last]


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment "
    "(0 for not relevant, 1 for relevant).\nRelevance:"
)


def mxbai_ids(folder: Path, query: str, documents: Sequence[str], instruction: str | None = None) -> list[list[int]]:
    """The published mxbai_rerank: prompts tokenised piece by piece, joined with the ids of a newline."""
    tokenizer, _ = loaded(folder)
    before = _plain_ids(
        tokenizer,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n",
    )
    newline, task = _plain_ids(tokenizer, "\n"), _plain_ids(tokenizer, MXBAI_TASK)
    behind = _plain_ids(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")
    asked = f"instruction: {instruction}\nquery: {query}" if instruction else f"query: {query}"
    head = _plain_ids(tokenizer, asked)
    return [
        before + head + newline + _plain_ids(tokenizer, f"document: {text}") + newline + task + behind
        for text in documents
    ]


def gemma_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    """FlagEmbedding's FlagLLMReranker."""
    tokenizer, _ = loaded(folder)
    newline = _plain_ids(tokenizer, "\n")
    task = _plain_ids(
        tokenizer,
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing "
        "a prediction of either 'Yes' or 'No'.",
    )
    head = [tokenizer.bos_token_id, *_plain_ids(tokenizer, f"A: {query}")]
    return [head + newline + _plain_ids(tokenizer, f"B: {text}") + newline + task for text in documents]


def joined_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    """A decoder without a template, as vLLM reads it: one text, with what the tokenizer puts around it."""
    tokenizer, _ = loaded(folder)
    return [list(tokenizer(query + text)["input_ids"]) for text in documents]


def qwen3_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    from tests.support.checkpoints import official_qwen3_ids

    return official_qwen3_ids(folder, query, documents)


def pair_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    tokenizer, _ = loaded(folder)
    return [list(tokenizer([query], [text])["input_ids"][0]) for text in documents]
