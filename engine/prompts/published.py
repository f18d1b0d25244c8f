"""Prompt templates of published rerankers, as data.

They are code, not files, because a template engine drops a trailing newline and with it the score.
"""

from __future__ import annotations

from engine.prompts.template import Template

QWEN3_RERANKER = Template.of(
    "qwen3-reranker",
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
    "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    default_instruction="Given a web search query, retrieve relevant passages that answer the query",
)

_MXBAI_BEFORE = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n"
)
_MXBAI_BEHIND = (
    "\n",
    "document: {document}",
    "\n",
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment "
    "(0 for not relevant, 1 for relevant).\nRelevance:",
    "<|im_end|>\n<|im_start|>assistant\n",
)
_ZERANK_BEHIND = "<|im_end|>\n<|im_start|>user\n{document}<|im_end|>\n<|im_start|>assistant\n"

# Where a part begins is where the published code begins a new call of the tokenizer.
TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        QWEN3_RERANKER,
        Template.of(
            "mxbai-rerank-v2",
            _MXBAI_BEFORE,
            "query: {query}",
            *_MXBAI_BEHIND,
            with_instruction=(_MXBAI_BEFORE, "instruction: {instruction}\nquery: {query}", *_MXBAI_BEHIND),
        ),
        Template.of(
            "bge-reranker-v2-gemma",
            "<bos>",
            "A: {query}",
            "\n",
            "B: {document}",
            "\n",
            "Given a query A and a passage B, determine whether the passage contains an answer to the query by "
            "providing a prediction of either 'Yes' or 'No'.",
        ),
        Template.of(
            "zerank-2",
            "<|im_start|>system\n{query}" + _ZERANK_BEHIND,
            with_instruction=(
                "<|im_start|>system\n<query>{query}</query>\n<instruction>{instruction}</instruction>" + _ZERANK_BEHIND,
            ),
        ),
    )
}

JOINED = Template.of("joined", "{query}{document}")
"""No template: a decoder reads query and document as one text."""
