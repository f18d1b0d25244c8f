"""Prompt templates of published rerankers, as data, and the names by which a flag may ask for one.

They are code, not files, because a template engine drops a trailing newline and with it the score. Which model has
which is said by the table of published models (``engine/checkpoint/published.toml``).
"""

from __future__ import annotations

from engine.prompts.template import Template

_JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    "provided. "
)
_YES_OR_NO = 'Note that the answer can only be "yes" or "no".'
_USER = "<|im_end|>\n<|im_start|>user\n"
_NO_THOUGHTS = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

QWEN3_RERANKER = Template.of(
    "qwen3-reranker",
    _JUDGE + _YES_OR_NO + _USER,
    "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
    _NO_THOUGHTS,
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

_CTXL_BEFORE = (
    "Check whether a given document contains information helpful to answer the query.\n<Document> {document}\n<Query> "
)

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
            strips=True,
        ),
        Template.of(
            "skillrouter",
            _JUDGE + _YES_OR_NO + _USER,
            "<Instruct>: {instruction}\n\n<Query>: {query}\n\n<Document>: {document}",
            _NO_THOUGHTS,
            default_instruction="Given a task description, judge whether the skill document is relevant and useful for "
            "completing the task",
        ),
        Template.of(
            "prism",
            _JUDGE + _USER,
            "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
            _NO_THOUGHTS,
            default_instruction="Given a query and a document, judge whether the document is relevant to the query. "
            'Answer "yes" or "no", then provide in XML:\n1. <contribution>: what the document contributes to the '
            "query.\n2. <evidence>: a self-contained rewrite of relevant content.",
        ),
        Template.of(
            "ctxl-rerank-v2",
            _CTXL_BEFORE + "{query} ??",
            with_instruction=(_CTXL_BEFORE + "{query} {instruction} ??",),
            between_specials=True,
        ),
        Template.of(
            "qwen3-vl-reranker",
            _JUDGE + _YES_OR_NO + _USER + "<Instruct>: {instruction}<Query>:{query}\n<Document>:{document}"
            "<|im_end|>\n<|im_start|>assistant\n",
            default_instruction="Given a search query, retrieve relevant candidates that answer the query.",
            empty_text="NULL",
        ),
        Template.of("jina-reranker-m0", "**Document**:\n{document}\n**Query**:\n{query}", closing_ids=(100,)),
        Template.of("nemotron-rerank", "question:{query} \n \n passage:{document}", between_specials=True),
        Template.of(
            "lb-reranker",
            "<|im_start|>system\nGiven a query and a piece of text, output a score of 1-7 based on how related the "
            "query is to the text. 1 means least related and 7 is most related.<|im_end|>\n<|im_start|>user\n"
            "<<<Query>>>\n{query}\n\n<<<Context>>>\n{document}<|im_end|>\n<|im_start|>assistant\n",
        ),
        Template.of(
            "followir",
            "<s> [INST] You are an expert Google searcher, whose job is to determine if the following document is "
            "relevant to the query (true/false). Answer using only one word, one of those two choices.\n\n"
            'Query: {query}\nDocument: {document}\nRelevant (only output one word, either "true" or "false"): '
            "[/INST] ",
        ),
    )
}

ALIASES = {
    "zerank2": "zerank-2",
    "zerank": "zerank-2",
    "ctxl-rerank-v2-instruct": "ctxl-rerank-v2",
}
"""Names of template files in the guides of vLLM and SGLang, without ``.jinja`` and with hyphens -> the built-in one."""


def built_in_name(asked: str) -> str | None:
    """The built-in template that a name or a peer's file name stands for: ``qwen3-reranker``, ``qwen3_reranker.jinja``.

    A path counts by its last part; None where no template is called so.
    """
    name = asked.rstrip("/").rpartition("/")[2].removesuffix(".jinja").replace("_", "-").lower()
    return name if name in TEMPLATES else ALIASES.get(name)


JOINED = Template.of("joined", "{query}{document}")
"""No template: a decoder reads query and document as one text."""
